"""A scan from start to end: plan, graph, cluster, store."""

import os
import socket
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distributed import Client

from hlmm_dask.errors import InputError, ScanError, StoreError, TakenOverError
from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.kernels.block_model import BlockModel
from hlmm_dask.layout import Layout
from hlmm_dask.lock import Lock
from hlmm_dask.option_rules import require
from hlmm_dask.placement import clean_up, place_of
from hlmm_dask.scanning.cluster import ClusterOptions
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.connection import Connection
from hlmm_dask.scanning.dispatch import PhenotypeScan, run_blocks, scan_model
from hlmm_dask.scanning.events import BlockFailed, Note, Observer, PageServed, Phase, Planned, tell
from hlmm_dask.scanning.failures import FailureLog
from hlmm_dask.scanning.left_out import (
    check_left_out,
    columns_digest,
    read_set_nulls,
    write_set_nulls,
)
from hlmm_dask.scanning.lmm import AnyNull, LMMNullModel
from hlmm_dask.scanning.lmm_model import lmm_fingerprint, repair_estimates
from hlmm_dask.scanning.null import NullModel
from hlmm_dask.scanning.null_input import Genotypes
from hlmm_dask.scanning.plan import Plan, check_block_size, footprint, plan_blocks
from hlmm_dask.scanning.probe import probe_workers
from hlmm_dask.scanning.published import kept_digest, load_model, model_digest, remove_model
from hlmm_dask.scanning.resources import resources_of
from hlmm_dask.scanning.source import Source, check_samples, open_source
from hlmm_dask.scanning.summary import summarise
from hlmm_dask.scanning.verify import check_genotypes
from hlmm_dask.schema import LMM_NAMES, nothing_fitted
from hlmm_dask.store import ResultsStore

# Where a scheduler keeps the stores that were filled on it, for the page in its dashboard.
RUNS_KEY = "hlmm-dask-runs"


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
    """Fill a results store; see :func:`hlmm_dask.scan`.

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
        See :func:`hlmm_dask.scan`.
    connection : Connection, optional
        Used instead of ``client`` and ``cluster``.

    Returns
    -------
    list of ResultsStore
        Complete, and marked as finished with a summary.
    """
    began = time.perf_counter()
    require({"resume": resume, "overwrite": overwrite}, {"resume": False, "overwrite": False})
    check_block_size(block_size)
    source = open_source(genotypes, config)
    for null, _ in traits:
        check_samples(source, null)
        _check_options(config, null)
        if isinstance(null, NullModel):
            check_left_out(config, null)
    if config.tests and not isinstance(source.genotypes, PlinkGenotypes):
        raise InputError(
            "tests compares groups of samples with the same genotype, and dosages have none; "
            "scan a .bed, or leave out tests"
        )
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
            pending = _pending(store, observers)
            scans.append(PhenotypeScan(null, store, pending, _accepted(store)))
        stores = [scan.store for scan in scans]
        finished = sorted(set().union(*(store.done() for store in stores)))
        if finished:
            if passed is None:
                passed = probe_workers(connection.client(), source.files, parents)
            check_genotypes(
                stores, source, finished, connection.client(),
                no_workers_timeout=connection.options.patience,
            )  # fmt: skip
        for lock in locks:
            lock.check()
        for scan in scans:
            _repair_null_records(scan, config, source)
            if scan.pending:
                scan.store.keep_private()
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
            if page := connection.page():
                tell(observers, PageServed(page))
            tell(observers, Phase("blocks"))
            log = FailureLog([store.run_dir for store in stores])
            try:
                failed = run_blocks(
                    scans, source, config, at, (log, *observers), passed=passed,
                    no_workers_timeout=connection.options.patience,
                )  # fmt: skip
            except TakenOverError:
                raise
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
                _require_own(scan)
                summary = summarise(scan.store, seconds)
                # First: a store that is marked as finished holds no values of people.
                remove_model(scan.store)
                scan.store.finish(summary)
                if reason := nothing_fitted(summary["counts"]):
                    tell(observers, Note(f"{scan.store.path.name}: {reason}"))
            remove_model(scan.store)
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


def _check_options(config: ScanConfig, null: AnyNull) -> None:
    """Raise an `InputError` for options that have no effect with the null model."""
    given = asdict(config)
    if isinstance(null, LMMNullModel):
        # Here h2 says whether each variant has its own variance ratio.
        del given["h2"]
        parts = bool(null.relationships.chromosomes)
        given |= {"model": "lmm", "kinship": not parts, "grm_from": parts}
    else:
        covariates = null.model.X.shape[1] + null.model.V.shape[1] > 2
        given |= {"model": "hlmm", "random_gts": null.model.design is not None}
        given |= {"fit_covariates": null.fit_covariates and covariates, "mean_covar": covariates}
    absent = ("kinship", "grm_from", "random_gts", "fit_covariates", "mean_covar")
    require(given, asdict(ScanConfig()) | dict.fromkeys(absent, False))


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
        kept = next(
            (ResultsStore.open(p, repair=True).block_size for p in paths if p.exists()), None
        )
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
    if store.is_finished:
        # They were compared then; what was repaired since may have a null model of its own.
        return sorted(todo)
    # Of a damaged file nothing is known, and all is fitted again.
    others = _of_others(store, {kept_digest(store)}) - todo
    if others:
        text = (
            f"{store.path}: {len(others)} blocks were fitted by another null model, or that one is "
            "damaged; they are fitted again"
        )
        tell(observers, Note(text))
    return sorted(todo | others)


def _accepted(store: ResultsStore) -> frozenset[str | None]:
    """Digests of the null models that fitted the blocks which are there."""
    if store.is_finished:
        return frozenset(marker["null_model"] for marker in store.markers())
    return frozenset({model_digest(store)})


def _of_others(store: ResultsStore, digests: Collection[str | None]) -> set[int]:
    """Blocks that were not fitted by the null models with these digests."""
    return {int(m["block"]) for m in store.markers() if m["null_model"] not in digests}


def _require_own(scan: PhenotypeScan) -> None:
    """Raise a `ScanError` if a run that this one replaced has still written a block."""
    store = scan.store
    if others := _of_others(store, scan.earlier | {model_digest(store)}):
        raise ScanError(
            f"{store.path}: {len(others)} of {store.n_blocks} blocks were written by another run "
            f"(first: {min(others)}); run again with --resume, which fits them again"
        )


def _repair_null_records(scan: PhenotypeScan, config: ScanConfig, source: Source) -> None:
    """Write what the null models estimated again where its record is damaged."""
    store, null = scan.store, scan.null
    if model_digest(store) is None and not store.is_finished:
        # Nothing is published yet: the record is written with the model.
        return
    if isinstance(null, LMMNullModel):
        repair_estimates(store, null, config, source)
        return
    if not config.loco:
        return
    try:
        read_set_nulls(store)
    except StoreError:
        model: object = None
        with suppress(StoreError, FileNotFoundError):
            model = load_model(store)
        if model is None:
            model = scan_model(null, config, source)
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
    columns = LMM_NAMES if isinstance(null, LMMNullModel) else config.columns
    if resume and path.exists():
        store = ResultsStore.open(path, repair=True)
        store.check_fingerprint(fingerprint)
        if store.layout != Layout(source.n_variants, block_size, columns):
            raise StoreError(
                f"{path}: its manifest has other variants, blocks or columns than its run; "
                "start again with --overwrite"
            )
        store.mend(source.variants(), attrs, count_a2=config.count_a2)
        return store
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
