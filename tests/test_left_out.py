"""Columns of G left out for the variants near them, against the models with the others alone."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from studies import write_values

import hlmm_dask
from hlmm_dask import HLM, HLMM, InputError, fit_null, read_models_table
from hlmm_dask.genotypes.contigs import plain_contig
from hlmm_dask.genotypes.packed import encode
from hlmm_dask.genotypes.plink import write_plink
from hlmm_dask.kernels import left_out as kernel
from hlmm_dask.kernels.block import fit_dosage, fit_packed
from hlmm_dask.kernels.block_model import BlockModel, block_model
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.hlmm import RandomEffectModel
from hlmm_dask.kernels.hlmm_linear import fit_linear
from hlmm_dask.kernels.left_out import LeftOut
from hlmm_dask.kernels.linear_model import LinearModel
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.kernels.table import Filters
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.scanning.left_out import left_out_sets, with_nulls
from hlmm_dask.scanning.null import NullModel
from hlmm_dask.schema import INDEX, Status
from hlmm_dask.store import ResultsStore

# Columns of G, out of order: chromosome, position.
CONTIG = np.array(["2", "1", "chr01", "2", "1", "2", "3"], dtype=object)
POSITION = np.array([5_000, 1_000, 90_000, 50_000, 40_000, 2_000, 7])


def data(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the columns of G (l, n), and a phenotype that they and their spread make."""
    rng = np.random.default_rng(seed)
    counts = rng.binomial(2, rng.uniform(0.2, 0.8, (len(CONTIG), 1)), (len(CONTIG), n))
    y = 0.3 * standardise(counts.T) @ rng.standard_normal(len(CONTIG))
    return counts.astype(np.int8), y + np.exp(0.1 * counts[0]) * rng.standard_normal(n)


def standardise(columns: np.ndarray) -> np.ndarray:
    return (columns - columns.mean(axis=0)) / columns.std(axis=0)


def scaled(counts: np.ndarray) -> np.ndarray:
    return standardise(counts.T.astype(float)) / np.sqrt(len(counts))


def random_design(counts: np.ndarray) -> RandomDesign:
    raw = np.ascontiguousarray(counts.T, dtype=np.float32)
    sd = counts.std(axis=1)
    return RandomDesign(raw, counts.mean(axis=1), 1.0 / (sd * np.sqrt(len(counts))))


def null_of(counts: np.ndarray, y: np.ndarray, covariates: np.ndarray | None = None) -> NullModel:
    n = len(y)
    ones = np.ones((n, 1))
    X = ones if covariates is None else np.column_stack([ones, covariates])
    fit = HLMM(y, X, X, scaled(counts)).fit()
    dense = DenseModel(
        y, X, X, fit.alpha, fit.beta, random_design(counts), fit.h2, 1e-5 * float(np.var(y))
    )
    none = hlmm_dask.scanning.null.Effects((), np.empty(0), np.empty(0))
    return NullModel(
        dense, covariates is not None, n, np.arange(n), "y", none, none, 0.0, fit.h2, fit.h2_se,
        fit.loglik, (), (), "", random_contig=CONTIG, random_position=POSITION,
    )  # fmt: skip


def model_of(null: NullModel, method: str = "exact", *, fix_h2: bool = False) -> BlockModel:
    layout = PackedLayout(null.n_samples, null.sample_index)
    dense = replace(null.model, fix_h2=fix_h2)
    return block_model(dense, layout, Filters(), method=method)  # type: ignore[arg-type]


def variants(contig: np.ndarray, position: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"contig": contig, "position": position})


def kept(contig: str, position: int, window: float | None) -> np.ndarray:
    """Say by definition which columns stay."""
    same = np.array([plain_contig(str(c)) == plain_contig(contig) for c in CONTIG])
    near = np.abs(POSITION - position) <= (np.inf if window is None else 1000 * window)
    return ~(same & near)


