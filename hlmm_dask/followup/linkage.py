"""Linkage of two variants from unphased genotypes."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def linkage(a: FloatArray, b: FloatArray) -> tuple[float, float]:
    """Squared correlation r² and |D′| of two variants.

    D is half the covariance of the counts (the composite measure, D itself under random mating).

    Parameters
    ----------
    a, b : (n,) float64
        Copies of an allele of each, NaN where missing.

    Returns
    -------
    (float, float)
        NaN where a variant does not vary.
    """
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan"), float("nan")
    x, y = a - a.mean(), b - b.mean()
    covariance = float(x @ y) / len(x)
    r2 = covariance**2 / (float(x @ x) * float(y @ y) / len(x) ** 2)
    p, q = 0.5 * float(a.mean()), 0.5 * float(b.mean())
    most = min(p * (1 - q), (1 - p) * q) if covariance >= 0 else min(p * q, (1 - p) * (1 - q))
    return min(r2, 1.0), min(abs(covariance) / 2.0 / most, 1.0)
