"""Transforms of the phenotype: their values, scans of several in one pass, and what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from studies import Study, write_values

import hlmm_dask
from hlmm_dask.cli import report_main
from hlmm_dask.errors import InputError
from hlmm_dask.export import read_models_table
from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.transforms import chosen_transforms, rank_normal

Run = Callable[..., int]

ALL = ("none", "log", "rint")


@pytest.fixture
def positive(study: Study) -> Study:
    """A phenotype above 0 with ties, missing for some; those values would have no logarithm."""
    y = np.round(np.exp(0.3 * study.y - 0.3 * study.y.mean()), 2) + 0.01
    y[::7] = np.nan
    write_values(study.pheno, study.samples, y)
    return study


@given(arrays(float, st.integers(1, 60), elements=st.integers(-4, 4).map(float)))
def test_rint_is_blom_s_with_ties_averaged(values: np.ndarray) -> None:
    expected = stats.norm.ppf((stats.rankdata(values) - 0.375) / (len(values) + 0.25))
    np.testing.assert_allclose(rank_normal(values), expected, rtol=1e-13, atol=1e-15)


def test_one_pass_is_three_scans(
    positive: Study, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The values are those of the definition, and each table that of a scan of them alone."""
    common = ["--mean_covar", positive.covar, "--block-size", 20]
    y = pd.read_csv(positive.pheno, sep="\t", header=None)[2].to_numpy()
    has = np.isfinite(y)
    scores = stats.norm.ppf((stats.rankdata(y[has]) - 0.375) / (has.sum() + 0.25))
    by_hand = {"none": y, "log": np.log(y), "rint": np.full(len(y), np.nan)}
    by_hand["rint"][has] = scores
    given = (positive.bed, positive.pheno)
    assert run_script("scan", *given, positive.out("all"), *common, "--transform",
                      "none,log,rint", "--report") == 0  # fmt: skip
    written = positive.out("all.log.report.html").read_text("utf-8")
    positive.out("all.log.report.html").unlink()
    assert report_main([str(positive.out("all"))]) == 0  # of all transforms of the scan
    assert positive.out("all.log.report.html").read_text("utf-8") == written
    for name in ALL:
        page = positive.out(f"all.{name}.report.html").read_text("utf-8")
        assert f"Phenotype 1{'' if name == 'none' else f', {name}'}: effects on mean" in page
        assert re.findall('aria-label="(raw|log|rint):', page) == ["raw", "log", "rint"]
        assert "copies: mean" in page  # drawn from the transformed phenotype
    assert run_script("scan", *given, positive.out("solo"), *common, "--transform", "log") == 0
    for name in ALL:
        values = write_values(positive.folder / f"{name}.txt", positive.samples, by_hand[name])
        hand = hlmm_dask.fit_null(positive.bed, values, mean_covariates=positive.covar)
        null = hlmm_dask.fit_null(*given, mean_covariates=positive.covar, transform=name)
        np.testing.assert_allclose(null.model.y, hand.model.y, rtol=1e-10, atol=1e-12)
    ranks = positive.folder / "rint.txt"
    assert run_script("scan", positive.bed, ranks, positive.out("hand"), *common) == 0
    for name, alone in (("log", "solo"), ("rint", "hand")):
        together = read_models_table(positive.out(f"all.{name}.models.gz"))
        assert together["status"].eq("ok").sum() > 40
        table = read_models_table(positive.out(f"{alone}.models.gz"))
        pd.testing.assert_frame_equal(together, table, rtol=1e-10)
    assert not positive.out("all.models.gz").exists()
    (run,) = json.loads(positive.out("all.run.json").read_text())["runs"]
    assert run["options"]["transform"] == "none,log,rint"
    assert [p["transform"] for p in run["phenotypes"]] == list(ALL)
    assert (
        "phenotype '1, rint', null model: mean of Intercept" in positive.out("all.log").read_text()
    )
    # The transform is a part of what a store was made of.
    capsys.readouterr()
    again = [*given, positive.out("solo"), *common, "--resume"]
    assert run_script("scan", *again, "--transform", "rint") == 2
    assert "transform" in capsys.readouterr().err
    assert run_script("scan", *again, "--transform", "log") == 0


