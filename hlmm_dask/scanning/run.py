"""A scan from start to end: plan, graph, cluster, store."""

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack, overload

from distributed import Client

from hlmm_dask.errors import InputError, ScanError, StoreError
from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.kernels.block_model import BlockModel, Method
from hlmm_dask.kernels.packed import Engine
from hlmm_dask.kernels.score import SPA_THRESHOLD
from hlmm_dask.lock import Lock
from hlmm_dask.placement import clean_up, place_of
from hlmm_dask.scanning.cluster import ClusterOptions
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.connection import Connection
from hlmm_dask.scanning.dispatch import PhenotypeScan, run_blocks
from hlmm_dask.scanning.events import BlockFailed, Note, Observer, Phase, Planned, tell
from hlmm_dask.scanning.failures import FailureLog
from hlmm_dask.scanning.graph import load_model, published_model
from hlmm_dask.scanning.left_out import (
    check_left_out,
    columns_digest,
    read_set_nulls,
    write_set_nulls,
)
from hlmm_dask.scanning.lmm import AnyNull, LMMNullModel
from hlmm_dask.scanning.lmm_model import check_lmm_config, lmm_fingerprint, remove_arrays
from hlmm_dask.scanning.null import NullModel
from hlmm_dask.scanning.null_input import Genotypes
from hlmm_dask.scanning.plan import Plan, footprint, plan_blocks
from hlmm_dask.scanning.probe import probe_workers
from hlmm_dask.scanning.resources import resources_of
from hlmm_dask.scanning.source import Source, check_samples, open_source
from hlmm_dask.scanning.summary import summarise
from hlmm_dask.scanning.verify import check_genotypes
from hlmm_dask.schema import LMM_NAMES
from hlmm_dask.store import ResultsStore

if TYPE_CHECKING:
    import xarray as xr

    from hlmm_dask.scanning.background import Run

# Where a scheduler keeps the stores that were filled on it, for the page in its dashboard.
RUNS_KEY = "hlmm-dask-runs"


Path_: TypeAlias = str | os.PathLike[str]


class _Options(TypedDict, total=False):
    client: Client | None
    cluster: ClusterOptions | None
    out: Path_ | Sequence[Path_] | None
    start: int
    stop: int | None
    min_maf: float
    max_missing: float
    count_a2: bool
    h2: Literal["refit", "null"]
    method: Method
    engine: Engine
    loco: bool
    exclude_window: float | None
    spa_threshold: float
    tests: Sequence[str]
    block_size: int | None
    resume: bool
    overwrite: bool
    observers: Sequence[Observer]


@overload
def scan(
    genotypes: Genotypes,
    null: AnyNull,
    *,
    background: Literal[False] = False,
    **options: Unpack[_Options],
) -> "xr.Dataset": ...


@overload
def scan(
    genotypes: Genotypes,
    null: AnyNull,
    *,
    background: Literal[True],
    **options: Unpack[_Options],
) -> "Run": ...


@overload
def scan(
    genotypes: Genotypes,
    null: Sequence[AnyNull],
    *,
    background: Literal[False] = False,
    **options: Unpack[_Options],
) -> "list[xr.Dataset]": ...


