"""A block of variants and a null model in, a table of results out."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.covariate_null import CovariateModel
from hlmm_dask.kernels.dense import DenseModel, fit_dense
from hlmm_dask.kernels.hlm import fit_class_sums
from hlmm_dask.kernels.hlm_covariates import fit_with_covariates
from hlmm_dask.kernels.hlmm import Codes, RandomEffectModel, fit_random_effects
from hlmm_dask.kernels.hlmm_linear import (
    LinearModel,
    fit_linear,
    linear_is_good,
    needs_exact,
)
from hlmm_dask.kernels.packed import (
    Engine,
    Packed,
    PackedLayout,
    PackedPhenotype,
    class_sums,
    pack_phenotype,
    unpack,
)
from hlmm_dask.kernels.table import (
    Filters,
    VariantFit,
    classify,
    empty_results,
    fill_estimates,
)
from hlmm_dask.schema import INDEX, Status

FloatArray = NDArray[np.float64]
Method = Literal["auto", "exact", "linear"]

# Doubles of unpacked genotypes that are alive at once.
_UNPACKED_DOUBLES = 4_000_000


@dataclass(frozen=True)
class BlockModel:
    """All that fitting a block needs besides its genotypes; the same for every block.

    Attributes
    ----------
    phenotype : PackedPhenotype
        Phenotype of the analysed samples in the layout of the genotype file.
    filters : Filters
        Which variants are fitted.
    dense : DenseModel
        The model in full; serves where no faster kernel does.
    covariates : CovariateModel, optional
        Given when covariates stay in every model (and there are no random effects).
    random_effects : RandomEffectModel, optional
        Given when there are random effects (and no covariates in every model).
    linear : LinearModel, optional
        Given when random effects are fitted by the approximation that is linear in their number,
        and exactly only where that matters.
    engine : {"numba", "numpy"}
        How class sums are computed.
    """

    phenotype: PackedPhenotype
    filters: Filters
    dense: DenseModel
    covariates: CovariateModel | None
    random_effects: RandomEffectModel | None
    linear: LinearModel | None = None
    engine: Engine = "numba"

    @property
    def layout(self) -> PackedLayout:
        """Where the analysed samples stand in the file."""
        return self.phenotype.layout


def block_model(
    dense: DenseModel,
    layout: PackedLayout,
    filters: Filters,
    *,
    method: Method = "exact",
    engine: Engine = "numba",
) -> BlockModel:
    """Choose the kernel for a model and lay out what it needs.

    Parameters
    ----------
    dense : DenseModel
        The model in full.
    layout : PackedLayout
        Where the analysed samples stand in the file.
    filters : Filters
        Which variants are fitted.
    method : {"auto", "exact", "linear"}
        How random effects are fitted: exactly; by the approximation linear in their number; or
        by it where it is good and exactly where it matters, see :func:`needs_exact`.
    engine : {"numba", "numpy"}
        How class sums are computed.
    """
    intercept_only = dense.X.shape[1] == dense.V.shape[1] == 1
    covariates = random_effects = None
    if dense.design is None:
        # Also serves dosages that are not hard calls.
        covariates = CovariateModel.build(dense.y, dense.X, dense.V, dense.alpha, dense.beta)
    elif intercept_only:
        random_effects = RandomEffectModel.build(
            dense.y,
            dense.design,
            alpha=float(dense.alpha[0]),
            beta=float(dense.beta[0]),
            h2=dense.h2,
            h2_min=dense.h2_min,
            fix_h2=dense.fix_h2,
        )
    linear = None
    if random_effects is not None and (
        method == "linear" or (method == "auto" and linear_is_good(random_effects))
    ):
        linear = LinearModel.build(random_effects)
        # What is refitted exactly needs the full model; with "linear" nothing is.
        random_effects = random_effects if method == "auto" else None
    # Class sums are for models with an intercept, to which a shift of y makes no difference;
    # centred, Σy² holds no digits of the mean.
    return BlockModel(
        phenotype=pack_phenotype(layout, dense.y - dense.y.mean()),
        filters=filters,
        dense=dense,
        covariates=covariates,
        random_effects=random_effects,
        linear=linear,
        engine=engine,
    )


def fit_packed(model: BlockModel, packed: Packed) -> FloatArray:
    """Fit every variant of a block of packed hard calls.

    Parameters
    ----------
    model : BlockModel
        The null model and the phenotype.
    packed : (m, n_bytes) uint8
        Packed genotypes of all samples in the file.

    Returns
    -------
    (m, N_COLUMNS) float64
        One row for each variant, columns as in ``schema.RESULT_COLUMNS``.
    """
    results = empty_results(len(packed))
    from_sums = model.dense.design is None and model.dense.X.shape[1] == model.dense.V.shape[1] == 1
    sums = class_sums(packed, model.phenotype, powers=4 if from_sums else 2, engine=model.engine)
    n_called = sums.counts.sum(axis=0)
    classify(
        results,
        n_called=n_called,
        copies=sums.counts[1] + 2.0 * sums.counts[2],
        uniform=sums.counts[1] == n_called,
        n_analysed=model.layout.n_samples,
        filters=model.filters,
    )
    rows = np.flatnonzero(results[:, INDEX["status"]] == Status.OK)
    if not rows.size:
        return results
    if from_sums:
        fit = fit_class_sums(sums.take(rows))
        fill_estimates(results, rows, fit, count_a2=model.filters.count_a2)
        return results
    size = max(1, _UNPACKED_DOUBLES // model.layout.n_samples)
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
    return results


def fit_dosage(model: BlockModel, dosage: NDArray[np.floating]) -> FloatArray:
    """Fit every variant of a block of dosages.

    Parameters
    ----------
    model : BlockModel
        The null model and the phenotype.
    dosage : (m, n_file_samples) floating
        Copies of allele 1 of all samples in the file, NaN where missing. For hard calls
        :func:`fit_packed` gives the same, faster.

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
    if rows.size:
        fit = _fit_dosage(model, analysed[rows])
        fill_estimates(results, rows, fit, count_a2=model.filters.count_a2)
    return results


def _fit_linear(linear: LinearModel, exact: RandomEffectModel | None, codes: Codes) -> VariantFit:
    first = fit_linear(linear, codes)
    second = fit_linear(linear, codes, polish=first.change)
    if exact is None:
        return second.fit
    rows = np.flatnonzero(needs_exact(linear, second))
    if not rows.size:
        return second.fit
    return second.fit.replaced(rows, fit_random_effects(exact, codes[rows]))


def _fit_dosage(model: BlockModel, dosage: FloatArray) -> VariantFit:
    if model.covariates is not None:
        return fit_with_covariates(model.covariates, dosage, engine=model.engine)
    return fit_dense(model.dense, dosage)
