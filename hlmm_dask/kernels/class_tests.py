"""Other tests of equal variances: Levene, Brown-Forsythe, Bartlett, DRM and SVLM.

They see the genotype as classes, and the phenotype as the null model's covariates leave it, random
effects in it. Bartlett's test and SVLM come from class sums; the others need absolute deviations
from the mean or the median of each class, for which the samples are passed once more.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.class_moments import ClassMoments
from hlmm_dask.models.inference import (
    neg_log10_p_chi2_2df,
    neg_log10_p_normal,
    neg_log10_p_t,
)

FloatArray = NDArray[np.float64]
Codes = NDArray[np.int8]

# Of these the statistic has a sign, that of the effect.
SIGNED = ("drm", "svlm")
_FOURTHS = ("svlm",)
_LN10 = float(np.log(10.0))


def needs_fourths(tests: Sequence[str]) -> bool:
    """Whether any of the tests takes sums of fourth powers."""
    return not set(tests).isdisjoint(_FOURTHS)


def class_tests(
    tests: Sequence[str], moments: ClassMoments, codes: Codes | None, y: FloatArray
) -> FloatArray:
    """Statistic and -log10 p of each test.

    Parameters
    ----------
    tests : sequence of str
        Names, see ``schema.TEST_COLUMNS``.
    moments : ClassMoments
        Of m variants.
    codes : (m, n) int8, optional
        Copies of allele 1, -1 where missing; for the tests that need the samples.
    y : (n,) float64
        The phenotype, centred.

    Returns
    -------
    (m, 2 tests) float64
        NaN where there is no such test: fewer than two classes, or no deviation in any.
    """
    from hlmm_dask.kernels import class_test_loops

    out = np.full((len(moments.n), 2 * len(tests)), np.nan)
    centres = np.where(moments.counts > 0, moments.means + moments.centre, 0.0).T
    for i, test in enumerate(tests):
        with np.errstate(all="ignore"):
            if test == "bartlett":
                found = _bartlett(moments)
            elif test == "svlm":
                found = _svlm(moments)
            else:
                assert codes is not None
                about = np.ascontiguousarray(centres)
                if test != "levene":
                    class_test_loops.medians(codes, y, about)
                sums = np.empty((len(codes), 3, 2))
                class_test_loops.deviations(codes, y, about, sums)
                first, second = sums.transpose(2, 1, 0)
                f = _drm if test == "drm" else _analysis_of_variance
                found = f(moments, first, second)
        out[:, 2 * i], out[:, 2 * i + 1] = found
    return out


def _bartlett(moments: ClassMoments) -> tuple[FloatArray, FloatArray]:
    # As in its definition a class of one sample has no variance, and takes no part.
    n_k = np.where(moments.counts > 1, moments.counts, 0.0)
    k, n = (n_k > 0).sum(axis=0), n_k.sum(axis=0)
    free = np.maximum(n_k - 1.0, 0.0)
    pooled = np.where(n_k > 0, moments.within, 0.0).sum(axis=0) / (n - k)
    logs = np.where(n_k > 0, free * np.log(moments.within / free), 0.0).sum(axis=0)
    inverse = np.where(n_k > 0, 1.0 / free, 0.0).sum(axis=0)
    chi2 = ((n - k) * np.log(pooled) - logs) / (1.0 + (inverse - 1.0 / (n - k)) / (3.0 * (k - 1.0)))
    chi2 = np.where((k > 1) & np.isfinite(chi2), np.maximum(chi2, 0.0), np.nan)
    return chi2, np.where(k == 2, neg_log10_p_normal(np.sqrt(chi2)), neg_log10_p_chi2_2df(chi2))


def _svlm(moments: ClassMoments) -> tuple[FloatArray, FloatArray]:
    """Squared residuals of the regression on the genotype, regressed on it (Struchalin 2012)."""
    n_k, x = moments.counts, moments.x
    slope = (n_k * x * moments.means).sum(axis=0) / (n_k * x * x).sum(axis=0)
    _, r2, _, r4 = moments.powers(np.where(n_k > 0, moments.means - slope * x, 0.0))
    return _regression(moments, r2, r4.sum(axis=0))


def _drm(
    moments: ClassMoments, first: FloatArray, second: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Deviations from the class medians, regressed on the genotype (Marderstein 2021)."""
    return _regression(moments, first, second.sum(axis=0))


def _regression(
    moments: ClassMoments, sums: FloatArray, squares: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """T statistic of the regression of z on the genotype, from class sums of z and its Σ z²."""
    n, x = moments.n, moments.x
    x_square = (moments.counts * x * x).sum(axis=0)
    slope = (x * sums).sum(axis=0) / x_square
    total = squares - sums.sum(axis=0) ** 2 / n
    left = total - slope**2 * x_square
    known = (n > 2) & (left > 1e-12 * squares)
    t = np.where(known, slope / np.sqrt(left / (n - 2.0) / x_square), np.nan)
    return t, neg_log10_p_t(t, n - 2.0)


def _analysis_of_variance(
    moments: ClassMoments, first: FloatArray, second: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """F statistic of deviations by class, from their sums and sums of squares, (3, m)."""
    n_k, n = moments.counts, moments.n
    k = (n_k > 0).sum(axis=0)
    means = np.where(n_k > 0, first / np.maximum(n_k, 1.0), 0.0)
    between = (n_k * (means - first.sum(axis=0) / n) ** 2).sum(axis=0)
    within = (second - first * means).sum(axis=0)
    known = (k > 1) & (n > k) & (within > 1e-12 * second.sum(axis=0))
    f = np.where(known, between / (k - 1.0) / (within / (n - k)), np.nan)
    # With three classes the tail is a power.
    three = 0.5 * (n - 3.0) * np.log1p(2.0 * f / (n - 3.0)) / _LN10
    return f, np.where(k == 2, neg_log10_p_t(np.sqrt(f), n - 2.0), three)
