"""A whole job: from files to the finished table and the null model's files."""

import re
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.durable import aside
from hlmm_dask.errors import InputError, StoreError
from hlmm_dask.export import check_header, write_parquet, write_tsv
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.kernels.block import Method
from hlmm_dask.kernels.packed import Engine
from hlmm_dask.models.dispersion import NotEstimable
from hlmm_dask.scanning.cluster import ClusterOptions
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.connection import Connection
from hlmm_dask.scanning.dispersion import dispersion_columns, estimate_dispersion
from hlmm_dask.scanning.events import Note, Observer, tell
from hlmm_dask.scanning.fit_model import require_random_file
from hlmm_dask.scanning.left_out import read_set_nulls, require_positions, set_null_table
from hlmm_dask.scanning.null import NullModel, check_h2_init, fit_null
from hlmm_dask.scanning.outputs import (
    check_outprefix,
    needed_bytes,
    require_space,
    tidy_up,
    write_effects,
    write_estimate,
    write_text,
)
from hlmm_dask.scanning.run import run_scans
from hlmm_dask.schema import TSV_HEADERS
from hlmm_dask.store import ResultsStore
from hlmm_dask.tabix import require_pysam, write_index
from hlmm_dask.tables import Table, read_table


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
    min_maf: float = 0.05
    missing_char: str = "NA"
    max_missing: float = 5.0
    no_covariate_estimates: bool = False
    no_h2_estimate: bool = False
    count_a2: bool = False
    h2: Literal["refit", "null"] = "refit"
    method: Method = "auto"
    engine: Engine = "numba"
    loco: bool = False
    exclude_window: float | None = None
    scheduler: str | None = None
    scheduler_file: str | None = None
    workers: int | None = None
    threads_per_worker: int = 1
    memory_limit: str = "auto"
    block_size: int | None = None
    dispersion: bool = False
    parquet: bool = False
    tabix: bool = False
    resume: bool = False
    overwrite: bool = False
    append: bool = False
    clip_stop: bool = False
    keep_store: bool = True

    @property
    def config(self) -> ScanConfig:
        """What decides the numbers."""
        return ScanConfig(
            self.start, self.stop, self.min_maf, self.max_missing, self.count_a2, self.h2,
            self.method, self.engine, self.loco, self.exclude_window,
        )  # fmt: skip

    @property
    def cluster(self) -> ClusterOptions:
        """Where it runs."""
        return ClusterOptions(
            self.scheduler, self.scheduler_file, self.workers, self.threads_per_worker,
            self.memory_limit,
        )  # fmt: skip

    def output(self, suffix: str) -> Path:
        """Path of an output file."""
        return Path(f"{self.outprefix}{suffix}")


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
    job.config.check()
    job.cluster.check()
    check_h2_init(job.h2_init)
    require_random_file(job.random_gts, job.random_gts_txt)
    require_positions(
        job.config,
        random=job.random_gts is not None,
        positions=not job.random_gts_txt,
        fit_covariates=job.fit_covariates and bool(job.mean_covar or job.var_covar),
    )
    traits = read_table(job.phenofile, missing=(job.missing_char,))
    jobs = _jobs(job, traits)
    for one in jobs:
        _check_output(one)
    if job.tabix:
        require_pysam()
    genotypes = open_plink(job.genofile)
    for note in genotypes.notes:
        tell(observers, Note(note))
    if job.clip_stop and job.stop is not None and job.stop > genotypes.n_variants:
        tell(observers, Note(f"END {job.stop}: there are {genotypes.n_variants} variants"))
        job = replace(job, stop=genotypes.n_variants)
    start, stop = job.start, genotypes.n_variants if job.stop is None else job.stop
    columns = len(TSV_HEADERS) + 4 * job.dispersion
    require_space(
        [one.output(".zarr") for one in jobs],
        needed_bytes(stop - start, columns, parquet=job.parquet),
    )
    with ExitStack() as stack:
        paths = [one.output(".zarr") for one in jobs]
        if not job.keep_store:
            folder = aside(paths[0].resolve())
            folder.mkdir()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            paths = [folder / path.name for path in paths]
        with Connection(job.cluster) as connection:
            if not job.resume:
                # Workers start while the null model is fitted.
                connection.begin()
            nulls = [_fit_null(one, genotypes, traits) for one in jobs]
            notes = [text for null in nulls for text in (_accounting(null), *null.notes)]
            for text in dict.fromkeys(notes):
                tell(observers, Note(text))
            stores = run_scans(
                genotypes,
                list(zip(nulls, paths, strict=True)),
                job.config,
                connection=connection,
                block_size=job.block_size,
                resume=job.resume,
                overwrite=job.overwrite and job.keep_store,
                observers=observers,
            )
        for one in jobs:
            if one.overwrite:
                _remove_old(one)
        summaries = {
            str(one.output(".models.gz")): _write_tables(one, store, observers)
            for one, store in zip(jobs, stores, strict=True)
        }
    for one, null in zip(jobs, nulls, strict=True):
        _write_null(one, null)
    return summaries


