"""Before a run goes on: the genotypes must be those that its finished blocks were fitted with."""

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, as_completed
from numpy.typing import NDArray

from hlmm_dask.errors import InputError, ScanError
from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.scanning.graph import boxed, delayed_records, genotypes_checksum, lazy_genotypes
from hlmm_dask.scanning.source import Source
from hlmm_dask.store import ResultsStore

_RETRIES = 2


def check_genotypes(
    stores: Sequence[ResultsStore], source: Source, finished: Sequence[int], client: Client
) -> None:
    """Compare the genotypes of finished blocks with the checksums in their markers, on a cluster.

    Parameters
    ----------
    stores : sequence of ResultsStore
        Of the phenotypes, all with the same blocks.
    source : Source
        The variants of the scan.
    finished : sequence of int
        Blocks with a marker in any of the stores; at least one.
    client : distributed.Client
        Where they are read.

    Raises
    ------
    InputError
        If the genotypes of a block differ; nothing was fitted or written then.
    """
    blocks = lazy_genotypes(source, stores[0].block_size)
    differences = da.map_blocks(
        _differs,
        blocks,
        tuple(stores),
        chunks=((1,) * blocks.numblocks[0], (1,)),
        dtype=object,
        meta=np.empty((0, 0), dtype=object),
    )
    numbers, delayed = zip(*delayed_records(differences, list(finished)), strict=True)
    futures = client.compute(list(delayed), retries=_RETRIES)
    block_of = {future.key: index for future, index in zip(futures, numbers, strict=True)}
    try:
        completed = as_completed(futures, loop=client.loop, with_results=True, raise_errors=False)
        for future, result in completed:
            index = block_of[future.key]
            if future.status != "finished":
                reason = future.exception() if future.status == "error" else future.status
                if isinstance(reason, InputError):
                    raise reason
                raise ScanError(
                    f"{stores[0].path}: the genotypes of block {index} can't be compared with "
                    f"those that it was fitted with ({reason}); run again with --resume"
                )
            record = result[0, 0]
            if "error" in record:
                raise record["error"]
            if record["differs"]:
                raise InputError(_difference(stores[0], source, index))
            future.release()
    except BaseException:
        client.cancel(list(futures))
        raise


def _differs(
    block: NDArray[Any], stores: tuple[ResultsStore, ...], *, block_id: tuple[int, ...]
) -> NDArray[np.object_]:
    if block.dtype == object:
        return block
    found = genotypes_checksum(block)
    markers = (store.marker(block_id[0]) for store in stores)
    differs = any(marker and marker["genotypes_crc32"] != found for marker in markers)
    return boxed({"differs": differs})


def _difference(store: ResultsStore, source: Source, index: int) -> str:
    block = store.block(index)
    first, stop = source.start + block.start, source.start + block.stop
    where = "the Dataset"
    if isinstance(source.genotypes, PlinkGenotypes):
        where = ", ".join(str(file.bed) for file, _, _ in source.genotypes.spans(first, stop))
    return (
        f"{where}: genotypes differ from those that block {index} (variants {first} to {stop - 1}, "
        f"from 0) of {store.path} was fitted with; restore the file, or start again with "
        "--overwrite"
    )
