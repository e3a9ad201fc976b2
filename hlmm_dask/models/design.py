"""Checks and start values that the models with and without random effects share."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

FloatArray = NDArray[np.float64]

# A column is a repetition of others if less than this share of its length is left without them.
_REPEATED = 1e-6
# What rounding leaves of the spread of a constant column, and of a column that others explain.
_ROUNDING_OF_MEAN = 1e-12
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


class Repeated(NamedTuple):
    """A column that is zero, or a linear combination of columns before it.

    Attributes
    ----------
    column : int
        Which one.
    of : tuple of int
        Those that it repeats, the one with the largest share in it first; constant columns are
        named only where there is no other. Empty for a column of zeros.
    """

    column: int
    of: tuple[int, ...]


@dataclass(frozen=True)
class Basis:
    """Orthogonal columns Q of mean square 1 that span a design X = QT.

    Models are fitted to Q: covariates that nearly repeat each other, or differ in their units by
    many powers of ten, cost no digits and no steps. The estimates are then taken back to X.

    Attributes
    ----------
    Q : (n, k) float64
        The columns, in C order; the first is a multiple of X's first.
    triangle : (k, k) float64
        T, upper triangular with a positive diagonal.
    """

    Q: FloatArray
    triangle: FloatArray

    @classmethod
    def of(cls, name: str, X: FloatArray) -> "Basis":
        """Return the basis of a design, or raise a ValueError if its columns are dependent."""
        basis, _, repeated = independent_columns(X)
        for column, of in repeated:
            if not of:
                raise ValueError(f"column {column} of {name} is zero")
            raise ValueError(
                f"the columns of {name} are linearly dependent: column {column} repeats column"
                f"{'s' if len(of) > 1 else ''} {', '.join(map(str, of[:5]))}"
            )
        return basis

    def effects(self, effects: FloatArray) -> FloatArray:
        """Turn effects (k,) of the columns of Q into those of X."""
        return np.asarray(linalg.solve_triangular(self.triangle, effects))

    def coordinates(self, effects: FloatArray) -> FloatArray:
        """Turn effects (k,) of the columns of X into those of Q."""
        return np.asarray(self.triangle @ effects)

    def covariance(self, covariance: FloatArray) -> FloatArray:
        """Turn the covariance (k, k) of effects of Q into that of effects of X."""
        half = linalg.solve_triangular(self.triangle, covariance, check_finite=False)
        return np.asarray(linalg.solve_triangular(self.triangle, half.T, check_finite=False))


def independent_columns(X: FloatArray) -> tuple[Basis, list[int], list[Repeated]]:
    """Find the columns (n, c) that those before them don't explain.

    A column counts as explained when less than 1e-6 of its length, about its mean, is left: single
    precision repeats a standardised column to 1e-7.

    Returns
    -------
    basis : Basis
        Of the columns that are kept.
    kept : list of int
        Which these are.
    repeated : list of Repeated
        The others.
    """
    n, c = X.shape
    Q, T = np.empty((n, c), order="F"), np.zeros((c, c))
    kept: list[int] = []
    repeated: list[Repeated] = []
    for j in range(c):
        k = len(kept)
        rest = np.array(X[:, j])
        norm = float(np.linalg.norm(rest))
        about = float(np.linalg.norm(rest - rest.mean())) if n else 0.0
        length = about if about > _ROUNDING_OF_MEAN * norm else norm
        products = np.zeros(k)
        # Twice, against the rounding of the first pass.
        for _ in range(2):
            part = Q[:, :k].T @ rest / n
            rest -= Q[:, :k] @ part
            products += part
        left = float(np.linalg.norm(rest))
        if left > max(_REPEATED * length, _ROUNDING_OF_MEAN * norm):
            T[:k, k], T[k, k] = products, left / np.sqrt(n)
            np.divide(rest, T[k, k], out=Q[:, k])
            kept.append(j)
            continue
        share = np.zeros(k)
        if k and norm > 0.0:
            others = X[:, kept]
            # A constant column is explained by means, any other by what is about them.
            if about > _ROUNDING_OF_MEAN * norm:
                others = others - others.mean(axis=0)
            share = np.abs(linalg.solve_triangular(T[:k, :k], products))
            share *= np.linalg.norm(others, axis=0)
        named = [
            kept[i] for i in np.argsort(-share, kind="stable") if share[i] > 0.01 * share.max()
        ]
        repeated.append(Repeated(j, tuple(named) or (tuple(kept) if norm > 0.0 else ())))
    k = len(kept)
    return Basis(np.ascontiguousarray(Q[:, :k]), T[:k, :k]), kept, repeated


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
