"""A variant with status ok has all estimates of its model; one that fits perfectly is unbounded."""

import numpy as np
import pandas as pd
import pytest

from hlmm_dask.genotypes.packed import encode
from hlmm_dask.kernels.block import fit_packed
from hlmm_dask.kernels.block_model import block_model
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.lmm import fit_null
from hlmm_dask.kernels.lmm_block import LMMBlockModel
from hlmm_dask.kernels.lmm_fixed import plan_fixed
from hlmm_dask.kernels.lmm_refit import plan_refit
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.kernels.table import Filters, perfect_fit, perfectly_fitted
from hlmm_dask.models.hlm import HLM
from hlmm_dask.models.hlmm import HLMM
from hlmm_dask.models.lmm_rotation import rotation_of_effects, rotation_of_kinship
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.schema import LMM_NAMES, RESULT_NAMES, Status

KERNELS = ["sums", "covariates", "exact", "linear", "auto", "dense"]
ESTIMATES = ["loglik", "add", "add_se", "add_t", "add_neg_log10_p", "var", "var_se", "var_t",
             "var_neg_log10_p", "av_neg_log10_p"]  # fmt: skip
LMM_ESTIMATES = ["loglik", "add", "add_se", "add_t", "add_neg_log10_p", "add_lrt_neg_log10_p", "h2"]


def fitted_by(
    kernel: str, y: np.ndarray, calls: np.ndarray, G: np.ndarray, C: np.ndarray, engine: str
) -> pd.DataFrame:
    ones = np.ones((len(y), 1))
    X = np.column_stack([ones, C]) if kernel in ("covariates", "dense") else ones
    dense = DenseModel(y, X, X, *(lambda f: (f.alpha, f.beta))(HLM(y, X, X).fit()))
    if kernel not in ("sums", "covariates"):
        mixed = HLMM(y, X, X, G)
        fit = mixed.fit()
        dense = DenseModel(
            y, X, X, fit.alpha, fit.beta, RandomDesign.from_matrix(G), fit.h2, mixed.h2_min
        )
    method = kernel if kernel in ("exact", "linear", "auto") else "auto"
    layout = PackedLayout(len(y), np.arange(len(y)))
    model = block_model(dense, layout, Filters(0.0, 100.0), method=method, engine=engine)  # type: ignore[arg-type]
    return pd.DataFrame(fit_packed(model, encode(calls)), columns=list(RESULT_NAMES))


