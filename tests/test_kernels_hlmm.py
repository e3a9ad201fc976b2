"""HLMM from class Gram matrices against the model of one variant."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hlmm_dask.kernels import hlmm as kernel
from hlmm_dask.kernels.hlmm import RandomEffectModel, class_grams, fit_random_effects
from hlmm_dask.kernels.table import VariantFit
from hlmm_dask.models.hlmm import HLMM
from hlmm_dask.models.newton import Convergence
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.schema import Status

Codes = NDArray[np.int8]
FloatArray = NDArray[np.float64]
NAMES = ("add", "add_se", "var", "var_se", "loglik", "h2")
H2_MIN = 1e-5


def example(n_random: int, n: int = 150, seed: int = 0, h2: float = 0.4) -> RandomEffectModel:
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, n_random)) * n_random**-0.5
    y = G @ rng.standard_normal(n_random) * h2**0.5 + rng.standard_normal(n)
    return RandomEffectModel.build(
        y, RandomDesign.from_matrix(G), alpha=0.0, beta=0.0, h2=0.3, h2_min=H2_MIN
    )


def random_codes(n: int, m: int = 6, missing: float = 0.0, seed: int = 1) -> Codes:
    rng = np.random.default_rng(seed)
    codes = rng.binomial(2, rng.uniform(0.1, 0.9, (m, 1)), (m, n)).astype(np.int8)
    codes[rng.random((m, n)) < missing] = -1
    return codes


def assert_is_the_models(
    model: RandomEffectModel, codes: Codes, fit: VariantFit, *, tolerance: float = 1e-7
) -> None:
    assert (fit.status == Status.OK).all()
    assert fit.h2 is not None
    G, y = model.design.matrix(), model.y
    for j, code in enumerate(codes):
        called = code >= 0
        design = np.column_stack([np.ones(called.sum()), code[called] - code[called].mean()])
        other = HLMM(y[called], design, design, G[called]).fit(
            h2_min=model.h2_min, h2_init=model.h2, fix_h2=model.fix_h2
        )
        assert other.convergence == Convergence.CONVERGED
        assert fit.add[j] == pytest.approx(other.alpha[1], abs=tolerance * other.alpha_se[1])
        assert fit.var[j] == pytest.approx(other.beta[1], abs=tolerance * other.beta_se[1])
        assert fit.add_se[j] == pytest.approx(other.alpha_se[1], rel=tolerance)
        assert fit.var_se[j] == pytest.approx(other.beta_se[1], rel=tolerance)
        assert fit.loglik[j] == pytest.approx(other.loglik, rel=1e-10)
        assert fit.h2[j] == pytest.approx(other.h2, rel=1e-6)


# Fewer random effects than carriers, more than carriers, more than samples.
@pytest.mark.parametrize("n_random", [1, 4, 60, 200])
@pytest.mark.parametrize("missing", [0.0, 0.06])
def test_estimates_are_the_models(n_random: int, missing: float) -> None:
    model = example(n_random)
    codes = random_codes(150, m=3 if n_random > 50 else 6, missing=missing)
    assert_is_the_models(model, codes, fit_random_effects(model, codes))


@pytest.mark.parametrize("flip", [False, True])
def test_rare_variants(flip: bool) -> None:
    """Two or three carriers, allele 1 the rare one or the other.

    Random effects can take up all residual of two carriers: then there is no maximum.
    """
    model = example(10)
    rng = np.random.default_rng(2)
    codes = np.zeros((6, 150), np.int8)
    for i, row in enumerate(codes):
        row[rng.choice(150, 2 + i % 2, replace=False)] = 1 + i // 3
    codes = 2 - codes if flip else codes
    G, y = model.design.matrix(), model.y
    expected = []
    for code in codes:
        design = np.column_stack([np.ones(150), code - code.mean()])
        converged = HLMM(y, design, design, G).fit(h2_min=H2_MIN).converged
        expected.append(Status.OK if converged else Status.UNBOUNDED)
    assert list(fit_random_effects(model, codes).status) == expected
    fitted = codes[np.array(expected) == Status.OK]
    assert len(fitted) >= 4
    assert_is_the_models(model, fitted, fit_random_effects(model, fitted), tolerance=1e-6)


def test_singleton_is_unbounded() -> None:
    model = example(5)
    codes = np.zeros((2, 150), np.int8)
    codes[0, 3] = codes[1, 7] = 1
    for each in (codes, 2 - codes):
        assert (fit_random_effects(model, each).status == Status.UNBOUNDED).all()


def test_other_allele_changes_the_signs_only() -> None:
    model = example(20)
    codes = random_codes(150, missing=0.05)
    fit = fit_random_effects(model, codes)
    other = fit_random_effects(model, np.where(codes < 0, codes, 2 - codes).astype(np.int8))
    np.testing.assert_allclose(other.add, -fit.add, atol=1e-9)
    np.testing.assert_allclose(other.var, -fit.var, atol=1e-9)
    for name in ("add_se", "var_se", "loglik", "h2"):
        np.testing.assert_allclose(getattr(other, name), getattr(fit, name), rtol=1e-7)


def test_h2_at_its_bound_is_fitted() -> None:
    model = example(6)
    G, y = model.design.matrix(), np.random.default_rng(3).standard_normal(150)
    y = y - G @ np.linalg.lstsq(G, y, rcond=None)[0]
    model = RandomEffectModel.build(
        y, RandomDesign.from_matrix(G), alpha=0.0, beta=0.0, h2=0.05, h2_min=H2_MIN
    )
    codes = random_codes(150)
    fit = fit_random_effects(model, codes)
    assert fit.h2 is not None
    np.testing.assert_allclose(fit.h2, H2_MIN, rtol=1e-12)
    assert_is_the_models(model, codes, fit)


def test_fixed_h2() -> None:
    built = example(20)
    y, G = built.y, built.design.matrix()
    model = RandomEffectModel.build(
        y, RandomDesign.from_matrix(G), alpha=0.0, beta=0.0, h2=0.3, h2_min=H2_MIN, fix_h2=True
    )
    codes = random_codes(150, missing=0.05)
    fit = fit_random_effects(model, codes)
    assert fit.h2 is not None
    assert (fit.h2 == 0.3).all()
    assert_is_the_models(model, codes, fit)


def test_variant_that_is_a_random_effect() -> None:
    codes = random_codes(150, m=8)
    G = codes.T.astype(np.float64)
    G = (G - G.mean(axis=0)) / G.std(axis=0) * 8**-0.5
    y = np.random.default_rng(4).standard_normal(150) + G @ np.ones(8)
    model = RandomEffectModel.build(
        y, RandomDesign.from_matrix(G), alpha=0.0, beta=0.0, h2=0.5, h2_min=H2_MIN
    )
    assert_is_the_models(model, codes, fit_random_effects(model, codes))


@pytest.mark.parametrize(("factor", "shift"), [(1e-6, 0.0), (1e6, 0.0), (1.0, 1e6)])
def test_unit_and_origin_of_y_make_no_difference(factor: float, shift: float) -> None:
    model = example(10)
    G, y = model.design.matrix(), model.y
    moved = RandomEffectModel.build(
        y * factor + shift,
        RandomDesign.from_matrix(G),
        alpha=shift,
        beta=2 * np.log(factor),
        h2=0.3 * factor**2,
        h2_min=H2_MIN * factor**2,
    )
    codes = random_codes(150, missing=0.05)
    fit, other = fit_random_effects(model, codes), fit_random_effects(moved, codes)
    np.testing.assert_allclose(other.add / other.add_se, fit.add / fit.add_se, atol=1e-7)
    np.testing.assert_allclose(other.var / other.var_se, fit.var / fit.var_se, atol=1e-7)


def test_batching_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = example(15)
    codes = random_codes(150, m=7, missing=0.05)
    whole = fit_random_effects(model, codes)
    monkeypatch.setattr(kernel, "_BATCH_DOUBLES", 2 * 15**2)
    parts = fit_random_effects(model, codes)
    for name in NAMES:
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9)
    twice = fit_random_effects(model, codes[[2, 2]])
    assert twice.add[0] == twice.add[1]


def test_gram_matrices_by_class() -> None:
    model = example(4)
    codes = random_codes(150, m=5, missing=0.1)
    codes[0] = np.where(codes[0] == 1, 2, codes[0])  # an empty class
    grams, products = class_grams(model, codes)
    both = np.stack([model.y, np.ones(150)])
    for j, code in enumerate(codes):
        for k in range(3):
            rows = model.design.matrix(code == k)
            np.testing.assert_allclose(grams[j, k], rows.T @ rows, atol=1e-11)
            np.testing.assert_allclose(products[j, k], both[:, code == k] @ rows, atol=1e-11)


def test_genotypes_in_single_precision_are_exact() -> None:
    rng = np.random.default_rng(7)
    n = 5000
    raw = rng.binomial(2, rng.uniform(0.1, 0.9, 20), (n, 20)).astype(np.float64)
    centre, scale = raw.mean(axis=0), 1.0 / (raw.std(axis=0) * np.sqrt(20))
    y = rng.standard_normal(n)
    codes = random_codes(n, m=2, missing=0.02)
    results = []
    for values in (raw, raw.astype(np.float32)):
        design = RandomDesign(values, centre, scale)
        model = RandomEffectModel.build(y, design, alpha=0.0, beta=0.0, h2=0.1, h2_min=H2_MIN)
        results.append(class_grams(model, codes))
    for double, single in zip(*results, strict=True):
        np.testing.assert_array_equal(single, double)
