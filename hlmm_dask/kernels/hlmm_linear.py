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
from scipy import linalg

from hlmm_dask.kernels.hlmm import Codes, RandomEffectModel, inverse_or_nan
from hlmm_dask.kernels.jet import Jet
from hlmm_dask.kernels.table import VariantFit, convergence_status, within_class_squares
from hlmm_dask.models.design import longest_length
from hlmm_dask.models.hlm import LOG_2PI
from hlmm_dask.models.inference import neg_log10_p_chi2_2df, neg_log10_p_normal
from hlmm_dask.models.newton import minimise
from hlmm_dask.schema import Status

FloatArray = NDArray[np.float64]

# Where ``auto`` takes the approximation at all, and which variants it then fits exactly.
SAMPLES_PER_EFFECT = 50
COSTLY_GRAM = 5e8  # n l²
EXACT_NEG_LOG10_P = 3.0
LINKED_SHARE = 0.05
# Which it fits once more about their own BLUP.
MANY_SAMPLES_PER_EFFECT = 150
MANY_MISSING = 0.02

_CHUNK_SAMPLES = 4096
# Where :meth:`LinearModel.only` takes its short way: share of columns left out, and change of t
# relative to it; what the expansion of a leverage in t lacks is the fourth power of that.
_FEW_LEFT_OUT = 0.25
_NEAR = 0.3
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
        Scale of the columns times the eigenvectors: rotates products with their raw values.
    blup : (l,) float64
        û.
    residual : (n,) float64
        e = y - α̂ - Gû.
    leverage : (n,) float64
        G_iᵀ Λ⁻¹ G_i at the null model.
    slopes : (3, n) float64
        Its Taylor coefficients in t = h2 exp(-β) beyond the first.
    Ge, G1 : (l,) float64
        Gᵀe and Gᵀ1.
    """

    base: RandomEffectModel
    eigenvalues: FloatArray
    rotation: FloatArray
    blup: FloatArray
    residual: FloatArray
    leverage: FloatArray
    slopes: FloatArray
    Ge: FloatArray
    G1: FloatArray

    @classmethod
    def build(cls, base: RandomEffectModel) -> "LinearModel":
        """Diagonalise GᵀG and compute the null model's BLUP, residual and leverages."""
        eigenvalues, vectors, blup = _null_blup(base)
        spread = 1.0 + base.h2 * np.exp(-base.beta) * eigenvalues
        taylor = np.stack([(-eigenvalues) ** k / spread ** (k + 1) for k in range(4)], axis=1)
        n = len(base.y)
        residual, leverages = np.empty(n), np.empty((4, n))
        for i in range(0, n, _CHUNK_SAMPLES):
            part = slice(i, i + _CHUNK_SAMPLES)
            rows = base.design.matrix(part) @ vectors
            residual[part] = base.y[part] - base.alpha - rows @ blup
            leverages[:, part] = ((rows * rows) @ taylor).T
        return cls._of(base, eigenvalues, vectors, blup, residual, leverages[0], leverages[1:])

    @classmethod
    def _of(
        cls,
        base: RandomEffectModel,
        eigenvalues: FloatArray,
        vectors: FloatArray,
        blup: FloatArray,
        residual: FloatArray,
        leverage: FloatArray,
        slopes: FloatArray,
    ) -> "LinearModel":
        Gy, G1 = base.products @ vectors
        return cls(
            base=base,
            eigenvalues=eigenvalues,
            rotation=base.design.scale[:, None] * vectors,
            blup=blup,
            residual=residual,
            leverage=leverage,
            slopes=slopes,
            Ge=Gy - base.alpha * G1 - eigenvalues * blup,
            G1=G1,
        )

    def only(self, base: RandomEffectModel, columns: NDArray[np.int64]) -> "LinearModel":
        """Keep these columns of G (k,), with the null model ``base`` of them.

        The inverse of a part of Λ is the part of the inverse, less a term of the rank of what is
        left out: with few columns left out leverages take n l operations for each of them instead
        of the n l² of :meth:`build`.
        """
        l_, k = self.base.n_random, len(columns)
        scale = l_ / k
        t0 = self.base.h2 * np.exp(-self.base.beta)
        t = scale * base.h2 * np.exp(-base.beta)
        if l_ - k > _FEW_LEFT_OUT * l_ or abs(t - t0) > _NEAR * t0:
            return LinearModel.build(base)
        design, whole = base.design, self.base.design
        eigenvalues, vectors, blup = _null_blup(base)

        # Columns of Λ⁻¹ at t that are left out, and Q such that Λ⁻¹ - QᵀQ is that of the others.
        axes = self.rotation / whole.scale[:, None]
        removed = np.delete(np.arange(l_), columns)
        inverse = axes @ (axes[removed] / (1.0 + t * self.eigenvalues)).T
        chol = np.linalg.cholesky(inverse[removed])
        Q = linalg.solve_triangular(chol, inverse.T, lower=True)
        mean = vectors @ blup * design.scale
        rotate = np.vstack([design.in_raw(mean[None]), whole.in_raw(Q * whole.scale)])
        offset = np.append(mean @ design.centre, (Q * whole.scale) @ whole.centre)

        n = len(base.y)
        residual, leverage = np.empty(n), self.leverage.copy()
        for order, slope in enumerate(self.slopes, 1):
            leverage += (t - t0) ** order * slope
        for i in range(0, n, _CHUNK_SAMPLES):
            part = slice(i, i + _CHUNK_SAMPLES)
            rows = whole.raw[part].astype(np.float64, copy=False) @ rotate.T - offset
            residual[part] = base.y[part] - base.alpha - rows[:, 0]
            leverage[part] -= np.einsum("ij,ij->i", rows[:, 1:], rows[:, 1:])
        leverage *= scale
        return self._of(base, eigenvalues, vectors, blup, residual, leverage, np.empty((0, n)))


