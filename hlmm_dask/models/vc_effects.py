"""Random effects of a variance component model, each with its covariance up to a variance."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, sparse

from hlmm_dask.arguments import choice
from hlmm_dask.errors import InputError
from hlmm_dask.models.lmm_rotation import not_negative

FloatArray = NDArray[np.float64]
Matrix = FloatArray | sparse.csr_array
MissingLevels = Literal["refuse", "own"]
# Negative eigenvalues down to this share of the largest entry come from rounding.
_ROUNDING = 1e-10
# Text that stands for a missing value, in lower case; the types of pandas' missing values.
_MISSING_TEXT = ("", ".", "na", "n/a", "nan", "nat", "<na>", "none", "null")
_MISSING_TYPES = ("NoneType", "NAType", "NaTType")


@dataclass(frozen=True)
class RandomEffect:
    """Effects u ~ N(0, σ² A) that reach the phenotype as Z u, with covariance σ² V, V = Z A Zᵀ.

    Use one of the constructors.

    Attributes
    ----------
    name : str
        Name of the variance component.
    V : (n, n) float64 or sparse, or None
        Covariance of the phenotypes for a variance of 1; None is the identity.
    loading : (n, q) float64 or sparse, or None
        Z A, the covariance of phenotypes and effects; None is V.
    prior : (q,) float64
        Diagonal of A.
    levels : tuple of str or None
        Names of the q effects; None where each stands for a sample.
    notes : tuple of str
        What was changed in the covariance.
    """

    name: str
    V: Matrix | None
    loading: Matrix | None
    prior: FloatArray
    levels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_covariance(cls, name: str, covariance: Any) -> "RandomEffect":
        """One effect a sample, with covariance V (n, n), dense or sparse.

        Negative eigenvalues of a dense V are taken as zero, within the limits of
        :func:`hlmm_dask.models.lmm_rotation.not_negative`; ``notes`` say so. A sparse V is taken
        as it is.

        Raises
        ------
        ValueError
            If it is not square, symmetric and finite, all of it is zero, or it is far from
            positive semidefinite.
        """
        V, notes = _semidefinite(name, _covariance(name, covariance))
        return cls(name, V, None, np.asarray(V.diagonal(), dtype=np.float64), notes=notes)

    @classmethod
    def from_incidence(
        cls,
        name: str,
        Z: Any,
        covariance: Any = None,
        *,
        levels: Sequence[str] | None = None,
    ) -> "RandomEffect":
        """Effects u of q levels with incidence matrix Z.

        Parameters
        ----------
        name : str
            Name of the component.
        Z : (n, q) array or sparse
            How much of each effect is in each phenotype. A level without a phenotype has a
            column of zeros; its effect is predicted all the same.
        covariance : (q, q) array or sparse, optional
            A, the effects' covariance for a variance of 1; the identity by default.
        levels : sequence of str, optional
            Names of the effects.

        Raises
        ------
        ValueError
            If shapes don't fit, or a value is not finite.
        """
        design = _matrix(f"the incidence of {name!r}", Z)
        q = design.shape[1]
        if levels is not None and len(levels) != q:
            raise ValueError(f"{len(levels)} levels of {name!r}, but Z has {q} columns")
        prior, loading = np.ones(q), design
        notes: tuple[str, ...] = ()
        if covariance is not None:
            A, notes = _semidefinite(name, _covariance(name, covariance))
            if A.shape[0] != q:
                raise ValueError(f"the covariance of {name!r} is {A.shape}, but Z has {q} columns")
            prior, loading = np.asarray(A.diagonal(), dtype=np.float64), design @ A
        names = None if levels is None else tuple(str(level) for level in levels)
        return cls(name, _covariance(name, loading @ design.T), loading, prior, names, notes)

    @classmethod
    def from_levels(
        cls,
        name: str,
        values: Sequence[Any],
        covariance: Any = None,
        *,
        levels: Sequence[Any] | None = None,
        missing: MissingLevels = "refuse",
    ) -> "RandomEffect":
        """One effect for each level of a column, such as a household.

        Parameters
        ----------
        name : str
            Name of the component.
        values : sequence, length n
            Level of each sample; compared as text.
        covariance : (q, q) array or sparse, optional
            Covariance of the effects, in the order of ``levels``; the identity by default.
        levels : sequence, optional
            The levels, also those that no sample has; by default those found, in the order of
            their first sample.
        missing : {"refuse", "own"}
            What to do with a sample without a level: None, NaN, pandas' NA and NaT, and text such
            as ``NA``, ``.`` or nothing, unless ``levels`` has it. ``own``: a level of its own,
            unrelated to the others.

        Raises
        ------
        ValueError
            If a sample's level is missing or not among ``levels``, or one of these comes twice.
        """
        missing = choice("missing", missing, get_args(MissingLevels))
        values = _column(name, values)
        known = None
        if levels is not None:
            listed = _column(name, levels)
            if any(_no_level(item) and not isinstance(item, str) for item in listed):
                raise InputError(f"levels of {name!r}: one is missing; expected levels alone")
            known = [str(item) for item in listed]
        absent = [_no_level(value) and str(value) not in (known or ()) for value in values]
        taken = {str(value) for value in values} | set(known or ())
        labels = [
            _unused(f"{name} of sample {i}", taken) if none else str(value)
            for i, (value, none) in enumerate(zip(values, absent, strict=True), 1)
        ]
        if any(absent):
            first = absent.index(True)
            what = f"{name!r} has no level for {sum(absent)} of {len(labels)} samples"
            if missing == "refuse":
                raise InputError(
                    f"{what} (first: sample {first + 1}, {values[first]!r}); leave these samples "
                    'out, or give missing="own" for a level of its own for each'
                )
            if covariance is not None:
                raise InputError(
                    f"{what}, and the covariance has no rows for levels of their own; leave these "
                    "samples out"
                )
        names = list(dict.fromkeys(labels)) if known is None else known
        if known is not None:
            names = [*known, *(label for label, none in zip(labels, absent, strict=True) if none)]
        column = {label: j for j, label in enumerate(names)}
        if len(column) != len(names):
            raise ValueError(f"a level of {name!r} comes twice")
        if unknown := next((label for label in labels if label not in column), None):
            raise ValueError(f"level {unknown!r} of {name!r} is not among the {len(names)} levels")
        at = (np.arange(len(labels)), np.array([column[label] for label in labels], dtype=np.int64))
        Z = sparse.csr_array((np.ones(len(labels)), at), shape=(len(labels), len(names)))
        return cls.from_incidence(name, Z, covariance, levels=names)

    @classmethod
    def residual(cls, n_samples: int, name: str = "residual") -> "RandomEffect":
        """Independent residuals of equal variance: V is the identity."""
        return cls(name, None, None, np.ones(n_samples))

    @property
    def n_effects(self) -> int:
        """Number of effects q."""
        return len(self.prior)

    def times(self, rhs: FloatArray) -> FloatArray:
        """V ``rhs`` (n, r)."""
        return rhs if self.V is None else np.asarray(self.V @ rhs)

    def loading_columns(self, start: int, stop: int) -> FloatArray:
        """Columns [start, stop) of Z A, dense."""
        matrix = self.V if self.loading is None else self.loading
        if matrix is None:
            return np.eye(self.n_effects, stop - start, -start)
        chosen = matrix[:, start:stop]
        return np.asarray(chosen.toarray() if sparse.issparse(chosen) else chosen)

    def predict(self, py: FloatArray) -> FloatArray:
        """(Z A)ᵀ ``py`` (q,)."""
        matrix = self.V if self.loading is None else self.loading
        return py if matrix is None else np.asarray(matrix.T @ py)


def _column(name: str, values: Any) -> list[Any]:
    """List the items of one column, None where NumPy's mask hides them."""
    if isinstance(values, np.ma.MaskedArray):
        values = values.tolist()
    if getattr(values, "ndim", 1) != 1:
        raise InputError(f"levels of {name!r}: expected one column, a level for each sample")
    return list(values)


