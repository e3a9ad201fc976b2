import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hlmm_dask.errors import InputError
from hlmm_dask.missing import minus_nine_note
from hlmm_dask.tables import read_table


@pytest.fixture
def write(tmp_path):
    def write(content, name="t.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_plain(write):
    table = read_table(write("f1 001 1.5 NA\nf1 1 -2e-3 +7\n"))
    assert table.ids == [("f1", "001"), ("f1", "1")]
    assert table.names == ("1", "2")
    np.testing.assert_array_equal(table.values, [[1.5, np.nan], [-0.002, 7]])
    assert table.line_numbers.tolist() == [1, 2]
    assert table.notes == ()


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("FID IID age PC1", ("age", "PC1")),
        ("#fid\tIid\tage\t1", ("age", "1")),
        ("FID IID NA 2.5", ("NA", "2.5")),
        ("family person age sex", ("age", "sex")),
    ],
)
def test_header(write, header, names):
    table = read_table(write(f"{header}\na b 1 2\n"))
    assert table.names == names
    assert table.ids == [("a", "b")]
    assert "line 1 is a header" in table.notes[0]


def test_no_header(write):
    for first in ("a b NA NA", "a b nan 1", "fid 1 2 3", "a b 1e5 .5"):
        table = read_table(write(f"{first}\nc d 1 2\n"))
        assert table.names == ("1", "2")
        assert len(table.ids) == 2


def test_layout_is_noted(write):
    table = read_table(write(b"\xef\xbb\xbfFID IID y\r\n\r\na b 1\r\nc\td  2"))
    assert table.ids == [("a", "b"), ("c", "d")]
    assert table.line_numbers.tolist() == [3, 4]
    note = table.notes[1]
    for text in ("byte order mark", "CRLF", "blank lines", "no final newline"):
        assert text in note


def test_missing_tokens(write):
    path = write("a b -9 NA\nc d -9.0 .\ne f 3 nan\n")
    table = read_table(path, missing=("-9", ".", "NA"))
    np.testing.assert_array_equal(table.values[:, 0], [np.nan, np.nan, 3])
    assert np.isnan(table.values[:, 1]).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty, or a header"),
        (" \n\r\n", "empty, or a header"),
        ("FID IID y\n", "a header but no rows"),
        ("a\nb\n", "line 1: 1 fields, expected at least 3"),
        ("a b\n", "line 1: 2 fields, expected at least 3"),
        ("a b 1\n\nc d 1 2\n", "line 3: 4 fields, expected 3"),
        ("a b 1 2\nc d 1\n", "line 2: 3 fields, expected 4"),
        ("FID IID x y\na b 1 2\nc d 1 z1\n", "line 3, column 'y': 'z1' is not a number"),
        ("a b 1 x\nc d 1 2\n", "line 1, column '2': 'x' is not a number"),
        ("a b 1\nc d 1_0\n", "line 2, column '1': '1_0' is not a number"),
        ("a b 1\nc d 0x1\n", "line 2, column '1': '0x1' is not a number"),
        ("a b 1\nc d inf\n", "line 2, column '1': 'inf' is infinite"),
        ("a b 1\nc d -Infinity\n", "'-Infinity' is infinite"),
        ("a b 1\nc d 1e999\n", "'1e999' is infinite"),
        ("a b 1\nc b 1\na b 2\n", "line 3: FID 'a' IID 'b' is also on line 1"),
        ("FID IID x x\na b 1 2\n", "column name 'x' comes 2 times"),
        (b"a b 1\nM\xfcller x 2\n", "line 2: .*not UTF-8.*0xfc"),
        (b"a b 1\nc d \xb5\n", "line 2, column '1'.*is not a number"),
    ],
)
def test_errors(write, content, message):
    path = write(content)
    with pytest.raises(InputError, match=message) as error:
        read_table(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "absent")
    with pytest.raises(InputError, match="can't be read"):
        read_table(tmp_path)


def test_column(write):
    table = read_table(write("FID IID age 1\na b 10 20\n"))
    assert table.column("age")[1].tolist() == [10]
    assert table.column(1)[0] == "age"
    assert table.column("2")[0] == "1"
    # A number is a position, for text as for integers.
    assert table.column("1")[1].tolist() == [10]
    assert table.column("name:1")[1].tolist() == [20]
    assert table.column("name:age")[1].tolist() == [10]
    for wrong in ("bmi", 0, 3, "3", "-1"):
        with pytest.raises(InputError, match="expected one of 1 'age', 2 '1'"):
            table.column(wrong)