def _null_blup(base: RandomEffectModel) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Eigenvalues (l,) and eigenvectors (l, l) of GᵀG, and the null model's BLUP in their basis."""
    eigenvalues, vectors = np.linalg.eigh(base.gram)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    t = base.h2 * np.exp(-base.beta)
    Gy, G1 = base.products @ vectors
    return eigenvalues, vectors, t * (Gy - base.alpha * G1) / (1.0 + t * eigenvalues)


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
    mean: FloatArray,
    lacking: NDArray[np.int64],
    change: FloatArray | None,
) -> tuple[FloatArray, FloatArray]:
    """Compute sums over samples, in chunks of them.

    Returns
    -------
    by_class : (4, 3, b) float64
        Counts, Σ e, Σ e² and Σ leverage over the samples of each class.
    products : (2 (b + lacking), l) float64
        In the eigenbasis: Σ x G for each variant, Σ G over the missing calls of each variant
        that lacks some, and both with e G in place of G.
    """
    design = model.base.design
    b, n = codes.shape
    rows = b + len(lacking)
    by_class = np.zeros((4, 3, b))
    totals, sums = np.zeros((2 * rows, design.raw.shape[1])), np.zeros(2 * rows)
    coefficients = None
    if change is not None:
        coefficients = change @ model.rotation.T
        offset = coefficients @ design.centre
        coefficients = design.in_raw(coefficients).astype(design.raw.dtype)
    for i in range(0, n, _CHUNK_SAMPLES):
        part = slice(i, i + _CHUNK_SAMPLES)
        code, raw = codes[:, part], design.raw[part]
        e: FloatArray = model.residual[part]
        if coefficients is not None:
            e = e - (coefficients @ raw.T - offset[:, None])
        for k in range(3):
            member = code == k
            by_class[0, k] += member.sum(axis=1)
            if e.ndim == 1:
                by_class[1, k] += member @ e
                by_class[2, k] += member @ (e * e)
            else:
                chosen = np.where(member, e, 0.0)
                by_class[1, k] += chosen.sum(axis=1)
                by_class[2, k] += np.einsum("bs,bs->b", chosen, chosen)
            by_class[3, k] += member @ model.leverage[part]
        x = np.empty((2 * rows, code.shape[1]), dtype=raw.dtype)
        np.subtract(code, mean[:, None], out=x[:b], casting="unsafe")
        missing = code < 0
        x[:b][missing] = 0.0
        x[b:rows] = missing[lacking]
        np.multiply(x[:b], e, out=x[rows : rows + b], casting="unsafe")
        np.multiply(
            x[b:rows], e if e.ndim == 1 else e[lacking], out=x[rows + b :], casting="unsafe"
        )
        totals += x @ raw
        sums += x.sum(axis=1, dtype=np.float64)
    totals = design.own(totals) - sums[:, None] * design.centre
    return by_class, totals @ model.rotation


