"""Interaction of variants with a covariate against the dense model and HC3's formula."""

from dataclasses import replace

import numpy as np
import pytest

from hlmm_dask.kernels import interaction
from hlmm_dask.kernels.interaction import InteractionModel, fit_interactions, has_maximum
from hlmm_dask.models.hlm import HLM
from hlmm_dask.models.inference import neg_log10_p_normal
from hlmm_dask.schema import Status


def example(n=400, m=7, seed=3, binary=False):
    rng = np.random.default_rng(seed)
    g = rng.binomial(2, rng.uniform(0.05, 0.5, (m, 1)), (m, n)).astype(float)
    g[1::2][rng.random(g[1::2].shape) < 0.04] = np.nan
    e = rng.integers(1, 3, n).astype(float) if binary else rng.normal(50.0, 10.0, n)
    c = rng.standard_normal((n, 2))
    step = np.nan_to_num(g[0], nan=1.0)
    y = 1000 + 0.2 * step + 0.01 * e * (1 + step) + c @ [0.3, 0.1]
    y += np.exp(0.1 * step + 0.01 * e) * rng.standard_t(5, n)
    return InteractionModel(y, c, c[:, :1], e), g


def hc3(X, y):
    bread = np.linalg.inv(X.T @ X)
    alpha = bread @ X.T @ y
    hat = np.einsum("ij,jk,ik->i", X, bread, X)
    meat = X.T @ (X * ((y - X @ alpha) / (1 - hat))[:, None] ** 2)
    return alpha, np.sqrt(np.diag(bread @ meat @ bread))


