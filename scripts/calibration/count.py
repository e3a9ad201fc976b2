"""Counts of small p-values, and what is said of them."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hlmm_dask.schema import INDEX, Status

FloatArray = NDArray[np.float64]

LEVELS = (1e-3, 1e-4, 1e-5)
# Columns of -log10 p by the name that tables and plots give them.
TESTS = {
    "var, classical": "var_neg_log10_p",
    "var, likelihood ratio": "var_lrt_neg_log10_p",
    "var, headline": "var_best_neg_log10_p",
    "add, classical": "add_neg_log10_p",
    "add, score": "add_score_neg_log10_p",
    "2 df, classical": "av_neg_log10_p",
    "2 df, sandwich": "av_robust_neg_log10_p",
    "2 df, score": "av_score_neg_log10_p",
}
# What has no column of its own: a statistic over its standard error, by the normal distribution.
_RATIOS = {
    "var, sandwich": ("var", "var_robust_se"),
    "var, score, normal tail": ("var_score_t", ""),
}
# Of the distribution of -log10 p, fine enough for its median.
_EDGES = np.linspace(0.0, 1.0, 20_001)


@dataclass
class Counts:
    """Variants of one test in one setting.

    Attributes
    ----------
    n : int
        Variants.
    below : (3,) int64
        p-values below each of `LEVELS`.
    histogram : (k,) int64
        Of p in equal cells.
    """

    n: int = 0
    below: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(LEVELS), np.int64))
    histogram: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(len(_EDGES) - 1, np.int64)
    )

    def add(self, p: FloatArray) -> None:
        """Count p-values; NaN are left out."""
        p = p[~np.isnan(p)]
        self.n += len(p)
        self.below += [int(np.sum(p < level)) for level in LEVELS]
        self.histogram += np.histogram(p, _EDGES)[0]

    def __iadd__(self, other: "Counts") -> "Counts":
        self.n += other.n
        self.below += other.below
        self.histogram += other.histogram
        return self

    @property
    def inflation(self) -> float:
        """λ_GC: chi-square of the median p over that of 0.5, 1 df."""
        if not self.n:
            return np.nan
        at = np.interp(0.5 * self.n, np.concatenate([[0], np.cumsum(self.histogram)]), _EDGES)
        return float(stats.chi2.isf(at, 1) / stats.chi2.isf(0.5, 1))

    def rate(self, i: int) -> tuple[float, float, float]:
        """Rate at a level over the level, and its exact 95% interval (Clopper & Pearson 1934)."""
        if not self.n:
            return np.nan, np.nan, np.nan
        k, level = int(self.below[i]), LEVELS[i]
        low = float(stats.beta.ppf(0.025, k, self.n - k + 1)) if k else 0.0
        high = float(stats.beta.ppf(0.975, k + 1, self.n - k))
        return k / self.n / level, low / level, high / level


def p_values(results: FloatArray) -> dict[str, FloatArray]:
    """p-values of the fitted variants by the names of the tests."""
    results = results[results[:, INDEX["status"]] == Status.OK]
    out = {name: 10.0 ** -results[:, INDEX[column]] for name, column in TESTS.items()}
    for name, (value, error) in _RATIOS.items():
        z = results[:, INDEX[value]]
        if error:
            z = z / results[:, INDEX[error]]
        out[name] = 2.0 * stats.norm.sf(np.abs(z))
    return out
