"""One reader for all files of people: headers, quotes, row names, separators, missing IDs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hlmm_dask.errors import InputError
from hlmm_dask.followup.sex import sex_notes, sex_of_fam, sex_of_table
from hlmm_dask.ids import id_hints, with_fids
from hlmm_dask.missing import Missing, code_note
from hlmm_dask.people import read_ids
from hlmm_dask.random_effects import random_effects
from hlmm_dask.relationship.files import read_kinship
from hlmm_dask.samples import align
from hlmm_dask.tables import Table, by_name, read_column, read_table

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str, name: str = "t.txt") -> Path:
        path = tmp_path / name
        path.write_text(content)
        return path

    return write


def frame(*ids: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(ids), columns=["fid", "iid"], dtype=str)


@pytest.mark.parametrize("token", ["n.a.", "missing", "unknown", "#N/A", "<NA>"])
def test_a_missing_word_in_the_first_line_is_no_header(write: Write, token: str) -> None:
    with pytest.raises(InputError, match=r"line 1, column '1'.*is not a number"):
        read_table(write(f"a a {token}\nb b 1\n"))


def test_sex_without_header(write: Write) -> None:
    path = str(write("a a M\nb b F\nc c 2\n"))
    people = frame(("a", "a"), ("b", "b"), ("c", "c"))
    assert sex_of_table(path, people, Missing()).tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    "header",
    ["eid bmi height", "ID y x", "f.eid f.31.0.0 f.21.0.0", "FID bmi whr", "sample age bmi",
     "fam id 2020"],
)  # fmt: skip
def test_a_header_that_names_one_id_is_refused(write: Write, header: str) -> None:
    with pytest.raises(InputError, match=r"line 1: .* looks like a header; name its ID columns"):
        read_table(write(f"{header}\n1 22 170\n2 24 180\n"))


def test_a_header_with_other_names_of_ids(write: Write) -> None:
    table = read_table(write("Family_ID Individual_ID y\n1 2 170\n2 4 180\n"))
    assert table.ids == [("1", "2"), ("2", "4")]
    assert table.names == ("y",)


# -- the forms of a table ---------------------------------------------------------------------

FORMS = {
    "spaces": "FID IID bmi whr\nf1 10 1.5 2\nf2 20 NA 3\n",
    "plink 2": "#FID\tIID\tbmi\twhr\nf1\t10\t1.5\t2\nf2\t20\tNA\t3\n",
    "with SID": "#FID\tIID\tSID\tbmi\twhr\nf1\t10\ts\t1.5\t2\nf2\t20\ts\tNA\t3\n",
    "exchanged": "IID FID bmi whr\n10 f1 1.5 2\n20 f2 NA 3\n",
    "quoted header": '"FID" "IID" "bmi" "whr"\nf1 10 1.5 2\nf2 20 NA 3\n',
    "all quoted": '"FID" "IID" "bmi" "whr"\n"f1" "10" "1.5" "2"\n"f2" "20" NA "3"\n',
    "quoted, tabs": '"FID"\t"IID"\t"bmi"\t"whr"\n"f1"\t"10"\t1.5\t2\n"f2"\t"20"\t\t3\n',
    "row names": '"FID" "IID" "bmi" "whr"\n"1" "f1" "10" 1.5 2\n"2" "f2" "20" NA 3\n',
    "row names, subset": '"FID" "IID" "bmi" "whr"\n"7" "f1" "10" 1.5 2\n"9" "f2" "20" NA 3\n',
    "row names, bare": "FID IID bmi whr\n1 f1 10 1.5 2\n2 f2 20 NA 3\n",
    "col.names = NA": '"" "FID" "IID" "bmi" "whr"\n"1" "f1" "10" 1.5 2\n"2" "f2" "20" NA 3\n',
    "csv": "FID,IID,bmi,whr\nf1,10,1.5,2\nf2,20,,3\n",
    "csv, spaces": "FID, IID, bmi, whr\nf1, 10, 1.5, 2\nf2, 20, NA, 3\n",
    "write.csv": '"","FID","IID","bmi","whr"\n"1","f1","10",1.5,2\n"2","f2","20",NA,3\n',
    "pandas": ",FID,IID,bmi,whr\n0,f1,10,1.5,2\n1,f2,20,,3\n",
    "semicolons": "FID;IID;bmi;whr\nf1;10;1.5;2\nf2;20;;3\n",
    "empty cell": "FID\tIID\tbmi\twhr\nf1\t10\t1.5\t2\nf2\t20\t\t3\n",
    "dot": "fid iid bmi whr\nf1 10 1.5 2\nf2 20 . 3\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(write: Write, form: str) -> None:
    table = read_table(write(FORMS[form]))
    assert table.ids == [("f1", "10"), ("f2", "20")]
    assert table.names == ("bmi", "whr")
    np.testing.assert_array_equal(table.values, [[1.5, 2], [np.nan, 3]])
    assert table.has_fid
    assert table.line_numbers.tolist() == [2, 3]


@pytest.mark.parametrize("header", ["#IID", "IID", "iid", '"#IID"', "#iid\tSID"])
def test_iid_only(write: Write, header: str) -> None:
    sid = "\ts" * ("SID" in header)
    table = read_table(write(f"{header}\tbmi\theight\nS0{sid}\t-1.42\t2\nS1{sid}\t0.51\t3\n"))
    assert table.ids == [("0", "S0"), ("0", "S1")]
    assert table.names == ("bmi", "height")
    assert not table.has_fid
    assert any("no FID column, people are matched by IID alone" in n for n in table.notes)


def test_tabs_and_spaces_are_mixed(write: Write) -> None:
    table = read_table(write(" 0\t1\t0.5 NA\n"))
    assert table.ids == [("0", "1")]
    np.testing.assert_array_equal(table.values, [[0.5, np.nan]])


def test_names_with_spaces_between_tabs(write: Write) -> None:
    table = read_table(write("FID\tIID\tbody mass\tage\na\tb\t\t1\nc\td\t2\t\n"))
    assert table.names == ("body mass", "age")
    np.testing.assert_array_equal(table.values, [[np.nan, 1], [2, np.nan]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("FID IID y\na b 1\nFID IID y\nc d 2\n", "line 3: a header line in the middle"),
        ("#IID\ty\na\t1\n#IID\tz\tx\nc\t2\t3\n", "line 3: a header line in the middle"),
        ('a b 1\n"FID" "IID" "y"\nc d 2\n', "line 2: a header line in the middle"),
        ("family person y\na b 1\nfamily person y\n", "line 3: a header line in the middle"),
        ("a b -1,8597\nc d 1,2\n", "line 1, column '1': '-1,8597' .* decimal comma"),
        ("FID IID y\na b -1,8597\n", "line 2, column 'y': '-1,8597' .* decimal comma"),
        ("FID;IID;y\na;b;-1,8597\n", "line 2, column 'y': '-1,8597' .* decimal comma"),
        ("FID IID sex\na b male\n", "'male' is not a number but text: a category, no missing"),
        ("FID IID y\na b ?\n", "'\\?' is not a number; if it means missing, give --missing-char"),
        ("FID IID y\na b n/a\n", "'n/a' is not a number; if it means missing, give --missing-char"),
        ("FID IID y\na b 1 2\nc d 3 4\n", "line 2: 4 fields, but 3 names in the header"),
        ("FID,IID,y\n,b,1\n", "line 2: an empty ID"),
        ("age IID FID\n30 a b\n", "FID and IID are not the first"),
        ("S0 -1.42613 -0.33\nS1 0.506277 2\n", "'-1.42613' stands where the IID is expected"),
        ("who bmi height\nS0 -1.42613 -0.33\n", "'-1.42613' stands where the IID is expected"),
        ("S0 1.5\nS1 2.5\n", "2 fields, expected at least 3 .* or a first line `#IID NAME`"),
    ],
)
def test_refused(write: Write, content: str, message: str) -> None:
    path = write(content)
    with pytest.raises(InputError, match=message) as error:
        read_table(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "ids", "has_fid"),
    [
        ("#FID\tIID\na\tb\nc\td\n", [("a", "b"), ("c", "d")], True),
        ("#IID\nb\nd\n", [("0", "b"), ("0", "d")], False),
        ("b\nd\n", [("0", "b"), ("0", "d")], False),
        ("a b\nc d\n", [("a", "b"), ("c", "d")], True),
        ('"FID","IID"\n"a","b"\n"c","d"\n', [("a", "b"), ("c", "d")], True),
        ("#FID IID SEX\na b 1\nc d male\n", [("a", "b"), ("c", "d")], True),
        ("a b some text\nc d more text\n", [("a", "b"), ("c", "d")], True),
    ],
)
def test_lists(write: Write, content: str, ids: list[tuple[str, str]], has_fid: bool) -> None:
    listed = read_ids(write(content))
    assert listed.ids == ids
    assert listed.has_fid is has_fid


def test_ids_of_a_matrix_with_a_header(write: Write) -> None:
    samples = [("f1", "a"), ("f2", "b"), ("f3", "c")]
    path = write("1\t0.5\n0.5\t1\n", "k.txt")
    write("#FID\tIID\nf2\tb\nf1\ta\n", "k.id")
    assert read_kinship(path, samples=samples).ids == [("f2", "b"), ("f1", "a")]
    write("#IID\nb\na\n", "k.id")
    assert read_kinship(path, samples=samples).ids == [("f2", "b"), ("f1", "a")]
    assert read_kinship(path).ids == [("0", "b"), ("0", "a")]


# -- which columns ----------------------------------------------------------------------------


def test_a_number_is_a_position(write: Write) -> None:
    path = write("FID IID 2 1 x\na b 10 20 text\nc d 11 21 more\n")
    # The text column is not read unless it is asked for.
    for columns, names in (
        (1, ["2"]), ("1", ["2"]), ("name:1", ["1"]), ("2,name:2", ["1", "2"]), ("1-2", ["2", "1"]),
        (["name:1", 1], ["1", "2"]), (by_name("2"), ["2"]),
    ):  # fmt: skip
        assert list(read_table(path, columns=columns).names) == names
    with pytest.raises(InputError, match="column 'x': 'text' is not a number"):
        read_table(path)
    with pytest.raises(InputError, match="'1-2' chooses 2 columns, expected one of '2', '1'"):
        read_column(path, "1-2")


def test_all_wrong_columns_are_named(write: Write) -> None:
    path = write("FID IID a 7 s t\na b 1 2 u v\nc d 3 4 w x\n")
    with pytest.raises(InputError, match=r"no column 'z', '9', '7', expected .*name:7 is a name"):
        read_table(path, columns="a,z,9,7")
    with pytest.raises(InputError, match=r"column 's': 'u' .*; nor can these columns be used: 't'"):
        read_table(path, columns="all")


# -- who is who -------------------------------------------------------------------------------


def test_people_without_fid_are_matched_by_iid(write: Write) -> None:
    samples = frame(*((f"f{i}", f"S{i}") for i in range(8)))
    rows = "".join(f"S{i} {i * i}\n" for i in range(10))
    phenotype = read_table(write(f"#IID y\n{rows}", "p.txt"))
    covariate = read_table(write("IID c\n" + "".join(f"S{i} {i}\n" for i in range(9)), "c.txt"))
    aligned = align(samples, phenotype, mean_covariates=covariate, genotypes_name="g.fam")
    assert aligned.y.tolist() == [i * i for i in range(8)]
    # S8 has phenotype and covariate, and is in the moments though not genotyped.
    assert aligned.mean_center[0] == 4.0
    assert "p.txt: 2 of 10 people are not in g.fam (first: '0' 'S8', '0' 'S9')" in aligned.notes[0]
    named = read_table(write("FID IID x\n" + "".join(f"f{i} S{i} {i % 3}\n" for i in range(8))))
    bare = read_table(write("#IID x\n" + "".join(f"S{i} {i % 3}\n" for i in range(8)), "r.txt"))
    ids = aligned.ids
    np.testing.assert_array_equal(random_effects(ids, bare).raw, random_effects(ids, named).raw)


def test_iid_of_several_people_is_refused() -> None:
    with pytest.raises(InputError, match="p\\.txt: no FID column, but IID 'S0' belongs to several"):
        with_fids("p.txt", [("0", "S0")], [("g.fam", [("a", "S0"), ("b", "S0")])])
    # The genotypes decide before other files.
    references = [("g.fam", [("a", "S0")]), ("c.txt", [("b", "S0"), ("b", "S1")])]
    assert with_fids("p.txt", [("0", "S0"), ("0", "S1"), ("0", "S2")], references) == [
        ("a", "S0"), ("b", "S1"), ("0", "S2"),
    ]  # fmt: skip


def test_who_is_lost_is_named(write: Write) -> None:
    ids = ["1e+05", *(str(101_000 + 1000 * i) for i in range(9))]
    phenotype = read_table(write("FID IID y\n" + "".join(f"{i} {i} {float(i):.0f}\n" for i in ids)))
    samples = frame(*((i, i) for i in ["100000", *ids[1:]]))
    (note,) = align(samples, phenotype, genotypes_name="g.fam").notes
    assert "1 of 10 people are not in g.fam (first: '1e+05' '1e+05')" in note
    assert "1 there are not in it (first: '100000' '100000')" in note
    assert "'1e+05' is R's way to write 100000: write IDs as text" in note
    assert id_hints([("100000", "100000")], phenotype.ids)[0].startswith("'1e+05' is R's way")


# -- missing values ---------------------------------------------------------------------------


def test_always_missing(write: Write) -> None:
    path = write(
        'FID\tIID\ty\na\t1\tNA\na\t2\tnan\na\t3\t\na\t4\t.\na\t5\tNaN\na\t6\t""\na\t7\t1\n'
    )
    assert np.isnan(read_table(path).values[:, 0]).tolist() == [True] * 6 + [False]


@pytest.mark.parametrize("given", ["x,-99", ["x", "-99"], ("x,-99",), Missing.of("x,-99")])
def test_further_missing_values(write: Write, given: object) -> None:
    path = write("FID IID y\na 1 x\na 2 -99.0\na 3 NA\na 4 -9\n")
    values = read_table(path, missing=given).values[:, 0]  # type: ignore[arg-type]
    np.testing.assert_array_equal(values, [np.nan, np.nan, np.nan, -9])


def test_minus_nine_is_missing_in_phenotypes(write: Write) -> None:
    y = ["-9", "-9.000", *(str(i) for i in range(8))]
    rows = "".join(f"f S{i} {v} {-9 if i == 3 else i}\n" for i, v in enumerate(y))
    path = write(f"FID IID y c\n{rows}")
    phenotype, covariate = read_table(path, columns="y"), read_table(path, columns="c")
    aligned = align(None, phenotype, mean_covariates=covariate)
    assert aligned.y.tolist() == list(range(8))
    # In covariates it is a number.
    assert aligned.mean_covariates[1, 0] == -9
    assert "phenotype 'y': 2 of 10 values are -9, a missing value; give --no-minus9" in str(
        aligned.notes
    )
    kept = align(None, phenotype, no_minus9=True)
    assert kept.y.tolist() == [-9, -9, *range(8)]
    assert "no-minus9" not in str(kept.notes)


def test_codes_of_missing_values() -> None:
    y = np.random.default_rng(3).normal(size=50)
    assert code_note("y", y) is None
    y[4] = -999
    note = code_note("y", y)
    assert note == (
        "y: of 50 values 1 is -999, taken as numbers; if they mean missing, give "
        "--missing-char -999"
    )
    # Within the range of the others, and not frequent.
    assert code_note("y", np.append(np.linspace(-2000, 2000, 500), [-999, 999])) is None
    assert code_note("score", np.arange(101.0)) is None


# -- as few samples as parameters ------------------------------------------------------------


def test_more_samples_than_parameters() -> None:
    ids = [("f", f"{i}") for i in range(4)]
    table = Table(Path("p.txt"), ids, ("y",), np.arange(4.0)[:, None] ** 2, np.arange(1, 5))
    assert align(None, table).n_samples == 4
    with pytest.raises(InputError, match="4 samples are left for 4 parameters of a model"):
        align(None, table, extra_parameters=2)


# -- codes of sex -----------------------------------------------------------------------------


@pytest.mark.parametrize("codes", ["1 2 0 2", "M F NA F", "male Female . FEMALE", "m f -9 f"])
def test_codes_of_sex(write: Write, codes: str) -> None:
    texts = codes.split()
    samples = frame(*(("f", f"s{i}") for i in range(4)))
    path = write("#IID\tage\tSEX\n" + "".join(f"s{i}\t3x\t{t}\n" for i, t in enumerate(texts)))
    assert sex_of_table(str(path), samples, Missing()).tolist() == [1, 2, 0, 2]
    fam = write("".join(f"f s{i} 0 0 {t} -9\n" for i, t in enumerate(texts)), "g.fam")
    sex = sex_of_fam(fam)
    assert sex.tolist() == [1, 2, 0, 2]
    (note,) = sex_notes(sex, [("f", f"s{i}") for i in range(4)])
    assert "1 of 4 analysed samples is unknown (first: 'f' 's2')" in note
    assert sex_notes(sex[:2], [("f", "s0"), ("f", "s1")]) == []


def test_zero_and_one_are_no_sexes(write: Write) -> None:
    samples = frame(*(("f", f"s{i}") for i in range(3)))
    path = write("FID IID sex\nf s0 0\nf s1 1\nf s2 1\n")
    with pytest.raises(InputError, match="sex is 0 for 1 people, 1 for 2 and 2 for none"):
        sex_of_table(str(path), samples, Missing())
    fam = write("f s0 0 0 0 -9\nf s1 0 0 1 -9\n", "g.fam")
    with pytest.raises(InputError, match="sex is 0 for 1 people"):
        sex_of_fam(fam)
    path = write("FID IID sex\nf s0 M\nf s1 intersex\n")
    with pytest.raises(InputError, match="line 3: sex 'intersex', expected 1 or M"):
        sex_of_table(str(path), samples, Missing())
