"""The heteroskedastic linear model against dense oracles, differences and scipy's optimiser."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats

from hlmm_dask.models.hlm import HLM
from hlmm_dask.models.newton import Convergence

FloatArray = NDArray[np.float64]


def example(seed: int = 0, n: int = 60) -> HLM:
    """Intercept and one or two columns in mean and log variance, with real effects."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    V = np.column_stack([np.ones(n), rng.standard_normal(n)])
    y = X @ [1.0, -0.5, 0.3] + np.exp(0.5 * (V @ [0.2, 0.6])) * rng.standard_normal(n)
    return HLM(y, X, V)


ALPHA, BETA = np.array([0.8, -0.3, 0.1]), np.array([0.1, 0.4])


def five_point(f: Callable[[FloatArray], FloatArray], x: FloatArray, h: float = 1e-3) -> FloatArray:
    """Derivative of ``f`` along each coordinate of ``x``, the last axis."""
    columns = []
    for unit in np.eye(len(x)) * h:
        columns.append(
            (f(x - 2 * unit) - 8 * f(x - unit) + 8 * f(x + unit) - f(x + 2 * unit)) / (12 * h)
        )
    return np.stack(columns, axis=-1)


def test_loglik_is_the_multivariate_normals() -> None:
    model = example()
    dense = stats.multivariate_normal(model.X @ ALPHA, np.diag(np.exp(model.V @ BETA)))
    assert model.loglik(ALPHA, BETA) == pytest.approx(dense.logpdf(model.y), rel=1e-12)


def test_neg_loglik_leaves_out_the_constant() -> None:
    model = example()
    expected = -2 * model.loglik(ALPHA, BETA) - 60 * np.log(2 * np.pi)
    assert model.neg_loglik(ALPHA, BETA) == pytest.approx(expected, rel=1e-12)


def test_alpha_is_generalised_least_squares() -> None:
    model = example()
    inverse = np.linalg.inv(np.diag(np.exp(model.V @ BETA)))
    information = model.X.T @ inverse @ model.X
    expected = np.linalg.solve(information, model.X.T @ inverse @ model.y)
    np.testing.assert_allclose(model.alpha_mle(BETA), expected, rtol=1e-11)
    np.testing.assert_allclose(model.alpha_cov(BETA), np.linalg.inv(information), rtol=1e-10)
    assert model.profile_loglik(BETA) == pytest.approx(model.loglik(expected, BETA), rel=1e-13)
    np.testing.assert_allclose(
        model.alpha_ols(), np.linalg.solve(model.X.T @ model.X, model.X.T @ model.y), rtol=1e-11
    )


def test_approximation_to_beta() -> None:
    """One Newton step of -2ℓ from β = 0 with the least squares residuals."""
    model = example()
    zero, alpha = np.zeros(2), model.alpha_ols()
    step = np.linalg.solve(model.hessian(alpha, zero)[3:, 3:], model.grad_beta(alpha, zero))
    np.testing.assert_allclose(model.approx_beta_mle(), -step, rtol=1e-10)


def test_derivatives_are_five_point_differences() -> None:
    model = example()
    theta = np.concatenate([ALPHA, BETA])
    gradient = np.concatenate([model.grad_alpha(ALPHA, BETA), model.grad_beta(ALPHA, BETA)])
    value = five_point(lambda t: np.asarray(-2 * model.loglik(t[:3], t[3:])), theta)
    np.testing.assert_allclose(gradient, value, rtol=1e-8, atol=1e-7)

    def both(t: FloatArray) -> FloatArray:
        return np.concatenate([model.grad_alpha(t[:3], t[3:]), model.grad_beta(t[:3], t[3:])])

    np.testing.assert_allclose(
        model.hessian(ALPHA, BETA), five_point(both, theta), rtol=1e-8, atol=1e-7
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_maximum_is_scipys(seed: int) -> None:
    model = example(seed)
    fit = model.fit()
    assert fit.converged
    other = optimize.minimize(
        lambda t: -model.loglik(t[:3], t[3:]), np.zeros(5), method="BFGS", options={"gtol": 1e-7}
    )
    assert fit.loglik >= -other.fun - 1e-9
    assert fit.loglik == pytest.approx(-other.fun, abs=1e-8)
    np.testing.assert_allclose(fit.alpha, other.x[:3], atol=1e-5)
    np.testing.assert_allclose(fit.beta, other.x[3:], atol=1e-5)
    np.testing.assert_allclose(model.grad_beta(fit.alpha, fit.beta), 0.0, atol=1e-9)
    np.testing.assert_allclose(model.grad_alpha(fit.alpha, fit.beta), 0.0, atol=1e-9)


def test_covariances() -> None:
    model = example()
    fit = model.fit()
    np.testing.assert_allclose(fit.beta_cov, 2 * np.linalg.inv(model.V.T @ model.V), rtol=1e-10)
    np.testing.assert_allclose(fit.alpha_cov, model.alpha_cov(fit.beta), rtol=1e-12)
    np.testing.assert_allclose(fit.alpha_se**2, np.diag(fit.alpha_cov), rtol=1e-12)
    np.testing.assert_allclose(fit.beta_se**2, np.diag(fit.beta_cov), rtol=1e-12)


@pytest.mark.parametrize("factor", [1e-8, 1e-3, 1e3, 1e8])
def test_unit_of_y_makes_no_difference(factor: float) -> None:
    model = example()
    fit, scaled = model.fit(), HLM(model.y * factor, model.X, model.V).fit()
    assert scaled.converged
    np.testing.assert_allclose(scaled.alpha / scaled.alpha_se, fit.alpha / fit.alpha_se, rtol=1e-8)
    assert scaled.beta[1] == pytest.approx(fit.beta[1], rel=1e-8)
    assert scaled.beta[0] == pytest.approx(fit.beta[0] + 2 * np.log(factor), rel=1e-8)
    assert scaled.loglik == pytest.approx(fit.loglik - 60 * np.log(factor), rel=1e-10)


@pytest.mark.parametrize("factor", [1e-10, 1e-4, 1e6, 1e12])
def test_unit_of_a_column_of_x_makes_no_difference(factor: float) -> None:
    model = example()
    fit, scaled = model.fit(), HLM(model.y, model.X * [1.0, factor, 1.0], model.V).fit()
    np.testing.assert_allclose(scaled.alpha / scaled.alpha_se, fit.alpha / fit.alpha_se, rtol=1e-8)
    np.testing.assert_allclose(scaled.beta, fit.beta, rtol=1e-8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1e6, 1e6))
