"""P-values on the -log10 scale."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from scipy import stats

from hlmm_dask.models.inference import (
    genomic_control_lambda,
    neg_log10_p_chi2_2df,
    neg_log10_p_normal,
    neg_log10_p_t,
)


def asymptotic(t: float) -> float:
    """-log10 of 2 Φ(-t) by the divergent series of Mills' ratio, cut where it is exact enough."""
    series, term = 1.0, 1.0
    for k in range(1, 12):
        term *= -(2 * k - 1) / t**2
        series += term
    log_p = math.log(2.0) - t**2 / 2 - math.log(t * math.sqrt(2 * math.pi)) + math.log(series)
    return -log_p / math.log(10.0)


def test_normal_is_scipys() -> None:
    t = np.linspace(-30.0, 30.0, 301)
    expected = -(stats.norm.logsf(np.abs(t)) + np.log(2.0)) / np.log(10.0)
    np.testing.assert_allclose(neg_log10_p_normal(t), expected, rtol=1e-13, atol=1e-14)
    moderate = np.abs(t) < 8
    chi2 = -np.log10(stats.chi2.sf(t[moderate] ** 2, 1))
    np.testing.assert_allclose(neg_log10_p_normal(t[moderate]), chi2, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("t", [20.0, 40.0, 60.0, 1e3, 1e6])
def test_normal_far_in_the_tail(t: float) -> None:
    result = neg_log10_p_normal(np.array([t, -t]))
    np.testing.assert_allclose(result, asymptotic(t), rtol=1e-12)


def test_normal_at_zero_infinity_and_nan() -> None:
    result = neg_log10_p_normal([0.0, np.nan, np.inf, -np.inf])
    assert result[0] == 0.0
    assert not np.signbit(result[0])
    assert np.isnan(result[1])
    assert (result[2:] == np.inf).all()


def test_chi2_with_two_degrees_of_freedom() -> None:
    chi2 = np.array([0.0, 0.3, 5.0, 200.0])
    expected = -stats.chi2.logsf(chi2, 2) / np.log(10.0)
    np.testing.assert_allclose(neg_log10_p_chi2_2df(chi2), expected, rtol=1e-13, atol=1e-15)
    assert neg_log10_p_chi2_2df(7200.0) == pytest.approx(3600.0 / math.log(10.0), rel=1e-14)
    assert np.isnan(neg_log10_p_chi2_2df(np.nan))


def test_shape_is_kept() -> None:
    t = np.ones((3, 1, 2))
    assert neg_log10_p_normal(t).shape == neg_log10_p_chi2_2df(t).shape == t.shape


def test_genomic_control() -> None:
    t = stats.norm.ppf((np.arange(4001) + 0.5) / 4001)
    y = neg_log10_p_normal(t)
    assert genomic_control_lambda(y) == pytest.approx(1.0, abs=1e-3)
    wider = neg_log10_p_normal(np.append(1.5 * t, np.nan))
    assert genomic_control_lambda(wider) == pytest.approx(2.25, abs=3e-3)
    one = neg_log10_p_normal([1.0])
    assert genomic_control_lambda(one) == pytest.approx(1.0 / stats.chi2.median(1), rel=1e-12)
    two = neg_log10_p_chi2_2df(np.median(t**2) + 1.0)
    expected = (np.median(t**2) + 1.0) / stats.chi2.median(2)
    assert genomic_control_lambda(two, 2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("y", [[], [np.nan, np.nan]])
def test_genomic_control_without_a_p_value(y: list[float]) -> None:
    assert math.isnan(genomic_control_lambda(y))


def students_tail(t: float, df: int) -> float:
    """-log10 p for an even number of degrees of freedom, by the finite sum to 700 digits."""
    with localcontext() as context:
        context.prec = 700
        square = Decimal(t) ** 2
        cosine = df / (df + square)
        total = term = Decimal(1)
        for k in range(1, df // 2):
            term *= cosine * (2 * k - 1) / (2 * k)
            total += term
        return float(-(1 - (square / (df + square)).sqrt() * total).log10())


@pytest.mark.parametrize(
    ("t", "df"),
    [(0.5, 2), (1e150, 2), (5.0, 10), (1e40, 10), (1.0, 1408), (40.0, 1408), (100.0, 1408)],
)
def test_t_far_in_the_tail(t: float, df: int) -> None:
    result = neg_log10_p_t(np.array([t, -t, np.nan]), df)
    np.testing.assert_allclose(result[:2], students_tail(t, df), rtol=1e-12, atol=1e-14)
    assert np.isnan(result[2])


def test_t_is_scipys_and_joins_its_continuation() -> None:
    t = np.linspace(-30.0, 30.0, 301)
    for df in (1, 7, 500):
        expected = -(stats.t.logsf(np.abs(t), df) + np.log(2.0)) / np.log(10.0)
        np.testing.assert_allclose(neg_log10_p_t(t, df), expected, rtol=1e-10, atol=1e-13)
    # Where p passes 1e-290, the curve has no step.
    p = neg_log10_p_t(np.linspace(36.0, 37.0, 201), 1e5)
    assert p[0] < 290.0 < p[-1]
    assert np.max(np.abs(np.diff(p, n=3))) < 1e-9