def test_each_block_is_read_once(positive: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[int, int]] = []
    read = PlinkGenotypes.read_into

    def counted(self: PlinkGenotypes, out: np.ndarray, start: int) -> None:
        reads.append((start, start + len(out)))
        read(self, out, start)

    nulls = [hlmm_dask.fit_null(positive.bed, positive.pheno, transform=name) for name in ALL]
    assert [null.title for null in nulls] == ["1", "1, log", "1, rint"]
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0",
                set_as_default=False) as client:  # fmt: skip
        monkeypatch.setattr(PlinkGenotypes, "read_into", counted)
        solo = hlmm_dask.scan(positive.bed, nulls[1], client=client, block_size=20)
        once = sorted(reads)
        reads.clear()
        several = hlmm_dask.scan(positive.bed, nulls, client=client, block_size=20)
    assert sorted(reads) == once
    assert len(once) >= 3
    assert [each.attrs["transform"] for each in several] == list(ALL)
    np.testing.assert_array_equal(several[1]["var"], solo["var"])
    assert not np.allclose(several[0]["var"], solo["var"], equal_nan=True)


def test_several_phenotypes_and_transforms(
    positive: Study, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.stack([np.exp(positive.y / 50.0), np.arange(1.0, len(positive.y) + 1)], axis=1)
    write_values(positive.pheno, positive.samples, values)
    arguments = [positive.bed, positive.pheno, positive.out("o"), "--phen_index", "all"]
    arguments += ["--transform", "rint,log", "--range", 0, 20]
    assert run_script("scan", *arguments, "--dry-run") == 0
    assert "phenotype '2, log', model" in capsys.readouterr().out
    assert run_script("scan", *arguments) == 0
    tables = {path.name for path in positive.folder.glob("o*.models.gz")}
    assert tables == {f"o.{i}.{name}.models.gz" for i in (1, 2) for name in ("log", "rint")}


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_no_logarithm_of_what_is_not_above_zero(
    positive: Study, run_script: Run, capsys: pytest.CaptureFixture[str], dry: tuple[str, ...]
) -> None:
    y = np.arange(1.0, 301.0)
    y[[12, 40, 41]] = [-9.5, 0.0, np.nan]
    write_values(positive.pheno, positive.samples, y)
    arguments = [positive.bed, positive.pheno, positive.out("o"), "--transform", "rint,log"]
    assert run_script("scan", *arguments, *dry) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert f"{positive.pheno}, phenotype '1': 2 of 299 analysed samples" in line
    assert "first -9.5 of FID f6 IID i12; --transform log takes values above 0" in line
    assert not list(Path(positive.folder).glob("o*"))
    # Only analysed samples matter: without a covariate, those two are none.
    covariates = positive.covariates.copy()
    covariates[[12, 40]] = np.nan
    write_values(positive.covar, positive.samples, covariates)
    assert run_script("scan", *arguments, "--mean_covar", positive.covar, *dry) == 0


def test_what_is_no_transform(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen_transforms("rint, none,rint") == ["rint", "none"]
    for text in ("sqrt", "none,", ""):
        with pytest.raises(InputError, match="expected none, log or rint"):
            chosen_transforms(text)
    with pytest.raises(InputError, match="transform 'none,log'"):
        hlmm_dask.fit_null(study.bed, study.pheno, transform="none,log")
    null = hlmm_dask.fit_null(study.bed, study.pheno)
    with pytest.raises(InputError, match="2 paths for 1 null models"):
        hlmm_dask.scan(study.bed, null, out=["a", "b"])
    with pytest.raises(InputError, match="takes one null model"):
        hlmm_dask.scan(study.bed, [null, null], background=True)
