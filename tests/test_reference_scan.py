"""The numbers of the reference data, through the command that a user types."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hlmm_dask.genotypes.plink import decode, open_plink, write_plink
from hlmm_dask.schema import TSV_HEADERS

Run = Callable[..., int]


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t")


def assert_agrees(ours: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Compare rows with the tolerances of a tight optimum."""
    assert list(ours.SNP) == list(expected.SNP)
    assert list(ours.n) == list(expected.n)
    for effect in ("add", "var"):
        error = (ours[effect] - expected[effect]) / expected[f"{effect}_se"]
        assert np.nanmax(np.abs(error)) < 1e-6
        np.testing.assert_allclose(ours[f"{effect}_se"], expected[f"{effect}_se"], rtol=1e-6)
        # In units of a standard error, too.
        np.testing.assert_allclose(
            ours[f"{effect}_t"], expected[f"{effect}_t"], atol=2e-6, rtol=1e-6
        )
        np.testing.assert_allclose(ours[f"{effect}_pval"], expected[f"{effect}_pval"], atol=1e-5)
    np.testing.assert_allclose(ours.av_pval, expected.av_pval, atol=1e-5)
    np.testing.assert_allclose(ours.frequency, expected.frequency, rtol=1e-14)
    np.testing.assert_allclose(ours.likelihood, expected.likelihood, rtol=0, atol=1e-6)
    if "h2" in expected:
        np.testing.assert_allclose(ours.h2, expected.h2, rtol=0, atol=1e-6)
    else:
        assert ours.h2.isna().all()
    assert list(ours.status == "ok") == list(expected["add"].notna())


def subset(bed: Path, index: pd.Series, out: Path) -> Path:
    """Write the variants of a reference table alone, for models that take long."""
    plink = open_plink(bed)
    counts = np.concatenate([decode(plink.read_packed(i, i + 1), plink.n_samples) for i in index])
    variants = pd.concat(list(plink.iter_variants())).iloc[list(index)]
    return write_plink(out, counts, plink.samples, variants)


def test_mouse_whole_genome(reference: Path, tmp_path: Path, run_script: Run) -> None:
    mouse, out = reference / "mouse", tmp_path / "mouse"
    assert run_script("scan", mouse / "mouse.bed", mouse / "pheno1.txt", out) == 0
    table = read(tmp_path / "mouse.models.gz")
    assert tuple(table.columns) == TSV_HEADERS
    assert len(table) == 12_226
    expected = read(mouse / "hlm_pheno1.tsv")
    assert_agrees(table.iloc[expected["index"]].reset_index(drop=True), expected)
    bim = pd.read_csv(mouse / "mouse.bim", sep=r"\s+", header=None, dtype=str)
    assert list(table.SNP) == list(bim[1])
    assert list(table.pos.astype(str)) == list(bim[3])
    assert list(table.effect_allele) == list(bim[4])
    # Dispersion of the reference's rows, from a table of these rows alone.
    part = tmp_path / "part.models.gz"
    table.iloc[expected["index"]].to_csv(part, sep="\t", index=False, na_rep="NaN")
    assert run_script("dispersion", part, tmp_path / "dispersion.models.gz") == 0
    ours, wanted = (
        read(tmp_path / "dispersion.models.gz"),
        read(mouse / "hlm_pheno1.dispersion.tsv"),
    )
    for name in ("dispersion", "dispersion_se"):
        np.testing.assert_allclose(ours[name], wanted[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["project", "fit"])
def test_mouse_sex(reference: Path, tmp_path: Path, run_script: Run, mode: str) -> None:
    mouse = reference / "mouse"
    expected = read(mouse / f"hlm_pheno1_sex_{mode}.tsv")
    bed = subset(mouse / "mouse.bed", expected["index"], tmp_path / "part.bed")
    sex = mouse / "sex.txt"
    options = ["--mean_covar", sex, "--var-covar", sex]
    options += ["--fit_covariates"] if mode == "fit" else []
    assert run_script("scan", bed, mouse / "pheno1.txt", tmp_path / "out", *options) == 0
    assert_agrees(read(tmp_path / "out.models.gz"), expected)
    null = json.loads((mouse / f"hlm_pheno1_sex_{mode}.null.json").read_text())
    for kind in ("mean", "variance"):
        lines = (tmp_path / f"out.null_{kind}_effects.txt").read_text().splitlines()
        rows = [line.split("\t") for line in lines]
        assert len(rows) == 2
        values = np.array([[float(x) for x in row[1:]] for row in rows])
        known = null[f"null_{kind}"]
        np.testing.assert_allclose(values[0], known["intercept"], rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(values[1], [known["effect"][0], known["se"][0]], rtol=1e-6)


def test_mouse_random_effects(reference: Path, tmp_path: Path, run_script: Run) -> None:
    mouse = reference / "mouse"
    expected = read(mouse / "hlmm_pheno1_random200.tsv")
    bed = subset(mouse / "mouse.bed", expected["index"], tmp_path / "part.bed")
    assert run_script(
        "scan", bed, mouse / "pheno1.txt", tmp_path / "out",
        "--random_gts", mouse / "random200.bed", "--block-size", 30,
    ) == 0  # fmt: skip
    assert_agrees(read(tmp_path / "out.models.gz"), expected)
    null = json.loads((mouse / "hlmm_pheno1_random200.null.json").read_text())
    h2, se = map(float, (tmp_path / "out.null_h2.txt").read_text().split())
    assert h2 == pytest.approx(null["null_h2"], abs=1e-6)
    assert se == pytest.approx(null["null_h2_se"], rel=1e-6)


def test_gamma(reference: Path, tmp_path: Path, run_script: Run) -> None:
    gamma = reference / "gamma"
    assert (
        run_script(
            "scan", gamma / "test.bed", gamma / "pheno.txt", tmp_path / "out", "--dispersion"
        )
        == 0
    )
    table = read(tmp_path / "out.models.gz")
    assert_agrees(table, read(gamma / "hlm.tsv"))
    expected = read(gamma / "hlm.dispersion.tsv")
    for name in ("dispersion", "dispersion_se"):
        np.testing.assert_allclose(table[name], expected[name], rtol=0, atol=1e-5)
    assert run_script("dispersion", tmp_path / "out.models.gz", tmp_path / "again.models.gz") == 0
    again = read(tmp_path / "again.models.gz")
    pd.testing.assert_frame_equal(again, table, rtol=1e-13)


def test_gamma_random_effects(reference: Path, tmp_path: Path, run_script: Run) -> None:
    gamma = reference / "gamma"
    assert run_script(
        "scan", gamma / "test.bed", gamma / "pheno.txt", tmp_path / "out",
        "--random_gts", gamma / "random.bed", "--range", 0, 20, "--block-size", 10,
    ) == 0  # fmt: skip
    expected = read(gamma / "hlmm_random100.tsv")
    assert_agrees(read(tmp_path / "out.models.gz"), expected)
    null = json.loads((gamma / "hlmm_random100.null.json").read_text())
    h2, se = map(float, (tmp_path / "out.null_h2.txt").read_text().split())
    assert h2 == pytest.approx(null["null_h2"], abs=1e-6)
    assert se == pytest.approx(null["null_h2_se"], rel=1e-6)