def scan(
    genotypes: Genotypes,
    null: AnyNull | Sequence[AnyNull],
    *,
    client: Client | None = None,
    cluster: ClusterOptions | None = None,
    out: Path_ | Sequence[Path_] | None = None,
    start: int = 0,
    stop: int | None = None,
    min_maf: float = 0.05,
    max_missing: float = 5.0,
    count_a2: bool = False,
    h2: Literal["refit", "null"] = "refit",
    method: Method = "auto",
    engine: Engine = "numba",
    loco: bool = False,
    exclude_window: float | None = None,
    spa_threshold: float = SPA_THRESHOLD,
    tests: Sequence[str] = (),
    block_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
    background: bool = False,
) -> "xr.Dataset | list[xr.Dataset] | Run":
    """Fit every variant and return the results.

    Parameters
    ----------
    genotypes : path, paths, PlinkGenotypes or Dataset
        PLINK files, a pattern with ``@`` for the chromosome, or a Dataset as of ``open_bed``.
    null : NullModel or LMMNullModel, or sequence of them
        From ``fit_null`` with the same genotypes, or, for the homoskedastic mixed model, from
        ``fit_lmm_null``; there ``h2="null"`` keeps the variance ratio of the null model. Several,
        of phenotypes or transforms, are scanned in one pass over the genotypes.
    client : distributed.Client, optional
        Cluster to run on; its workers must see the files. A cluster of worker processes
        on this machine by default.
    cluster : ClusterOptions, optional
        How to connect or what to start, where no client is given.
    out : path or sequence of path, optional
        Results store (a folder, ``.zarr``) to write, one for each null model. Without, results are
        kept in memory.
    start, stop, min_maf, max_missing, count_a2, h2, method, engine, loco, exclude_window
        See ``ScanConfig``.
    spa_threshold, tests
        See ``ScanConfig``.
    block_size : int, optional
        Variants a block (task, chunk); chosen from the data by default.
    resume : bool
        Go on with an existing store; finished blocks are not fitted again.
    overwrite : bool
        Replace an existing store.
    observers : sequence of Observer
        Called with each event.
    background : bool
        Return at once, while a thread of this process goes on.

    Returns
    -------
    Dataset, list of Dataset, or Run
        One variable for each column, dimension ``variants``; lazy where ``out`` is given. With
        several null models a list; with ``background`` the handle of the scan, see `Run`.

    Raises
    ------
    InputError
        If input or options can't be used; nothing is written then.
    StoreError
        If the store exists or belongs to another run.
    ScanError
        If blocks failed; the others are kept.
    """
    # Imported late: commands write tables and need no Dataset.
    from hlmm_dask.results import open_results

    config = ScanConfig(
        start, stop, min_maf, max_missing, count_a2, h2, method, engine, loco, exclude_window,
        spa_threshold, tuple(tests),
    )  # fmt: skip
    nulls = [null] if isinstance(null, NullModel | LMMNullModel) else list(null)
    outs = [out] if out is None or isinstance(out, str | os.PathLike) else list(out)
    if len(outs) != len(nulls) and out is not None:
        raise InputError(f"{len(outs)} paths for {len(nulls)} null models; give one for each")
    if background:
        from hlmm_dask.scanning.background import Run

        if not isinstance(null, NullModel | LMMNullModel):
            raise InputError("a scan in the background takes one null model, not several")
        return Run(
            genotypes, null, config, client=client, cluster=cluster, out=outs[0],
            block_size=block_size, resume=resume, overwrite=overwrite, observers=observers,
        )  # fmt: skip
    with ExitStack() as stack:
        paths = [Path(path) for path in outs if path is not None]
        if out is None:
            folder = Path(tempfile.mkdtemp(prefix="hlmm_dask_"))
            stack.callback(shutil.rmtree, folder)
            paths = [folder / f"{i}.zarr" for i in range(len(nulls))]
            resume = overwrite = False
        run_scans(
            genotypes, list(zip(nulls, paths, strict=True)), config, client=client,
            cluster=cluster, block_size=block_size, resume=resume, overwrite=overwrite,
            observers=observers,
        )  # fmt: skip
        results = [open_results(path) for path in paths]
        if out is None:
            results = [each.load() for each in results]
    return results[0] if isinstance(null, NullModel | LMMNullModel) else results


