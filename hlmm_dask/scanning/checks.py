"""All that can be wrong with a job, found before any work and before anything is written."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hlmm_dask.arguments import choice
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.option_rules import require_of
from hlmm_dask.samples import AlignedSamples
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.connection import Connection
from hlmm_dask.scanning.events import FilesOpened, Note, NullFitted, Observer, tell
from hlmm_dask.scanning.left_out import require_positions
from hlmm_dask.scanning.lmm import AnyNull, fit_lmm_input
from hlmm_dask.scanning.lmm_job import (
    KinshipSource,
    array_bytes,
    open_kinship,
)
from hlmm_dask.scanning.null_input import NullInput, check_h2_init, read_null_inputs
from hlmm_dask.scanning.outputs import check_output, needed_bytes, require_space
from hlmm_dask.scanning.plan import Plan, check_block_size, expected_footprint, plan_blocks
from hlmm_dask.scanning.relationships import Relationships
from hlmm_dask.scanning.resources import resources_of
from hlmm_dask.scanning.source import Source, open_source
from hlmm_dask.schema import DISPERSION_COLUMNS, TSV_HEADERS
from hlmm_dask.store import ResultsStore
from hlmm_dask.tabix import require_pysam
from hlmm_dask.tables import Table, by_name, read_table
from hlmm_dask.transforms import chosen_transforms

if TYPE_CHECKING:
    from hlmm_dask.scanning.job import ScanJob


@dataclass(frozen=True)
class CheckedJob:
    """A job whose input and output can be used.

    Attributes
    ----------
    job : ScanJob
        The job as a whole.
    jobs : list of ScanJob
        One for each phenotype and transform, with its name and its own OUTPREFIX.
    source : Source
        The variants.
    inputs : list of NullInput
        What each phenotype's null model will be fitted to.
    kinship : KinshipSource, optional
        Where the relationship matrix comes from, with ``--model lmm``.
    """

    job: "ScanJob"
    jobs: "list[ScanJob]"
    source: Source
    inputs: list[NullInput]
    kinship: KinshipSource | None = None

    @property
    def config(self) -> ScanConfig:
        """What decides the numbers."""
        return (
            replace(self.job.config, stop=self.source.stop)
            if self.job.clip_stop
            else (self.job.config)
        )

    def plan(self, connection: Connection) -> Plan:
        """Plan the blocks before the null model is there, to refuse what can't fit.

        Connects if a cluster is named; one of its own is not started for that.
        """
        return plan_blocks(
            [
                expected_footprint(null, self.config, lmm=self.kinship is not None)
                for null in self.inputs
            ],
            self.source.n_variants,
            resources_of(connection),
            given=self.job.block_size,
            kept=self.kept_block_size,
        )

    @property
    def kept_block_size(self) -> int | None:
        """Block size of the store that a resumed run goes on with."""
        if not self.job.resume or self.job.block_size is not None:
            return None
        paths = [one.output(".zarr") for one in self.jobs]
        return next(
            (ResultsStore.open(p, repair=True).block_size for p in paths if p.exists()), None
        )

    def fit_nulls(
        self, observers: tuple[Observer, ...], related: Relationships | None = None
    ) -> list[AnyNull]:
        """Fit the null model of each phenotype, and tell about it."""
        said = {note for null in self.inputs for note in null.notes}
        fitted: list[AnyNull] = []
        for given in self.inputs:
            null = given.fit() if related is None else fit_lmm_input(given, related)
            for note in null.notes:
                if note not in said:
                    said.add(note)
                    tell(observers, Note(note))
            tell(observers, _summary(null, given.aligned.cautions))
            fitted.append(null)
        return fitted


def check_job(
    job: "ScanJob", observers: tuple[Observer, ...] = (), *, tidy: bool = True
) -> CheckedJob:
    """Check options, input and output of a job; read the tables.

    Parameters
    ----------
    job : ScanJob
        The job.
    observers : tuple of Observer
        Told about notes.
    tidy : bool
        Clean up what killed runs left at OUTPREFIX.

    Raises
    ------
    InputError, StoreError
        With one line that says what is wrong; nothing was written.
    """
    _check_options(job)
    traits = read_table(job.phenofile, columns=job.phen_index, missing=job.missing_char)
    jobs = _by_phenotype(job, traits)
    for one in jobs:
        check_output(one, tidy=tidy)
    genotypes = open_plink(job.genofile)
    tell(observers, FilesOpened("genotypes", tuple(map(str, genotypes.paths))))
    for note in genotypes.notes:
        tell(observers, Note(note))
    config = job.config
    if job.clip_stop and job.stop is not None and job.stop > genotypes.n_variants:
        tell(observers, Note(f"END {job.stop}: there are {genotypes.n_variants} variants"))
        config = replace(config, stop=genotypes.n_variants)
    source = open_source(genotypes, config)
    inputs = _read_inputs(job, jobs, genotypes, traits)
    notes = [text for null in inputs for text in (_accounting(null.aligned), *null.notes)]
    for text in dict.fromkeys(notes):
        # The random effects may come from the same files.
        if text not in genotypes.notes:
            tell(observers, Note(text))
    if inputs and isinstance(inputs[0].random, PlinkGenotypes):
        paths = tuple(map(str, inputs[0].random.paths))
        tell(observers, FilesOpened("random effects", paths))
    kinship = open_kinship(job, genotypes, inputs)
    if kinship is not None and kinship.genotypes is not None:
        tell(
            observers,
            FilesOpened("relationship matrix", tuple(map(str, kinship.genotypes.paths))),
        )
        for note in kinship.genotypes.notes:
            if note not in genotypes.notes:
                tell(observers, Note(note))
    columns = (
        len(TSV_HEADERS)
        + 2 * len(config.tests)
        + (len(DISPERSION_COLUMNS) if job.dispersion else 0)
    )
    require_space(
        [one.output(".zarr") for one in jobs],
        needed_bytes(source.n_variants, columns, parquet=job.parquet)
        + array_bytes(kinship, inputs),
    )
    return CheckedJob(job, jobs, source, inputs, kinship)


def _check_options(job: "ScanJob") -> None:
    choice("--model", job.model, ("hlmm", "lmm"))
    choice("--lmm-test", job.lmm_test, ("refit", "fixed"))
    require_of(job)
    # Both check themselves when they are made.
    _ = job.config
    job.cluster.check()
    check_h2_init(job.h2_init)
    if job.model == "hlmm":
        require_positions(
            job.config,
            positions=not job.random_gts_txt,
            fit_covariates=job.fit_covariates and bool(job.mean_covar or job.var_covar),
        )
    chosen_transforms(job.transform)
    _ = job.dispersion_options
    check_block_size(job.block_size)
    if job.tabix:
        require_pysam()


def _by_phenotype(job: "ScanJob", traits: Table) -> "list[ScanJob]":
    """One job for each chosen phenotype and transform; the output of several is named by them."""
    transforms = chosen_transforms(job.transform)
    if len(transforms) > 1:
        return [
            replace(one, transform=name, outprefix=f"{one.outprefix}.{name}")
            for one in _by_phenotype(replace(job, transform=transforms[0]), traits)
            for name in transforms
        ]
    chosen = traits.names
    if len(chosen) == 1:
        return [replace(job, phen_index=by_name(chosen[0]), transform=transforms[0])]
    labels = [re.sub(r"[^\w.-]+", "_", name) for name in chosen]
    if len(set(labels)) < len(labels):
        labels = [f"{label}_{i}" for i, label in enumerate(labels, 1)]
    return [
        replace(job, phen_index=by_name(name), outprefix=f"{job.outprefix}.{label}")
        for name, label in zip(chosen, labels, strict=True)
    ]


def _read_inputs(
    job: "ScanJob", jobs: "list[ScanJob]", genotypes: PlinkGenotypes, traits: Table
) -> list[NullInput]:
    # Read once for all phenotypes.
    mean = _covariates(job, job.mean_covar, job.mean_covar_cols)
    variance = _covariates(job, job.var_covar, job.var_covar_cols)
    table = None if job.random_gts is None or not job.random_gts_txt else _table(job)
    plink = None if job.random_gts is None or job.random_gts_txt else open_plink(job.random_gts)
    return read_null_inputs(
        genotypes,
        traits,
        [(one.phen_index, one.transform) for one in jobs],
        mean_covariates=mean,
        variance_covariates=variance,
        random_genotypes=plink,
        random_table=table,
        fit_covariates=job.fit_covariates or job.model == "lmm",
        h2_init=job.h2_init,
        no_minus9=job.no_minus9,
    )


def _covariates(job: "ScanJob", path: str | None, columns: str) -> Table | None:
    if path is None:
        return None
    return read_table(path, columns=columns, missing=job.missing_char)


def _table(job: "ScanJob") -> Table:
    assert job.random_gts is not None
    return read_table(job.random_gts, missing=job.missing_char)


def _accounting(aligned: AlignedSamples) -> str:
    steps = ", ".join(f"{n:,} {step}" for step, n in aligned.accounting)
    return f"samples of phenotype '{aligned.phenotype_name}': {steps}"


def _summary(null: AnyNull, cautions: tuple[str, ...]) -> NullFitted:
    effects = tuple(
        (kind, name, float(effect), float(se))
        for kind, each in (("mean", null.mean_effects), ("variance", null.variance_effects))
        for name, effect, se in zip(each.names, each.effects, each.standard_errors, strict=True)
    )
    return NullFitted(
        phenotype=null.phenotype_name,
        model=null.name,
        accounting=null.accounting,
        effects=effects,
        loglik=null.loglik,
        n_random=null.n_random,
        h2=null.h2,
        h2_se=null.h2_se,
        transform=null.transform,
        cautions=cautions,
    )