def assert_is_the_models(
    row: np.ndarray, y: np.ndarray, X: np.ndarray, code: np.ndarray, G: np.ndarray, tolerance: float
) -> None:
    called = code >= 0
    x = code[called] - code[called].mean()
    design = np.column_stack([X[called], x])
    if G.shape[1]:
        other = HLMM(y[called], design, design, G[called]).fit(h2_min=1e-5 * float(np.var(y)))
        assert row[INDEX["h2"]] == pytest.approx(other.h2, rel=max(1e-6, 10 * tolerance))
    else:
        other = HLM(y[called], design, design).fit()
        assert np.isnan(row[INDEX["h2"]])
    assert row[INDEX["status"]] == Status.OK
    assert row[INDEX["add"]] == pytest.approx(other.alpha[-1], abs=tolerance * other.alpha_se[-1])
    assert row[INDEX["var"]] == pytest.approx(other.beta[-1], abs=tolerance * other.beta_se[-1])
    assert row[INDEX["add_se"]] == pytest.approx(other.alpha_se[-1], rel=max(1e-6, tolerance))
    assert row[INDEX["var_se"]] == pytest.approx(other.beta_se[-1], rel=max(1e-6, tolerance))


@pytest.mark.parametrize("window", [None, 0.0, 4.0, 50.0])
@pytest.mark.parametrize("dosages", [False, True])
def test_columns_of_g_are_tested_without_themselves(window: float | None, dosages: bool) -> None:
    """Chromosomes within one block, missing calls, a variant far from all columns."""
    counts, y = data(220)
    null = null_of(counts, y)
    rng = np.random.default_rng(4)
    codes = np.concatenate([counts, rng.binomial(2, 0.4, (1, 220)).astype(np.int8)])
    codes[:2, :4] = -1
    contig, position = np.append(CONTIG, "X"), np.append(POSITION, 1_000)
    left_out = left_out_sets([variants(contig, position)], null, window)
    model = replace(model_of(null), left_out=left_out)
    first = 3
    moved = replace(left_out, starts=left_out.starts + first)
    if dosages:
        values = np.where(codes < 0, np.nan, codes)
        results = fit_dosage(replace(model, left_out=moved), values, first=first)
    else:
        results = fit_packed(replace(model, left_out=moved), encode(codes), first=first)
    for row, code, c, p in zip(results, codes, contig, position, strict=True):
        G = scaled(counts[kept(c, p, window)])
        assert_is_the_models(row, y, np.ones((220, 1)), code, G, 1e-7)


def test_nothing_left_is_an_hlm() -> None:
    counts, y = data(200)
    null = replace(null_of(counts, y), random_contig=np.full(len(CONTIG), "1", dtype=object))
    left_out = left_out_sets([variants(np.array(["1", "1"]), np.array([1, 2]))], null)
    assert left_out.n_left.tolist() == [0]
    for nulls in (False, True):
        model = replace(model_of(null), left_out=left_out)
        model = with_nulls(model) if nulls else model
        results = fit_packed(model, encode(counts[:2]))
        for row, code in zip(results, counts, strict=False):
            assert_is_the_models(row, y, np.ones((200, 1)), code, np.empty((200, 0)), 1e-7)
        assert np.isfinite(results[:, INDEX["add_robust_se"]]).all()


