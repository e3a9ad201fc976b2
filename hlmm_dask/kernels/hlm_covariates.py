"""HLM with covariates kept in every model: the variant is one more column of X and V.

Nothing collapses to classes here, but the covariates' columns are shared by all variants:
sums over samples of weights times products of columns are matrix products for a block of
variants at once, done in chunks of samples that stay in the cache.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.table import VariantFit, convergence_status
from hlmm_dask.models.design import longest_length
from hlmm_dask.models.hlm import LOG_2PI
from hlmm_dask.models.newton import minimise, solve_positive_definite
from hlmm_dask.schema import Status

FloatArray = NDArray[np.float64]

_CHUNK_SAMPLES = 2048
_BATCH_VARIANTS = 32
# A variant whose residual on the covariates has less than this share of its sum of squares
# is a linear combination of them.
_COLLINEAR = 1e-9


@dataclass(frozen=True)
class CovariateModel:
    """What all variants share.

    Attributes
    ----------
    y : (n,) float64
        Phenotype.
    X, V : (n, c), (n, v) float64
        Designs of mean and log variance, the intercept among them.
    alpha, beta : (c,), (v,) float64
        Null model, from which each variant's fit starts.
    """

    y: FloatArray
    X: FloatArray
    V: FloatArray
    alpha: FloatArray
    beta: FloatArray


class _Batch:
    """Sums over samples for a batch of variants, evaluated chunk by chunk."""

    def __init__(self, model: CovariateModel, dosage: FloatArray) -> None:
        self.model = model
        # Effects on the mean are searched from the null's: no digits of y's mean are lost.
        self.residual = model.y - model.X @ model.alpha
        called = ~np.isnan(dosage)
        self.n_called = called.sum(axis=1).astype(np.float64)
        self.mask = None if called.all() else called.astype(np.float64)
        mean = np.where(called, dosage, 0.0).sum(axis=1) / self.n_called
        self.g = np.where(called, dosage - mean[:, None], 0.0)
        c, v = model.X.shape[1], model.V.shape[1]
        self.c, self.v = c, v
        self.xx = np.tril_indices(c)
        self.vv = np.tril_indices(v)

    def chunks(self) -> list[slice]:
        n = len(self.model.y)
        return [slice(i, min(i + _CHUNK_SAMPLES, n)) for i in range(0, n, _CHUNK_SAMPLES)]

    def gram(self, design: FloatArray) -> FloatArray:
        """Σ over called samples of products of ``design``'s columns and g, (b, k+1, k+1)."""
        b, k = len(self.g), design.shape[1]
        pairs = np.tril_indices(k)
        out = np.zeros((b, k + 1, k + 1))
        for part in self.chunks():
            d, g = design[part], self.g[:, part]
            mask = np.ones_like(g) if self.mask is None else self.mask[:, part]
            out[:, pairs[0], pairs[1]] += mask @ (d[:, pairs[0]] * d[:, pairs[1]])
            out[:, k, :k] += g @ d
            out[:, k, k] += np.einsum("bs,bs->b", g, g)
        return _symmetric(out)

    def evaluate(
        self, theta: FloatArray, rows: NDArray[np.int64]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """-2ℓ, gradient and Hessian in (α, α_g, β, β_g), α less the null's."""
        model, c, v = self.model, self.c, self.v
        b = len(rows)
        a_end, size = c + 1, c + v + 2
        alpha, alpha_g = theta[:, :c], theta[:, c, None]
        beta, beta_g = theta[:, a_end : a_end + v], theta[:, -1, None]
        value = np.zeros(b)
        gradient = np.zeros((b, size))
        hessian = np.zeros((b, size, size))
        # Views of the three blocks, of which the lower triangle is filled.
        haa = hessian[:, :a_end, :a_end]
        hbb = hessian[:, a_end:, a_end:]
        hba = hessian[:, a_end:, :a_end]
        for part in self.chunks():
            X, V, y = model.X[part], model.V[part], self.residual[part]
            g = self.g[rows, part]
            mask = None if self.mask is None else self.mask[rows, part]
            eta = beta @ V.T + beta_g * g
            r = y - alpha @ X.T - alpha_g * g
            w = np.exp(-eta)
            if mask is not None:
                w *= mask
                eta *= mask
            wr = w * r
            z = wr * r
            excess = (1.0 if mask is None else mask) - z
            value += eta.sum(axis=1) + z.sum(axis=1)
            wg, wrg, zg = w * g, wr * g, z * g
            gradient[:, :c] -= 2.0 * (wr @ X)
            gradient[:, c] -= 2.0 * wrg.sum(axis=1)
            gradient[:, a_end : a_end + v] += excess @ V
            gradient[:, -1] += np.einsum("bs,bs->b", excess, g)
            i, j = self.xx
            haa[:, i, j] += 2.0 * (w @ (X[:, i] * X[:, j]))
            haa[:, c, :c] += 2.0 * (wg @ X)
            haa[:, c, c] += 2.0 * np.einsum("bs,bs->b", wg, g)
            i, j = self.vv
            hbb[:, i, j] += z @ (V[:, i] * V[:, j])
            hbb[:, v, :v] += zg @ V
            hbb[:, v, v] += np.einsum("bs,bs->b", zg, g)
            cross = (V[:, :, None] * X[:, None, :]).reshape(len(y), v * c)
            hba[:, :v, :c] += 2.0 * (wr @ cross).reshape(b, v, c)
            hba[:, v, :c] += 2.0 * (wrg @ X)
            hba[:, :v, c] += 2.0 * (wrg @ V)
            hba[:, v, c] += 2.0 * np.einsum("bs,bs->b", wrg, g)
        return value, gradient, _symmetric(hessian)


def fit_with_covariates(
    model: CovariateModel, dosage: FloatArray, *, tolerance: float = 1e-7
) -> VariantFit:
    """Fit every variant of a block with the covariates in mean and log variance.

    Parameters
    ----------
    model : CovariateModel
        Phenotype, covariates and null model.
    dosage : (m, n) float64
        Copies of allele 1 (any dosage), NaN where missing.
    tolerance : float
        Distance to the maximum, in standard errors, at which to stop.

    Returns
    -------
    VariantFit
        Standard errors from (XᵀD⁻¹X)⁻¹ and 2(VᵀV)⁻¹; ``COLLINEAR`` where the variant is a
        linear combination of the covariates.
    """
    m = len(dosage)
    parts = [
        _fit_batch(model, dosage[i : i + _BATCH_VARIANTS], tolerance)
        for i in range(0, m, _BATCH_VARIANTS)
    ]
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("add", "add_se", "var", "var_se", "loglik", "status")
    }
    return VariantFit(**joined)


