"""The design of the random effects, kept as the values that it was standardised from."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class RandomDesign:
    """G = (raw - centre) * scale, column by column.

    Genotypes are small integers: in single precision they, and sums of their products over
    thousands of samples, are exact, at half the memory and twice the speed.

    Attributes
    ----------
    raw : (n, l_raw) float32 or float64
        Values before standardisation, C order.
    centre, scale : (l,) float64
        What makes G of them.
    columns : (l,) int64, optional
        Columns of ``raw`` that are G's; all by default. Designs that leave some out share ``raw``.
    """

    raw: NDArray[np.float32] | NDArray[np.float64]
    centre: FloatArray
    scale: FloatArray
    columns: NDArray[np.int64] | None = None

    @classmethod
    def from_matrix(cls, G: FloatArray) -> "RandomDesign":
        """Take G as it is."""
        G = np.ascontiguousarray(G, dtype=np.float64)
        return cls(G, np.zeros(G.shape[1]), np.ones(G.shape[1]))

    @property
    def n_random(self) -> int:
        """Number of random effects l."""
        return len(self.centre)

    def matrix(self, rows: slice | NDArray[np.generic] = slice(None)) -> FloatArray:
        """Return G (n, l) float64, or some of its rows."""
        return (self.own(self.raw[rows]).astype(np.float64) - self.centre) * self.scale

    def only(self, columns: NDArray[np.int64]) -> "RandomDesign":
        """Keep these of G's columns (k,), scaled by (l / k)^½: by the root of their own number."""
        return replace(
            self,
            centre=self.centre[columns],
            scale=self.scale[columns] * np.sqrt(self.n_random / len(columns)),
            columns=columns if self.columns is None else self.columns[columns],
        )

    def own(self, values: NDArray[Any]) -> NDArray[Any]:
        """Take G's columns from values for the columns of ``raw``, (..., l_raw) to (..., l)."""
        return values if self.columns is None else values[..., self.columns]

    def in_raw(self, values: FloatArray) -> FloatArray:
        """Put values (..., l) at their columns of ``raw``, zero elsewhere, (..., l_raw)."""
        if self.columns is None:
            return values
        out = np.zeros((*values.shape[:-1], self.raw.shape[1]))
        out[..., self.columns] = values
        return out
