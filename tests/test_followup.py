"""hlmm-check and hlmm-interact on finished scans, as commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import make_study, write_values

from hlmm_dask.cli import loci_main, scan_main
from hlmm_dask.cli_followup import check_main, interact_main
from hlmm_dask.followup import chosen, interact
from hlmm_dask.genotypes.plink import write_plink
from hlmm_dask.models.hlm import HLM
from hlmm_dask.results import open_results
from hlmm_dask.scanning.job import ScanJob
from hlmm_dask.scanning.outputs import remove_old
from hlmm_dask.transforms import rank_normal


@pytest.fixture(scope="module")
def scans(tmp_path_factory, client):
    """A study with scans of it: plain, with covariates, with random effects; one counts A2."""
    study = make_study(tmp_path_factory.mktemp("follow up"))
    names = study.samples.copy()
    write_values(study.folder / "named.txt", names, study.covariates)
    text = (study.folder / "named.txt").read_text()
    (study.folder / "named.txt").write_text(f"FID\tIID\tsex\tage\n{text}")
    covariates = ["--mean_covar", study.folder / "named.txt", "--var_covar",
                  study.folder / "named.txt", "--var_covar_cols", "sex"]  # fmt: skip
    for name, options in {
        "plain": ["--count_A2"],
        "covariates": covariates,
        "kept": [*covariates, "--fit_covariates"],
        "ranks": ["--transform", "rint"],
        "random": ["--random_gts", study.bed, "--loco"],
    }.items():
        words = [study.bed, study.pheno, study.out(name), *options]
        words += ["--scheduler", client.scheduler.address]
        assert scan_main([str(word) for word in words]) == 0
    return study


@pytest.fixture
def copied(scans, tmp_path):
    """Give a function that copies a scan, so that a test may change it: its OUTPREFIX."""

    def copy(name):
        shutil.copytree(scans.out(f"{name}.zarr"), tmp_path / "x.zarr")
        shutil.copy(scans.out(f"{name}.run.json"), tmp_path / "x.run.json")
        return str(tmp_path / "x")

    return copy


def read(path):
    return pd.read_csv(path, sep="\t", dtype={"chrom": str})


def test_statistics_are_those_of_the_scan(copied):
    out = copied("plain")
    assert check_main([out, "--top", "3", "--permutations", "400", "--bootstrap", "50"]) == 0
    table = read(f"{out}.check.tsv")
    results = open_results(f"{out}.zarr")
    best = np.argsort(-results["var_best_neg_log10_p"].fillna(-1.0).to_numpy())[:3]
    assert table["SNP"].tolist() == [f"rs{i}" for i in best]
    assert (table["effect_allele"] == "G").all()
    for ours, theirs in (
        ("score_t", "var_score_t"), ("classical_t", "var_t"), ("n", "n_samples"),
        ("var_best_pval", "var_best_neg_log10_p"),
    ):  # fmt: skip
        np.testing.assert_allclose(table[ours], results[theirs].to_numpy()[best], rtol=1e-8)
    assert (table["bootstraps"] == 50).all()
    for what, n in (("perm", "permutations"), ("boot", "bootstraps")):
        for test in ("score", "classical"):
            exceed = table[f"{test}_{what}_exceed"]
            np.testing.assert_allclose(
                table[f"{test}_{what}_p"], (exceed + 1) / (table[n] + 1), rtol=1e-12
            )
    assert (table["exchangeable"] == "yes").all()


def test_a_variants_numbers_depend_on_the_seed_alone(copied, tmp_path):
    out = copied("plain")
    (tmp_path / "ids.txt").write_text("rs9\n\nrs0\nrs5\n")
    few = ["--permutations", "300", "--bootstrap", "20"]
    tables = []
    for chosen_ids, seed in ((str(tmp_path / "ids.txt"), "4"), ("rs0", "4"), ("rs0", "5")):
        words = [out, "--variants", chosen_ids, "--seed", seed, "--overwrite", *few]
        assert check_main(words) == 0
        tables.append(read(f"{out}.check.tsv").set_index("SNP"))
    assert tables[0].index.tolist() == ["rs9", "rs0", "rs5"]
    pd.testing.assert_series_equal(tables[0].loc["rs0"], tables[1].loc["rs0"])
    assert not tables[1].loc["rs0"].equals(tables[2].loc["rs0"].replace(5, 4))
    left_out = tables[0].loc["rs5"]
    assert left_out["status"] == "all_missing"
    assert left_out[["score_t", "permutations", "score_perm_p"]].isna().all()


@pytest.mark.parametrize(
    ("name", "tolerance", "given"),
    [
        ("covariates", 1e-8, "given the null model's variance"),
        # Here covariates and variant are estimated one after the other.
        ("kept", 0.06, "given the null model's variance"),
        ("random", 0.06, "given random effects"),
        ("ranks", 1e-8, "yes"),
    ],
)
def test_models_with_covariates_and_random_effects(copied, name, tolerance, given):
    out = copied(name)
    words = ["--top", "2", "--test", "classical", "--permutations", "200", "--bootstrap", "20"]
    assert check_main([out, *words]) == 0
    table = read(f"{out}.check.tsv")
    results = open_results(f"{out}.zarr")
    best = np.argsort(-results["var_neg_log10_p"].fillna(-1.0).to_numpy())[:2]
    for ours, theirs in (("classical_t", "var_t"), ("score_t", "var_score_t")):
        expected = results[theirs].to_numpy()[best]
        np.testing.assert_allclose(table[ours], expected, rtol=tolerance)
    assert (table["exchangeable"] == given).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variants", "rs0,rs77"], "1 of 2 IDs are not in"),
        (["--variants", ","], "no ID, expected ID,ID"),
        (["--top", "0"], "--top 0: expected a number of variants"),
        (["--top", "2", "--permutations", "-1"], "--permutations -1: expected 0 or more"),
        (["--top", "2", "--phenofile", "gone.txt"], "gone.txt: no such file, the scan has read it"),
        (
            ["--top", "2", "--genofile", "gone"],
            "gone.bed",
        ),
    ],
)
def test_what_can_not_be_checked_is_refused(copied, capsys, words, message):
    out = copied("covariates")
    assert check_main([out, *words]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert not Path(f"{out}.check.tsv").exists()


def test_changed_input_is_refused(scans, copied, tmp_path, capsys):
    out = copied("covariates")
    counts = scans.counts.copy()
    counts[0, :2] = [2, 2] if counts[0, 0] < 2 else [0, 0]
    bed = write_plink(tmp_path / "study.bed", counts, scans.samples, scans.variants)
    fewer = write_plink(tmp_path / "few.bed", counts[:9], scans.samples, scans.variants[:9])
    phenotype = write_values(tmp_path / "pheno.txt", scans.samples, scans.y + 1e-6)
    for words, message in (
        (["--genofile", bed], "study.bed: genotypes differ from those that block 0 (variants 0"),
        (["--genofile", fewer], "few.bed: not the genotypes that were scanned"),
        (["--phenofile", phenotype], "pheno.txt: phenotype, covariates or random effects are not"),
    ):
        assert check_main([out, "--variants", "rs0", *map(str, words)]) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert len(printed.splitlines()) == 1
    # The same files elsewhere are as good.
    for file in scans.folder.glob("study.*"):
        shutil.copy(file, tmp_path / file.name)
    few = ["--permutations", "10", "--bootstrap", "0"]
    assert check_main([out, "--variants", "rs0", "--genofile", str(bed), *few]) == 0
    assert check_main([out, "--variants", "rs0", *few]) == 2
    assert "check.tsv: exists; give --overwrite" in capsys.readouterr().err


def test_scans_that_tell_too_little_are_refused(copied, tmp_path, capsys):
    out = copied("plain")
    next((tmp_path / "x.zarr").glob(".run/blocks/*.json")).unlink()
    assert check_main([out, "--top", "1"]) == 2
    assert "finish the run with --resume" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "x.zarr")
    (tmp_path / "x.run.json").unlink()
    out = copied("plain")
    (tmp_path / "x.run.json").unlink()
    assert check_main([out, "--top", "1"]) == 2
    assert "(.run.json) does not name the genotypes; give --genofile" in capsys.readouterr().err


def dense(study, row, name):
    """The model of interaction with age, fitted one variant at a time."""
    called = study.counts[row] >= 0
    g = study.counts[row][called].astype(float)
    age = study.covariates[:, 1] - study.covariates[:, 1].mean()
    age, c = age[called], study.covariates[called][:, :1]
    c = c if name == "covariates" else c[:, :0]
    y = rank_normal(study.y) if name == "ranks" else study.y
    ones = np.ones(len(g))
    X = np.column_stack([ones, c, g - g.mean(), age, (g - g.mean()) * age])
    V = np.column_stack([ones, c, g - g.mean(), age])
    return HLM(y[called], X, V).fit()


@pytest.mark.parametrize("name", ["plain", "covariates", "ranks"])
def test_interactions_are_those_of_the_dense_model(scans, copied, monkeypatch, name):
    out = copied(name)
    monkeypatch.setattr(interact, "_MOST_ROWS", 7)
    covar = ["--covar", f"{scans.folder / 'named.txt'}:age"]
    assert interact_main([out, "--all", *covar]) == 0
    table = read(f"{out}.interaction.tsv")
    assert table["SNP"].tolist() == scans.variants["variant_id"].tolist()
    assert table["status"].tolist()[:9] == [
        "ok", "ok", "monomorphic", "monomorphic", "all_heterozygous", "all_missing", "missing",
        "ok", "low_maf",
    ]  # fmt: skip
    sign = -1.0 if name == "plain" else 1.0
    for row in (0, 1, 59):
        fit = dense(scans, row, name)
        for k, term in enumerate(("g", "e", "gxe")):
            s = 1.0 if term == "e" else sign
            assert table[f"{term}_hlm"][row] == pytest.approx(s * fit.alpha[k - 3], rel=1e-5)
            assert table[f"{term}_hlm_se"][row] == pytest.approx(fit.alpha_se[k - 3], rel=1e-5)
        assert table["var_g"][row] == pytest.approx(sign * fit.beta[-2], rel=1e-5)
        assert table["var_e_se"][row] == pytest.approx(fit.beta_se[-1], rel=1e-5)
    assert interact_main([out, "--variants", "rs59,rs1", *covar, "--overwrite"]) == 0
    some = read(f"{out}.interaction.tsv")
    expected = table.iloc[[59, 1]].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, expected, rtol=1e-9, check_dtype=False)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory, client):
    """Cigarettes a day, 0 of all who don't smoke, and one column that varies in both groups."""
    folder = tmp_path_factory.mktemp("groups")
    rng = np.random.default_rng(8)
    n = 400
    samples = pd.DataFrame({"fid": "f", "iid": [f"i{i}" for i in range(n)]})
    counts = rng.binomial(2, 0.3, (12, n)).astype(np.int8)
    counts[3] = 0
    counts[3, [5, 6]] = 1
    names = ["a'b", 'c"d', "#e", *(f"rs{j}" for j in range(3, 12))]
    table = pd.DataFrame({"contig": "1", "variant_id": names, "position": np.arange(12) * 1000 + 5,
                          "allele1": "A", "allele2": "G"})  # fmt: skip
    bed = write_plink(folder / "g.bed", counts, samples, table)
    smoker = np.repeat([0.0, 1.0], n // 2)
    pheno = folder / "y.txt"
    write_values(pheno, samples, np.stack([smoker * rng.gamma(3, 5, n), rng.normal(size=n)], 1))
    known = np.where(np.arange(n) % 9 == 0, np.nan, smoker)
    write_values(folder / "smoker.txt", samples, smoker)
    write_values(folder / "gaps.txt", samples, known)
    (folder / "words.txt").write_text(
        "FID IID smoker\n" + "".join(f"f i{i} {'yes' if smoker[i] else 'no'}\n" for i in range(n))
    )
    words = [bed, pheno, folder / "out", "--phen-index", "all", "--min-maf", "0"]
    words += ["--scheduler", client.scheduler.address]
    assert scan_main([str(word) for word in words]) == 0
    return folder, names


def test_a_trait_that_is_constant_in_a_group_gives_rows_with_a_status(grouped, capsys):
    folder, names = grouped
    out = str(folder / "out.1")
    covar = ["--covar", str(folder / "smoker.txt"), "--overwrite"]
    for words in (["--all"], ["--top", "3"]):
        assert interact_main([out, *words, *covar]) == 0
        err = capsys.readouterr().err
        assert "constant among the 200 samples whose '1' is 0" in err
        table = read(f"{out}.interaction.tsv")
        assert (table["status"] == "unbounded").all()
        assert table["gxe_hlm_pval"].isna().all()
    assert interact_main([out, "--all", *covar]) == 0
    assert read(f"{out}.interaction.tsv")["SNP"].tolist() == names


def test_an_exposure_that_is_the_phenotype(grouped, capsys):
    folder, _ = grouped
    words = ["--all", "--covar", f"{folder / 'y.txt'}:2", "--overwrite"]
    assert interact_main([str(folder / "out.2"), *words]) == 0
    assert "leave no residual of the phenotype '2'" in capsys.readouterr().err
    status = read(folder / "out.2.interaction.tsv")["status"]
    assert set(status) == {"unbounded"}


def test_an_exposure_of_a_single_sample_and_one_without_values(grouped, capsys):
    folder, _ = grouped
    table = folder / "exposed.txt"
    table.write_text(
        "FID IID one none\n" + "".join(f"f i{i} {1 if i == 7 else 0} NA\n" for i in range(400))
    )
    words = [str(folder / "out.2"), "--all", "--overwrite", "--covar"]
    assert interact_main([*words, f"{table}:one"]) == 0
    err = capsys.readouterr().err
    assert "'one' is 1 for a single sample" in err
    assert "few_carriers" not in err
    assert set(read(folder / "out.2.interaction.tsv")["status"]) == {"unbounded"}
    assert interact_main([*words, f"{table}:none"]) == 2
    err = capsys.readouterr().err
    assert err.count(str(table)) == 1
    assert "(without any value: 'none')" in err


def test_a_rare_variant_gets_a_status_and_the_others_are_fitted(grouped, capsys):
    folder, _ = grouped
    out = str(folder / "out.2")
    covar = ["--all", "--covar", str(folder / "smoker.txt"), "--overwrite"]
    assert interact_main([out, *covar]) == 0
    assert "1 of 12 variants have fewer than 20 carriers" in capsys.readouterr().err
    first = read(f"{out}.interaction.tsv").set_index("SNP")
    assert first.loc["rs3", "status"] == "few_carriers"
    assert first.loc["rs3", "carriers"] == 0
    assert (first["status"].drop("rs3") == "ok").all()
    assert interact_main([out, *covar, "--min-carriers", "0"]) == 0
    second = read(f"{out}.interaction.tsv").set_index("SNP")
    assert second.loc["rs3", "status"] != "ok"
    pd.testing.assert_frame_equal(first.drop("rs3"), second.drop("rs3"))
    assert interact_main([out, *covar, "--min-carriers", "-1"]) == 2
    assert "--min-carriers -1: expected 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize("main", [check_main, interact_main, loci_main])
def test_the_scans_of_several_phenotypes_are_named(grouped, capsys, main):
    folder, _ = grouped
    words = {check_main: ["--top", "1"], loci_main: []}
    words = words.get(main, ["--all", "--covar", str(folder / "smoker.txt")])
    assert main([str(folder / "out"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        f"2 scans of this name, one for each phenotype and transform; give one of {folder}" in line
    )
    assert line.endswith(f"{folder / 'out.1'}, {folder / 'out.2'}")


def test_exposures_with_missing_values_and_in_words(grouped, capsys):
    folder, _ = grouped
    out = str(folder / "out.2")
    assert interact_main([out, "--all", "--covar", str(folder / "gaps.txt"), "--overwrite"]) == 0
    table = read(f"{out}.interaction.tsv")
    assert (table["n"] == 400 - 45).all()
    capsys.readouterr()
    assert interact_main([out, "--all", "--covar", str(folder / "words.txt"), "--overwrite"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "words.txt, line 2" in line
    assert "'no'" in line


def test_pictures_of_leads(scans, copied, tmp_path):
    pytest.importorskip("matplotlib")
    out = copied("random")
    words = [out, "--top", "2", "--test", "add", "--plots"]
    assert interact_main([*words, "--covar", f"{scans.covar}:1"]) == 0
    first = sorted(path.name for path in (tmp_path / "x.interaction").iterdir())
    assert len(first) == 2
    assert "0_rs0.png" in first
    assert interact_main([*words, "--covar", f"{scans.covar}:2", "--overwrite"]) == 0
    pictures = [path.read_bytes() for path in (tmp_path / "x.interaction").glob("*.png")]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, f: s.covar, "2 columns, expected one; name it as"),
        (lambda s, f: f"{s.covar}:3", "no column '3', expected one of"),
        (lambda s, f: f / "none.txt", "none.txt"),
        (lambda s, f: write_values(f / "e.txt", s.samples, np.ones(300)), "is constant among"),
        (lambda s, f: write_values(f / "e.txt", s.samples + "x", s.y), "none of its 300 people"),
    ],
)
def test_covariates_that_are_none(scans, copied, tmp_path, capsys, make, message):
    out = copied("plain")
    assert interact_main([out, "--top", "1", "--covar", str(make(scans, tmp_path))]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "x.interaction.tsv").exists()


def test_tables_of_a_replaced_scan_are_removed(tmp_path):
    made = [tmp_path / f"o.{name}.tsv" for name in ("check", "interaction")]
    for path in made:
        path.touch()
    remove_old(ScanJob("g.bed", "p.txt", str(tmp_path / "o")))
    assert not any(path.exists() for path in made)


def test_the_best_are_found_across_pieces(scans, monkeypatch):
    monkeypatch.setattr(chosen, "_ROWS", 11)
    store = chosen.ResultsStore.open(scans.out("plain.zarr"))
    p = open_results(scans.out("plain.zarr"))["add_neg_log10_p"].to_numpy()
    expected = np.argsort(-np.nan_to_num(p, nan=-1.0), kind="stable")[:25]
    np.testing.assert_array_equal(chosen.best_of(store, "add", 25), expected)
    assert len(chosen.best_of(store, "add", 1000)) == np.isfinite(p).sum()
    assert chosen.named(store, "rs30,rs2").tolist() == [30, 2]
    # Longer than the name of a file may be.
    assert chosen.named(store, ",".join(f"rs{i}" for i in range(60))).tolist() == list(range(60))


def test_the_record_of_several_phenotypes_is_found(scans, copied, tmp_path):
    out = copied("plain")
    shutil.copytree(f"{out}.zarr", tmp_path / "y.height.zarr")
    record = json.loads((tmp_path / "x.run.json").read_text("utf-8"))
    (tmp_path / "y.run.json").write_text(json.dumps(record), "utf-8")
    words = ["--variants", "rs0", "--permutations", "10", "--bootstrap", "0"]
    assert check_main([str(tmp_path / "y.height.zarr"), *words]) == 0
    assert len(read(tmp_path / "y.height.check.tsv")) == 1
