"""HLMM with an intercept and the variant in mean and log variance, exact, from class Gram matrices.

GᵀD⁻¹G = Σ_k w_k A_k with A_k = Σ_{g=k} G_i G_iᵀ over the samples of genotype class k: once a
variant's three Gram matrices are there, likelihood, gradient and Hessian in (α, β, h2) need
l x l matrices only and never touch the samples again.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from hlmm_dask.kernels.table import (
    UNBOUNDED_SPAN,
    VariantFit,
    convergence_status,
    perfect_fit,
    within_class_squares,
)
from hlmm_dask.models.design import longest_length
from hlmm_dask.models.hlm import LOG_2PI
from hlmm_dask.models.newton import minimise
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.schema import Status

FloatArray = NDArray[np.float64]
Codes = NDArray[np.int8]

# Rows of a Gram matrix's partial sums: they stay in the cache, and exact in single precision.
_GRAM_ROWS = 1024
# Doubles in one (batch, l, l) array; a dozen of them are alive at once.
_BATCH_DOUBLES = 400_000


@dataclass(frozen=True)
class RandomEffectModel:
    """What all variants share.

    Attributes
    ----------
    y : (n,) float64
        Centred phenotype.
    design : RandomDesign
        Design of the random effects, (n, l).
    gram : (l, l) float64
        GᵀG.
    products : (2, l) float64
        Gᵀy and Gᵀ1.
    alpha, beta, h2 : float
        Null model: mean of the centred phenotype, log variance, variance of the random effects.
    h2_min : float
        Lower bound of h2.
    fix_h2 : bool
        Keep h2 at the null model's.
    """

    y: FloatArray
    design: RandomDesign
    gram: FloatArray
    products: FloatArray
    alpha: float
    beta: float
    h2: float
    h2_min: float
    fix_h2: bool

    @classmethod
    def build(
        cls,
        y: FloatArray,
        design: RandomDesign,
        *,
        alpha: float,
        beta: float,
        h2: float,
        h2_min: float,
        fix_h2: bool = False,
    ) -> "RandomEffectModel":
        """Model of a phenotype ``y`` (n,) with random effects of ``design`` (n, l)."""
        # A shift of y moves the intercept alone; centred, Σy² holds no digits of the mean.
        centre = float(np.mean(y))
        y = y - centre
        gram, products = _products(y, design, np.arange(len(y)))
        return cls(y, design, gram, products, alpha - centre, beta, h2, h2_min, fix_h2)

    @property
    def n_random(self) -> int:
        """Number of random effects l."""
        return self.design.n_random

    def only(self, columns: NDArray[np.int64]) -> "RandomEffectModel":
        """Keep these columns of G (k,); Gram matrix and products are parts of the present ones."""
        scale = np.sqrt(self.n_random / len(columns))
        return replace(
            self,
            design=self.design.only(columns),
            gram=self.gram[np.ix_(columns, columns)] * scale**2,
            products=self.products[:, columns] * scale,
        )


def class_grams(model: RandomEffectModel, codes: Codes) -> tuple[FloatArray, FloatArray]:
    """Gram matrices of G, and its products with y and ones, by genotype class.

    The largest class comes by difference from the total, so that the cost is that of
    the other samples.

    Parameters
    ----------
    model : RandomEffectModel
        With G (n, l).
    codes : (m, n) int8
        Copies of allele 1, -1 where missing.

    Returns
    -------
    A : (m, 3, l, l) float64
        Σ G_i G_iᵀ over the samples of each class.
    products : (m, 3, 2, l) float64
        Σ G_i y_i and Σ G_i.
    """
    m, n_random = len(codes), model.n_random
    A = np.empty((m, 3, n_random, n_random))
    products = np.empty((m, 3, 2, n_random))
    for j, code in enumerate(codes):
        members = [np.flatnonzero(code == k) for k in (0, 1, 2)]
        largest = int(np.argmax([len(index) for index in members]))
        A[j, largest], products[j, largest] = model.gram, model.products
        for k, index in [*enumerate(members), (-1, np.flatnonzero(code < 0))]:
            if k == largest:
                continue
            gram, product = _products(model.y, model.design, index)
            if k >= 0:
                A[j, k], products[j, k] = gram, product
            A[j, largest] -= gram
            products[j, largest] -= product
    return A, products


def _products(
    y: FloatArray, design: RandomDesign, index: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray]:
    """Σ G_i G_iᵀ (l, l), and Σ G_i y_i and Σ G_i (2, l), over the samples ``index``."""
    n_raw = design.raw.shape[1]
    gram, sums = np.zeros((n_raw, n_raw)), np.zeros((2, n_raw))
    both = np.stack([y[index], np.ones(len(index))])
    for i in range(0, len(index), _GRAM_ROWS):
        rows: NDArray[Any] = np.take(design.raw, index[i : i + _GRAM_ROWS], axis=0)
        gram += rows.T @ rows
        sums += both[:, i : i + _GRAM_ROWS] @ rows.astype(np.float64, copy=False)
    if design.columns is not None:
        # Columns are left out of the products: to leave them out of the rows would copy these.
        gram, sums = gram[np.ix_(design.columns, design.columns)], sums[:, design.columns]
    centre, scale = design.centre, design.scale
    cross = np.outer(centre, sums[1] - 0.5 * len(index) * centre)
    gram -= cross + cross.T
    gram *= np.outer(scale, scale)
    sums -= both.sum(axis=1)[:, None] * centre
    return gram, sums * scale


class _Batch:
    """Likelihood of a batch of ``b`` variants in class space; formulas in :meth:`evaluate`."""

    def __init__(self, model: RandomEffectModel, codes: Codes) -> None:
        self.model = model
        self.A, products = class_grams(model, codes)
        self.b, self.c = np.ascontiguousarray(products.transpose(2, 0, 1, 3))
        members = np.stack([codes == k for k in (0, 1, 2)]).astype(np.float64)
        counts, sums, squares = (members @ v for v in (np.ones_like(model.y), model.y, model.y**2))
        means, within = within_class_squares(counts, sums, squares)
        self.counts, self.means, self.within = counts.T, means.T, within.T
        self.n = self.counts.sum(axis=1)
        mean = (self.counts[:, 1] + 2.0 * self.counts[:, 2]) / self.n
        self.x = np.arange(3.0) - mean[:, None]

    def evaluate(
        self, theta: FloatArray, rows: NDArray[np.int64]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """-2ℓ, gradient and Hessian in (α0, α1, β0, β1[, h2]).

        With design Z by class, d = e^η, w = e^-η, B_a = Σ_k Z_ak w_k A_k, C_a = Λ⁻¹B_a,
        e_k = G_kᵀr_k, s = h2 Λ⁻¹Σ w_k e_k (the BLUP), u = Σ⁻¹r, q_k = G_kᵀu_k = w_k (e_k - A_k s),
        Q_a = Σ_k Z_ak q_k, c̃_a = Σ_k Z_ak w_k c_k, T_k = tr Λ⁻¹A_k:

        - α: -2 Z 1ᵀu_k;  β: Z (n_k - h2 w_k T_k - d_k u_kᵀu_k);  h2: tr K - Q_0ᵀQ_0
        - αα: 2 (Z w_k n_k Zᵀ - h2 c̃ᵀΛ⁻¹c̃);  αβ: 2 (Z 1ᵀu_k Zᵀ - h2 c̃ᵀΛ⁻¹Q);  αh: 2 c̃ᵀΛ⁻¹Q_0
        - ββ: Z (h2 w_k T_k + d_k u_kᵀu_k) Zᵀ - h2² tr C_a C_b - 2 h2 QᵀΛ⁻¹Q
        - βh: -tr C_a Λ⁻¹ + 2 QᵀΛ⁻¹Q_0;  hh: -tr K² + 2 Q_0ᵀK Q_0, with K = (I - Λ⁻¹)/h2

        The intercept's B is (Λ - I)/h2, so that only one product of l x l matrices is needed.
        """
        model = self.model
        l_ = model.n_random
        b = len(rows)
        h2 = np.full(b, model.h2) if model.fix_h2 else theta[:, 4]
        x, n_k = self.x[rows], self.counts[rows]
        Z = np.stack([np.ones_like(x), x], axis=1)  # (b, 2, 3)
        eta = theta[:, 2, None] + theta[:, 3, None] * x
        mu = theta[:, 0, None] + theta[:, 1, None] * x
        empty = n_k == 0
        w = np.where(empty, 0.0, np.exp(-eta))
        d = np.where(empty, 0.0, np.exp(eta))
        possible = np.isfinite(w.sum(axis=1) + d.sum(axis=1)) & (
            np.abs(theta[:, 3]) < 2.0 * UNBOUNDED_SPAN
        )
        w[~possible] = d[~possible] = 1.0

        A = self.A[rows]
        flat = A.reshape(b, 3, l_ * l_)
        B = (np.stack([w, x * w], axis=1) @ flat).reshape(b, 2, l_, l_)
        inverse, log_det, definite = _inverse_of_identity_plus(h2, B[:, 0])
        possible &= definite
        C1 = inverse @ B[:, 1]
        trace_inverse = np.trace(inverse, axis1=1, axis2=2)
        trace_inverse2 = np.einsum("bij,bij->b", inverse, inverse)
        trace_c1 = np.trace(C1, axis1=1, axis2=2)
        trace_c1_inverse = np.einsum("bij,bij->b", C1, inverse)
        trace_c1_c1 = np.einsum("bij,bji->b", C1, C1)
        T = (flat @ inverse.reshape(b, l_ * l_, 1))[:, :, 0]
        trace_k = (l_ - trace_inverse) / h2
        trace_kk = (l_ - 2.0 * trace_inverse + trace_inverse2) / h2**2

        away = self.means[rows] - mu
        r1 = n_k * away
        r2 = self.within[rows] + n_k * away**2
        c_k = self.c[rows]
        e = self.b[rows] - mu[:, :, None] * c_k  # (b, 3, l)
        weighted_e = (w[:, None, :] @ e)[:, 0]
        blup = h2[:, None] * (inverse @ weighted_e[:, :, None])[:, :, 0]
        A_blup = (A @ blup[:, None, :, None])[:, :, :, 0]
        u_sum = w * (r1 - (c_k @ blup[:, :, None])[:, :, 0])
        uu = w**2 * (
            r2 - 2.0 * (e @ blup[:, :, None])[:, :, 0] + (A_blup @ blup[:, :, None])[:, :, 0]
        )
        q = w[:, :, None] * (e - A_blup)
        Q = Z @ q  # (b, 2, l)
        ct = Z @ (w[:, :, None] * c_k)
        inverse_Q, inverse_ct = Q @ inverse, ct @ inverse

        value = (
            np.einsum("bk,bk->b", n_k, eta)
            + log_det
            + np.einsum("bk,bk->b", w, r2)
            - np.einsum("bi,bi->b", weighted_e, blup)
        )
        value[~possible] = np.inf

        size = theta.shape[1]
        gradient = np.zeros((b, size))
        hessian = np.zeros((b, size, size))
        scale = h2[:, None, None]
        leverage = h2[:, None] * w * T
        duu = d * uu
        gradient[:, :2] = -2.0 * (Z @ u_sum[:, :, None])[:, :, 0]
        gradient[:, 2:4] = (Z @ (n_k - leverage - duu)[:, :, None])[:, :, 0]
        Zt = Z.transpose(0, 2, 1)
        hessian[:, :2, :2] = 2.0 * (
            (Z * (w * n_k)[:, None, :]) @ Zt - scale * (inverse_ct @ ct.transpose(0, 2, 1))
        )
        hessian[:, :2, 2:4] = 2.0 * (
            (Z * u_sum[:, None, :]) @ Zt - scale * (inverse_ct @ Q.transpose(0, 2, 1))
        )
        hessian[:, 2:4, :2] = hessian[:, :2, 2:4].transpose(0, 2, 1)
        trace_cc = np.empty((b, 2, 2))
        trace_cc[:, 0, 0] = trace_kk
        trace_cc[:, 0, 1] = trace_cc[:, 1, 0] = (trace_c1 - trace_c1_inverse) / h2
        trace_cc[:, 1, 1] = trace_c1_c1
        hessian[:, 2:4, 2:4] = (
            (Z * (leverage + duu)[:, None, :]) @ Zt
            - scale**2 * trace_cc
            - 2.0 * scale * (inverse_Q @ Q.transpose(0, 2, 1))
        )
        if not model.fix_h2:
            gamma = Q[:, 0]
            inverse_gamma = inverse_Q[:, 0]
            gradient[:, 4] = trace_k - np.einsum("bi,bi->b", gamma, gamma)
            alpha_h = 2.0 * (ct @ inverse_gamma[:, :, None])[:, :, 0]
            trace_c_inverse = np.stack([(trace_inverse - trace_inverse2) / h2, trace_c1_inverse])
            beta_h = -trace_c_inverse.T + 2.0 * (Q @ inverse_gamma[:, :, None])[:, :, 0]
            hessian[:, :2, 4] = hessian[:, 4, :2] = alpha_h
            hessian[:, 2:4, 4] = hessian[:, 4, 2:4] = beta_h
            hessian[:, 4, 4] = -trace_kk + (
                2.0 * np.einsum("bi,bi->b", gamma, gamma - inverse_gamma) / h2
            )
        return value, gradient, hessian


def fit_random_effects(
    model: RandomEffectModel, codes: Codes, *, tolerance: float = 1e-7
) -> VariantFit:
    """Fit every variant of a block with random effects, h2 estimated anew for each.

    Parameters
    ----------
    model : RandomEffectModel
        Phenotype, random effects and null model.
    codes : (m, n) int8
        Copies of allele 1, -1 where missing.
    tolerance : float
        Distance to the maximum, in standard errors, at which to stop.

    Returns
    -------
    VariantFit
        Standard errors from the inverse observed information of (α, β, h2) jointly.
    """
    m = len(codes)
    size = max(1, min(64, _BATCH_DOUBLES // model.n_random**2))
    parts = []
    for i in range(0, m, size):
        batch = _Batch(model, codes[i : i + size])
        fit = fit_batch(model, batch, tolerance)[0]
        fit.status[perfect_fit(batch.counts.T, batch.means.T, batch.within.T)] = Status.UNBOUNDED
        parts.append(fit)
    names = ("add", "add_se", "var", "var_se", "loglik", "status", "h2")
    return VariantFit(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})


class ClassBatch(Protocol):
    """A batch of variants with -2ℓ as a function of (α, β, h2); see `fit_batch`."""

    counts: FloatArray
    x: FloatArray
    n: FloatArray

    def evaluate(
        self, theta: FloatArray, rows: NDArray[np.int64]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Value less its constant, gradient and Hessian for some of the variants."""