def test_minus_nine():
    ordinary = np.arange(100.0)
    assert minus_nine_note("y", ordinary) is None
    ordinary[3] = -9
    assert minus_nine_note("y", ordinary) is None
    ordinary[7] = -9
    assert "2 of 100 values are -9" in minus_nine_note("y", ordinary)
    assert minus_nine_note("y", np.full(5, -9.0)) is None
    assert minus_nine_note("y", np.append(np.arange(1000.0), [-9, -9])) is None


WORD = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters=" \ufeff"),
    min_size=1,
    max_size=6,
)
VALUE = st.floats(-1e150, 1e150) | st.just(np.nan) | st.integers(-(10**6), 10**6).map(float)
GAP = st.text(" \t", min_size=1, max_size=3)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.data(),
    ids=st.lists(st.tuples(WORD, WORD), min_size=1, max_size=5, unique=True),
    n_columns=st.integers(1, 3),
    newline=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    final=st.booleans(),
    header=st.booleans(),
)
def test_any_layout(write, data, ids, n_columns, newline, bom, final, header):
    values = [data.draw(st.lists(VALUE, min_size=n_columns, max_size=n_columns)) for _ in ids]
    rows = [
        [*key, *("NA" if np.isnan(v) else repr(v) for v in row)]
        for key, row in zip(ids, values, strict=True)
    ]
    names = [f"c{j}" for j in range(n_columns)]
    if header or ids[0][0].lower().lstrip("#") == "fid":
        rows.insert(0, ["FID", "IID", *names])
    lines, numbers = [], []
    for row in rows:
        lines += data.draw(st.lists(st.sampled_from(["", " ", "\t"]), max_size=1))
        numbers.append(len(lines) + 1)
        lines.append("".join(data.draw(GAP) + field for field in row))
    text = newline.join(lines) + (newline if final else "")
    table = read_table(write((b"\xef\xbb\xbf" if bom else b"") + text.encode()))
    assert table.ids == ids
    assert table.line_numbers.tolist() == numbers[-len(ids) :]
    # Every double reads back to the last bit.
    np.testing.assert_array_equal(table.values, values)


def test_many_rows(write):
    # More than one chunk of the reader; the error is found in the last.
    lines = [f"f{i} i{i} {i} {i / 7!r}" for i in range(60_000)]
    table = read_table(write("\n".join(lines)))
    np.testing.assert_array_equal(table.values[:, 1], np.arange(60_000) / 7)
    lines[59_999] = "f i 1 x"
    with pytest.raises(InputError, match="line 60000, column '2'"):
        read_table(write("\n".join(lines)))


def test_wide_table_is_read_in_parts(write, monkeypatch):
    monkeypatch.setattr("hlmm_dask.people._CHUNK_BYTES", 100_000)
    row = " ".join(["0.25"] * 1000)
    path = write("".join(f"f i{i} {row}\n" for i in range(200)))
    tracemalloc.start()
    try:
        table = read_table(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert table.values.shape == (200, 1000)
    # Values, in parts and together; and the fields of a part, not 8 MB for all.
    assert peak < 2 * table.values.nbytes + 3e6


def test_reference_tables(reference):
    table = read_table(reference / "mouse" / "pheno1.txt")
    assert table.values.shape == (1940, 1)
    assert np.isnan(table.values).sum() == 530
    assert table.values[0, 0] == 0.224991591484104
    assert set(read_table(reference / "mouse" / "sex.txt").values[:, 0]) == {1.0, 2.0}
    assert np.isnan(read_table(reference / "gamma" / "pheno.txt").values).sum() == 50


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", ["height"]),
        ("weight", ["weight"]),
        ("all", ["height", "weight", "age", "x-y"]),
        ("3,1", ["age", "height"]),
        ("1-3", ["height", "weight", "age"]),
        ("weight,2-3", ["weight", "age"]),
        ("x-y,1", ["x-y", "height"]),
    ],
)
def test_select(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = tmp_path / "p.txt"
    path.write_text("FID IID height weight age x-y\na b 1 2 3 4\nc d 2 3 4 5\n")
    table = read_table(path, columns=text)
    assert list(table.names) == expected
    np.testing.assert_array_equal(
        table.values[0], [["height", "weight", "age", "x-y"].index(name) + 1 for name in expected]
    )


@pytest.mark.parametrize("text", ["5", "1-9", "0", "tall", "1,,2", ""])
def test_select_what_is_not_there(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.txt"
    path.write_text("FID IID height weight age x-y\na b 1 2 3 4\nc d 2 3 4 5\n")
    with pytest.raises(InputError, match="expected one of"):
        read_table(path, columns=text)