def _write_tables(
    job: ScanJob, store: ResultsStore, observers: tuple[Observer, ...]
) -> dict[str, Any]:
    summary = store.summary() or {}
    extra: dict[str, NDArray[np.float64]] = {}
    if job.dispersion:
        result = estimate_dispersion(store)
        if isinstance(result, NotEstimable):
            tell(observers, Note(f"no dispersion effects: {result.reason}"))
        else:
            extra = dispersion_columns(result)
            summary |= {"slope of var on add": f"{result.r_av:.6g}"}
    write_tsv(store, job.output(".models.gz"), extra=extra, append=job.append)
    if job.tabix:
        obstacle = write_index(store, job.output(".models.gz"))
        if obstacle is not None:
            tell(observers, Note(obstacle))
    if job.parquet:
        write_parquet(store, job.output(".parquet"), extra=extra)
    if job.loco and not job.no_h2_estimate:
        write_text(job.output(".null_h2_loco.tsv"), set_null_table(read_set_nulls(store)))
    return summary


def _jobs(job: ScanJob, traits: Table) -> list[ScanJob]:
    """One job for each chosen phenotype; the output of several is named by phenotype."""
    chosen = traits.select(job.phen_index)
    if len(chosen) == 1:
        return [replace(job, phen_index=chosen[0])]
    labels = [re.sub(r"[^\w.-]+", "_", name) for name in chosen]
    if len(set(labels)) < len(labels):
        labels = [f"{label}_{i}" for i, label in enumerate(labels, 1)]
    return [
        replace(job, phen_index=name, outprefix=f"{job.outprefix}.{label}")
        for name, label in zip(chosen, labels, strict=True)
    ]


def _check_output(job: ScanJob) -> None:
    check_outprefix(job.outprefix)
    tidy_up(job.outprefix)
    table = job.output(".models.gz")
    if job.append and job.tabix:
        raise InputError("append and tabix: a table that grows can't be indexed; give one of them")
    if job.append and table.exists():
        check_header(table, list(TSV_HEADERS))
    if job.overwrite or (job.resume and job.output(".zarr").exists()):
        return
    for suffix in (".zarr", ".models.gz", ".parquet"):
        if job.output(suffix).exists():
            raise StoreError(
                f"{job.output(suffix)}: exists; give --overwrite"
                if job.resume
                else f"{job.output(suffix)}: exists; give --resume to go on with "
                f"{job.output('.zarr')}, or --overwrite"
            )


def _fit_null(job: ScanJob, genotypes: PlinkGenotypes, traits: Table) -> NullModel:
    return fit_null(
        genotypes,
        traits,
        phenotype_column=job.phen_index,
        mean_covariates=_covariates(job, job.mean_covar, job.mean_covar_cols),
        variance_covariates=_covariates(job, job.var_covar, job.var_covar_cols),
        random_genotypes=None if job.random_gts_txt else job.random_gts,
        random_table=job.random_gts if job.random_gts_txt else None,
        fit_covariates=job.fit_covariates,
        h2_init=job.h2_init,
        missing=(job.missing_char,),
    )


def _covariates(job: ScanJob, path: str | None, columns: str) -> Table | None:
    if path is None:
        return None
    return read_table(path, missing=(job.missing_char,)).only(columns)


def _accounting(null: NullModel) -> str:
    steps = ", ".join(f"{n:,} {step}" for step, n in null.accounting)
    return f"samples of phenotype '{null.phenotype_name}': {steps}"


def _remove_old(job: ScanJob) -> None:
    """Remove what a replaced run wrote and this one may not write."""
    for suffix in (
        ".null_mean_effects.txt",
        ".null_variance_effects.txt",
        ".null_h2.txt",
        ".null_h2_loco.tsv",
        *([] if job.parquet else [".parquet"]),
    ):
        job.output(suffix).unlink(missing_ok=True)


def _write_null(job: ScanJob, null: NullModel) -> None:
    if not job.no_covariate_estimates:
        write_effects(job.output(".null_mean_effects.txt"), null.mean_effects)
        write_effects(job.output(".null_variance_effects.txt"), null.variance_effects)
    if null.h2 is not None and not job.no_h2_estimate:
        write_estimate(job.output(".null_h2.txt"), null.h2, null.h2_se)