def test_sample_order_and_shift_make_no_difference(seed: int, shift: float) -> None:
    model = example()
    order = np.random.default_rng(seed).permutation(60)
    fit = model.fit()
    other = HLM(model.y[order] + shift, model.X[order], model.V[order]).fit()
    assert other.converged
    np.testing.assert_allclose(
        (other.alpha - [shift, 0, 0]) / other.alpha_se, fit.alpha / fit.alpha_se, atol=1e-7
    )
    np.testing.assert_allclose(other.beta, fit.beta, atol=1e-7)


@pytest.mark.parametrize("start", [[0.0, 0.0], [8.0, -6.0], [-10.0, 5.0]])
def test_start_makes_no_difference(start: list[float]) -> None:
    model = example()
    fit, other = model.fit(), model.fit(beta_start=start)
    assert other.converged
    np.testing.assert_allclose(other.beta, fit.beta, atol=1e-9)


def test_one_dimension_means_one_column() -> None:
    y = np.random.default_rng(0).standard_normal(30)
    one = np.ones(30)
    fit = HLM(y, one, one).fit()
    assert fit.alpha[0] == pytest.approx(y.mean(), abs=1e-12)
    assert fit.beta[0] == pytest.approx(np.log(y.var()), abs=1e-12)


def test_iteration_limit_is_not_convergence() -> None:
    fit = example().fit(beta_start=[8.0, -6.0], max_iterations=2)
    assert fit.convergence == Convergence.ITERATION_LIMIT
    assert not fit.converged


@pytest.mark.parametrize("carriers", [1, 3])
def test_class_without_residual_does_not_converge(carriers: int) -> None:
    y = np.random.default_rng(0).standard_normal(200)
    y[:carriers] = 0.7
    x = np.zeros(200)
    x[:carriers] = 1.0
    design = np.column_stack([np.ones(200), x - x.mean()])
    fit = HLM(y, design, design).fit()
    assert not fit.converged
    assert fit.beta[1] < -18.0


GOOD = np.arange(12.0) ** 2, np.column_stack([np.ones(12), np.arange(12.0)]), np.ones(12)
BAD_NAN = np.where(np.arange(12) == 3, np.nan, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD[1], GOOD[1], GOOD[2]), "y has 2 dimensions, expected 1"),
        ((BAD_NAN, GOOD[1], GOOD[2]), "y has 1 values that are not finite"),
        ((GOOD[0], GOOD[1][:-1], GOOD[2]), "X has 11 rows, but y has 12 values"),
        ((GOOD[0], GOOD[1], np.ones(13)), "V has 13 rows, but y has 12 values"),
        ((GOOD[0], np.ones((12, 1, 1)), GOOD[2]), "X has 3 dimensions, expected 1 or 2"),
        ((GOOD[0], BAD_NAN, GOOD[2]), "X has 1 values that are not finite"),
        ((GOOD[0], GOOD[1], BAD_NAN * np.inf), "V has 12 values that are not finite"),
        ((GOOD[0][:3], GOOD[1][:3], GOOD[2][:3]), "3 samples are too few for 3 parameters"),
        ((GOOD[0], GOOD[1][:, [0, 1, 1]], GOOD[2]), "columns of X are linearly dependent"),
        ((GOOD[0], GOOD[1], GOOD[1][:, [0, 0]]), "columns of V are linearly dependent"),
        ((GOOD[0], GOOD[1] * [1.0, 0.0], GOOD[2]), "column 1 of X is zero"),
    ],
)
def test_bad_input_is_named(arguments: tuple[FloatArray, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HLM(*arguments)


def test_bad_parameters_are_named() -> None:
    model = example()
    with pytest.raises(ValueError, match=r"alpha has shape \(2,\), expected \(3,\)"):
        model.loglik([1.0, 2.0], BETA)
    with pytest.raises(ValueError, match=r"beta has shape \(1,\), expected \(2,\)"):
        model.alpha_mle(0.5)


def test_no_residual_is_named() -> None:
    x = np.arange(10.0)
    with pytest.raises(ValueError, match="no residual is left"):
        HLM(np.zeros(10), x, np.ones(10)).fit()