def _unused(label: str, taken: set[str]) -> str:
    while label in taken:
        label += "'"
    return label


def _no_level(value: Any) -> bool:
    if type(value).__name__ in _MISSING_TYPES:
        return True
    if isinstance(value, str):
        return value.strip().lower() in _MISSING_TEXT
    # NaN and NumPy's NaT are not equal to themselves.
    return bool(value != value)


def _matrix(what: str, value: ArrayLike | Any) -> Matrix:
    matrix: Any = value
    if sparse.issparse(value):
        matrix = sparse.csr_array(matrix, dtype=np.float64)
        values = matrix.data
    else:
        matrix = values = np.asarray(value, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"{what} has {matrix.ndim} dimensions, expected 2")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{what} has values that are not finite")
    return matrix  # type: ignore[no-any-return]  # a stub


def _covariance(name: str, value: Any) -> Matrix:
    what = f"the covariance of {name!r}"
    matrix: Any = _matrix(what, value)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{what} is {matrix.shape}, expected a square matrix")
    largest = float(abs(matrix).max()) if matrix.shape[0] else 0.0
    if not largest > 0:
        raise ValueError(f"{what} is zero")
    if float(abs(matrix - matrix.T).max()) > 1e-8 * largest:
        raise ValueError(f"{what} is not symmetric")
    return matrix  # type: ignore[no-any-return]  # a stub


def _semidefinite(name: str, V: Matrix) -> tuple[Matrix, tuple[str, ...]]:
    """Take negative eigenvalues of a dense covariance (n, n) as zero; say so in notes."""
    if sparse.issparse(V):
        return V, ()
    dense = np.asarray(V)
    # Eigenvalues cost several fits, and most matrices have none below zero.
    shift = _ROUNDING * float(np.abs(dense).max())
    with suppress(linalg.LinAlgError):
        linalg.cholesky(dense + shift * np.eye(len(dense)), lower=True, overwrite_a=True)
        return V, ()
    values, vectors = linalg.eigh(dense)
    what = f"the covariance of {name!r}"
    values, notes = not_negative(values, what)
    return (vectors * values) @ vectors.T if notes else V, tuple(f"{what} is {n}" for n in notes)
