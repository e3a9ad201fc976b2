"""The homoskedastic mixed model through the command that a user types."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from pedigrees import draw, families
from runs import markers, start, wait_for_blocks, wait_for_end
from scipy import stats
from studies import Study, make_study, write_values

import hlmm_dask
from hlmm_dask import read_models_table
from hlmm_dask.genotypes.plink import write_plink
from hlmm_dask.models.lmm import LinearMixedModel
from hlmm_dask.relationship.files import write_kinship
from hlmm_dask.relationship.kinship import Kinship
from hlmm_dask.scanning import relationships
from hlmm_dask.schema import LMM_HEADERS, Status

Run = Callable[..., int]


@pytest.fixture
def related(tmp_path: Path) -> Study:
    """A study whose samples are related, on two chromosomes."""
    return make_study(tmp_path, n=150, m=90, seed=3, contigs=("1", "2"))


@pytest.fixture
def kinship(related: Study) -> Path:
    """Relationships from the study's own variants."""
    matrix = hlmm_dask.relationship_matrix(related.bed, kind="centred")
    return write_kinship(matrix, related.out("K"))


def table(study: Study, name: str = "out") -> pd.DataFrame:
    return read_models_table(study.out(f"{name}.models.gz"))


def imputed(counts: np.ndarray) -> np.ndarray:
    """Copies of allele 1 with missing calls at the mean."""
    g = np.where(counts < 0, np.nan, counts.astype(float))
    return np.where(np.isnan(g), np.nanmean(g), g)


def centred(path: Path) -> np.ndarray:
    K = hlmm_dask.read_kinship(path).matrix
    H = np.eye(len(K)) - 1.0 / len(K)
    return H @ K @ H


def model_of(study: Study, K: np.ndarray, *columns: np.ndarray) -> LinearMixedModel:
    covariates = study.covariates - study.covariates.mean(axis=0)
    X = np.column_stack([np.ones(len(study.y)), covariates, *columns])
    return LinearMixedModel.from_kinship(study.y, X, K)[0]


@pytest.mark.parametrize("test", ["refit", "fixed"])
def test_table_is_that_of_the_model(
    related: Study, kinship: Path, run_script: Run, test: str
) -> None:
    """Also: testing alternatives with γ kept, variant by variant and distributed, are the same."""
    assert run_script(
        "scan", related.bed, related.pheno, related.out("out"), "--model", "lmm", "--kinship",
        kinship, "--lmm-test", test, "--mean_covar", related.covar, "--block-size", 20,
    ) == 0  # fmt: skip
    found = table(related)
    assert tuple(found.columns) == LMM_HEADERS
    labels = {status.label for status in Status}
    assert set(found.status) <= labels
    assert {"all_missing", "missing", "monomorphic", "all_heterozygous", "low_maf"} <= set(
        found.status
    )
    K = centred(kinship)
    n, c, bounds = len(related.y), 3, (np.log(1e-5), np.log(1e5))
    null_model = model_of(related, K)
    null = null_model.fit(bounds=bounds)
    P = LinearMixedModel.from_kinship(related.y, np.ones((n, 1)), K)[1]
    diagonal = np.mean(np.diag(K))
    tested = np.flatnonzero(found.status == "ok")
    assert len(tested) > 60
    for j in tested[::7]:
        row, g = found.iloc[j], imputed(related.counts[j])
        assert row.n == (related.counts[j] >= 0).sum()
        if test == "fixed":
            other = null_model.fit_alternatives(null.log_gamma, (P @ g)[:, None])
            beta, gamma = other.beta[0], null.gamma
            p = -np.log10(other.p_value[0])
            assert row.add_lrt_pval == pytest.approx(p, rel=1e-7)
            at = model_of(related, K, g).fit(log_gamma=null.log_gamma)
        else:
            at = model_of(related, K, g).fit(bounds=bounds)
            beta, gamma = at.beta[-1], at.gamma
        se = np.sqrt(at.beta_cov[-1, -1])
        assert row["add"] == pytest.approx(beta, abs=1e-6 * se)
        assert row.add_se == pytest.approx(se, rel=1e-6)
        assert row.add_pval == pytest.approx(
            -np.log10(2.0 * stats.t.sf(abs(beta / se), n - c - 1)), rel=1e-5
        )
        assert row.h2 == pytest.approx(gamma * diagonal / (gamma * diagonal + 1.0), abs=1e-5)
    h2, se = map(float, related.out("out.null_h2.txt").read_text().split())
    rows = pd.read_csv(related.out("out.null_lmm.tsv"), sep="\t")
    assert rows.sigma2[0] == pytest.approx(null.sigma_sq, rel=1e-6)
    assert rows.tau2[0] == pytest.approx(null.tau_sq, rel=1e-6)
    assert (
        rows.h2[0]
        == h2
        == pytest.approx(
            null.sigma_sq * diagonal / (null.sigma_sq * diagonal + null.tau_sq), rel=1e-6
        )
    )
    assert rows.h2_se[0] == se > 0
    lines = related.out("out.null_mean_effects.txt").read_text().splitlines()
    effects = [line.split() for line in lines]
    np.testing.assert_allclose([float(e[1]) for e in effects], null.beta, rtol=1e-6)
    # No array that a finished run has no use for.
    assert not list(related.out("out.zarr").rglob("*.npy"))


