"""Interaction of variants of a finished scan with a covariate: OUTPREFIX.interaction.tsv."""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hlmm_dask.durable import replacing
from hlmm_dask.errors import InputError
from hlmm_dask.followup.chosen import choose, results_of
from hlmm_dask.followup.finished import FinishedScan, open_finished
from hlmm_dask.followup.inputs import Files
from hlmm_dask.followup.output import heading, require_free
from hlmm_dask.ids import ids_of
from hlmm_dask.kernels.interaction import (
    TERMS,
    VARIANCE_TERMS,
    InteractionFit,
    InteractionModel,
    fit_interactions,
    has_maximum,
)
from hlmm_dask.missing import Missing
from hlmm_dask.models.inference import neg_log10_p_normal
from hlmm_dask.option_rules import require_of
from hlmm_dask.samples import align
from hlmm_dask.schema import Status, nothing_fitted
from hlmm_dask.tab_separated import text_of
from hlmm_dask.tables import Table, read_column, read_table
from hlmm_dask.text import shown
from hlmm_dask.transforms import transformed

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Variants whose pictures are drawn at the most.
N_LEADS = 20

# Of --min-carriers: without an effect p < 1e-3 comes 13 to 55 times too often with 3 carriers a
# side, up to 3 times with 20 (1,000 samples; normal and t residuals; two groups, normal E).
MIN_CARRIERS = 20
# Doubles of genotypes that a thread reads at once.
_READ = 2_000_000
_MAX_THREADS = 8
_MOST_ROWS = 4096


@dataclass(frozen=True)
class InteractJob:
    """What a command line says; names as the options of ``hlmm-interact``.

    Attributes
    ----------
    outprefix : str
        Of a finished scan.
    covar : str
        FILE or FILE:COLUMN.
    variants, top, test
        Which variants, see `choose`; all without ``variants`` and ``top``.
    min_carriers : int
        Fewest carriers of the rarer allele on each side of the covariate's mean.
    files : Files
        Files of the scan that lie elsewhere now, see `open_finished`.
    overwrite : bool
        Replace an existing table.
    """

    outprefix: str
    covar: str
    variants: str | None = None
    top: int | None = None
    test: str = "var"
    min_carriers: int = MIN_CARRIERS
    files: Files = field(default_factory=Files)
    overwrite: bool = False


@dataclass(frozen=True)
class Interactions:
    """A table that was written, and what pictures of its best variants need.

    Attributes
    ----------
    path : Path
        The table.
    scan : FinishedScan
    model : InteractionModel
        Of the samples at ``sample_index`` among those of the genotypes.
    sample_index : (n,) int64
    name : str
        Name of the covariate.
    leads : (k,) int64
        Rows of the variants with the smallest p of an interaction in the heteroskedastic model.
    notes : tuple of str
        What the user should know.
    """

    path: Path
    scan: FinishedScan
    model: InteractionModel
    sample_index: IntArray
    name: str
    leads: IntArray
    notes: tuple[str, ...]