def fit_batch(
    model: RandomEffectModel, batch: ClassBatch, tolerance: float
) -> tuple[VariantFit, FloatArray]:
    """Minimise the -2ℓ of a batch from the null model; also return the parameters (b, p)."""
    start = np.zeros((len(batch.n), 4 if model.fix_h2 else 5))
    start[:, 0], start[:, 2] = model.alpha, model.beta
    if not model.fix_h2:
        start[:, 4] = max(model.h2, model.h2_min)
    occupied = np.where(batch.counts > 0, batch.x, np.nan)
    span = np.nanmax(occupied, axis=1) - np.nanmin(occupied, axis=1)
    result = minimise(
        batch.evaluate,
        start,
        first_length=lambda step, rows: longest_length(step[:, 3] * span[rows]),
        lower_bound_of_last=None if model.fix_h2 else model.h2_min,
        tolerance=tolerance,
    )
    with np.errstate(all="ignore"):
        covariance = 2.0 * inverse_or_nan(result.hessian)
        se = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    fit = VariantFit(
        add=result.x[:, 1],
        add_se=se[:, 1],
        var=result.x[:, 3],
        var_se=se[:, 3],
        loglik=-0.5 * (result.value + batch.n * LOG_2PI),
        status=convergence_status(result.convergence, result.x[:, 3], span),
        h2=np.full(len(batch.n), model.h2) if model.fix_h2 else result.x[:, 4],
    )
    return fit, result.x


