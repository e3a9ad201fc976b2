"""Linear mixed models with one relationship matrix: reference data, dense oracles, differences."""

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bed_reader import open_bed
from numpy.typing import NDArray
from scipy import linalg, special, stats

from hlmm_dask.errors import InputError
from hlmm_dask.models import (
    LinearMixedModel,
    fit_heritability,
    fit_phenotypes,
    lmm_heritability,
    profile_loglik,
)
from hlmm_dask.models.lmm_rotation import rotation_of_effects, rotation_of_kinship
from hlmm_dask.models.lmm_spectral import (
    CovariancePath,
    Method,
    RotatedData,
    gamma_path,
    heritability_path,
    lambda_path,
    maximise,
)

FloatArray = NDArray[np.float64]
methods = pytest.mark.parametrize("method", ["reml", "ml"])


def example(n: int = 40, m: int = 60, seed: int = 0) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Phenotype, design with covariates of unlike units, and random effects' design."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), 2000.0 + 5.0 * rng.standard_normal(n), rng.random(n) < 0.5])
    Z = rng.standard_normal((n, m)) / np.sqrt(m)
    return X @ [1.0, 0.1, -0.5] + Z @ rng.standard_normal(m) + rng.standard_normal(n), X, Z


def rotated(n: int, m: int, seed: int = 0) -> RotatedData:
    y, X, Z = example(n, m, seed)
    return rotation_of_effects(Z).rotate(y, X)


shapes = pytest.mark.parametrize(("n", "m"), [(40, 60), (40, 8)], ids=["full", "low"])


def dense_loglik(y: FloatArray, X: FloatArray, V: FloatArray, method: Method) -> float:
    """Log-likelihood of scipy's multivariate normal at the best β and scale of V."""
    if method == "reml":
        # Error contrasts: an orthonormal basis of what X leaves over.
        basis = linalg.null_space(X.T)
        y, V, mean = basis.T @ y, basis.T @ V @ basis, np.zeros(basis.shape[1])
    else:
        half = linalg.cholesky(V, lower=True)
        scaled = [linalg.solve_triangular(half, a, lower=True) for a in (X, y)]
        mean = X @ np.linalg.lstsq(*scaled, rcond=None)[0]
    scale = (y - mean) @ linalg.solve(V, y - mean, assume_a="pos") / len(y)
    return float(stats.multivariate_normal(mean, scale * V).logpdf(y))


@methods
@shapes
@pytest.mark.parametrize("h2", [0.0, 0.3, 0.99])
def test_loglik_is_the_multivariate_normals(n: int, m: int, h2: float, method: Method) -> None:
    y, X, Z = example(n, m)
    V = h2 * Z @ Z.T + (1.0 - h2) * np.eye(n)
    expected = dense_loglik(y, X, V, method)
    assert profile_loglik(rotated(n, m), h2, method=method) == pytest.approx(expected, rel=1e-10)


@methods
@shapes
@pytest.mark.parametrize(
    ("path", "at"),
    [(heritability_path, 0.2), (heritability_path, 0.8), (gamma_path, -1.5), (lambda_path, 2.0)],
)
def test_derivatives_are_the_five_point_differences(
    n: int, m: int, path: CovariancePath, at: float, method: Method
) -> None:
    data, h = rotated(n, m), 2e-3
    here = data.profile(path, at, method)
    near = [data.profile(path, at + k * h, method) for k in (-2, -1, 1, 2)]
    weights = np.array([1.0, -8.0, 8.0, -1.0]) / (12.0 * h)
    assert here.gradient == pytest.approx(weights @ [p.loglik for p in near], rel=1e-7, abs=1e-8)
    assert here.hessian == pytest.approx(weights @ [p.gradient for p in near], rel=1e-7, abs=1e-8)


def test_low_rank_with_the_rank_of_k_equals_full_rank() -> None:
    y, X, Z = example(50, 12)
    low, p = LinearMixedModel.from_random_effects(y, X, Z)
    full, _ = LinearMixedModel.from_kinship(y, X, Z @ Z.T)
    assert (low.n, low.f, low.r, low.low_rank, p.shape) == (50, 3, 12, True, (12, 50))
    assert not full.low_rank
    again = LinearMixedModel(p @ y, p @ X, low.data.values, y, X)
    a, others = low.fit(), (full.fit(), full.truncated(12).fit(), again.fit())
    for b in others:
        for name in ("beta", "beta_cov", "sigma_sq", "tau_sq", "h_sq", "h_sq_standard_error"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-10)
        assert a.loglik == pytest.approx(b.loglik, abs=1e-10)


