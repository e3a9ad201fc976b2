"""Linear mixed model of a block of variants against one variant at a time, and against GEMMA."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bed_reader import open_bed
from numpy.typing import NDArray
from scipy import linalg, stats

from hlmm_dask.kernels import lmm, lmm_fixed, lmm_refit
from hlmm_dask.kernels.lmm import LAMBDA_BOUNDS, LMMNull, LMMVariants, fit_null
from hlmm_dask.models.lmm_rotation import Rotation, rotation_of_effects, rotation_of_kinship
from hlmm_dask.models.lmm_spectral import lambda_path, maximise

FloatArray = NDArray[np.float64]


def study(
    n: int, m: int, c: int, *, seed: int = 0, h2: float = 0.5, variants: int = 15
) -> tuple[Rotation, FloatArray, FloatArray, FloatArray]:
    """Rotation, phenotype, covariates and genotypes; the first variants have large effects."""
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((n, m)) / np.sqrt(m)
    X = np.column_stack([np.ones(n), 40.0 + 9.0 * rng.standard_normal((n, c - 1))])
    g = rng.binomial(2, rng.uniform(0.02, 0.98, (variants, 1)), (variants, n)).astype(np.float64)
    # Variants that follow the leading random effects change λ most.
    g[:6] = np.digitize(Z @ rng.standard_normal((m, 6)), [-0.7, 0.7]).T
    u = np.sqrt(h2) * rng.standard_normal(m)
    y = X.sum(axis=1) + Z @ u + np.sqrt(1.0 - h2) * rng.standard_normal(n)
    return rotation_of_effects(Z), y + g[:3].T @ [3.0, -1.0, 0.5], X, g


def refit(null: LMMNull, genotypes: FloatArray) -> LMMVariants:
    return lmm_refit.fit_refit(lmm_refit.plan_refit(null), genotypes)


def fixed(null: LMMNull, genotypes: FloatArray) -> LMMVariants:
    return lmm_fixed.fit_fixed(lmm_fixed.plan_fixed(null), genotypes)


def fixed_single(null: LMMNull, genotypes: FloatArray) -> LMMVariants:
    return lmm_fixed.fit_fixed(lmm_fixed.plan_fixed(null, single=True), genotypes)


kernels = pytest.mark.parametrize("kernel", [refit, fixed])
spectra = pytest.mark.parametrize(
    ("n", "m", "c", "h2"),
    [(120, 200, 1, 0.5), (120, 200, 4, 0.0), (120, 70, 3, 0.5), (120, 9, 2, 0.9)],
    ids=["full", "full-no-h2", "low", "lower"],
)


@spectra
def test_refitted_variants_are_those_of_the_model(n: int, m: int, c: int, h2: float) -> None:
    rotation, y, X, genotypes = study(n, m, c, h2=h2)
    null = fit_null(rotation, y, X)
    table = refit(null, genotypes)
    low, high = np.log(LAMBDA_BOUNDS)
    for j, g in enumerate(genotypes):
        data = rotation.rotate(y, np.column_stack([X, g]))
        t = {}
        for method in ("reml", "ml"):
            t[method] = maximise(
                lambda t, method=method, data=data: data.profile(lambda_path, t, method),
                (low, high),
                n_grid=80,
            )
        at = data.profile(lambda_path, t["reml"], "reml")
        se = np.sqrt(at.rss / (n - c - 1) * at.unscaled_cov[-1, -1])
        loglik = data.profile(lambda_path, t["ml"], "ml").loglik
        assert table.beta[j] == pytest.approx(at.beta[-1], abs=1e-8 * se)
        assert table.se[j] == pytest.approx(se, rel=1e-8)
        assert table.loglik_ml[j] == pytest.approx(loglik, abs=1e-9)
        for name, found in (("reml", table.lambda_reml[j]), ("ml", table.lambda_ml[j])):
            assert np.log(found) == pytest.approx(t[name], abs=1e-5), (j, name)
        p = -np.log10(stats.f.sf((at.beta[-1] / se) ** 2, 1, n - c - 1))
        assert table.neg_log10_p_wald[j] == pytest.approx(p, rel=1e-7, abs=1e-9)
        p = -np.log10(stats.chi2.sf(2.0 * (loglik - null.loglik_ml), 1))
        assert table.neg_log10_p_lrt[j] == pytest.approx(p, rel=1e-7, abs=1e-6)


def test_without_random_effects_lambda_is_the_lower_bound() -> None:
    rotation, y, X, genotypes = study(150, 200, 1, h2=0.0, seed=5)
    # Spread evenly over the eigenvectors, less so over the leading ones.
    y = rotation.vectors @ np.linspace(0.5, 1.5, 150)
    table = refit(fit_null(rotation, y, X), genotypes[6:])
    np.testing.assert_array_equal(table.lambda_reml, LAMBDA_BOUNDS[0])
    np.testing.assert_array_equal(table.lambda_ml, LAMBDA_BOUNDS[0])


@spectra
def test_fixed_variants_are_generalised_least_squares(n: int, m: int, c: int, h2: float) -> None:
    rotation, y, X, genotypes = study(n, m, c, h2=h2)
    null = fit_null(rotation, y, X)
    table = fixed(null, genotypes)
    V = null.lambda_reml * (rotation.vectors * rotation.values) @ rotation.vectors.T + np.eye(n)
    half = linalg.cholesky(V, lower=True)
    yw, Xw, gw = (linalg.solve_triangular(half, a, lower=True) for a in (y, X, genotypes.T))
    rss0 = np.linalg.lstsq(Xw, yw, rcond=None)[1][0]
    loglik0 = null.data.profile(lambda_path, float(np.log(null.lambda_reml)), "ml").loglik
    for j in range(len(genotypes)):
        design = np.column_stack([Xw, gw[:, j]])
        beta, rss = np.linalg.lstsq(design, yw, rcond=None)[:2]
        se = np.sqrt(rss[0] / (n - c - 1) * np.linalg.inv(design.T @ design)[-1, -1])
        chi2 = n * np.log(rss0 / rss[0])
        assert table.beta[j] == pytest.approx(beta[-1], abs=1e-9 * se)
        assert table.se[j] == pytest.approx(se, rel=1e-9)
        assert table.loglik_ml[j] == pytest.approx(loglik0 + 0.5 * chi2, abs=1e-9)
        assert table.neg_log10_p_lrt[j] == pytest.approx(
            -np.log10(stats.chi2.sf(chi2, 1)), rel=1e-8, abs=1e-8
        )
    np.testing.assert_array_equal(table.lambda_ml, null.lambda_reml)


@pytest.mark.parametrize("m", [200, 20])
def test_single_precision_is_right_to_six_digits(m: int) -> None:
    rotation, y, X, genotypes = study(120, m, 3)
    null = fit_null(rotation, y, X)
    one, other = fixed_single(null, genotypes), fixed(null, genotypes)
    np.testing.assert_allclose(one.beta, other.beta, rtol=1e-6)
    np.testing.assert_allclose(one.se, other.se, rtol=1e-6)
    np.testing.assert_allclose(one.neg_log10_p_wald, other.neg_log10_p_wald, rtol=3e-6)


@pytest.mark.parametrize("kernel", [refit, fixed, fixed_single])
def test_explained_genotypes_have_no_test(
    kernel: Callable[[LMMNull, FloatArray], LMMVariants],
) -> None:
    rotation, y, X, genotypes = study(80, 100, 3)
    whole = kernel(fit_null(rotation, y, X), genotypes)
    genotypes[4] = 2.0
    genotypes[5] = X @ [1.0, 2.0, -1.0]
    table = kernel(fit_null(rotation, y, X), genotypes)
    for column, before in zip(table.columns(), whole.columns(), strict=True):
        assert np.isnan(column[4:6]).all()
        np.testing.assert_allclose(column[6:], before[6:], rtol=1e-9)


@pytest.mark.parametrize("kernel", [refit, fixed, fixed_single])
@pytest.mark.parametrize("m", [100, 20])
def test_no_variants(kernel: Callable[[LMMNull, FloatArray], LMMVariants], m: int) -> None:
    rotation, y, X, genotypes = study(80, m, 2)
    table = kernel(fit_null(rotation, y, X), genotypes[:0])
    assert [column.shape for column in table.columns()] == [(0,)] * 7


@kernels
@pytest.mark.parametrize("m", [100, 20])
def test_parts_of_a_block_and_units_change_nothing(
    kernel: Callable[[LMMNull, FloatArray], LMMVariants], m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, y, X, genotypes = study(80, m, 2)
    null = fit_null(rotation, y, X)
    whole = kernel(null, genotypes)
    flipped = kernel(null, 2.0 - genotypes)
    scaled = kernel(fit_null(rotation, 1e3 * y, X), genotypes)
    monkeypatch.setattr(lmm, "CHUNK", 64)
    many = np.tile(genotypes, (6, 1))
    parts = LMMVariants(*(column[75:] for column in kernel(null, many).columns()))
    for a, b in zip(whole.columns(), parts.columns(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(flipped.beta, -whole.beta, rtol=1e-7)
    np.testing.assert_allclose(flipped.se, whole.se, rtol=1e-8)
    np.testing.assert_allclose(scaled.beta, 1e3 * whole.beta, rtol=1e-7)
    np.testing.assert_allclose(scaled.neg_log10_p_wald, whole.neg_log10_p_wald, rtol=1e-7)


def test_the_maximum_of_many_polynomials_is_found() -> None:
    """Curves with a maximum within, and those that rise or fall throughout."""
    rng = np.random.default_rng(0)
    centre, width = rng.uniform(-1.5, 1.5, 500), rng.uniform(1.5, 3.0, 500)

    def curve(x: FloatArray) -> FloatArray:
        return -np.log(1.0 + ((x - centre) / width) ** 2)

    values = np.stack([curve(np.full(500, x)) for x in lmm_refit._POINTS], axis=1)
    x, height = lmm_refit._highest(values)
    np.testing.assert_allclose(x, np.clip(centre, -1.0, 1.0), atol=1e-6)
    np.testing.assert_allclose(height, curve(np.clip(centre, -1.0, 1.0)), atol=1e-8)
    assert set(x[np.abs(centre) > 1.01]) == {-1.0, 1.0}


@pytest.mark.slow
def test_mouse_gwas(reference: Path) -> None:
    """Refitted for every variant: the exact optimum, and GEMMA to its printed digits."""
    folder = reference / "mouse"
    bed = open_bed(folder / "mouse.bed", count_A1=True)
    names = (folder / "kinship_snps.txt").read_text().split()
    position = {name: j for j, name in enumerate(bed.sid)}
    snps = bed.read(np.s_[:, [position[name] for name in names]], dtype="float64")
    lines = (line.split() for line in (folder / "pheno1.txt").read_text().splitlines())
    phenotype = {iid: float(value) for _, iid, value in lines if value != "NA"}
    present = np.array([iid in phenotype for iid in bed.iid])
    y = np.array([phenotype[iid] for iid in bed.iid[present]])
    centred = (snps - snps.mean(axis=0))[present]
    K = centred @ centred.T / len(names)
    K -= K.mean(axis=0)
    K -= K.mean(axis=1)[:, None]
    null = fit_null(rotation_of_kinship(K), y, np.ones(len(y)))
    known = json.loads((folder / "lmm_pheno1.null.json").read_text())
    for name in ("lambda_reml", "lambda_ml"):
        expected = known["_".join(name.split("_")[::-1])]
        assert getattr(null, name) == pytest.approx(expected, rel=1e-9)
    assert null.loglik_ml == pytest.approx(known["ml_loglik"], abs=1e-9)
    reml = null.data.profile(lambda_path, float(np.log(null.lambda_reml)), "reml")
    assert reml.loglik == pytest.approx(known["reml_loglik"], abs=1e-9)
    assert reml.rss / (len(y) - 1) == pytest.approx(known["ve"], rel=1e-9)

    genotypes = np.ascontiguousarray(snps[present].T)
    table = refit(null, genotypes)
    exact = pd.read_csv(folder / "lmm_pheno1.tsv.gz", sep="\t")
    assert exact["SNP"].tolist() == names
    assert np.max(np.abs(table.beta - exact["beta"]) / exact["se"]) < 1e-8
    np.testing.assert_allclose(table.se, exact["se"], rtol=1e-8)
    np.testing.assert_allclose(table.loglik_ml, exact["loglik_ml"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(table.lambda_reml, exact["lambda_reml"], rtol=1e-7)
    np.testing.assert_allclose(table.lambda_ml, exact["lambda_ml"], rtol=1e-7)
    np.testing.assert_allclose(10.0**-table.neg_log10_p_wald, exact["p_wald"], rtol=1e-7)
    np.testing.assert_allclose(10.0**-table.neg_log10_p_lrt, exact["p_lrt"], rtol=1e-6)

    with gzip.open(folder / "gemma_pheno1.assoc.txt.gz", "rt") as lines_of_gemma:
        gemma = pd.read_csv(lines_of_gemma, sep="\t")
    np.testing.assert_allclose(10.0**-table.neg_log10_p_wald, gemma["p_wald"], rtol=1e-4)
    np.testing.assert_allclose(10.0**-table.neg_log10_p_lrt, gemma["p_lrt"], rtol=2e-6)

    some = slice(None, None, 200)
    near = fixed(null, genotypes[some])
    assert np.max(np.abs(near.beta - table.beta[some]) / table.se[some]) < 0.05
    single = fixed_single(null, genotypes[some])
    assert np.max(np.abs(single.beta - near.beta) / near.se) < 1e-6
    np.testing.assert_allclose(single.se, near.se, rtol=3e-7)
