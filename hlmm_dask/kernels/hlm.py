"""HLM with an intercept and the variant in mean and log variance, from nine sums a variant.

A hard-called genotype takes three values, so everything in the likelihood is a sum over three
classes. Given β1, both α and β0 have closed forms; what is left is one number a variant, found
for a whole block at once by Newton's method.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.packed import ClassSums
from hlmm_dask.kernels.table import (
    UNBOUNDED_SPAN,
    VariantFit,
    convergence_status,
    within_class_squares,
)
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


def fit_class_sums(sums: ClassSums, *, tolerance: float = 1e-7) -> VariantFit:
    """Fit every variant of a block from its class sums.

    With x_k = k - ḡ, v_k = exp(-β1 x_k) and R_k = Σ_{g=k} (y - α0 - α1 x_k)² at the
    α that is best given β1, the profile is -2ℓ = n log(Σ v_k R_k / n) + n + n log 2π.

    Parameters
    ----------
    sums : ClassSums
        Sums of variants with at least two classes.
    tolerance : float
        Distance to the maximum, in standard errors, at which to stop.

    Returns
    -------
    VariantFit
        ``UNBOUNDED`` where the likelihood has no maximum.
    """
    n_k = sums.counts
    n = n_k.sum(axis=0)
    mean = (n_k[1] + 2.0 * n_k[2]) / n
    x = np.arange(3.0)[:, None] - mean
    x_square = np.sum(n_k * x * x, axis=0)
    # Centred at the variant's own mean, so that no digits are lost in Σy² - 2μΣy + nμ².
    centre = sums.sums.sum(axis=0) / n
    s_k = sums.sums - n_k * centre
    q_k = sums.squares - 2.0 * centre * sums.sums + n_k * centre**2
    mean_k, within_k = within_class_squares(n_k, s_k, q_k)

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
            tolerance=tolerance,
        )
        beta1 = result.x[:, 0]
        at = profile(beta1, everything)
        loglik = -0.5 * (at.deviance + n * LOG_2PI)
        return VariantFit(
            add=at.slope,
            add_se=1.0 / np.sqrt(at.information),
            var=beta1,
            var_se=np.sqrt(2.0 / x_square),
            loglik=loglik,
            status=convergence_status(result.convergence, beta1, span),
        )