def rare(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Phenotype with heavy tails, variants with 1 to 12 carriers, random effects, covariates."""
    rng = np.random.default_rng(seed)
    G = rng.binomial(2, 0.3, (n, n // 3)).astype(float)
    G = (G - G.mean(axis=0)) / G.std(axis=0) / (n // 3) ** 0.5
    y = G @ rng.standard_normal(n // 3) * 0.5 + rng.standard_t(2.5, n)
    calls = np.zeros((36, n), np.int8)
    for i, row in enumerate(calls):
        row[rng.choice(n, 1 + i % 12, replace=False)] = rng.integers(1, 3, 1 + i % 12)
    calls[:12][rng.random((12, n)) < 0.03] = -1
    return y, calls, G, rng.standard_normal((n, 2))


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_ok_means_that_every_estimate_is_there(kernel: str, engine: str) -> None:
    found = pd.concat(
        fitted_by(kernel, *rare(n, seed), engine) for n, seed in ((40, 2), (40, 4), (60, 0))
    )
    ok = found["status"] == Status.OK
    columns = [*ESTIMATES]
    if kernel in ("sums", "covariates"):
        columns += ["add_robust_se", "var_robust_se", "add_var_cov", "av_robust_neg_log10_p"]
    else:
        columns += ["h2"]
    assert ok.sum() > 20
    assert np.isfinite(found.loc[ok, columns]).all(axis=None)
    assert found.loc[~ok, columns].isna().all(axis=None)
    if kernel == "exact":
        # These were ok, with NaN for their standard errors.
        assert (found["status"] == Status.NO_STANDARD_ERROR).any()


def lmm_tables(y: np.ndarray, calls: np.ndarray, G: np.ndarray, C: np.ndarray):
    n = len(y)
    Z = np.random.default_rng(3).standard_normal((n, 2 * n))
    layout, one = PackedLayout(n, np.arange(n)), np.zeros(1, dtype=np.int64)
    for rotation in (rotation_of_kinship(Z @ Z.T / (2 * n)), rotation_of_effects(G)):
        for X in (np.ones((n, 1)), np.column_stack([np.ones(n), C])):
            null = fit_null(rotation, y, X)
            for plan in (plan_refit(null), plan_fixed(null), plan_fixed(null, single=True)):
                model = LMMBlockModel(layout, Filters(0.0, 100.0), (plan,), np.ones(1), one, one)
                for table in (
                    model.fit_packed(encode(calls)),
                    model.fit_dosage(np.where(calls < 0, np.nan, calls.astype(float))),
                ):
                    yield X.shape[1] > 1, pd.DataFrame(table, columns=list(LMM_NAMES))


def test_ok_means_that_every_estimate_is_there_in_mixed_models() -> None:
    for _, found in lmm_tables(*rare(60, 0)):
        ok = found["status"] == Status.OK
        assert ok.sum() > 20
        assert np.isfinite(found.loc[ok, LMM_ESTIMATES]).all(axis=None)
        assert found.loc[~ok, LMM_ESTIMATES].isna().all(axis=None)


def perfect(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(23)
    n = 200
    calls = rng.binomial(2, 0.3, (4, n)).astype(np.int8)
    C = rng.standard_normal((n, 2))
    G = rng.binomial(2, 0.3, (n, 6)).astype(float)
    G = (G - G.mean(axis=0)) / G.std(axis=0) / 6**0.5
    y = calls[0].astype(float)
    if kind == "affine":
        y = 1e3 + 0.1 * y
    elif kind == "rounded":
        y = y + 1e-9 * rng.standard_normal(n)
    elif kind == "covariates":
        y = 0.3 * y + C @ [0.5, -0.2]
    return y, calls, G, C


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize(
    ("kind", "kernel"),
    [(kind, kernel) for kind in ("equal", "affine", "rounded") for kernel in KERNELS]
    + [("covariates", kernel) for kernel in ("covariates", "dense")],
)
def test_a_variant_that_is_the_phenotype_is_unbounded(kind: str, kernel: str, engine: str) -> None:
    found = fitted_by(kernel, *perfect(kind), engine)
    assert found["status"].tolist() == [Status.UNBOUNDED, 0, 0, 0]
    assert found.loc[0, ESTIMATES].isna().all()


@pytest.mark.parametrize("kind", ["equal", "affine", "rounded", "covariates"])
def test_a_variant_that_is_the_phenotype_is_unbounded_in_mixed_models(kind: str) -> None:
    for with_covariates, found in lmm_tables(*perfect(kind)):
        if with_covariates or kind != "covariates":
            assert found["status"].tolist() == [Status.UNBOUNDED, 0, 0, 0]
            assert found.loc[0, LMM_ESTIMATES].isna().all()


def test_a_nearly_perfect_fit_is_fitted() -> None:
    y, calls, G, C = perfect("equal")
    y = y + 1e-3 * np.random.default_rng(1).standard_normal(len(y))
    for kernel in ("sums", "covariates", "exact", "dense"):
        assert (fitted_by(kernel, y, calls, G, C, "numba")["status"] == Status.OK).all()
    g = calls[0].astype(float)
    assert not perfectly_fitted(y, np.ones((len(y), 1)), g)
    counts, sums, squares = (np.array([[v[g == k].sum()] for k in range(3)])
                             for v in (np.ones(len(y)), y, y**2))  # fmt: skip
    means = sums / counts
    assert not perfect_fit(counts, means, squares - counts * means**2)[0]
    assert perfect_fit(counts, np.arange(3.0)[:, None], np.zeros((3, 1)))[0]
