"""Before a run goes on: the genotypes must be those that its finished blocks were fitted with."""

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, as_completed
from numpy.typing import NDArray

from hlmm_dask.errors import ChangedInputError, ClusterLostError, InputError, ScanError
from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.scanning.graph import delayed_records, lazy_genotypes
from hlmm_dask.scanning.records import boxed
from hlmm_dask.scanning.scanned import genotypes_differ
from hlmm_dask.scanning.source import Source
from hlmm_dask.scanning.strips import PackedBlock, genotypes_checksum
from hlmm_dask.scanning.tries import Tries
from hlmm_dask.scanning.watch import WorkerWatch
from hlmm_dask.store import ResultsStore


def check_genotypes(
    stores: Sequence[ResultsStore],
    source: Source,
    finished: Sequence[int],
    client: Client,
    *,
    no_workers_timeout: float = 300.0,
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
    no_workers_timeout : float
        Seconds without any worker after which it is given up.

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
    tries = Tries(client, dict(delayed_records(differences, list(finished))))
    try:
        with WorkerWatch(client, tries, no_workers_timeout) as watch:
            completed = as_completed(
                tries.futures, loop=client.loop, with_results=True, raise_errors=False
            )
            for future, result in completed:
                index = tries.take(future)
                if tries.is_stranded(future) and not watch.gave_up:
                    completed.add(tries.again(future))
                    continue
                if future.status != "finished":
                    error = future.exception() if future.status == "error" else None
                    if isinstance(error, InputError):
                        raise error
                    if error and (following := tries.failed(future, error)) is not None:
                        completed.add(following)
                        continue
                    raise (ScanError if error else ClusterLostError)(
                        f"{stores[0].path}: the genotypes of block {index} can't be compared with "
                        f"those that it was fitted with ({error or 'the cluster is gone'}); run "
                        "again with --resume"
                    )
                record = result[0, 0]
                if "error" in record:
                    raise record["error"]
                if record["differs"]:
                    raise InputError(_difference(stores[0], source, index))
                future.release()
    except BaseException:
        tries.cancel()
        raise


def _differs(
    block: PackedBlock | NDArray[Any],
    stores: tuple[ResultsStore, ...],
    *,
    block_id: tuple[int, ...],
) -> NDArray[np.object_]:
    try:
        found = genotypes_checksum(block)
    except ChangedInputError as error:
        return boxed({"error": error})
    markers = (store.marker(block_id[0]) for store in stores)
    differs = any(marker and marker["genotypes_crc32"] != found for marker in markers)
    return boxed({"differs": differs})


def _difference(store: ResultsStore, source: Source, index: int) -> str:
    genotypes = source.genotypes if isinstance(source.genotypes, PlinkGenotypes) else None
    said = genotypes_differ(store, index, source.start, genotypes)
    return f"{said}; restore the file, or start again with --overwrite"
