"""HLM from class sums against the model of one variant."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from hlmm_dask.genotypes.packed import encode
from hlmm_dask.kernels.hlm import fit_class_sums
from hlmm_dask.kernels.packed import PackedLayout, class_sums, pack_phenotype
from hlmm_dask.kernels.table import UNBOUNDED_SPAN, VariantFit
from hlmm_dask.models.hlm import HLM
from hlmm_dask.schema import Status

Codes = NDArray[np.int8]
FloatArray = NDArray[np.float64]
ESTIMATES = ("add", "add_se", "var", "var_se", "loglik")
ROBUST = ("add_robust_se", "var_robust_se")


def fit_codes(codes: Codes, y: FloatArray) -> VariantFit:
    layout = PackedLayout(len(y), np.arange(len(y)))
    return fit_class_sums(class_sums(encode(codes), pack_phenotype(layout, y), powers=4))


def one_by_one(codes: Codes, y: FloatArray) -> VariantFit:
    rows = []
    for code in codes:
        called = code >= 0
        g = code[called] - code[called].mean()
        design = np.column_stack([np.ones(called.sum()), g])
        fit = HLM(y[called], design, design).fit()
        assert fit.converged
        rows.append((fit.alpha[1], fit.alpha_se[1], fit.beta[1], fit.beta_se[1], fit.loglik))
    return VariantFit(*np.array(rows).T, status=np.zeros(len(rows), np.int64))


def assert_same(fit: VariantFit, other: VariantFit, *, tolerance: float = 1e-8) -> None:
    assert (fit.status == Status.OK).all()
    np.testing.assert_allclose(fit.add / other.add_se, other.add / other.add_se, atol=tolerance)
    np.testing.assert_allclose(fit.var / other.var_se, other.var / other.var_se, atol=tolerance)
    np.testing.assert_allclose(fit.add_se, other.add_se, rtol=tolerance)
    np.testing.assert_allclose(fit.var_se, other.var_se, rtol=tolerance)
    np.testing.assert_allclose(fit.loglik, other.loglik, rtol=1e-11)


def carriers(rng: np.random.Generator, n: int, count: int, code: int) -> Codes:
    out = np.zeros(n, np.int8)
    out[rng.choice(n, count, replace=False)] = code
    return out


def test_common_variants_with_missing_calls() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal(501)
    frequency = rng.uniform(0.05, 0.95, 40)
    codes = rng.binomial(2, frequency[:, None], (40, 501)).astype(np.int8)
    codes[20:][rng.random((20, 501)) < 0.1] = -1
    assert_same(fit_codes(codes, y), one_by_one(codes, y))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("code", [1, 2])
def test_rare_variants(code: int, flip: bool) -> None:
    """Two to five carriers: two classes only, one of them next to empty."""
    rng = np.random.default_rng(3)
    y = rng.standard_normal(400)
    codes = np.stack([carriers(rng, 400, count, code) for count in (2, 3, 4, 5) * 4])
    if flip:
        codes = 2 - codes
    assert_same(fit_codes(codes, y), one_by_one(codes, y), tolerance=1e-7)


def test_each_empty_class() -> None:
    rng = np.random.default_rng(4)
    y = rng.standard_normal(300)
    pairs = [(0, 1), (0, 2), (1, 2)]
    codes = np.stack([rng.choice(np.array(pair, np.int8), 300) for pair in pairs])
    assert_same(fit_codes(codes, y), one_by_one(codes, y))


@pytest.mark.parametrize("beta1", [1.5, -1.5, 3.0])
def test_large_effects(beta1: float) -> None:
    rng = np.random.default_rng(5)
    codes = rng.binomial(2, 0.3, (10, 400)).astype(np.int8)
    for row in codes:
        y = 2.0 * row + np.exp(0.5 * beta1 * row) * rng.standard_normal(400)
        assert_same(fit_codes(row[None], y), one_by_one(row[None], y))


def test_heavy_tails() -> None:
    rng = np.random.default_rng(6)
    y = rng.standard_t(1.5, 400)
    y[0] = 1e3
    codes = rng.binomial(2, 0.2, (20, 400)).astype(np.int8)
    assert_same(fit_codes(codes, y), one_by_one(codes, y), tolerance=1e-7)


def test_near_separation() -> None:
    """A class with little residual, not none: log variances that differ by 9."""
    rng = np.random.default_rng(7)
    y = rng.standard_normal(300)
    codes = np.zeros((1, 300), np.int8)
    codes[0, :20] = 1
    y[:20] = 0.5 + 0.01 * rng.standard_normal(20)
    fit = fit_codes(codes, y)
    assert fit.var[0] < -8
    assert_same(fit, one_by_one(codes, y), tolerance=1e-7)


def test_singleton_among_three_classes_is_fitted() -> None:
    rng = np.random.default_rng(8)
    y = rng.standard_normal(300)
    codes = np.zeros((1, 300), np.int8)
    codes[0, :30], codes[0, 30] = 1, 2
    assert_same(fit_codes(codes, y), one_by_one(codes, y))


@pytest.mark.parametrize("n", [50, 3000])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("count", "tied"), [(1, False), (4, True)])
@pytest.mark.parametrize("code", [1, 2])
def test_class_without_residual_is_unbounded(
    code: int, count: int, tied: bool, flip: bool, n: int
) -> None:
    rng = np.random.default_rng(9)
    y = rng.standard_normal(n)
    codes = np.stack([carriers(rng, n, count, code) for _ in range(20)])
    for row in codes:
        shifted = y.copy()
        if tied:
            shifted[row > 0] = 0.123
        fit = fit_codes((2 - row if flip else row)[None], shifted)
        assert fit.status[0] == Status.UNBOUNDED
        assert abs(fit.var[0]) * code > UNBOUNDED_SPAN


@pytest.mark.parametrize("factor", [1e-8, 1e-3, 1e8])
def test_unit_of_y_makes_no_difference(factor: float) -> None:
    rng = np.random.default_rng(10)
    y = rng.standard_normal(200)
    codes = rng.binomial(2, 0.3, (10, 200)).astype(np.int8)
    fit, scaled = fit_codes(codes, y), fit_codes(codes, y * factor)
    np.testing.assert_allclose(scaled.add / scaled.add_se, fit.add / fit.add_se, atol=1e-8)
    np.testing.assert_allclose(scaled.var, fit.var, atol=1e-9)
    assert fit.add_robust_se is not None
    assert scaled.add_robust_se is not None
    assert scaled.var_robust_se is not None
    np.testing.assert_allclose(scaled.add_robust_se / factor, fit.add_robust_se, rtol=1e-8)
    np.testing.assert_allclose(scaled.var_robust_se, fit.var_robust_se, rtol=1e-8)
    np.testing.assert_allclose(scaled.loglik, fit.loglik - 200 * np.log(factor), rtol=1e-10)


def test_other_allele_changes_the_signs_only() -> None:
    rng = np.random.default_rng(11)
    y = rng.standard_normal(200)
    codes = rng.binomial(2, 0.3, (10, 200)).astype(np.int8)
    codes[rng.random(codes.shape) < 0.05] = -1
    fit, other = fit_codes(codes, y), fit_codes(np.where(codes < 0, codes, 2 - codes), y)
    np.testing.assert_allclose(other.add, -fit.add, atol=1e-10)
    np.testing.assert_allclose(other.var, -fit.var, atol=1e-10)
    for name in ("add_se", "var_se", "loglik", "add_robust_se", "var_robust_se"):
        np.testing.assert_allclose(getattr(other, name), getattr(fit, name), rtol=1e-10)


def test_duplicates_and_company_make_no_difference() -> None:
    rng = np.random.default_rng(12)
    y = rng.standard_normal(200)
    codes = rng.binomial(2, 0.3, (5, 200)).astype(np.int8)
    codes[1] = carriers(rng, 200, 1, 1)  # unbounded
    twice = fit_codes(np.concatenate([codes, codes]), y)
    for j in range(5):
        alone = fit_codes(codes[j : j + 1], y)
        for name in (*ESTIMATES, *ROBUST, "status"):
            both = getattr(twice, name)[[j, j + 5]]
            np.testing.assert_array_equal(both, getattr(alone, name)[0])


def test_value_near_zero_does_not_stop_the_search() -> None:
    """-2ℓ without its constant is zero at a log variance of -1: there its rounding shows."""
    rng = np.random.default_rng(13)
    y = rng.standard_normal(4000)
    y = (y - y.mean()) / y.std() * np.exp(-0.5)
    codes = rng.binomial(2, 0.3, (300, 4000)).astype(np.int8)
    assert (fit_codes(codes, y).status == Status.OK).all()


# -- sandwich standard errors -----------------------------------------------------------------


def sandwich(codes: Codes, y: FloatArray) -> FloatArray:
    """Robust standard errors of add and var, (m, 2), from the scores of all samples."""
    out = []
    for code in codes:
        called = code >= 0
        design = np.column_stack([np.ones(called.sum()), code[called] - code[called].mean()])
        model = HLM(y[called], design, design)
        fit = model.fit()
        residual = model.y - design @ fit.alpha
        weight = np.exp(-design @ fit.beta)
        of_alpha = design * (weight * residual)[:, None]
        of_beta = design * (0.5 * (weight * residual**2 - 1.0))[:, None]
        score = np.column_stack([of_alpha, of_beta])
        # The model's Hessian is that of -2ℓ.
        influence = np.linalg.solve(0.5 * model.hessian(fit.alpha, fit.beta), score.T)
        out.append(np.sqrt(np.sum(influence**2, axis=1))[[1, 3]])
    return np.array(out)


def robust(fit: VariantFit) -> FloatArray:
    assert fit.add_robust_se is not None
    assert fit.var_robust_se is not None
    return np.column_stack([fit.add_robust_se, fit.var_robust_se])


def normal(rng: np.random.Generator, n: int) -> FloatArray:
    return rng.standard_normal(n)


def gamma(rng: np.random.Generator, n: int) -> FloatArray:
    return rng.gamma(2.0, size=n) - 2.0


def heavy(rng: np.random.Generator, n: int) -> FloatArray:
    return rng.standard_t(2.5, n)


@pytest.mark.parametrize("draw", [normal, gamma, heavy])
@pytest.mark.parametrize("effect", [0.0, 0.7])
def test_robust_se_is_the_sandwich_of_the_samples(
    draw: Callable[[np.random.Generator, int], FloatArray], effect: float
) -> None:
    rng = np.random.default_rng(20)
    codes = rng.binomial(2, rng.uniform(0.02, 0.9, (15, 1)), (15, 501)).astype(np.int8)
    codes[::2][rng.random((8, 501)) < 0.1] = -1
    for row in codes:
        y = effect * row + np.exp(0.5 * effect * row) * draw(rng, 501) + 0.3
        np.testing.assert_allclose(robust(fit_codes(row[None], y)), sandwich(row[None], y), 1e-9)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("code", [1, 2])
def test_robust_se_of_rare_variants(code: int, flip: bool) -> None:
    rng = np.random.default_rng(21)
    y = gamma(rng, 400)
    codes = np.stack([carriers(rng, 400, count, code) for count in (2, 3, 5, 20)])
    codes[3, 0] = 3 - code  # three classes, one of them with one sample
    if flip:
        codes = 2 - codes
    np.testing.assert_allclose(robust(fit_codes(codes, y)), sandwich(codes, y), 1e-8)


def test_samples_without_a_call_are_as_if_absent() -> None:
    rng = np.random.default_rng(22)
    y = gamma(rng, 300)
    codes = rng.binomial(2, 0.3, (1, 300)).astype(np.int8)
    codes[0, rng.random(300) < 0.2] = -1
    called = codes[0] >= 0
    alone = fit_codes(codes[:, called], y[called])
    np.testing.assert_allclose(robust(fit_codes(codes, y)), robust(alone), rtol=1e-11)


def test_two_powers_give_no_robust_se() -> None:
    rng = np.random.default_rng(23)
    codes = rng.binomial(2, 0.3, (3, 100)).astype(np.int8)
    phenotype = pack_phenotype(PackedLayout(100, np.arange(100)), normal(rng, 100))
    fit = fit_class_sums(class_sums(encode(codes), phenotype))
    assert fit.add_robust_se is None
    assert fit.var_robust_se is None


def test_robust_tests_hold_their_level_where_the_classical_one_is_inflated() -> None:
    """Gamma residuals, kurtosis 6: the classical statistic is inflated (6 - 1)/2 times."""
    rng = np.random.default_rng(24)
    add, var, classical = [], [], []
    for _ in range(10):
        y = gamma(rng, 3000)
        codes = rng.binomial(2, 0.3, (150, 3000)).astype(np.int8)
        fit = fit_codes(codes, y)
        se = robust(fit)
        add.append((fit.add / se[:, 0]) ** 2)
        var.append((fit.var / se[:, 1]) ** 2)
        classical.append((fit.var / fit.var_se) ** 2)
    # Of 1,500 draws the mean of a chi-square is within 0.11 (three standard errors).
    assert 0.85 < np.mean(add) < 1.15
    assert 0.85 < np.mean(var) < 1.2
    assert 2.1 < np.mean(classical) < 3.1