def _fit_batch(model: CovariateModel, dosage: FloatArray, tolerance: float) -> VariantFit:
    batch = _Batch(model, dosage)
    c, v, b = batch.c, batch.v, len(dosage)
    grams = [batch.gram(model.X), batch.gram(model.V)]
    collinear = (_residual_share(grams[0]) < _COLLINEAR) | (_residual_share(grams[1]) < _COLLINEAR)
    start = np.zeros((b, c + v + 2))
    start[:, c + 1 : c + 1 + v] = model.beta
    rows = np.flatnonzero(~collinear)
    out = {name: np.full(b, np.nan) for name in ("add", "add_se", "var", "var_se", "loglik")}
    status = np.full(b, int(Status.COLLINEAR), dtype=np.int64)
    if rows.size:
        span = np.ptp(batch.g[rows], axis=1)
        result = minimise(
            lambda x, index: batch.evaluate(x, rows[index]),
            start[rows],
            first_length=lambda step, index: longest_length(step[:, -1] * span[index]),
            tolerance=tolerance,
        )
        information = 0.5 * result.hessian[:, : c + 1, : c + 1]
        out["add"][rows] = result.x[:, c]
        out["var"][rows] = result.x[:, -1]
        out["add_se"][rows] = _last_standard_error(information)
        out["var_se"][rows] = np.sqrt(2.0) * _last_standard_error(grams[1][rows])
        out["loglik"][rows] = -0.5 * (result.value + batch.n_called[rows] * LOG_2PI)
        status[rows] = convergence_status(result.convergence, result.x[:, -1], span)
    return VariantFit(status=status, **out)


def _last_standard_error(information: FloatArray) -> FloatArray:
    """Square root of the last diagonal element of each inverse, (b,)."""
    unit = np.zeros(information.shape[:2])
    unit[:, -1] = 1.0
    solution, definite = solve_positive_definite(information, unit)
    return np.sqrt(np.where(definite & (solution[:, -1] > 0.0), solution[:, -1], np.nan))


def _residual_share(gram: FloatArray) -> FloatArray:
    """Share of the last column's sum of squares that the others leave unexplained, (b,).

    Zero, too, where the others depend on each other.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 1.0 / (_last_standard_error(gram) ** 2 * gram[:, -1, -1])
    return np.nan_to_num(share, posinf=0.0)


def _symmetric(lower: FloatArray) -> FloatArray:
    """Copy the lower triangle of each matrix (b, p, p) to the upper one."""
    i, j = np.triu_indices(lower.shape[1], 1)
    lower[:, i, j] = lower[:, j, i]
    return lower
