"""Permutation and bootstrap of one variant against enumeration, dense algebra and theory."""

import itertools

import numpy as np
import pytest
from scipy import stats

from hlmm_dask.kernels.resample import NullResiduals, Resampled, bootstrap, permute
from hlmm_dask.models.hlm import HLM
from hlmm_dask.models.inference import neg_log10_p_normal

NEVER = 10**9


def koenker(g, squares):
    """The score by its definition, over samples."""
    x = g - g.mean()
    v = squares / squares.mean() - 1
    return x @ v / np.sqrt(x @ x * (v @ v) / len(v))


def wald(g, w):
    """β̂ / SE of the dense HLM; infinite where its likelihood has no maximum."""
    X = np.column_stack([np.ones(len(g)), g])
    fit = HLM(w, X, X).fit()
    bounded = fit.converged and np.ptp(g) * abs(fit.beta[1]) < 12
    return fit.beta[1] / fit.beta_se[1] if bounded else np.inf


def null_of(g):
    return NullResiduals(np.column_stack([np.ones(len(g)), g]), np.ones(len(g)))


def test_permutations_converge_to_all_of_them() -> None:
    counts = np.array([4, 2, 2])
    g = np.repeat([0.0, 1.0, 2.0], counts)
    w = np.array([0.3, -0.4, 1.1, 0.2, 1.4, -0.7, -1.0, 1.9])
    everything = []
    for two in itertools.combinations(range(8), 2):
        for one in itertools.combinations([i for i in range(8) if i not in two], 2):
            dealt = np.zeros(8)
            dealt[list(two)], dealt[list(one)] = 2, 1
            everything.append((koenker(dealt, w * w), wald(dealt, w)))
    everything = np.abs(everything)
    assert len(everything) == 420
    observed = np.array([koenker(g, w * w), wald(g, w)])
    exact = (everything >= np.abs(observed) * (1 - 1e-6)).mean(axis=0)
    assert (exact > 0.03).all()
    found = permute(w, counts, rng=np.random.default_rng(1), most=20_000, enough=NEVER)
    np.testing.assert_allclose(found.observed, observed, rtol=1e-5)
    assert found.n == 20_000
    error = np.sqrt(exact * (1 - exact) / found.n)
    assert (np.abs(found.exceedances / found.n - exact) < 4 * error).all()


def test_counts_are_exact() -> None:
    counts, rng = np.array([30, 15, 3]), np.random.default_rng(2)
    g = np.repeat([0.0, 1.0, 2.0], counts)
    w = rng.standard_t(4, len(g))
    found = permute(w, counts, rng=np.random.default_rng(7), most=150, enough=NEVER)
    # The same random numbers, dealt one sample at a time.
    pool, exceed = list(w * w), 0
    for uniform in np.random.default_rng(7).random((150, 18)):
        for i, u in enumerate(uniform):
            j = i + int(u * (len(pool) - i))
            pool[i], pool[j] = pool[j], pool[i]
        dealt = np.array([2.0] * 3 + [1.0] * 15 + [0.0] * 30)
        exceed += abs(koenker(dealt, np.array(pool))) >= abs(koenker(g, w * w)) * (1 - 1e-12)
    assert found.exceedances[0] == exceed
    assert 0 < exceed < 150


def test_it_stops_with_enough_exceedances_or_at_the_end() -> None:
    rng = np.random.default_rng(3)
    counts = np.array([200, 90, 10])
    w = rng.standard_normal(300)
    usual = permute(w, counts, rng=rng, most=10_000)
    assert usual.n in (200, 400, 800, 1600)
    assert usual.exceedances.min() >= 30
    w[200:] *= 3
    extreme = permute(w, counts, rng=rng, most=1000)
    assert extreme.n == 1000
    assert extreme.exceedances.tolist() == [0, 0]
    np.testing.assert_allclose(extreme.p, 1 / 1001)
    none = permute(w, counts, rng=rng, most=0)
    assert none.n == 0


def test_a_statistic_that_does_not_exist_has_no_p() -> None:
    w = np.tile([1.0, -1.0], 30)
    found = permute(w, np.array([30, 20, 10]), rng=np.random.default_rng(1), most=500)
    assert np.isnan([found.observed[0], found.p[0], *found.interval()[:, 0]]).all()
    assert found.n == found.exceedances[1] == 200


