"""Moments of the samples' shares in the scores: what expansions of the scores' tails need."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_ORDER = 5
# Samples with more than this share of Σ v² are kept, the largest ones.
_LARGE, _N_KEPT = 0.05, 3
# Samples whose powers are in memory.
_CHUNK = 16_384


@dataclass(frozen=True)
class ScoreMoments:
    """Moments of shares u in the score of the mean and v in that of the variance.

    Attributes
    ----------
    n : int
        Samples.
    rest : (6, 6) float64
        Σ u^i v^j, i + j up to 5, over the samples that are not kept.
    kept : (2, k) float64
        u and v of the samples without which the scores are far from normal, 3 at the most.
    kept_at : (k,) int64
        Which samples these are.
    """

    n: int
    rest: FloatArray
    kept: FloatArray
    kept_at: IntArray

    @classmethod
    def of(cls, u: FloatArray, v: FloatArray) -> "ScoreMoments":
        """Moments of shares (n,), both of mean zero."""
        top = largest(v, min(_N_KEPT, len(v) // 4))
        top = np.ascontiguousarray(top[v[top] ** 2 > _LARGE * (v @ v)])
        kept, others = np.stack([u[top], v[top]]), np.stack([np.delete(u, top), np.delete(v, top)])
        rest = np.zeros((_ORDER + 1, _ORDER + 1))
        for start in range(0, others.shape[1], _CHUNK):
            powers_u, powers_v = (_powers(x) for x in others[:, start : start + _CHUNK])
            rest += powers_u.T @ powers_v
        return cls(len(u), rest, kept, top)


def largest(values: FloatArray, n: int) -> IntArray:
    """Which are the ``n`` largest in absolute value, largest first and of equal ones the first."""
    size = np.abs(values)
    least = np.partition(size, len(size) - n)[len(size) - n] if n else np.inf
    found = np.flatnonzero(size >= least)
    return found[np.argsort(-size[found], kind="stable")][:n]


def _powers(values: FloatArray) -> FloatArray:
    """Powers 0 to 5 of (n,) values, (n, 6)."""
    out = np.ones((len(values), _ORDER + 1))
    for k in range(_ORDER):
        np.multiply(out[:, k], values, out=out[:, k + 1])
    return out
