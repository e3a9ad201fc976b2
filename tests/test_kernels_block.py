"""Blocks of variants: filters, status, orientation, and numbers from outside."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from hlmm_dask.genotypes.packed import encode
from hlmm_dask.kernels.block import fit_dosage, fit_packed
from hlmm_dask.kernels.block_model import BlockModel, block_model
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.packed import PackedLayout, unpack
from hlmm_dask.kernels.table import Filters, convergence_status
from hlmm_dask.models.hlm import HLM
from hlmm_dask.models.hlmm import HLMM
from hlmm_dask.models.newton import Convergence
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.schema import CLASS_DOC, INDEX, N_COLUMNS, RESULT_NAMES, Status

Codes = NDArray[np.int8]
FloatArray = NDArray[np.float64]
ALL = Filters(min_maf=0.0, max_missing=100.0)
ESTIMATES = RESULT_NAMES[RESULT_NAMES.index("loglik") : RESULT_NAMES.index("av_neg_log10_p") + 1]
ROBUST = (
    "add_robust_se", "var_robust_se", "add_var_cov", "av_robust_neg_log10_p", "var_lrt_neg_log10_p",
)  # fmt: skip
CLASSES = tuple(f"{what}_{k}" for what in ("n", "pheno_mean", "pheno_sd") for k in CLASS_DOC)
# Where sums over samples are replaced by sums over fewer nodes, a tail is known to so much.
TAILS = tuple(f"{name}_neg_log10_p" for name in ("add_score", "var_score", "av_score", "var_best"))
N = 200


def column(results: FloatArray, name: str) -> FloatArray:
    return results[:, INDEX[name]]


def statuses(results: FloatArray) -> list[Status]:
    return [Status(int(code)) for code in column(results, "status")]


def model_for(kind: str, filters: Filters = ALL, n: int = N, shift: float = 0.0) -> BlockModel:
    """A model of each kind that has a path of its own, every second sample left out."""
    rng = np.random.default_rng(0)
    layout = PackedLayout(2 * n, np.arange(0, 2 * n, 2))
    ones = np.ones((n, 1))
    y = rng.standard_normal(n) + shift
    X = np.column_stack([ones, rng.standard_normal(n)]) if "covariates" in kind else ones
    null = HLM(y, X, X).fit()
    dense = DenseModel(y, X, X, null.alpha, null.beta)
    if "random" in kind:
        G = rng.standard_normal((n, 5)) * 5**-0.5
        dense = DenseModel(
            y, X, X, null.alpha, null.beta, RandomDesign.from_matrix(G), h2=0.1, h2_min=1e-5
        )
    return block_model(dense, layout, filters)


def in_file(codes: Codes) -> Codes:
    """Put the analysed samples at the file's even places, something else at the odd ones."""
    out = np.full((codes.shape[0], 2 * codes.shape[1]), 1, np.int8)
    out[:, ::2] = codes
    return out


def random_codes(m: int = 8, n: int = N, missing: float = 0.02) -> Codes:
    rng = np.random.default_rng(1)
    codes = rng.binomial(2, rng.uniform(0.2, 0.8, (m, 1)), (m, n)).astype(np.int8)
    codes[rng.random((m, n)) < missing] = -1
    return codes


def both_ways(model: BlockModel, codes: Codes) -> tuple[FloatArray, FloatArray]:
    calls = in_file(codes)
    return fit_packed(model, encode(calls)), fit_dosage(model, np.where(calls < 0, np.nan, calls))


KINDS = ("plain", "covariates", "random", "random, covariates")
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_dosages_of_calls_give_the_same_as_packed_calls(kind: str) -> None:
    packed, dosage = both_ways(model_for(kind), random_codes())
    assert packed.shape == (8, N_COLUMNS)
    assert set(statuses(packed)) == {Status.OK}
    robust, classes, tails = ([INDEX[name] for name in names] for names in (ROBUST, CLASSES, TAILS))
    *robust, ratio = robust
    # They come from class sums, that is from packed calls.
    assert np.isnan(dosage[:, [ratio, *classes]]).all()
    assert np.isfinite(packed[:, ratio]).all() == (kind == "plain")
    assert np.isfinite(packed[:, [*classes, *tails]]).all()
    np.testing.assert_allclose(dosage[:, tails], packed[:, tails], rtol=2e-3, atol=1e-3)
    same = [ratio, *classes, *tails]
    assert np.isnan(packed[:, robust]).all() == ("random" in kind)
    dosage[:, same] = packed[:, same]
    np.testing.assert_allclose(dosage, packed, rtol=1e-6, atol=1e-7)


