"""Tests of a block of variants with λ kept at the null model's.

One quadratic form a variant is dear, gᵀV⁻¹g: a triangular product, half of a rotation.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from hlmm_dask.kernels.lmm import (
    DEPENDENT,
    PERFECT,
    PERFECT_SINGLE,
    LMMNull,
    LMMVariants,
    chunks,
    joined,
    less_covariates,
    squares,
    tested,
)
from hlmm_dask.kernels.packed import slices
from hlmm_dask.models.lmm_spectral import lambda_path

FloatArray = NDArray[np.float64]
# Genotypes that stay in the cache while several products are made of them.
_STRIP_GENOTYPES = 2**17


@dataclass(frozen=True)
class FixedPlan:
    """What tests with λ kept need of the null model.

    Attributes
    ----------
    null : LMMNull
        The null model.
    factor : (n, n) or (n, r) float64 or float32
        L⁻¹ of V = λK + I = LLᵀ, Fortran order; for K of low rank F with V⁻¹ = I - FFᵀ.
    Q : (n, c) float64
        Orthonormal basis of the covariates, in samples.
    projections : (c + 1, n) float64
        C⁻¹ QᵀV⁻¹ with QᵀV⁻¹Q = CCᵀ, and last V⁻¹e with the residual e.
    rss : float
        eᵀV⁻¹e.
    loglik : float
        Log-likelihood (ML) of the null model at this λ.
    """

    null: LMMNull
    factor: NDArray[np.floating[Any]]
    Q: FloatArray
    projections: FloatArray
    rss: float
    loglik: float


def plan_fixed(null: LMMNull, *, single: bool = False) -> FixedPlan:
    """Prepare tests with λ kept at the null model's REML estimate: O(n³), once.

    Parameters
    ----------
    null : LMMNull
        The null model.
    single : bool
        The triangular product in single precision, at half the time. Standard errors are then
        right to about 1e-7 of themselves (more where λ and the eigenvalues of K are large).
    """
    data, rotation, c = null.data, null.rotation, null.data.n_covariates
    n, r = rotation.vectors.shape
    at = data.profile(lambda_path, float(np.log(null.lambda_reml)), "ml")
    scaled = null.lambda_reml * rotation.values
    shrunk = scaled / (scaled + 1.0)
    # Q and the residual of y, in samples.
    whole = data.whole if data.low else rotation.vectors @ data.whole
    solved = whole - rotation.vectors @ (shrunk[:, None] * data.inside)
    gram = whole.T @ solved
    lower = linalg.cholesky(gram[:c, :c], lower=True)
    e = solved[:, c] - solved[:, :c] @ linalg.cho_solve((lower, True), gram[:c, c])
    projections = np.vstack([linalg.solve_triangular(lower, solved[:, :c].T, lower=True), e])
    if 2 * r < n:
        factor = rotation.vectors * np.sqrt(shrunk)
    else:
        V = (rotation.vectors * scaled) @ rotation.vectors.T
        V[np.diag_indices(n)] += 1.0
        lower = linalg.cholesky(V, lower=True, overwrite_a=True, check_finite=False)
        factor, _ = linalg.lapack.dtrtri(lower, lower=1, overwrite_c=1)
        if single:
            factor = factor.astype(np.float32)
    return FixedPlan(
        null, factor, np.ascontiguousarray(whole[:, :c]), projections, at.rss, at.loglik
    )


def fit_fixed(plan: FixedPlan, genotypes: FloatArray) -> LMMVariants:
    """Test every variant with λ kept at the null model's REML estimate.

    The Wald test is that of the refitted model at this λ; the likelihood ratio statistic is
    n log(RSS₀ / RSS₁).

    Parameters
    ----------
    plan : FixedPlan
        From :func:`plan_fixed`.
    genotypes : (m, n) float64
        Without missing values.
    """
    return joined(_fixed(plan, part) for part in chunks(genotypes))


def _fixed(plan: FixedPlan, genotypes: FloatArray) -> LMMVariants:
    m, n = genotypes.shape
    dependent = np.zeros(m, np.bool_)
    products = np.empty((len(plan.projections), m))
    square = np.empty(m)
    parts = list(slices(m, _STRIP_GENOTYPES // n))
    in_single = plan.factor.dtype == np.float32
    single = np.empty((m if in_single else 0, n), np.float32)
    for rows in parts:
        part = genotypes[rows]
        if in_single:
            # What covariates explain of a genotype would cost digits of the rest.
            part, _, dependent[rows] = less_covariates(part, plan.Q)
            single[rows] = part
        # One by one: a product with a narrow matrix takes twice as long.
        for k, each in enumerate(plan.projections):
            products[k, rows] = part @ each
    if in_single:
        rotated = linalg.blas.strmm(1.0, plan.factor, single.T, lower=1, overwrite_b=1).T
        for rows in parts:
            square[rows] = squares(rotated[rows].astype(np.float64))
    elif plan.factor.shape[1] == n:
        square = squares(linalg.blas.dtrmm(1.0, plan.factor, genotypes.T, lower=1).T)
    else:
        square = squares(genotypes) - squares(genotypes @ plan.factor)
    *explained, product = products
    unexplained = square - sum(each * each for each in explained)
    unexplained[dependent | (unexplained <= DEPENDENT * square)] = np.nan
    same = np.where(np.isnan(unexplained), np.nan, plan.null.lambda_reml)
    share = product**2 / (unexplained * plan.rss)
    perfect = share >= 1.0 - (PERFECT_SINGLE if in_single else PERFECT)
    gain = -0.5 * n * np.log1p(-np.where(perfect, np.nan, share))
    return tested(
        plan.null,
        product=product,
        unexplained=unexplained,
        rss0=np.full(len(product), plan.rss),
        loglik_ml=plan.loglik + gain,
        loglik_null=plan.loglik,
        lambda_reml=same,
        lambda_ml=same,
        perfect=perfect,
    )