def run_scan(
    genotypes: Genotypes,
    null: AnyNull,
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
    traits: Sequence[tuple[AnyNull, str | os.PathLike[str]]],
    config: ScanConfig,
    *,
    client: Client | None = None,
    cluster: ClusterOptions | None = None,
    connection: Connection | None = None,
    block_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
) -> list[ResultsStore]:
    """Fill a results store for each phenotype, in one pass over the genotypes.

    Parameters
    ----------
    traits : sequence of (NullModel or LMMNullModel, path)
        The null model of each phenotype, with its own samples, and its results store.
    genotypes, config, client, cluster, block_size, resume, overwrite, observers
        See :func:`scan`.
    connection : Connection, optional
        Used instead of ``client`` and ``cluster``.

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
        check_samples(source, null)
        if isinstance(null, LMMNullModel):
            check_lmm_config(config, null)
        else:
            check_left_out(config, null)
    paths = [Path(out) for _, out in traits]
    for path in paths:
        clean_up(place_of(path))
        if path.exists() and not (resume or overwrite):
            raise StoreError(f"{path}: exists; give --resume to go on with it, or --overwrite")
    with ExitStack() as stack:
        parents = [path.parent for path in paths]
        passed: frozenset[str] | None = None
        if connection is None:
            connection = stack.enter_context(Connection(cluster or ClusterOptions(), client))
        if not (resume and all(path.exists() for path in paths)):
            # Before a store is made: without a cluster nothing is written or replaced.
            passed = probe_workers(connection.client(), source.files, parents)
        plan = _plan(source, [null for null, _ in traits], config, connection, paths,
                     block_size=block_size, resume=resume)  # fmt: skip
        tell(observers, Planned(plan.block_size, plan.n_blocks, plan.needed_bytes,
                                plan.resources.memory_limit))  # fmt: skip
        scans: list[PhenotypeScan] = []
        locks: list[Lock] = []
        for (null, _), path in zip(traits, paths, strict=True):
            store = _open_store(
                path, source, null, config, plan.block_size, resume=resume, overwrite=overwrite,
                others=[scan.store for scan in scans],
            )  # fmt: skip
            owner = f"pid {os.getpid()} on {socket.gethostname()}"
            locks.append(stack.enter_context(store.lock(owner)))
            scans.append(PhenotypeScan(null, store, _pending(store, observers)))
        stores = [scan.store for scan in scans]
        finished = sorted(set().union(*(store.done() for store in stores)))
        if finished:
            if passed is None:
                passed = probe_workers(connection.client(), source.files, parents)
            check_genotypes(
                stores, source, finished, connection.client(),
                no_workers_timeout=connection.options.patience,
            )  # fmt: skip
        for scan in scans:
            if config.loco and isinstance(scan.null, NullModel):
                _mend_set_nulls(scan.store)
            for index in scan.pending:
                scan.store.discard(index)
        failed: list[BlockFailed] = []
        if any(scan.pending for scan in scans):
            at = connection.client()
            if passed is None:
                passed = probe_workers(at, source.files, parents)
            for store in stores:
                # A path that is no text can't be asked for by a page.
                with suppress(UnicodeEncodeError):
                    name = str(store.path).encode().decode()
                    at.set_metadata([RUNS_KEY, name], time.time())
            tell(observers, Phase("blocks"))
            log = FailureLog([store.run_dir for store in stores])
            try:
                failed = run_blocks(
                    scans, source, config, at, (log, *observers), passed=passed,
                    no_workers_timeout=connection.options.patience,
                )  # fmt: skip
            except BaseException as error:
                log.stopped(error)
                raise
        if failed:
            raise ScanError(
                f"{paths[0]}: {len(failed)} of {scans[0].store.n_blocks} blocks failed "
                f"(block {failed[0].block}: {failed[0].error}); the others are kept, "
                "run again with --resume"
            )
        seconds = time.perf_counter() - began
        for scan, lock in zip(scans, locks, strict=True):
            if scan.pending or not scan.store.is_finished:
                lock.check()
                _require_own(scan.store)
                scan.store.finish(summarise(scan.store, seconds))
            remove_arrays(scan.store)
    return [scan.store for scan in scans]


def run_fingerprint(
    source: Source, null: AnyNull, config: ScanConfig, block_size: int
) -> dict[str, Any]:
    """All that decides the numbers of a store, and its blocks."""
    if isinstance(null, LMMNullModel):
        return lmm_fingerprint(source, null, config, block_size)
    options = config.fingerprint() | {"start": source.start, "stop": source.stop}
    if config.leaves_out:
        options["random_columns_sha256"] = columns_digest(null)
    return {
        "genotypes": source.identity(),
        **options,
        "phenotype": null.phenotype_name,
        "transform": null.transform,
        "model": null.name,
        "fit_covariates": null.fit_covariates,
        "n_samples": null.n_samples,
        "n_random": null.n_random,
        "phenotype_and_covariates_sha256": null.input_sha256,
        "hlmm_dask": version("hlmm-dask"),
        "block_size": block_size,
    }


def _plan(
    source: Source,
    nulls: Sequence[AnyNull],
    config: ScanConfig,
    connection: Connection,
    paths: Sequence[Path],
    *,
    block_size: int | None,
    resume: bool,
) -> Plan:
    kept = None
    if resume and block_size is None:
        kept = next((ResultsStore.open(p).block_size for p in paths if p.exists()), None)
    dosages = not isinstance(source.genotypes, PlinkGenotypes)
    return plan_blocks(
        [footprint(null, config, dosages=dosages) for null in nulls],
        source.n_variants,
        resources_of(connection),
        given=block_size,
        kept=kept,
    )


def _pending(store: ResultsStore, observers: Sequence[Observer]) -> list[int]:
    """Blocks to fit: those not in the store as they were written, by the run's null model."""
    todo = {block.index for block in store.pending()}
    others = _of_others(store) - todo
    if others:
        text = (
            f"{store.path}: {len(others)} blocks were fitted by another null model, or that one is "
            "damaged; they are fitted again"
        )
        tell(observers, Note(text))
    return sorted(todo | others)