def test_truncation_drops_the_small_eigenvalues() -> None:
    y, X, Z = example(30, 40)
    model, p = LinearMixedModel.from_kinship(y, X, Z @ Z.T)
    s = model.data.values
    part, q = LinearMixedModel.from_kinship(y, X, (p[:5].T * s[:5]) @ p[:5])
    dropped = model.truncated(5)
    for log_gamma in (-3.0, 0.0, 3.0):
        expected = part.compute_neg_log_reml(log_gamma)
        assert dropped.compute_neg_log_reml(log_gamma) == pytest.approx(expected, rel=1e-11)
    # Alternatives of a model truncated in the eigenbasis come with all their rows.
    a = np.random.default_rng(1).standard_normal((30, 4))
    one, other = dropped.fit_alternatives(0.5, p[:5] @ a, p @ a), part.fit_alternatives(0.5, q @ a)
    np.testing.assert_allclose(one.beta, other.beta, rtol=1e-9)
    np.testing.assert_allclose(one.chi_sq, other.chi_sq, rtol=1e-8)


def test_small_example(reference: Path) -> None:
    """The example of Hail's documentation."""
    known = json.loads((reference / "small" / "random_effects.json").read_text())
    model, p = LinearMixedModel.from_random_effects(known["y"], known["x"], known["z"])
    fit, reml = model.fit(), known["reml"]
    assert fit.h_sq == pytest.approx(0.38205307, abs=5e-8)
    for name in ("h_sq", "log_gamma", "sigma_sq", "tau_sq", "loglik"):
        assert getattr(fit, name) == pytest.approx(reml[name], rel=1e-10), name
    np.testing.assert_allclose(fit.beta, reml["beta"], rtol=1e-10)
    value = model.compute_neg_log_reml(fit.log_gamma)
    assert value == pytest.approx(reml["neg_log_reml_without_constant"], rel=1e-12)

    fixed, alternative = known["at_gamma_2"], known["at_gamma_2"]["alternative"]
    log_gamma = float(np.log(2.0))
    value, beta, sigma_sq, tau_sq = model.compute_neg_log_reml(log_gamma, return_parameters=True)
    assert value == pytest.approx(fixed["neg_log_reml_without_constant"], rel=1e-12)
    np.testing.assert_allclose(beta, fixed["beta"], rtol=1e-10)
    assert (sigma_sq, tau_sq) == pytest.approx((fixed["sigma_sq"], fixed["tau_sq"]), rel=1e-10)
    given = model.fit(log_gamma)
    assert (given.sigma_sq, given.h_sq) == pytest.approx((sigma_sq, 2 / 3), rel=1e-14)
    assert np.isnan(given.h_sq_standard_error)
    star = np.array(alternative["x_star"])[:, None]
    tested = model.fit_alternatives(log_gamma, p @ star, star)
    assert tested.beta[0] == pytest.approx(alternative["beta_star"], rel=1e-10)
    assert tested.chi_sq[0] == pytest.approx(alternative["chi_sq"], rel=1e-10)
    assert tested.p_value[0] == pytest.approx(stats.chi2.sf(alternative["chi_sq"], 1), rel=1e-10)


