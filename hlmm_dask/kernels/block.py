"""A block of variants and a null model in, a table of results out."""

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.block_model import BlockModel
from hlmm_dask.kernels.class_moments import ClassMoments
from hlmm_dask.kernels.class_tests import SIGNED, class_tests, needs_fourths
from hlmm_dask.kernels.dense import fit_dense
from hlmm_dask.kernels.hlm import fit_class_sums
from hlmm_dask.kernels.hlm_covariates import fit_with_covariates
from hlmm_dask.kernels.hlmm import Codes, RandomEffectModel, fit_random_effects
from hlmm_dask.kernels.hlmm_choice import needs_exact, needs_polish
from hlmm_dask.kernels.hlmm_linear import fit_linear
from hlmm_dask.kernels.linear_model import LinearModel
from hlmm_dask.kernels.packed import (
    ClassSums,
    Packed,
    Powers,
    class_sums,
    unpack,
)
from hlmm_dask.kernels.score import Scores, score_columns, tails_of
from hlmm_dask.kernels.score_null import general_columns
from hlmm_dask.kernels.table import (
    Filters,
    VariantFit,
    classify,
    empty_results,
    fill_classes,
    fill_columns,
    fill_estimates,
)
from hlmm_dask.schema import INDEX, Status

FloatArray = NDArray[np.float64]

# Doubles of unpacked genotypes that are alive at once.
_UNPACKED_DOUBLES = 4_000_000
# Vectors of the length of the random effects that a variant takes.
_VECTORS = 40


