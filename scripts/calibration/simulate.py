"""Genotypes without any effect, as packed calls, and phenotypes of several distributions."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Packed = NDArray[np.uint8]

DISTRIBUTIONS = ("normal", "gamma", "t", "lognormal", "outlier")
DISTRIBUTION_DOC = {
    "normal": "normal",
    "gamma": "gamma, shape 2",
    "t": "t, 5 df",
    "lognormal": "log-normal, σ 0.7",
    "outlier": "normal, one sample at 10 SD",
}


def phenotype(name: str, n: int, rng: np.random.Generator) -> FloatArray:
    """Residuals (n,) of a distribution, with mean 0 and variance 1 (the outlier apart)."""
    if name == "normal":
        return rng.standard_normal(n)
    if name == "gamma":
        return (rng.gamma(2.0, size=n) - 2.0) / np.sqrt(2.0)
    if name == "t":
        return rng.standard_t(5, size=n) * np.sqrt(3.0 / 5.0)
    if name == "lognormal":
        s2 = 0.7**2
        y = rng.lognormal(0.0, 0.7, size=n)
        return (y - np.exp(s2 / 2.0)) / np.sqrt((np.exp(s2) - 1.0) * np.exp(s2))
    if name == "outlier":
        y = rng.standard_normal(n)
        y[0] = 10.0
        return y
    raise ValueError(name)


def packed_variants(maf: float, m: int, n: int, seed: int) -> Packed:
    """Draw ``m`` variants of ``n`` samples, independent, in Hardy-Weinberg proportions.

    Returns
    -------
    (m, n / 4) uint8
        As in a .bed; ``n`` is a multiple of 4.
    """
    # Codes 00, 10, 11: two, one, no copy of the allele with frequency maf; 01 is missing.
    code = np.array([maf**2, 0.0, 2.0 * maf * (1.0 - maf), (1.0 - maf) ** 2])
    four = np.einsum("a,b,c,d->abcd", code, code, code, code).ravel()
    share, other = _alias(four)
    out = np.empty((m, n // 4), np.uint8)
    _draw(out, share, other, np.uint64(seed))
    return out


def family_genotypes(
    maf: float, m: int, families: int, siblings: int, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Drop genes into full siblings: copies (m, families × siblings) of an allele."""
    parents = rng.random((m, families, 2, 2)) < maf
    child = np.zeros((m, families, siblings), np.int8)
    for parent in range(2):
        which = rng.integers(0, 2, size=(m, families, siblings))
        child += np.take_along_axis(parents[:, :, parent, :], which, axis=2)
    return child.reshape(m, families * siblings)


def _alias(p: FloatArray) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Walker's tables, by which a value is drawn from 256 at the cost of one random number."""
    k = len(p)
    scaled = p * k / p.sum()
    share, other = np.ones(k), np.arange(k, dtype=np.uint8)
    small = [i for i in range(k) if scaled[i] < 1.0]
    large = [i for i in range(k) if scaled[i] >= 1.0]
    while small and large:
        low, high = small.pop(), large.pop()
        share[low], other[low] = scaled[low], high
        scaled[high] -= 1.0 - scaled[low]
        (small if scaled[high] < 1.0 else large).append(high)
    return share, other


@njit(cache=True)  # type: ignore[untyped-decorator]  # numba has no types
def _draw(out: Packed, share: FloatArray, other: Packed, seed: np.uint64) -> None:
    # SplitMix64 (Steele, Lea & Flood 2014): 8 bits choose the cell, 53 others the side.
    state = seed * np.uint64(0x9E3779B97F4A7C15)
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            state += np.uint64(0x9E3779B97F4A7C15)
            z = state
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
            cell = np.uint8(z & np.uint64(255))
            side = np.float64(z >> np.uint64(11)) * 2.0**-53
            out[j, i] = cell if side < share[cell] else other[cell]