def test_fast_lmm_synthetic_data(reference: Path) -> None:
    folder = reference / "synth"
    known = json.loads((folder / "null_chr1_kinship.json").read_text())
    bed = open_bed(folder / "synth.bed", count_A1=True)
    snps = bed.read(dtype="float64")
    snps = (snps - snps.mean(axis=0)) / snps.std(axis=0)
    people = [f"{f} {i}" for f, i in zip(bed.fid, bed.iid, strict=True)]

    def column(name: str) -> FloatArray:
        rows = (line.split() for line in (folder / name).read_text().splitlines())
        values = {f"{fid} {iid}": float(value) for fid, iid, value in rows}
        return np.array([values[person] for person in people])

    y, X = column("pheno.txt"), np.column_stack([np.ones(len(people)), column("covar.txt")])
    first = bed.chromosome == "1"
    model, p = LinearMixedModel.from_kinship(y, X, snps[:, first] @ snps[:, first].T / first.sum())
    fit = model.fit()
    assert fit.h_sq == pytest.approx(0.14276125, abs=5e-8)  # as published
    assert fit.h_sq == pytest.approx(known["h2"], rel=1e-9)
    assert fit.h_sq_standard_error == pytest.approx(known["h2_se"], rel=1e-8)
    np.testing.assert_allclose(fit.beta, known["beta"], rtol=1e-9)
    assert fit.sigma_sq == pytest.approx(known["sigma_g2"], rel=1e-9)
    assert fit.tau_sq == pytest.approx(known["sigma_e2"], rel=1e-9)
    assert fit.loglik == pytest.approx(known["reml_loglik"], abs=1e-9)
    likelihood = model.h_sq_normalized_lkhd()
    assert likelihood.shape == (101,)
    assert np.isnan(likelihood[[0, 100]]).all()
    assert likelihood[1:-1].sum() == pytest.approx(1.0, abs=1e-14)
    expected = known["h2_normalized_likelihood_1_to_99"]
    np.testing.assert_allclose(likelihood[1:-1], expected, rtol=1e-9)
    ml = fit_heritability(model.data, method="ml")
    assert (ml.h2, ml.loglik) == pytest.approx((known["ml_h2"], known["ml_loglik"]), rel=1e-9)
    np.testing.assert_allclose(ml.beta, known["ml_beta"], rtol=1e-8)

    table = pd.read_csv(folder / "assoc_chr1_kinship_chr3_snps.tsv", sep="\t")
    tested = model.fit_alternatives(fit.log_gamma, p @ snps[:, table["index"]])
    error = tested.beta - table["beta"]
    assert np.max(np.abs(error / table["se"])) < 1e-9
    np.testing.assert_allclose(tested.sigma_sq, table["sigma_g2"], rtol=1e-9)
    np.testing.assert_allclose(tested.chi_sq, table["chi_sq"], rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(tested.p_value, table["p_lrt"], rtol=1e-8)


@methods
def test_recla(reference: Path, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = reference / "recla"
    K = np.loadtxt(folder / "kinship.csv.gz", delimiter=",")
    X = np.loadtxt(folder / "covar.csv", delimiter=",")
    phenotypes = pd.read_csv(folder / "pheno.csv", skipinitialspace=True)
    known = pd.read_csv(folder / "lmm.tsv", sep="\t").query(f"method == '{method}'")
    rotations = []

    def counted(K: FloatArray) -> object:
        rotations.append(K)
        return rotation_of_kinship(K)

    monkeypatch.setattr(lmm_heritability, "rotation_of_kinship", counted)
    Y = phenotypes[known["name"]].to_numpy(np.float64)
    fits = fit_phenotypes(Y, X, K, method=method)
    assert len(rotations) == len({column.tobytes() for column in np.isnan(Y).T}) < Y.shape[1]

    def column(name: str) -> FloatArray:
        return np.array([getattr(fit, name) for fit in fits])

    np.testing.assert_array_equal(column("n_samples"), known["n"])
    np.testing.assert_array_equal(column("at_bound"), known["at_bound"] == 1)
    assert set(column("h2")[column("at_bound")]) == {0.0, 1.0}
    np.testing.assert_allclose(column("h2"), known["hsq"], rtol=1e-10)
    np.testing.assert_allclose(column("h2_se"), known["hsq_se"], rtol=2e-6)
    np.testing.assert_allclose(column("sigma_sq"), known["sigmasq"], rtol=1e-11)
    np.testing.assert_allclose(column("sigma_sq_ml"), known["sigmasq_ml"], rtol=1e-11)
    np.testing.assert_allclose(column("loglik"), known["loglik"], rtol=1e-13)
    se = known[["intercept_se", "sex_se"]]
    np.testing.assert_allclose(column("beta_se"), se, rtol=1e-10)
    assert np.max(np.abs(column("beta") - known[["intercept", "sex"]]).to_numpy() / se) < 1e-10


def test_fixed_alternatives_are_generalised_least_squares() -> None:
    y, X, Z = example(30, 6)
    model, p = LinearMixedModel.from_random_effects(y, X, Z)
    rng = np.random.default_rng(2)
    a = np.column_stack([rng.standard_normal((30, 3)), X @ [1.0, 2.0, 3.0]])
    tested = model.fit_alternatives(0.7, p @ a, a)
    half = linalg.cholesky(Z @ Z.T + np.exp(-0.7) * np.eye(30), lower=True)
    yw, Xw, aw = (linalg.solve_triangular(half, b, lower=True) for b in (y, X, a))
    rss0 = np.linalg.lstsq(Xw, yw, rcond=None)[1][0]
    for j in range(3):
        beta, rss1 = np.linalg.lstsq(np.column_stack([Xw, aw[:, j]]), yw, rcond=None)[:2]
        assert tested.beta[j] == pytest.approx(beta[-1], rel=1e-8)
        assert tested.chi_sq[j] == pytest.approx(30 * np.log(rss0 / rss1[0]), rel=1e-7)
        assert tested.sigma_sq[j] == pytest.approx(rss1[0] / 26, rel=1e-9)
    assert np.isnan([tested.beta[3], tested.sigma_sq[3], tested.chi_sq[3], tested.p_value[3]]).all()


def test_vector_of_h2_and_the_maximum() -> None:
    data = rotated(60, 90, seed=3)
    values = np.linspace(0.0, 1.0, 201)
    logliks = profile_loglik(data, values)
    fit = fit_heritability(data)
    assert 0.0 < fit.h2 < 1.0
    assert logliks.max() <= fit.loglik < logliks.max() + 1e-2
    bounded = fit_heritability(data, bounds=(0.0, 0.5 * fit.h2))
    assert (bounded.h2, bounded.at_bound) == (0.5 * fit.h2, True)
    assert np.isnan(bounded.h2_se)


def test_a_singular_k_has_no_density_at_one() -> None:
    y, X, Z = example(40, 8)
    data = rotation_of_kinship(Z @ Z.T).rotate(y, X)
    assert data.singular
    assert profile_loglik(data, 1.0) == -np.inf
    # Nothing but random effects: the likelihood rises towards h² = 1.
    data = rotation_of_kinship(Z @ Z.T).rotate(X @ [1.0, 0.0, 1.0] + Z @ np.ones(8), X)
    fit = fit_heritability(data)
    assert (fit.h2, fit.at_bound) == (1.0 - 1e-5, True)


def test_an_optimum_at_a_bound_is_an_error() -> None:
    y, X, Z = example(200, 300)
    model, _ = LinearMixedModel.from_random_effects(y, X, Z)
    best = model.fit().log_gamma
    with pytest.raises(ValueError, match="lower bound of log_gamma"):
        model.fit(bounds=(best + 1.0, 8.0))
    with pytest.raises(ValueError, match="upper bound of log_gamma"):
        model.fit(bounds=(-8.0, best - 1.0))
    with pytest.raises(ValueError, match="within 1 iterations"):
        model.fit(maxiter=1)


def test_what_the_error_at_a_bound_advises_works() -> None:
    y, X, Z = example(200, 300)
    model, _ = LinearMixedModel.from_random_effects(y, X, Z)
    whole = model.fit()
    for bounds in ((whole.log_gamma + 1.0, 8.0), (-8.0, whole.log_gamma - 1.0)):
        with pytest.raises(InputError, match="give bounds=") as caught:
            model.fit(bounds=bounds)
        advised = ast.literal_eval(str(caught.value).split("bounds=")[1])
        assert model.fit(bounds=advised).log_gamma == pytest.approx(whole.log_gamma, abs=1e-6)
    # Here the likelihood falls all the way from h² = 0.
    rng = np.random.default_rng(4)
    for _ in range(20):
        model, _ = LinearMixedModel.from_random_effects(rng.standard_normal(200), X, Z)
        if fit_heritability(model.data).h2 == 0.0:
            break
    with pytest.raises(InputError, match="wider bounds don't help; give log_gamma=-8") as caught:
        model.fit()
    with pytest.raises(InputError, match="lower bound of log_gamma, -20"):
        model.fit(bounds=(-20.0, 8.0))
    there = model.fit(log_gamma=-8.0)
    assert there.h_sq == pytest.approx(special.expit(-8.0))
    assert "models.fit_heritability(model.data)" in str(caught.value)
    assert fit_heritability(model.data).at_bound


def test_repeated_and_zero_columns_add_nothing() -> None:
    y, X, Z = example(60, 8)
    more = np.column_stack([Z, Z[:, 0], np.zeros(60), Z[:, 1]])
    model, p = LinearMixedModel.from_random_effects(y, X, more)
    assert p.shape == (8, 60)
    assert model.low_rank
    assert "11 columns, of which 8 are linearly independent" in model.notes[0]
    # The same K from 8 columns.
    half = Z @ np.diag(np.r_[np.full(2, 2.0**0.5), np.ones(6)])
    same, _ = LinearMixedModel.from_random_effects(y, X, half)
    assert same.notes == ()
    for name in ("log_gamma", "sigma_sq", "tau_sq", "loglik"):
        assert getattr(model.fit(), name) == pytest.approx(getattr(same.fit(), name), rel=1e-6)
    with pytest.raises(InputError, match="no column, or zeros alone"):
        LinearMixedModel.from_random_effects(y, X, np.zeros((60, 3)))


def missing_calls_grm(n: int, m: int, missing: float, seed: int = 3) -> np.ndarray:
    """Relationships from the variants that both of a pair have, as this program computes them."""
    rng = np.random.default_rng(seed)
    f = rng.uniform(0.05, 0.5, m)
    z = (rng.binomial(2, f, (n, m)) - 2 * f) / np.sqrt(2 * f * (1 - f))
    called = (rng.random((n, m)) >= missing).astype(float)
    z *= called
    return (z @ z.T) / (called @ called.T)


@pytest.mark.parametrize("size", [(100, 40), (150, 150), (120, 600)])
def test_negative_eigenvalues_of_missing_calls_become_zero(size: tuple[int, int]) -> None:
    n = size[0]
    K = missing_calls_grm(*size, missing=0.05)
    K -= K.mean(axis=0)
    K -= K.mean(axis=1)[:, None]
    K -= 0.02 * np.eye(n)
    K = 0.5 * (K + K.T)
    values, vectors = np.linalg.eigh(K)
    assert values[0] < -0.01
    nearest = (vectors * np.maximum(values, 0.0)) @ vectors.T
    rng = np.random.default_rng(8)
    y, X = rng.standard_normal((n, 2)), np.ones((n, 1))
    model, p = LinearMixedModel.from_kinship(y[:, 0], X, K)
    assert p.shape == (n, n)
    expected = fit_phenotypes(y, X, 0.5 * (nearest + nearest.T))
    found = fit_phenotypes(y, X, K)
    for fit, wanted in zip(found, expected, strict=True):
        assert fit.loglik == pytest.approx(wanted.loglik, abs=1e-8)
        assert "negative eigenvalues" in fit.notes[0]
        assert wanted.notes == ()
    assert model.notes == found[0].notes
    # Eigenvalues of one's own are treated alike.
    own = LinearMixedModel(vectors.T @ y[:, 0], vectors.T @ X, values)
    assert own.notes == model.notes
    assert own.compute_neg_log_reml(0.3) == pytest.approx(model.compute_neg_log_reml(0.3))


def test_what_is_no_relationship_matrix_is_refused() -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((80, 80))
    noise = (noise + noise.T) / 2**0.5
    np.fill_diagonal(noise, 1.0)
    points = rng.standard_normal((80, 3))
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    uniform = rng.random((80, 80))
    uniform = (uniform + uniform.T) / 2
    wrong = np.eye(80)
    wrong[0, 1] = wrong[1, 0] = -2.0
    for K in (noise, distance, uniform, wrong, -np.eye(80)):
        with pytest.raises(InputError, match="not positive semidefinite: its smallest eigenvalue"):
            fit_phenotypes(noise[:, :1], np.ones((80, 1)), K)


def test_a_phenotype_that_cannot_be_fitted_has_its_own_status() -> None:
    y, X, Z = example(50, 80)
    K = Z @ Z.T / 80
    Y = np.column_stack([y, np.full(50, np.nan), np.ones(50), y, X @ [1.0, 2.0, 3.0], y])
    Y[3, 3] = np.inf
    Y[3:, 5] = np.nan
    names = ["good", "none", "same", "far", "explained", "few"]
    fits = fit_phenotypes(pd.DataFrame(Y, columns=names), X, K)
    assert [fit.name for fit in fits] == names
    states = ["ok", "empty", "constant", "infinite", "not_fitted", "not_fitted"]
    assert [fit.status for fit in fits] == states
    alone = fit_phenotypes(Y[:, :1], X, K)[0]
    assert (fits[0].h2, fits[0].loglik, fits[0].reason) == (alone.h2, alone.loglik, "")
    assert alone.name == "phenotype 1"
    for fit in fits[1:]:
        assert fit.reason.startswith(f"{fit.name}: ")
        assert np.isnan([fit.h2, fit.h2_se, fit.loglik, fit.sigma_sq, *fit.beta]).all()
        assert fit.beta_cov.shape == (3, 3)
    assert "no residual is left" in fits[4].reason
    assert "3 samples are too few" in fits[5].reason
    assert (fits[1].n_samples, fits[5].n_samples) == (0, 3)


def test_the_highest_of_two_maxima_is_found() -> None:
    rng = np.random.default_rng(0)
    X, Z = np.ones((20, 1)), rng.standard_normal((20, 25))
    rotation = rotation_of_effects(Z)
    grid = np.linspace(0.0, 1.0, 301)
    for _ in range(10):
        data = rotation.rotate(rng.standard_normal(20) ** 3, X)
        assert fit_heritability(data).loglik >= profile_loglik(data, grid).max() - 1e-12


def test_bad_input_is_named() -> None:
    y, X, Z = example(20, 30)
    K = Z @ Z.T
    p = rotation_of_kinship(K).vectors.T
    model = LinearMixedModel(p @ y, p @ X, np.linalg.eigvalsh(K)[::-1])
    cases = [
        (lambda: rotation_of_kinship(K[:, :5]), "expected a square matrix"),
        (lambda: rotation_of_kinship(np.triu(K)), "not symmetric"),
        (lambda: rotation_of_kinship(-K), "not positive semidefinite"),
        (lambda: rotation_of_kinship(K, rank=21), "rank 21: expected at most 20"),
        (lambda: rotation_of_kinship(K).rotate(y[1:], X[1:]), "y has 19 values, but K has 20"),
        (lambda: rotation_of_kinship(K).rotate(y, X[:, [0, 1, 1]]), "linearly dependent"),
        (lambda: rotation_of_kinship(K).rotate(X[:, 1], X).profile(gamma_path, 0.0, "ml"), "no r"),
        (lambda: rotation_of_effects(0.0 * Z), "no column, or zeros alone"),
        (lambda: LinearMixedModel(p @ y, p @ X, np.ones(19)), "s has 19 values, but py has 20"),
        (lambda: LinearMixedModel(p @ y, p @ X, -np.ones(20)), "not positive semidefinite"),
        (lambda: LinearMixedModel(p @ y, p @ X, np.ones(20), y=y), "together"),
        (lambda: LinearMixedModel(p @ y, p @ X, np.ones(20), y, X[:, :2]), r"expected \(r, p\)"),
        (lambda: model.truncated(0), "rank 0: expected a whole number"),
        (lambda: model.truncated(5).fit_alternatives(0.0, np.ones((5, 1))), "needs a"),
        (
            lambda: model.truncated(5).fit_alternatives(0.0, np.ones((5, 1)), np.ones((20, 2))),
            "a has 2 columns, but pa has 1",
        ),
        (lambda: profile_loglik(model.data, [0.5, 1.1]), r"outside \[0, 1\]"),
        (lambda: fit_heritability(model.data, bounds=(0.5, 0.4)), "lower, upper"),
        (
            lambda: maximise(lambda t: model.data.profile(gamma_path, t, "ml"), (-8.0, 8.0),
                             max_iterations=1),
            "within 1 iterations",
        ),
    ]  # fmt: skip
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_pandas_missing_values_and_huge_ones_leave_the_other_phenotypes() -> None:
    rng = np.random.default_rng(31)
    Z, X, y = rng.standard_normal((60, 90)), np.ones((60, 1)), rng.standard_normal(60)
    K = Z @ Z.T / 90
    Y = pd.DataFrame(
        {
            "none": pd.array([None] * 60, dtype="Float64"),
            "huge": 1e300 * y,
            "some": pd.array([None, *y[1:]], dtype="Float64"),
            "y": y,
        }
    )
    fits = {fit.name: fit for fit in fit_phenotypes(Y, X, K)}
    assert [fit.status for fit in fits.values()] == ["empty", "not_fitted", "ok", "ok"]
    assert fits["y"].h2 == fit_phenotypes(y[:, None], X, K)[0].h2
    assert fits["some"].n_samples == 59


def test_relationships_of_a_few_samples_that_are_refused_leave_the_other_phenotypes() -> None:
    """A part of a matrix can be further from semidefinite than the whole of it."""
    rng = np.random.default_rng(32)
    y, X, K = rng.standard_normal(60), np.ones((60, 1)), np.eye(60)
    K[:40, :40] += 0.5
    K[40:, 40:] += np.diag(rng.uniform(0, 1, 20))
    K[58, 59] = K[59, 58] = 3.0
    few = np.where(np.arange(60) < 55, np.nan, y)
    whole, part = fit_phenotypes(np.column_stack([y, few]), X, K)
    assert whole.status == "ok"
    assert part.status == "not_fitted"
    assert "K is not positive semidefinite" in part.reason
