"""Eigenvectors of a relationship matrix, or of the K = ZZᵀ of random effects."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from hlmm_dask.models.design import as_design, as_vector
from hlmm_dask.models.lmm_spectral import RotatedData, check_rank

FloatArray = NDArray[np.float64]
# A matrix of relationships may be rounded as in a text file, but not be indefinite beyond that.
_INDEFINITE = 1e-5
_ASYMMETRIC = 1e-8


@dataclass(frozen=True)
class Rotation:
    """Eigenvectors of K; one rotation serves every phenotype of the same samples.

    Attributes
    ----------
    values : (r,) float64
        Eigenvalues, falling, >= 0.
    vectors : (n, r) float64
        Their eigenvectors; K is zero outside them.
    """

    values: FloatArray
    vectors: FloatArray

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.vectors)

    def rotate(self, y: ArrayLike, X: ArrayLike) -> RotatedData:
        """Rotate a phenotype (n,) and a design (n, c)."""
        y = as_vector("y", y)
        if len(y) != self.n_samples:
            raise ValueError(f"y has {len(y)} values, but K has {self.n_samples} rows")
        X = as_design("X", X, len(y))
        if len(self.values) == self.n_samples:
            return RotatedData.full(self.vectors.T @ y, self.vectors.T @ X, self.values)
        return RotatedData.low_rank(self.vectors.T @ y, self.vectors.T @ X, self.values, y, X)


def rotation_of_kinship(
    kinship: ArrayLike, *, rank: int | None = None, indefinite: float = _INDEFINITE
) -> Rotation:
    """Eigenvectors of K (n, n), symmetric and positive semidefinite, or the first ``rank``.

    Eigenvalues down to -``indefinite`` times the largest are taken as zero.
    """
    K = as_design("K", kinship, len(np.asarray(kinship)))
    n = len(K)
    if K.shape != (n, n):
        raise ValueError(f"K has shape {K.shape}, expected a square matrix")
    scale = float(np.max(np.abs(K), initial=0.0))
    if float(np.max(np.abs(K - K.T), initial=0.0)) > _ASYMMETRIC * scale:
        raise ValueError("K is not symmetric")
    check_rank(rank, n)
    values, vectors = linalg.eigh(K, driver="evd", check_finite=False)
    if values[0] < -indefinite * max(values[-1], 0.0):
        raise ValueError(
            f"K is not positive semidefinite: its smallest eigenvalue is {values[0]:.6g}, "
            f"its largest {values[-1]:.6g}"
        )
    # What rounding leaves of zero is zero: then a singular K can be told from a regular one.
    values[values < n * np.finfo(float).eps * values[-1]] = 0.0
    return Rotation(values[::-1][:rank], np.ascontiguousarray(vectors[:, ::-1][:, :rank]))


def rotation_of_effects(Z: ArrayLike, *, max_condition_number: float = 1e10) -> Rotation:
    """Eigenvectors of K = ZZᵀ for Z (n, m): all n if n <= m, else the m that Z spans.

    Raises
    ------
    ValueError
        If n > m and the eigenvalues range over more than ``max_condition_number``.
    """
    Z = as_design("z", Z, len(np.asarray(Z)))
    n, m = Z.shape
    left, singular, _ = linalg.svd(Z, full_matrices=False, check_finite=False)
    values = singular**2
    if n > m and not values[0] <= max_condition_number * values[-1]:
        raise ValueError(
            f"the eigenvalues of zᵀz range from {values[-1]:.3g} to {values[0]:.3g}, by more than "
            f"max_condition_number = {max_condition_number:.3g}: drop dependent columns of z"
        )
    values[values < (n * np.finfo(float).eps) ** 2 * values[0]] = 0.0
    return Rotation(values, left)
