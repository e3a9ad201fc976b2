"""Tests of a block of variants with λ found anew for each, by REML and by ML.

In the eigenbasis of K all a variant adds to the likelihood is two functions of t = log λ,
gᵀPy and gᵀPg. Both, and the log-likelihood, are analytic in the strip |Im t| < π: there the weights
1 / (λ s + 1) lie in a half plane, so no determinant is zero. On an interval of half width h a
polynomial of degree N through Chebyshev points is therefore right to about ρ⁻ᴺ with
ρ = π/h + √(1 + π²/h²). A coarse grid of t, whose sums are matrix products for the whole block, says
between which points a variant's maximum lies; there a polynomial of degree 16 with ρ = 6.7 stands
for the likelihood to rounding, and its maximum is found by Newton's method.
"""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from hlmm_dask.kernels.lmm import (
    LAMBDA_BOUNDS,
    PERFECT,
    LMMNull,
    LMMVariants,
    chunks,
    joined,
    less_covariates,
    tested,
)
from hlmm_dask.models.lmm_spectral import LOG_2PI, RotatedData

FloatArray = NDArray[np.float64]
_GRID: FloatArray = np.linspace(np.log(LAMBDA_BOUNDS[0]), np.log(LAMBDA_BOUNDS[1]), 25)
_DEGREE = 16
_POINTS = np.cos(np.pi * np.arange(_DEGREE + 1) / _DEGREE)
# From values at the points to Chebyshev coefficients.
_TO_COEFFICIENTS = np.linalg.inv(chebyshev.chebvander(_POINTS, _DEGREE))


@dataclass(frozen=True)
class _Nodes:
    """What gives gᵀPy and gᵀPg at some values of t, and the null model there.

    Attributes
    ----------
    linear : (r', k + k c) float64
        Multiplies the rotated genotype, see :class:`_Rotated`: gᵀPy, and what, squared and summed
        over c, covariates explain.
    square : (r'', k) float64
        Multiplies the squares.
    rss, logdet, logdet_q : (k,) float64
        yᵀPy, log|λK + I|, log|Qᵀ(λK + I)⁻¹Q|.
    """

    linear: FloatArray
    square: FloatArray
    rss: FloatArray
    logdet: FloatArray
    logdet_q: FloatArray


@dataclass(frozen=True)
class _Rotated:
    """Genotypes less what the covariates explain, in the eigenbasis.

    Where K has low rank, columns are added that bring in what lies outside of it with weight 1:
    products with (Q, residual), and the sum of squares.
    """

    linear: FloatArray  # (m, r')
    squares: FloatArray  # (m, r'')


@dataclass(frozen=True)
class _Sums:
    """gᵀPy and gᵀPg of every variant at every node, (m, k)."""

    product: FloatArray
    unexplained: FloatArray


@dataclass(frozen=True)
class RefitPlan:
    """What tests with λ found anew need of the null model.

    Attributes
    ----------
    null : LMMNull
        The null model.
    Q : (n, c) float64
        Orthonormal basis of the covariates, in samples.
    """

    null: LMMNull
    Q: FloatArray
    coarse: _Nodes


def plan_refit(null: LMMNull) -> RefitPlan:
    """Prepare the tests of :func:`fit_refit`."""
    data, c = null.data, null.data.n_covariates
    Q = data.whole[:, :c] if data.low else null.rotation.vectors @ data.whole[:, :c]
    return RefitPlan(null, np.ascontiguousarray(Q), _nodes(data, _GRID))


def fit_refit(plan: RefitPlan, genotypes: FloatArray) -> LMMVariants:
    """Test every variant with λ at the maximum of its own likelihoods, as GEMMA does.

    The Wald test is at the maximum of REML, the likelihood ratio test between the maxima of ML,
    both over λ in ``LAMBDA_BOUNDS`` (Kang et al. 2008; Zhou & Stephens 2012).

    Parameters
    ----------
    plan : RefitPlan
        From :func:`plan_refit`.
    genotypes : (m, n) float64
        Without missing values.
    """
    return joined(_refit(plan, part) for part in chunks(genotypes))


def _refit(plan: RefitPlan, genotypes: FloatArray) -> LMMVariants:
    null, n, c = plan.null, plan.null.data.n_samples, plan.null.data.n_covariates
    m = len(genotypes)
    residual, length, dependent = less_covariates(genotypes, plan.Q)
    rotated = _rotate(null, residual, length)
    # Columns of the table: gᵀPy, gᵀPg, yᵀPy at the REML λ, log-likelihood, log λ twice.
    out = np.full((6, m), np.nan)
    with np.errstate(all="ignore"):
        sums = _sums(plan.coarse, rotated, c)
        share = sums.product**2 / (sums.unexplained * plan.coarse.rss)
        perfect = ~dependent & np.any(share >= 1.0 - PERFECT, axis=1)
        best_reml = np.argmax(_loglik(plan.coarse, sums, n, c, reml=True), axis=1)
        best_ml = np.argmax(_loglik(plan.coarse, sums, n, c, reml=False), axis=1)
        for k in np.unique(np.concatenate([best_reml[~dependent], best_ml[~dependent]])):
            rows = np.flatnonzero(~dependent & ((best_reml == k) | (best_ml == k)))
            low, high = _GRID[max(k - 1, 0)], _GRID[min(k + 1, len(_GRID) - 1)]
            at, half = 0.5 * (low + high), 0.5 * (high - low)
            nodes = _nodes(null.data, at + half * _POINTS)
            part = _Rotated(rotated.linear[rows], rotated.squares[rows])
            sums = _sums(nodes, part, c)
            reml, ml = best_reml[rows] == k, best_ml[rows] == k
            curves = [
                _loglik(nodes, sums, n, c, reml=True)[reml],
                _loglik(nodes, sums, n, c, reml=False)[ml],
            ]
            both, loglik = _highest(np.vstack(curves))
            x = both[: len(curves[0])]
            rss = np.repeat(nodes.rss[None], len(x), axis=0)
            for row, values in enumerate((sums.product[reml], sums.unexplained[reml], rss)):
                out[row, rows[reml]] = _value(_TO_COEFFICIENTS @ values.T, x)
            out[4, rows[reml]] = at + half * x
            out[3, rows[ml]] = loglik[len(x) :]
            out[5, rows[ml]] = at + half * both[len(x) :]
        # The exponential of a bound's logarithm need not be the bound.
        lambda_reml, lambda_ml = np.clip(np.exp(out[4:]), *LAMBDA_BOUNDS)
        return tested(
            null,
            product=out[0],
            unexplained=out[1],
            rss0=out[2],
            loglik_ml=out[3],
            loglik_null=null.loglik_ml,
            lambda_reml=lambda_reml,
            lambda_ml=lambda_ml,
            perfect=perfect,
        )


