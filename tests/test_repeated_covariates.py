"""Covariates that repeat each other, exactly, in single precision, or nearly."""

from pathlib import Path

import numpy as np
import pytest

from hlmm_dask import (
    HLM,
    HLMM,
    InputError,
    LinearMixedModel,
    RandomEffect,
    VarianceComponents,
    variant_tests,
)
from hlmm_dask.models.design import Basis, independent_columns
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.samples import AlignedSamples, align
from hlmm_dask.scanning.fit_model import fit_model
from hlmm_dask.scanning.null import fit_null_arrays
from hlmm_dask.tables import read_table

N = 400
RNG = np.random.default_rng(26)
AGE, OTHER, E = RNG.standard_normal((3, N))
E -= E.mean()
E -= AGE * (E @ AGE) / (AGE @ AGE)
E /= E.std()
G = RNG.standard_normal((N, 6)) / 6**0.5
Y = 0.3 * AGE + np.exp(0.2 * OTHER) * RNG.standard_normal(N) + G @ RNG.standard_normal(6) * 0.5
ONES = np.ones(N)
CALLS = RNG.binomial(2, 0.3, (5, N)).astype(np.int8)
NEARLY = [2e-6, 1e-5, 1e-4]


def write(path: Path, columns: dict[str, np.ndarray]) -> Path:
    rows = [f"FID IID {' '.join(columns)}"]
    values = np.column_stack(list(columns.values())).tolist()
    rows += [f"{i} {i} {' '.join(map(repr, row))}" for i, row in enumerate(values, 1)]
    path.write_text("\n".join(rows) + "\n")
    return path


def aligned(folder: Path, **covariates: np.ndarray) -> AlignedSamples:
    traits = read_table(write(folder / "y.txt", {"y": Y}))
    table = read_table(write(folder / "c.txt", covariates))
    return align(None, traits, mean_covariates=table, variance_covariates=table)


