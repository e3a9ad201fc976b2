"""Binary, nearly constant and coarse phenotypes: what their tests mean is said."""

import json

import numpy as np
import pytest
from studies import make_study, write_values

from hlmm_dask.cli import fit_main, scan_main
from hlmm_dask.discrete import cautions_of

N = 600


def values(kind):
    rng = np.random.default_rng(4)
    y = rng.standard_normal(N)
    return {
        "continuous": y,
        "rounded": np.round(y, 1),
        "binary": (y > 0.5) * 1.0,
        "case": np.where(y > 2.0, 2.0, 1.0),
        "few": rng.integers(1, 6, N) * 1.0,
        "zeros": np.where(y > 0.0, np.exp(y), 0.0),
        "nearly": np.where(y > 2.0, y, 0.0),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("continuous", []),
        ("rounded", []),
        ("binary", ["is binary"]),
        ("case", ["is binary"]),
        ("few", ["has only 5 different values"]),
        ("zeros", ["has one frequent value (", "have the value 0)"]),
        ("nearly", ["is nearly constant"]),
    ],
)
@pytest.mark.parametrize("transform", [np.array, np.exp, np.cbrt])
def test_what_the_values_mean(kind, said, transform):
    lines = cautions_of("phenotype 'y'", transform(values(kind)))
    if transform is not np.array:
        said = [word.replace("value 0", "value ").removesuffix(")") for word in said]
    assert len(lines) == bool(said)
    for word in said:
        assert word in lines[0]
        assert "effect on the variance" in lines[0]


def test_values_that_differ_in_their_last_digits():
    y = np.random.default_rng(4).standard_normal(N)
    (line,) = cautions_of("phenotype 'y'", 5.0 + 1e-9 * y)
    assert "is nearly constant (mean 5, standard deviation" in line
    assert cautions_of("phenotype 'y'", 1.7e9 + 1e7 * y) == ()


def test_two_values_of_a_dozen_samples_are_binary():
    (line,) = cautions_of("phenotype 'y'", (np.arange(12.0) == 3) * 1.0)
    assert "with one sample of the rarer value" in line


def test_a_handful_of_samples_is_no_class():
    assert cautions_of("phenotype 'y'", np.arange(12.0) % 3) == ()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with a binary phenotype beside the other, and a covariate."""
    study = make_study(tmp_path_factory.mktemp("binary"))
    rng = np.random.default_rng(7)
    y = rng.standard_normal(len(study.samples))
    write_values(study.folder / "both.txt", study.samples, np.column_stack([y, y > 0.3]))
    write_values(study.folder / "c.txt", study.samples, rng.standard_normal(len(y)))
    return study


@pytest.mark.parametrize("options", [[], ["--transform", "rint"], ["--fit-covariates"]])
def test_terminal_log_and_report_say_it(study, tmp_path, capsys, client, options):
    out = tmp_path / "out"
    words = [study.bed, study.folder / "both.txt", out, "--phen-index", "1,2", "--mean-covar",
             study.folder / "c.txt", *options, "--report", "--scheduler",
             client.scheduler.address]  # fmt: skip
    assert scan_main([str(word) for word in words]) == 0
    said = "phenotype '2' is binary"
    assert capsys.readouterr().err.count(said) == 1
    assert said in (tmp_path / "out.log").read_text("utf-8")
    run = json.loads((tmp_path / "out.run.json").read_text("utf-8"))["runs"][-1]
    assert [len(p["cautions"]) for p in run["phenotypes"]] == [0, 1]
    page = (tmp_path / "out.2.report.html").read_text("utf-8")
    assert "is binary" in page.partition("To be kept in mind")[2].partition("</section>")[0]
    page = (tmp_path / "out.1.report.html").read_text("utf-8")
    assert "is binary" not in page.partition("To be kept in mind")[2].partition("</section>")[0]


def test_one_model_says_it(study, tmp_path, capsys):
    table = str(study.folder / "both.txt")
    assert fit_main([table, str(tmp_path / "out"), "--phen-index", "2"]) == 0
    assert "phenotype '2' is binary" in capsys.readouterr().err
