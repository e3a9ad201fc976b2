"""Variance components: likelihood, derivatives, maximisers, results, reference values."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pedigrees import draw, families
from scipy import sparse, stats

from hlmm_dask.errors import InputError
from hlmm_dask.models.variance_components import VarianceComponents
from hlmm_dask.models.vc_effects import RandomEffect
from hlmm_dask.relationship.pedigree import read_pedigree
from hlmm_dask.tables import read_table

MAXIMISERS = ["average", "fisher", "newton", "em", "grid"]


def small_model(seed: int = 1, n: int = 40) -> VarianceComponents:
    """Dense covariances of full and of low rank."""
    rng = np.random.default_rng(seed)
    Z, W = rng.normal(size=(n, 2 * n)), rng.normal(size=(n, 7))
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    effects = [
        RandomEffect.from_covariance("full", Z @ Z.T / (2 * n)),
        RandomEffect.from_incidence("low", W / 7**0.5),
    ]
    return VarianceComponents(rng.normal(size=n) * 2.0 + 1.0, X, effects)


@pytest.fixture(scope="module")
def pedigree_model() -> VarianceComponents:
    pedigree = families(30, seed=5)
    y = draw(np.random.default_rng(2), pedigree, [0.9, 0.6, 0.5]) + 3.0
    effects = [
        RandomEffect.from_covariance("additive", pedigree.additive()),
        RandomEffect.from_covariance("line", pedigree.mitochondrial()),
    ]
    return VarianceComponents(y, np.ones(len(y)), effects)


def dense(model: VarianceComponents, components: np.ndarray) -> np.ndarray:
    n = model.n_samples
    return sum(v * e.times(np.eye(n)) for v, e in zip(components, model.effects, strict=True))


def test_likelihood_is_that_of_the_multivariate_normal() -> None:
    model = small_model()
    components = np.array([0.7, 0.4, 1.3])
    sigma = dense(model, components)
    beta = np.array([0.3, -0.8])
    expected = stats.multivariate_normal(model.X @ beta, sigma).logpdf(model.y)
    assert model.loglik(components, beta=beta, reml=False) == pytest.approx(expected, abs=1e-10)
    gls = np.linalg.solve(
        model.X.T @ np.linalg.solve(sigma, model.X), model.X.T @ np.linalg.solve(sigma, model.y)
    )
    best = stats.multivariate_normal(model.X @ gls, sigma).logpdf(model.y)
    assert model.loglik(components, reml=False) == pytest.approx(best, abs=1e-10)
    # REML: the density of contrasts Kᵀy with orthonormal K, KᵀX = 0 (Harville 1974).
    K = np.linalg.svd(model.X)[0][:, 2:]
    contrasts = stats.multivariate_normal(np.zeros(38), K.T @ sigma @ K).logpdf(K.T @ model.y)
    assert model.loglik(components) == pytest.approx(contrasts, abs=1e-10)


def test_blocks_of_a_pedigree_equal_the_dense_matrix(pedigree_model: VarianceComponents) -> None:
    whole = [
        RandomEffect.from_covariance(e.name, e.V.toarray())
        for e in pedigree_model.effects
        if e.V is not None
    ]
    # One pair of samples that everything is connected through makes it one block.
    link = np.ones((pedigree_model.n_samples,) * 2)
    joined = VarianceComponents(
        pedigree_model.y, pedigree_model.X, [*whole, RandomEffect.from_covariance("link", link)]
    )
    components = np.array([0.5, 0.3, 0.6])
    with_link = np.array([0.5, 0.3, 0.0, 0.6])
    blocks, one = pedigree_model.state(components), joined.state(with_link)
    assert blocks is not None
    assert one is not None
    own = [0, 1, 3]
    for reml in (True, False):
        assert pedigree_model.loglik(components, reml=reml) == pytest.approx(
            joined.loglik(with_link, reml=reml), abs=1e-9
        )
        np.testing.assert_allclose(
            pedigree_model.score(blocks, reml=reml), joined.score(one, reml=reml)[own], atol=1e-9
        )
        for kind in ("observed", "expected", "average"):
            np.testing.assert_allclose(
                pedigree_model.information(blocks, kind, reml=reml),
                joined.information(one, kind, reml=reml)[np.ix_(own, own)],
                atol=1e-9,
            )


def five_point(function: Any, x: np.ndarray, i: int, step: float = 1e-3) -> Any:
    e = np.zeros(len(x))
    e[i] = step
    values = [function(x + k * e) for k in (-2, -1, 1, 2)]
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("which", ["dense", "pedigree"])
def test_derivatives_against_five_point_differences(
    which: str, reml: bool, pedigree_model: VarianceComponents
) -> None:
    model = small_model() if which == "dense" else pedigree_model
    at = np.array([0.7, 0.4, 1.3])

    def score(components: np.ndarray) -> np.ndarray:
        state = model.state(components)
        assert state is not None
        return model.score(state, reml=reml)

    gradient = [five_point(lambda v: model.loglik(v, reml=reml), at, i) for i in range(3)]
    np.testing.assert_allclose(score(at), gradient, rtol=1e-7, atol=1e-7)
    hessian = np.stack([five_point(score, at, i) for i in range(3)])
    state = model.state(at)
    assert state is not None
    observed = model.information(state, "observed", reml=reml)
    np.testing.assert_allclose(observed, -hessian, rtol=1e-6, atol=1e-7)
    average = model.information(state, "average", reml=reml)
    expected = model.information(state, "expected", reml=reml)
    np.testing.assert_allclose(average, 0.5 * (observed + expected), rtol=1e-12)


def test_expected_information_is_the_mean_of_the_average_information() -> None:
    model = small_model()
    at = np.array([0.7, 0.4, 1.3])
    root = np.linalg.cholesky(dense(model, at))
    rng = np.random.default_rng(8)
    total, n = np.zeros((3, 3)), 2000
    for _ in range(n):
        model.y = root @ rng.standard_normal(model.n_samples)
        state = model.state(at)
        assert state is not None
        total += model.information(state, "average")
    expected = model.information(state, "expected")
    np.testing.assert_allclose(total / n, expected, atol=0.1 * expected.max())


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("maximiser", MAXIMISERS)
def test_every_maximiser_finds_the_same_optimum_and_never_falls(
    maximiser: Any, reml: bool, pedigree_model: VarianceComponents
) -> None:
    best = pedigree_model.fit(reml=reml, maximiser="newton", tolerance=1e-12)
    fit = pedigree_model.fit(reml=reml, maximiser=maximiser)
    assert fit.converged
    assert not any(fit.at_zero)
    se = best.se.min()
    np.testing.assert_allclose(fit.components, best.components, atol=2e-5 * se)
    assert fit.loglik == pytest.approx(best.loglik, abs=1e-9)
    logliks = np.array([step.loglik for step in fit.trace])
    assert np.diff(logliks).min() >= -1e-11 * abs(fit.loglik)
    assert all((step.components >= 0).all() for step in fit.trace)
    if maximiser != "grid":
        np.testing.assert_allclose(fit.components, best.components, atol=1e-7)


@pytest.mark.parametrize("maximiser", MAXIMISERS)
def test_estimates_on_the_boundary(maximiser: Any) -> None:
    """A component whose best value is zero ends there exactly, from any start."""
    pedigree = families(40, seed=3)
    y = draw(np.random.default_rng(6), pedigree, [0.0, 0.0, 1.0])
    effects = [
        RandomEffect.from_covariance("additive", pedigree.additive()),
        RandomEffect.from_covariance("line", pedigree.mitochondrial()),
    ]
    model = VarianceComponents(y, np.ones(len(y)), effects)
    for start in ([0.3, 0.3, 0.3], [0.0, 0.2, 1.0], [0.9, 1e-9, 0.1]):
        fit = model.fit(maximiser=maximiser, start=start)
        assert fit.converged, fit.maximum.status
        zero = np.array(fit.at_zero)
        assert zero[:2].any()
        score = model.score(fit.maximum.state)
        assert (score[zero] <= 0).all()
        np.testing.assert_allclose(score[~zero] * fit.se[~zero], 0.0, atol=1e-4)
        assert np.isnan(fit.se[zero]).all()
        assert np.isfinite(fit.se[~zero]).all()
        if zero[:2].all():
            n = len(y)
            assert fit.components[2] == pytest.approx(np.var(y) * n / (n - 1))
            assert fit.se[2] == pytest.approx(fit.components[2] * (2 / (n - 1)) ** 0.5)


def test_iteration_limit_is_no_convergence(pedigree_model: VarianceComponents) -> None:
    fit = pedigree_model.fit(max_iterations=2, start=[0.01, 5.0, 0.01])
    assert not fit.converged
    assert fit.maximum.status == "iteration_limit"
    assert "iteration_limit" in fit.summary()


def test_rescaling_the_phenotype_rescales_the_components(
    pedigree_model: VarianceComponents,
) -> None:
    fit = pedigree_model.fit()
    scaled = VarianceComponents(
        1e6 * pedigree_model.y, pedigree_model.X, pedigree_model.effects, residual=False
    ).fit()
    np.testing.assert_allclose(scaled.components, 1e12 * fit.components, rtol=1e-7)
    np.testing.assert_allclose(scaled.proportions_se, fit.proportions_se, rtol=1e-7)


def test_a_balanced_layout_has_the_estimates_of_analysis_of_variance() -> None:
    """One-way layout: between-group variance (MSB - MSW) / k."""
    rng = np.random.default_rng(4)
    groups, k = 12, 5
    y = (rng.normal(size=(groups, 1)) * 1.5 + rng.normal(size=(groups, k))).ravel()
    house = np.repeat([f"h{i}" for i in range(groups)], k)
    fit = VarianceComponents(y, np.ones(len(y)), [RandomEffect.from_levels("house", house)]).fit(
        tolerance=1e-11
    )
    means = y.reshape(groups, k).mean(axis=1)
    msw = ((y.reshape(groups, k) - means[:, None]) ** 2).sum() / (groups * (k - 1))
    msb = k * means.var(ddof=1)
    np.testing.assert_allclose(fit.components, [(msb - msw) / k, msw], rtol=1e-9)
    assert fit.beta[0] == pytest.approx(y.mean())
    assert fit.beta_se[0] == pytest.approx((msb / len(y)) ** 0.5, rel=1e-8)
    blup = fit.predict("house")
    shrunk = (1 - msw / msb) * (means - y.mean())
    np.testing.assert_allclose(blup.values, shrunk, atol=1e-8)
    assert blup.levels == tuple(f"h{i}" for i in range(groups))


def test_predictions_solve_the_mixed_model_equations() -> None:
    """BLUPs and their error variances against Henderson's equations, unseen levels included."""
    rng = np.random.default_rng(3)
    n, q = 50, 8
    levels = rng.integers(0, q - 1, n)
    B = rng.normal(size=(q, q))
    A = B @ B.T / q + np.eye(q)
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    y = rng.normal(size=n)
    effect = RandomEffect.from_levels("line", levels, A, levels=range(q))
    model = VarianceComponents(y, X, [effect])
    fit = model.fit(start=[0.6, 0.5], max_iterations=0)
    Z = np.eye(q)[levels]
    C = np.block([[X.T @ X, X.T @ Z], [Z.T @ X, Z.T @ Z + np.linalg.inv(A) * 0.5 / 0.6]]) / 0.5
    inverse = np.linalg.inv(C)
    solution = inverse @ np.concatenate([X.T @ y, Z.T @ y]) / 0.5
    np.testing.assert_allclose(fit.beta, solution[:2], atol=1e-10)
    np.testing.assert_allclose(fit.beta_covariance, inverse[:2, :2], atol=1e-10)
    blup = fit.predict("line")
    np.testing.assert_allclose(blup.values, solution[2:], atol=1e-10)
    np.testing.assert_allclose(blup.error_variances, np.diag(inverse)[2:], atol=1e-10)
    residual = fit.predict("residual")
    np.testing.assert_allclose(residual.values, y - X @ solution[:2] - Z @ solution[2:], atol=1e-10)
    W = np.hstack([X, Z])
    np.testing.assert_allclose(
        residual.error_variances, np.einsum("ij,jk,ik->i", W, inverse, W), atol=1e-10
    )


