"""Variants with a negative position have a row in every table and are used nowhere."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from studies import Study, make_study, write_values

import hlmm_dask
from hlmm_dask import fit_null, open_bed
from hlmm_dask.export import read_models_table
from hlmm_dask.genotypes.plink import write_plink
from hlmm_dask.schema import COUNTED_COLUMNS, Status

Run = Callable[..., int]
# Of the variants of the study: fitted, monomorphic, the last.
MARKED = {10: -5, 2: -10, 30: -8, 59: -1_000_000}
# Unknown positions: 0 and -9, as PLINK writes them.
UNKNOWN = {12: 0, 13: -9, 20: -9}


@pytest.fixture
def marked(tmp_path: Path) -> tuple[Study, Path]:
    """Give a study, and its genotypes with marked and unknown positions."""
    study = make_study(tmp_path, contigs=("1", "2"))
    table = study.variants.copy()
    for row, position in (MARKED | UNKNOWN).items():
        table.loc[row, "position"] = position
    return study, write_plink(tmp_path / "marked.bed", study.counts, study.samples, table)


@pytest.mark.parametrize("model", ["hlm", "hlmm", "lmm"])
@pytest.mark.parametrize("dataset", [False, True])
def test_they_have_a_row_and_a_status(
    marked: tuple[Study, Path], client: Client, model: str, dataset: bool
) -> None:
    study, bed = marked
    y = study.pheno
    if model == "lmm":
        kinship = hlmm_dask.relationship_matrix(study.bed)
        null = hlmm_dask.fit_lmm_null(study.bed, y, kinship=kinship)
    elif model == "hlmm":
        write_plink(study.out("g"), study.counts[::7], study.samples, study.variants[::7])
        null = fit_null(study.bed, y, random_genotypes=study.out("g"))
    else:
        null = fit_null(study.bed, y)
    genotypes = open_bed(bed) if dataset else bed
    found = hlmm_dask.scan(genotypes, null, client=client, block_size=13)
    expected = hlmm_dask.scan(study.bed, null, client=client, block_size=13)
    rows = list(MARKED)
    others = np.setdiff1d(np.arange(60), rows)
    assert (found["status"].values[rows] == Status.NEGATIVE_POSITION).all()
    for name in found.data_vars:
        a, b = found[name].values, expected[name].values
        np.testing.assert_array_equal(a[others], b[others])
        if name in COUNTED_COLUMNS:
            np.testing.assert_array_equal(a[rows], b[rows])
        elif name != "status":
            assert np.isnan(a[rows]).all()
    assert (expected["status"].values[list(UNKNOWN)] == Status.OK).all()


def test_they_are_counted_and_in_no_other_file(
    marked: tuple[Study, Path], run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    study, bed = marked
    out = study.out("out")
    formats = ["--format", "ssf,ldsc,regenie,gwas-vcf"]
    assert run_script("scan", bed, study.pheno, out, *formats, "--min-maf", 0) == 0
    said = capsys.readouterr().err
    assert "marked.bim: 4 of 60 variants have a negative position" in said
    assert "(first: 'rs2', 'rs10', 'rs30', 'rs59')" in said
    assert "marked.bim: 2 of 60 variants have the position -9, taken as unknown" in said
    table = read_models_table(f"{out}.models.gz")
    assert len(table) == 60
    assert table["status"].value_counts()["negative_position"] == 4
    assert table["pos"][list(MARKED)].tolist() == list(MARKED.values())
    for file, held in (("mean.sumstats", 60 - 4), ("mean.regenie", 60 - 7), ("gwas.vcf", 60 - 7)):
        text = gzip.decompress(Path(f"{out}.{file}.gz").read_bytes()).decode()
        words = {word for line in text.splitlines() for word in line.split()}
        unknown = {f"rs{row}" for row in UNKNOWN}
        assert not {f"rs{row}" for row in MARKED} & words
        assert (unknown <= words) == (held == 56)
    # Nothing is known of them in what follows, whether they are asked for or not.
    covar = write_values(study.out("e.txt"), study.samples, study.covariates[:, 1])
    assert run_script("interact", out, "--covar", covar, "--variants", "rs10,rs12") == 0
    followed = pd.read_csv(f"{out}.interaction.tsv", sep="\t")
    assert followed["status"].tolist() == ["negative_position", "ok"]
    assert run_script("check", out, "--variants", "rs10,rs12", "--permutations", 50) == 0
    assert pd.read_csv(f"{out}.check.tsv", sep="\t")["status"].tolist()[0] == "negative_position"
