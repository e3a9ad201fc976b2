"""Fields with quotes, comments, tabs and line ends are read right by the defaults of pandas."""

import csv
import io

import numpy as np
import pandas as pd
import pytest

from hlmm_dask.tab_separated import line, quoted, text_of

HARD = ["rs1", '5" pipe', '"lead', "5'UTR", "a#b", "tab\there", "new\nline", "a\rb", '"', '""',
        'é"', "two words"]  # fmt: skip


def table():
    return pd.DataFrame(
        {
            "SNP": HARD,
            "x": np.r_[0.1, np.nan, 1e-300, 1e17, -0.0, np.arange(7.0) / 3],
            "n": pd.array([None, *range(11)], dtype="Int64"),
            "last": HARD[::-1],
        }
    )


def test_pandas_and_the_csv_module_read_what_was_written():
    text = text_of(table())
    read = pd.read_csv(io.BytesIO(text), sep="\t")
    assert read["SNP"].tolist() == HARD
    assert read["last"].tolist() == HARD[::-1]
    np.testing.assert_array_equal(read["x"], table()["x"])
    assert read["n"].isna().tolist() == [True, *[False] * 11]
    rows = list(csv.reader(io.StringIO(text.decode(), newline=""), delimiter="\t"))
    assert [row[0] for row in rows] == ["SNP", *HARD]
    assert {len(row) for row in rows} == {4}
    parts = [text_of(table()[i : i + 1], header=not i) for i in range(12)]
    assert b"".join(parts) == text


@pytest.mark.parametrize("field", HARD)
def test_ordinary_fields_stay_as_they_are(field):
    ordinary = not set(field) & set("\"'#\t\r\n")
    assert (quoted(field) == field) is ordinary
    assert quoted(field) in text_of(pd.DataFrame({"a": [field]})).decode()
    (read,) = csv.reader(io.StringIO(line([field, "b"]), newline=""), delimiter="\t")
    assert read == [field, "b"]


def test_a_table_without_rows_has_a_header():
    assert text_of(table()[:0]) == b"SNP\tx\tn\tlast\n"
    assert text_of(table()[:0], header=False) == b""
