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
from hlmm_dask.kernels.sandwich import sandwich
from hlmm_dask.kernels.table import UNBOUNDED_SPAN, VariantFit, convergence_status, perfect_fit
from hlmm_dask.models.design import longest_length
from hlmm_dask.models.hlm import LOG_2PI
from hlmm_dask.models.newton import minimise
from hlmm_dask.schema import Status

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
    # Imported late: who only plans a scan needs no compiler.
    from hlmm_dask.kernels import hlm_loops

    moments = moments or ClassMoments.of(sums)
    n_k, x, mean_k, within_k = moments.counts, moments.x, moments.means, moments.within
    n, s_k = moments.n, sums.sums - n_k * moments.centre
    x_square = np.sum(n_k * x * x, axis=0)

    def profile(beta1: FloatArray, rows: NDArray[np.int64]) -> _Profile:
        out = np.empty((11, len(rows)))
        hlm_loops.profile(beta1, rows, x, n_k, s_k, mean_k, within_k, out)
        slope, deviance, gradient, hessian, information = out[:5]
        return _Profile(slope, deviance, gradient, hessian, information, out[5:8], out[8:])

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
        status = convergence_status(result.convergence, beta1, span)
        status[perfect_fit(n_k, mean_k, within_k)] = Status.UNBOUNDED
        return VariantFit(
            add=at.slope,
            add_se=1.0 / np.sqrt(at.information),
            var=beta1,
            var_se=np.sqrt(2.0 / x_square),
            loglik=loglik,
            status=status,
            loglik_mean=-0.5 * (flat.deviance + n * LOG_2PI),
            **robust,
        )


def _robust(at: _Profile, moments: ClassMoments) -> dict[str, FloatArray]:
    """Sandwich standard errors and covariance of α1 and β1 at the maximum, (m,) each.

    The sums over the samples of a class need Σ r .. Σ r⁴ only, which follow from the moments about
    the class mean and its distance to μ.
    """
    w, x, n_k = at.weight, moments.x, moments.counts
    r1, r2, r3, r4 = moments.powers(at.away)
    wn, wr1, wr2 = w * n_k, w * r1, w * r2
    h = x - (wn * x).sum(axis=0) / wn.sum(axis=0)
    square = x * x
    return sandwich(
        a=(wn * h * h).sum(axis=0),
        b=0.5 * (wr2 * square).sum(axis=0),
        c=(wr1 * square).sum(axis=0),
        mean=(w * wr2 * h * h).sum(axis=0),
        both=0.5 * ((w * w * r3 - wr1) * h * x).sum(axis=0),
        spread=0.25 * ((w * w * r4 - 2.0 * wr2 + n_k) * square).sum(axis=0),
    )