def test_proportions_have_delta_method_errors(pedigree_model: VarianceComponents) -> None:
    fit = pedigree_model.fit()
    assert fit.proportions.sum() == pytest.approx(1.0)
    jacobian = np.stack(
        [five_point(lambda v: v / v.sum(), fit.components, i) for i in range(3)], axis=1
    )
    expected = jacobian @ fit.covariance @ jacobian.T
    np.testing.assert_allclose(fit.proportions_covariance, expected, atol=1e-9)
    np.testing.assert_allclose(
        np.linalg.inv(fit.information["observed"]), fit.covariance, rtol=1e-9
    )


def test_criteria_table_and_summary(pedigree_model: VarianceComponents) -> None:
    n = pedigree_model.n_samples
    ml, reml = pedigree_model.fit(reml=False), pedigree_model.fit()
    assert ml.loglik == ml.loglik_ml == pedigree_model.loglik(ml.components, reml=False)
    assert reml.loglik == reml.loglik_reml == pedigree_model.loglik(reml.components)
    assert ml.aic == pytest.approx(8 - 2 * ml.loglik)
    assert ml.bic == pytest.approx(4 * np.log(n) - 2 * ml.loglik)
    assert reml.bic == pytest.approx(3 * np.log(n - 1) - 2 * reml.loglik)
    table = ml.table()
    assert table["component"] == ["additive", "line", "residual"]
    np.testing.assert_array_equal(table["variance_se"], ml.se)
    text = ml.summary()
    assert text.startswith(f"ML by average, {n} samples")
    assert f"{ml.components[1]:.6g}" in text