@pytest.mark.parametrize("binary", [False, True])
def test_fits_are_those_of_the_dense_model(monkeypatch, binary):
    model, dosage = example(binary=binary)
    monkeypatch.setattr(interaction, "_BATCH", 3 * len(model.y))  # batches of three variants
    fit = fit_interactions(model, dosage)
    assert (fit.status == Status.OK).all()
    for j, row in enumerate(dosage):
        kept = ~np.isnan(row)
        g = row[kept] - row[kept].mean()
        e = (model.environment - model.environment.mean())[kept]
        c, y = model.covariates[kept], model.y[kept]
        X = np.column_stack([np.ones(kept.sum()), c, g, e, g * e])
        V = np.column_stack([np.ones(kept.sum()), c[:, 0], g, e])
        dense = HLM(y, X, V).fit()
        ols, se = hc3(X, y)
        assert fit.n[j] == kept.sum()
        np.testing.assert_allclose(fit.ols[:, j], ols[3:], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(fit.hc3_se[:, j], se[3:], rtol=1e-8)
        np.testing.assert_allclose(fit.mean[:, j], dense.alpha[3:], rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(fit.mean_se[:, j], dense.alpha_se[3:], rtol=1e-6)
        np.testing.assert_allclose(fit.variance[:, j], dense.beta[2:], rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(fit.variance_se[:, j], dense.beta_se[2:], rtol=1e-8)


def test_a_variance_effect_that_is_an_interaction_vanishes():
    rng = np.random.default_rng(11)
    n = 4000
    g, e = rng.binomial(2, 0.3, n).astype(float), rng.standard_normal(n)
    y = 0.5 * g * e + rng.standard_normal(n)
    X = np.column_stack([np.ones(n), g])
    alone = HLM(y, X, X).fit()
    fit = fit_interactions(InteractionModel(y, X[:, :0], X[:, :0], e), g[None])
    assert alone.beta[1] / alone.beta_se[1] > 5
    assert fit.mean[2, 0] / fit.mean_se[2, 0] > 10
    assert abs(fit.variance[0, 0] / fit.variance_se[0, 0]) < 2.5


def test_newtons_method_where_scoring_does_not_arrive(monkeypatch):
    model, dosage = example()
    expected = fit_interactions(model, dosage)
    monkeypatch.setattr(interaction, "_MAX_STEPS", 1)
    fit = fit_interactions(model, dosage)
    for name in ("ols", "hc3_se", "mean", "mean_se", "variance", "variance_se"):
        np.testing.assert_allclose(getattr(fit, name), getattr(expected, name), rtol=1e-5)


def test_a_variant_that_can_not_be_fitted_leaves_the_others_alone():
    model, dosage = example(binary=True)
    expected = fit_interactions(model, dosage)
    dosage[2] = 1.0
    dosage[4] = model.environment
    dosage[5] = np.nan
    dosage[6, 10:] = np.nan
    fit = fit_interactions(model, dosage)
    bad = {2: Status.COLLINEAR, 4: Status.COLLINEAR, 5: Status.ALL_MISSING, 6: Status.COLLINEAR}
    assert fit.status.tolist() == [bad.get(j, Status.OK) for j in range(7)]
    assert np.isnan(fit.mean[:, [2, 4, 5, 6]]).all()
    np.testing.assert_allclose(fit.mean[:, [0, 1, 3]], expected.mean[:, [0, 1, 3]], rtol=1e-9)


def test_rare_variants_have_a_status_and_leave_the_others_alone():
    """One and two carriers, constant carriers: their likelihood has no maximum."""
    model, dosage = example(binary=True)
    expected = fit_interactions(model, dosage)
    some = {value: np.flatnonzero(model.environment == value) for value in (1.0, 2.0)}
    y = model.y.copy()
    y[some[1.0][:40]] = 1000.0  # a genotype class without residual
    model = replace(model, y=y, covariates=model.covariates[:, :0])
    expected = fit_interactions(model, dosage)
    odd = np.zeros((4, len(y)))
    odd[0, [some[1.0][70], some[2.0][70]]] = 1.0
    odd[1, some[1.0][60]] = odd[1, some[2.0][60:90]] = 1.0
    odd[2, some[1.0][:40]] = odd[2, some[2.0][:1]] = 1.0
    odd[3, some[1.0][50:80]] = odd[3, some[2.0][50:60]] = 1.0
    fit = fit_interactions(model, np.vstack([dosage, odd]))
    label = [Status(code).label for code in fit.status[7:]]
    assert label[0] == "unbounded"
    assert label[1] == "few_carriers"  # one sample determines the interaction
    assert label[3] == "ok"
    assert np.isnan(fit.mean[:, [7, 8]]).all()
    assert np.isfinite(fit.hc3_se[:, 10]).all()
    np.testing.assert_allclose(fit.mean[:, :7], expected.mean, rtol=1e-9)
    assert fit.carriers[7:].tolist() == [1, 1, 1, 10]
    fit = fit_interactions(model, np.vstack([dosage, odd]), min_carriers=11)
    assert (fit.status[7:] == Status.FEW_CARRIERS).all()
    np.testing.assert_allclose(fit.mean[:, :7], expected.mean, rtol=1e-9)


@pytest.mark.parametrize("constant", [0.0, 3.7])
def test_a_phenotype_that_is_constant_in_a_group(constant):
    model, dosage = example(binary=True)
    assert has_maximum(model)
    assert has_maximum(replace(model, covariates=np.ones((400, 1))))  # said row by row
    flat = replace(model, y=np.where(model.environment == 1.0, constant, model.y))
    flat = replace(flat, covariates=flat.covariates[:, :0])
    assert not has_maximum(flat)
    # Found out for each variant, and at once.
    for bounded in (True, False):
        fit = fit_interactions(replace(flat, bounded=bounded), dosage[:2])
        assert (fit.status == Status.UNBOUNDED).all()
        assert np.isnan(fit.mean).all()
    assert not has_maximum(replace(model, y=model.environment, covariates=model.covariates[:, :0]))
    # Of a covariate with three values or more the group's variance may be fitted.
    third = np.arange(400) % 3.0
    y = np.where(third == 0.0, constant, np.random.default_rng(1).standard_normal(400))
    none = np.empty((400, 0))
    assert set(fit_interactions(InteractionModel(y, none, none, third), dosage[:2]).status) <= {
        Status.OK, Status.UNBOUNDED,
    }  # fmt: skip


def test_standard_errors_with_few_carriers():
    """Without an effect p < 1e-3 comes 55 times too often with 3 carriers a side, not with 20."""
    rng = np.random.default_rng(5)
    n, m = 200, 1000
    e, y = rng.standard_normal((2, n))
    above = e > e.mean()
    share = {}
    for carriers in (3, 20):
        g = np.zeros((m, n))
        for side in (np.flatnonzero(above), np.flatnonzero(~above)):
            rows = rng.permuted(np.tile(side, (m, 1)), axis=1)[:, :carriers]
            np.put_along_axis(g, rows, 1.0, axis=1)
        fit = fit_interactions(InteractionModel(y, np.empty((n, 0)), np.empty((n, 0)), e), g)
        share[carriers] = np.mean(neg_log10_p_normal(fit.mean[2] / fit.mean_se[2]) > 3.0)
    assert share[3] > 1e-2
    assert share[20] < 5e-3
