"""Checks and start values that the models with and without random effects share."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

# Residuals below this share of y are what rounding leaves of none.
_ROUNDING = 1e-13


def as_vector(name: str, value: ArrayLike) -> FloatArray:
    """Return ``value`` as a finite float64 vector, or raise a ValueError that names it."""
    vector = np.asarray(value, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"{name} has {vector.ndim} dimensions, expected 1")
    _check_finite(name, vector)
    return vector


def as_design(name: str, value: ArrayLike, n_samples: int) -> FloatArray:
    """Return ``value`` as a finite (n_samples, k) float64 matrix; 1-D means one column."""
    matrix = np.asarray(value, dtype=np.float64)
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2:
        raise ValueError(f"{name} has {matrix.ndim} dimensions, expected 1 or 2")
    if matrix.shape[0] != n_samples:
        raise ValueError(f"{name} has {matrix.shape[0]} rows, but y has {n_samples} values")
    _check_finite(name, matrix)
    return matrix


def check_parameter_count(n_samples: int, n_parameters: int) -> None:
    """Raise a ValueError unless there are more samples than parameters."""
    if n_samples <= n_parameters:
        raise ValueError(
            f"{n_samples} samples are too few for {n_parameters} parameters: "
            "there must be more samples than parameters"
        )


def check_full_rank(name: str, matrix: FloatArray) -> None:
    """Raise a ValueError if the columns are linearly dependent (after scaling each to norm 1)."""
    norms = np.linalg.norm(matrix, axis=0)
    if np.any(norms == 0):
        raise ValueError(f"column {int(np.argmin(norms))} of {name} is zero")
    if np.linalg.matrix_rank(matrix / norms, tol=1e-9) < matrix.shape[1]:
        raise ValueError(f"the columns of {name} are linearly dependent")


def check_parameters(name: str, value: ArrayLike, size: int) -> FloatArray:
    """Return ``value`` as a vector of ``size`` parameters; a scalar means one."""
    vector = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if vector.shape != (size,):
        raise ValueError(f"{name} has shape {vector.shape}, expected ({size},)")
    return vector


def least_squares(X: FloatArray, y: FloatArray) -> FloatArray:
    """Ordinary least squares coefficients of ``y`` (n,) on ``X`` (n, c)."""
    # lstsq drops directions that are small beside the others: the columns' units must not decide.
    norms = np.linalg.norm(X, axis=0)
    norms[norms == 0] = 1.0
    return np.asarray(np.linalg.lstsq(X / norms, y, rcond=None)[0] / norms, dtype=np.float64)


def longest_length(eta_change: FloatArray) -> FloatArray:
    """Share of a step that changes no log variance by more than 5, given the largest changes."""
    return np.asarray(5.0 / np.maximum(np.abs(eta_change), 1e-300), dtype=np.float64)


def start_beta(V: FloatArray, y: FloatArray, residual: FloatArray) -> FloatArray:
    """Start values for the log-linear variance effects.

    The homoskedastic fit, log of the mean squared residual projected on ``V``, then one step of
    Fisher scoring with the residuals held fixed, shortened where it would change a log variance
    by more than 1. It does not depend on the unit of y.

    Parameters
    ----------
    V : (n, v) float64
        Variance design.
    y : (n,) float64
        Phenotype.
    residual : (n,) float64
        Residuals of its ordinary least squares fit.

    Returns
    -------
    (v,) float64
        Start values.

    Raises
    ------
    ValueError
        If all residuals are zero, but for rounding.
    """
    squared_residuals = residual**2
    mean_square = float(np.mean(squared_residuals))
    if not mean_square > _ROUNDING**2 * float(np.mean(y**2)):
        raise ValueError("y is a linear combination of the columns of X: no residual is left")
    level = least_squares(V, np.full(len(V), np.log(mean_square)))
    z = squared_residuals * np.exp(-V @ level)
    step = np.linalg.solve(V.T @ V, V.T @ (z - 1.0))
    reach = float(np.max(np.abs(V @ step), initial=0.0))
    return np.asarray(level + step * min(1.0, 1.0 / max(reach, 1e-300)), dtype=np.float64)


def _check_finite(name: str, array: NDArray[Any]) -> None:
    if not np.all(np.isfinite(array)):
        count = int(np.size(array) - np.isfinite(array).sum())
        raise ValueError(f"{name} has {count} values that are not finite")