def _inverse_of_identity_plus(
    scale: FloatArray, matrices: FloatArray
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Inverse and log determinant of I + scale * matrix for each of (b, l, l), by Cholesky."""
    b, size, _ = matrices.shape
    inverse = np.empty_like(matrices)
    log_det = np.zeros(b)
    definite = np.ones(b, dtype=bool)
    upper = np.triu_indices(size, 1)
    for i in range(b):
        matrix = scale[i] * matrices[i]
        matrix[np.diag_indices(size)] += 1.0
        # The transpose of the C-ordered matrix is LAPACK's own order, and the matrix symmetric.
        chol, info = lapack.dpotrf(matrix.T, lower=0, overwrite_a=1, clean=0)
        if info != 0:
            inverse[i], definite[i] = np.eye(size), False
            continue
        log_det[i] = 2.0 * np.sum(np.log(np.diagonal(chol)))
        half, _ = lapack.dpotri(chol, lower=0, overwrite_c=1)
        inverse[i] = half
        inverse[i].T[upper] = half[upper]
    return inverse, log_det, definite


def inverse_or_nan(matrices: FloatArray) -> FloatArray:
    """Inverse of each matrix (b, p, p), NaN where it is singular or not finite."""
    out = np.full_like(matrices, np.nan)
    good = np.asarray(np.isfinite(matrices).all(axis=(1, 2)))
    good[good] &= np.abs(np.linalg.det(matrices[good])) > 0
    out[good] = np.linalg.inv(matrices[good])
    return out
