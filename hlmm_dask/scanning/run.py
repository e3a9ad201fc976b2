"""A scan from start to end: plan, graph, cluster, store."""

import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from distributed import Client, Future, as_completed

from hlmm_dask.errors import InputError, ScanError, StoreError
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.kernels.block import BlockModel, Method, block_model
from hlmm_dask.kernels.packed import Engine, PackedLayout
from hlmm_dask.models.inference import genomic_control_lambda
from hlmm_dask.results import open_results
from hlmm_dask.scanning.cluster import ClusterOptions, connect
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.events import (
    BlockDone,
    BlockFailed,
    Observer,
    ScanFinished,
    ScanStarted,
    tell,
)
from hlmm_dask.scanning.graph import (
    BlockTask,
    delayed_records,
    lazy_dosage,
    lazy_packed,
    lazy_records,
    publish_model,
    published_model,
)
from hlmm_dask.scanning.null import (
    Genotypes,
    NullModel,
    genotyped_samples,
    require_variables,
    samples_digest,
)
from hlmm_dask.scanning.plan import choose_block_size
from hlmm_dask.schema import INDEX, Status
from hlmm_dask.store import ResultsStore

# Attempts at a block after the first, each on whichever worker is free.
_RETRIES = 2
_VARIANTS_A_PIECE = 100_000
_GENOTYPE_VARIABLES = (
    "call_dosage", "variant_id", "variant_contig", "variant_position", "variant_allele",
    "sample_id",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """The variants of a scan.

    Attributes
    ----------
    genotypes : PlinkGenotypes or Dataset
        Where they are read from.
    start, stop : int
        Range of the variants.
    """

    genotypes: PlinkGenotypes | xr.Dataset
    start: int
    stop: int

    @property
    def n_variants(self) -> int:
        """Variants of the scan."""
        return self.stop - self.start

    @property
    def n_samples(self) -> int:
        """Samples of the genotypes."""
        if isinstance(self.genotypes, PlinkGenotypes):
            return self.genotypes.n_samples
        return int(self.genotypes.sizes["samples"])

    def variants(self) -> Iterator[pd.DataFrame]:
        """Give the variants in pieces; allele1 is the counted one."""
        if isinstance(self.genotypes, PlinkGenotypes):
            yield from self.genotypes.iter_variants(self.start, self.stop)
            return
        for first in range(self.start, self.stop, _VARIANTS_A_PIECE):
            part = self.genotypes.isel(
                variants=slice(first, min(first + _VARIANTS_A_PIECE, self.stop))
            )
            alleles = part["variant_allele"].to_numpy().astype(object)
            contig = part["variant_contig"].to_numpy()
            if contig.dtype.kind in "iu" and "contig_id" in part:
                contig = part["contig_id"].to_numpy()[contig]
            yield pd.DataFrame(
                {
                    "contig": contig.astype(str).astype(object),
                    "variant_id": part["variant_id"].to_numpy().astype(str).astype(object),
                    "position": part["variant_position"].to_numpy(),
                    "allele1": alleles[:, 1],
                    "allele2": alleles[:, 0],
                }
            )

    def identity(self) -> dict[str, Any]:
        """Say what decides the genotypes."""
        if isinstance(self.genotypes, PlinkGenotypes):
            return self.genotypes.identity()
        total = hashlib.sha256()
        for piece in self.variants():
            total.update(pd.util.hash_pandas_object(piece, index=False).to_numpy().data)
        return {"n_variants": self.n_variants, "variants_sha256": total.hexdigest()}


def open_source(genotypes: Genotypes, config: ScanConfig) -> Source:
    """Open what is to be scanned and check the range.

    Raises
    ------
    InputError
        If files can't be used or the range is not in them.
    """
    if isinstance(genotypes, xr.Dataset):
        require_variables(genotypes, _GENOTYPE_VARIABLES)
        n_variants = int(genotypes.sizes["variants"])
        opened: PlinkGenotypes | xr.Dataset = genotypes
    else:
        opened = genotypes if isinstance(genotypes, PlinkGenotypes) else open_plink(genotypes)
        n_variants = opened.n_variants
    stop = n_variants if config.stop is None else config.stop
    if not 0 <= config.start < stop <= n_variants:
        raise InputError(
            f"range {config.start} {stop}: expected 0 <= START < END <= {n_variants}, "
            "the number of variants"
        )
    return Source(opened, config.start, stop)


def scan(
    genotypes: Genotypes,
    null: NullModel,
    *,
    client: Client | None = None,
    cluster: ClusterOptions | None = None,
    out: str | os.PathLike[str] | None = None,
    start: int = 0,
    stop: int | None = None,
    min_maf: float = 0.05,
    max_missing: float = 5.0,
    count_a2: bool = False,
    h2: Literal["refit", "null"] = "refit",
    method: Method = "auto",
    engine: Engine = "numba",
    block_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> xr.Dataset:
    """Fit every variant and return the results.

    Parameters
    ----------
    genotypes : path, paths, PlinkGenotypes or Dataset
        PLINK files, a pattern with ``@`` for the chromosome, or a Dataset as of ``open_bed``.
    null : NullModel
        From ``fit_null`` with the same genotypes.
    client : distributed.Client, optional
        Cluster to run on; its workers must see the files. A cluster of worker processes
        on this machine by default.
    cluster : ClusterOptions, optional
        How to connect or what to start, where no client is given.
    out : path, optional
        Results store (a folder, ``.zarr``) to write. Without, results are kept in memory.
    start, stop, min_maf, max_missing, count_a2, h2, method, engine
        See ``ScanConfig``.
    block_size : int, optional
        Variants a block (task, chunk); chosen from the data by default.
    resume : bool
        Go on with an existing store; finished blocks are not fitted again.
    overwrite : bool
        Replace an existing store.
    observers : sequence of Observer
        Called with each event.

    Returns
    -------
    Dataset
        One variable for each column, dimension ``variants``; lazy where ``out`` is given.

    Raises
    ------
    InputError
        If input or options can't be used; nothing is written then.
    StoreError
        If the store exists or belongs to another run.
    ScanError
        If blocks failed; the others are kept.
    """
    config = ScanConfig(start, stop, min_maf, max_missing, count_a2, h2, method, engine)
    if out is not None:
        run_scan(
            genotypes, null, config, out, client=client, cluster=cluster, block_size=block_size,
            resume=resume, overwrite=overwrite, observers=observers,
        )  # fmt: skip
        return open_results(out)
    folder = Path(tempfile.mkdtemp(prefix="hlmm_dask_"))
    try:
        path = folder / "results.zarr"
        run_scan(
            genotypes, null, config, path, client=client, cluster=cluster,
            block_size=block_size, observers=observers,
        )  # fmt: skip
        return open_results(path).load()
    finally:
        shutil.rmtree(folder)


def run_scan(
    genotypes: Genotypes,
    null: NullModel,
    config: ScanConfig,
    out: str | os.PathLike[str],
    *,
    client: Client | None = None,
    cluster: ClusterOptions | None = None,
    block_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> ResultsStore:
    """Fill a results store; see :func:`scan`.

    Returns
    -------
    ResultsStore
        Complete, and marked as finished with a summary.
    """
    return run_scans(
        genotypes, [(null, out)], config, client=client, cluster=cluster, block_size=block_size,
        resume=resume, overwrite=overwrite, observers=observers,
    )[0]  # fmt: skip


def run_scans(
    genotypes: Genotypes,
    traits: Sequence[tuple[NullModel, str | os.PathLike[str]]],
    config: ScanConfig,
    *,
    client: Client | None = None,
    cluster: ClusterOptions | None = None,
    block_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> list[ResultsStore]:
    """Fill a results store for each phenotype, in one pass over the genotypes.

    Parameters
    ----------
    traits : sequence of (NullModel, path)
        The null model of each phenotype, with its own samples, and its results store.
    genotypes, config, client, cluster, block_size, resume, overwrite, observers
        See :func:`scan`.

    Returns
    -------
    list of ResultsStore
        Complete, and marked as finished with a summary.
    """
    began = time.perf_counter()
    config.check()
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; give one")
    if block_size is not None and block_size < 1:
        raise InputError(f"block size {block_size}: expected at least 1")
    source = open_source(genotypes, config)
    for null, _ in traits:
        _check_samples(source, null)
    options = cluster or ClusterOptions()
    options.check()
    paths = [Path(out) for _, out in traits]
    for path in paths:
        if path.exists() and not (resume or overwrite):
            raise StoreError(f"{path}: exists; give --resume to go on with it, or --overwrite")
    size = block_size or _block_size(source, [null for null, _ in traits], paths, resume=resume)
    connection: AbstractContextManager[Client] = (
        nullcontext(client) if client is not None else connect(options)
    )
    with ExitStack() as stack:
        at: Client | None = None
        if not (resume and all(path.exists() for path in paths)):
            # Before a store is made: without a cluster nothing is written or replaced.
            at = stack.enter_context(connection)
        scans = []
        for (null, _), path in zip(traits, paths, strict=True):
            store = _open_store(
                path, source, null, config, size, resume=resume, overwrite=overwrite
            )
            stack.enter_context(store.lock(f"pid {os.getpid()} on {socket.gethostname()}"))
            pending = [block.index for block in store.pending()]
            for index in pending:
                store.discard(index)
            scans.append(_Scan(null, store, pending))
        failed: list[BlockFailed] = []
        if any(scan.pending for scan in scans):
            if at is None:
                at = stack.enter_context(connection)
            failed = _run_blocks(scans, source, config, at, observers)
        if failed:
            raise ScanError(
                f"{paths[0]}: {len(failed)} of {scans[0].store.n_blocks} blocks failed "
                f"(block {failed[0].block}: {failed[0].error}); the others are kept, "
                "run again with --resume"
            )
        seconds = time.perf_counter() - began
        for scan in scans:
            if scan.pending or not scan.store.is_finished:
                scan.store.finish(summarise(scan.store, seconds))
    return [scan.store for scan in scans]


@dataclass(frozen=True)
class _Scan:
    """One phenotype: its null model, its store, and the blocks that are not in it yet."""

    null: NullModel
    store: ResultsStore
    pending: list[int]


def summarise(store: ResultsStore, seconds: float) -> dict[str, Any]:
    """Summary of a complete store: variants by status, λ_GC of both tests, rate."""
    counts: dict[str, int] = {}
    for marker in store.markers():
        for label, n in marker["counts"].items():
            counts[label] = counts.get(label, 0) + n
    statistics = read_columns(store, ("add_t", "var_t"))
    return {
        "n_variants": store.n_variants,
        "n_fitted": counts.get(Status.OK.label, 0),
        "counts": counts,
        "lambda_gc_add": genomic_control_lambda(statistics["add_t"]),
        "lambda_gc_var": genomic_control_lambda(statistics["var_t"]),
        "seconds": seconds,
        "variants_per_second": store.n_variants / seconds,
    }


def read_columns(store: ResultsStore, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read whole columns of a store, block by block."""
    names = tuple(names)
    where = [INDEX[name] for name in names]
    out = np.empty((len(names), store.n_variants))
    for block in store.blocks():
        out[:, block.start : block.stop] = store.read(block.start, block.stop)[:, where].T
    return dict(zip(names, out, strict=True))


def _check_samples(source: Source, null: NullModel) -> None:
    """Refuse a null model of other people: its phenotype would meet the wrong genotypes."""
    if source.n_samples != null.n_file_samples:
        raise InputError(
            f"the null model was fitted for genotypes of {null.n_file_samples} samples, these "
            f"have {source.n_samples}; call fit_null with the genotypes that are scanned"
        )
    samples, name = genotyped_samples(source.genotypes)
    if samples_digest(samples) != null.file_samples_sha256:
        raise InputError(
            f"{name}: the null model was fitted for genotypes of other samples, or of the same in "
            "another order; call fit_null with the genotypes that are scanned"
        )


def _block_model(null: NullModel, config: ScanConfig) -> BlockModel:
    model = replace(null.model, fix_h2=config.h2 == "null")
    layout = PackedLayout(null.n_file_samples, null.sample_index)
    return block_model(model, layout, config.filters, method=config.method, engine=config.engine)


def _fingerprint(source: Source, null: NullModel, config: ScanConfig) -> dict[str, Any]:
    options = config.fingerprint() | {"start": source.start, "stop": source.stop}
    return {
        "genotypes": source.identity(),
        **options,
        "phenotype": null.phenotype_name,
        "model": null.name,
        "fit_covariates": null.fit_covariates,
        "n_samples": null.n_samples,
        "n_random": null.n_random,
        "phenotype_and_covariates_sha256": null.input_sha256,
        "hlmm_dask": version("hlmm-dask"),
    }


def _block_size(
    source: Source, nulls: Sequence[NullModel], paths: Sequence[Path], *, resume: bool
) -> int:
    if resume:
        for path in paths:
            if path.exists():
                return ResultsStore.open(path).block_size
    sizes = []
    for null in nulls:
        columns = null.model.X.shape[1] + null.model.V.shape[1] - 2
        sizes.append(
            choose_block_size(
                source.n_variants,
                source.n_samples,
                n_random=null.n_random,
                n_covariates=columns if null.fit_covariates else 0,
            )
        )
    return min(sizes)


def _open_store(
    path: Path,
    source: Source,
    null: NullModel,
    config: ScanConfig,
    block_size: int,
    *,
    resume: bool,
    overwrite: bool,
) -> ResultsStore:
    size = min(block_size, source.n_variants)
    fingerprint = _fingerprint(source, null, config) | {"block_size": size}
    if resume and path.exists():
        store = ResultsStore.open(path)
        store.check_fingerprint(fingerprint)
        return store
    return ResultsStore.create(
        path,
        n_variants=source.n_variants,
        block_size=size,
        variants=source.variants(),
        fingerprint=fingerprint,
        attrs={
            "model": null.name,
            "phenotype": null.phenotype_name,
            "n_analysed_samples": null.n_samples,
            "first_variant": source.start,
            "hlmm_dask": version("hlmm-dask"),
        },
        count_a2=config.count_a2,
        overwrite=overwrite,
    )


def _publish(scan: _Scan, config: ScanConfig) -> BlockTask:
    # A resumed run goes on with the model of its first part, to the last bit.
    task = published_model(scan.store) if len(scan.pending) < scan.store.n_blocks else None
    return task or publish_model(scan.store, _block_model(scan.null, config))


def _run_blocks(
    scans: Sequence[_Scan],
    source: Source,
    config: ScanConfig,
    client: Client,
    observers: Sequence[Observer],
) -> list[BlockFailed]:
    began = time.perf_counter()
    tasks = tuple(_publish(scan, config) for scan in scans)
    store = scans[0].store
    pending = sorted(set().union(*(scan.pending for scan in scans)))
    if isinstance(source.genotypes, PlinkGenotypes):
        blocks = lazy_packed(source.genotypes, source.start, source.stop, store.block_size)
    else:
        blocks = lazy_dosage(source.genotypes, source.start, source.stop, store.block_size)
    todo = sum(store.block(i).stop - store.block(i).start for i in pending)
    n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
    started = ScanStarted(
        n_variants=store.n_variants,
        n_blocks=store.n_blocks,
        n_done_variants=store.n_variants - todo,
        n_done_blocks=store.n_blocks - len(pending),
        n_samples=max(scan.null.n_samples for scan in scans),
        n_workers=n_workers,
        model=scans[0].null.name,
    )
    tell(observers, started)
    numbers, delayed = zip(*delayed_records(lazy_records(blocks, tasks), pending), strict=True)
    futures: Sequence[Future[Any]] = client.compute(list(delayed), retries=_RETRIES)
    block_of = {future.key: index for future, index in zip(futures, numbers, strict=True)}
    failed: list[BlockFailed] = []
    n_variants = n_fitted = 0
    try:
        completed = as_completed(futures, loop=client.loop, with_results=True, raise_errors=False)
        for future, result in chain.from_iterable(completed.batches()):
            block = store.block(block_of[future.key])
            if future.status == "finished":
                record = result[0, 0]
                n_variants += record["n_variants"]
                n_fitted += record["n_fitted"]
                done = BlockDone(
                    block=block.index,
                    n_variants=record["n_variants"],
                    n_fitted=record["n_fitted"],
                    seconds=record["seconds"],
                    worker=record["worker"],
                )
                tell(observers, done)
            else:
                failed.append(BlockFailed(block.index, _reason(future), block.stop - block.start))
                tell(observers, failed[-1])
            # What is released is not computed again when its worker dies.
            future.release()
    except BaseException:
        client.cancel(list(futures))
        raise
    tell(
        observers,
        ScanFinished(
            seconds=time.perf_counter() - began,
            n_variants=n_variants,
            n_fitted=n_fitted,
            n_failed_blocks=len(failed),
        ),
    )
    return failed


def _reason(future: "Future[Any]") -> str:
    if future.status == "error":
        error = future.exception()
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}"
    return f"the task was {future.status}: the scheduler is gone or was restarted"
