"""Further tests of the variance against scipy and the definitions of their papers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from studies import Study

import hlmm_dask
from hlmm_dask.errors import InputError
from hlmm_dask.export import read_models_table
from hlmm_dask.genotypes.packed import encode
from hlmm_dask.kernels.block import fit_dosage, fit_packed
from hlmm_dask.kernels.block_model import block_model
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.kernels.table import Filters
from hlmm_dask.models.hlm import HLM
from hlmm_dask.models.inference import neg_log10_p_t
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.schema import N_COLUMNS, TEST_COLUMNS

Codes = NDArray[np.int8]
FloatArray = NDArray[np.float64]
TESTS = tuple(TEST_COLUMNS)


def fitted(y: FloatArray, codes: Codes, *, count_a2: bool = False) -> dict[str, FloatArray]:
    """Statistics and -log10 p by test, each (2, m)."""
    ones = np.ones((len(y), 1))
    null = HLM(y, ones, ones).fit()
    model = block_model(
        DenseModel(y, ones, ones, null.alpha, null.beta), PackedLayout(len(y), np.arange(len(y))),
        Filters(0.0, 100.0, count_a2), tests=TESTS,
    )  # fmt: skip
    further = fit_packed(model, encode(codes))[:, N_COLUMNS:]
    assert np.isnan(fit_dosage(model, np.maximum(codes, 0) * 0.9)[:, N_COLUMNS:]).all()
    return {test: further[:, 2 * i : 2 * i + 2].T for i, test in enumerate(TESTS)}


def expected(y: FloatArray, code: Codes) -> dict[str, tuple[float, float]]:
    called = code >= 0
    g, v = code[called].astype(float), y[called]
    groups = [v[g == k] for k in (0, 1, 2) if (g == k).any()]
    out = {
        "levene": stats.levene(*groups, center="mean"),
        "brown-forsythe": stats.levene(*groups, center="median"),
        "bartlett": stats.bartlett(*(group for group in groups if len(group) > 1)),
    }
    found = {test: (float(r.statistic), -np.log10(float(r.pvalue))) for test, r in out.items()}
    medians = {k: np.median(v[g == k]) for k in np.unique(g)}
    line = stats.linregress(g, v)
    responses = {
        "drm": np.abs(v - np.array([medians[k] for k in g])),
        "svlm": (v - line.intercept - line.slope * g) ** 2,
    }
    for test, response in responses.items():
        fit = stats.linregress(g, response)
        found[test] = (float(fit.slope / fit.stderr), -np.log10(float(fit.pvalue)))
    return found


def test_agreement_with_scipy() -> None:
    rng = np.random.default_rng(1)
    n = 300
    codes = rng.binomial(2, [[0.3], [0.3], [0.1], [0.5]], (4, n)).astype(np.int8)
    codes[rng.random(codes.shape) < 0.05] = -1
    codes[1][codes[1] == 2] = 1  # two classes
    codes[2][codes[2] == 2] = 1
    codes[2, 7] = 2  # one alone
    y = 5.0 + rng.gamma(2.0, size=n) * np.exp(0.3 * np.maximum(codes[3], 0))
    found = fitted(y, codes)
    for j, code in enumerate(codes):
        for test, values in expected(y, code).items():
            np.testing.assert_allclose(found[test][:, j], values, rtol=1e-8, err_msg=f"{test} {j}")
    other = fitted(y, codes, count_a2=True)
    for test in TESTS:
        sign = -1.0 if test in ("drm", "svlm") else 1.0
        np.testing.assert_allclose(other[test], found[test] * [[sign], [1.0]], rtol=1e-12)


def test_p_below_the_smallest_double() -> None:
    rng = np.random.default_rng(2)
    codes = rng.binomial(2, 0.4, (2, 20_000)).astype(np.int8)
    codes[1] = np.minimum(codes[0], 1)
    y = rng.standard_normal(20_000) * np.exp(2.0 * codes[0])
    for _, p in fitted(y, codes).values():
        assert np.isfinite(p).all()
        assert p[0] > 330.0
    df = np.array([10.0, 3000.0])
    many = neg_log10_p_t(np.array([40.0, 60.0]), df)
    np.testing.assert_array_equal(many, [neg_log10_p_t(40.0, 10.0), neg_log10_p_t(60.0, 3000.0)])


def test_classes_without_spread() -> None:
    """Every deviation is the same: no statistic, and no warning."""
    y = np.tile([-1.0, 1.0], 100)
    codes = np.random.default_rng(3).binomial(2, 0.4, (3, 200)).astype(np.int8)
    codes[:, :8] = np.repeat([0, 1, 2, 1], 2)
    codes[0] = np.repeat(codes[0, ::2], 2)  # both values equally often in each class
    for test in ("levene", "brown-forsythe", "drm", "svlm"):
        assert np.isnan(fitted(y, codes)[test][:, 0]).all(), test


@pytest.mark.parametrize("random", [False, True])
def test_covariates_that_stay_in_the_model(
    study: Study, tmp_path: Path, run_script, random: bool
) -> None:
    """Tests see the phenotype without what they explain of it, as where they are projected out."""
    tables = []
    for name, option in (("in", ["--fit_covariates"]), ("out", [])):
        options = ["--mean_covar", study.covar, "--var_covar", study.covar, "--tests"]
        options += ["levene,brown-forsythe,bartlett,drm,svlm", *option]
        if random:
            options += ["--random_gts", study.bed]
        assert run_script("scan", study.bed, study.pheno, tmp_path / name, *options) == 0
        tables.append(read_models_table(tmp_path / f"{name}.models.gz").iloc[:, -10:])
    # Random effects change the covariates' estimates a little.
    near = 0.15 if random else 1e-5
    pd.testing.assert_frame_equal(*tables, rtol=near, atol=near)


def test_command_line(study: Study, tmp_path: Path, run_script, capsys) -> None:
    out = tmp_path / "out"
    for names, words in (
        ("levene,welch", "test 'welch': expected levene"),
        ("quail", "test 'quail': needs quantile regressions"),
        ("drm,drm", "test 'drm' is given twice"),
    ):
        with pytest.raises(InputError, match=words):
            ScanConfig(tests=tuple(names.split(",")))
    assert run_script("scan", study.bed, study.pheno, out, "--spa-threshold", "-1") == 2
    assert "--spa-threshold -1: expected standard deviations" in capsys.readouterr().err
    options = ("--tests", "bartlett,drm", "--spa-threshold", "inf")
    assert run_script("scan", study.bed, study.pheno, out, *options) == 0
    table = read_models_table(f"{out}.models.gz")
    assert [*table.columns[-4:]] == ["bartlett_chi2", "bartlett_pval", "drm_t", "drm_pval"]
    assert table["n_hom_ref"].notna().all()
    results = hlmm_dask.open_results(f"{out}.zarr")
    assert results["drm_t"].attrs["long_name"].startswith("deviation regression model")
    ok = (results["status"] == 0).to_numpy()
    assert ok.any()
    for name in ("bartlett_chi2", "drm_neg_log10_p", "var_best_neg_log10_p"):
        np.testing.assert_array_equal(np.isfinite(results[name]), ok)
    assert run_script("scan", study.bed, study.pheno, out, "--resume", *options) == 0