def designs(delta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns that nearly repeat each other, and others that span the same; the first by these."""
    plain = np.column_stack([ONES, AGE, OTHER, E])
    mixing = np.eye(4)
    mixing[:, 3] = [0.0, 1.0, 0.0, delta]
    return plain @ mixing, plain, mixing


@pytest.mark.parametrize("delta", [0.0, 1e-12, 1e-9, 6e-8, 5e-7, "float32"])
def test_a_repeated_column_is_left_out_and_both_are_named(tmp_path: Path, delta) -> None:
    again = AGE.astype(np.float32).astype(float) if delta == "float32" else AGE + delta * E
    both = aligned(tmp_path, age=AGE, other=OTHER, again=7.0 * again - 3.0)
    alone = aligned(tmp_path, age=AGE, other=OTHER)
    assert both.mean_names == both.variance_names == ("age", "other")
    for role, note in zip(("mean", "variance"), both.notes, strict=True):
        assert f"c.txt: {role} covariate 'again' repeats 'age'; it is left out" in note
    full, lean = fit_null_arrays(both, None), fit_null_arrays(alone, None)
    assert full.loglik == lean.loglik
    for part in ("mean_effects", "variance_effects"):
        one, other = getattr(full, part), getattr(lean, part)
        assert np.array_equal(one.effects, other.effects)
        assert np.array_equal(one.standard_errors, other.standard_errors)


def test_a_sum_names_what_it_is_made_of(tmp_path: Path) -> None:
    groups = np.eye(3)[RNG.choice(3, N, p=[0.5, 0.2, 0.3])]
    found = aligned(
        tmp_path, a=groups[:, 0], b=groups[:, 1], age=AGE, c=groups[:, 2], d=AGE + 5 * OTHER,
        e=OTHER,
    )  # fmt: skip
    assert found.mean_names == ("a", "b", "age", "d")
    assert "'c' is a linear combination of those before it ('a', 'b'); it is" in found.notes[0]
    assert "'e' is a linear combination of those before it ('d', 'age'); it is" in found.notes[1]


@pytest.mark.parametrize("delta", NEARLY)
def test_nearly_repeated_covariates_are_fitted(tmp_path: Path, delta: float) -> None:
    near = aligned(tmp_path, age=AGE, other=OTHER, again=AGE + delta * E)
    plain = aligned(tmp_path, age=AGE, other=OTHER, again=E)
    assert near.mean_names == ("age", "other", "again")
    for design in (None, RandomDesign.from_matrix(G)):
        for fit_covariates in (False, True):
            if fit_covariates and design is not None and delta > 2e-6:
                continue
            one, other = (
                fit_null_arrays(each, design, fit_covariates=fit_covariates)
                for each in (near, plain)
            )
            assert one.loglik == pytest.approx(other.loglik, abs=1e-7)
            np.testing.assert_allclose(one.model.y, other.model.y, atol=1e-7)
            if design is not None:
                assert one.h2 == pytest.approx(other.h2, rel=1e-5)
            for part in ("mean_effects", "variance_effects"):
                found, known = getattr(one, part), getattr(other, part)
                # The column is delta times the other, besides what it repeats.
                for values, wanted in (
                    (found.effects, known.effects),
                    (found.standard_errors, known.standard_errors),
                ):
                    assert values[-1] * delta == pytest.approx(wanted[-1], rel=1e-4)
                    assert values[2] == pytest.approx(wanted[2], rel=1e-5)


@pytest.mark.parametrize("delta", NEARLY)
def test_models_of_nearly_repeated_columns(delta: float) -> None:
    X, plain, mixing = designs(delta)
    K = G @ G.T + np.diag(RNG.uniform(0.5, 1.5, N))

    def same(found: np.ndarray, known: np.ndarray) -> None:
        unmixed = np.linalg.solve(mixing, known)
        np.testing.assert_allclose(found, unmixed, rtol=1e-4, atol=1e-4 * abs(unmixed).max())
        np.testing.assert_allclose(mixing @ found, known, atol=1e-6)

    one, other = HLM(Y, X, X).fit(), HLM(Y, plain, plain).fit()
    assert one.converged
    assert one.loglik == pytest.approx(other.loglik, abs=1e-8)
    same(one.alpha, other.alpha)
    same(one.beta, other.beta)
    for found, wanted in ((one.alpha_se, other.alpha_se), (one.beta_se, other.beta_se)):
        assert found[-1] * delta == pytest.approx(wanted[-1], rel=1e-4)
        np.testing.assert_allclose(found[[0, 2]], wanted[[0, 2]], rtol=1e-5)
    mixed, target = HLMM(Y, X, X, G).fit(), HLMM(Y, plain, plain, G).fit()
    assert mixed.converged
    assert mixed.h2 == pytest.approx(target.h2, rel=1e-6)
    assert mixed.alpha_se[-1] * delta == pytest.approx(target.alpha_se[-1], rel=1e-4)
    assert mixed.beta_se[2] == pytest.approx(target.beta_se[2], rel=1e-5)
    lmm, known = (LinearMixedModel.from_kinship(Y, each, K)[0].fit() for each in (X, plain))
    assert lmm.log_gamma == pytest.approx(known.log_gamma, abs=1e-5)
    same(lmm.beta, known.beta)
    vc, expected = (
        VarianceComponents(Y, each, [RandomEffect.from_covariance("K", K)]).fit()
        for each in (X, plain)
    )
    np.testing.assert_allclose(vc.components, expected.components, rtol=1e-5)
    same(vc.beta, expected.beta)
    assert vc.beta_se[-1] * delta == pytest.approx(expected.beta_se[-1], rel=1e-4)
    assert vc.loglik_ml == pytest.approx(expected.loglik_ml, abs=1e-6)


@pytest.mark.parametrize("delta", NEARLY)
@pytest.mark.parametrize("random", [False, True])
def test_variants_beside_nearly_repeated_covariates(delta: float, random: bool) -> None:
    X, plain, _ = designs(delta)
    one, other = (
        variant_tests(
            CALLS, Y, mean_covariates=each[:, 1:], variance_covariates=each[:, 1:],
            random_effects=G if random else None, fit_covariates=True,
        )
        for each in (X, plain)
    )  # fmt: skip
    assert (one["status"] == 0).all()
    for name in ("add", "add_se", "var", "var_se", "loglik"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-7)


def test_the_command_names_both_and_fits(tmp_path: Path, capsys) -> None:
    write(tmp_path / "y.txt", {"y": Y})
    write(tmp_path / "c.txt", {"age": AGE, "again": AGE + 3e-8 * E, "nearly": AGE + 1e-5 * E})
    write(tmp_path / "lean.txt", {"age": AGE, "nearly": AGE + 1e-5 * E})
    for name in ("c", "lean"):
        covar = str(tmp_path / f"{name}.txt")
        fit_model(
            phenofile=str(tmp_path / "y.txt"), outprefix=str(tmp_path / name), mean_covar=covar,
            var_covar=covar,
        )  # fmt: skip
    assert "mean covariate 'again' repeats 'age'; it is left out" in capsys.readouterr().err
    for suffix in ("mean", "variance"):
        one, other = (tmp_path / f"{name}.{suffix}_effects.txt" for name in ("c", "lean"))
        assert one.read_text() == other.read_text()


def test_basis_spans_the_design() -> None:
    X, _, _ = designs(1e-4)
    basis = Basis.of("X", X)
    np.testing.assert_allclose(basis.Q.T @ basis.Q / N, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(basis.Q @ basis.triangle, X, atol=1e-12)
    assert np.array_equal(basis.Q[:, 0], ONES)
    effects = np.array([1.0, 2.0, -1.0, 0.5])
    np.testing.assert_allclose(basis.effects(basis.coordinates(effects)), effects, rtol=1e-10)
    _, kept, repeated = independent_columns(np.column_stack([AGE, 0 * AGE, 2 * AGE, OTHER]))
    assert kept == [0, 3]
    assert [tuple(each) for each in repeated] == [(1, ()), (2, (0,))]
    # Far from zero, a column varies all the same.
    far = np.column_stack([ONES, 1e9 + AGE, OTHER])
    assert independent_columns(far)[1] == [0, 1, 2]
    with pytest.raises(ValueError, match="of X are linearly dependent: column 2 repeats column 1"):
        Basis.of("X", np.column_stack([ONES, AGE, 1.0 - AGE]))


def test_a_constant_column_repeats_none_but_the_intercept() -> None:
    rng = np.random.default_rng(8)
    one, age = np.ones(50), rng.uniform(40, 70, 50)
    for columns, named in (((one, age, 0.1 * one), "0"), ((age, one, 0.1 * one), "1")):
        with pytest.raises(ValueError, match=f"column 2 repeats column {named}$"):
            HLM(rng.standard_normal(50), np.column_stack(columns), one)
    with pytest.raises(InputError, match="columns that are not constant"):
        variant_tests(
            rng.integers(0, 3, (2, 50)).astype(np.int8),
            rng.standard_normal(50),
            mean_covariates=np.column_stack([age, 0.1 * one]),
        )
