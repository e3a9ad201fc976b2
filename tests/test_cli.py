"""The command lines: what they write, and how they refuse."""

import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr
from distributed import Client
from studies import Study, make_study, write_values

import hlmm_dask
from hlmm_dask import HLM, HLMM, bgzf, read_models_table
from hlmm_dask.cli import scan_main
from hlmm_dask.genotypes.plink import write_plink
from hlmm_dask.scanning.cluster import ClusterOptions
from hlmm_dask.scanning.job import ScanJob
from hlmm_dask.schema import TSV_HEADERS

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
Run = Callable[..., int]
HEADER = (
    "SNP n frequency likelihood add add_se add_t add_pval var var_se var_t var_pval av_pval "
    "chrom pos effect_allele other_allele effect_allele_frequency h2 status "
    "add_robust_se var_robust_se add_var_cov av_robust_pval var_lrt_pval "
    "add_score_pval var_score_t var_score_pval av_score_pval var_best_pval "
    "n_hom_ref n_het n_hom_alt pheno_mean_hom_ref pheno_mean_het pheno_mean_hom_alt "
    "pheno_sd_hom_ref pheno_sd_het pheno_sd_hom_alt"
)


def rows(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def listing(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}


def close(a: Path, b: Path, tolerance: float = 1e-10) -> None:
    pd.testing.assert_frame_equal(
        read_models_table(a), read_models_table(b), rtol=tolerance, atol=tolerance
    )


def read_effects(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", header=None, index_col=0)


# -- what is written --------------------------------------------------------------------------


def test_table(study: Study, run_script: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script("scan", study.bed, study.pheno, study.out("out"), "--parquet") == 0
    path = study.out("out.models.gz")
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    lines = rows(path)
    assert lines[0].split("\t") == HEADER.split() == list(TSV_HEADERS)
    assert len(lines) == 1 + len(study.variants)
    table = read_models_table(path)
    assert list(table.SNP) == list(study.variants.variant_id)
    assert list(table.chrom) == list(study.variants.contig)
    assert set(table.effect_allele) == {"A"}
    assert list(table.status[:7]) == [
        "ok", "ok", "monomorphic", "monomorphic", "all_heterozygous", "all_missing", "missing",
    ]  # fmt: skip
    assert lines[6].split("\t")[3:13] == ["NaN"] * 10
    frequency = table.effect_allele_frequency.to_numpy()
    np.testing.assert_allclose(
        table.frequency[table.status == "ok"],
        np.minimum(frequency, 1 - frequency)[table.status == "ok"],
    )
    parquet = pq.read_table(study.out("out.parquet")).to_pandas()
    assert list(parquet.columns) == list(table.columns)
    for name in table.columns:
        if table[name].dtype.kind == "f":
            np.testing.assert_array_equal(parquet[name].astype(float), table[name])
        else:
            assert list(parquet[name].astype(table[name].dtype)) == list(table[name])
    store = hlmm_dask.open_results(study.out("out.zarr"))
    np.testing.assert_array_equal(store["add"], table["add"])
    assert xr.open_zarr(study.out("out.zarr")).sizes["variants"] == len(table)
    err = capsys.readouterr()
    text = err.out + err.err
    for word in ("variants read", "fitted", "monomorphic", "lambda_GC", "variants/s"):
        assert word in text


def test_null_files(study: Study, run_script: Run) -> None:
    options = ["--mean_covar", study.covar, "--var-covar", study.covar]
    assert run_script("scan", study.bed, study.pheno, study.out("a"), *options) == 0
    X = (study.covariates - study.covariates.mean(axis=0)) / study.covariates.std(axis=0)
    X = np.column_stack([np.ones(len(X)), X])
    fit = HLM(study.y, X, X).fit()
    unit = np.array([1.0, *study.covariates.std(axis=0)])
    for kind, effect, se in (
        ("mean", fit.alpha, fit.alpha_se),
        ("variance", fit.beta, fit.beta_se),
    ):
        table = read_effects(study.out(f"a.null_{kind}_effects.txt"))
        assert len(table) == 3
        np.testing.assert_allclose(table[1], effect / unit, rtol=1e-7)
        np.testing.assert_allclose(table[2], se / unit, rtol=1e-7)
    assert not study.out("a.null_h2.txt").exists()
    options += ["--no-covariate-estimates"]
    assert run_script("scan", study.bed, study.pheno, study.out("b"), *options) == 0
    assert not list(study.folder.glob("b.null*"))
    close(study.out("a.models.gz"), study.out("b.models.gz"), 0)


def test_h2_files(study: Study, run_script: Run) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(300, 5)) + 0.2 * study.y[:, None]
    table = write_values(study.folder / "g.txt", study.samples, values)
    options = ["--random_gts", table, "--random-gts-txt", "--range", 0, 10]
    assert run_script("scan", study.bed, study.pheno, study.out("a"), *options) == 0
    h2, se = map(float, study.out("a.null_h2.txt").read_text().split())
    assert h2 > 0.01
    assert se > 0
    null = hlmm_dask.fit_null(study.bed, study.pheno, random_table=table)
    assert (h2, se) == (null.h2, null.h2_se)
    options += ["--no_h2_estimate", "--h2_init", "0.4"]
    assert run_script("scan", study.bed, study.pheno, study.out("b"), *options) == 0
    assert not study.out("b.null_h2.txt").exists()
    close(study.out("a.models.gz"), study.out("b.models.gz"), 1e-6)


def test_huge_effects_have_finite_p(tmp_path: Path, run_script: Run) -> None:
    rng = np.random.default_rng(0)
    study = make_study(tmp_path, n=2000, m=3)
    study.counts[:] = rng.binomial(2, 0.5, study.counts.shape)
    write_plink(study.bed, study.counts, study.samples, study.variants)
    y = 3.0 * study.counts[0] + np.exp(study.counts[1]) * rng.standard_normal(2000) * 0.05
    write_values(study.pheno, study.samples, y)
    assert run_script("scan", study.bed, study.pheno, study.out("out")) == 0
    table = read_models_table(study.out("out.models.gz"))
    assert (table.status == "ok").all()
    assert table.add_pval[0] > 400
    assert np.isfinite(table[["add_pval", "var_pval", "av_pval"]]).all(axis=None)
    chi2 = table.add_t**2 + table.var_t**2
    np.testing.assert_allclose(table.av_pval, chi2 / (2 * np.log(10)), rtol=1e-12)


def test_dispersion(tmp_path: Path, run_script: Run, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(2)
    study = make_study(tmp_path, n=1500, m=80)
    counts = rng.binomial(2, 0.5, (80, 1500)).astype(np.int8)
    write_plink(study.bed, counts, study.samples, study.variants)
    signal = rng.normal(0, 0.3, 80) @ counts
    y = np.exp(0.3 * (signal - signal.mean()) + 0.3 * rng.standard_normal(1500))
    write_values(study.pheno, study.samples, y)
    assert run_script("scan", study.bed, study.pheno, study.out("a"), "--dispersion") == 0
    assert rows(study.out("a.models.gz"))[0].split("\t") == [
        *TSV_HEADERS, "dispersion", "dispersion_se", "dispersion_t", "dispersion_pval",
    ]  # fmt: skip
    assert run_script("scan", study.bed, study.pheno, study.out("b")) == 0
    assert run_script("dispersion", study.out("b.models.gz"), study.out("c.models.gz")) == 0
    close(study.out("a.models.gz"), study.out("c.models.gz"), 1e-13)
    before = listing(tmp_path)
    assert run_script("dispersion", study.out("b.models.gz"), study.out("c.models.gz")) == 2
    assert run_script("dispersion", study.pheno, study.out("d.models.gz")) == 2
    bad = study.folder / "bad.models.gz"
    bad.write_bytes(gzip.compress(b"SNP\tadd\nrs1\t0.1\n"))
    before |= listing(tmp_path)
    capsys.readouterr()
    assert run_script("dispersion", bad, study.out("d.models.gz")) == 2
    assert "add_se" in capsys.readouterr().err
    assert listing(tmp_path) == before
    # In place: in blocks, as the scan's own table, without the index of what it replaces.
    table, index = study.out("b.models.gz"), study.out("b.models.gz.tbi")
    index.touch()
    assert run_script("dispersion", table, table, "--overwrite") == 0
    assert bgzf.is_bgzf(table)
    assert bgzf.has_end(table)
    assert not index.exists()
    close(study.out("a.models.gz"), table, 1e-13)
    few = ["--range", 0, 20, "--dispersion"]
    assert run_script("scan", study.bed, study.pheno, study.out("e"), *few) == 0
    assert "at least 30 are needed" in capsys.readouterr().err
    assert rows(study.out("e.models.gz"))[0].split("\t") == list(TSV_HEADERS)


# -- input ------------------------------------------------------------------------------------


def test_index_of_the_table(
    study: Study,
    run_script: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pysam", None)
        assert run_script("scan", study.bed, study.pheno, study.out("a"), "--tabix") == 2
    assert "pip install 'hlmm-dask[tabix]'" in capsys.readouterr().err
    assert not study.out("a.zarr").exists()
    pytest.importorskip("pysam")
    assert run_script("scan", study.bed, study.pheno, study.out("a"), "--tabix") == 0
    assert study.out("a.models.gz.tbi").is_file() != (
        "no index for tabix" in capsys.readouterr().err
    )


def test_several_files_and_patterns(study: Study, run_script: Run) -> None:
    variants = study.variants.assign(contig=["2"] * 25 + ["10"] * 15 + ["23"] * 20)
    write_plink(study.bed, study.counts, study.samples, variants)
    assert run_script("scan", study.bed, study.pheno, study.out("whole")) == 0
    for name, part in (("2", slice(0, 25)), ("10", slice(25, 40)), ("X", slice(40, 60))):
        write_plink(
            study.folder / f"chr{name}.bed", study.counts[part], study.samples, variants[part]
        )
    files = [study.folder / f"chr{name}.bed" for name in ("2", "10", "X")]
    assert run_script("scan", *files, study.pheno, study.out("several"), "--block-size", 7) == 0
    assert run_script("scan", study.folder / "chr@.bed", study.pheno, study.out("pattern")) == 0
    close(study.out("whole.models.gz"), study.out("several.models.gz"))
    close(study.out("whole.models.gz"), study.out("pattern.models.gz"))
    # Options between several files and the rest.
    part = ["--range", 20, 45]
    assert run_script("scan", files[0], *files[1:], *part, study.pheno, study.out("part")) == 0
    whole = read_models_table(study.out("whole.models.gz"))[20:45].reset_index(drop=True)
    pd.testing.assert_frame_equal(whole, read_models_table(study.out("part.models.gz")), rtol=1e-10)


def test_phenotype_by_name_and_number(study: Study, run_script: Run) -> None:
    base = ["--range", 0, 10]
    assert run_script("scan", study.bed, study.pheno, study.out("plain"), *base) == 0
    rng = np.random.default_rng(1)
    other = rng.normal(size=len(study.y))
    other[:20] = np.nan
    lines = ["FID IID height 2024"]
    for (fid, iid), a, b in zip(study.samples.to_numpy(), other, study.y, strict=True):
        lines.append(f"{fid}  {iid}\t{-9 if np.isnan(a) else a} {b}")
    named = study.folder / "named.txt"
    named.write_text("\n".join(lines))
    missing = ["--missing_char", "-9"]
    for i, selector in enumerate(("name:2024", "2")):
        options = [*base, "--phen-index", selector, *missing]
        assert run_script("scan", study.bed, named, study.out(f"s{i}"), *options) == 0
        close(study.out("plain.models.gz"), study.out(f"s{i}.models.gz"))
    options = [*base, "--phen_index", "height", *missing]
    assert run_script("scan", study.bed, named, study.out("height"), *options) == 0
    assert read_models_table(study.out("height.models.gz")).n[0] == 280


def test_notes_of_the_tables_are_shown(
    study: Study, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    text = study.pheno.read_text().rstrip("\n").replace("\n", "\r\n")
    study.pheno.write_bytes(b"\xef\xbb\xbf" + text.encode())
    options = ["--range", 0, 3]
    assert run_script("scan", study.bed, study.pheno, study.out("out"), *options) == 0
    err = capsys.readouterr().err
    assert err.count("byte order mark, CRLF") == 1


def test_unicode_spaces_and_links(
    tmp_path: Path, run_script: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "Größe 1 (人)"
    folder.mkdir()
    study = make_study(folder)
    (folder / "out put").mkdir()
    for suffix in (".bed", ".bim", ".fam"):
        (tmp_path / f"link{suffix}").symlink_to(study.bed.with_suffix(suffix))
    monkeypatch.chdir(tmp_path)
    name = folder.name
    out = f"{name}/out put/é"
    assert run_script("scan", "link.bed", f"{name}/pheno.txt", out, "--parquet") == 0
    assert (folder / "out put" / "é.models.gz").exists()
    assert (folder / "out put" / "é.parquet").exists()
    assert run_script("scan", study.bed, study.pheno, tmp_path / "plain") == 0
    close(tmp_path / "plain.models.gz", folder / "out put" / "é.models.gz")


# -- hlmm's command lines ---------------------------------------------------------------------


def test_chr_segments_make_the_whole(
    study: Study,
    run_script: Run,
    run_chr: Run,
    client: Client,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--mean_covar", study.covar, "--min_maf", "0.1"]
    assert run_script("scan", study.bed, study.pheno, study.out("a1"), *options) == 0
    options_a2 = [*options, "--count_A2"]
    assert run_script("scan", study.bed, study.pheno, study.out("a2"), *options_a2) == 0
    for start, stop in ((0, 22), (22, 50), (50, 60)):
        arguments = [study.bed, start, stop, study.pheno, study.out("chr"), "--append"]
        assert run_chr(*arguments, *options, client=client) == 0
        assert study.out("chr.null_mean_effects.txt").exists()
    assert "allele 2" in capsys.readouterr().err
    close(study.out("a2.models.gz"), study.out("chr.models.gz"))
    one, two = (read_models_table(study.out(f"{name}.models.gz")) for name in ("a1", "chr"))
    np.testing.assert_allclose(one["add"], -two["add"], rtol=1e-12)
    np.testing.assert_allclose(one["var"], -two["var"], rtol=1e-12)
    assert set(two.effect_allele) == {"G"}
    assert not study.out("chr.zarr").exists()
    assert not list(study.folder.glob(".*"))
    # Without --append the table is replaced, as hlmm does; the whole of it is another option.
    whole = [study.bed, 5, 6, study.pheno, study.out("chr"), "--whole_chr", *options]
    assert run_chr(*whole, client=client) == 0
    close(study.out("a2.models.gz"), study.out("chr.models.gz"))


def test_append_to_another_table(
    study: Study, run_chr: Run, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    study.out("chr.models.gz").write_text("SNP\tn\tfrequency\nrs1\t3\t0.1\n")
    before = listing(study.folder)
    arguments = [study.bed, 0, 9, study.pheno, study.out("chr"), "--append"]
    assert run_chr(*arguments, client=client) == 2
    err = capsys.readouterr().err
    assert "SNP n frequency" in err
    # Before any work.
    assert "variants" not in err.replace("variants/s", "").split("error:")[0]
    assert listing(study.folder) == before


@pytest.mark.parametrize("random", [None, "text", "bed"])
def test_fit_without_variants(study: Study, run_script: Run, random: str | None) -> None:
    covar = ["--mean_covar", study.covar, "--var_covar", study.covar]
    X = (study.covariates - study.covariates.mean(axis=0)) / study.covariates.std(axis=0)
    X = np.column_stack([np.ones(len(X)), X])
    unit = np.array([1.0, *study.covariates.std(axis=0)])
    fit: object
    order = np.lexsort((study.samples.iid, study.samples.fid))
    if random is None:
        fit = HLM(study.y, X, X).fit()
    else:
        values = np.where(study.counts < 0, np.nan, study.counts)[[0, 1, 7, 9, 10, 11, 12]].T
        G = np.where(np.isnan(values), np.nanmean(values, axis=0), values)
        G = (G - G.mean(axis=0)) / G.std(axis=0) / np.sqrt(7)
        fit = HLMM(study.y, X, X, G).fit()
        if random == "text":
            table = write_values(study.folder / "g.txt", study.samples.iloc[order], values[order])
            covar += ["--random_gts", table, "--random_gts_txt"]
        else:
            rows = [0, 1, 2, 5, 7, 9, 10, 11, 12]
            bed = write_plink(
                study.folder / "g.bed", study.counts[rows], study.samples,
                study.variants.iloc[rows],
            )  # fmt: skip
            covar += ["--random_gts", bed]
    assert run_script("fit_hlmm_model", study.pheno, study.out("fit"), *covar) == 0
    mean = read_effects(study.out("fit.mean_effects.txt"))
    np.testing.assert_allclose(mean[1], fit.alpha / unit, rtol=1e-5)
    np.testing.assert_allclose(mean[2], fit.alpha_se / unit, rtol=1e-5)
    variance = read_effects(study.out("fit.variance_effects.txt"))
    np.testing.assert_allclose(variance[1], fit.beta / unit, rtol=1e-5)
    np.testing.assert_allclose(variance[2], fit.beta_se / unit, rtol=1e-5)
    assert study.out("fit.h2.txt").exists() == (random is not None)
    if random is not None:
        h2, se = map(float, study.out("fit.h2.txt").read_text().split())
        assert h2 == pytest.approx(fit.h2, rel=1e-5, abs=1e-7)
        assert se == pytest.approx(fit.h2_se, rel=1e-5)


# -- refusals ---------------------------------------------------------------------------------


def short_pheno(study: Study) -> None:
    study.pheno.write_text("".join(study.pheno.read_text().splitlines(keepends=True)[:2]))


def constant(study: Study) -> None:
    write_values(study.pheno, study.samples, np.full(len(study.y), 3.0))


def explained(study: Study) -> None:
    write_values(study.pheno, study.samples, study.covariates[:, 1] * 2 + 1)


def text(study: Study) -> None:
    study.pheno.write_text(study.pheno.read_text() + "f9999 i9999 tall\n")


def infinite(study: Study) -> None:
    study.pheno.write_text(study.pheno.read_text() + "f9999 i9999 inf\n")


def twice(study: Study) -> None:
    study.pheno.write_text(study.pheno.read_text() + "f0 i0 0.3\n")


def truncated(study: Study) -> None:
    study.bed.write_bytes(study.bed.read_bytes()[:-1])


def other_ids(study: Study) -> None:
    table = study.samples.assign(fid=[f"0{x[1:]}" for x in study.samples.fid])
    write_values(study.pheno, table, study.y)
    names = study.bed.with_suffix(".fam")
    names.write_text(re.sub(r"(?m)^f", "", names.read_text()))


def latin(study: Study) -> None:
    study.pheno.write_bytes(study.pheno.read_bytes() + b"f\xe9 i1 0.3\n")


def nothing(study: Study) -> None:
    pass


def no_bim(study: Study) -> None:
    study.bed.with_suffix(".bim").unlink()


def folder_as_pheno(study: Study) -> None:
    study.pheno.unlink()
    study.pheno.mkdir()


REFUSED: list[tuple[Callable[[Study], None], list[str], str]] = [
    (nothing, ["--min_maf", "0.7"], "--min-maf 0.7"),
    (nothing, ["--min_maf", "nan"], "--min-maf nan"),
    (nothing, ["--min_maf", "x"], "min-maf"),
    (nothing, ["--max_missing", "0"], "--max-missing 0"),
    (nothing, ["--range", "5", "3"], "range 5 3"),
    (nothing, ["--range", "0", "61"], "range 0 61"),
    (nothing, ["--range", "-1", "5"], "start -1"),
    (nothing, ["--workers", "0"], "--workers 0"),
    (nothing, ["--threads-per-worker", "0"], "--threads-per-worker 0"),
    (nothing, ["--memory-limit", "lots"], "--memory-limit lots"),
    (nothing, ["--memory-limit", "-1GiB"], "memory-limit"),
    (nothing, ["--block-size", "0"], "block size 0"),
    (nothing, ["--no_such_option"], "--no_such_option"),
    (nothing, ["--resume", "--overwrite"], "exclude each other"),
    (nothing, ["--h2", "0.3"], "--h2"),
    (nothing, ["--h2_init", "-1"], "--h2-init requires"),
    (nothing, ["--h2_init", "nan", "--random_gts", "study.bed"], "--h2-init nan"),
    (nothing, ["--phen_index", "2"], "no column '2'"),
    (nothing, ["--phen_index", "0"], "no column '0'"),
    (nothing, ["--phen_index", "height"], "no column 'height'"),
    (nothing, ["--mean_covar", "nowhere.txt"], "nowhere.txt: no such file"),
    (nothing, ["--random_gts", "nowhere.bed"], "nowhere.bed: no such file"),
    (nothing, ["--random_gts_txt"], "--random-gts"),
    (nothing, ["--scheduler-file", "nowhere.json"], "nowhere.json"),
    (nothing, ["--scheduler", "tcp://h:1", "--scheduler-file", "f"], "exclude each other"),
    (short_pheno, [], "2 samples are left"),
    (constant, [], "the same value 3"),
    (explained, ["--mean_covar", "covar.txt"], "phenotype '1'"),
    (text, [], "line 301"),
    (infinite, [], "infinite"),
    (twice, [], "must be unique"),
    (truncated, [], "truncated"),
    (other_ids, [], "leading zeros"),
    (latin, [], "UTF-8"),
    (no_bim, [], "study.bim: no such file"),
    (folder_as_pheno, [], "can't be read"),
]


@pytest.mark.parametrize(
    ("spoil", "options", "message"), REFUSED, ids=[f"{f.__name__} {o}" for f, o, _ in REFUSED]
)
def test_refused_in_one_line(
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Study], None],
    options: list[str],
    message: str,
) -> None:
    spoil(study)
    monkeypatch.chdir(study.folder)
    before = listing(study.folder)
    try:
        code = scan_main([str(study.bed), str(study.pheno), str(study.out("out")), *options])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    err = capsys.readouterr().err
    error = [line for line in err.splitlines() if not line.startswith(("samples of", "covar.txt"))]
    assert len(error) == 1, err
    assert error[0].startswith("hlmm-scan: error: ")
    assert message in error[0]
    assert listing(study.folder) == before


@pytest.mark.parametrize(
    ("out", "message"), [("absent/out", "no such folder"), ("absent/", "start of a name")]
)
@pytest.mark.parametrize("command", ["scan", "fit_hlmm_model"])
def test_no_folder_for_the_output(
    study: Study, run_script: Run, capsys: pytest.CaptureFixture[str], command: str, out: str,
    message: str,
) -> None:  # fmt: skip
    first = [study.bed] if command == "scan" else []
    arguments = [*first, study.pheno, f"{study.folder}/{out}"]
    assert run_script(command, *arguments) == 2
    assert message in capsys.readouterr().err


def test_existing_output_stays(
    study: Study, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in (".models.gz", ".parquet"):
        study.out(f"out{suffix}").write_text("precious")
        before = listing(study.folder)
        for option in ([], ["--resume"]):
            assert run_script("scan", study.bed, study.pheno, study.out("out"), *option) == 2
            assert "exists" in capsys.readouterr().err
            assert listing(study.folder) == before
        study.out(f"out{suffix}").unlink()
    study.out("out.zarr").mkdir()
    (study.out("out.zarr") / "mine").write_text("precious")
    before = listing(study.folder)
    for option in ([], ["--resume"], ["--overwrite"]):
        assert run_script("scan", study.bed, study.pheno, study.out("out"), *option) == 2
        assert listing(study.folder) == before


def test_no_scheduler_leaves_nothing(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ScanJob, "cluster", property(lambda job: short(scheduler=job.scheduler)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    short = partial(ClusterOptions, timeout=1.0)
    before = listing(study.folder)
    arguments = [str(study.bed), str(study.pheno), str(study.out("out"))]
    assert scan_main([*arguments, "--scheduler", address]) == 2
    assert "no Dask scheduler answers" in capsys.readouterr().err
    assert listing(study.folder) == before


# -- other places -----------------------------------------------------------------------------


@pytest.fixture
def processes() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give a function that starts processes, which end with the test."""
    with ExitStack() as stack:

        def start(*command: object, **settings: Any) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                **settings,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        yield start


def test_cluster_in_another_folder(
    study: Study,
    run_script: Run,
    processes: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Relative paths mean the user's folder, wherever the workers were started."""
    elsewhere = study.folder / "elsewhere"
    elsewhere.mkdir()
    dask = [sys.executable, "-m", "dask"]
    file = elsewhere / "scheduler.json"
    processes(
        *dask, "scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard",
        "--scheduler-file", file, cwd=elsewhere,
    )  # fmt: skip
    processes(
        *dask, "worker", "--scheduler-file", file, "--host", "127.0.0.1", "--no-dashboard",
        "--nthreads", 1, cwd=elsewhere,
    )  # fmt: skip
    until = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    monkeypatch.chdir(study.folder)
    arguments = ["study.bed", "pheno.txt", "out", "--scheduler-file", "elsewhere/scheduler.json"]
    assert run_script("scan", *arguments, own_cluster=True) == 0, capsys.readouterr()
    assert run_script("scan", study.bed, study.pheno, study.out("here")) == 0
    close(study.out("here.models.gz"), study.out("out.models.gz"))
    assert list(elsewhere.iterdir()) == [file]
    address = json.loads(file.read_text())["address"]
    again = [*arguments[:2], "again", "--scheduler", address]
    assert run_script("scan", *again, own_cluster=True) == 0
    close(study.out("here.models.gz"), study.out("again.models.gz"))


PROGRAM = """
import sys
import hlmm_dask

if __name__ == "__main__":
    bed, pheno = sys.argv[1:]
    null = hlmm_dask.fit_null(bed, pheno)
    results = hlmm_dask.scan(bed, null, cluster=None)
    print(int((results.status == 0).sum()))
"""


def test_program_without_a_home(study: Study) -> None:
    """A script with the usual guard starts a cluster of its own; no home folder is needed."""
    script = study.folder / "program.py"
    script.write_text(PROGRAM)
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "NUMBA_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, script, study.bed, study.pheno],
        env=environment | {"HOME": str(study.bed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 40 < int(done.stdout) < 60


def test_several_phenotypes_in_one_pass(study: Study, run_script: Callable[..., int]) -> None:
    rng = np.random.default_rng(3)
    values = np.stack([study.y, study.y**2, rng.standard_normal(len(study.y))], axis=1)
    values[rng.random(values.shape) < 0.1] = np.nan  # each its own
    write_values(study.pheno, study.samples, values)
    common = (study.bed, study.pheno)
    assert run_script("scan", *common, study.out("all"), "--phen_index", "1,3", "--dispersion") == 0
    for i in (1, 3):
        assert run_script("scan", *common, study.out(f"solo{i}"), "--phen_index", i) == 0
        together = read_models_table(study.out(f"all.{i}.models.gz"))
        alone = read_models_table(study.out(f"solo{i}.models.gz"))
        pd.testing.assert_frame_equal(together[alone.columns], alone, rtol=1e-10)
        for suffix in (".null_mean_effects.txt", ".zarr"):
            assert study.out(f"all.{i}{suffix}").exists()
    assert not study.out("all.models.gz").exists()
    # One store is lost, the other kept: what is missing is fitted again, in one pass.
    shutil.rmtree(study.out("all.3.zarr"))
    study.out("all.3.models.gz").unlink()
    before = study.out("all.1.zarr/.run/blocks/0000000.json").stat().st_mtime_ns
    options = ("--phen_index", "1,3", "--dispersion", "--resume")
    assert run_script("scan", *common, study.out("all"), *options) == 0
    assert study.out("all.1.zarr/.run/blocks/0000000.json").stat().st_mtime_ns == before
    again = read_models_table(study.out("all.3.models.gz"))
    pd.testing.assert_frame_equal(again[alone.columns], alone, rtol=1e-10)
    assert "dispersion" in again


def test_covariates_by_name(study: Study, run_script: Run) -> None:
    named = study.folder / "named.txt"
    named.write_text("FID IID sex age\n" + study.covar.read_text())
    options = ("--mean_covar", named, "--mean_covar_cols", "age", "--var_covar", named)
    assert run_script("scan", study.bed, study.pheno, study.out("out"), *options) == 0
    names = [
        row.split()[0] for row in study.out("out.null_mean_effects.txt").read_text().splitlines()
    ]
    assert names == ["Intercept", "age"]
    names = [
        row.split()[0]
        for row in study.out("out.null_variance_effects.txt").read_text().splitlines()
    ]
    assert names == ["Intercept", "sex", "age"]
