import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlmm_dask.models.dispersion import (
    DispersionResult,
    NotEstimable,
    dispersion_effects,
)
from hlmm_dask.models.huber import huber_slope

TABLES = ["gamma/hlm", "mouse/hlm_pheno1"]


def effects(n=200, *, r=0.4, seed=1):
    rng = np.random.default_rng(seed)
    add_se = rng.uniform(0.01, 0.03, n)
    var_se = add_se * np.sqrt(2)
    truth = rng.normal(0, 0.05, n)
    return (
        truth + add_se * rng.normal(size=n),
        add_se,
        r * truth + var_se * rng.normal(size=n),
        var_se,
    )


def estimate(*args, **options) -> DispersionResult:
    result = dispersion_effects(*args, **options)
    assert isinstance(result, DispersionResult)
    return result


@pytest.fixture(params=TABLES)
def case(request, reference):
    stem = reference / request.param
    table = pd.read_csv(stem.with_name(stem.name + ".tsv"), sep="\t")
    expected = json.loads(stem.with_name(stem.name + ".dispersion.json").read_text())
    rows = pd.read_csv(stem.with_name(stem.name + ".dispersion.tsv"), sep="\t")
    return table, expected, rows


@pytest.mark.parametrize("stop", ["default_stop", "converged"])
def test_slope_is_that_of_rlm(case, stop):
    table, expected, _ = case
    want = expected[stop]
    kept = table.dropna(subset=["add", "var"])
    fit = huber_slope(kept["add"], kept["var"], to_fixed_point=stop == "converged")
    assert fit.converged == want["converged"]
    np.testing.assert_allclose(fit.slope, want["slope"], rtol=1e-10)
    np.testing.assert_allclose(fit.scale, want["scale"], rtol=1e-10)
    if stop == "default_stop":
        assert fit.n_iterations == want["iterations"]


@pytest.mark.parametrize("stop", ["default_stop", "converged"])
def test_effects_are_those_of_the_reference(case, stop):
    table, expected, rows = case
    columns = [table[c] for c in ("add", "add_se", "var", "var_se")]
    result = estimate(*columns, to_fixed_point=stop == "converged")
    for name in ("slope", "mean_noise", "var_add", "noise_adjustment", "r_av"):
        np.testing.assert_allclose(getattr(result, name), expected[stop][name], rtol=1e-10)
    if stop == "default_stop":
        assert (rows["index"] == table["index"]).all()
        for name, header in (
            ("dispersion", "dispersion"),
            ("dispersion_se", "dispersion_se"),
            ("dispersion_t", "dispersion_t"),
            ("dispersion_neg_log10_p", "dispersion_pval"),
        ):
            np.testing.assert_allclose(
                getattr(result, name), rows[header], rtol=1e-9, atol=1e-11, equal_nan=True
            )
        assert result.n_used == int(table["add"].notna().sum())


def test_line_is_recovered():
    result = estimate(*effects(20_000, r=0.4))
    assert result.r_av == pytest.approx(0.4, abs=0.02)
    assert np.std(result.dispersion_t) == pytest.approx(1.0, abs=0.05)


@given(st.floats(-8, 8), st.floats(-3, 3), st.sampled_from([-1.0, 1.0]))
def test_units_do_not_matter(log_c, log_d, sign):
    """add times c and var times d: the slope goes by d / c, the t statistics stay."""
    c, d = sign * 10.0**log_c, 10.0**log_d
    add, add_se, var, var_se = effects()
    base = estimate(add, add_se, var, var_se)
    other = estimate(c * add, abs(c) * add_se, d * var, d * var_se)
    np.testing.assert_allclose(other.r_av, base.r_av * d / c, rtol=1e-11)
    np.testing.assert_allclose(other.dispersion, d * base.dispersion, rtol=1e-9, atol=1e-12 * d)
    np.testing.assert_allclose(other.dispersion_t, base.dispersion_t, rtol=1e-9, atol=1e-10)