def _of_others(store: ResultsStore) -> set[int]:
    """Blocks that were not fitted by the null model that is there."""
    task = published_model(store)
    digest = None if task is None else task.model_digest
    return {int(m["block"]) for m in store.markers() if m["null_model"] != digest}


def _require_own(store: ResultsStore) -> None:
    """Raise a `ScanError` if a run that this one replaced has still written a block."""
    if others := _of_others(store):
        raise ScanError(
            f"{store.path}: {len(others)} of {store.n_blocks} blocks were written by another run "
            f"(first: {min(others)}); run again with --resume, which fits them again"
        )


def _mend_set_nulls(store: ResultsStore) -> None:
    """Write the null models' table of --loco again where it is damaged."""
    if published_model(store) is None:
        return
    try:
        read_set_nulls(store)
    except StoreError:
        model = load_model(store)
        assert isinstance(model, BlockModel)
        assert model.left_out is not None
        write_set_nulls(store, model.left_out)


def _open_store(
    path: Path,
    source: Source,
    null: AnyNull,
    config: ScanConfig,
    block_size: int,
    *,
    resume: bool,
    overwrite: bool,
    others: Sequence[ResultsStore],
) -> ResultsStore:
    fingerprint = run_fingerprint(source, null, config, block_size)
    attrs = {
        "model": null.name,
        "phenotype": null.phenotype_name,
        "transform": null.transform,
        "n_analysed_samples": null.n_samples,
        "first_variant": source.start,
        "effect_allele": source.effect_allele(config.count_a2),
        "hlmm_dask": version("hlmm-dask"),
    }
    if resume and path.exists():
        store = ResultsStore.open(path)
        store.check_fingerprint(fingerprint)
        store.mend(source.variants(), attrs, count_a2=config.count_a2)
        return store
    columns = LMM_NAMES if isinstance(null, LMMNullModel) else config.columns
    return ResultsStore.create(
        path,
        n_variants=source.n_variants,
        block_size=block_size,
        variants=source.variants(),
        fingerprint=fingerprint,
        columns=columns,
        attrs=attrs,
        count_a2=config.count_a2,
        overwrite=overwrite,
        like=next((other for other in others if other.columns == columns), None),
    )
