"""Robust regression through the origin: Huber's M-estimator."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlmm_dask.arguments import flag, number, whole_number

_FIXED_POINT_TOL = 1e-14
_FIXED_POINT_MAX_ITER = 1000

# Residuals beyond K scale are weighted down, and the scale is the median absolute one over MAD.
K = 1.345
MAD = 0.6745

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


def huber_slope(
    x: ArrayLike,
    y: ArrayLike,
    *,
    k: float = K,
    tol: float = 1e-4,
    max_iter: int = 20,
    to_fixed_point: bool = False,
) -> HuberFit:
    """Regress y on x without intercept by Huber's M-estimation.

    Iteratively reweighted least squares from the least squares slope, with weights
    min(1, k scale / |r|) and scale = median |r| / MAD taken anew in each round. It ends when
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
    number("k", k, above=0.0)
    number("tol", tol, above=0.0)
    whole_number("max_iter", max_iter, least=1)
    flag("to_fixed_point", to_fixed_point)
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
        scale = float(np.median(absolute)) / MAD
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
