"""A whole job: from files to the finished table and the null model's files."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.durable import working_folder
from hlmm_dask.export import TextTable, write_parquet, write_tables
from hlmm_dask.formats.effects import effects_in
from hlmm_dask.formats.munge import write_formats
from hlmm_dask.genotypes.contigs import HUMAN_AUTOSOMES
from hlmm_dask.kernels.block_model import Method
from hlmm_dask.kernels.packed import Engine
from hlmm_dask.kernels.relationship import Kind
from hlmm_dask.kernels.score import SPA_THRESHOLD
from hlmm_dask.models.dispersion import DispersionOptions, NotEstimable
from hlmm_dask.models.jackknife import Blocks
from hlmm_dask.scanning.checks import check_job
from hlmm_dask.scanning.cluster import ClusterOptions
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.connection import Connection
from hlmm_dask.scanning.dispersion import dispersion_columns, estimate_dispersion, slope_summary
from hlmm_dask.scanning.events import (
    Event,
    Note,
    Observer,
    Phase,
    TablesWritten,
    tell,
)
from hlmm_dask.scanning.left_out import read_set_nulls, set_null_table
from hlmm_dask.scanning.lmm_job import relationships
from hlmm_dask.scanning.lmm_model import variance_table
from hlmm_dask.scanning.outputs import remove_old, write_null, write_text
from hlmm_dask.scanning.run import run_scans
from hlmm_dask.scanning.written_outputs import write_outputs
from hlmm_dask.store import ResultsStore
from hlmm_dask.tabix import write_index


@dataclass(frozen=True)
class ScanJob:
    """Everything that a command line says; names as the options of ``hlmm-scan``."""

    genofile: str | list[str]
    phenofile: str
    outprefix: str
    start: int = 0
    stop: int | None = None
    mean_covar: str | None = None
    var_covar: str | None = None
    mean_covar_cols: str = "all"
    var_covar_cols: str = "all"
    fit_covariates: bool = False
    random_gts: str | None = None
    random_gts_txt: bool = False
    h2_init: float = 0.05
    phen_index: str = "1"
    transform: str = "none"
    min_maf: float = 0.05
    missing_char: tuple[str, ...] = ()
    no_minus9: bool = False
    max_missing: float = 5.0
    no_covariate_estimates: bool = False
    no_h2_estimate: bool = False
    count_a2: bool = False
    h2: Literal["refit", "null"] = "refit"
    method: Method = "auto"
    engine: Engine = "numba"
    loco: bool = False
    model: Literal["hlmm", "lmm"] = "hlmm"
    kinship: str | None = None
    grm_from: str | None = None
    grm_kind: Kind = "standardised"
    grm_min_maf: float = 0.01
    grm_all_chromosomes: bool = False
    autosome_num: int = HUMAN_AUTOSOMES
    lmm_test: Literal["refit", "fixed"] = "refit"
    exclude_window: float | None = None
    spa_threshold: float = SPA_THRESHOLD
    tests: tuple[str, ...] = ()
    scheduler: str | None = None
    scheduler_file: str | None = None
    workers: int | None = None
    threads_per_worker: int = 1
    memory_limit: str = "auto"
    timeout: float | None = None
    no_workers_timeout: float | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    insecure: bool = False
    jobqueue: str | None = None
    queue: str | None = None
    account: str | None = None
    walltime: str | None = None
    local_directory: str | None = None
    cores: int | None = None
    jobqueue_option: tuple[str, ...] = ()
    block_size: int | None = None
    dispersion: bool = False
    dispersion_blocks: Blocks = "auto"
    dispersion_exclude: float | None = None
    dispersion_slope_error: bool = False
    parquet: bool = False
    tabix: bool = False
    formats: tuple[str, ...] = ()
    resume: bool = False
    overwrite: bool = False
    append: bool = False
    clip_stop: bool = False
    keep_store: bool = True

    @property
    def config(self) -> ScanConfig:
        """What decides the numbers."""
        h2 = "null" if self.model == "lmm" and self.lmm_test == "fixed" else self.h2
        return ScanConfig(
            self.start, self.stop, self.min_maf, self.max_missing, self.count_a2, h2,
            self.method, self.engine, self.loco, self.exclude_window, self.spa_threshold,
            self.tests,
        )  # fmt: skip

    @property
    def cluster(self) -> ClusterOptions:
        """Where it runs."""
        own = {
            f.name: getattr(self, f.name) for f in fields(ClusterOptions) if hasattr(self, f.name)
        }
        # Jobs must see the output folder anyway.
        return ClusterOptions(**own, shared_directory=str(Path(self.outprefix).absolute().parent))

    @property
    def dispersion_options(self) -> DispersionOptions:
        """How dispersion effects are estimated."""
        return DispersionOptions(
            self.dispersion_blocks, self.dispersion_exclude, self.dispersion_slope_error
        )

    def output(self, suffix: str) -> Path:
        """Path of an output file."""
        return Path(f"{self.outprefix}{suffix}")

    @property
    def inputs(self) -> list[str]:
        """Files that are read; a .bed may be a pattern, or lack its suffix."""
        genofiles = [self.genofile] if isinstance(self.genofile, str) else self.genofile
        others = (
            self.phenofile, self.mean_covar, self.var_covar, self.random_gts, self.kinship,
            self.grm_from,
        )  # fmt: skip
        return [*genofiles, *(name for name in others if name is not None)]


def run_job(job: ScanJob, observers: tuple[Observer, ...] = ()) -> dict[str, dict[str, Any]]:
    """Scan, and write the table and the null model's files.

    Returns
    -------
    dict of str to dict
        For each table that was written, its summary: variants read, fitted, left out by reason,
        λ_GC of both tests, seconds.

    Raises
    ------
    InputError, StoreError
        Before any work, if input or output can't be used.
    ScanError
        If blocks failed.
    """
    tell(observers, Phase("input"))
    checked = check_job(job, observers)
    jobs, genotypes = checked.jobs, checked.source.genotypes

    def replaced(event: Event) -> None:
        """Remove with an old store what was made from it: the run may be ended, and resumed."""
        if event == Phase("blocks") and job.overwrite and job.keep_store:
            for one in jobs:
                remove_old(one)

    with ExitStack() as stack:
        connection = stack.enter_context(Connection(job.cluster))
        checked.plan(connection)
        # Workers start while the null model is fitted.
        connection.begin()
        related = None
        if checked.kinship is not None:
            tell(observers, Phase("relationships"))
            # Of the cluster that is started meanwhile nothing would be there yet.
            client = None if connection.options.is_local else connection.client()
            beside = job.output(".kinship").absolute()
            related = stack.enter_context(
                relationships(
                    checked.kinship, client, beside, no_workers_timeout=job.cluster.patience
                )
            )
        tell(observers, Phase("null model"))
        nulls = checked.fit_nulls(observers, related)
        tell(observers, Phase("cluster"))
        paths = [one.output(".zarr") for one in jobs]
        if not job.keep_store:
            folder = stack.enter_context(working_folder(paths[0].resolve()))
            paths = [folder / path.name for path in paths]
        stores = run_scans(
            genotypes,
            list(zip(nulls, paths, strict=True)),
            checked.config,
            connection=connection,
            block_size=job.block_size,
            resume=job.resume,
            overwrite=job.overwrite and job.keep_store,
            observers=(replaced, *observers),
        )
        for one, store in zip(jobs, stores, strict=True):
            write_outputs(store, one)
        tell(observers, Phase("tables"))
        if job.overwrite and not job.keep_store:
            for one in jobs:
                remove_old(one)
        summaries = _write_tables(jobs, stores, observers)
    for one, null in zip(jobs, nulls, strict=True):
        write_null(one, null)
    for path, summary in summaries.items():
        tell(observers, TablesWritten(path, summary))
    return summaries


def _write_tables(
    jobs: Sequence[ScanJob], stores: Sequence[ResultsStore], observers: tuple[Observer, ...]
) -> dict[str, dict[str, Any]]:
    """Write each phenotype's table and what is beside it; return what its summary says."""
    by_path = {one.output(".models.gz"): one for one in jobs}
    summaries: dict[str, dict[str, Any]] = {}

    def tables() -> Iterator[TextTable]:
        for (path, one), store in zip(by_path.items(), stores, strict=True):
            summaries[str(path)], extra = _with_dispersion(one, store, observers)
            yield TextTable(store, path, extra, append=one.append)

    for table, _ in write_tables(tables()):
        _write_beside(by_path[table.path], table, observers)
    return summaries