def test_allele_flip_changes_the_sign():
    add, add_se, var, var_se = effects()
    sign = np.where(np.arange(add.size) % 3 == 0, -1.0, 1.0)
    base = estimate(add, add_se, var, var_se)
    # The mean enters Var(add), so a flip of some variants moves the noise adjustment a little;
    # the slope itself is through the origin.
    flipped = estimate(sign * add, add_se, sign * var, var_se)
    np.testing.assert_allclose(flipped.slope, base.slope, rtol=1e-12)
    every = estimate(-add, add_se, -var, var_se)
    np.testing.assert_allclose(every.dispersion, -base.dispersion, rtol=1e-12, atol=1e-15)


def test_rows_without_estimates_stay_nan_and_have_no_part():
    add, add_se, var, var_se = effects(60)
    base = estimate(add, add_se, var, var_se)
    keep = np.ones(80, dtype=bool)
    keep[::4] = False
    wide = [np.full(80, np.nan) for _ in range(4)]
    for target, source in zip(wide, (add, add_se, var, var_se), strict=True):
        target[keep] = source
    wide[0][0], wide[1][4], wide[2][8] = 1.0, 1.0, np.inf  # a part of a row is not an estimate
    result = estimate(*wide)
    assert result.n_used == 60
    assert result.r_av == base.r_av
    for name in ("dispersion", "dispersion_se", "dispersion_t", "dispersion_neg_log10_p"):
        values = getattr(result, name)
        np.testing.assert_array_equal(values[keep], getattr(base, name))
        assert np.isnan(values[~keep]).all()


def test_p_far_below_the_smallest_double():
    add, add_se, var, var_se = effects(100)
    var[0] = 100 * var_se[0]
    result = estimate(add, add_se, var, var_se)
    t = abs(result.dispersion_t[0])
    assert t > 60
    # Mills' ratio: p = 2 phi(t) / t (1 - 1/t² + 3/t⁴ - ...)
    log_p = -t * t / 2 + np.log(2 / (t * np.sqrt(2 * np.pi))) + np.log1p(-1 / t**2 + 3 / t**4)
    assert result.dispersion_neg_log10_p[0] > 700
    np.testing.assert_allclose(result.dispersion_neg_log10_p[0], -log_p / np.log(10), rtol=1e-11)


def test_too_few_variants():
    result = dispersion_effects(*(z[:29] for z in effects()))
    assert isinstance(result, NotEstimable)
    assert "29 variants" in result.reason
    assert isinstance(dispersion_effects(*(z[:30] for z in effects())), DispersionResult)


def test_effects_no_larger_than_their_noise():
    add, add_se, var, var_se = effects()
    result = dispersion_effects(add, 10 * add_se, var, var_se)
    assert isinstance(result, NotEstimable)
    assert "noise" in result.reason


def test_outliers_move_the_slope_little():
    rng = np.random.default_rng(3)
    x = rng.normal(size=500)
    y = 2 * x + 0.1 * rng.normal(size=500)
    clean = huber_slope(x, y).slope
    y[:10] += 100 * x[:10]
    assert abs(huber_slope(x, y).slope - clean) < 0.02
    assert abs(float(x @ y / (x @ x)) - clean) > 0.5


def test_exact_line_and_zero():
    x = np.arange(1.0, 40.0)
    fit = huber_slope(x, 3 * x)
    assert fit.converged
    assert fit.slope == pytest.approx(3.0, rel=1e-14)
    assert huber_slope(x, 0 * x).slope == 0.0


def test_round_limit_is_not_convergence():
    add, _, var, _ = effects()
    fit = huber_slope(add, var, tol=1e-15, max_iter=2)
    assert fit.n_iterations == 2
    assert not fit.converged


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2.0], [1.0], "one length"),
        ([[1.0]], [[1.0]], "1-D"),
        ([1.0, np.nan], [1.0, 2.0], "finite"),
        ([0.0, 0.0], [1.0, 2.0], "zero everywhere"),
    ],
)
def test_bad_input(x, y, message):
    with pytest.raises(ValueError, match=message):
        huber_slope(x, y)


def test_bad_shapes():
    with pytest.raises(ValueError, match="one length"):
        dispersion_effects([1.0], [1.0, 2.0], [1.0], [1.0])