def test_each_chromosome_without_its_own_variants(related: Study, run_script: Run) -> None:
    """From one pass over the genotypes, as from the matrices of hlmm-kinship --loco."""
    lmm = [related.bed, related.pheno, "--model", "lmm"]
    assert run_script("kinship", related.bed, related.out("K"), "--loco") == 0
    assert run_script(
        "scan", *lmm[:2], related.out("loco"), *lmm[2:], "--grm-from", related.bed, "--loco",
        "--block-size", 7,
    ) == 0  # fmt: skip
    found = table(related, "loco")
    for name in ("1", "2"):
        matrix = related.out(f"K.loco_{name}.npz")
        out = related.out(f"without{name}")
        assert run_script("scan", *lmm[:2], out, *lmm[2:], "--kinship", matrix) == 0
        here = (found.chrom == name).to_numpy()
        expected = table(related, f"without{name}")
        pd.testing.assert_frame_equal(found[here], expected[here], rtol=1e-6, atol=1e-9)
    rows = pd.read_csv(related.out("loco.null_lmm.tsv"), sep="\t", dtype={"left_out": str})
    assert list(rows.left_out) == ["none", "1", "2"]
    whole = pd.read_csv(related.out("without2.null_lmm.tsv"), sep="\t")
    np.testing.assert_allclose(rows.h2[2], whole.h2[0], rtol=1e-6)


def test_chromosome_without_a_variant_of_the_matrix(related: Study, run_script: Run) -> None:
    """Nothing is left out for it."""
    part = related.out("part.bed")
    # One 'X' between those of '1': the file need not be sorted.
    table_of = related.variants[:40].copy()
    table_of.loc[20, "contig"] = "X"
    write_plink(part, related.counts[:40], related.samples, table_of)
    only = related.out("only.bed")
    of_1 = table_of[table_of.contig == "1"]
    of_2 = of_1.assign(contig=["1"] * 19 + ["2"] * 20)
    write_plink(only, related.counts[of_1.index], related.samples, of_2)
    for name, options in {"loco": ["--loco"], "whole": []}.items():
        assert run_script(
            "scan", part, related.pheno, related.out(name), "--model", "lmm", "--grm-from", only,
            *options, "--min_maf", 0.01,
        ) == 0  # fmt: skip
    found, whole = table(related, "loco"), table(related, "whole")
    pd.testing.assert_frame_equal(found[20:21], whole[20:21], rtol=1e-9)
    fitted = (found.status == "ok").to_numpy()
    other = np.arange(40) != 20
    assert (found["add"] != whole["add"])[fitted & other].all()
    assert (
        "1 variants are on chromosomes without a variant of" in related.out("loco.log").read_text()
    )


