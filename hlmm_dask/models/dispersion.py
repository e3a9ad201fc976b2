"""Dispersion effects: what of a variance effect the mean-variance relation does not explain.

A trait whose variance depends on its mean gives every variant with an effect on the mean an
effect on the variance as well. Over many variants that shows as a line, var = r add, which is
estimated robustly and taken off (Young, Wauthier and Donnelly, Nature Genetics 2018, "Identifying
loci affecting trait variability and detecting interactions in genome-wide association studies").
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlmm_dask.models.inference import neg_log10_p_normal

MIN_VARIANTS = 30
_FIXED_POINT_TOL = 1e-14
_FIXED_POINT_MAX_ITER = 1000

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class HuberFit:
    """Robust regression through the origin.

    Attributes
    ----------
    slope : float
        Units of y per unit of x.
    scale : float
        median |residual| / 0.6745 of the last round, units of y.
    n_iterations : int
        Rounds of reweighting done.
    converged : bool
        Whether the stop rule was met within the allowed rounds.
    """

    slope: float
    scale: float
    n_iterations: int
    converged: bool


@dataclass(frozen=True)
class DispersionResult:
    """Dispersion effects of all variants and the line they were measured from.

    Attributes
    ----------
    slope : float
        Robust slope s of var on add, attenuated by the noise of add.
    mean_noise : float
        Mean of add_se² over the variants used.
    var_add : float
        Variance of add over the variants used (n - 1).
    noise_adjustment : float
        1 + mean_noise / (var_add - mean_noise), the correction of that attenuation.
    r_av : float
        slope * noise_adjustment, log variance per unit of the phenotype.
    n_used : int
        Variants with finite estimates.
    converged : bool
        Whether the robust regression met its stop rule.
    dispersion, dispersion_se : (n_variants,) float64
        var - r_av add, and its standard error; NaN where the variant has no estimates.
    dispersion_t, dispersion_neg_log10_p : (n_variants,) float64
        dispersion / dispersion_se, and -log10 p of its square, chi-square with 1 df.
    """

    slope: float
    mean_noise: float
    var_add: float
    noise_adjustment: float
    r_av: float
    n_used: int
    converged: bool
    dispersion: _Array
    dispersion_se: _Array
    dispersion_t: _Array
    dispersion_neg_log10_p: _Array


@dataclass(frozen=True)
class NotEstimable:
    """No dispersion effects can be estimated; ``reason`` is one line that says why."""

    reason: str


def huber_slope(
    x: ArrayLike,
    y: ArrayLike,
    *,
    k: float = 1.345,
    tol: float = 1e-4,
    max_iter: int = 20,
    to_fixed_point: bool = False,
) -> HuberFit:
    """Regress y on x without intercept by Huber's M-estimation.

    Iteratively reweighted least squares from the least squares slope, with weights
    min(1, k scale / |r|) and scale = median |r| / 0.6745 taken anew in each round. It ends when
    sqrt(sum (r_new - r_old)² / sum r_old²) <= tol. The defaults give what ``rlm`` of R's package
    MASS gives.

    Parameters
    ----------
    x, y : (n,) array_like
        Finite values.
    k : float
        Residuals beyond k scale are weighted down.
    tol : float
        Largest relative change of the residuals at which to stop.
    max_iter : int
        Most rounds of reweighting.
    to_fixed_point : bool
        Go on until the residuals stand still to rounding, whatever `tol` and `max_iter` say.

    Returns
    -------
    HuberFit

    Raises
    ------
    ValueError
        If x and y are not 1-D of one length, not finite, or x is all zero.
    """
    x_ = np.asarray(x, dtype=np.float64)
    y_ = np.asarray(y, dtype=np.float64)
    if x_.ndim != 1 or x_.shape != y_.shape:
        raise ValueError(f"x and y must be 1-D of one length, found {x_.shape} and {y_.shape}")
    if not (np.isfinite(x_).all() and np.isfinite(y_).all()):
        raise ValueError("x and y must be finite; leave out the rows without estimates")
    x_unit, y_unit = float(np.abs(x_).max(initial=0.0)), float(np.abs(y_).max(initial=0.0))
    if x_unit == 0.0:
        raise ValueError("x is zero everywhere: the slope is not determined")
    if y_unit == 0.0:
        return HuberFit(slope=0.0, scale=0.0, n_iterations=0, converged=True)
    # In units of the largest value no square can over- or underflow.
    x_, y_ = x_ / x_unit, y_ / y_unit
    if to_fixed_point:
        tol, max_iter = _FIXED_POINT_TOL, _FIXED_POINT_MAX_ITER

    xx, xy = x_ * x_, x_ * y_
    slope = float(xy.sum() / xx.sum())
    residual = y_ - slope * x_
    scale, converged, iteration = 0.0, False, 0
    while iteration < max_iter and not converged:
        iteration += 1
        absolute = np.abs(residual)
        scale = float(np.median(absolute)) / 0.6745
        if scale == 0.0:  # more than half of the points lie on the line
            converged = True
            break
        weight = k * scale / np.maximum(absolute, k * scale)
        slope = float((weight * xy).sum() / (weight * xx).sum())
        previous, residual = residual, y_ - slope * x_
        change = float(((residual - previous) ** 2).sum() / max(1e-20, (previous**2).sum()))
        converged = change <= tol * tol
    return HuberFit(
        slope=slope * y_unit / x_unit,
        scale=scale * y_unit,
        n_iterations=iteration,
        converged=converged,
    )


def dispersion_effects(
    add: ArrayLike,
    add_se: ArrayLike,
    var: ArrayLike,
    var_se: ArrayLike,
    *,
    to_fixed_point: bool = False,
) -> DispersionResult | NotEstimable:
    """Estimate dispersion effects from additive and log-variance effects.

    With s the robust slope of var on add and m the mean of add_se²::

        r_av = s (1 + m / (Var(add) - m))
        dispersion = var - r_av add,    dispersion_se² = var_se² + r_av² add_se²

    Parameters
    ----------
    add, add_se : (n_variants,) array_like
        Effects on the mean and standard errors, phenotype units per allele.
    var, var_se : (n_variants,) array_like
        Effects on the log variance and standard errors, per allele. A variant with a
        non-finite value in any of the four has NaN in the result and no part in s, m and
        Var(add).
    to_fixed_point : bool
        Run the robust regression to its fixed point instead of rlm's stop (1e-4 relative).

    Returns
    -------
    DispersionResult or NotEstimable
        The latter with fewer than 30 variants or Var(add) <= m, where the additive effects
        can't be told from their noise.

    Raises
    ------
    ValueError
        If the four are not 1-D of one length.
    """
    a, a_se, v, v_se = (np.asarray(z, dtype=np.float64) for z in (add, add_se, var, var_se))
    if a.ndim != 1 or not a.shape == a_se.shape == v.shape == v_se.shape:
        raise ValueError(
            "add, add_se, var and var_se must be 1-D of one length, found "
            f"{a.shape}, {a_se.shape}, {v.shape} and {v_se.shape}"
        )
    used = np.isfinite(a) & np.isfinite(a_se) & np.isfinite(v) & np.isfinite(v_se)
    n_used = int(used.sum())
    if n_used < MIN_VARIANTS:
        return NotEstimable(
            f"{n_used} variants have estimates, at least {MIN_VARIANTS} are needed "
            "for the regression of variance on additive effects"
        )
    mean_noise = float(np.mean(a_se[used] ** 2))
    var_add = float(np.var(a[used], ddof=1))
    if not var_add > mean_noise:
        return NotEstimable(
            f"the variance of the additive effects ({var_add:.4g}) does not exceed their mean "
            f"squared standard error ({mean_noise:.4g}): they can't be told from noise"
        )
    fit = huber_slope(a[used], v[used], to_fixed_point=to_fixed_point)
    noise_adjustment = 1.0 + mean_noise / (var_add - mean_noise)
    r_av = fit.slope * noise_adjustment

    dispersion = np.full(a.shape, np.nan)
    se = np.full(a.shape, np.nan)
    t = np.full(a.shape, np.nan)
    dispersion[used] = v[used] - r_av * a[used]
    se[used] = np.hypot(v_se[used], r_av * a_se[used])
    positive = se > 0.0
    t[positive] = dispersion[positive] / se[positive]
    return DispersionResult(
        slope=fit.slope,
        mean_noise=mean_noise,
        var_add=var_add,
        noise_adjustment=noise_adjustment,
        r_av=r_av,
        n_used=n_used,
        converged=fit.converged,
        dispersion=dispersion,
        dispersion_se=se,
        dispersion_t=t,
        dispersion_neg_log10_p=neg_log10_p_normal(t),
    )
