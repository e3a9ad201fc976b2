"""A phenotype's distribution in a few numbers, for sums over samples that depend on it alone.

The largest values keep their samples; of the others, nodes and weights of Gauss's quadrature stand
for the distribution: sums of polynomials up to a degree of twice the number of nodes are exact.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal

from hlmm_dask.kernels.score_moments import ScoreMoments, largest

FloatArray = NDArray[np.float64]

_N_OUTLIERS = 24
_N_NODES = 32
# Cells of equal numbers of samples from which the nodes are made: sorted values, averaged.
_N_CELLS = 8192


@dataclass(frozen=True)
class ResidualNodes:
    """What stands for the values of all samples.

    Attributes
    ----------
    value, weight : (k,) float64
        Nodes, and how many samples each stands for.
    outlier : (t,) float64
        The values that are kept.
    outlier_at : (t,) int64
        Positions of their samples in the genotype file.
    moments : ScoreMoments
        Of y and its squares.
    kept_at : (k,) int64
        Positions in the genotype file of the samples that they keep.
    """

    value: FloatArray
    weight: FloatArray
    outlier: FloatArray
    outlier_at: NDArray[np.int64]
    moments: ScoreMoments
    kept_at: NDArray[np.int64]

    @classmethod
    def of(cls, y: FloatArray, sample_index: NDArray[np.int64]) -> "ResidualNodes":
        """Nodes of ``y`` (n,), whose samples stand at ``sample_index`` (n,) of the file."""
        n_outliers = min(_N_OUTLIERS, len(y) // 4)
        top = largest(y, n_outliers)
        rest = np.sort(np.delete(y, top))
        bounds = np.linspace(0, len(rest), min(_N_CELLS, len(rest)) + 1).astype(np.int64)
        counts = np.diff(bounds).astype(np.float64)
        cells = np.add.reduceat(rest, bounds[:-1]) / counts
        value, weight = gauss_nodes(cells, counts, _N_NODES)
        squares = y * y
        moments = ScoreMoments.of(y, squares / squares.mean() - 1.0)
        kept_at = sample_index[moments.kept_at]
        return cls(value, weight, y[top], sample_index[top], moments, kept_at)


def gauss_nodes(
    values: FloatArray, counts: FloatArray, n_nodes: int
) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of Gauss's quadrature of a discrete distribution, by Lanczos' recursion.

    Parameters
    ----------
    values, counts : (k,) float64
        Points and their weights.
    n_nodes : int
        Nodes at the most; fewer where there are fewer different points.
    """
    scale = max(float(np.abs(values).max()), np.finfo(float).tiny)
    a, total = values / scale, counts.sum()
    basis = [np.sqrt(counts / total)]
    diagonal, beside = [], []
    while True:
        step = a * basis[-1]
        diagonal.append(float(step @ basis[-1]))
        for _ in range(2):  # once more for what rounding leaves
            for vector in basis:
                step -= (step @ vector) * vector
        length = float(np.linalg.norm(step))
        if len(diagonal) == n_nodes or length < 1e-10:
            break
        beside.append(length)
        basis.append(step / length)
    nodes, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside))
    return np.asarray(nodes * scale), np.asarray(total * vectors[0] ** 2)