def test_phenotypes_with_their_own_samples(
    related: Study, kinship: Path, run_script: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several at once are what each is alone; those of the same samples share a decomposition."""
    rng = np.random.default_rng(8)
    values = np.column_stack([related.y, rng.standard_normal(150), rng.standard_normal(150)])
    values[rng.random(150) < 0.1, 1] = np.nan
    values[np.isnan(values[:, 1]), 2] = np.nan
    write_values(related.pheno, related.samples, values)
    made: list[int] = []
    whole = relationships.rotation_of_kinship

    def counted(K: np.ndarray, **options: float) -> object:
        made.append(len(K))
        return whole(K, **options)

    monkeypatch.setattr(relationships, "rotation_of_kinship", counted)
    arguments = [related.bed, related.pheno]
    options = ["--model", "lmm", "--kinship", kinship, "--lmm-test", "fixed"]
    assert run_script("scan", *arguments, related.out("all"), *options, "--phen_index", "all") == 0
    assert made == [150, int(np.isfinite(values[:, 1]).sum())]
    for k in (1, 2, 3):
        out = related.out(f"solo{k}")
        assert run_script("scan", *arguments, out, *options, "--phen_index", k) == 0
        pd.testing.assert_frame_equal(
            table(related, f"all.{k}"), table(related, f"solo{k}"), rtol=1e-12, atol=1e-12
        )


def test_killed_and_resumed(
    tmp_path: Path, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(tmp_path, n=300, m=600, seed=1, contigs=("1", "2"))
    arguments = [study.bed, study.pheno]
    options = ["--model", "lmm", "--grm-from", study.bed, "--loco", "--block-size", "4"]
    assert run_script("scan", *arguments, study.out("whole"), *options) == 0
    process = start(tmp_path, *arguments, study.out("killed"), *options)
    store = study.out("killed.zarr")
    wait_for_blocks(process, store, 12)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for_end(process.pid)
    before = markers(store)
    assert 12 <= len(before) < 150
    killed = [*arguments, study.out("killed"), "--resume"]
    # Another matrix, or another test, is another run.
    other = [*options, "--grm-kind", "centred", "--lmm-test", "fixed"]
    assert run_script("scan", *killed, *other) == 2
    err = capsys.readouterr().err
    assert "kinship_kind: store" in err
    assert "h2: store" in err
    assert markers(store) == before
    assert run_script("scan", *killed, *options) == 0
    after = markers(store)
    assert {name: after[name] for name in before} == before
    pd.testing.assert_frame_equal(
        table(study, "killed"), table(study, "whole"), rtol=1e-9, atol=1e-9
    )
    # Nothing of the run is left but its results.
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_from_python(related: Study, kinship: Path, run_script: Run, client: Client) -> None:
    """Hard calls, and the same as dosages of a Dataset."""
    assert run_script(
        "scan", related.bed, related.pheno, related.out("out"), "--model", "lmm", "--kinship",
        kinship, "--count_A2",
    ) == 0  # fmt: skip
    expected = table(related)
    null = hlmm_dask.fit_lmm_null(related.bed, related.pheno, kinship=kinship)
    found = hlmm_dask.scan(related.bed, null, client=client, count_a2=True)
    np.testing.assert_allclose(found["add"], expected["add"], rtol=1e-9)
    np.testing.assert_allclose(found["add_lrt_neg_log10_p"], expected.add_lrt_pval, rtol=1e-7)
    assert found["h2"].attrs["units"] == "1"
    dataset = hlmm_dask.open_bed(related.bed)
    dosage = dataset["call_dosage"].astype(np.float64).compute()
    # Neither calls nor far from them.
    dataset["call_dosage"] = np.clip(dosage, 1e-9, 2.0 - 1e-9)
    null = hlmm_dask.fit_lmm_null(dataset, related.pheno, kinship=hlmm_dask.read_kinship(kinship))
    near = hlmm_dask.scan(dataset, null, client=client, count_a2=True)
    ok = (expected.status == "ok").to_numpy()
    np.testing.assert_allclose(near["add"][ok], expected["add"][ok], rtol=1e-5)
    np.testing.assert_allclose(near["n_samples"], expected.n)


def test_covariates_that_explain_a_variant(related: Study, kinship: Path, run_script: Run) -> None:
    complete = next(j for j in range(9, 90) if (related.counts[j] >= 0).all())
    write_values(related.covar, related.samples, 3.0 - related.counts[complete][:, None])
    assert run_script(
        "scan", related.bed, related.pheno, related.out("out"), "--model", "lmm", "--kinship",
        kinship, "--mean_covar", related.covar,
    ) == 0  # fmt: skip
    row = table(related).iloc[complete]
    assert row.status == "collinear"
    assert np.isnan(row["add"])


def test_report_without_effects_on_the_variance(
    related: Study, kinship: Path, run_script: Run
) -> None:
    pytest.importorskip("matplotlib")
    from hlmm_dask.view.feed import Feed

    out = related.out("out")
    assert run_script(
        "scan", related.bed, related.pheno, out, "--model", "lmm", "--kinship", kinship,
        "--report", "--plots", "--parquet", "--format", "ssf,ldsc,regenie",
    ) == 0  # fmt: skip
    page = related.out("out.report.html").read_text()
    assert "effects on the mean<" in page
    assert "heritability" in page
    assert "variance effect" not in page
    names = {path.stem for path in related.out("out.plots").glob("*.png")}
    assert {"manhattan_mean", "qq_mean"} <= names
    assert not names & {"miami", "effects", "manhattan_variance"}
    assert "add_lrt_pval" in pd.read_parquet(related.out("out.parquet"))
    feed = Feed(related.out("out.zarr"))
    while not feed.complete:
        feed._next = 0.0
        feed.poll()
    assert set(feed.since(0)["qq"]) == {"mean"}
    with pytest.raises(hlmm_dask.InputError, match="variance"):
        hlmm_dask.plot.effects(related.out("out.zarr"))


def test_dry_run(related: Study, run_script: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(related.folder.iterdir())
    assert run_script(
        "scan", related.bed, related.pheno, related.out("out"), "--model", "lmm", "--grm-from",
        related.bed, "--loco", "--dry-run", own_cluster=True,
    ) == 0  # fmt: skip
    assert "LMM, variance ratio found anew" in capsys.readouterr().out
    assert set(related.folder.iterdir()) == before


WRONG = {
    "no matrix": ([], "--model lmm requires --kinship or --grm-from"),
    "two": (["--kinship", "K.npz", "--grm-from", "study.bed"], "has one relationship matrix"),
    "loco": (["--kinship", "K.npz", "--loco"], "--loco requires --random-gts or --grm-from"),
    "variance": (["--kinship", "K.npz", "--var_covar", "covar.txt"], "--var-covar and --model lmm"),
    "random": (["--kinship", "K.npz", "--random_gts", "study.bed"], "--random-gts and --model lmm"),
    "window": (["--kinship", "K.npz", "--exclude-window", "5"], "--exclude-window and --model lmm"),
    "kind": (["--kinship", "K.npz", "--grm-kind", "centred"], "requires --grm-from"),
    "hlmm": (["--model", "hlmm", "--kinship", "K.npz"], "--kinship requires --model lmm"),
    "absent": (["--kinship", "none.npz"], "none.npz"),
    "others": (["--kinship", "few.npz"], "50 of 150 samples with phenotype '1' are not in it"),
    "crooked": (["--kinship", "crooked.txt"], "a relationship matrix is symmetric"),
    "infinite": (["--kinship", "infinite.npz"], "expected finite numbers"),
    "negative": (["--kinship", "negative.npz"], "not positive semidefinite"),
    "constant": (["--kinship", "constant.npz"], "no relationships vary"),
    "chromosome": (["--grm-from", "one.bed", "--loco"], "are on chromosome 1; with --loco"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_refused(
    name: str, related: Study, run_script: Run, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(related.folder)
    ids = list(zip(related.samples.fid, related.samples.iid, strict=True))
    K = np.eye(150)
    write_kinship(Kinship(ids, K), "K")
    write_kinship(Kinship(ids[:100], K[:100, :100]), "few")
    K[0, 1] = K[1, 0] = 3.0
    write_kinship(Kinship(ids, K), "negative")
    write_kinship(Kinship(ids, np.ones((150, 150))), "constant")
    K[3, 7] = 0.5
    write_kinship(Kinship(ids, K), "crooked", "text")
    K[3, 7] = K[7, 3] = np.inf
    write_kinship(Kinship(ids, K), "infinite")
    write_plink(Path("one.bed"), related.counts[9:40], related.samples, related.variants[9:40])
    before = set(related.folder.iterdir())
    options, expected = WRONG[name]
    model = [] if "--model" in options else ["--model", "lmm"]
    assert run_script("scan", related.bed, related.pheno, "out", *model, *options) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("hlmm-scan: error: ")
    assert set(related.folder.iterdir()) == before


@pytest.mark.slow
def test_mouse_gwas(reference: Path, tmp_path: Path, run_script: Run) -> None:
    """Matrix and tests by the two commands: the exact optimum, and GEMMA to its printed digits."""
    mouse = reference / "mouse"
    assert run_script(
        "kinship", mouse / "mouse.bed", tmp_path / "K", "--kind", "centred", "--min-maf", 0,
        "--extract", mouse / "kinship_snps.txt", "--format", "text",
    ) == 0  # fmt: skip
    assert run_script(
        "scan", mouse / "mouse.bed", mouse / "pheno1.txt", tmp_path / "out", "--model", "lmm",
        "--kinship", tmp_path / "K.txt", "--min_maf", 0.01,
    ) == 0  # fmt: skip
    found = read_models_table(tmp_path / "out.models.gz")
    exact = pd.read_csv(mouse / "lmm_pheno1.tsv.gz", sep="\t")
    found = found[found.status == "ok"]
    assert list(found.SNP) == list(exact.SNP)
    assert np.max(np.abs(found["add"].to_numpy() - exact.beta) / exact.se) < 1e-7
    for name, expected, tolerance in (
        ("add_se", exact.se, 1e-7),
        ("likelihood", exact.loglik_ml, 1e-10),
        ("h2", exact.lambda_reml * (d := 0.3596171023776462) / (exact.lambda_reml * d + 1.0), 1e-6),
    ):
        np.testing.assert_allclose(found[name], expected, rtol=tolerance)
    p = {"wald": 10.0**-found.add_pval, "lrt": 10.0**-found.add_lrt_pval}
    np.testing.assert_allclose(p["wald"], exact.p_wald, rtol=1e-6)
    np.testing.assert_allclose(p["lrt"], exact.p_lrt, rtol=1e-6)
    gemma = pd.read_csv(mouse / "gemma_pheno1.assoc.txt.gz", sep="\t")
    np.testing.assert_allclose(p["wald"], gemma.p_wald, rtol=1e-4)
    np.testing.assert_allclose(p["lrt"], gemma.p_lrt, rtol=2e-6)
    null = json.loads((mouse / "lmm_pheno1.null.json").read_text())
    (row,) = pd.read_csv(tmp_path / "out.null_lmm.tsv", sep="\t").to_dict("records")
    for name, key in (
        ("h2", "pve"), ("h2_se", "pve_se"), ("sigma2", "vg"), ("tau2", "ve"),
        ("loglik_reml", "reml_loglik"), ("loglik_ml", "ml_loglik"),
    ):  # fmt: skip
        assert row[name] == pytest.approx(null[key], rel=1e-6), name


@pytest.mark.slow
def test_p_values_of_related_individuals_are_uniform(tmp_path: Path, run_script: Run) -> None:
    """10^4 unlinked variants handed down through families, none with an effect."""
    rng = np.random.default_rng(21)
    pedigree = families(40, seed=5, shuffle=False, sibs=3)
    n, m = pedigree.n_people, 10_000
    frequency = rng.uniform(0.1, 0.5, m)
    counts = np.empty((m, n), dtype=np.int8)
    for i in range(n):  # parents come before their children
        counts[:, i] = 0
        for parent in (pedigree.father[i], pedigree.mother[i]):
            share = frequency if parent < 0 else counts[:, parent] / 2.0
            counts[:, i] += rng.random(m) < share
    samples = pd.DataFrame({"fid": ["f"] * n, "iid": [f"i{i}" for i in range(n)]})
    variants = pd.DataFrame(
        {
            "contig": np.repeat([str(c) for c in range(1, 6)], m // 5),
            "variant_id": [f"v{j}" for j in range(m)], "position": np.arange(m) + 1,
            "allele1": "A", "allele2": "G",
        }
    )  # fmt: skip
    bed = write_plink(tmp_path / "families.bed", counts, samples, variants)
    y = draw(rng, pedigree, [0.7, 0.0, 0.3])
    phenotype = write_values(tmp_path / "y.txt", samples, y)
    out = tmp_path / "out"
    assert run_script(
        "scan", bed, phenotype, out, "--model", "lmm", "--grm-from", bed, "--loco",
        "--min_maf", 0.02,
    ) == 0  # fmt: skip
    found = read_models_table(tmp_path / "out.models.gz")
    found = found[found.status == "ok"]
    assert len(found) > 9_900
    for column in ("add_pval", "add_lrt_pval"):
        assert stats.kstest(10.0 ** -found[column], "uniform").pvalue > 0.01, column
    # A regression that takes them for unrelated is not.
    g = counts - counts.mean(axis=1, keepdims=True)
    r = g @ (y - y.mean()) / np.sqrt((g**2).sum(axis=1) * ((y - y.mean()) ** 2).sum())
    naive = stats.chi2.sf(n * r[np.isfinite(r)] ** 2, 1)
    assert stats.kstest(naive, "uniform").pvalue < 1e-6
