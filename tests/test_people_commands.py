"""Tables of people in the commands: the same forms, columns and missing values everywhere."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from studies import Study, make_study, write_values

from hlmm_dask import InputError, fit_lmm_null, fit_null
from hlmm_dask.cli import fit_main, kinship_main, loci_main, scan_main
from hlmm_dask.cli_followup import check_main, interact_main
from hlmm_dask.cli_options import joined, scan_parser
from hlmm_dask.relationship.kinship import Kinship
from hlmm_dask.view.leads import missing_values

Capture = pytest.CaptureFixture[str]


def rows(study: Study, values: np.ndarray, form: str, sep: str = "\t") -> str:
    """Lines of a table, from its IDs on."""
    people = zip(study.samples["fid"], study.samples["iid"], values.tolist(), strict=True)
    return "".join(sep.join([form.format(fid=f, iid=i), *map(str, v)]) + "\n" for f, i, v in people)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Study:
    """A scan whose files have no FIDs: -9 and 99 among the phenotypes, a covariate as CSV."""
    study = make_study(tmp_path_factory.mktemp("people"), n=200, m=24)
    y = study.y.copy()
    y[:20], y[20:30] = -9, 99
    traits = np.column_stack([np.full(200, "text"), y, study.y])
    (study.folder / "p.tsv").write_text("#IID\tnote\t1\theight\n" + rows(study, traits, "{iid}"))
    (study.folder / "c.csv").write_text(
        '"IID","sex","age"\n' + rows(study, study.covariates, '"{iid}"', ",")
    )
    sex = np.where(study.covariates[:, :1] == 1, "Male", "F")
    sex[-3:] = "NA"
    (study.folder / "sex.tsv").write_text("#IID\tSEX\n" + rows(study, sex, "{iid}"))
    options = ["--phen-index", "name:1", "--missing-char", "x,99", "--mean-covar", "c.csv"]
    options += ["--mean-covar-cols", "age", "--var-covar", "c.csv", "--var-covar-cols", "1"]
    paths = [study.folder / word if word.endswith("csv") else word for word in options]
    words = [study.bed, study.folder / "p.tsv", study.out("out"), *paths]
    assert scan_main([*map(str, words), "--scheduler", client.scheduler.address]) == 0
    return study


def test_scan_is_that_of_plain_tables(scanned: Study, tmp_path: Path) -> None:
    y = scanned.y.copy()
    y[:30] = np.nan
    plain = fit_null(
        scanned.bed,
        write_values(tmp_path / "y.txt", scanned.samples, y),
        mean_covariates=write_values(
            tmp_path / "age.txt", scanned.samples, scanned.covariates[:, 1]
        ),
        variance_covariates=write_values(
            tmp_path / "sex.txt", scanned.samples, scanned.covariates[:, 0]
        ),
    )
    effects = pd.read_csv(
        f"{scanned.out('out')}.null_variance_effects.txt", sep=r"\s+", header=None
    )
    assert effects.iloc[:, 0].tolist() == ["Intercept", "sex"]
    np.testing.assert_allclose(effects.iloc[:, 1], plain.variance_effects.effects, rtol=1e-5)
    from_python = fit_null(
        scanned.bed, scanned.folder / "p.tsv", phenotype_column=2, missing=["99"]
    )
    assert from_python.phenotype_name == "1"
    assert from_python.n_samples == 170
    log = Path(f"{scanned.out('out')}.log").read_text()
    assert "phenotype '1': 20 of 200 values are -9, a missing value; give --no-minus9" in log


def test_followup_opens_the_same_tables(scanned: Study, tmp_path: Path, capsys: Capture) -> None:
    out, sex = str(scanned.out("out")), scanned.folder / "sex.tsv"
    assert loci_main([out, "--p", "0.5", "--sex", str(sex), "--transform", "none"]) == 0
    assert "the sex of 3 of 170 analysed samples is unknown (first: " in capsys.readouterr().err
    assert check_main([out, "--top", "1", "--permutations", "50", "--bootstrap", "9"]) == 0
    exposure = tmp_path / "e.txt"
    values = np.column_stack([scanned.covariates[:, 1], np.full(200, "x"), scanned.y])
    exposure.write_text("IID 2 site 1\n" + rows(scanned, values, "{iid}", " "))
    tables = []
    for column in ("1", "name:2"):
        command = [out, "--top", "1", "--covar", f"{exposure}:{column}", "--overwrite"]
        assert interact_main(command) == 0
        tables.append(Path(f"{out}.interaction.tsv").read_text())
    assert tables[0] == tables[1]
    assert interact_main([out, "--top", "1", "--covar", f"{exposure}:9", "--overwrite"]) == 2
    assert "no column '9', expected one of 1 '2', 2 'site', 3 '1'" in capsys.readouterr().err


def test_fit_takes_the_first_column(scanned: Study, tmp_path: Path, capsys: Capture) -> None:
    table = tmp_path / "t.txt"
    table.write_text("#IID bmi 1\n" + rows(scanned, np.column_stack([scanned.y] * 2), "{iid}", " "))
    options = ["--var-covar", scanned.folder / "c.csv", "--var-covar-cols", "sex"]
    assert fit_main([str(w) for w in (table, tmp_path / "o", *options)]) == 0
    assert "phenotype 'bmi': 200 samples" in capsys.readouterr().err
    assert fit_main([str(w) for w in (table, tmp_path / "o", "--phen-index", "bmi,7,z")]) == 2
    assert "no column '7', 'z', expected one of 1 'bmi', 2 '1'" in capsys.readouterr().err


def test_keep_without_fid(scanned: Study, tmp_path: Path) -> None:
    ids = scanned.samples["iid"][:40]
    for name, text in {
        "iid": "#IID\n" + "".join(f"{i}\n" for i in ids),
        "bare": "".join(f"{i}\n" for i in ids),
        "both": "#FID\tIID\n" + rows(scanned, np.empty((200, 0)), "{fid}\t{iid}"),
    }.items():
        keep = tmp_path / f"{name}.txt"
        keep.write_text(text)
        command = [str(scanned.bed), str(tmp_path / name), "--keep", str(keep), "--all-chromosomes"]
        assert kinship_main(command) == 0
        with np.load(tmp_path / f"{name}.npz") as matrix:
            assert len(matrix["iid"]) == (200 if name == "both" else 40)
            assert matrix["fid"][3] == "f1"


def test_all_unusable_phenotypes_are_named(scanned: Study, tmp_path: Path, capsys: Capture) -> None:
    table = tmp_path / "t.txt"
    values = np.column_stack([scanned.y, np.ones(200), np.full(200, -9), np.full(200, 3)])
    table.write_text("FID IID a b c d\n" + rows(scanned, values, "{fid} {iid}", " "))
    assert (
        scan_main([str(scanned.bed), str(table), str(tmp_path / "o"), "--phen-index", "all"]) == 2
    )
    error = capsys.readouterr().err
    assert "phenotype 'b': the same value 1" in error
    assert "nor can these phenotypes be used: 'c', 'd'" in error


# -- missing values ---------------------------------------------------------------------------


def test_missing_char_may_be_given_several_times() -> None:
    words = joined(["g.bed", "y", "o", "--missing-char", "-9,-99", "--missing_char", "x"])
    assert scan_parser().parse_intermixed_args(words).missing_char == ["-9,-99", "x"]


@pytest.mark.parametrize(
    ("options", "no_minus9"),
    [({"missing_char": "NA"}, True), ({"missing_char": ["x"], "no_minus9": False}, False)],
)
def test_minus_nine_of_a_record(options: dict[str, object], no_minus9: bool) -> None:
    # Earlier versions, whose records lack the option, took it for a number.
    missing, found = missing_values(options)
    assert found is no_minus9
    assert missing.means(b"NA")


# -- as few samples as parameters -------------------------------------------------------------


def few(study: Study, path: Path, n: int) -> Path:
    y = np.full(len(study.y), np.nan)
    y[100 : 100 + n] = study.y[100 : 100 + n]
    return write_values(path, study.samples, y)


def test_more_samples_than_a_variants_model_has(
    scanned: Study, tmp_path: Path, capsys: Capture
) -> None:
    four, five = (few(scanned, tmp_path / f"{n}.txt", n) for n in (4, 5))
    assert scan_main([str(scanned.bed), str(four), str(tmp_path / "o")]) == 2
    assert "4 samples are left for 4 parameters of a model" in capsys.readouterr().err
    assert list(tmp_path.glob("o*")) == []
    assert fit_null(scanned.bed, five).n_samples == 5
    with pytest.raises(InputError, match="5 samples are left for 5 parameters"):
        fit_null(scanned.bed, five, random_genotypes=scanned.bed)
    ids = list(zip(scanned.samples["fid"], scanned.samples["iid"], strict=True))
    with pytest.raises(InputError, match="4 samples are left for 4 parameters"):
        fit_lmm_null(scanned.bed, four, kinship=Kinship(ids, np.eye(200)))
    # A model without a variant has fewer.
    fit: Callable[..., int] = fit_main
    two, three = (few(scanned, tmp_path / f"{n}.txt", n) for n in (2, 3))
    assert fit([str(two), str(tmp_path / "f")]) == 2
    assert "2 samples are left for 2 parameters" in capsys.readouterr().err
    assert fit([str(three), str(tmp_path / "f")]) == 0