def _rotate(null: LMMNull, genotypes: FloatArray, length: FloatArray) -> _Rotated:
    linear = genotypes @ null.rotation.vectors
    squares = linear * linear
    if null.data.low:
        linear = np.hstack([linear, genotypes @ null.data.whole])
        squares = np.hstack([squares, length[:, None]])
    return _Rotated(linear, squares)


def _nodes(data: RotatedData, log_lambda: FloatArray) -> _Nodes:
    c, k = data.n_covariates, len(log_lambda)
    scaled = np.exp(log_lambda) * data.values[:, None] + 1.0
    weight = 1.0 / scaled
    grams = np.stack([data.inside.T @ (w[:, None] * data.inside) for w in weight.T]) + data.rest
    lower = np.linalg.cholesky(grams[:, :c, :c])
    # C⁻¹ with QᵀV⁻¹Q = CCᵀ.
    inverse = np.linalg.inv(lower)
    # The residual y - Qβ in terms of (Q, residual of y), a column each node.
    residual_of = np.ones((c + 1, k))
    residual_of[:c] = -np.einsum("kba,kbd,kd->ak", inverse, inverse, grams[:, :c, c])
    rss = np.einsum("ak,kab,bk->k", residual_of, grams, residual_of)
    logdet_q = 2.0 * np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
    inverse_of = inverse.transpose(2, 0, 1)
    # Where K has low rank all of the sample space has weight 1, and the eigenvectors the rest.
    inside = weight - 1.0 if data.low else weight
    residual = inside * (data.inside @ residual_of)
    covariates = inside[:, :, None] * np.tensordot(data.inside[:, :c], inverse_of, 1)
    if data.low:
        residual = np.vstack([residual, residual_of])
        none = np.zeros((1, k, c))
        covariates = np.vstack([covariates, inverse_of, none])
        inside = np.vstack([inside, np.ones((1, k))])
    return _Nodes(
        np.hstack([residual, covariates.reshape(len(covariates), k * c)]),
        inside,
        rss,
        np.log(scaled).sum(axis=0),
        logdet_q,
    )


def _sums(nodes: _Nodes, rotated: _Rotated, c: int) -> _Sums:
    k = len(nodes.rss)
    products = rotated.linear @ nodes.linear
    explained = products[:, k:].reshape(-1, k, c)
    return _Sums(
        products[:, :k],
        rotated.squares @ nodes.square - np.einsum("mkc,mkc->mk", explained, explained),
    )


def _loglik(nodes: _Nodes, sums: _Sums, n: int, c: int, *, reml: bool) -> FloatArray:
    """Log-likelihood (m, k) at the nodes; REML up to a constant of the variant."""
    df = n - c - 1 if reml else n
    rss = nodes.rss - sums.product**2 / sums.unexplained
    out = df * (np.log(rss / df) + LOG_2PI + 1.0) + nodes.logdet
    if reml:
        out += nodes.logdet_q + np.log(sums.unexplained)
    return -0.5 * out


def _highest(loglik: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Maximum (m,) of the polynomials through values (m, points), and their value there.

    Newton's method within a bracket that is halved where a step leaves it.
    """
    coefficients = _TO_COEFFICIENTS @ loglik.T
    slope = np.asarray(chebyshev.chebder(coefficients), dtype=np.float64)
    curvature = np.asarray(chebyshev.chebder(slope), dtype=np.float64)
    best = np.argmax(loglik, axis=1)
    x = _POINTS[best]
    low = _POINTS[np.minimum(best + 1, _DEGREE)]
    high = _POINTS[np.maximum(best - 1, 0)]
    for _ in range(60):
        rise = _value(slope, x)
        low, high = np.where(rise > 0, x, low), np.where(rise > 0, high, x)
        step = x - rise / _value(curvature, x)
        following = np.where((step >= low) & (step <= high), step, 0.5 * (low + high))
        moved = np.max(np.abs(following - x), initial=0.0)
        x = following
        if moved < 1e-10:
            break
    return x, _value(coefficients, x)


def _value(coefficients: FloatArray, x: FloatArray) -> FloatArray:
    """Polynomials with coefficients (degree + 1, m) at x (m,)."""
    return np.asarray(chebyshev.chebval(x, coefficients, tensor=False), dtype=np.float64)