def unpacked_variants(n_variants: int, n_samples: int, n_random: int = 0) -> int:
    """Variants of a block that are unpacked at once: their memory is bounded for any n and l."""
    return min(n_variants, max(1, _UNPACKED_DOUBLES // max(n_samples, _VECTORS * n_random)))


def fit_packed(model: BlockModel, packed: Packed, *, first: int = 0) -> FloatArray:
    """Fit every variant of a block of packed hard calls.

    Parameters
    ----------
    model : BlockModel
        The null model and the phenotype.
    packed : (m, n_bytes) uint8
        Packed genotypes of all samples in the file.
    first : int
        The block's first variant, counted from the first of the scan.

    Returns
    -------
    (m, N_COLUMNS) float64
        One row for each variant, columns as in ``schema.RESULT_COLUMNS``.
    """
    results = empty_results(len(packed))
    needs_four = model.from_sums
    if model.left_out is not None:
        needs_four = not model.left_out.n_left.all()
    needs_four |= needs_fourths(model.tests) and not model.has_covariates
    powers: Powers = 4 if needs_four else 2
    sums = class_sums(packed, model.phenotype, powers=powers, engine=model.engine)
    n_called = sums.counts.sum(axis=0)
    classify(
        results,
        n_called=n_called,
        copies=sums.counts[1] + 2.0 * sums.counts[2],
        uniform=sums.counts[1] == n_called,
        n_analysed=model.layout.n_samples,
        filters=model.filters,
    )
    fill_classes(results, sums, mean=model.mean, count_a2=model.filters.count_a2)
    rows = np.flatnonzero(results[:, INDEX["status"]] == Status.OK)
    for part, chosen in model.by_set(rows, first):
        if not chosen.size:
            continue
        if part.from_sums:
            own = sums.take(chosen)
            moments = ClassMoments.of(own)
            fit = fit_class_sums(own, moments=moments)
            fill_estimates(results, chosen, fit, count_a2=model.filters.count_a2)
            _fill_scores(part, packed, chosen, moments, results)
        else:
            _fit_unpacked(part, packed, chosen, results)
    return np.hstack([results, _further_tests(model, packed, sums, results)])


def _further_tests(
    model: BlockModel, packed: Packed, sums: ClassSums, results: FloatArray
) -> FloatArray:
    """Statistic and -log10 p of the further tests of each variant that was fitted."""
    out = np.full((len(results), 2 * len(model.tests)), np.nan)
    if not model.tests:
        return out
    y = model.y
    if model.has_covariates:
        y = model.adjusted
        powers: Powers = 4 if needs_fourths(model.tests) else 2
        sums = class_sums(packed, model.adjusted_phenotype, powers=powers, engine=model.engine)
    rows = np.flatnonzero(results[:, INDEX["status"]] == Status.OK)
    size = unpacked_variants(max(len(rows), 1), model.layout.n_samples)
    for i in range(0, len(rows), size):
        part = rows[i : i + size]
        moments = ClassMoments.of(sums.take(part))
        codes = unpack(packed[part], model.layout)
        out[part] = class_tests(model.tests, moments, codes, y)
    if model.filters.count_a2:
        for j, test in enumerate(model.tests):
            out[:, 2 * j] *= -1.0 if test in SIGNED else 1.0
    return out


def _fill_scores(
    model: BlockModel,
    packed: Packed,
    rows: NDArray[np.int64],
    moments: ClassMoments,
    results: FloatArray,
) -> None:
    scores = Scores.of(moments)
    tails = tails_of(
        scores, packed, rows, model.nodes, model.y, lambda some: unpack(some, model.layout),
        threshold=model.spa_threshold,
    )  # fmt: skip
    _fill_fitted(results, rows, score_columns(scores, tails), model.filters)


def _fill_fitted(
    results: FloatArray, rows: NDArray[np.int64], columns: dict[str, FloatArray], filters: Filters
) -> None:
    """Fill columns where the variant was fitted; that with a sign is of the effect allele."""
    if filters.count_a2:
        columns["var_score_t"] = -columns["var_score_t"]
    fitted = results[rows, INDEX["status"]] == Status.OK
    fill_columns(results, rows[fitted], {name: v[fitted] for name, v in columns.items()})


def _fit_unpacked(
    model: BlockModel, packed: Packed, rows: NDArray[np.int64], results: FloatArray
) -> None:
    n_random = 0 if model.dense.design is None else model.dense.design.n_random
    size = unpacked_variants(len(rows), model.layout.n_samples, n_random)
    for i in range(0, len(rows), size):
        part = rows[i : i + size]
        codes = unpack(packed[part], model.layout)
        if model.linear is not None:
            fit = _fit_linear(model.linear, model.random_effects, codes)
        elif model.random_effects is not None:
            fit = fit_random_effects(model.random_effects, codes)
        else:
            fit = _fit_dosage(model, np.where(codes < 0, np.nan, codes.astype(np.float64)))
        fill_estimates(results, part, fit, count_a2=model.filters.count_a2)
        columns = general_columns(model.score_null, codes, threshold=model.spa_threshold)
        _fill_fitted(results, part, columns, model.filters)


def fit_dosage(model: BlockModel, dosage: NDArray[np.floating], *, first: int = 0) -> FloatArray:
    """Fit every variant of a block of dosages.

    Parameters
    ----------
    model : BlockModel
        The null model and the phenotype.
    dosage : (m, n_file_samples) floating
        Copies of allele 1 of all samples in the file, NaN where missing. For hard calls
        :func:`fit_packed` gives the same, faster.
    first : int
        The block's first variant, counted from the first of the scan.

    Returns
    -------
    (m, N_COLUMNS) float64
        One row for each variant, columns as in ``schema.RESULT_COLUMNS``.
    """
    analysed = dosage[:, model.layout.sample_index].astype(np.float64)
    called = ~np.isnan(analysed)
    n_called = called.sum(axis=1).astype(np.float64)
    copies = np.where(called, analysed, 0.0).sum(axis=1)
    highest = np.where(called, analysed, -np.inf).max(axis=1)
    lowest = np.where(called, analysed, np.inf).min(axis=1)
    results = empty_results(len(dosage))
    classify(
        results,
        n_called=n_called,
        copies=copies,
        uniform=highest == lowest,
        n_analysed=model.layout.n_samples,
        filters=model.filters,
    )
    rows = np.flatnonzero(results[:, INDEX["status"]] == Status.OK)
    for part, chosen in model.by_set(rows, first):
        if chosen.size:
            fit = _fit_dosage(part, analysed[chosen])
            fill_estimates(results, chosen, fit, count_a2=model.filters.count_a2)
            columns = general_columns(
                part.score_null, analysed[chosen], threshold=model.spa_threshold
            )
            _fill_fitted(results, chosen, columns, model.filters)
    # Without classes there are no further tests.
    return np.hstack([results, np.full((len(results), 2 * len(model.tests)), np.nan)])


def _fit_linear(linear: LinearModel, exact: RandomEffectModel | None, codes: Codes) -> VariantFit:
    first = fit_linear(linear, codes)
    fit = first.fit
    exactly = np.zeros(len(codes), dtype=bool) if exact is None else needs_exact(linear, first)
    rows = np.flatnonzero(needs_polish(linear, first) & ~exactly)
    if rows.size:
        fit = fit.replaced(rows, fit_linear(linear, codes[rows], polish=first.change[rows]).fit)
    rows = np.flatnonzero(exactly)
    if exact is None or not rows.size:
        return fit
    return fit.replaced(rows, fit_random_effects(exact, codes[rows]))


def _fit_dosage(model: BlockModel, dosage: FloatArray) -> VariantFit:
    if model.covariates is not None:
        return fit_with_covariates(model.covariates, dosage, engine=model.engine)
    return fit_dense(model.dense, dosage)
