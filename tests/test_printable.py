"""Nothing that a file holds commands the terminal, or hides on a page."""

import ast
from pathlib import Path
from unicodedata import category

import numpy as np
import pandas as pd
import pytest
from studies import write_values

from hlmm_dask.cli import loci_main, report_main, scan_main
from hlmm_dask.cli_followup import check_main, interact_main
from hlmm_dask.genotypes.plink import write_plink
from hlmm_dask.printable import line_of, printable
from hlmm_dask.view.feed import Feed

PACKAGE = Path(__file__).resolve().parents[1] / "hlmm_dask"
N, M = 300, 24
TITLE, RED, CSI, RIGHT_TO_LEFT, NO_WIDTH = "\x1b]0;x\x07", "\x1b[31m", "\x9b2J", "\u202e", "\u200b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rs1 é 日本 µ", "rs1 é 日本 µ"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
        (f"{RED}rs1", r"\x1b[31mrs1"),
        (f"{CSI}\x7f\r\x08", r"\x9b2J\x7f\x0d\x08"),
        (f"{RIGHT_TO_LEFT}1{NO_WIDTH}\ufeff\u2066", r"\u202e1\u200b\ufeff\u2066"),
        ("tab\tline\u2028\udc80\U000e0041", r"tab\tline\u2028\udc80\U000e0041"),
    ],
)
def test_what_can_not_be_seen_is_escaped(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


def test_a_line_is_one_line_and_its_words_are_cut():
    allele = "1:5:" + "ACGT" * 500
    path = "/".join(["/data", *["x" * 200] * 4])
    line = line_of(f"{allele} in {path}\nand {allele[:120]}")
    words = line.split()
    assert words[0] == allele[:119] + "…"
    assert words[2:] == [path, "and", allele[:120]]
    assert line_of(allele, whole=True) == allele


def prints(node):
    """Whether code prints words with ``print``, or as a console does."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute):
        return node.func.attr == "print"
    return isinstance(node.func, ast.Name) and node.func.id == "print" and bool(node.args)


def test_one_function_writes_to_the_terminal():
    callers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(map(prints, ast.walk(ast.parse(path.read_text("utf-8")))))
    }
    # The search for variance components prints numbers.
    assert callers == {"printable.py", "view/terminal.py", "models/vc_maximise.py"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, client):
    """A scan of files whose every name is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(5)
    samples = pd.DataFrame(
        {"fid": [f"{RED}f{i}" for i in range(N)], "iid": [f"i{i}{NO_WIDTH}" for i in range(N)]}
    )
    counts = rng.binomial(2, 0.4, (M, N)).astype(np.int8)
    variants = pd.DataFrame(
        {
            "contig": [f"{CSI}1"] * (M // 2) + [f"{RIGHT_TO_LEFT}2"] * (M // 2),
            "variant_id": [f"{TITLE}rs{j}{RIGHT_TO_LEFT}$\\x{{$" for j in range(M - 1)]
            + [f"{RED}{'A' * 3000}"],
            "position": np.arange(M) * 400_000 + 1, "allele1": "A", "allele2": f"{RED}G",
        }
    )  # fmt: skip
    write_plink(folder / "g.bed", counts, samples, variants)
    y = counts[M - 1] + rng.standard_normal(N) * (1 + counts[3])
    for name, column, values in (
        ("y", f"he{TITLE}ight{RIGHT_TO_LEFT}$\\x{{$", y),
        ("c", f"a{CSI}ge", rng.standard_normal(N)),
    ):
        path = write_values(folder / f"{name}.txt", samples, values)
        path.write_text(f"FID\tIID\t{column}\n" + path.read_text("utf-8"), "utf-8")
    files = [str(folder / name) for name in ("g.bed", "y.txt")]
    return folder, files, ["--scheduler", client.scheduler.address]


def hidden(text):
    return {c for c in text if category(c) in ("Cc", "Cf", "Zl", "Zp") and c != "\n"}


def test_names_do_not_reach_terminal_log_or_page(hostile, capfd, monkeypatch):
    folder, files, where = hostile
    monkeypatch.chdir(folder)
    covariates = ["--mean-covar", "c.txt", "--var-covar", "c.txt"]
    words = [*files, "out", *covariates, *where]
    assert scan_main([*words, "--dry-run"]) == 0
    assert scan_main([*words, "--report", "--plots", "--dispersion"]) == 0
    assert loci_main(["out", "--p", "1", "--top", "3", "--plots"]) == 0
    assert check_main(["out", "--top", "2", "--permutations", "40", "--bootstrap", "20"]) == 0
    assert interact_main(["out", "--top", "2", "--covar", "c.txt", "--plots"]) == 0
    assert report_main(["out"]) == 0
    out, err = capfd.readouterr()
    assert r"\x1b]0;x\x07rs" in out
    assert r"\x1b]0;x\x07rs" in err
    assert hidden(out) | hidden(err) == set()
    assert max(len(word) for word in (out + err).split() if "/" not in word) <= 120
    assert hidden((folder / "out.log").read_text("utf-8")) == set()
    assert hidden((folder / "out.report.html").read_text("utf-8")) == set()
    feed = Feed("out.zarr")
    feed.poll()
    assert hidden("".join(map(str, feed.since(0).values()))) == set()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--phen-index", f"{RED}weight"],
        ["--mean-covar", f"no{CSI}.txt"],
        ["--mean-covar", "c.txt", "--mean-covar-cols", f"{TITLE}x"],
        [f"--{RED}option"],
    ],
    ids=["phenotype", "file", "column", "option"],
)
def test_nor_do_those_in_errors(hostile, capfd, monkeypatch, wrong):
    folder, files, where = hostile
    monkeypatch.chdir(folder)
    try:
        code = scan_main([*files, "wrong", *where, *wrong])
    except SystemExit as end:
        code = end.code
    assert code == 2
    out, err = capfd.readouterr()
    assert hidden(out) | hidden(err) == set()
    assert "\\x" in err
