"""The heteroskedastic linear mixed model against dense oracles, differences and scipy."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from hlmm_dask.models.hlm import HLM
from hlmm_dask.models.hlmm import HLMM, simulate
from hlmm_dask.models.newton import Convergence

FloatArray = NDArray[np.float64]
LOG_2PI = np.log(2 * np.pi)
ALPHA, BETA, H2 = np.array([0.8, -0.3]), np.array([0.1, 0.4]), 0.7


def example(n_random: int = 5, n: int = 50, seed: int = 0, h2: float = 1.0) -> HLMM:
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.standard_normal(n)])
    V = np.column_stack([np.ones(n), rng.standard_normal(n)])
    G = rng.standard_normal((n, n_random)) * n_random**-0.5
    y = X @ [1.0, -0.5] + G @ rng.standard_normal(n_random) * h2**0.5
    return HLMM(y + np.exp(0.5 * (V @ [0.0, 0.5])) * rng.standard_normal(n), X, V, G)


def covariance(model: HLMM, beta: FloatArray, h2: float) -> FloatArray:
    return np.asarray(h2 * model.G @ model.G.T + np.diag(np.exp(model.V @ beta)))


def five_point(f: Callable[[FloatArray], FloatArray], x: FloatArray, h: float = 1e-3) -> FloatArray:
    columns = []
    for unit in np.eye(len(x)) * h:
        columns.append(
            (f(x - 2 * unit) - 8 * f(x - unit) + 8 * f(x + unit) - f(x + 2 * unit)) / (12 * h)
        )
    return np.stack(columns, axis=-1)


sizes = pytest.mark.parametrize("n_random", [1, 5, 70])


@sizes
def test_loglik_is_the_multivariate_normals(n_random: int) -> None:
    model = example(n_random)
    dense = stats.multivariate_normal(model.X @ ALPHA, covariance(model, BETA, H2))
    assert model.loglik(ALPHA, BETA, H2) == pytest.approx(dense.logpdf(model.y), rel=1e-11)


@sizes
def test_alpha_is_generalised_least_squares(n_random: int) -> None:
    model = example(n_random)
    inverse = np.linalg.inv(covariance(model, BETA, H2))
    information = model.X.T @ inverse @ model.X
    expected = np.linalg.solve(information, model.X.T @ inverse @ model.y)
    np.testing.assert_allclose(model.alpha_mle(BETA, H2), expected, rtol=1e-9)
    np.testing.assert_allclose(model.alpha_cov(BETA, H2), np.linalg.inv(information), rtol=1e-9)


@sizes
def test_derivatives_are_five_point_differences(n_random: int) -> None:
    model = example(n_random)
    theta = np.concatenate([ALPHA, BETA, [H2]])
    gradient = model.gradient(ALPHA, BETA, H2)
    value = five_point(lambda t: np.asarray(-2 * model.loglik(t[:2], t[2:4], t[4])), theta)
    np.testing.assert_allclose(gradient, value, rtol=1e-8, atol=1e-7)
    hessian = model.hessian(ALPHA, BETA, H2)
    numerical = five_point(lambda t: model.gradient(t[:2], t[2:4], t[4]), theta)
    np.testing.assert_allclose(hessian, numerical, rtol=1e-8, atol=1e-7)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-12)
    np.testing.assert_allclose(
        model.parameter_covariance(ALPHA, BETA, H2) @ hessian, 2 * np.eye(5), atol=1e-8
    )


def test_without_random_effects_it_is_the_linear_model() -> None:
    model = example()
    linear = HLM(model.y, model.X, model.V)
    assert model.loglik(ALPHA, BETA, 0.0) == pytest.approx(linear.loglik(ALPHA, BETA), rel=1e-13)
    gradient = model.gradient(ALPHA, BETA, 0.0)
    np.testing.assert_allclose(gradient[:2], linear.grad_alpha(ALPHA, BETA), rtol=1e-11)
    np.testing.assert_allclose(gradient[2:4], linear.grad_beta(ALPHA, BETA), rtol=1e-11)
    np.testing.assert_allclose(
        model.hessian(ALPHA, BETA, 0.0)[:4, :4], linear.hessian(ALPHA, BETA), rtol=1e-10, atol=1e-9
    )
    assert np.isfinite(gradient).all()


def test_hlmms_minimised_quantity_and_its_gradient() -> None:
    model = example()
    value, gradient = model.neg_loglik_and_gradient(BETA, H2)
    assert value == pytest.approx(-2 * model.profile_loglik(BETA, H2) / 50 - LOG_2PI, rel=1e-12)
    assert model.neg_loglik(BETA, H2) == pytest.approx(value, rel=1e-12)
    numerical = five_point(lambda t: np.asarray(model.neg_loglik(t[:2], t[2])), np.append(BETA, H2))
    np.testing.assert_allclose(gradient, numerical, rtol=1e-7, atol=1e-9)


def test_approximation_to_beta_is_the_linear_models() -> None:
    model = example()
    linear = HLM(model.y, model.X, model.V)
    np.testing.assert_array_equal(model.approx_beta_mle(), linear.approx_beta_mle())
    np.testing.assert_array_equal(model.alpha_ols(), linear.alpha_ols())


@pytest.mark.parametrize(("seed", "n_random"), [(1, 5), (2, 5), (3, 20), (4, 70)])
def test_maximum_is_scipys(seed: int, n_random: int) -> None:
    model = example(n_random, seed=seed)
    fit = model.fit()
    assert fit.converged

    def dense(t: FloatArray) -> float:
        sigma = covariance(model, t[2:4], t[4])
        return -float(stats.multivariate_normal(model.X @ t[:2], sigma).logpdf(model.y))

    start = np.concatenate([fit.alpha, fit.beta, [fit.h2]]) + 0.1
    other = optimize.minimize(
        dense, start, method="L-BFGS-B", bounds=[(None, None)] * 4 + [(model.h2_min, None)],
        options={"ftol": 1e-14, "gtol": 1e-6},
    )  # fmt: skip
    assert fit.loglik >= -other.fun - 1e-8
    assert fit.loglik == pytest.approx(-other.fun, abs=1e-6)
    np.testing.assert_allclose(np.concatenate([fit.alpha, fit.beta, [fit.h2]]), other.x, atol=2e-3)
    gradient = model.gradient(fit.alpha, fit.beta, fit.h2)
    np.testing.assert_allclose(gradient[:4], 0.0, atol=1e-8)
    assert fit.loglik == pytest.approx(model.loglik(fit.alpha, fit.beta, fit.h2), abs=1e-9)


def test_covariance_is_the_inverse_observed_information() -> None:
    model = example(20)
    fit = model.fit()
    expected = model.parameter_covariance(fit.alpha, fit.beta, fit.h2)
    np.testing.assert_allclose(fit.covariance, expected, rtol=1e-5, atol=1e-9)
    errors = np.concatenate([fit.alpha_se, fit.beta_se, [fit.h2_se]])
    np.testing.assert_allclose(errors, np.sqrt(np.diag(expected)), rtol=1e-6)


def test_h2_at_its_bound_is_fitted_and_flagged() -> None:
    rng = np.random.default_rng(5)
    model = example(5, n=300)
    # Random effects that carry less variance than chance: y without its part in their span.
    y = rng.standard_normal(300)
    y -= model.G @ np.linalg.lstsq(model.G, y, rcond=None)[0]
    model = HLMM(y, model.X, model.V, model.G)
    fit = model.fit()
    assert fit.converged
    assert fit.at_bound
    assert fit.h2 == model.h2_min
    assert model.gradient(fit.alpha, fit.beta, fit.h2)[-1] > 0
    linear = HLM(y, model.X, model.V).fit()
    np.testing.assert_allclose(fit.alpha, linear.alpha, atol=1e-4)
    np.testing.assert_allclose(fit.beta, linear.beta, atol=1e-3)
    assert np.isfinite(fit.alpha_se).all()
    assert np.isfinite(fit.beta_se).all()
    assert not example().fit().at_bound


@pytest.mark.parametrize("factor", [1e-8, 1e-3, 1e3, 1e8])
def test_unit_of_y_makes_no_difference(factor: float) -> None:
    model = example(20)
    fit, scaled = model.fit(), HLMM(model.y * factor, model.X, model.V, model.G).fit()
    assert scaled.converged
    np.testing.assert_allclose(scaled.alpha / scaled.alpha_se, fit.alpha / fit.alpha_se, rtol=1e-8)
    assert scaled.beta[1] / scaled.beta_se[1] == pytest.approx(
        fit.beta[1] / fit.beta_se[1], rel=1e-8
    )
    assert scaled.h2 / scaled.h2_se == pytest.approx(fit.h2 / fit.h2_se, rel=1e-8)
    assert scaled.h2 == pytest.approx(fit.h2 * factor**2, rel=1e-8)
    assert scaled.at_bound == fit.at_bound


def test_sample_order_makes_no_difference() -> None:
    model = example(20)
    order = np.random.default_rng(1).permutation(50)
    fit = model.fit()
    other = HLMM(model.y[order], model.X[order], model.V[order], model.G[order]).fit()
    np.testing.assert_allclose(other.alpha, fit.alpha, atol=1e-10)
    np.testing.assert_allclose(other.beta, fit.beta, atol=1e-10)
    assert other.h2 == pytest.approx(fit.h2, rel=1e-9)


@pytest.mark.parametrize("h2_init", [1e-6, 0.01, 3.0, 50.0])
def test_start_makes_no_difference(h2_init: float) -> None:
    model = example(20)
    fit, other = model.fit(), model.fit(h2_init=h2_init, start=([0.0, 0.0], [0.0, 0.0]))
    assert other.converged
    assert other.h2 == pytest.approx(fit.h2, rel=1e-8)
    np.testing.assert_allclose(other.beta, fit.beta, atol=1e-9)


def test_fixed_h2() -> None:
    model = example(20)
    fit = model.fit(h2_init=0.4, fix_h2=True)
    assert fit.converged
    assert fit.h2 == 0.4
    assert np.isnan(fit.h2_se)
    assert fit.covariance.shape == (4, 4)
    gradient = model.gradient(fit.alpha, fit.beta, 0.4)
    np.testing.assert_allclose(gradient[:4], 0.0, atol=1e-8)
    expected = 2 * np.linalg.inv(model.hessian(fit.alpha, fit.beta, 0.4)[:4, :4])
    np.testing.assert_allclose(fit.covariance, expected, rtol=1e-6, atol=1e-10)


def test_iteration_limit_is_not_convergence() -> None:
    fit = example(20).fit(h2_init=50.0, max_iterations=1)
    assert fit.convergence == Convergence.ITERATION_LIMIT
    assert not fit.converged


def test_one_dimension_means_one_column() -> None:
    model = example(1)
    flat = HLMM(model.y, model.X[:, 1], np.ones(50), model.G[:, 0])
    assert (flat.X.shape, flat.V.shape, flat.G.shape) == ((50, 1), (50, 1), (50, 1))
    assert flat.fit().converged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"G": np.ones((9, 2))}, "G has 9 rows, but y has 10 values"),
        ({"G": np.full((10, 2), np.nan)}, "G has 20 values that are not finite"),
        ({"X": np.ones((10, 2))}, "columns of X are linearly dependent"),
        ({"V": np.zeros(10)}, "column 0 of V is zero"),
        ({"V": np.eye(10)[:, :8]}, "10 samples are too few for 10 parameters"),
        ({"y": np.full(10, np.inf)}, "y has 10 values that are not finite"),
    ],
)
def test_bad_input_is_named(change: dict[str, FloatArray], message: str) -> None:
    good = {"y": np.arange(10.0), "X": np.ones(10), "V": np.ones(10), "G": np.ones(10)}
    with pytest.raises(ValueError, match=message):
        HLMM(**(good | change))


def test_simulation_is_seeded() -> None:
    a, b = (simulate(40, 6, [1.0], [0.0, 0.3], 0.5, seed=3) for _ in range(2))
    for name in ("y", "X", "V", "G"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.X.shape, a.V.shape, a.G.shape) == ((40, 1), (40, 2), (40, 6))
    assert not np.array_equal(a.y, simulate(40, 6, [1.0], [0.0, 0.3], 0.5, seed=4).y)


def test_simulated_moments() -> None:
    model = simulate(20_000, 50, [2.0, -1.0], [0.4], 0.5, seed=1)
    np.testing.assert_allclose(model.G.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(model.G.std(axis=0), 50**-0.5, rtol=1e-12)
    np.testing.assert_allclose(model.X.std(axis=0), 1.0, atol=0.02)
    residual = model.y - model.X @ [2.0, -1.0]
    # h2 ‖b‖²/l with 50 random b, and E exp(0.4 v) = exp(0.08).
    assert residual.var() == pytest.approx(0.5 + np.exp(0.08), abs=0.4)
    fit = model.fit()
    assert fit.converged
    truth = np.array([2.0, -1.0, 0.4, 0.5])
    estimate = np.concatenate([fit.alpha, fit.beta, [fit.h2]])
    # V has no intercept: the model that was simulated.
    errors = np.concatenate([fit.alpha_se, fit.beta_se, [fit.h2_se]])
    assert (np.abs(estimate - truth) / errors < 4).all()
