"""HLMM at a cost linear in the number of random effects, and what that approximation costs.

With the null model's BLUP û and the residual e = y - α̂ - Gû, minimising over the
random effects' change v from û gives, without approximation,

    -2ℓ = Σ_k n_k η_k + log|Λ| + Σ_k w_k R_k + ûᵀû/h2 - h2 ρᵀΛ⁻¹ρ + n log 2π

with R_k the sum of squares of e - (μ - α̂) over genotype class k and
ρ = Σ_i w_i G_i (e_i - μ_i + α̂) - û/h2, which is zero at the null: it is small, and enters
squared. In the basis in which GᵀG = diag(S) is diagonal, Λ is nearly so. Three approximations
remain, each of second order in the variant's effect or smaller:

- ρᵀΛ⁻¹ρ with Λ_d = I + t diag(S), t = h2 w̄, and w, wμ linear in the genotype
- log|Λ| to second order in w - w̄ about Λ_d; the first order, the sum of (w_i - w̄) times the
  leverage of sample i, is a class sum; the second is Var(w) times the sum of squared leverages
- the leverages are those of the null model

What a variant needs besides class sums of e and of the leverage is Σ x_i G_i and Σ x_i e_i G_i:
2 n l products, as one matrix product for a block of variants.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.hlmm import Codes, fit_batch
from hlmm_dask.kernels.jet import Jet
from hlmm_dask.kernels.linear_model import LinearModel
from hlmm_dask.kernels.table import VariantFit, perfectly_fitted, within_class_squares
from hlmm_dask.schema import Status

FloatArray = NDArray[np.float64]

# Genotypes and their products with residuals of so many samples stay in the second-level cache.
_CHUNK_SAMPLES = 512
_ORDERS = 4  # of the expansion of the quadratic form in t: value and three derivatives


@dataclass(frozen=True)
class LinearFit:
    """Approximate fits, and what tells how far they can be trusted.

    Attributes
    ----------
    fit : VariantFit
        Estimates.
    share : (m,) float64
        Share of the variant's sum of squares that the random effects' columns take up.
    share_called : (m,) float64
        Share of the samples that have a call.
    change : (m, l) float64
        Change of the BLUP from the null model's (from the point of expansion), in the eigenbasis.
    """

    fit: VariantFit
    share: FloatArray
    share_called: FloatArray
    change: FloatArray


class _Point:
    """Weights w = exp(-η) and means μ by class at (α0, α1, β0, β1[, h2]), with derivatives."""

    def __init__(self, theta: FloatArray, x: FloatArray, alpha: float) -> None:
        self.size = theta.shape[1]
        self.Z = np.stack([np.ones_like(x), x], axis=1)  # (b, 2, 3)
        self.ZZ = self.Z[:, :, None, :] * self.Z[:, None, :, :]  # (b, 2, 2, 3)
        self.eta = theta[:, 2, None] + theta[:, 3, None] * x
        self.w = np.exp(-self.eta)
        self.mu = theta[:, 0, None] + theta[:, 1, None] * x - alpha

    def outer(self, k: FloatArray) -> FloatArray:
        """Σ k Z Zᵀ, (b, 2, 2)."""
        return np.asarray((self.ZZ @ k[:, None, :, None])[..., 0])

    def weighted(self, k: FloatArray, slope: FloatArray | None = None) -> Jet:
        """Σ k w; with ``slope``, the derivative of k in μ, also as a function of α; both (b, 3)."""
        b = len(k)
        kw = k * self.w
        gradient, hessian = np.zeros((b, self.size)), np.zeros((b, self.size, self.size))
        gradient[:, 2:4] = -(self.Z @ kw[:, :, None])[:, :, 0]
        hessian[:, 2:4, 2:4] = self.outer(kw)
        if slope is not None:
            sw = slope * self.w
            gradient[:, :2] = (self.Z @ sw[:, :, None])[:, :, 0]
            mixed = -self.outer(sw)
            hessian[:, :2, 2:4] = mixed
            hessian[:, 2:4, :2] = mixed.transpose(0, 2, 1)
        return Jet(kw.sum(axis=1), gradient, hessian)

    def weighted_square(self, k: FloatArray) -> Jet:
        """Σ k w²."""
        b = len(k)
        kww = k * self.w**2
        gradient, hessian = np.zeros((b, self.size)), np.zeros((b, self.size, self.size))
        gradient[:, 2:4] = -2.0 * (self.Z @ kww[:, :, None])[:, :, 0]
        hessian[:, 2:4, 2:4] = 4.0 * self.outer(kww)
        return Jet(kww.sum(axis=1), gradient, hessian)


def _sums(
    model: LinearModel,
    codes: Codes,
    counts: FloatArray,
    mean: FloatArray,
    change: FloatArray | None,
) -> tuple[FloatArray, FloatArray]:
    """Compute sums over samples, in chunks of them.

    Returns
    -------
    by_class : (4, 3, b) float64
        Counts, Σ e, Σ e² and Σ leverage over the samples of each class.
    products : (4, b, l) float64
        In the eigenbasis, of each variant: Σ x G, Σ x e G, and over its missing calls Σ G, Σ e G.
    """
    from hlmm_dask.kernels import linear_loops

    design = model.base.design
    b, n = codes.shape
    by_class = np.zeros((4, 3, b))
    by_class[0] = counts
    totals, sums = np.zeros((4, b, design.raw.shape[1])), np.zeros((4, b))
    x = np.empty((2, b, min(n, _CHUNK_SAMPLES)), dtype=design.raw.dtype)
    coefficients = None
    if change is not None:
        coefficients = change @ model.rotation.T
        offset = coefficients @ design.centre
        coefficients = design.in_raw(coefficients).astype(design.raw.dtype)
    for i in range(0, n, _CHUNK_SAMPLES):
        part = slice(i, i + _CHUNK_SAMPLES)
        raw = design.raw[part]
        e = model.residual[None, part]
        if coefficients is not None:
            e = e - (coefficients @ raw.T - offset[:, None])
        linear_loops.add_chunk(
            codes, i, e, model.leverage[part], raw, mean, x, by_class, totals, sums
        )
        totals[:2] += (x.reshape(2 * b, -1)[:, : len(raw)] @ raw).reshape(2, b, -1)
    totals = design.own(totals) - sums[:, :, None] * design.centre
    return by_class, totals @ model.rotation


class _Batch:
    """Sums of ``b`` variants, and the approximate likelihood from them.

    ``change`` (b, l) moves the point of expansion of each variant from û to û + change.
    """

    def __init__(self, model: LinearModel, codes: Codes, change: FloatArray | None = None) -> None:
        # Imported late: who only plans a scan needs no compiler.
        from hlmm_dask.kernels import linear_loops

        base = model.base
        self.model = model
        b, n = codes.shape
        codes = np.ascontiguousarray(codes)
        counts = np.empty((3, b))
        linear_loops.count(codes, counts)
        self.n = counts.sum(axis=0)
        mean = (counts[1] + 2.0 * counts[2]) / self.n
        self.x = np.arange(3.0) - mean[:, None]
        self.share_called = self.n / n
        sums, products = _sums(model, codes, counts, mean, change)
        _, totals, squares, leverage = sums
        means, within = within_class_squares(counts, totals, squares)
        self.counts, self.means, self.within = counts.T, means.T, within.T
        self.leverage = leverage.T
        self.x_square = np.sum(self.counts * self.x**2, axis=1)

        basis = np.empty((b, 5, base.n_random))
        basis[:, 0], basis[:, 2], basis[:, 4] = model.Ge, model.G1, model.blup
        if change is not None:
            basis[:, 0] -= model.eigenvalues * change
            basis[:, 4] += change
        basis[:, 3], basis[:, 1] = products[0], products[1]
        basis[:, 2] -= products[2]
        basis[:, 0] -= products[3]
        self.basis = basis
        # Derivatives of Φᵀ (I + tS)⁻¹ Φ in t, at the null model's t.
        self.t0 = base.h2 * np.exp(-base.beta) * self.share_called
        inverse = 1.0 / (1.0 + self.t0[:, None] * model.eigenvalues)
        weight = inverse
        forms = []
        for order in range(_ORDERS):
            forms.append((basis * weight[:, None, :]) @ basis.transpose(0, 2, 1))
            weight = weight * inverse * (-(order + 1.0) * model.eigenvalues)
        self.forms = np.stack(forms)
        self.share = base.h2 * np.exp(-base.beta) * self.forms[0][:, 3, 3] / self.x_square

    def blup_change(self, theta: FloatArray) -> FloatArray:
        """Change of the BLUP from the point of expansion, h2 Λ_d⁻¹ρ, (b, l)."""
        rows = np.arange(len(theta))
        psi, t = self._linear_weights(theta, rows)
        rho = np.einsum("bi,bil->bl", np.stack([p.value for p in psi], axis=1), self.basis)
        h2 = -1.0 / psi[4].value
        return np.asarray(h2[:, None] * rho / (1.0 + t.value[:, None] * self.model.eigenvalues))

    def evaluate(
        self, theta: FloatArray, rows: NDArray[np.int64]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Approximate -2ℓ - n log 2π, its gradient and Hessian in (α0, α1, β0, β1[, h2])."""
        model, base = self.model, self.model.base
        n_k, x, n = self.counts[rows], self.x[rows], self.n[rows]
        called = self.share_called[rows]
        at = _Point(theta, x, base.alpha)
        psi, t = self._linear_weights(theta, rows)
        w_mean = psi[0]
        away = self.means[rows] - at.mu
        # Σ w R with R = within + n (mean - μ)².
        squares = at.weighted(self.within[rows] + n_k * away**2, -2.0 * n_k * away)
        squares.hessian[:, :2, :2] = at.outer(2.0 * n_k * at.w)
        # Var(w) = mean(w²) - w̄².
        w_square = at.weighted_square(n_k / n[:, None])
        variance = w_square - w_mean * w_mean

        scaled = 1.0 + t.value[:, None] * model.eigenvalues
        ratio = model.eigenvalues / scaled
        log_det = t.apply(np.log(scaled).sum(axis=1), ratio.sum(axis=1), -(ratio**2).sum(axis=1))
        first = at.weighted(self.leverage[rows]) - w_mean * (called * model.leverage.sum())
        second = variance * (-0.5 * called * np.sum(model.leverage**2))
        quadratic = self._quadratic(psi, t, rows)
        blup = np.einsum("bl,bl->b", self.basis[rows, 4], self.basis[rows, 4])
        if base.fix_h2:
            h2 = np.full(len(rows), base.h2)
            random = first * h2 + second * h2**2 - quadratic * h2 + blup / h2
        else:
            free = Jet.parameter(theta, 4)
            random = (first + second * free - quadratic) * free + free.reciprocal() * blup
        total = squares + log_det + random
        total.gradient[:, 2] += n
        return total.value + np.sum(n_k * at.eta, axis=1), total.gradient, total.hessian

    def _linear_weights(self, theta: FloatArray, rows: NDArray[np.int64]) -> tuple[list[Jet], Jet]:
        """Return ψ, with ρ = Φψ for w and wμ linear in the genotype, and t."""
        base = self.model.base
        n_k, x = self.counts[rows], self.x[rows]
        at = _Point(theta, x, base.alpha)
        share = n_k / self.n[rows, None]
        slope = n_k * x / self.x_square[rows, None]
        w_mean = at.weighted(share)
        psi = [
            w_mean,
            at.weighted(slope),
            at.weighted(share * at.mu, share) * -1.0,
            at.weighted(slope * at.mu, slope) * -1.0,
        ]
        if base.fix_h2:
            psi.append(w_mean * 0.0 + -1.0 / base.h2)
            return psi, w_mean * (base.h2 * self.share_called[rows])
        h2 = Jet.parameter(theta, 4)
        psi.append(h2.reciprocal() * -1.0)
        return psi, w_mean * h2 * self.share_called[rows]

    def _quadratic(self, psi: list[Jet], t: Jet, rows: NDArray[np.int64]) -> Jet:
        """ψᵀ Φᵀ(I + tS)⁻¹Φ ψ, the form expanded about t0."""
        forms = self.forms[:, rows]
        step = t.value - self.t0[rows]
        powers = np.stack([np.ones_like(step), step, step**2 / 2.0, step**3 / 6.0])
        value = np.einsum("ob,obij->bij", powers, forms)
        first = np.einsum("ob,obij->bij", powers[:-1], forms[1:])
        second = np.einsum("ob,obij->bij", powers[:-2], forms[2:])
        vector = np.stack([p.value for p in psi], axis=1)
        J = np.stack([p.gradient for p in psi], axis=1)  # (b, 5, size)
        Mv, M1v = (value @ vector[:, :, None])[:, :, 0], (first @ vector[:, :, None])[:, :, 0]
        in_t = np.einsum("bi,bi->b", vector, M1v)
        JM1v = np.einsum("bip,bi->bp", J, M1v)
        cross = JM1v[:, :, None] * t.gradient[:, None, :]
        hessian = 2.0 * J.transpose(0, 2, 1) @ value @ J + 2.0 * (cross + cross.transpose(0, 2, 1))
        for i, p in enumerate(psi):
            hessian += 2.0 * Mv[:, i, None, None] * p.hessian
        hessian += in_t[:, None, None] * t.hessian
        in_tt = np.einsum("bi,bij,bj->b", vector, second, vector)
        hessian += in_tt[:, None, None] * t.gradient[:, :, None] * t.gradient[:, None, :]
        gradient = 2.0 * np.einsum("bip,bi->bp", J, Mv) + in_t[:, None] * t.gradient
        return Jet(np.einsum("bi,bi->b", vector, Mv), gradient, hessian)


def fit_linear(
    model: LinearModel, codes: Codes, *, polish: FloatArray | None = None, tolerance: float = 1e-6
) -> LinearFit:
    """Fit every variant of a block, approximately.

    Parameters
    ----------
    model : LinearModel
        Null model in its eigenbasis.
    codes : (m, n) int8
        Copies of allele 1, -1 where missing.
    polish : (m, l) float64, optional
        ``LinearFit.change`` of a first fit of the same variants: the expansion is then about each
        variant's own BLUP, which takes twice the time and squares the error.
    tolerance : float
        Distance to the approximate maximum, in standard errors, at which to stop.

    Returns
    -------
    LinearFit
        Estimates, and what tells which of them need more.
    """
    batch = _Batch(model, codes, polish)
    fit, theta = fit_batch(model.base, batch, tolerance)
    for j in np.flatnonzero(fit.status != Status.OK):
        called = codes[j] >= 0
        x, y = codes[j][called].astype(np.float64), model.base.y[called]
        if perfectly_fitted(y, np.ones((len(y), 1)), x - x.mean()):
            fit.status[j] = Status.UNBOUNDED
    with np.errstate(all="ignore"):
        change = batch.blup_change(theta)
    return LinearFit(fit, batch.share, batch.share_called, change)
