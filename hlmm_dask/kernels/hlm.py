"""HLM with an intercept and the variant in mean and log variance, from class sums.

A hard-called genotype takes three values, so everything in the likelihood is a sum over three
classes. Given β1, both α and β0 have closed forms; what is left is one number a variant, found
for a whole block at once by Newton's method. Nine sums a variant are enough for the estimates;
six more, Σy³ and Σy⁴ by class, give standard errors that don't assume normal residuals.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.class_moments import ClassMoments
from hlmm_dask.kernels.packed import ClassSums
from hlmm_dask.kernels.table import UNBOUNDED_SPAN, VariantFit, convergence_status
from hlmm_dask.models.design import longest_length
from hlmm_dask.models.hlm import LOG_2PI
from hlmm_dask.models.newton import minimise

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class _Profile:
    """Everything at one value of β1, with α and β0 at their maximum given it; (b,) each."""

    slope: FloatArray
    deviance: FloatArray
    gradient: FloatArray
    hessian: FloatArray
    information: FloatArray  # 1 / Var(α1)
    weight: FloatArray  # e^-η by class, (3, b)
    away: FloatArray  # class mean of y less μ, (3, b)


def fit_class_sums(
    sums: ClassSums, *, moments: ClassMoments | None = None, tolerance: float = 1e-7
) -> VariantFit:
    """Fit every variant of a block from its class sums.

    With x_k = k - ḡ, v_k = exp(-β1 x_k) and R_k = Σ_{g=k} (y - α0 - α1 x_k)² at the
    α that is best given β1, the profile is -2ℓ = n log(Σ v_k R_k / n) + n + n log 2π.

    Parameters
    ----------
    sums : ClassSums
        Sums of variants with at least two classes; with cubes and fourths the fit has robust
        standard errors, without them it has none.
    moments : ClassMoments, optional
        Of these sums, where they are known already.
    tolerance : float
        Distance to the maximum, in standard errors, at which to stop.

    Returns
    -------
    VariantFit
        ``UNBOUNDED`` where the likelihood has no maximum.
    """
    moments = moments or ClassMoments.of(sums)
    n_k, x, mean_k, within_k = moments.counts, moments.x, moments.means, moments.within
    n, s_k = moments.n, sums.sums - n_k * moments.centre
    x_square = np.sum(n_k * x * x, axis=0)

    def profile(beta1: FloatArray, rows: NDArray[np.int64]) -> _Profile:
        xr, nr, sr = x[:, rows], n_k[:, rows], s_k[:, rows]
        # The largest exponent is taken out, so that nothing overflows.
        exponent = -beta1 * xr
        shift = exponent.max(axis=0)
        v = np.exp(exponent - shift)
        vn, vs = v * nr, v * sr
        w0, w1, w2 = vn.sum(axis=0), (vn * xr).sum(axis=0), (vn * xr * xr).sum(axis=0)
        y0, y1 = vs.sum(axis=0), (vs * xr).sum(axis=0)
        det = w0 * w2 - w1 * w1
        slope = (w0 * y1 - w1 * y0) / det
        intercept = (y0 - slope * w1) / w0
        mu = intercept + slope * xr
        away = mean_k[:, rows] - mu
        r1 = nr * away
        r2 = within_k[:, rows] + nr * away * away
        vr = v * r2
        level = vr.sum(axis=0) / n[rows]  # exp(β0 - shift)
        z = vr / level
        m1, m2 = (z * xr).sum(axis=0), (z * xr * xr).sum(axis=0)
        curvature = (v * r1 * xr * xr).sum(axis=0) / level
        return _Profile(
            slope=slope,
            deviance=n[rows] * (np.log(level) + shift + 1.0),
            gradient=-m1,
            hessian=m2 - m1 * m1 / n[rows] - 2.0 * curvature**2 * level * w0 / det,
            information=det / (w0 * level),
            weight=v / level,
            away=away,
        )

    def evaluate(
        beta: FloatArray, rows: NDArray[np.int64]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        at = profile(beta[:, 0], rows)
        value = np.where(np.abs(beta[:, 0]) > 2.0 * UNBOUNDED_SPAN, np.inf, at.deviance)
        return value, at.gradient[:, None], at.hessian[:, None, None]

    everything = np.arange(len(n))
    with np.errstate(all="ignore"):
        flat = profile(np.zeros(len(n)), everything)
        # One step of Fisher scoring from the homoskedastic fit.
        start = np.clip(np.nan_to_num(-flat.gradient / x_square), -0.5, 0.5)
        occupied = np.where(n_k > 0, x, np.nan)
        span = np.nanmax(occupied, axis=0) - np.nanmin(occupied, axis=0)
        result = minimise(
            evaluate,
            start[:, None],
            first_length=lambda step, rows: longest_length(step[:, 0] * span[rows]),
            runs_away=lambda beta, rows: np.abs(beta[:, 0]) * span[rows] > UNBOUNDED_SPAN,
            tolerance=tolerance,
        )
        beta1 = result.x[:, 0]
        at = profile(beta1, everything)
        loglik = -0.5 * (at.deviance + n * LOG_2PI)
        robust = {} if moments.fourth is None else _robust(at, moments)
        return VariantFit(
            add=at.slope,
            add_se=1.0 / np.sqrt(at.information),
            var=beta1,
            var_se=np.sqrt(2.0 / x_square),
            loglik=loglik,
            status=convergence_status(result.convergence, beta1, span),
            loglik_mean=-0.5 * (flat.deviance + n * LOG_2PI),
            **robust,
        )


def _robust(at: _Profile, moments: ClassMoments) -> dict[str, FloatArray]:
    """Sandwich standard errors and covariance of α1 and β1 at the maximum, (m,) each.

    The covariance is H⁻¹ M H⁻¹, H the observed information of (α0, α1, β0, β1) and
    M = Σ s_i s_iᵀ; with z = (1, x), r = y - μ and w = e^-η a sample's score is

        s = (w r z, ½ (w r² - 1) z).

    Let h = x - Σ n_k w_k x_k / Σ n_k w_k. At the maximum Σ w r z = 0 and Σ (w r² - 1) z = 0,
    so all of H that couples α with β is c = Σ w r x², β0 is by itself, and with

        a = Σ n_k w_k h_k²,   b = ½ Σ w r² x²,   d = a b - c²

    the rows of H⁻¹ s for α1 and β1 are

        (b w r h - ½ c (w r² - 1) x) / d     and     (½ a (w r² - 1) x - c w r h) / d.

    The sum of their squares over the samples of a class needs Σ r .. Σ r⁴ only, which follow
    from the moments about the class mean and its distance to μ.
    """
    w, x, n_k = at.weight, moments.x, moments.counts
    r1, r2, r3, r4 = moments.powers(at.away)
    wn, wr1, wr2 = w * n_k, w * r1, w * r2
    h = x - (wn * x).sum(axis=0) / wn.sum(axis=0)
    square = x * x
    a = (wn * h * h).sum(axis=0)
    b = 0.5 * (wr2 * square).sum(axis=0)
    c = (wr1 * square).sum(axis=0)
    d = a * b - c * c
    # Outer products of the two scores, w r h and ½ (w r² - 1) x.
    mean = (w * wr2 * h * h).sum(axis=0)
    both = 0.5 * ((w * w * r3 - wr1) * h * x).sum(axis=0)
    spread = 0.25 * ((w * w * r4 - 2.0 * wr2 + n_k) * square).sum(axis=0)
    add = b * b * mean - 2.0 * b * c * both + c * c * spread
    var = c * c * mean - 2.0 * a * c * both + a * a * spread
    cov = (a * b + c * c) * both - b * c * mean - a * c * spread
    return {
        "add_robust_se": np.sqrt(np.maximum(add, 0.0)) / d,
        "var_robust_se": np.sqrt(np.maximum(var, 0.0)) / d,
        "add_var_cov": cov / (d * d),
    }