def test_verbose_prints_the_trace(
    pedigree_model: VarianceComponents, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = pedigree_model.fit(verbose=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(fit.trace)
    assert float(lines[-1].split()[1]) == pytest.approx(fit.loglik)


def test_likelihood_ratio_of_nested_models(pedigree_model: VarianceComponents) -> None:
    model = pedigree_model
    smaller = VarianceComponents(model.y, model.X, model.effects[:1])
    full, less = model.fit(), smaller.fit()
    test = full.likelihood_ratio(less)
    assert test.statistic == pytest.approx(2 * (full.loglik - less.loglik))
    assert test.p_value == pytest.approx(0.5 * stats.chi2.sf(test.statistic, 1))
    none = full.likelihood_ratio(VarianceComponents(model.y, model.X, []).fit())
    assert none.weights == (0.25, 0.5, 0.25)
    mixture = 0.5 * stats.chi2.sf(none.statistic, 1) + 0.25 * stats.chi2.sf(none.statistic, 2)
    assert none.p_value == pytest.approx(mixture)
    assert none.p_value < test.p_value
    rng = np.random.default_rng(1)
    wider = VarianceComponents(
        model.y, np.column_stack([model.X, rng.normal(size=len(model.y))]), model.effects[:1]
    )
    fixed = wider.fit(reml=False).likelihood_ratio(less_ml := smaller.fit(reml=False))
    assert fixed.p_value == pytest.approx(stats.chi2.sf(fixed.statistic, 1))
    for bad, message in (
        ((full, less_ml), "one model was fitted by REML"),
        ((less, full), "not in the larger model"),
        ((wider.fit(), less), "can't be compared"),
        ((less, less), "the same"),
        ((full, VarianceComponents(model.y + 1, model.X, []).fit()), "different phenotypes"),
        ((model.fit(reml=False), wider.fit(reml=False)), "fixed effects that the larger"),
    ):
        with pytest.raises(ValueError, match=message):
            bad[0].likelihood_ratio(bad[1])


def test_sparse_dense_and_incidence_say_the_same() -> None:
    rng = np.random.default_rng(7)
    n = 60
    house = rng.integers(0, 15, n)
    Z = np.eye(15)[house]
    y, X = rng.normal(size=n), np.ones(n)
    ways = [
        RandomEffect.from_levels("house", house),
        RandomEffect.from_incidence("house", sparse.csr_array(Z)),
        RandomEffect.from_incidence("house", Z, np.eye(15)),
        RandomEffect.from_covariance("house", Z @ Z.T),
        RandomEffect.from_covariance("house", sparse.csc_array(Z @ Z.T)),
    ]
    logliks = [VarianceComponents(y, X, [way]).loglik([0.4, 0.9]) for way in ways]
    np.testing.assert_allclose(logliks, logliks[0], atol=1e-11)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomEffect.from_covariance("a", np.ones((2, 3))), "expected a square"),
        (lambda: RandomEffect.from_covariance("a", np.triu(np.ones((3, 3)))), "not symmetric"),
        (lambda: RandomEffect.from_covariance("a", np.zeros((3, 3))), "is zero"),
        (lambda: RandomEffect.from_covariance("a", np.full((2, 2), np.nan)), "not finite"),
        (lambda: RandomEffect.from_incidence("a", np.ones((3, 2)), np.eye(3)), "2 columns"),
        (lambda: RandomEffect.from_levels("a", "xyz", levels="xy"), "'z'"),
        (lambda: RandomEffect.from_levels("a", "xy", levels="xyx"), "twice"),
        (lambda: VarianceComponents(np.arange(9.0), np.ones(9),
                                    [RandomEffect.residual(9, "x")]), "told apart"),
        (lambda: VarianceComponents(np.arange(9.0), np.ones(9),
                                    [RandomEffect.residual(9)]), "expected different"),
        (lambda: VarianceComponents(np.arange(9.0), np.ones(9),
                                    [RandomEffect.residual(8)]), "8 samples"),
        (lambda: small_model().fit(maximiser="simplex"), "expected average"),  # type: ignore[arg-type]
        (lambda: small_model().fit(start=[1.0, 1.0, -1.0]), "not negative"),
        (lambda: small_model().fit(start=[1.0, 1.0]), "shape"),
        (lambda: small_model().fit(tolerance=0), "above 0"),
        (lambda: small_model().fit().predict("x"), "no component"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def check_reference(
    model: VarianceComponents, expected: dict[str, Any], maximisers: list[Any]
) -> None:
    for reml in (True, False):
        wanted = expected["reml" if reml else "ml"]
        start = expected["start"]
        # These restricted likelihoods leave out log|XᵀX|.
        constant = 0.5 * model.logdet_xx if reml else 0.0
        state, at = model.state(start), wanted["at_start"]
        assert state is not None
        assert model.loglik_of(state, reml=reml) - constant == pytest.approx(at["loglik"], abs=1e-9)
        np.testing.assert_allclose(model.score(state, reml=reml), at["gradient"], atol=1e-9)
        for kind in ("observed", "expected", "average"):
            found = model.information(state, kind, reml=reml)
            np.testing.assert_allclose(found, at[f"{kind}_information"], atol=1e-8)
        for maximiser in maximisers:
            fit = model.fit(reml=reml, maximiser=maximiser, start=start, tolerance=1e-10)
            assert fit.converged
            assert fit.loglik - constant == pytest.approx(wanted["loglik"], abs=1e-9)
            loose = 1e-5 if maximiser == "grid" else 1e-8
            for found, name in (
                (fit.components, "variance_components"),
                (fit.proportions, "proportions"),
                (fit.beta, "beta"),
                (fit.beta_se, "beta_se"),
            ):
                np.testing.assert_allclose(found, wanted[name], atol=loose * fit.se.min())
        for kind in ("observed", "expected", "average"):
            se = model.fit(reml=reml, information=kind, tolerance=1e-10).se
            np.testing.assert_allclose(se, wanted[f"se_{kind}"], rtol=1e-8)
        for steps, components in wanted.get("em_from_start", {}).items():
            fit = model.fit(reml=reml, maximiser="em", start=start, max_iterations=int(steps))
            np.testing.assert_allclose(fit.components, components, atol=1e-11)


def pedigree_reference(folder: Path, name: str, codes: tuple[str, str]) -> VarianceComponents:
    people = read_pedigree(folder / f"{name}.ped", sex_codes=codes)
    table = read_table(folder / f"{name}.pheno")
    y = table.values[:, 0]
    seen = np.flatnonzero(~np.isnan(y))
    ids = [table.ids[i] for i in seen]
    matrices = {"additive": people.pedigree.additive(), "dominance": people.pedigree.dominance()}
    if name == "families":
        del matrices["dominance"]
    effects = [
        RandomEffect.from_covariance(key, people.select(matrix, ids))
        for key, matrix in matrices.items()
    ]
    return VarianceComponents(y[seen], np.ones(len(seen)), effects)


def test_reference_additive_families(reference: Path) -> None:
    model = pedigree_reference(reference / "pedigree", "families", ("0", "1"))
    expected = json.loads((reference / "pedigree/families_additive.json").read_text())
    check_reference(model, expected, MAXIMISERS)
    assert model.fit(reml=False).proportions[0] == pytest.approx(0.4592420, abs=5e-8)


def test_reference_additive_and_dominance(reference: Path) -> None:
    model = pedigree_reference(reference / "pedigree", "sim", ("1", "2"))
    expected = json.loads((reference / "pedigree/sim.json").read_text())
    check_reference(model, expected, ["average", "fisher", "newton"])


@pytest.mark.slow
def test_standard_errors_match_the_spread_over_replicates() -> None:
    """500 simulated data sets: mean squared SE against variance of the estimates, in 10 %."""
    pedigree = families(80, seed=9, sibs=3)
    alone = np.where(pedigree.mother < 0, -2 - np.arange(pedigree.n_people), pedigree.mother)
    effects = [
        RandomEffect.from_covariance("additive", pedigree.additive()),
        RandomEffect.from_levels("sibship", alone),
    ]
    model = VarianceComponents(
        np.random.default_rng(0).normal(size=pedigree.n_people),
        np.ones(pedigree.n_people),
        effects,
    )
    root = np.linalg.cholesky(dense(model, np.array([1.0, 0.6, 0.8])))
    rng = np.random.default_rng(10)
    found, squared = [], []
    for _ in range(500):
        model.y = root @ rng.standard_normal(model.n_samples)
        fit = model.fit(start=[1.0, 0.6, 0.8], tolerance=1e-5)
        assert fit.converged
        found.append(fit.components)
        squared.append(np.nan_to_num(fit.se) ** 2)
    spread = np.std(found, axis=0, ddof=1)
    np.testing.assert_allclose(np.sqrt(np.mean(squared, axis=0)), spread, rtol=0.1)
    np.testing.assert_allclose(np.mean(found, axis=0), [1.0, 0.6, 0.8], atol=4 * spread.max() / 22)


@pytest.mark.parametrize(
    "absent", [None, float("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), "NA", "nan", "", " . "]
)
def test_a_missing_level_is_refused_or_its_own(absent: Any) -> None:
    values = ["a", "b", absent, "a", "b", absent]
    with pytest.raises(
        InputError, match=r"'home' has no level for 2 of 6 samples \(first: sample 3"
    ):
        RandomEffect.from_levels("home", values)
    own = RandomEffect.from_levels("home", values, missing="own")
    assert own.levels == ("a", "b", "home of sample 3", "home of sample 6")
    V: Any = own.V
    expected = np.eye(6)
    expected[[0, 3, 1, 4], [3, 0, 4, 1]] = 1.0
    np.testing.assert_array_equal(V.toarray(), expected)
    # The levels that are given decide what is one.
    given = RandomEffect.from_levels("home", values, levels="ab", missing="own")
    assert given.levels == own.levels
    if isinstance(absent, str):
        known = RandomEffect.from_levels("home", values, levels=["a", "b", absent])
        assert known.levels == ("a", "b", absent)
    with pytest.raises(InputError, match="no rows for levels of their own"):
        RandomEffect.from_levels("home", values, np.eye(2), levels="ab", missing="own")


def test_levels_are_one_column_whatever_holds_it() -> None:
    shifted = pd.Series(["a", None, "b"], index=[7, 8, 9])
    with pytest.raises(InputError, match=r"no level for 1 of 3 samples .first: sample 2"):
        RandomEffect.from_levels("h", shifted)  # type: ignore[arg-type]
    masked = np.ma.MaskedArray([1, 2, 3], mask=[False, True, False])
    with pytest.raises(InputError, match=r"no level for 1 of 3 samples .first: sample 2"):
        RandomEffect.from_levels("h", masked)  # type: ignore[arg-type]
    for table in (pd.DataFrame({"a": [1, 2]}), np.array([[1, 2], [3, 4]])):
        with pytest.raises(InputError, match="expected one column"):
            RandomEffect.from_levels("h", table)  # type: ignore[arg-type]


def test_a_missing_level_is_never_shared() -> None:
    with pytest.raises(InputError, match="levels of 'h': one is missing"):
        RandomEffect.from_levels("h", ["a", np.nan, np.nan], levels=["a", np.nan], missing="own")
    own = RandomEffect.from_levels("h", ["h of sample 2", None], missing="own")
    assert own.levels is not None
    assert len(set(own.levels)) == 2


def test_negative_eigenvalues_of_a_covariance_become_zero() -> None:
    rng = np.random.default_rng(8)
    vectors = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    values = np.linspace(-0.05, 2.0, 40)
    V = (vectors * values) @ vectors.T
    V = (V + V.T) / 2
    effect = RandomEffect.from_covariance("grm", V)
    expected = (vectors * np.maximum(values, 0.0)) @ vectors.T
    np.testing.assert_allclose(np.asarray(effect.V), expected, atol=1e-12)
    (note,) = effect.notes
    assert "the covariance of 'grm' is not positive semidefinite" in note
    Z = np.eye(40)[:25]
    of_levels = RandomEffect.from_incidence("levels", Z, V)
    np.testing.assert_allclose(np.asarray(of_levels.V), expected[:25, :25], atol=1e-12)
    assert len(of_levels.notes) == 1
    # A matrix without negative eigenvalues stays what it is, also of low rank.
    low_rank = expected[:, :10] @ expected[:10]
    kept = RandomEffect.from_covariance("low", low_rank @ low_rank.T)
    assert kept.notes == ()
    np.testing.assert_array_equal(np.asarray(kept.V), low_rank @ low_rank.T)
    with pytest.raises(InputError, match="the covariance of 'far' is not positive semidefinite"):
        RandomEffect.from_covariance("far", V - 0.5 * np.eye(40))