class _Batch:
    """Sums of ``b`` variants, and the approximate likelihood from them.

    ``change`` (b, l) moves the point of expansion of each variant from û to û + change.
    """

    def __init__(self, model: LinearModel, codes: Codes, change: FloatArray | None = None) -> None:
        base = model.base
        self.model = model
        b, n = codes.shape
        self.n = (codes >= 0).sum(axis=1).astype(np.float64)
        mean = np.maximum(codes, 0).sum(axis=1) / self.n
        self.x = np.arange(3.0) - mean[:, None]
        self.share_called = self.n / n
        lacking = np.flatnonzero(self.n < n)

        sums, products = _sums(model, codes, mean, lacking, change)
        counts, totals, squares, leverage = sums
        means, within = within_class_squares(counts, totals, squares)
        self.counts, self.means, self.within = counts.T, means.T, within.T
        self.leverage = leverage.T
        self.x_square = np.sum(self.counts * self.x**2, axis=1)

        basis = np.empty((b, 5, base.n_random))
        basis[:, 0], basis[:, 2], basis[:, 4] = model.Ge, model.G1, model.blup
        if change is not None:
            basis[:, 0] -= model.eigenvalues * change
            basis[:, 4] += change
        rows = b + len(lacking)
        basis[:, 3], basis[:, 1] = products[:b], products[rows : rows + b]
        basis[lacking, 2] -= products[b:rows]
        basis[lacking, 0] -= products[rows + b :]
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
    base = model.base
    batch = _Batch(model, codes, polish)
    m = len(codes)
    start = np.zeros((m, 4 if base.fix_h2 else 5))
    start[:, 0], start[:, 2] = base.alpha, base.beta
    if not base.fix_h2:
        start[:, 4] = max(base.h2, base.h2_min)
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
        covariance = 2.0 * inverse_or_nan(result.hessian)
        se = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        change = batch.blup_change(result.x)
    fit = VariantFit(
        add=result.x[:, 1],
        add_se=se[:, 1],
        var=result.x[:, 3],
        var_se=se[:, 3],
        loglik=-0.5 * (result.value + batch.n * LOG_2PI),
        status=convergence_status(result.convergence, result.x[:, 3], span),
        h2=np.full(m, base.h2) if base.fix_h2 else result.x[:, 4],
    )
    return LinearFit(fit, batch.share, batch.share_called, change)


def linear_is_good(n_samples: int, n_random: int) -> bool:
    """Whether the approximation is within 1e-3 standard errors of the exact fit, and worth it.

    Its error falls with the samples per random effect. Where the exact fit takes a few
    milliseconds, it is made for every variant.
    """
    enough = n_samples >= SAMPLES_PER_EFFECT * n_random
    return enough and n_samples * n_random**2 >= COSTLY_GRAM


def needs_exact(model: LinearModel, linear: LinearFit) -> NDArray[np.bool_]:
    """Which variants to fit exactly, (m,).

    Those near significance in any of the three tests (p below 1e-3), those which share more
    with G than an unrelated variant does, and those that could not be fitted.
    """
    fit = linear.fit
    with np.errstate(invalid="ignore", divide="ignore"):
        add_t, var_t = fit.add / fit.add_se, fit.var / fit.var_se
    largest = np.maximum(neg_log10_p_normal(add_t), neg_log10_p_normal(var_t))
    largest = np.maximum(largest, neg_log10_p_chi2_2df(add_t**2 + var_t**2))
    linked = linear.share > 2.0 * _unrelated_share(model) + LINKED_SHARE
    # Not "below": NaN needs the exact fit as well.
    return np.asarray(~(largest < EXACT_NEG_LOG10_P) | linked | (fit.status != Status.OK))


def needs_polish(model: LinearModel, linear: LinearFit) -> NDArray[np.bool_]:
    """Which variants to fit once more about their own BLUP, (m,).

    Measured without that: errors up to 1e-3 standard errors with 50 to 100 samples per random
    effect, 5e-5 with 200; 3e-4 and 8e-4 where 1% and 4% of the calls are missing.
    """
    few = len(model.base.y) < MANY_SAMPLES_PER_EFFECT * model.base.n_random
    linked = linear.share > 1.5 * _unrelated_share(model) + 0.01
    return np.asarray(few | linked | (linear.share_called < 1.0 - MANY_MISSING))


def _unrelated_share(model: LinearModel) -> float:
    """Share of its sum of squares that a variant without relation to G has in common with it."""
    t = model.base.h2 * np.exp(-model.base.beta)
    explained = t * model.eigenvalues / (1.0 + t * model.eigenvalues)
    return float(np.sum(explained)) / len(model.base.y)
