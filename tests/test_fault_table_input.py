"""The fault table's rows about input, each with the test that makes the fault.

================================================  =================================================
fault                                             shown by
================================================  =================================================
.bed padded, wrong magic, sample-major; counts    test_refused, test_cli.py (truncated),
differ                                            test_plink.py
.fam without final newline, blank lines, CRLF,    test_layouts_are_read_and_noted_once,
byte order mark, tabs or spaces                   test_readers_properties.py
duplicate variant IDs; unsorted or unknown        test_odd_variants_are_kept_in_file_order
chromosomes; '#' or 2 kb alleles
2 kb alleles: memory                              test_long_allele_takes_its_own_length
all missing, monomorphic, all heterozygous,       test_variants_without_a_fit_are_counted
monomorphic among the analysed, singleton
collinear with covariates                         test_collinear_variant
not converging                                    test_kernels_block.py, test_newton.py
p below the smallest double                       test_cli.py (test_huge_effects_have_finite_p),
                                                  test_inference.py
phenotype not numeric, infinite, constant         test_refused, test_cli.py (text, infinite,
                                                  constant)
-9 frequent                                       test_minus_nine
covariate constant or collinear                   test_covariates_without_information
n no larger than the number of parameters         test_refused, test_cli.py (short_pheno)
duplicate sample IDs; no overlap                  test_refused, test_cli.py (twice, other_ids)
'001' beside '1'                                  test_ids_are_text
different order                                   test_order_of_the_files, test_samples.py
unicode and spaces in paths                       test_cli.py (test_unicode_spaces_and_links)
paths that are no UTF-8                           test_path_that_is_no_utf8
Latin-1, UTF-16, other formats                    test_refused, test_cli.py (latin)
================================================  =================================================
"""

import gzip
import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from runs import SCRIPT
from studies import Study, make_study, write_values

from hlmm_dask import read_models_table
from hlmm_dask.cli import scan_main
from hlmm_dask.genotypes.plink import write_plink
from hlmm_dask.scanning.checks import check_job
from hlmm_dask.scanning.events import Event, Note
from hlmm_dask.scanning.job import ScanJob

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]
COVAR = ["--mean_covar", "covar.txt"]


# -- refused ----------------------------------------------------------------------------------


def edit(suffix: str, change: Callable[[bytes], bytes]) -> Callable[[Study], None]:
    """Give a function that changes the content of a file."""

    def spoil(study: Study) -> None:
        named = {"pheno": study.pheno, "covar": study.covar}
        path = named.get(suffix) or study.bed.with_suffix(suffix)
        path.write_bytes(change(path.read_bytes()))

    return spoil


