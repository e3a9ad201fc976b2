"""The scan as a Dask graph: a lazy array of genotypes, mapped block by block to results on disk.

A task reads its block, fits it and writes it; what comes back is a small record. The null
model lies in the store's run folder, from where each process loads it once.
"""

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from distributed import get_worker
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from hlmm_dask.errors import InputError, StoreError, TakenOverError
from hlmm_dask.genotypes.contigs import is_left_out
from hlmm_dask.genotypes.foreign_dataset import clipped
from hlmm_dask.genotypes.packed import MISSING, encode
from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.kernels.block import fit_dosage, fit_packed
from hlmm_dask.kernels.block_model import BlockModel
from hlmm_dask.kernels.packed import Packed
from hlmm_dask.scanning.published import BlockTask, load_model_of, model_digest
from hlmm_dask.scanning.records import announced
from hlmm_dask.scanning.strips import PackedBlock, crc_of, strips
from hlmm_dask.scanning.warned import counted_warnings
from hlmm_dask.schema import COUNTED_COLUMNS, Status
from hlmm_dask.store import ResultsStore

if TYPE_CHECKING:
    import xarray as xr

    from hlmm_dask.kernels.lmm_block import LMMBlockModel
    from hlmm_dask.scanning.source import Source

# Phenotypes whose results of a block are on their way to the disk at a time.
_WRITERS = 8

_loaded: "dict[str, BlockModel | LMMBlockModel]" = {}
_loading = threading.Lock()
# Looking for the libraries takes longer than fitting a small block.
_blas = ThreadpoolController()


def lazy_genotypes(source: "Source", block_size: int) -> da.Array:
    """Genotypes of a scan as a Dask array chunked by variant: packed, or dosages."""
    genotypes = source.genotypes
    if isinstance(genotypes, PlinkGenotypes):
        return lazy_packed(genotypes, source.start, source.stop, block_size)
    return lazy_dosage(genotypes, source.start, source.stop, block_size)


def lazy_packed(genotypes: PlinkGenotypes, start: int, stop: int, block_size: int) -> da.Array:
    """Packed genotypes of the variants start..stop-1 as a Dask array chunked by variant.

    Returns
    -------
    dask.array.Array
        (stop - start, n_bytes) uint8; a block says where it is, and is read in strips by what is
        mapped over it.
    """
    array: da.Array = da.map_blocks(
        _packed_block,
        genotypes,
        start,
        stop,
        block_size,
        chunks=(_chunks(stop - start, block_size), (genotypes.n_bytes,)),
        dtype=np.uint8,
        # Without meta dask would call the reader while the graph is built.
        meta=np.empty((0, 0), dtype=np.uint8),
    )
    return array


def lazy_dosage(dataset: "xr.Dataset", start: int, stop: int, block_size: int) -> da.Array:
    """Dosages of the variants start..stop-1 of a Dataset, chunked by variant."""
    dosage = dataset["call_dosage"].transpose("variants", "samples").data
    array = dosage if isinstance(dosage, da.Array) else da.from_array(np.asarray(dosage))
    if array.dtype.kind != "f":
        # Whole counts, -1 for missing; as bytes they would pass for packed genotypes.
        array = array.astype(np.float32)
    chunked: da.Array = array[start:stop].rechunk((_chunks(stop - start, block_size), -1))
    return chunked


def lazy_records(blocks: da.Array, tasks: tuple[BlockTask, ...], topic: str) -> da.Array:
    """Map each block of genotypes to the record of its results, which are in the stores by then.

    Each task is one phenotype; the block is read once for all. Records are sent under the topic,
    see `hlmm_dask.scanning.records`.

    Returns
    -------
    dask.array.Array
        (n_blocks, 1) object: dicts with ``n_variants``, ``n_fitted``, ``seconds``, ``worker``,
        ``warnings`` (counts by text); or ``error``, after which no other block needs to be tried:
        bad input, disk full.
    """
    n_blocks = blocks.numblocks[0]
    array: da.Array = da.map_blocks(
        _fit_and_store,
        blocks,
        tasks,
        topic,
        chunks=((1,) * n_blocks, (1,)),
        dtype=object,
        meta=np.empty((0, 0), dtype=object),
    )
    return array


def delayed_records(records: da.Array, indices: list[int]) -> Iterator[tuple[int, Any]]:
    """Give (block, delayed record) for the wanted blocks."""
    # Of all blocks, so that reading and fitting fuse into one task: a selection would not.
    delayed = records.to_delayed().ravel()
    yield from ((index, delayed[index]) for index in indices)


def _chunks(n_variants: int, block_size: int) -> tuple[int, ...]:
    full, rest = divmod(n_variants, block_size)
    return (block_size,) * full + ((rest,) if rest else ())


def _packed_block(
    genotypes: PlinkGenotypes,
    start: int,
    stop: int,
    block_size: int,
    *,
    block_id: tuple[int, ...],
) -> PackedBlock:
    first = start + block_id[0] * block_size
    return PackedBlock(genotypes, first, min(first + block_size, stop))


def _fit_and_store(
    block: "PackedBlock | NDArray[Any]",
    tasks: tuple[BlockTask, ...],
    topic: str,
    *,
    block_id: tuple[int, ...],
) -> NDArray[np.object_]:
    began = time.perf_counter()
    with counted_warnings() as warned:
        try:
            n_fitted = _fit_missing(block, tasks, block_id[0])
        except (InputError, StoreError) as error:
            return announced(topic, block_id[0], {"error": error})
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return announced(topic, block_id[0], {"error": error})
            raise
    record = {
        "n_variants": len(block),
        "n_fitted": n_fitted,
        "seconds": time.perf_counter() - began,
        "worker": _worker_name(),
        "warnings": dict(warned),
    }
    return announced(topic, block_id[0], record)


