"""A relationship matrix with the people it belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.ids import Id as Id
from hlmm_dask.ids import id_hints, shown_ids

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Kinship:
    """A relationship matrix.

    Attributes
    ----------
    ids : list of (str, str)
        FID and IID of each row.
    matrix : (n, n) float64
        Relationships, symmetric.
    n_variants : float or (n, n) float32
        Variants it was computed from, for each pair where that differs; NaN if unknown.
    source : str
        Where it comes from, for messages.
    notes : tuple of str
        Variants that were left out.
    """

    ids: list[Id]
    matrix: FloatArray
    n_variants: float | NDArray[np.float32] = float("nan")
    source: str = "the relationship matrix"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.matrix.shape == (len(self.ids),) * 2

    def select(self, ids: Sequence[Id]) -> FloatArray:
        """Relationships of some people, in their order, (k, k).

        Raises
        ------
        InputError
            If someone is not in the matrix.
        """
        row_of = {key: row for row, key in enumerate(self.ids)}
        if absent := [key for key in ids if key not in row_of]:
            raise InputError(
                f"{self.source}: {len(absent)} of {len(ids)} people are not in it "
                f"(first: {shown_ids(absent)}; it has {shown_ids(self.ids, 3)}); "
                + ("; ".join(id_hints(absent, self.ids)) or "compute it for all, or leave them out")
            )
        rows = np.array([row_of[key] for key in ids], dtype=np.int64)
        return self.matrix[np.ix_(rows, rows)]
