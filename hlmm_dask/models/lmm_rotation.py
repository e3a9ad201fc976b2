"""Eigenvectors of a relationship matrix, or of the K = ZZᵀ of random effects."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from hlmm_dask.arguments import number
from hlmm_dask.errors import InputError
from hlmm_dask.models.design import as_design, as_vector
from hlmm_dask.models.lmm_spectral import RotatedData, check_rank

FloatArray = NDArray[np.float64]
# A matrix whose pairs have different variants need not be positive semidefinite, but nearly is:
# with 10% of the calls missing, eigenvalues down to -0.05 of the largest and 0.07 of the sum are
# negative; of distances, or of a matrix that belongs to other rows, nearly all of it.
_INDEFINITE = 0.1
# Of the sum; below it lies what rounding, as in a text file, leaves of zero.
_WORTH_A_NOTE = 1e-5
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
    notes : tuple of str
        Negative eigenvalues that are taken as zero, or columns without a direction of their own.
    """

    values: FloatArray
    vectors: FloatArray
    notes: tuple[str, ...] = ()

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


def not_negative(values: FloatArray, what: str = "K") -> tuple[FloatArray, tuple[str, ...]]:
    """Take the negative eigenvalues of a relationship matrix as zero.

    Parameters
    ----------
    values : (r,) float64
        Eigenvalues.
    what : str
        Name of the matrix in the error.

    Returns
    -------
    values : (r,) float64
        Eigenvalues, >= 0.
    notes : tuple of str
        What was changed, beyond rounding.

    Raises
    ------
    InputError
        If the smallest is below -0.1 times the largest, or the negative ones sum up to more than
        0.1 times the others: that is no relationship matrix.
    """
    smallest, largest = float(values.min()), float(values.max())
    positive = float(values[values > 0].sum())
    negative = positive - float(values.sum())
    if smallest < -_INDEFINITE * max(largest, 0.0) or negative > _INDEFINITE * positive:
        raise InputError(
            f"{what} is not positive semidefinite: its smallest eigenvalue is {smallest:.6g}, its "
            f"largest {largest:.6g}, the sum of the negative ones {-negative:.6g}, of the others "
            f"{positive:.6g}; expected relationships, where these ratios are within "
            f"-{_INDEFINITE:g} but for missing calls"
        )
    notes: tuple[str, ...] = ()
    if negative > _WORTH_A_NOTE * positive:
        notes = (
            f"not positive semidefinite; its negative eigenvalues (smallest {smallest:.3g}, "
            f"together {negative / positive:.2g} of the others) are taken as zero",
        )
    return np.maximum(values, 0.0), notes


def rotation_of_kinship(kinship: ArrayLike, *, rank: int | None = None) -> Rotation:
    """Eigenvectors of K (n, n), symmetric and positive semidefinite, or the first ``rank``.

    Negative eigenvalues are taken as zero, within the limits of :func:`not_negative`.
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
    values, notes = not_negative(values)
    notes = tuple(f"the relationship matrix is {note}" for note in notes)
    # What rounding leaves of zero is zero: then a singular K can be told from a regular one.
    values[values < n * np.finfo(float).eps * values[-1]] = 0.0
    return Rotation(values[::-1][:rank], np.ascontiguousarray(vectors[:, ::-1][:, :rank]), notes)


def rotation_of_effects(Z: ArrayLike, *, max_condition_number: float = 1e10) -> Rotation:
    """Eigenvectors of K = ZZᵀ for Z (n, m): all n if n <= m, else those that Z spans.

    With n > m these are m, or fewer: eigenvalues below the largest one over
    ``max_condition_number``, as of repeated or zero columns, are left out with a note.
    """
    number("max_condition_number", max_condition_number, least=1.0, infinite=True)
    Z = as_design("z", Z, len(np.asarray(Z)))
    n, m = Z.shape
    left, singular, _ = linalg.svd(Z, full_matrices=False, check_finite=False)
    values = singular**2
    if not values.size or not values[0] > 0.0:
        raise InputError(f"z {Z.shape} has no column, or zeros alone: expected random effects")
    notes: tuple[str, ...] = ()
    if n > m:
        kept = values * max_condition_number >= values[0]
        if not kept.all():
            notes = (
                f"z has {m} columns, of which {int(kept.sum())} are linearly independent: the "
                f"model has rank {int(kept.sum())}",
            )
            values, left = values[kept], np.ascontiguousarray(left[:, kept])
    values[values < (n * np.finfo(float).eps) ** 2 * values[0]] = 0.0
    return Rotation(values, left, notes)
