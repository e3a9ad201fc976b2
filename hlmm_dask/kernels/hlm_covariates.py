"""HLM with covariates kept in every model: the variant is one more column of X and V.

Nothing collapses to classes here, but the covariates' columns are shared by all variants:
sums over samples of weights times products of columns are matrix products for a block of
variants at once, done in chunks of samples that stay in the cache.
"""

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.covariate_chord import ChordBatch
from hlmm_dask.kernels.covariate_loops import Engine
from hlmm_dask.kernels.covariate_null import CovariateModel
from hlmm_dask.kernels.sandwich import sandwich
from hlmm_dask.kernels.table import VariantFit, convergence_status, perfectly_fitted
from hlmm_dask.models.design import longest_length
from hlmm_dask.models.hlm import LOG_2PI
from hlmm_dask.models.newton import minimise, solve_positive_definite
from hlmm_dask.schema import Status

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_CHUNK_SAMPLES = 2048
_BATCH_VARIANTS = 64
# Doubles of a batch's centred dosages.
_BATCH_DOUBLES = 4_000_000
# A variant whose residual on the covariates has less than this share of its sum of squares
# is a linear combination of them.
_COLLINEAR = 1e-9


class _Batch:
    """-2ℓ with its Hessian for a batch of variants, evaluated chunk by chunk.

    ``g`` (b, n) are centred dosages, 0 where missing; ``mask`` (b, n), absent if no call is
    missing, says where there is one.
    """

    def __init__(self, model: CovariateModel, g: FloatArray, mask: BoolArray | None) -> None:
        self.model, self.g, self.mask = model, g, mask
        self.c, self.v = model.X.shape[1], model.V.shape[1]
        self.xx = np.tril_indices(self.c)
        self.vv = np.tril_indices(self.v)

    def chunks(self) -> list[slice]:
        n = len(self.model.y)
        return [slice(i, min(i + _CHUNK_SAMPLES, n)) for i in range(0, n, _CHUNK_SAMPLES)]

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
            X, V, y = model.X[part], model.V[part], model.residual[part]
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
            excess = (1.0 if mask is None else mask.astype(np.float64)) - z
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
    model: CovariateModel,
    dosage: FloatArray,
    *,
    tolerance: float = 1e-7,
    engine: Engine = "numba",
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
    engine : {"numba", "numpy"}
        How the elementwise passes of the fast path are made.

    Returns
    -------
    VariantFit
        Standard errors from (XᵀD⁻¹X)⁻¹ and 2(VᵀV)⁻¹, and robust ones; ``COLLINEAR`` where the
        variant is a linear combination of the covariates.
    """
    m = len(dosage)
    size = max(1, min(_BATCH_VARIANTS, _BATCH_DOUBLES // dosage.shape[1]))
    n_parts = max(1, -(-m // size))
    parts = [_fit_batch(model, part, tolerance, engine) for part in np.array_split(dosage, n_parts)]
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in (
            "add",
            "add_se",
            "var",
            "var_se",
            "loglik",
            "status",
            "add_robust_se",
            "var_robust_se",
            "add_var_cov",
        )
    }
    return VariantFit(**joined)


def _fit_batch(
    model: CovariateModel, dosage: FloatArray, tolerance: float, engine: Engine
) -> VariantFit:
    g, mask, n_called = _centred(dosage)
    chord = ChordBatch(model, g, mask, engine=engine)
    collinear = (_residual_share(chord.gram_x) < _COLLINEAR) | (
        _residual_share(chord.gram_v) < _COLLINEAR
    )
    b, c = len(g), chord.c
    theta, value = np.full((b, c + chord.v + 2), np.nan), np.full(b, np.nan)
    information = np.full((b, c + 1, c + 1), np.nan)
    status = np.full(b, int(Status.COLLINEAR), dtype=np.int64)
    se = np.full((5, b), np.nan)
    rows = np.flatnonzero(~collinear)
    if rows.size:
        fast = chord.fit(rows, tolerance=tolerance)
        theta[rows], value[rows], information[rows] = fast.theta, fast.value, fast.information
        status[rows] = int(Status.OK)
        left = rows[~fast.converged]
        if left.size:
            theta[left], value[left], information[left], status[left] = _fit_exactly(
                model, g[left], None if mask is None else mask[left], tolerance
            )
            for i in left[status[left] != Status.OK]:
                called = slice(None) if mask is None else mask[i]
                if perfectly_fitted(model.y[called], model.X[called], g[i, called]):
                    status[i] = Status.UNBOUNDED
        with np.errstate(all="ignore"):
            se[:, rows] = _standard_errors(chord, theta[rows], rows, information[rows])
    loglik = -0.5 * (value + n_called * LOG_2PI)
    add_se, var_se, *robust = se
    return VariantFit(theta[:, -2], add_se, theta[:, -1], var_se, loglik, status, None, *robust)


def _standard_errors(
    chord: ChordBatch, theta: FloatArray, rows: NDArray[np.int64], information: FloatArray
) -> FloatArray:
    """Classical errors of α_g and β_g, then robust ones and their covariance, (5, k).

    With covariates the robust covariance is A⁻¹ M A⁻¹, M = Σ s_i s_iᵀ and A the expected
    information, XᵀD⁻¹X and ½VᵀV, as of the classical errors. The observed one would be
    quadratic in the number of covariates for every sample; the two are the same in
    expectation where mean and variance are what the model says, whatever the distribution.
    Without covariates it is the observed one, as from class sums.
    """
    mean, spread = _last_column(information), _last_column(chord.gram_v[rows])
    # Of s = A⁻¹ w r x and t = (VᵀV)⁻¹ (w r² - 1) v, the variant's rows.
    squares = chord.score_products(theta, rows, mean, spread).T
    classical = np.sqrt([mean[:, -1], 2.0 * spread[:, -1]])
    if chord.c > 1 or chord.v > 1:
        return np.vstack([classical, np.sqrt(squares[:2]), squares[2:]])
    batch = _Batch(chord.model, chord.g, chord.mask)
    _, _, hessian = batch.evaluate(theta[:, [0, 2, 1, 3]], rows)
    a, half = 1.0 / mean[:, -1], 0.5 / spread[:, -1]
    robust = sandwich(
        a=a,
        b=0.5 * hessian[:, 3, 3],
        c=0.5 * hessian[:, 3, 1],
        mean=squares[0] * a * a,
        both=squares[2] * a * half,
        spread=squares[1] * half * half,
    )
    return np.vstack([classical, *robust.values()])


def _centred(dosage: FloatArray) -> tuple[FloatArray, BoolArray | None, FloatArray]:
    """Centred dosages, 0 where missing; whether called, unless all are; number of calls."""
    b, n = dosage.shape
    g = np.empty((b, n))
    called = np.empty((b, n), dtype=np.bool_)
    n_called = np.full(b, float(n))
    any_missing = False
    # Row by row: a row stays in the cache.
    for row, centred, mask, i in zip(dosage, g, called, range(b), strict=True):
        total = row.sum()
        if np.isnan(total):
            any_missing = True
            np.logical_not(np.isnan(row, out=mask), out=mask)
            n_called[i] = np.count_nonzero(mask)
            centred[:] = np.where(mask, row, 0.0)
            centred -= centred.sum() / n_called[i]
            centred *= mask
        else:
            mask[:] = True
            np.subtract(row, total / n, out=centred)
    return g, called if any_missing else None, n_called


def _fit_exactly(
    model: CovariateModel, g: FloatArray, mask: BoolArray | None, tolerance: float
) -> tuple[FloatArray, FloatArray, FloatArray, NDArray[np.int64]]:
    """Newton's method from the null: (α, β, α_g, β_g), -2ℓ less its constant, XᵀD⁻¹X, status."""
    batch = _Batch(model, g, mask)
    c = batch.c
    start = np.zeros((len(g), c + batch.v + 2))
    start[:, c + 1 : -1] = model.beta
    span = np.ptp(g, axis=1)
    result = minimise(
        batch.evaluate,
        start,
        first_length=lambda step, index: longest_length(step[:, -1] * span[index]),
        tolerance=tolerance,
    )
    theta = np.hstack([result.x[:, :c], result.x[:, c + 1 : -1], result.x[:, [c, -1]]])
    status = convergence_status(result.convergence, theta[:, -1], span)
    return theta, result.value, 0.5 * result.hessian[:, : c + 1, : c + 1], status


def _last_column(information: FloatArray) -> FloatArray:
    """Last column of the inverse of each matrix (b, p, p), NaN without a variance: (b, p)."""
    unit = np.zeros(information.shape[:2])
    unit[:, -1] = 1.0
    solution, definite = solve_positive_definite(information, unit)
    solution[~(definite & (solution[:, -1] > 0.0))] = np.nan
    return solution


def _residual_share(gram: FloatArray) -> FloatArray:
    """Share of the last column's sum of squares that the others leave unexplained, (b,).

    Zero, too, where the others depend on each other.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 1.0 / (_last_column(gram)[:, -1] * gram[:, -1, -1])
    return np.nan_to_num(share, posinf=0.0)


def _symmetric(lower: FloatArray) -> FloatArray:
    """Copy the lower triangle of each matrix (b, p, p) to the upper one."""
    i, j = np.triu_indices(lower.shape[1], 1)
    lower[:, i, j] = lower[:, j, i]
    return lower
