"""HLM with covariates in every model against the model of one variant."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hlmm_dask.kernels import covariate_chord, hlm_covariates
from hlmm_dask.kernels.covariate_chord import ChordBatch
from hlmm_dask.kernels.covariate_loops import Engine
from hlmm_dask.kernels.covariate_null import CovariateModel
from hlmm_dask.kernels.dense import DenseModel, fit_dense
from hlmm_dask.kernels.hlm_covariates import fit_with_covariates
from hlmm_dask.models.hlm import HLM
from hlmm_dask.schema import Status

FloatArray = NDArray[np.float64]
ROBUST = ("add_robust_se", "var_robust_se", "add_var_cov")
NAMES = ("add", "add_se", "var", "var_se", "loglik", *ROBUST)


def example(n: int = 300, seed: int = 0) -> CovariateModel:
    """Two covariates in the mean, one other in the variance, at the null model's maximum."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    V = np.column_stack([np.ones(n), rng.standard_normal(n)])
    y = X @ [3.0, 0.5, -0.2] + np.exp(0.5 * (V @ [0.5, 0.4])) * rng.standard_normal(n)
    null = HLM(y, X, V).fit()
    return CovariateModel.build(y, X, V, null.alpha, null.beta)


def dosages(kind: str, m: int, n: int, seed: int = 1) -> FloatArray:
    rng = np.random.default_rng(seed)
    out = rng.binomial(2, rng.uniform(0.1, 0.9, (m, 1)), (m, n)).astype(np.float64)
    if kind == "missing":
        out[rng.random((m, n)) < 0.08] = np.nan
    elif kind == "real":
        out = np.clip(out + rng.normal(0.0, 0.2, (m, n)), 0.0, 2.0)
        out[0, 3] = np.nan
    return out