@pytest.mark.parametrize("window", [None, 20.0])
@pytest.mark.parametrize("method", ["linear", "auto"])
def test_linear(window: float | None, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hlmm_dask.kernels.hlmm_choice.COSTLY_GRAM", 0.0)
    rng = np.random.default_rng(7)
    n, n_random = 3000, 40
    counts = rng.binomial(2, rng.uniform(0.2, 0.8, (n_random, 1)), (n_random, n)).astype(np.int8)
    tested = np.array([3, 19, 20, 33])
    effects = 0.6 * rng.standard_normal(n_random)
    effects[tested] /= 3.0
    y = scaled(counts) @ effects + rng.standard_normal(n)
    contig = np.repeat(np.array(["1", "2"], dtype=object), n_random // 2)
    position = np.tile(np.arange(n_random // 2) * 10_000, 2)
    null = replace(null_of(counts, y), random_contig=contig, random_position=position)
    left_out = left_out_sets([variants(contig[tested], position[tested])], null, window)
    model = replace(model_of(null, method), left_out=left_out)
    assert model.linear is not None
    assert (model.random_effects is None) == (method == "linear")
    codes = counts[tested].copy()
    codes[1, :30] = -1
    results = fit_packed(model, encode(codes))
    for row, code, j, s in zip(results, codes, tested, left_out.sets_of(np.arange(4)), strict=True):
        near = np.abs(position - position[j]) <= (np.inf if window is None else 1000 * window)
        G = scaled(counts[~((contig == contig[j]) & near)])
        assert_is_the_models(row, y, np.ones((n, 1)), code, G, 1e-3)
        base = model.of_set(int(s)).with_gram
        assert base is not None
        assert base.n_random == G.shape[1]
        alone = RandomEffectModel.build(
            y, RandomDesign.from_matrix(G), alpha=base.alpha + y.mean(), beta=base.beta,
            h2=base.h2, h2_min=base.h2_min,
        )  # fmt: skip
        if method == "auto":
            continue
        linear = LinearModel.build(alone)
        first = fit_linear(linear, code[None])
        fit = fit_linear(linear, code[None], polish=first.change).fit
        assert row[INDEX["add"]] == pytest.approx(fit.add[0], abs=1e-3 * fit.add_se[0])
        assert row[INDEX["var"]] == pytest.approx(fit.var[0], abs=1e-3 * fit.var_se[0])


@pytest.mark.parametrize("n_removed", [1, 8, 30])
@pytest.mark.parametrize("factor", [1.0, 1.25, 4.0])
def test_short_way_to_a_linear_model(n_removed: int, factor: float) -> None:
    """Few columns left out, many, a null model near and far; also from a part of the columns."""
    rng = np.random.default_rng(3)
    counts = rng.binomial(2, 0.4, (60, 900)).astype(np.int8)
    y = scaled(counts) @ rng.standard_normal(60) + rng.standard_normal(900)
    whole = RandomEffectModel.build(
        y, random_design(counts), alpha=0.1, beta=0.0, h2=0.5, h2_min=1e-5
    )
    for start in (whole, whole.only(np.arange(3, 60))):
        columns = np.sort(rng.permutation(start.n_random)[n_removed:])
        base = replace(start.only(columns), alpha=0.2, beta=0.1, h2=factor * 0.5)
        short, full = LinearModel.build(start).only(base, columns), LinearModel.build(base)
        np.testing.assert_allclose(short.leverage, full.leverage, rtol=5e-3)
        for name in ("residual", "blup", "rotation", "eigenvalues", "Ge", "G1"):
            np.testing.assert_allclose(
                getattr(short, name), getattr(full, name), rtol=1e-9, atol=1e-10, err_msg=name
            )


def test_h2_kept_is_the_sets_own() -> None:
    counts, y = data(220)
    null = null_of(counts, y)
    left_out = left_out_sets([variants(CONTIG, POSITION)], null)
    results = fit_packed(replace(model_of(null, fix_h2=True), left_out=left_out), encode(counts))
    for row, c in zip(results, CONTIG, strict=True):
        one = HLMM(y, np.ones(220), np.ones(220), scaled(counts[kept(c, 0, None)]))
        h2 = one.fit(h2_min=1e-5 * float(np.var(y))).h2
        assert row[INDEX["h2"]] == pytest.approx(h2, rel=1e-6)


def test_covariates_kept() -> None:
    counts, y = data(220)
    covariates = np.random.default_rng(1).standard_normal((220, 1))
    null = null_of(counts, y, covariates)
    left_out = left_out_sets([variants(CONTIG, POSITION)], null)
    model = with_nulls(replace(model_of(null), left_out=left_out))
    results = fit_packed(model, encode(counts))
    for row, code, c in zip(results, counts, CONTIG, strict=True):
        G = scaled(counts[kept(c, 0, None)])
        assert_is_the_models(row, y, null.model.X, code, G, 1e-7)


def test_raw_values_are_shared_and_few_models_are_kept() -> None:
    counts, y = data(200)
    null = null_of(counts, y)
    left_out = left_out_sets([variants(CONTIG, POSITION)], null, 0.0)
    model = replace(model_of(null), left_out=left_out)
    assert left_out.n_sets == len(CONTIG)
    parts = [model.of_set(i) for i in range(left_out.n_sets)]
    for part in parts:
        assert part.dense.design is not None
        assert part.random_effects is not None
        assert part.dense.design.raw is model.dense.design.raw  # type: ignore[union-attr]
        assert part.random_effects.design.raw is part.dense.design.raw
    assert model.of_set(left_out.n_sets - 1) is parts[-1]
    assert model.of_set(0) is not parts[0]
    assert len(model._sets._kept) == kernel._ALIVE
    again = pickle.loads(pickle.dumps(model))
    assert not again._sets._kept
    np.testing.assert_array_equal(
        fit_packed(again, encode(counts)), fit_packed(model, encode(counts))
    )


@pytest.mark.parametrize("window", [None, 0.0, 3.0, 60.0])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_sets_are_the_definition(window: float | None, size: int) -> None:
    counts, y = data(50)
    null = null_of(counts, y)
    rng = np.random.default_rng(2)
    contig = rng.choice(np.array(["1", "chr2", "02", "Chr3", "X"], dtype=object), 80)
    contig[:40] = np.sort(contig[:40].astype(str))
    position = rng.integers(0, 100_000, 80)
    table = variants(contig, position)
    pieces = [table.iloc[i : i + size] for i in range(0, 80, size)]
    left_out = left_out_sets(pieces, null, window)
    sets = left_out.sets_of(np.arange(80))
    for s, c, p in zip(sets, contig, position, strict=True):
        np.testing.assert_array_equal(left_out.columns(s), np.flatnonzero(kept(c, p, window)))
    one: LeftOut = left_out_sets([table], null, window)
    np.testing.assert_array_equal(one.starts, left_out.starts)
    assert (np.diff(left_out.starts) > 0).all()
    assert (np.diff(left_out.sets) != 0).all()
    untouched = sum(kept(c, p, window).all() for c, p in zip(contig, position, strict=True))
    assert left_out.n_untouched(80) == untouched


def test_names_of_chromosomes() -> None:
    same = ["1", "01", "chr1", "CHR01", "Chr1"]
    assert {plain_contig(name) for name in same} == {"1"}
    for name, plain in [("0", "0"), ("00", "0"), ("X", "X"), ("chrX", "X"), ("chr", "chr"),
                        ("10", "10"), ("23", "23")]:  # fmt: skip
        assert plain_contig(name) == plain


# -- the whole command ------------------------------------------------------------------------

Run = Callable[..., int]


def sample_ids(pheno: Path) -> pd.DataFrame:
    return pd.read_csv(pheno, sep="\t", header=None, dtype={0: str, 1: str}).iloc[:, :2]


def two_chromosomes(folder: Path) -> tuple[Path, Path, np.ndarray, np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(11)
    m, n = 24, 260
    counts = rng.binomial(2, rng.uniform(0.2, 0.8, (m, 1)), (m, n)).astype(np.int8)
    y = 0.8 * scaled(counts) @ rng.standard_normal(m) + rng.standard_normal(n)
    samples = pd.DataFrame({"fid": [f"f{i}" for i in range(n)], "iid": [f"i{i}" for i in range(n)]})
    table = pd.DataFrame(
        {
            "contig": ["1"] * 14 + ["2"] * 10,
            "variant_id": [f"rs{j}" for j in range(m)],
            "position": np.append(np.arange(14), np.arange(10)) * 1000 + 1,
            "allele1": ["A"] * m,
            "allele2": ["G"] * m,
        }
    )
    bed = write_plink(folder / "all.bed", counts, samples, table)
    pheno = write_values(folder / "pheno.txt", samples, y)
    return bed, pheno, counts, y, table


@pytest.mark.parametrize(
    "options", [["--loco"], ["--exclude-window", "2"], ["--loco", "--fit_covariates"]]
)
def test_command(tmp_path: Path, run_script: Run, options: list[str]) -> None:
    bed, pheno, counts, y, table = two_chromosomes(tmp_path)
    n = len(y)
    X = np.ones((n, 1))
    extra: list[object] = []
    if "--fit_covariates" in options:
        samples = sample_ids(pheno)
        covariate = np.random.default_rng(3).standard_normal((n, 1))
        covar = write_values(tmp_path / "covar.txt", samples, covariate)
        extra = ["--mean_covar", covar, "--var_covar", covar]
        X = np.column_stack([X, standardise(covariate)])
    else:
        y = (y - y.mean()) / y.std()
    out = tmp_path / "out"
    # The block of variants 12 to 17 is on both chromosomes; a range starts within a chromosome.
    arguments = [bed, pheno, out, "--random_gts", bed, "--range", 2, 22, "--block-size", 5]
    assert run_script("scan", *arguments, *options, *extra) == 0
    results = read_models_table(Path(f"{out}.models.gz"))
    for j, row in zip(range(2, 22), results.itertuples(), strict=True):
        same = (table.contig == table.contig[j]).to_numpy()
        if "--loco" not in options:
            same = same & (np.abs(table.position - table.position[j]) <= 2000).to_numpy()
        design = np.column_stack([X, counts[j] - counts[j].mean()])
        other = HLMM(y, design, design, scaled(counts[~same])).fit()
        assert f"rs{j}" == row.SNP
        assert row.add == pytest.approx(other.alpha[-1], abs=1e-6 * other.alpha_se[-1])
        assert row.var == pytest.approx(other.beta[-1], abs=1e-6 * other.beta_se[-1])
        assert row.h2 == pytest.approx(other.h2, rel=1e-5)
    assert Path(f"{out}.null_h2.txt").exists()
    loco = Path(f"{out}.null_h2_loco.tsv")
    assert loco.exists() == ("--loco" in options)
    if "--loco" in options:
        found = pd.read_csv(loco, sep="\t", dtype={"left_out": str})
        assert list(found.left_out) == ["1", "2"]
        assert list(found["columns"]) == [10, 14]
        for name, h2, h2_se in zip(found.left_out, found.h2, found.h2_se, strict=True):
            one = HLMM(y, X, X, scaled(counts[(table.contig != name).to_numpy()])).fit()
            assert h2 == pytest.approx(one.h2, rel=1e-5)
            assert h2_se == pytest.approx(one.h2_se, rel=1e-4)
    # Of an interrupted run some blocks are there.
    for index in (1, 3):
        ResultsStore.open(f"{out}.zarr").discard(index)
    before = [path.read_bytes() for path in (loco,) if path.exists()]
    loco.unlink(missing_ok=True)
    assert run_script("scan", *arguments, *options, *extra, "--resume") == 0
    pd.testing.assert_frame_equal(read_models_table(Path(f"{out}.models.gz")), results)
    assert [path.read_bytes() for path in (loco,) if path.exists()] == before
    assert run_script("scan", *arguments, *extra, "--resume") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loco"], "--loco requires --random-gts"),
        (["--exclude-window", "5"], "--exclude-window requires --random-gts"),
        (["--loco", "--random_gts", "G", "--random_gts_txt"], "give them as a .bed"),
        (["--loco", "--random_gts", "G", "--exclude_window", "5"], "exclude each other"),
        (["--exclude-window", "-1", "--random_gts", "G"], "kilobases, 0 or more"),
        (["--exclude-window", "nan", "--random_gts", "G"], "kilobases, 0 or more"),
        (
            ["--exclude-window", "5", "--random_gts", "G", "--fit_covariates", "--mean_covar", "C"],
            "give --loco, or leave out",
        ),
    ],
)
def test_refused(
    tmp_path: Path,
    run_script: Run,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    before = sorted(tmp_path.iterdir())
    assert run_script("scan", "a.bed", "p.txt", tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_refused_from_python(tmp_path: Path, client: Client) -> None:
    bed, pheno, _, y, _ = two_chromosomes(tmp_path)
    samples = sample_ids(pheno)
    with pytest.raises(InputError, match="--loco requires --random-gts"):
        hlmm_dask.scan(bed, fit_null(bed, pheno), client=client, loco=True)
    covar = write_values(
        tmp_path / "covar.txt", samples, np.random.default_rng(0).standard_normal((len(y), 1))
    )
    null = fit_null(bed, pheno, random_genotypes=bed, mean_covariates=covar, fit_covariates=True)
    with pytest.raises(InputError, match="give --loco"):
        hlmm_dask.scan(bed, null, client=client, exclude_window=3.0)