def line(number: int, old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Give a function that replaces a pattern in one line."""

    def change(content: bytes) -> bytes:
        lines = content.split(b"\n")
        lines[number - 1], n = re.subn(old, new, lines[number - 1])
        assert n
        return b"\n".join(lines)

    return change


def repeat(n: int) -> Callable[[bytes], bytes]:
    return lambda content: content + b"".join(content.splitlines(keepends=True)[:n])


def others(pattern: bytes) -> Callable[[bytes], bytes]:
    return lambda content: re.sub(rb"(?m)^\S+\s+\S+", pattern, content)


def first_lines(n: int) -> Callable[[bytes], bytes]:
    return lambda content: b"".join(content.splitlines(keepends=True)[:n])


REFUSED: list[tuple[str, Callable[[Study], None], list[str], list[str]]] = [
    ("bed padded", edit(".bed", lambda b: b + b"\0\0"), [],
     ["study.bed: 4505 bytes, expected 4503", "too long"]),
    ("bed of text", edit(".bed", lambda b: b"#CHROM" + b[6:]), [],
     ["study.bed: starts with bytes 23 43 48, expected 6c 1b 01"]),
    ("bed empty", edit(".bed", lambda b: b""), [], ["study.bed", "empty file"]),
    ("sample-major", edit(".bed", lambda b: b"\x6c\x1b\x00" + b[3:]), [],
     ["sample-major", "plink --bfile ", "--make-bed --out "]),
    ("bim longer", edit(".bim", repeat(1)), [],
     ["4503 bytes, expected 4578 for the 61 variants", "300 samples", "truncated"]),
    ("bim shorter", edit(".bim", first_lines(59)), [], ["expected 4428 for the 59 variants"]),
    ("fam longer", edit(".fam", lambda b: b + b"x y 0 0 0 -9\n"), [],
     ["expected 4563 for the 60 variants", "301 samples"]),
    ("fam shorter", edit(".fam", first_lines(290)), [], ["expected 4383", "290 samples"]),
    ("bim position", edit(".bim", line(57, rb"\t565\t", b"\t56e1\t")), ["--range", "0", "9"],
     ["study.bim, line 57: position '56e1' is not an integer"]),
    ("bim hexadecimal", edit(".bim", line(57, rb"\t565\t", b"\t0x10\t")), [],
     ["line 57: position '0x10' is not an integer"]),
    ("bim fields", edit(".bim", line(60, rb"\tG$", b"")), [],
     ["study.bim, line 60: 5 fields, expected 6"]),
    ("bim Latin-1", edit(".bim", line(60, b"rs", b"r\xe9")), [],
     ["study.bim, line 60", "not UTF-8", "iconv -f latin1"]),
    ("fam fields", edit(".fam", line(7, rb"\t-9$", b"")), [],
     ["study.fam, line 7: 5 fields, expected 6"]),
    ("fam twice", edit(".fam", repeat(7)), [],
     ["study.fam, line 301: sample FID 'f0' IID 'i0' is also on line 1; 7 IDs are repeated",
      "'f0' 'i0', 'f0' 'i1', 'f1' 'i2', 'f1' 'i3', 'f2' 'i4', ...", "must be unique"]),
    ("fam UTF-16", edit(".fam", lambda b: b.decode().encode("utf-16")), [],
     ["study.fam: UTF-16 text, expected UTF-8", "iconv -f utf-16"]),
    ("pheno twice", edit("pheno", repeat(6)), [], ["pheno.txt, line 301", "6 IDs are repeated"]),
    ("pheno UTF-16", edit("pheno", lambda b: b.decode().encode("utf-16")), [], ["UTF-16 text"]),
    ("pheno UTF-16 unmarked", edit("pheno", lambda b: b.decode().encode("utf-16-le")), [],
     ["line 1: a NUL byte", "UTF-16"]),
    ("pheno CR", edit("pheno", lambda b: b.replace(b"\n", b"\r")), [],
     ["pheno.txt, line 1: a CR within the line", "tr "]),
    ("pheno gzip", edit("pheno", gzip.compress), [], ["pheno.txt: gzip-compressed", "gunzip"]),
    ("pheno text", edit("pheno", line(12, rb"\S+$", b"tall")), [],
     ["pheno.txt, line 12, column '1': 'tall' is not a number but text", "a category"]),
    ("pheno digits", edit("pheno", line(12, rb"\S+$", "٣".encode())), [],
     ["line 12, column '1': '٣' is not a number"]),
    ("pheno infinite", edit("pheno", line(9, rb"\S+$", b"-1e999")), [],
     ["pheno.txt, line 9, column '1': '-1e999' is infinite"]),
    ("pheno all missing", edit("pheno", lambda b: re.sub(rb"(?m)\S+$", b"NA", b)), [],
     ["all 300 values are missing"]),
    ("covar text", edit("covar", line(3, rb"\S+$", b"old")), COVAR,
     ["covar.txt, line 3, column '2': 'old' is not a number"]),
    ("covar infinite", edit("covar", line(3, rb"\S+$", b"inf")), COVAR,
     ["covar.txt, line 3, column '2': 'inf' is infinite"]),
    ("covar missing", edit("covar", lambda b: re.sub(rb"(?m)\S+$", b"NA", b)), COVAR,
     ["covar.txt: none of the 300 people", "has all covariates"]),
    ("few", edit("pheno", first_lines(6)), [*COVAR, "--var_covar", "covar.txt"],
     ["6 samples are left for 8 parameters", "more samples or fewer covariates"]),
    ("others", edit("pheno", others(rb"a\tb")), [], ["must be unique"]),
    ("no overlap", edit("pheno", lambda b: re.sub(rb"(?m)^f", b"fam", b)), [],
     ["pheno.txt: none of its 300 people", "'fam0' 'i0', 'fam0' 'i1'", "the other has 'f0' 'i0'",
      "300 would match by IID alone"]),
    ("covar no overlap", edit("covar", lambda b: re.sub(rb"(?m)^f", b"fam", b)), COVAR,
     ["pheno.txt: none of its 300 people", "covar.txt", "the other has 'fam0' 'i0'"]),
    ("huge", edit("pheno", lambda b: re.sub(rb"(?m)\S+$", b"1e308", b, count=150)), [],
     ["'1e308' is too large to square"]),
    ("huge covar", edit("covar", lambda b: re.sub(rb"(?m)\S+$", b"1e308", b, count=150)), COVAR,
     ["'1e308' is too large to square"]),
    ("columns", edit("covar", lambda b: b), [*COVAR, "--mean_covar_cols", "2-1"],
     ["covar.txt: no columns 2-1"]),
]  # fmt: skip


def listing(folder: Path) -> dict[str, int]:
    return {str(p): p.lstat().st_mtime_ns for p in [folder, *sorted(folder.rglob("*"))]}


@pytest.mark.parametrize(
    ("spoil", "options", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused(
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    spoil: Callable[[Study], None],
    options: list[str],
    words: list[str],
) -> None:
    spoil(study)
    monkeypatch.chdir(study.folder)
    before = listing(study.folder)
    assert scan_main([str(study.bed), "pheno.txt", "out", *options]) == 2
    err = capsys.readouterr().err
    (error,) = (text for text in err.splitlines() if "error" in text)
    assert error.startswith("hlmm-scan: error: ")
    for word in words:
        assert word in error
    assert "Traceback" not in err
    assert listing(study.folder) == before


def test_converting_command_of_a_path_with_spaces(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "my data"
    folder.mkdir()
    study = make_study(folder, m=3)
    study.bed.write_bytes(b"\x6c\x1b\x00" + study.bed.read_bytes()[3:])
    assert scan_main([str(study.bed), str(study.pheno), str(study.out("out"))]) == 2
    stem = study.bed.with_suffix("")
    assert f"plink --bfile '{stem}' --make-bed" in capsys.readouterr().err


# -- read -------------------------------------------------------------------------------------


def table(study: Study, name: str = "out") -> pd.DataFrame:
    return read_models_table(study.out(f"{name}.models.gz"))


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a, b, rtol=1e-10, atol=1e-12)


def test_layouts_are_read_and_noted_once(study: Study, run_script: Run, capsys: Capture) -> None:
    assert run_script("scan", study.bed, study.pheno, study.out("plain")) == 0
    fam, bim = (study.bed.with_suffix(suffix) for suffix in (".fam", ".bim"))
    for path in (fam, bim):
        text = path.read_bytes()
        lines = [
            row if i % 2 else b" " + row.replace(b"\t", b"  ")
            for i, row in enumerate(text.split(b"\n")[:-1])
        ]
        lines.insert(5, b" \t")
        path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    capsys.readouterr()
    assert run_script("scan", study.bed, study.pheno, study.out("out")) == 0
    err = capsys.readouterr().err
    for path in (fam, bim):
        assert err.count(f"{path}: read with a byte order mark, CRLF line ends, blank lines, "
                         "no final newline") == 1, err  # fmt: skip
    same(table(study, "plain"), table(study))
    # Once, too, where the same files hold the random effects.
    events: list[Event] = []
    bed = str(study.bed)
    check_job(ScanJob(bed, str(study.pheno), str(study.out("x")), random_gts=bed), (events.append,))
    texts = [
        event.text for event in events if isinstance(event, Note) and "read with" in event.text
    ]
    assert len(texts) == len(set(texts)) == 2


def test_odd_variants_are_kept_in_file_order(study: Study, run_script: Run) -> None:
    m = len(study.variants)
    odd = study.variants.assign(
        contig=["MT", "1", "chrUn_gl000220", "0", "X", "NA", "#", "Z9", "1", "26"] * (m // 10),
        variant_id=["rs1", ".", "NA", "nan", "#7", "rs1", '"q', "None", "é人", "1"] * (m // 10),
        # Unknown ones among them; other negative ones mark variants as left out.
        position=[*np.random.default_rng(0).permutation(m - 2), -9, 0],
        allele1=["#A", "A" * 2000, "<DEL>", "NA", "A"] * (m // 5),
        allele2=["G", "T", "G#", "*", "0"] * (m // 5),
    )
    assert run_script("scan", study.bed, study.pheno, study.out("plain")) == 0
    write_plink(study.bed, study.counts, study.samples, odd)
    options = ["--block-size", 7, "--parquet"]
    assert run_script("scan", study.bed, study.pheno, study.out("out"), *options) == 0
    found = table(study)
    names = ["SNP", "chrom", "pos", "effect_allele", "other_allele"]
    for name, column in zip(
        names, ("variant_id", "contig", "position", "allele1", "allele2"), strict=True
    ):
        assert list(found[name]) == list(odd[column]), name
        parquet = pd.read_parquet(study.out("out.parquet"))
        assert list(parquet[name]) == list(odd[column]), name
    same(found.drop(columns=names), table(study, "plain").drop(columns=names))


def test_long_allele_takes_its_own_length(tmp_path: Path, run_script: Run) -> None:
    """A table of fixed width would take 2 kB, or 8, for each of 20,000 variants."""
    study = make_study(tmp_path, n=40, m=20_000)
    long = study.variants.assign(allele2=["ACGT" * 500, *["G"] * 19_999])
    write_plink(study.bed, study.counts, study.samples, long)
    tracemalloc.start()
    try:
        assert run_script("scan", study.bed, study.pheno, study.out("out")) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40_000_000
    assert table(study).other_allele[0] == "ACGT" * 500


def test_variants_without_a_fit_are_counted(study: Study, run_script: Run, capsys: Capture) -> None:
    counts = study.counts.copy()
    n = len(study.samples)
    analysed = np.arange(n) >= 20
    counts[:7] = 0
    counts[0] = -1
    counts[2] = 2
    counts[3] = 1
    counts[4, ~analysed] = 1  # varies, but not among the analysed
    counts[5] = np.where(analysed, -1, counts[10])  # no call among them
    counts[6, 150] = 1  # singleton
    write_plink(study.bed, counts, study.samples, study.variants)
    write_values(study.pheno, study.samples, np.where(analysed, study.y, np.nan))
    options = ["--min_maf", 0, "--max_missing", 100]
    assert run_script("scan", study.bed, study.pheno, study.out("out"), *options) == 0
    found = table(study)
    assert len(found) == len(study.variants)
    assert list(found.status[:7]) == [
        "all_missing", "monomorphic", "monomorphic", "all_heterozygous", "monomorphic",
        "all_missing", "unbounded",
    ]  # fmt: skip
    estimates = ["likelihood", "add", "add_se", "add_pval", "var", "var_se", "var_pval", "av_pval"]
    assert found.loc[:6, estimates].isna().all(axis=None)
    by_status = found.status.value_counts().to_dict()
    err = re.sub(" +", " ", capsys.readouterr().err)
    for label, count in by_status.items():
        assert (f"fitted {count} " if label == "ok" else f"left out: {label} {count} ") in (
            err.replace("\n", " ")
        )
    (run,) = json.loads(study.out("out.run.json").read_text())["runs"]
    (summary,) = run["tables"].values()
    assert {k: v for k, v in summary["counts"].items() if v} == by_status


def test_collinear_variant(study: Study, run_script: Run) -> None:
    g = study.counts[0]
    covariate = np.column_stack([study.covariates[:, 1], np.where(g < 0, 0, g)])
    write_values(study.covar, study.samples, covariate)
    options = ["--mean_covar", study.covar, "--fit_covariates", "--range", 0, 12]
    assert run_script("scan", study.bed, study.pheno, study.out("out"), *options) == 0
    found = table(study)
    assert found.status[0] == "collinear"
    assert np.isnan(found["add"][0])
    assert found.status[9] == "ok"


def test_minus_nine(study: Study, run_script: Run, capsys: Capture) -> None:
    y = study.y.copy()
    y[:30] = -9
    write_values(study.pheno, study.samples, y)
    assert run_script("scan", study.bed, study.pheno, study.out("out")) == 0
    note = f"{study.pheno}, phenotype '1': 30 of 300 values are -9, a missing value"
    assert capsys.readouterr().err.count(note) == 1
    assert table(study).n.max() == 270
    options = ["--no-minus9"]
    assert run_script("scan", study.bed, study.pheno, study.out("as_number"), *options) == 0
    assert "-9" not in capsys.readouterr().err
    assert table(study, "as_number").n.max() == 300


def test_covariates_without_information(study: Study, run_script: Run, capsys: Capture) -> None:
    options = ["--mean_covar", study.covar, "--var_covar", study.covar]
    assert run_script("scan", study.bed, study.pheno, study.out("plain"), *options) == 0
    sex, age = study.covariates.T
    more = np.column_stack([sex, age, np.full(len(sex), 0.1), 3 * age - sex + 7])
    write_values(study.covar, study.samples, more)
    capsys.readouterr()
    assert run_script("scan", study.bed, study.pheno, study.out("out"), *options) == 0
    err = capsys.readouterr().err
    for role in ("mean", "variance"):
        assert err.count(f"{role} covariate '3' is constant; it is left out") == 1
        assert err.count(f"{role} covariate '4' is a linear combination of those before it "
                         "('2', '1'); it is left out") == 1  # fmt: skip
    same(table(study, "plain"), table(study))


def test_ids_are_text(study: Study, run_script: Run) -> None:
    """1, 01 and 001, 1.0, 1e0, NA and nan are seven people."""
    assert run_script("scan", study.bed, study.pheno, study.out("plain")) == 0
    iids = [f"{i // 3:0{1 + i % 3 + len(str(i // 3))}d}" for i in range(300)]
    iids[:7] = ["1", "01", "001", "1.0", "1e0", "NA", "nan"]
    people = pd.DataFrame({"fid": ["1"] * 300, "iid": iids})
    write_plink(study.bed, study.counts, people, study.variants)
    order = np.random.default_rng(1).permutation(300)
    write_values(study.pheno, people.iloc[order], study.y[order])
    assert run_script("scan", study.bed, study.pheno, study.out("out")) == 0
    same(table(study, "plain"), table(study))


def test_order_of_the_files(study: Study, run_script: Run) -> None:
    options = ["--mean_covar", study.covar, "--var_covar", study.covar]
    assert run_script("scan", study.bed, study.pheno, study.out("plain"), *options) == 0
    rng = np.random.default_rng(2)
    for path in (study.pheno, study.covar):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(rng.permutation(lines)))
    assert run_script("scan", study.bed, study.pheno, study.out("out"), *options) == 0
    a, b = (study.out(f"{name}.models.gz").read_bytes() for name in ("plain", "out"))
    assert gzip.decompress(a) == gzip.decompress(b)


def test_path_that_is_no_utf8(tmp_path: Path, client: Client) -> None:
    try:
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/donn\xe9es"))
        folder.mkdir()
    except OSError:
        pytest.skip("file names must be UTF-8 here")
    study = make_study(folder, m=12)
    before = listing(folder)
    # A process of its own: pytest's standard error takes UTF-8 only.
    done = subprocess.run(
        [sys.executable, SCRIPT, study.bed, study.pheno, study.out("out"),
         "--scheduler", client.scheduler.address, "--parquet"],
        capture_output=True, check=False,
    )  # fmt: skip
    err = done.stderr.decode()
    assert "Traceback" not in err
    if done.returncode == 0:
        text = gzip.decompress(study.out("out.models.gz").read_bytes())
        assert len(text.splitlines()) == 13
    else:
        assert done.returncode == 2, err
        assert "UTF-8" in err
        assert listing(folder) == before
