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

from hlmm_dask.kernels.hlmm import Codes, RandomEffectModel
from hlmm_dask.kernels.jet import Jet
from hlmm_dask.kernels.table import VariantFit, convergence_status, within_class_squares
from hlmm_dask.models.design import longest_length
from hlmm_dask.models.hlm import LOG_2PI
from hlmm_dask.models.newton import minimise

FloatArray = NDArray[np.float64]

_CHUNK_SAMPLES = 4096
_ORDERS = 4  # of the expansion of the quadratic form in t: value and three derivatives


@dataclass(frozen=True)
class LinearModel:
    """What all variants share, in the basis of the eigenvectors of GᵀG.

    Attributes
    ----------
    base : RandomEffectModel
        Phenotype, design and null model.
    eigenvalues : (l,) float64
        S.
    rotation : (l, l) float64
        Scale of the columns times the eigenvectors: rotates products with ``base.design.raw``.
    blup : (l,) float64
        û.
    residual : (n,) float64
        e = y - α̂ - Gû.
    leverage : (n,) float64
        G_iᵀ Λ⁻¹ G_i at the null model.
    Ge, G1 : (l,) float64
        Gᵀe and Gᵀ1.
    """

    base: RandomEffectModel
    eigenvalues: FloatArray
    rotation: FloatArray
    blup: FloatArray
    residual: FloatArray
    leverage: FloatArray
    Ge: FloatArray
    G1: FloatArray

    @classmethod
    def build(cls, base: RandomEffectModel) -> "LinearModel":
        """Diagonalise GᵀG and compute the null model's BLUP, residual and leverages."""
        eigenvalues, vectors = np.linalg.eigh(base.gram)
        eigenvalues = np.maximum(eigenvalues, 0.0)
        weight = np.exp(-base.beta)
        Gy, G1 = base.products @ vectors
        spread = 1.0 + base.h2 * weight * eigenvalues
        blup = base.h2 * weight * (Gy - base.alpha * G1) / spread
        n = len(base.y)
        residual, leverage = np.empty(n), np.empty(n)
        for i in range(0, n, _CHUNK_SAMPLES):
            part = slice(i, i + _CHUNK_SAMPLES)
            rows = base.design.matrix(part) @ vectors
            residual[part] = base.y[part] - base.alpha - rows @ blup
            leverage[part] = (rows * rows) @ (1.0 / spread)
        return cls(
            base=base,
            eigenvalues=eigenvalues,
            rotation=base.design.scale[:, None] * vectors,
            blup=blup,
            residual=residual,
            leverage=leverage,
            Ge=Gy - base.alpha * G1 - eigenvalues * blup,
            G1=G1,
        )


@dataclass(frozen=True)
class LinearFit:
    """Approximate fits, and what tells how far they can be trusted.

    Attributes
    ----------
    fit : VariantFit
        Estimates.
    share : (m,) float64
        Share of the variant's sum of squares that the random effects' columns take up.
    span : (m,) float64
        Span of the fitted log variance over the genotype classes.
    """

    fit: VariantFit
    share: FloatArray
    span: FloatArray


