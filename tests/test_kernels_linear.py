"""The null HLMM in the eigenbasis, and the approximation that is linear in the random effects."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hlmm_dask.kernels.block import fit_packed
from hlmm_dask.kernels.block_model import block_model
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.hlmm import RandomEffectModel, fit_random_effects
from hlmm_dask.kernels.hlmm_choice import linear_is_good, needs_exact, needs_polish
from hlmm_dask.kernels.hlmm_linear import _Batch, fit_linear
from hlmm_dask.kernels.hlmm_null import fit_intercepts
from hlmm_dask.kernels.linear_model import LinearModel
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.kernels.table import Filters
from hlmm_dask.models.hlmm import HLMM
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.schema import INDEX, N_COLUMNS, Status

FloatArray = NDArray[np.float64]


def genotype_design(rng: np.random.Generator, n: int, n_random: int) -> RandomDesign:
    raw = rng.binomial(2, rng.uniform(0.1, 0.5, n_random), (n, n_random)).astype(np.float32)
    centre, sd = raw.mean(axis=0, dtype=np.float64), raw.std(axis=0, dtype=np.float64)
    return RandomDesign(raw, centre, 1.0 / (sd * np.sqrt(n_random)))


def example(
    n: int = 6000, n_random: int = 40, *, h2: float = 0.2, seed: int = 0, fix_h2: bool = False
) -> RandomEffectModel:
    """Phenotype with random effects, at its null model."""
    rng = np.random.default_rng(seed)
    design = genotype_design(rng, n, n_random)
    y = design.matrix() @ rng.standard_normal(n_random) * h2**0.5 + rng.standard_normal(n)
    y = (y - y.mean()) / y.std()
    start = RandomEffectModel.build(y, design, alpha=0.0, beta=0.0, h2=0.05, h2_min=1e-5)
    null = fit_intercepts(start)
    assert null.converged
    return RandomEffectModel.build(
        y, design, alpha=null.alpha, beta=null.beta, h2=null.h2, h2_min=1e-5, fix_h2=fix_h2
    )


def random_codes(n: int, m: int, *, missing: float, seed: int = 1) -> NDArray[np.int8]:
    rng = np.random.default_rng(seed)
    codes = rng.binomial(2, rng.uniform(0.05, 0.95, (m, 1)), (m, n)).astype(np.int8)
    codes[rng.random((m, n)) < missing] = -1
    return codes


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_null_is_the_models(unit: float) -> None:
    rng = np.random.default_rng(2)
    design = genotype_design(rng, 400, 12)
    y = unit * (3.0 + design.matrix() @ rng.standard_normal(12) + rng.standard_normal(400))
    model = RandomEffectModel.build(
        y, design, alpha=y.mean(), beta=np.log(y.var()), h2=0.1 * y.var(), h2_min=1e-5 * y.var()
    )
    found = fit_intercepts(model)
    ones = np.ones(400)
    expected = HLMM(y, ones, ones, design.matrix()).fit()
    assert found.alpha + y.mean() == pytest.approx(expected.alpha[0], abs=1e-9 * unit)
    assert found.beta == pytest.approx(expected.beta[0], abs=1e-9)
    assert found.h2 == pytest.approx(expected.h2, rel=1e-8)
    assert found.h2_se == pytest.approx(expected.h2_se, rel=1e-6)
    assert found.loglik == pytest.approx(expected.loglik, rel=1e-10)


def test_null_at_the_bound() -> None:
    rng = np.random.default_rng(3)
    design = genotype_design(rng, 300, 5)
    G = design.matrix()
    y = rng.standard_normal(300)
    y -= G @ np.linalg.lstsq(G, y, rcond=None)[0]
    model = RandomEffectModel.build(y, design, alpha=0.0, beta=0.0, h2=0.05, h2_min=1e-5)
    found = fit_intercepts(model)
    assert found.converged
    assert found.h2 == 1e-5


@pytest.mark.parametrize("fix_h2", [False, True])
@pytest.mark.parametrize("polished", [False, True])
def test_derivatives(fix_h2: bool, polished: bool) -> None:
    base = example(500, 10, fix_h2=fix_h2)
    model = LinearModel.build(base)
    codes = random_codes(500, 3, missing=0.04)
    change = fit_linear(model, codes).change if polished else None
    batch = _Batch(model, codes, change)
    theta = np.array([[base.alpha + 0.02, 0.05, base.beta - 0.1, 0.08, base.h2 * 1.2]] * 3)
    theta = theta[:, : 4 if fix_h2 else 5]
    rows = np.arange(3)
    _, gradient, hessian = batch.evaluate(theta, rows)
    for i in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[i] = 1e-3 * (1.0 if i < 4 else base.h2)

        def at(k: int, step: FloatArray = step) -> tuple[Any, ...]:
            return batch.evaluate(theta + k * step, rows)

        for order, analytic in ((0, gradient[:, i]), (1, hessian[:, i])):
            numeric = (8.0 * (at(1)[order] - at(-1)[order]) - (at(2)[order] - at(-2)[order])) / (
                12.0 * step[i]
            )
            np.testing.assert_allclose(
                numeric, analytic, atol=1e-8 * np.abs(analytic).max() + 1e-6, rtol=1e-7
            )


@pytest.mark.parametrize("missing", [0.0, 0.03])
@pytest.mark.parametrize("fix_h2", [False, True])
def test_close_to_the_exact_fit(missing: float, fix_h2: bool) -> None:
    base = example(fix_h2=fix_h2)
    model = LinearModel.build(base)
    codes = random_codes(6000, 25, missing=missing)
    exact = fit_random_effects(base, codes)
    first = fit_linear(model, codes)
    second = fit_linear(model, codes, polish=first.change)
    errors = []
    for fit in (first.fit, second.fit):
        assert (fit.status == Status.OK).all()
        add, var = fit.add - exact.add, fit.var - exact.var
        errors.append(max(np.abs(add / exact.add_se).max(), np.abs(var / exact.var_se).max()))
        np.testing.assert_allclose(fit.add_se, exact.add_se, rtol=1e-3)
        np.testing.assert_allclose(fit.var_se, exact.var_se, rtol=1e-3)
    assert errors[1] < 1e-3
    assert errors[1] < errors[0]
    np.testing.assert_allclose(second.fit.loglik, exact.loglik, atol=0.02)


def test_linked_and_significant_variants_are_fitted_exactly() -> None:
    base = example()
    rng = np.random.default_rng(5)
    codes = random_codes(6000, 6, missing=0.0)
    codes[0] = base.design.raw[:, 3]  # a column of G
    half = rng.random(6000) < 0.5
    codes[1] = np.where(half, base.design.raw[:, 4], codes[1])
    y = base.y + 0.2 * codes[2] * (1.0 + 0.0 * half)
    y = y + 0.3 * (codes[3] - 1) * rng.standard_normal(6000)
    y -= y.mean()
    moved = RandomEffectModel.build(
        y, base.design, alpha=0.0, beta=base.beta, h2=base.h2, h2_min=1e-5
    )
    null = fit_intercepts(moved)
    moved = RandomEffectModel.build(
        y, base.design, alpha=null.alpha, beta=null.beta, h2=null.h2, h2_min=1e-5
    )
    model = LinearModel.build(moved)
    first = fit_linear(model, codes)
    chosen = needs_exact(model, first)
    assert chosen[[0, 1, 2]].all()
    assert not chosen[4:].any()
    # From where a fit has failed there is no going on.
    again = needs_polish(model, first)
    first.fit.status[again] = Status.NOT_CONVERGED
    assert again.any()
    assert not needs_polish(model, first)[again].any()

    # Through the block: the chosen ones are exact to the last bit, the others close.
    layout = PackedLayout(6000, np.arange(6000))
    dense = DenseModel(
        y, np.ones((6000, 1)), np.ones((6000, 1)), np.array([null.alpha]), np.array([null.beta]),
        moved.design, null.h2, 1e-5,
    )  # fmt: skip
    packed = pack(codes)
    exact = fit_packed(block_model(dense, layout, Filters(), method="exact"), packed)
    model_auto = block_model(dense, layout, Filters(), method="linear")
    linear = fit_packed(model_auto, packed)
    assert exact.shape == linear.shape == (6, N_COLUMNS)
    for name in ("add", "var"):
        error = np.abs(linear[4:, INDEX[name]] - exact[4:, INDEX[name]])
        assert (error < 1e-3 * exact[4:, INDEX[f"{name}_se"]]).all()


def test_auto_is_exact_where_that_is_cheap() -> None:
    assert not linear_is_good(500, 10)
    assert linear_is_good(60_000, 100)


def pack(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack copies of allele 1, a multiple of four samples."""
    four = np.array([1, 3, 2, 0], np.uint8)[codes + 1].reshape(len(codes), -1, 4)
    return np.asarray(four[..., 0] | four[..., 1] << 2 | four[..., 2] << 4 | four[..., 3] << 6)