@pytest.mark.parametrize("b", [0, 3, 50])
def test_interval_is_clopper_and_pearsons(b: int) -> None:
    low, high = Resampled(np.zeros(2), np.array([b, b]), 50).interval()
    exact = stats.binomtest(b, 50).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose([low[0], high[1]], exact, rtol=1e-10)


def test_permutation_p_is_uniform_under_the_null_for_skewed_residuals() -> None:
    """With an effect on the mean; the normal reference is wrong for the same data."""
    rng = np.random.default_rng(4)
    permuted, classical = [], []
    for _ in range(300):
        g = np.sort(rng.binomial(2, 0.2, 400)).astype(float)
        y = 0.5 * g + rng.gamma(1.0, size=400)
        counts = np.bincount(g.astype(int), minlength=3)
        w = null_of(g).residuals()(y[None])[0]
        found = permute(w, counts, rng=rng, most=199, enough=NEVER)
        permuted.append(found.p)
        classical.append(10.0 ** -neg_log10_p_normal(found.observed[1]))
    for p in np.transpose(permuted):
        assert stats.kstest(p, stats.uniform.cdf).pvalue > 0.01
    assert stats.kstest(classical, stats.uniform.cdf).pvalue < 1e-8


def test_few_carriers_are_no_reason_for_a_small_p() -> None:
    """Six of 300: taking off the carriers' mean makes their residuals smaller."""
    rng = np.random.default_rng(12)
    p = []
    for _ in range(250):
        counts = np.array([294, 6, 0])
        g = np.repeat([0.0, 1.0, 2.0], counts)
        w = null_of(g).residuals()(rng.gamma(2.0, size=(1, 300)))[0]
        p.append(permute(w, counts, rng=rng, most=99, enough=NEVER).p)
    assert ((np.array(p) <= 0.05).mean(axis=0) < 0.1).all()


def test_bootstrap_is_calibrated_with_covariates_and_random_effects() -> None:
    rng = np.random.default_rng(5)
    n = 120
    G = rng.standard_normal((n, 6)) / np.sqrt(6)
    D = np.exp(rng.normal(0, 0.5, n))
    drawn = []
    for _ in range(150):
        g = np.sort(rng.binomial(2, 0.3, n)).astype(float)
        X = np.column_stack([np.ones(n), rng.standard_normal(n), g])
        model = NullResiduals(X, D, 0.6, G)
        y = X @ [3.0, 0.5, 0.4] + model.draw(rng, 1)[0]
        counts = np.bincount(g.astype(int), minlength=3)
        drawn.append(bootstrap(y, model, counts, rng=rng, n_draws=99).p)
    for p in np.transpose(drawn):
        assert stats.kstest(p, stats.uniform.cdf).pvalue > 0.01


def test_bootstrap_finds_an_effect_on_the_variance_and_not_one_on_the_mean() -> None:
    rng = np.random.default_rng(6)
    g = np.sort(rng.binomial(2, 0.3, 500)).astype(float)
    counts = np.bincount(g.astype(int), minlength=3)
    noise = rng.standard_normal(500)
    spread = bootstrap(noise * np.exp(0.25 * g), null_of(g), counts, rng=rng, n_draws=400)
    assert spread.n == 400
    assert (spread.p < 0.01).all()
    moved, still = (
        bootstrap(noise + a * g, null_of(g), counts, rng=np.random.default_rng(8), n_draws=200)
        for a in (5.0, 0.0)
    )
    np.testing.assert_allclose(moved.observed, still.observed, rtol=1e-8)
    np.testing.assert_array_equal(moved.exceedances, still.exceedances)


def test_residuals_are_those_of_the_dense_covariance() -> None:
    rng = np.random.default_rng(9)
    n = 40
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    D, G = np.exp(rng.normal(0, 1, n)), rng.standard_normal((n, 5))
    y = rng.standard_normal((3, n))
    P = np.linalg.inv(0.7 * G @ G.T + np.diag(D))
    alpha = np.linalg.solve(X.T @ P @ X, X.T @ P @ y.T)
    expected = (P @ (y.T - X @ alpha)).T / np.sqrt(np.diag(P))
    np.testing.assert_allclose(NullResiduals(X, D, 0.7, G).residuals()(y), expected, rtol=1e-9)
    covariance = np.cov(NullResiduals(X, D, 0.7, G).draw(rng, 40_000).T)
    assert np.abs(covariance @ P - np.eye(n)).max() < 0.25