@pytest.mark.parametrize("kind", ["calls", "missing", "real"])
def test_estimates_are_the_models(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several chunks of samples and batches of variants.
    monkeypatch.setattr(hlm_covariates, "_CHUNK_SAMPLES", 128)
    monkeypatch.setattr(covariate_chord, "_CHUNK_SAMPLES", 128)
    monkeypatch.setattr(hlm_covariates, "_BATCH_VARIANTS", 8)
    model = example()
    dosage = dosages(kind, 20, 300)
    fit = fit_with_covariates(model, dosage)
    assert (fit.status == Status.OK).all()
    assert fit.h2 is None
    for j, row in enumerate(dosage):
        called = ~np.isnan(row)
        g = row[called] - row[called].mean()
        X, V = np.column_stack([model.X[called], g]), np.column_stack([model.V[called], g])
        # From least squares, not from the null.
        other = HLM(model.y[called], X, V).fit()
        assert fit.add[j] == pytest.approx(other.alpha[-1], abs=1e-7 * other.alpha_se[-1])
        assert fit.var[j] == pytest.approx(other.beta[-1], abs=1e-7 * other.beta_se[-1])
        assert fit.add_se[j] == pytest.approx(other.alpha_se[-1], rel=1e-7)
        assert fit.var_se[j] == pytest.approx(other.beta_se[-1], rel=1e-9)
        assert fit.loglik[j] == pytest.approx(other.loglik, rel=1e-12)


def test_dense_path_gives_the_same() -> None:
    model = example()
    dosage = dosages("missing", 6, 300)
    fit = fit_with_covariates(model, dosage)
    dense = fit_dense(DenseModel(model.y, model.X, model.V, model.alpha, model.beta), dosage)
    np.testing.assert_array_equal(dense.status, fit.status)
    for name in NAMES[:5]:
        np.testing.assert_allclose(getattr(dense, name), getattr(fit, name), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_collinear_variant_has_a_status(unit: float) -> None:
    """Collinear with a mean covariate, a variance covariate, or only nearly."""
    model = example()
    X = model.X * [1.0, unit, 1.0]
    null = HLM(model.y, X, model.V).fit()
    model = CovariateModel.build(model.y, X, model.V, null.alpha, null.beta)
    dosage = dosages("calls", 4, 300)
    dosage[0] = 1.0 + 0.2 * model.X[:, 1] / unit
    dosage[1] = 1.0 - 0.1 * model.V[:, 1]
    dosage[2] = 1.0 + 0.2 * model.X[:, 2] + 0.01 * np.random.default_rng(0).standard_normal(300)
    fit = fit_with_covariates(model, dosage)
    assert list(fit.status) == [Status.COLLINEAR, Status.COLLINEAR, Status.OK, Status.OK]
    assert np.isnan(fit.add[:2]).all()
    dense = fit_dense(DenseModel(model.y, X, model.V, model.alpha, model.beta), dosage)
    np.testing.assert_array_equal(dense.status, fit.status)


def test_covariate_that_is_constant_among_the_called() -> None:
    model = example()
    rare = np.zeros(300)
    rare[:9] = 1.0
    X = np.column_stack([model.X, rare])
    null = HLM(model.y, X, model.V).fit()
    model = CovariateModel.build(model.y, X, model.V, null.alpha, null.beta)
    dosage = dosages("calls", 2, 300)
    dosage[0, :9] = np.nan
    assert list(fit_with_covariates(model, dosage).status) == [Status.COLLINEAR, Status.OK]


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_unit_of_y_makes_no_difference(factor: float) -> None:
    model = example()
    null = HLM(model.y * factor, model.X, model.V).fit()
    scaled_model = CovariateModel.build(model.y * factor, model.X, model.V, null.alpha, null.beta)
    dosage = dosages("missing", 10, 300)
    fit, scaled = fit_with_covariates(model, dosage), fit_with_covariates(scaled_model, dosage)
    assert (scaled.status == Status.OK).all()
    np.testing.assert_allclose(scaled.add / scaled.add_se, fit.add / fit.add_se, atol=1e-8)
    np.testing.assert_allclose(scaled.var / scaled.var_se, fit.var / fit.var_se, atol=1e-8)


def test_batching_makes_no_difference() -> None:
    model = example()
    dosage = dosages("missing", 40, 300)
    whole = fit_with_covariates(model, dosage)
    parts = [fit_with_covariates(model, part) for part in np.array_split(dosage, [3, 10, 35])]
    for name in NAMES:
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(joined, getattr(whole, name), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("carriers", [1, 2, 5])
def test_rare_variants(carriers: int) -> None:
    """One carrier has no residual; with more there is a maximum, however rare they are."""
    model = example()
    rng = np.random.default_rng(2)
    dosage = np.zeros((5, 300))
    for row in dosage:
        row[rng.choice(300, carriers, replace=False)] = 1.0
    fit = fit_with_covariates(model, dosage)
    expected = Status.UNBOUNDED if carriers == 1 else Status.OK
    assert (fit.status == expected).all()


def example_of(kind: str, *, same_design: bool) -> tuple[CovariateModel, FloatArray]:
    """A larger model, and dosages of one kind, the first of which has the effects."""
    n = 3000
    rng = np.random.default_rng(5)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 3))])
    V = X.copy() if same_design else np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    dosage = dosages("calls", 12, n)
    if kind == "rare":
        dosage = rng.binomial(2, 0.004, (12, n)).astype(np.float64)
    elif kind in ("missing", "real"):
        dosage = dosages(kind, 12, n)
    elif kind == "nearly collinear":
        dosage = 1.0 + 0.2 * X[:, 1] + 0.03 * rng.standard_normal((12, n))
    effects = {"strong": (0.5, 1.0), "moderate": (0.1, 0.1)}.get(kind, (0.0, 0.0))
    log_variance = 0.2 * V[:, 1] + effects[1] * np.nan_to_num(dosage[0])
    y = X[:, 1] + effects[0] * np.nan_to_num(dosage[0])
    y += np.exp(0.5 * log_variance) * rng.standard_normal(n)
    null = HLM(y, X, V).fit()
    return CovariateModel.build(y, X, V, null.alpha, null.beta), dosage


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("same_design", [True, False])
@pytest.mark.parametrize(
    "kind", ["calls", "moderate", "strong", "rare", "missing", "real", "nearly collinear"]
)
def test_fast_path_is_exact(
    kind: str, same_design: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, dosage = example_of(kind, same_design=same_design)
    fit = fit_with_covariates(model, dosage, engine=engine)
    monkeypatch.setattr(covariate_chord, "_LONGEST_STEP", 0.0)
    exact = fit_with_covariates(model, dosage)
    assert (exact.status == Status.OK).all()
    np.testing.assert_array_equal(fit.status, exact.status)
    assert np.all(np.abs(fit.add - exact.add) < 1e-7 * exact.add_se)
    assert np.all(np.abs(fit.var - exact.var) < 1e-7 * exact.var_se)
    np.testing.assert_allclose(fit.add_se, exact.add_se, rtol=1e-7)
    np.testing.assert_allclose(fit.var_se, exact.var_se, rtol=1e-12)
    np.testing.assert_allclose(fit.loglik, exact.loglik, rtol=0.0, atol=1e-7)
    for name in ROBUST[:2]:
        np.testing.assert_allclose(getattr(fit, name), getattr(exact, name), rtol=1e-6)


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("same_design", [True, False])
@pytest.mark.parametrize("kind", ["calls", "strong", "missing", "real"])
def test_robust_errors_are_the_sandwich_of_the_samples(
    kind: str, same_design: bool, engine: Engine
) -> None:
    model, dosage = example_of(kind, same_design=same_design)
    fit = fit_with_covariates(model, dosage[:3], engine=engine)
    c, v = model.X.shape[1] + 1, model.V.shape[1] + 1
    for j, row in enumerate(dosage[:3]):
        called = ~np.isnan(row)
        g = row[called] - row[called].mean()
        X, V = np.column_stack([model.X[called], g]), np.column_stack([model.V[called], g])
        one = HLM(model.y[called], X, V).fit()
        r, w = model.y[called] - X @ one.alpha, np.exp(-(V @ one.beta))
        scores = np.hstack([(w * r)[:, None] * X, 0.5 * (w * r * r - 1.0)[:, None] * V])
        information = np.zeros((c + v, c + v))
        information[:c, :c] = X.T @ (X * w[:, None])
        information[c:, c:] = 0.5 * V.T @ V
        inverse = np.linalg.inv(information)
        covariance = (inverse @ scores.T @ scores @ inverse)[np.ix_([c - 1, -1], [c - 1, -1])]
        add, var = np.sqrt(np.diagonal(covariance))
        found = [getattr(fit, name)[j] for name in ROBUST]
        assert found[:2] == pytest.approx([add, var], rel=1e-6)
        assert found[2] == pytest.approx(covariance[0, 1], abs=1e-6 * add * var)


def test_robust_tests_hold_their_level_where_the_classical_one_is_inflated() -> None:
    """Gamma residuals, kurtosis 6: the classical statistic is inflated (6 - 1)/2 times."""
    rng = np.random.default_rng(24)
    statistics = []
    for _ in range(10):
        n = 2000
        X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
        y = X @ [1.0, 0.5, -0.5] + np.exp(0.2 * X[:, 1]) * (rng.gamma(2.0, size=n) - 2.0)
        null = HLM(y, X, X).fit()
        model = CovariateModel.build(y, X, X, null.alpha, null.beta)
        fit = fit_with_covariates(model, rng.binomial(2, 0.3, (150, n)).astype(np.float64))
        se = [getattr(fit, name) for name in ("add_robust_se", "var_robust_se", "var_se")]
        statistics.append(np.stack([fit.add / se[0], fit.var / se[1], fit.var / se[2]]) ** 2)
    add, var, classical = np.mean(statistics, axis=(0, 2))
    # Of 1,500 draws the mean of a chi-square is within 0.11 (three standard errors).
    assert 0.85 < add < 1.15
    assert 0.85 < var < 1.2
    assert 2.0 < classical < 3.1


def batch(model: CovariateModel, dosage: FloatArray, engine: Engine = "numba") -> ChordBatch:
    g, mask, _ = hlm_covariates._centred(dosage)
    return ChordBatch(model, g, mask, engine=engine)


@pytest.mark.parametrize("kind", ["calls", "missing", "strong"])
def test_which_variants_take_the_fast_path(kind: str) -> None:
    model, dosage = example_of(kind, same_design=True)
    fit = batch(model, dosage).fit(np.arange(len(dosage)), tolerance=1e-7)
    assert fit.converged[1:].all()
    assert fit.converged[0] == (kind != "strong")
    assert fit.n_evaluations.max() <= 5


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("same_design", [True, False])
@pytest.mark.parametrize("kind", ["calls", "missing"])
def test_gradient_is_the_values(kind: str, same_design: bool, engine: Engine) -> None:
    """At the null, where it comes from the first pass, and elsewhere; the Hessian's rows too."""
    model, dosage = example_of(kind, same_design=same_design)
    sums = batch(model, dosage[:2], engine)
    c, v = model.X.shape[1], model.V.shape[1]
    rows = np.arange(2)
    null = np.zeros((2, c + v + 2))
    null[:, c : c + v] = model.beta
    size = np.abs(sums.evaluate(null, rows)[1]).max() + len(model.y)
    np.testing.assert_allclose(sums.gradient, sums.evaluate(null, rows)[1], atol=1e-12 * size)
    rng = np.random.default_rng(0)
    theta = null + 0.1 * rng.standard_normal(null.shape)
    gradient = sums.evaluate(theta, rows)[1]
    step = 1e-4
    for k in range(c + v + 2):
        unit = np.zeros(c + v + 2)
        unit[k] = step
        ahead, behind = sums.evaluate(theta + unit, rows), sums.evaluate(theta - unit, rows)
        slope = (ahead[0] - behind[0]) / (2.0 * step)
        np.testing.assert_allclose(slope, gradient[:, k], rtol=1e-5, atol=1e-2)
        ahead, behind = sums.evaluate(null + unit, rows), sums.evaluate(null - unit, rows)
        column = (ahead[1] - behind[1])[:, -2:] / (2.0 * step)
        expected = sums.rows[:, :, k] if k < c + v else sums.corner[:, k - c - v :][:, :2]
        np.testing.assert_allclose(column, expected, rtol=1e-5, atol=1e-2)


def test_extreme_log_variances_stay_finite() -> None:
    model, dosage = example_of("calls", same_design=True)
    theta = np.zeros((1, 10))
    theta[0, -1] = 2000.0
    numba = batch(model, dosage[:1]).evaluate(theta, np.arange(1))
    assert np.isfinite(numba[0]).all()


def test_null_that_is_no_maximum() -> None:
    """Far from it the exact method takes over; near it the fast one needs no maximum."""
    model, dosage = example_of("calls", same_design=True)
    expected = fit_with_covariates(model, dosage)
    for shift in (1e-3, 30.0):
        beta = model.beta.copy()
        beta[0] += shift
        alpha = model.alpha + 1e-3
        other = CovariateModel.build(model.y, model.X, model.V, alpha, beta)
        fit = fit_with_covariates(other, dosage)
        assert (fit.status == Status.OK).all()
        np.testing.assert_allclose(fit.add, expected.add, atol=1e-7 * expected.add_se.max())
        np.testing.assert_allclose(fit.var, expected.var, atol=1e-7 * expected.var_se.max())


def test_no_variants() -> None:
    assert len(fit_with_covariates(example(), np.empty((0, 300))).add) == 0
