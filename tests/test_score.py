"""Score tests with saddlepoint tails against dense formulas, direct evaluation and enumeration."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, special, stats

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.packed import encode
from hlmm_dask.in_memory import variant_tests
from hlmm_dask.kernels import score
from hlmm_dask.kernels.block import fit_dosage, fit_packed
from hlmm_dask.kernels.block_model import BlockModel, block_model
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.kernels.residual_nodes import gauss_nodes
from hlmm_dask.kernels.score_moments import ScoreMoments
from hlmm_dask.kernels.table import Filters
from hlmm_dask.models.hlm import HLM
from hlmm_dask.models.hlmm import HLMM
from hlmm_dask.models.inference import neg_log10_p_normal
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.schema import CLASS_DOC, INDEX, Status

Codes = NDArray[np.int8]
FloatArray = NDArray[np.float64]
ALL = Filters(min_maf=0.0, max_missing=100.0)
DRAWS: dict[str, Callable[[np.random.Generator, int], FloatArray]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "gamma": lambda rng, n: rng.gamma(2.0, size=n),
    "t5": lambda rng, n: rng.standard_t(5, n),
    "outlier": lambda rng, n: np.append(rng.standard_normal(n - 1), 50.0),
}


def plain_model(y: FloatArray, **options: float) -> BlockModel:
    ones = np.ones((len(y), 1))
    null = HLM(y, ones, ones).fit()
    dense = DenseModel(y, ones, ones, null.alpha, null.beta)
    return block_model(dense, PackedLayout(len(y), np.arange(len(y))), ALL, **options)


def column(results: FloatArray, name: str) -> FloatArray:
    return results[:, INDEX[name]]


def drawn(rng: np.random.Generator, m: int, n: int, maf: float, missing: float = 0.03) -> Codes:
    codes = rng.binomial(2, maf, (m, n)).astype(np.int8)
    codes[rng.random((m, n)) < missing] = -1
    return codes


@pytest.fixture
def saddlepoint_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Leave every tail to the saddlepoint."""
    expanded = score.expanded

    def nothing_expanded(
        scores: score.Scores, called: NDArray[np.bool_], moments: ScoreMoments, threshold: float
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        tails, _ = expanded(scores, called, moments, threshold)
        tails[:, :9] = np.nan
        return tails, score._wanted_tails(scores, threshold)

    return lambda: monkeypatch.setattr(score, "expanded", nothing_expanded)


def shares(code: Codes, y: FloatArray) -> tuple[FloatArray, ...]:
    """Genotypes, what y is above its mean, and v without and after the effect on the mean."""
    called = code >= 0
    g, e = code[called].astype(float), y[called] - y[called].mean()
    x = g - g.mean()
    r = e - x * (x @ e) / (x @ x)
    return g, e, e**2 / np.mean(e**2) - 1.0, r**2 / np.mean(r**2) - 1.0


def studentised(g: FloatArray, f: FloatArray) -> float:
    x = g - g.mean()
    return float(x @ f / np.sqrt(x @ x * np.mean(f * f)))


def direct_tail(g: FloatArray, f: FloatArray, z: float) -> float:
    """r* of P(U ≥ |z|) straight from the definition, root by Brent's method."""
    q = np.array([np.mean(g == k) for k in (0, 1, 2)])
    mean = q @ [0, 1, 2]
    sd = np.sqrt((q @ [0, 1, 4] - mean**2) * (f @ f))

    def cumulant(t: float) -> FloatArray:
        x = np.outer([0, 1, 2], t * f)
        with np.errstate(divide="ignore"):
            return special.logsumexp(x + np.log(q)[:, None], axis=0)

    def slope(t: float) -> float:
        h = special.softmax(np.outer([0, 1, 2], t * f) + np.log(np.maximum(q, 1e-300))[:, None], 0)
        return float(f @ (np.array([0, 1, 2]) @ h - mean))

    def curvature(t: float) -> float:
        h = special.softmax(np.outer([0, 1, 2], t * f) + np.log(np.maximum(q, 1e-300))[:, None], 0)
        return float((f * f) @ (np.array([0, 1, 4]) @ h - (np.array([0, 1, 2]) @ h) ** 2))

    target = abs(z) * sd
    high = 1.0 / sd
    while slope(high) < target:
        high *= 2.0
        if high * sd > 1e6:
            return np.inf
    t = optimize.brentq(lambda t: slope(t) - target, 0.0, high, xtol=1e-14, rtol=1e-14)
    w = np.sqrt(2.0 * (t * target - (cumulant(t).sum() - t * mean * f.sum())))
    return float(w + np.log(t * np.sqrt(curvature(t)) / w) / w)


def two_sided(g: FloatArray, f: FloatArray) -> float:
    z = studentised(g, f)
    tails = special.log_ndtr(-np.array([direct_tail(g, f, z), direct_tail(g, -f, z)]))
    return float(max(-np.logaddexp(*tails) / np.log(10.0), 0.0))


@pytest.mark.parametrize("maf", [0.02, 0.3])
@pytest.mark.parametrize("kind", DRAWS)
def test_columns_follow_the_definition(
    kind: str, maf: float, saddlepoint_alone: Callable[[], None]
) -> None:
    """All samples summed, one variant at a time, with the saddlepoint in full."""
    saddlepoint_alone()
    rng = np.random.default_rng(1)
    n = 300
    y = DRAWS[kind](rng, n)
    codes = drawn(rng, 12, n, maf)
    results = fit_packed(plain_model(y, spa_threshold=0.0), encode(codes))
    for code, row in zip(codes, results, strict=True):
        if row[INDEX["status"]] != Status.OK:
            assert np.isnan(row[INDEX["var_best_neg_log10_p"]])
            continue
        g, e, v0, v = shares(code, y)
        np.testing.assert_allclose(row[INDEX["var_score_t"]], studentised(g, v), rtol=1e-8)
        if min(abs(studentised(g, f)) for f in (e, v0, v)) > 0.1:
            found = [row[INDEX[f"{name}_score_neg_log10_p"]] for name in ("add", "var")]
            expected = [two_sided(g, e), two_sided(g, v0)]
            if abs(studentised(g, e)) > 2.0:
                expected[1] = min(max(expected[1], expected[0] - 1.0), two_sided(g, v))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        s, t = e / np.sqrt(np.mean(e * e)), v0 / np.sqrt(np.mean(v0 * v0))
        rho = np.mean(s * t)
        apart = (t - rho * s) / np.sqrt(1.0 - rho**2)
        z, z_apart = studentised(g, e), (studentised(g, v0) - rho * studentised(g, e))
        z_apart /= np.sqrt(1.0 - rho**2)
        joint = np.hypot(z, z_apart)
        direction = direct_tail(g, z * s + z_apart * apart, joint)
        tails = special.log_ndtr(
            -np.array([direct_tail(g, apart, z_apart), direct_tail(g, -apart, z_apart)])
        )
        parts = min(special.ndtri_exp(np.logaddexp(*tails) - np.log(2.0)), 0.0) ** 2
        parts += stats.norm.isf(0.5 * 10.0 ** -row[INDEX["add_score_neg_log10_p"]]) ** 2
        if min(abs(z), abs(z_apart)) > 0.1 and joint > 0.3:
            both = -np.log10(0.5 * (np.exp(-0.5 * max(direction, 0.0) ** 2) + np.exp(-0.5 * parts)))
            joint_p = row[INDEX["av_score_neg_log10_p"]]
            np.testing.assert_allclose(joint_p, both, rtol=1e-3, atol=1e-3)
    best, own = column(results, "var_best_neg_log10_p"), column(results, "var_score_neg_log10_p")
    np.testing.assert_array_equal(best, own)


@pytest.mark.parametrize("effect", [0.0, 0.35])
@pytest.mark.parametrize("kind", DRAWS)
def test_nodes_stand_for_all_samples(
    kind: str, effect: float, monkeypatch: pytest.MonkeyPatch, saddlepoint_alone: Callable[[], None]
) -> None:
    """Also for variants that explain some 5% of the variance."""
    saddlepoint_alone()
    rng = np.random.default_rng(2)
    n = 3000
    y = DRAWS[kind](rng, n)
    codes = np.concatenate([drawn(rng, 60, n, maf, 0.01) for maf in (0.02, 0.3)])
    y += effect * y.std() * np.maximum(codes[[0, 70, 80, 90]], 0).sum(axis=0)
    model = plain_model(y, spa_threshold=1.0)
    fast = fit_packed(model, encode(codes))
    monkeypatch.setattr(score, "_FEW_SAMPLES", n + 1)
    full = fit_packed(model, encode(codes))
    assert not np.array_equal(fast, full, equal_nan=True)
    tolerances = (1e-3, 2e-3, 5e-3) if effect == 0.0 else (1e-3, 1e-2, 1e-2)
    for name, tolerance in zip(("add", "var", "av"), tolerances, strict=True):
        name = f"{name}_score_neg_log10_p"
        np.testing.assert_allclose(column(fast, name), column(full, name), rtol=tolerance)


def test_called_samples_of_another_shape(
    monkeypatch: pytest.MonkeyPatch, saddlepoint_alone: Callable[[], None]
) -> None:
    """Of variants that were called in one batch alone, whose residuals have other tails."""
    saddlepoint_alone()
    rng = np.random.default_rng(6)
    n = 3000
    y = np.concatenate([rng.standard_normal(n // 2), rng.laplace(0.0, 0.5**0.5, n // 2)])
    codes = drawn(rng, 40, n, 0.02, 0.0)
    codes[:20, n // 2 :] = -1
    codes[20:, : n // 2] = -1
    model = plain_model(y, spa_threshold=1.0)
    found = fit_packed(model, encode(codes))
    monkeypatch.setattr(score, "_FEW_SAMPLES", n + 1)
    full = fit_packed(model, encode(codes))
    for name in ("add", "var", "av"):
        name = f"{name}_score_neg_log10_p"
        np.testing.assert_array_equal(column(found, name), column(full, name))


@pytest.mark.parametrize("kind", DRAWS)
def test_expansions_stand_for_the_saddlepoint(
    kind: str, saddlepoint_alone: Callable[[], None]
) -> None:
    """Tails that are expanded, with and without an effect on the mean."""
    rng = np.random.default_rng(15)
    n = 3000
    codes = np.concatenate([drawn(rng, 100, n, maf, 0.01) for maf in (0.05, 0.3)])
    y = DRAWS[kind](rng, n)
    y += 0.1 * y.std() * np.maximum(codes[::4], 0).sum(axis=0)
    model = plain_model(y)
    fast = fit_packed(model, encode(codes))
    saddlepoint_alone()
    full = fit_packed(model, encode(codes))
    changed = 0
    # With an outlier scores are mixtures, which the saddlepoint takes for one hump; the variance's
    # is not like it at all.
    rtol = 0.03 if kind == "outlier" else 5e-3
    for name in ("add", "av") if kind == "outlier" else ("add", "var", "av"):
        found, expected = (column(results, f"{name}_score_neg_log10_p") for results in (fast, full))
        changed += np.sum(found != expected)
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=2e-3)
    assert changed > 20


@pytest.mark.parametrize("kind", DRAWS)
def test_centre_is_that_of_permuted_genotypes(kind: str) -> None:
    rng = np.random.default_rng(16)
    n, draws = 1000, 4000
    y = DRAWS[kind](rng, n)
    codes = drawn(rng, 12, n, 0.1, 0.0)
    results = fit_packed(plain_model(y), encode(codes))
    e = y - y.mean()
    v = e**2 / np.mean(e**2) - 1.0
    f = np.stack([e, v], axis=1)
    permuted = rng.permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
    for code, row in zip(codes, results, strict=True):
        carriers = np.flatnonzero(code)
        copies = code[carriers].astype(float)
        scores = np.einsum("j,ijk->ik", copies, f[permuted[:, : len(carriers)]])
        p = np.mean(np.abs(scores) >= np.abs(copies @ f[carriers]) * (1 - 1e-9), axis=0)
        found = [10.0 ** -row[INDEX[f"{name}_score_neg_log10_p"]] for name in ("add", "var")]
        z_mean = studentised(code.astype(float), e)
        for k in range(2):
            if p[k] > 0.06 and (k == 0 or abs(z_mean) < 2.0):
                assert found[k] == pytest.approx(p[k], abs=0.03)


def test_tails_with_an_outlier_are_those_of_permuted_genotypes() -> None:
    rng = np.random.default_rng(17)
    n, draws = 1000, 20_000
    y = rng.standard_normal(n)
    y[0] = 10.0
    codes = drawn(rng, 60, n, 0.05, 0.0)
    codes[:50, 0] = 1
    results = fit_packed(plain_model(y), encode(codes))
    e = y - y.mean()
    v = e**2 / np.mean(e**2) - 1.0
    permuted = rng.permuted(np.tile(np.arange(n, dtype=np.int16), (draws, 1)), axis=1)
    compared = 0
    for code, row in zip(codes, results, strict=True):
        if abs(studentised(code.astype(float), v)) < 2.0:
            continue
        if abs(studentised(code.astype(float), e)) > 2.0:
            continue
        carriers = np.flatnonzero(code)
        copies = code[carriers].astype(float)
        scores = v[permuted[:, : len(carriers)]] @ copies
        hits = np.sum(np.abs(scores) >= abs(copies @ v[carriers]) * (1 - 1e-9))
        expected = draws * 10.0 ** -row[INDEX["var_score_neg_log10_p"]]
        assert abs(hits - expected) < 4.0 * np.sqrt(expected) + 0.1 * expected
        compared += 1
    assert compared > 15


@pytest.mark.parametrize("n", [50, 200, 2000])
@pytest.mark.parametrize("size", [20.0, 50.0, 1000.0])
def test_an_outlier_with_missing_calls_makes_nothing_of_nothing(n: int, size: float) -> None:
    """Also where its own call is missing, with and without classes."""
    rng = np.random.default_rng(18)
    y = np.append(rng.standard_normal(n - 1), size)
    codes = drawn(rng, 300, n, 0.3, 0.02)
    codes[:20, -1] = -1
    for results in (fit_packed(plain_model(y), encode(codes)), fit_dosage(
        plain_model(y), np.where(codes < 0, np.nan, codes.astype(float))
    )):  # fmt: skip
        for name in ("add", "var", "av"):
            assert column(results, f"{name}_score_neg_log10_p").max() < 4.0


def test_normal_tail_below_the_threshold() -> None:
    rng = np.random.default_rng(3)
    y = rng.gamma(2.0, size=400)
    codes = drawn(rng, 100, 400, 0.3)
    never, some = (
        fit_packed(plain_model(y, spa_threshold=t), encode(codes)) for t in (np.inf, 2.0)
    )
    z, z_mean = (
        np.array([studentised(g, (v0, e)[k]) for g, e, v0, _ in (shares(c, y) for c in codes)])
        for k in (0, 1)
    )
    name = "var_score_neg_log10_p"
    plain = np.where(
        np.abs(z_mean) > 2.0,
        np.minimum(neg_log10_p_normal(z), neg_log10_p_normal(column(never, "var_score_t"))),
        neg_log10_p_normal(z),
    )
    far = np.abs(z) > 3.0
    np.testing.assert_allclose(column(never, name)[far], plain[far], rtol=1e-8)
    # Of the centre, the normal distribution is a good deal but not all.
    np.testing.assert_allclose(column(never, name)[~far], plain[~far], atol=0.3)
    same = column(never, name) == column(some, name)
    np.testing.assert_array_equal(same | (np.abs(z) > 2.0) | (np.abs(z_mean) > 2.0), True)
    assert not same[np.abs(z) > 2.0].any()


def test_enumeration_of_all_permutations() -> None:
    """A rare variant: every choice of its carriers, with their residuals held fixed."""
    rng = np.random.default_rng(4)
    n, k = 400, 2
    y = rng.gamma(2.0, size=n)
    e = y - y.mean()
    code = np.zeros(n, np.int8)
    code[np.argsort(-e)[[5, 30]]] = 1
    result = fit_packed(plain_model(y), encode(code[None]))
    # Of k = 2 carriers, the score is the sum of both residuals.
    sums = (e[:, None] + e)[np.triu_indices(n, 1)]
    own = abs(e[code == 1].sum())
    exact = -np.log10(np.mean(np.abs(sums) >= own * (1 - 1e-12)))
    assert code.sum() == k
    assert column(result, "add_score_neg_log10_p")[0] == pytest.approx(exact, rel=0.12)
    assert column(result, "add_score_neg_log10_p")[0] < neg_log10_p_normal(
        studentised(code.astype(float), e)
    )


def test_far_tails_are_finite() -> None:
    """An outlier of 50 standard deviations, and effects with p below the smallest double."""
    rng = np.random.default_rng(5)
    n = 20_000
    codes = drawn(rng, 5, n, 0.2)
    codes[0, :3] = (2, 1, 0)
    y = rng.standard_normal(n)
    y[0] = 50.0
    y += 2.0 * np.maximum(codes[1], 0)
    y *= np.exp(0.8 * np.maximum(codes[2], 0))
    results = fit_packed(plain_model(y), encode(codes))
    for name in ("add_score", "var_score", "av_score", "var_lrt", "av_robust"):
        assert np.isfinite(column(results, f"{name}_neg_log10_p")).all()
        assert (column(results, f"{name}_neg_log10_p") >= 0).all()
    assert column(results, "add_score_neg_log10_p")[1] > 400
    assert column(results, "var_score_neg_log10_p")[2] > 400
    assert column(results, "av_score_neg_log10_p")[1] > 400


def test_nothing_known_where_there_is_no_spread() -> None:
    """A phenotype of two values: its squares carry nothing that the mean does not."""
    y = np.tile([-1.0, 1.0], 100)
    codes = drawn(np.random.default_rng(6), 5, 200, 0.3)
    results = fit_packed(plain_model(y), encode(codes))
    assert (column(results, "status") == Status.OK).all()
    assert np.isfinite(column(results, "add_score_neg_log10_p")).all()


def test_counts_and_moments_by_genotype() -> None:
    rng = np.random.default_rng(7)
    y = 10.0 + rng.standard_normal(200)
    codes = drawn(rng, 4, 200, 0.3)
    codes[1] = np.where(codes[1] == 1, 0, codes[1])
    codes[2] = 0
    codes[2, 0] = 2
    results = fit_packed(plain_model(y), encode(codes))
    for k, name in enumerate(CLASS_DOC):
        for j, code in enumerate(codes):
            members = y[code == k]
            assert column(results, f"n_{name}")[j] == len(members)
            expected = [np.nan, np.nan]
            if len(members):
                expected[0] = members.mean()
            if len(members) > 1:
                expected[1] = members.std(ddof=1)
            found = [column(results, f"pheno_{what}_{name}")[j] for what in ("mean", "sd")]
            np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_likelihood_ratio_and_sandwich_covariance() -> None:
    rng = np.random.default_rng(8)
    y = rng.gamma(2.0, size=300)
    codes = drawn(rng, 6, 300, 0.3)
    results = fit_packed(plain_model(y), encode(codes))
    for code, row in zip(codes, results, strict=True):
        called = code >= 0
        X = np.column_stack([np.ones(called.sum()), code[called] - code[called].mean()])
        fit, less = HLM(y[called], X, X).fit(), HLM(y[called], X, X[:, :1]).fit()
        lrt = stats.chi2.logsf(2.0 * (fit.loglik - less.loglik), 1) / -np.log(10.0)
        np.testing.assert_allclose(row[INDEX["var_lrt_neg_log10_p"]], lrt, rtol=1e-6, atol=1e-9)
        r, w = y[called] - X @ fit.alpha, np.exp(-X @ fit.beta)
        scores = np.hstack([(w * r)[:, None] * X, 0.5 * (w * r**2 - 1.0)[:, None] * X])
        cross = X.T @ (X * (w * r)[:, None])
        H = np.block([
            [X.T @ (X * w[:, None]), cross], [cross, 0.5 * X.T @ (X * (w * r**2)[:, None])],
        ])  # fmt: skip
        inverse = np.linalg.inv(H)
        covariance = (inverse @ scores.T @ scores @ inverse)[np.ix_([1, 3], [1, 3])]
        np.testing.assert_allclose(row[INDEX["add_var_cov"]], covariance[0, 1], rtol=1e-6)
        effects = np.array([fit.alpha[1], fit.beta[1]])
        wald = effects @ np.linalg.solve(covariance, effects)
        found = row[INDEX["av_robust_neg_log10_p"]]
        np.testing.assert_allclose(found, stats.chi2.logsf(wald, 2) / -np.log(10.0), rtol=1e-6)


# -- covariates and random effects ------------------------------------------------------------


def test_scores_with_random_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    """u = Σ⁻¹r and P = Σ⁻¹ in full, p-values of the normal distribution."""
    monkeypatch.setattr(score, "_CENTRE", (0.0, 0.0))
    rng = np.random.default_rng(9)
    n = 150
    G = rng.standard_normal((n, 20)) / np.sqrt(20.0)
    X = np.column_stack([np.ones(n), rng.standard_normal(n)])
    y = G @ rng.standard_normal(20) + rng.gamma(2.0, size=n) * np.exp(0.2 * X[:, 1])
    fit = HLMM(y, X, X, G).fit()
    design = RandomDesign.from_matrix(G)
    dense = DenseModel(y, X, X, fit.alpha, fit.beta, design, h2=fit.h2, h2_min=1e-5)
    model = block_model(dense, PackedLayout(n, np.arange(n)), ALL, spa_threshold=np.inf)
    codes = drawn(rng, 4, n, 0.3, 0.0)
    results = fit_packed(model, encode(codes))
    D = np.exp(X @ fit.beta)
    P = np.linalg.inv(np.diag(D) + fit.h2 * G @ G.T)
    u = P @ (y - X @ fit.alpha)
    for code, row in zip(codes, results, strict=True):
        g = code - X @ np.linalg.lstsq(X, code.astype(float), rcond=None)[0]
        mean = g @ u / np.sqrt(g @ g * np.mean((u - u.mean()) ** 2))
        np.testing.assert_allclose(
            row[INDEX["add_score_neg_log10_p"]], neg_log10_p_normal(mean), rtol=1e-6
        )
        e, w = D * u, 1.0 / D
        r = e - (w @ e) / w.sum() - g * (g @ u) / (g @ (g * w))
        v = w * r**2 - D * np.diag(P)
        z = g @ v / np.sqrt(g @ g * np.mean((v - v.mean()) ** 2))
        np.testing.assert_allclose(row[INDEX["var_score_t"]], z, rtol=1e-6)


def test_heteroskedasticity_by_a_covariate_is_taken_out() -> None:
    """A variant that goes with a covariate which makes the spread: no effect of its own."""
    rng = np.random.default_rng(10)
    n = 4000
    x = rng.standard_normal(n)
    code = rng.binomial(2, special.expit(1.5 * x)).astype(np.int8)
    y = rng.standard_normal(n) * np.exp(0.5 * x)
    X = np.column_stack([np.ones(n), x])
    fit = HLM(y, X, X).fit()
    dense = DenseModel(y, X, X, fit.alpha, fit.beta)
    model = block_model(dense, PackedLayout(n, np.arange(n)), ALL)
    with_covariate = fit_packed(model, encode(code[None]))
    without = fit_packed(plain_model(y), encode(code[None]))
    assert abs(column(with_covariate, "var_score_t")[0]) < 3.0
    assert column(without, "var_score_neg_log10_p")[0] > 20.0


def test_dosages_between_the_calls() -> None:
    rng = np.random.default_rng(11)
    n = 2000
    y = rng.gamma(2.0, size=n)
    codes = drawn(rng, 10, n, 0.2, 0.0)
    near = np.clip(codes + 1e-6 * rng.standard_normal(codes.shape), 0.0, 2.0)
    model = plain_model(y, spa_threshold=1.0)
    calls, dosages = fit_packed(model, encode(codes)), fit_dosage(model, near)
    for name in ("add_score", "var_score", "av_score"):
        found = [column(r, f"{name}_neg_log10_p") for r in (calls, dosages)]
        np.testing.assert_allclose(*found, rtol=0.05, atol=1e-3)


# -- calibration ------------------------------------------------------------------------------


def test_quadrature_is_exact_for_polynomials() -> None:
    rng = np.random.default_rng(12)
    values, counts = rng.uniform(-1.0, 3.0, 500), rng.integers(1, 5, 500).astype(float)
    nodes, weights = gauss_nodes(values, counts, 10)
    for power in range(20):
        np.testing.assert_allclose(weights @ nodes**power, counts @ values**power, rtol=1e-9)
    nodes, weights = gauss_nodes(np.array([-1.0, 2.0]), np.array([3.0, 1.0]), 10)
    np.testing.assert_allclose([nodes, weights], [[-1.0, 2.0], [3.0, 1.0]])


@pytest.mark.parametrize("kind", ["normal", "gamma", "outlier"])
def test_rates_without_an_effect(kind: str) -> None:
    """Rates at 1e-3 and medians are what they should be; classical ones far off."""
    rng = np.random.default_rng(13)
    n, m, draws = 2000, 4000, 6
    found: dict[str, list[FloatArray]] = {}
    for _ in range(draws):
        results = variant_tests(drawn(rng, m, n, 0.05, 0.0), DRAWS[kind](rng, n))
        for name in ("var", "add_score", "var_score", "av_score"):
            found.setdefault(name, []).append(results[f"{name}_neg_log10_p"].to_numpy())
    rates = {name: np.mean(np.concatenate(p) > 3.0) / 1e-3 for name, p in found.items()}
    error = 1.0 / np.sqrt(m * draws * 1e-3)
    for name in ("add_score", "var_score", "av_score"):
        assert rates[name] < 1.0 + 4.0 * error, rates
        # What an outlier makes is conservative.
        assert rates[name] > 1.0 - 4.0 * error or kind == "outlier", rates
    for name in ("add_score", "var_score"):
        p = 10.0 ** -np.median(np.concatenate(found[name]))
        inflation = stats.chi2.isf(p, 1) / stats.chi2.isf(0.5, 1)
        assert inflation == pytest.approx(1.0, abs=0.04)
    # Of two degrees of freedom. One at 50 SD makes both parts, which are not independent then.
    median = np.median(np.concatenate(found["av_score"])) / np.log10(2.0)
    assert (0.6 if kind == "outlier" else 0.95) < median < 1.05
    if kind != "normal":
        assert rates["var"] > 10.0


def test_tests_in_memory() -> None:
    rng = np.random.default_rng(14)
    n = 500
    x = rng.standard_normal((n, 1))
    codes = drawn(rng, 3, n, 0.3)
    y = rng.gamma(2.0, size=n) * np.exp(0.3 * x[:, 0])
    plain = variant_tests(codes, y, variance_covariates=x, tests=("levene",))
    kept = variant_tests(codes, y, variance_covariates=x, mean_covariates=x, fit_covariates=True)
    assert [*plain][-1] == "levene_neg_log10_p"
    assert np.isfinite(plain["levene_f"]).all()
    assert np.isnan(plain["h2"]).all()
    G = rng.standard_normal((n, 5)) / np.sqrt(5.0)
    random = variant_tests(codes, y, random_effects=G)
    assert np.isfinite(random["h2"]).all()
    for table in (plain, kept, random):
        assert np.isfinite(table[["var_best_neg_log10_p", "av_score_neg_log10_p"]]).all(axis=None)
    for arguments, words in (
        ((codes[0], y), "expected"), ((codes, y[:-1]), "expected"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            variant_tests(*arguments)
    with pytest.raises(InputError, match="not constant"):
        variant_tests(codes, y, mean_covariates=np.ones((n, 1)))