class _Batch:
    """Sums of ``b`` variants, and the approximate likelihood from them."""

    def __init__(self, model: LinearModel, codes: Codes) -> None:
        base = model.base
        self.model = model
        b, n = codes.shape
        members = np.empty((3, b, n))
        for k in range(3):
            members[k] = codes == k
        counts = members.sum(axis=2)
        sums, squares = members @ model.residual, members @ model.residual**2
        means, within = within_class_squares(counts, sums, squares)
        self.counts, self.means, self.within = counts.T, means.T, within.T
        self.leverage = (members @ model.leverage).T
        del members
        self.n = self.counts.sum(axis=1)
        mean = (self.counts[:, 1] + 2.0 * self.counts[:, 2]) / self.n
        self.x = np.arange(3.0) - mean[:, None]
        self.x_square = np.sum(self.counts * self.x**2, axis=1)
        self.share_called = self.n / n

        G1, Ge = self._products(codes, mean)
        basis = np.empty((b, 5, base.n_random))
        basis[:, 0], basis[:, 2], basis[:, 4] = model.Ge, model.G1, model.blup
        basis[:, 1], basis[:, 3] = Ge[:b], G1[:b]
        lacking = np.flatnonzero(self.n < n)
        basis[lacking, 0] -= Ge[b:]
        basis[lacking, 2] -= G1[b:]
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

    def _products(self, codes: Codes, mean: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Σ x G and Σ x e G for each variant, then Σ G and Σ e G over missing calls, if any."""
        base = self.model.base
        design = base.design
        lacking = np.flatnonzero(self.n < codes.shape[1])
        rows = len(codes) + len(lacking)
        totals = np.zeros((2 * rows, design.n_random))
        sums = np.zeros(2 * rows)
        for i in range(0, codes.shape[1], _CHUNK_SAMPLES):
            part = slice(i, i + _CHUNK_SAMPLES)
            code = codes[:, part]
            x = np.empty((2 * rows, code.shape[1]), dtype=design.raw.dtype)
            np.subtract(code, mean[:, None], out=x[: len(codes)], casting="unsafe")
            missing = code < 0
            x[: len(codes)][missing] = 0.0
            x[len(codes) : rows] = missing[lacking]
            np.multiply(x[:rows], self.model.residual[part], out=x[rows:], casting="unsafe")
            totals += x @ design.raw[part]
            sums += x.sum(axis=1, dtype=np.float64)
        totals -= sums[:, None] * design.centre
        rotated = totals @ self.model.rotation
        return rotated[:rows], rotated[rows:]

    def evaluate(
        self, theta: FloatArray, rows: NDArray[np.int64]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Approximate -2ℓ - n log 2π, its gradient and Hessian in (α0, α1, β0, β1[, h2])."""
        model, base = self.model, self.model.base
        b, size = theta.shape
        n_k, x, n = self.counts[rows], self.x[rows], self.n[rows]
        called = self.share_called[rows]
        Z = np.stack([np.ones_like(x), x], axis=1)  # (b, 2, 3)
        ZZ = Z[:, :, None, :] * Z[:, None, :, :]  # (b, 2, 2, 3)
        w = np.exp(-(theta[:, 2, None] + theta[:, 3, None] * x))
        mu = theta[:, 0, None] + theta[:, 1, None] * x - base.alpha
        away = self.means[rows] - mu
        h2 = Jet.parameter(theta, 4) if size == 5 else None

        def weighted(k: FloatArray, kz: FloatArray | None = None) -> Jet:
            """Σ k w, and with ``kz`` (the derivative of k in μ) also in α; both (b, 3)."""
            kw = k * w
            gradient, hessian = np.zeros((b, size)), np.zeros((b, size, size))
            gradient[:, 2:4] = -(Z @ kw[:, :, None])[:, :, 0]
            hessian[:, 2:4, 2:4] = (ZZ @ kw[:, None, :, None])[..., 0]
            if kz is not None:
                kzw = kz * w
                gradient[:, :2] = (Z @ kzw[:, :, None])[:, :, 0]
                mixed = -(ZZ @ kzw[:, None, :, None])[..., 0]
                hessian[:, :2, 2:4] = mixed
                hessian[:, 2:4, :2] = mixed.transpose(0, 2, 1)
            return Jet(kw.sum(axis=1), gradient, hessian)

        share = n_k / n[:, None]
        slope = n_k * x / self.x_square[rows, None]
        w_mean = weighted(share)
        psi = [
            w_mean,
            weighted(slope),
            weighted(share * mu, share) * -1.0,
            weighted(slope * mu, slope) * -1.0,
        ]
        # Σ w R with R = within + n (mean - μ)².
        squares = weighted(self.within[rows] + n_k * away**2, -2.0 * n_k * away)
        squares.hessian[:, :2, :2] = 2.0 * (ZZ @ (n_k * w)[:, None, :, None])[..., 0]
        # Var(w) = mean(w²) - w̄².
        w_square = Jet(
            np.sum(share * w * w, axis=1), np.zeros((b, size)), np.zeros((b, size, size))
        )
        w_square.gradient[:, 2:4] = -2.0 * (Z @ (share * w * w)[:, :, None])[:, :, 0]
        w_square.hessian[:, 2:4, 2:4] = 4.0 * (ZZ @ (share * w * w)[:, None, :, None])[..., 0]
        variance = w_square - w_mean * w_mean

        fixed = np.full(b, base.h2)
        if h2 is None:
            t = w_mean * (fixed * called)
            psi.append(w_mean * 0.0 + -1.0 / fixed)
        else:
            t = w_mean * h2 * called
            psi.append(h2.reciprocal() * -1.0)

        scaled = 1.0 + t.value[:, None] * model.eigenvalues
        ratio = model.eigenvalues / scaled
        log_det = t.apply(np.log(scaled).sum(axis=1), ratio.sum(axis=1), -(ratio**2).sum(axis=1))
        first = weighted(self.leverage[rows]) - w_mean * (called * model.leverage.sum())
        second = variance * (-0.5 * called * np.sum(model.leverage**2))
        quadratic = self._quadratic(psi, t, rows)
        blup = float(model.blup @ model.blup)
        if h2 is None:
            random = first * fixed + second * fixed**2 - quadratic * fixed + blup / fixed
        else:
            random = (first + second * h2 - quadratic) * h2 + h2.reciprocal() * blup
        total = squares + log_det + random
        total.gradient[:, 2] += n
        value = total.value + np.sum(n_k * (theta[:, 2, None] + theta[:, 3, None] * x), axis=1)
        return value, total.gradient, total.hessian

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


def fit_linear(model: LinearModel, codes: Codes, *, tolerance: float = 1e-6) -> LinearFit:
    """Fit every variant of a block, approximately.

    Parameters
    ----------
    model : LinearModel
        Null model in its eigenbasis.
    codes : (m, n) int8
        Copies of allele 1, -1 where missing.
    tolerance : float
        Distance to the approximate maximum, in standard errors, at which to stop.

    Returns
    -------
    LinearFit
        Estimates, and what tells which of them need the exact fit.
    """
    base = model.base
    batch = _Batch(model, codes)
    m = len(codes)
    start = np.zeros((m, 4 if base.fix_h2 else 5))
    start[:, 0], start[:, 2] = base.alpha, base.beta
    if not base.fix_h2:
        start[:, 4] = base.h2
    occupied = np.where(batch.counts > 0, batch.x, np.nan)
    span = np.nanmax(occupied, axis=1) - np.nanmin(occupied, axis=1)
    result = minimise(
        batch.evaluate,
        start,
        first_length=lambda step, rows: longest_length(step[:, 3] * span[rows]),
        lower_bound_of_last=None if base.fix_h2 else base.h2_min,
        tolerance=tolerance,
    )
    with np.errstate(all="ignore"):
        covariance = 2.0 * np.linalg.pinv(result.hessian, hermitian=True)
        se = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    fit = VariantFit(
        add=result.x[:, 1],
        add_se=se[:, 1],
        var=result.x[:, 3],
        var_se=se[:, 3],
        loglik=-0.5 * (result.value + batch.n * LOG_2PI),
        status=convergence_status(result.convergence, result.x[:, 3], span),
        h2=np.full(m, base.h2) if base.fix_h2 else result.x[:, 4],
    )
    return LinearFit(fit, batch.share, np.abs(result.x[:, 3]) * span)