def _fit_missing(
    block: "PackedBlock | NDArray[Any]", tasks: tuple[BlockTask, ...], index: int
) -> int:
    """Fit and write a block for the phenotypes that don't have it; count estimates of all."""
    markers: dict[BlockTask, dict[str, Any] | None] = {
        task: task.store.marker(index) for task in tasks
    }
    parts: dict[BlockTask, list[NDArray[np.float64]]] = {
        task: []
        for task, marker in markers.items()
        if marker is None or marker["null_model"] != task.model_digest
    }
    seconds = dict.fromkeys(parts, 0.0)
    n_read = crc = 0
    for strip in strips(block) if parts else ():
        crc = crc_of(strip, crc)
        strip = _checked(strip, next(iter(parts)).store, index, n_read)
        for task, done in parts.items():
            began = time.perf_counter()
            model = _load_model(task, tasks)
            # One thread each: workers share the cores, and the last bits depend on the number.
            with _blas.limit(limits=1):
                done.append(_fit(model, strip, task.store.block(index).start + n_read))
            seconds[task] += time.perf_counter() - began
        n_read += len(strip)
    worker = _worker_name()
    withdrawn = _withdrawn(next(iter(parts)).store, index) if parts else None

    def write(task: BlockTask) -> dict[str, Any]:
        results = np.concatenate(parts[task])
        parts[task].clear()
        if withdrawn is not None:
            _withdraw(results, task.store.columns, withdrawn)
        status = results[:, task.store.columns.index("status")]
        _require_current(task)
        return task.store.write_block(
            index,
            results,
            record={
                "genotypes_crc32": f"{crc:08x}",
                "null_model": task.model_digest,
                "n_fitted": int(np.sum(status == Status.OK)),
                "seconds": seconds[task],
                "worker": worker,
            },
        )

    with ExitStack() as stack:
        each: Callable[..., Iterator[dict[str, Any]]] = map
        if len(parts) > 1:
            # Most of the time goes into waiting for the disk.
            pool = ThreadPoolExecutor(min(len(parts), _WRITERS))
            each = stack.enter_context(pool).map
        markers |= zip(parts, each(write, parts), strict=True)
    return sum(marker["n_fitted"] for marker in markers.values() if marker)


def _withdrawn(store: ResultsStore, index: int) -> NDArray[np.bool_]:
    """Which variants of a block are left out by their position: the same for all phenotypes."""
    block = store.block(index)
    return is_left_out(store.read_names("variant_position", block.start, block.stop))


def _withdraw(
    results: NDArray[np.float64], columns: Sequence[str], rows: NDArray[np.bool_]
) -> None:
    """Give some variants of a block their status, and NaN for their estimates."""
    if not rows.any():
        return
    estimates = np.array([name not in COUNTED_COLUMNS for name in columns])
    results[np.ix_(rows, estimates)] = np.nan
    results[rows, columns.index("status")] = Status.NEGATIVE_POSITION


def _require_current(task: BlockTask) -> None:
    """Raise a `TakenOverError` if another run has replaced the store: its numbers are others."""
    if model_digest(task.store) != task.model_digest:
        raise TakenOverError(
            f"{task.store.path}: replaced or taken over by another run meanwhile; this one stops"
        )


def fit_block(
    model: "BlockModel | LMMBlockModel", packed: Packed, *, first: int = 0
) -> NDArray[np.float64]:
    """Fit a block of packed genotypes by whichever model it is."""
    if isinstance(model, BlockModel):
        return fit_packed(model, packed, first=first)
    return model.fit_packed(packed, first=first)


def _checked(strip: NDArray[Any], store: ResultsStore, index: int, row: int) -> NDArray[Any]:
    """Give packed genotypes as they are, and dosages clipped, or packed if all are hard calls."""
    if strip.dtype == np.uint8:
        return strip
    first = store.block(index).start + row
    dosages = clipped(
        strip, lambda i: str(store.read_names("variant_id", first + i, first + i + 1)[0])
    )
    codes = np.where(np.isnan(dosages), MISSING, dosages)
    calls = codes.astype(np.int8)
    return encode(calls) if np.array_equal(calls, codes) else dosages


def _fit(
    model: "BlockModel | LMMBlockModel", block: NDArray[Any], first: int
) -> NDArray[np.float64]:
    if block.dtype == np.uint8:
        return fit_block(model, block, first=first)
    if isinstance(model, BlockModel):
        return fit_dosage(model, block, first=first)
    return model.fit_dosage(block, first=first)


def _load_model(task: BlockTask, tasks: tuple[BlockTask, ...]) -> "BlockModel | LMMBlockModel":
    with _loading:
        model = _loaded.get(task.model_digest)
        if model is None:
            found = load_model_of(task)
            run_dir = task.store.run_dir
            model = found if isinstance(found, BlockModel) else found.opened(run_dir)
            # A process serves one run at a time; the models of the last may be large.
            for digest in set(_loaded) - {other.model_digest for other in tasks}:
                del _loaded[digest]
            _loaded[task.model_digest] = model
    return model


def _worker_name() -> str:
    try:
        return str(get_worker().address)
    except ValueError:
        return "local"