def run_interact(job: InteractJob) -> Interactions:
    """Fit the variants block by block and write the table.

    Raises
    ------
    InputError, StoreError
        Before any work, if input or output can't be used.
    """
    if job.min_carriers < 0:
        raise InputError(f"--min-carriers {job.min_carriers}: expected 0 or more")
    require_of(job)
    path = Path(f"{job.outprefix}.interaction.tsv")
    require_free(path, overwrite=job.overwrite)
    scan = open_finished(job.outprefix, job.files)
    environment = _environment(job.covar, scan.study.missing)
    model, sample_index, notes = _model(scan, environment)
    if scan.study.null.n_random:
        notes = (*notes, "the scan's random effects are not in the models of interaction")
    if reason := nothing_fitted(scan.facts.counts):
        notes = (*notes, reason)
    if not model.bounded:
        notes = (*notes, _no_maximum(model, scan.study.null.phenotype_name, environment.names[0]))
    everything = job.variants is None and job.top is None
    rows = (
        np.arange(scan.store.n_variants)
        if everything
        else choose(scan.store, variants=job.variants, top=job.top, test=job.test)
    )
    leads, best = np.empty(0, dtype=np.int64), np.empty(0)
    step = max(1, min(_MOST_ROWS, _READ // scan.study.genotypes.n_samples))
    pieces = [rows[first : first + step] for first in range(0, max(len(rows), 1), step)]

    def fitted(some: IntArray) -> pd.DataFrame:
        return _table(scan, results_of(scan.store, some), model, sample_index, job.min_carriers)

    statuses: Counter[str] = Counter()
    with (
        replacing(path) as file,
        # Numbers do not depend on how many threads there are.
        threadpool_limits(1),
        ThreadPoolExecutor(min(_MAX_THREADS, len(os.sched_getaffinity(0)))) as pool,
    ):
        for some, table in zip(pieces, pool.map(fitted, pieces), strict=True):
            file.write(text_of(table, header=some is pieces[0]))
            statuses.update(table["status"])
            p = table["gxe_hlm_pval"].to_numpy()
            leads, best = np.append(leads, some), np.append(best, np.nan_to_num(p, nan=-1.0))
            kept = np.argsort(-best, kind="stable")[:N_LEADS]
            leads, best = leads[kept], best[kept]
    if statuses["few_carriers"]:
        notes = (
            *notes,
            f"{statuses['few_carriers']:,} of {len(rows):,} variants have fewer than "
            f"{job.min_carriers} carriers of the rarer allele above or below the mean of "
            f"'{environment.names[0]}': status few_carriers (--min-carriers)",
        )
    return Interactions(
        path, scan, model, sample_index, environment.names[0], leads[best >= 0.0], notes
    )


def _environment(covar: str, missing: Missing) -> Table:
    """Read the covariate: FILE with one column, or FILE:COLUMN."""
    ends = [len(covar), *(i for i in range(len(covar) - 1, 0, -1) if covar[i] == ":")]
    # Names of files, and of columns, may have colons.
    end = next((i for i in ends if Path(covar[:i]).is_file()), min(ends))
    name, column = covar[:end], covar[end + 1 :]
    if column:
        return read_column(name, column, missing=missing)
    table = read_table(name, missing=missing)
    if len(table.names) > 1:
        raise InputError(
            f"{name}: {len(table.names)} columns, expected one; name it as {name}:COLUMN "
            f"({', '.join(map(shown, table.names[:5]))})"
        )
    return table


def _model(
    scan: FinishedScan, environment: Table
) -> tuple[InteractionModel, IntArray, tuple[str, ...]]:
    """Match the covariate with phenotype, covariates and genotypes of the scan."""
    study = scan.study
    name = str(study.genotypes.files[0].fam)
    known = ((name, ids_of(study.genotypes.samples)), (str(study.traits.path), study.traits.ids))
    environment = environment.matched_to(*known)
    mean, variance = (t and t.matched_to(*known) for t in (study.mean, study.variance))
    aligned = align(
        study.genotypes.samples,
        study.traits,
        # First: a covariate that depends on it is left out, and not the other way round.
        mean_covariates=_beside(environment, mean),
        variance_covariates=_beside(environment, variance),
        genotypes_name=name,
        no_minus9=study.no_minus9,
        # Genotype and interaction, on mean and variance.
        extra_parameters=4,
    )
    aligned = transformed(aligned, study.scale, study.traits.path)
    name = environment.names[0]
    if aligned.mean_names[:1] != (name,):
        raise InputError(
            f"{environment.path}: covariate '{name}' is constant among the "
            f"{aligned.n_samples} analysed samples; choose one that varies"
        )
    model = InteractionModel(
        aligned.y,
        aligned.standardised_mean_covariates()[:, 1:],
        aligned.standardised_variance_covariates()[:, 1:],
        aligned.mean_covariates[:, 0],
    )
    model = replace(model, bounded=has_maximum(model))
    return model, aligned.sample_index, tuple(dict.fromkeys(aligned.notes))


def _no_maximum(model: InteractionModel, phenotype: str, name: str) -> str:
    """Say why no variant can be fitted."""
    why = f"'{name}' and the covariates leave no residual of the phenotype '{phenotype}'"
    remedy = "choose another covariate"
    values = np.unique(model.environment)
    for value in values if len(values) == 2 else ():
        group = model.y[model.environment == value]
        if np.ptp(group) == 0.0:
            why = (
                f"the phenotype '{phenotype}' is constant among the {len(group):,} samples "
                f"whose '{name}' is {value:g}"
                if len(group) > 1
                else f"'{name}' is {value:g} for a single sample"
            )
            remedy = "leave out the samples of this group, or choose another covariate"
    return f"{why}: the model has no maximum, and all variants get the status unbounded; {remedy}"


def _beside(first: Table, second: Table | None) -> Table:
    """Columns of two tables for the people of the first; NaN for those not in the second.

    Where the second has the first's column, too, it is left out.
    """
    if second is None:
        return first
    row_of = {key: row for row, key in enumerate(second.ids)}
    at = np.array([row_of.get(key, -1) for key in first.ids])
    values = np.where(at[:, None] < 0, np.nan, second.values[at])
    same = [np.array_equal(column, first.values[:, 0], equal_nan=True) for column in values.T]
    names = [name for name, again in zip(second.names, same, strict=True) if not again]
    values = np.hstack([first.values, values[:, np.logical_not(same)]])
    return replace(first, names=(*first.names, *names), values=values)


def _table(
    scan: FinishedScan, rows: pd.DataFrame, model: InteractionModel, sample_index: IntArray,
    min_carriers: int,
) -> pd.DataFrame:  # fmt: skip
    """Rows of the table for some variants; NaN for those that the scan left out."""
    ok = rows["status"].to_numpy() == Status.OK
    counts = scan.counts(rows)[:, sample_index]
    n = np.isfinite(counts).sum(axis=1)
    status = rows["status"].to_numpy(dtype=np.int64).copy()
    carriers = np.full(len(rows), np.nan)
    names = [name for name, _ in _estimates(None)]
    values = np.full((len(rows), len(names)), np.nan)
    if ok.any():
        fit = fit_interactions(model, counts[ok], min_carriers=min_carriers)
        carriers[ok] = fit.carriers
        values[ok] = np.column_stack([column for _, column in _estimates(fit)])
        status[ok] = fit.status
    table = pd.DataFrame(heading(rows, a2=scan.store.effect_allele_is_a2) | {"n": n})
    table["carriers"] = pd.array(carriers).astype("Int64")
    table[names] = values
    table["status"] = [Status(code).label for code in status.tolist()]
    return table


def _estimates(fit: InteractionFit | None) -> Iterator[tuple[str, FloatArray]]:
    """Columns of the table with their values; without a fit their names alone."""
    none = np.empty((3, 0))
    for i, term in enumerate(TERMS):
        for label, se, effect, error in (
            ("ols", "hc3", "ols", "hc3_se"), ("hlm", "hlm", "mean", "mean_se"),
        ):  # fmt: skip
            b, s = (none if fit is None else getattr(fit, name) for name in (effect, error))
            yield f"{term}_{label}", b[i]
            yield f"{term}_{se}_se", s[i]
            yield f"{term}_{se}_pval", neg_log10_p_normal(b[i] / s[i])
    for i, term in enumerate(VARIANCE_TERMS):
        b, s = (none, none) if fit is None else (fit.variance, fit.variance_se)
        yield f"var_{term}", b[i]
        yield f"var_{term}_se", s[i]
        yield f"var_{term}_pval", neg_log10_p_normal(b[i] / s[i])