def _with_dispersion(
    job: ScanJob, store: ResultsStore, observers: tuple[Observer, ...]
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Return the summary and the columns of dispersion effects."""
    summary = store.summary() or {}
    if not job.dispersion:
        return summary, {}
    result = estimate_dispersion(store, job.dispersion_options)
    if isinstance(result, NotEstimable):
        tell(observers, Note(f"no dispersion effects: {result.reason}"))
        return summary, {}
    for line in result.cautions:
        tell(observers, Note(line))
    return summary | slope_summary(result), dispersion_columns(result)


def _write_beside(job: ScanJob, table: TextTable, observers: tuple[Observer, ...]) -> None:
    store, extra = table.store, table.extra
    if job.tabix:
        obstacle = write_index(store, job.output(".models.gz"))
        if obstacle is not None:
            tell(observers, Note(obstacle))
    if job.parquet:
        write_parquet(store, job.output(".parquet"), extra=extra)
    if job.formats:
        effects = effects_in([*store.columns, *extra])
        for note in write_formats(
            store, job.outprefix, formats=job.formats, effects=effects, extra=extra
        ):
            tell(observers, Note(note))
    if job.model == "lmm":
        write_text(job.output(".null_lmm.tsv"), variance_table(store))
    elif job.loco and not job.no_h2_estimate:
        write_text(job.output(".null_h2_loco.tsv"), set_null_table(read_set_nulls(store)))