@kinds
def test_status_and_its_order(kind: str) -> None:
    """Where several reasons hold, the one named first in ``Status``."""
    codes = np.tile(random_codes(1, missing=0.0), (9, 1))
    codes[0] = -1
    codes[1, : N // 2] = -1  # many missing
    codes[2] = 1
    codes[2, : N // 2] = -1  # many missing, all heterozygous
    codes[3], codes[4], codes[5] = 0, 2, 1
    codes[6] = 0
    codes[6, 3:5] = 1  # rare
    codes[7] = 0
    codes[7, : N // 2] = -1  # many missing, one allele
    codes[8, :4] = -1
    model = model_for(kind, Filters(min_maf=0.01, max_missing=5.0))
    expected = [
        Status.ALL_MISSING,
        Status.MISSING,
        Status.MISSING,
        Status.MONOMORPHIC,
        Status.MONOMORPHIC,
        Status.ALL_HETEROZYGOUS,
        Status.LOW_MAF,
        Status.MISSING,
        Status.OK,
    ]
    for results in both_ways(model, codes):
        assert statuses(results) == expected
        np.testing.assert_array_equal(
            column(results, "n_samples"), (codes >= 0).sum(axis=1).astype(float)
        )
        maf = column(results, "minor_allele_frequency")
        assert np.isnan(maf[[0, 1, 2, 7]]).all()
        np.testing.assert_allclose(maf[3:7], [0, 0, 0.5, 0.005])
        fitted = ~np.isnan(results[:, [INDEX[name] for name in ESTIMATES]])
        assert fitted[8].all()
        assert not fitted[:8].any()


def test_every_variant_can_be_left_out() -> None:
    results = fit_packed(model_for("plain"), encode(in_file(np.zeros((3, N), np.int8))))
    assert statuses(results) == [Status.MONOMORPHIC] * 3
    assert fit_packed(model_for("plain"), encode(in_file(np.zeros((0, N), np.int8)))).shape == (
        0,
        N_COLUMNS,
    )


def test_collinear_unbounded_and_not_converged() -> None:
    model = model_for("covariates")
    dosage = np.full((3, 2 * N), 1.0)
    dosage[0, ::2] = 1.0 + 0.1 * model.dense.X[:, 1]
    dosage[1] = 0.0
    dosage[1, 8] = 1.0
    dosage[2, ::2] = random_codes(1, missing=0.0)[0]
    expected = [Status.COLLINEAR, Status.UNBOUNDED, Status.OK]
    assert statuses(fit_dosage(model, dosage)) == expected
    singleton = in_file(np.zeros((1, N), np.int8))
    singleton[0, ::2][4] = 1
    for kind in ("plain", "random"):
        result = fit_packed(model_for(kind), encode(singleton))
        assert statuses(result) == [Status.UNBOUNDED]
        assert np.isnan(column(result, "add")).all()


@pytest.mark.parametrize(
    ("convergence", "var", "expected"),
    [
        (Convergence.CONVERGED, 1.0, Status.OK),
        (Convergence.CONVERGED, -13.0, Status.UNBOUNDED),
        (Convergence.CONVERGED, -12.0, Status.OK),
        (Convergence.LINE_SEARCH_FAILED, -7.0, Status.UNBOUNDED),
        (Convergence.ITERATION_LIMIT, 1.0, Status.NOT_CONVERGED),
        (Convergence.LINE_SEARCH_FAILED, 1.0, Status.NOT_CONVERGED),
        (Convergence.SADDLE_POINT, 1.0, Status.NOT_CONVERGED),
        (Convergence.LINE_SEARCH_FAILED, 20.0, Status.UNBOUNDED),
        (Convergence.NOT_FINITE, np.nan, Status.UNBOUNDED),
    ],
)
def test_status_of_a_fit(convergence: Convergence, var: float, expected: Status) -> None:
    status = convergence_status(np.array([convergence]), np.array([var]), np.array([2.0]))
    assert status[0] == expected


@pytest.mark.parametrize(("copies", "fitted"), [(20, False), (21, True), (380, False), (379, True)])
def test_minor_allele_frequency_must_be_above_its_bound(copies: int, fitted: bool) -> None:
    codes = np.zeros((1, N), np.int8)
    codes[0, : copies // 2] = 2
    codes[0, copies // 2] = copies % 2
    for results in both_ways(model_for("plain", Filters(min_maf=0.05)), codes):
        assert statuses(results) == [Status.OK if fitted else Status.LOW_MAF]


@pytest.mark.parametrize(("missing", "fitted"), [(9, True), (10, False), (11, False)])
def test_missing_calls_must_be_below_their_bound(missing: int, fitted: bool) -> None:
    codes = random_codes(1, missing=0.0)
    codes[0, :missing] = -1
    for results in both_ways(model_for("plain", Filters(max_missing=5.0)), codes):
        assert statuses(results) == [Status.OK if fitted else Status.MISSING]


def test_counts_of_dosages_are_whole_numbers() -> None:
    """Sums of fractions must not leak into the number of samples or the filter on it."""
    dosage = np.tile(np.array([0.1, 1.7, 0.3, 1.1]), (1, N // 2))
    dosage[0, : 2 * 10] = np.nan
    for max_missing, expected in ((5.0, Status.MISSING), (5.1, Status.OK)):
        filters = Filters(min_maf=0.0, max_missing=max_missing)
        results = fit_dosage(model_for("plain", filters), dosage)
        assert column(results, "n_samples")[0] == N - 10
        assert statuses(results) == [expected]


def test_constant_dosage_keeps_its_frequency() -> None:
    results = fit_dosage(model_for("plain"), np.full((2, 2 * N), 0.3) * [[1.0], [10 / 3]])
    assert statuses(results) == [Status.ALL_HETEROZYGOUS] * 2
    np.testing.assert_allclose(column(results, "minor_allele_frequency"), [0.15, 0.5])


@kinds
def test_counting_allele_2_changes_the_signs(kind: str) -> None:
    codes = in_file(random_codes(4))
    results = fit_packed(model_for(kind), encode(codes))
    other = fit_packed(
        model_for(kind, Filters(min_maf=0.0, max_missing=100.0, count_a2=True)), encode(codes)
    )
    expected = results.copy()
    for name in ("add", "add_t", "var", "var_t", "var_score_t"):
        expected[:, INDEX[name]] *= -1.0
    for what in ("n", "pheno_mean", "pheno_sd"):
        columns = [INDEX[f"{what}_{k}"] for k in CLASS_DOC]
        expected[:, columns] = expected[:, columns[::-1]]
    expected[:, INDEX["effect_allele_frequency"]] = 1.0 - column(results, "effect_allele_frequency")
    np.testing.assert_array_equal(other, expected)
    direct = fit_packed(model_for(kind), encode(np.where(codes < 0, codes, 2 - codes)))
    np.testing.assert_allclose(direct, expected, rtol=1e-6, atol=1e-7)


@kinds
def test_splitting_a_block_makes_no_difference(kind: str) -> None:
    model = model_for(kind)
    packed = encode(in_file(random_codes(11)))
    whole = fit_packed(model, packed)
    for size in (1, 4):
        parts = [fit_packed(model, packed[i : i + size]) for i in range(0, 11, size)]
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-9, atol=1e-10)
    if kind == "plain":
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@kinds
def test_origin_of_y_makes_no_difference(kind: str) -> None:
    """1e6 standard deviations away from zero."""
    packed = encode(in_file(random_codes(4)))
    results, moved = (fit_packed(model_for(kind, shift=s), packed) for s in (0.0, 1e6))
    assert statuses(moved) == statuses(results)
    for name in CLASS_DOC:
        moved[:, INDEX[f"pheno_mean_{name}"]] -= 1e6
    np.testing.assert_allclose(moved, results, rtol=1e-5, atol=1e-6)


def test_statistics_follow_from_the_estimates() -> None:
    results = fit_packed(model_for("plain"), encode(in_file(random_codes())))
    for name in ("add", "var"):
        ratio = column(results, name) / column(results, f"{name}_se")
        np.testing.assert_allclose(column(results, f"{name}_t"), ratio, rtol=1e-12)
    assert np.isnan(column(results, "h2")).all()
    assert (column(results, "av_neg_log10_p") >= 0).all()
    random = fit_packed(model_for("random"), encode(in_file(random_codes())))
    assert (column(random, "h2") >= 1e-5).all()


# -- numbers from outside ---------------------------------------------------------------------


def read_values(path: Path) -> pd.Series:
    table = pd.read_csv(path, sep=r"\s+", header=None, dtype={0: str, 1: str})
    return table.set_index([0, 1])[2].dropna()


def read_bed(path: Path) -> tuple[NDArray[np.uint8], pd.MultiIndex]:
    fam = pd.read_csv(path.with_suffix(".fam"), sep=r"\s+", header=None, dtype=str)
    packed = np.fromfile(path, dtype=np.uint8)[3:].reshape(-1, (len(fam) + 3) // 4)
    return packed, pd.MultiIndex.from_arrays([fam[0], fam[1]])


def reference_case(folder: Path, case: str) -> tuple[BlockModel, NDArray[np.uint8], pd.DataFrame]:
    """Model, packed genotypes and expected table, by the steps in the reference's README."""
    mouse = case.startswith("mouse")
    here = folder / ("mouse" if mouse else "gamma")
    bed, pheno = ("mouse.bed", "pheno1.txt") if mouse else ("test.bed", "pheno.txt")
    tables = {
        "mouse hlm": "hlm_pheno1.tsv",
        "mouse sex fit": "hlm_pheno1_sex_fit.tsv",
        "mouse sex project": "hlm_pheno1_sex_project.tsv",
        "mouse hlmm": "hlmm_pheno1_random200.tsv",
        "gamma hlm": "hlm.tsv",
        "gamma hlmm": "hlmm_random100.tsv",
    }
    packed, ids = read_bed(here / bed)
    values = read_values(here / pheno)
    keep = ids.isin(values.index)
    layout = PackedLayout(len(ids), np.flatnonzero(keep))
    y = values.reindex(ids[keep]).to_numpy()
    ones = X = np.ones((len(y), 1))
    if "sex" in case:
        sex = read_values(here / "sex.txt").reindex(ids[keep]).to_numpy().astype(float)
        X = np.column_stack([ones, (sex - sex.mean()) / sex.std()])
    null = HLM(y, X, X).fit()
    dense = DenseModel(y, X, X, null.alpha, null.beta)
    if "fit" not in case:
        y = (y - X @ null.alpha) / np.exp(X @ null.beta / 2)
        dense = DenseModel(y, ones, ones, np.zeros(1), np.zeros(1))
    if "hlmm" in case:
        random_packed, random_ids = read_bed(here / ("random200.bed" if mouse else "random.bed"))
        assert random_ids.equals(ids)
        calls = unpack(random_packed, layout).T.astype(float)
        G = np.where(calls < 0, np.nan, calls)
        G = np.where(calls < 0, np.nanmean(G, axis=0), G)
        G = (G - G.mean(axis=0)) / G.std(axis=0) / np.sqrt(G.shape[1])
        mixed = HLMM(y, ones, ones, G).fit(h2_min=1e-5)
        dense = DenseModel(
            y, ones, ones, mixed.alpha, mixed.beta, RandomDesign.from_matrix(G), mixed.h2, 1e-5
        )
    return block_model(dense, layout, Filters()), packed, pd.read_csv(here / tables[case], sep="\t")


@pytest.mark.parametrize(
    "case",
    ["mouse hlm", "mouse sex project", "mouse sex fit", "mouse hlmm", "gamma hlm", "gamma hlmm"],
)
def test_reference(reference: Path, case: str) -> None:
    model, packed, expected = reference_case(reference, case)
    results = fit_packed(model, packed[expected["index"]])
    fitted = column(results, "status") == Status.OK
    np.testing.assert_array_equal(fitted, expected["add"].notna())
    assert fitted.sum() > 15
    np.testing.assert_array_equal(column(results, "n_samples"), expected["n"])
    np.testing.assert_allclose(
        column(results, "minor_allele_frequency"), expected["frequency"], rtol=1e-12
    )
    rows, table = results[fitted], expected[fitted]
    for name in ("add", "var"):
        away = (column(rows, name) - table[name]) / table[f"{name}_se"]
        np.testing.assert_allclose(away, 0.0, atol=1e-6)
        np.testing.assert_allclose(column(rows, f"{name}_se"), table[f"{name}_se"], rtol=1e-6)
        np.testing.assert_allclose(
            column(rows, f"{name}_neg_log10_p"), table[f"{name}_pval"], rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(
        column(rows, "av_neg_log10_p"), table["av_pval"], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(column(rows, "loglik"), table["likelihood"], rtol=0, atol=1e-6)
    if "h2" in table:
        np.testing.assert_allclose(column(rows, "h2"), table["h2"], rtol=0, atol=1e-6)
