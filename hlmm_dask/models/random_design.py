"""The design of the random effects, kept as the values that it was standardised from."""

from dataclasses import dataclass

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
    raw : (n, l) float32 or float64
        Values before standardisation, C order.
    centre, scale : (l,) float64
        What makes G of them.
    """

    raw: NDArray[np.float32] | NDArray[np.float64]
    centre: FloatArray
    scale: FloatArray

    @classmethod
    def from_matrix(cls, G: FloatArray) -> "RandomDesign":
        """Take G as it is."""
        G = np.ascontiguousarray(G, dtype=np.float64)
        return cls(G, np.zeros(G.shape[1]), np.ones(G.shape[1]))

    @property
    def n_random(self) -> int:
        """Number of random effects l."""
        return int(self.raw.shape[1])

    def matrix(self, rows: slice | NDArray[np.generic] = slice(None)) -> FloatArray:
        """Return G (n, l) float64, or some of its rows."""
        return (self.raw[rows].astype(np.float64) - self.centre) * self.scale
