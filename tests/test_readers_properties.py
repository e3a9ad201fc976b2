"""The readers against bed-reader and plain Python, over random files.

Examples are the same in every run.
"""

import re
from collections.abc import Callable
from pathlib import Path

import bed_reader
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hlmm_dask import open_bed
from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.packed import HEADER, decode, packed_width, to_dosage
from hlmm_dask.genotypes.plink import iter_bim, open_plink, read_fam, write_plink
from hlmm_dask.random_effects import random_effects
from hlmm_dask.samples import align
from hlmm_dask.tables import read_table

repeatable = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# -- text -------------------------------------------------------------------------------------

WORD = st.text("aZ09._-#\"',;é人µÿ\u00a0\u2028\u0085", min_size=1, max_size=6)
GAP = st.text(" \t", min_size=1, max_size=3) | st.sampled_from([" \x0b", "\x0c"])
BLANK = st.sampled_from(["", " ", "\t \t", "\x0b"])
NUMBER = (
    st.floats(-1e150, 1e150).map(repr)
    | st.floats(-10, 10).map("{:+.3e}".format)
    | st.integers(-(10**9), 10**9).map(str)
    | st.sampled_from(["NA", "nan", "-nan", "1.", ".5", "-0", "007", "1e-400"])
)


@st.composite
def files(draw: st.DrawFn, rows: list[list[str]]) -> bytes:
    """Rows in any white space, line end and encoding."""
    lines: list[str] = []
    for row in rows:
        lines += draw(st.lists(BLANK, max_size=1))
        text = row[0] + "".join(draw(GAP) + field for field in row[1:])
        lines.append(draw(st.sampled_from(["", " ", "\t"])) + text + draw(BLANK))
    newline = draw(st.sampled_from(["\n"] * 4 + ["\r\n"] * 4 + ["\r"]))
    content = newline.join(lines) + draw(st.sampled_from(["", newline, newline + newline]))
    encodings = ["utf-8"] * 8 + ["utf-8-sig"] * 4 + ["latin-1", "utf-16", "utf-16-be", "utf-32"]
    return content.encode(draw(st.sampled_from(encodings)), "replace")


def plain_rows(content: bytes) -> list[list[str]] | None:
    """Read the rows in plain Python; None where a reader must refuse the file."""
    if b"\0" in content:
        return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    lines = [line.strip(" \t\v\f\r") for line in text.split("\n")]
    if any("\r" in line for line in lines):
        return None
    return [re.split("[ \t\v\f]+", line) for line in lines if line]


def rows_of(path: Path, content: bytes, read: Callable[[Path], object]) -> list[list[str]]:
    """Write the file; give its rows, none if it must be refused, and is."""
    path.write_bytes(content)
    rows = plain_rows(content)
    if rows is None:
        with pytest.raises(InputError, match=re.escape(str(path))) as error:
            read(path)
        assert re.search("expected UTF-8|not UTF-8|CR within", str(error.value))
        assert len(str(error.value).splitlines()) == 1
    return rows or []


@repeatable
@given(data=st.data(), ids=st.lists(st.tuples(WORD, WORD), min_size=1, max_size=5, unique=True))
def test_fam(tmp_path: Path, data: st.DataObject, ids: list[tuple[str, str]]) -> None:
    people = [[*key, "0", "0", "1", "-9"] for key in ids]
    path = tmp_path / "a.fam"
    if rows := rows_of(path, data.draw(files(people)), read_fam):
        assert read_fam(path).to_numpy().tolist() == [row[:2] for row in rows]


@repeatable
@given(
    data=st.data(),
    variants=st.lists(
        st.tuples(WORD, WORD, st.integers(-(2**63), 2**63 - 1), WORD, WORD), min_size=1, max_size=6
    ),
    chunk=st.integers(1, 4),
)
def test_bim(
    tmp_path: Path,
    data: st.DataObject,
    variants: list[tuple[str, str, int, str, str]],
    chunk: int,
) -> None:
    lines = [[c, name, "0.1", str(position), a, b] for c, name, position, a, b in variants]
    path = tmp_path / "a.bim"
    if rows := rows_of(path, data.draw(files(lines)), lambda path: list(iter_bim(path))):
        table = pd.concat(iter_bim(path, chunk))
        assert table.to_numpy(dtype=object).tolist() == [
            [c, name, int(position), a, b] for c, name, _, position, a, b in rows
        ]
        assert table.index.tolist() == list(range(len(rows)))


@repeatable
@given(
    data=st.data(),
    ids=st.lists(st.tuples(WORD, WORD), min_size=1, max_size=5, unique=True),
    n_columns=st.integers(1, 4),
    header=st.booleans(),
)
def test_table(
    tmp_path: Path,
    data: st.DataObject,
    ids: list[tuple[str, str]],
    n_columns: int,
    header: bool,
) -> None:
    lines = [
        [*key, *data.draw(st.lists(NUMBER, min_size=n_columns, max_size=n_columns))] for key in ids
    ]
    if header:
        lines.insert(0, ["FID", "iid", *(f"é{j}" for j in range(n_columns))])
    path = tmp_path / "t.txt"
    if rows := rows_of(path, data.draw(files(lines)), read_table):
        table = read_table(path)
        if header:
            assert list(table.names) == rows.pop(0)[2:]
        assert [list(key) for key in table.ids] == [row[:2] for row in rows]
        expected = [[np.nan if x == "NA" else float(x) for x in row[2:]] for row in rows]
        np.testing.assert_array_equal(table.values, expected)
        lines_of_file = path.read_bytes().split(b"\n")
        for number, row in zip(table.line_numbers, rows, strict=True):
            assert row[1] in lines_of_file[number - 1].decode()


# -- genotypes --------------------------------------------------------------------------------


def plain_calls(packed: bytes, n: int) -> list[list[float]]:
    """Decode in plain Python: copies of allele 1."""
    width = (n + 3) // 4
    copies = {0: 2.0, 1: float("nan"), 2: 1.0, 3: 0.0}
    return [
        [copies[packed[at + i // 4] >> 2 * (i % 4) & 3] for i in range(n)]
        for at in range(0, len(packed), width)
    ]


@pytest.mark.parametrize("rest", [0, 1, 2, 3])
@repeatable
@given(quarters=st.integers(0, 9), m=st.integers(1, 12), data=st.data())
def test_bed(tmp_path: Path, rest: int, quarters: int, m: int, data: st.DataObject) -> None:
    n = 4 * quarters + rest or 4
    size = m * packed_width(n)
    raw = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8).copy()
    if n % 4:
        # Padding bits are zero, else the file is refused.
        raw.reshape(m, -1)[:, -1] &= (1 << 2 * (n % 4)) - 1
    packed = raw.tobytes()
    bed = tmp_path / f"{n}_{m}.bed"
    people = pd.DataFrame({"fid": "f", "iid": [f"i{i}" for i in range(n)]})
    variants = pd.DataFrame(
        {"contig": "1", "variant_id": [f"v{j}" for j in range(m)], "position": range(m),
         "allele1": "A", "allele2": "C"}
    )  # fmt: skip
    write_plink(bed, np.zeros((m, n), np.int8), people, variants)
    bed.write_bytes(HEADER + packed)
    start = data.draw(st.integers(0, m - 1))
    stop = data.draw(st.integers(start + 1, m))
    # Any of the samples, in any order, some twice.
    chosen = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=2 * n))

    plain = np.array(plain_calls(packed, n))[start:stop]
    plink = open_plink(bed)
    dosage = to_dosage(plink.read_packed(start, stop), n, np.float64)
    np.testing.assert_array_equal(dosage, plain)
    counts = decode(plink.read_packed(start, stop), n)
    np.testing.assert_array_equal(np.where(counts < 0, np.nan, counts), plain)
    with bed_reader.open_bed(bed, count_A1=True) as other:
        theirs = other.read(np.s_[chosen, start:stop], dtype="float64").T
        assert other.iid.tolist() == plink.samples["iid"].tolist()
    np.testing.assert_array_equal(dosage[:, chosen], theirs)
    lazy = open_bed(bed, chunk_variants=5).call_dosage[start:stop, chosen]
    np.testing.assert_array_equal(lazy, theirs)


# -- samples ----------------------------------------------------------------------------------


@repeatable
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(20, 60), data=st.data())
def test_any_samples_in_any_order(tmp_path: Path, seed: int, n: int, data: st.DataObject) -> None:
    """Phenotype, covariates and genotypes of other people each, against dictionaries."""
    rng = np.random.default_rng(seed)
    ids = [(f"f{i % 5}", f"{i:0{1 + i % 3}d}") for i in range(n + 8)]

    def some(least: int) -> list[tuple[str, str]]:
        size = data.draw(st.integers(least, len(ids)))
        return [ids[i] for i in rng.permutation(len(ids))[:size]]

    def write(
        name: str, people: list[tuple[str, str]], columns: int
    ) -> dict[tuple[str, str], list]:
        values = {key: rng.normal(size=columns).tolist() for key in people}
        for key in people[:2]:
            values[key][-1] = float("nan")
        text = "".join(
            f"{fid}\t{iid} {' '.join('NA' if x != x else repr(x) for x in row)}\n"
            for (fid, iid), row in values.items()
        )
        (tmp_path / name).write_text(text)
        return values

    genotyped = some(n)
    pheno, covar = write("p.txt", some(n), 1), write("c.txt", some(n), 2)
    complete = {k for k in pheno if k in covar and not np.isnan([*pheno[k], *covar[k]]).any()}
    expected = [i for i, key in enumerate(genotyped) if key in complete]
    samples = pd.DataFrame(genotyped, columns=["fid", "iid"])
    counts = rng.integers(-1, 3, size=(6, len(genotyped))).astype(np.int8)
    variants = pd.DataFrame(
        {"contig": "1", "variant_id": list("abcdef"), "position": range(6), "allele1": "A",
         "allele2": "C"}
    )  # fmt: skip
    plink = open_plink(write_plink(tmp_path / "g.bed", counts, samples, variants))
    tables = {"phenotype": read_table(tmp_path / "p.txt")}
    tables |= dict.fromkeys(
        ("mean_covariates", "variance_covariates"), read_table(tmp_path / "c.txt")
    )
    if len(expected) <= 6:
        with pytest.raises(InputError, match=r"samples are left|none of"):
            align(plink.samples, **tables)
        return
    aligned = align(plink.samples, **tables)
    assert aligned.sample_index.tolist() == expected
    assert aligned.y.tolist() == [pheno[genotyped[i]][0] for i in expected]
    assert aligned.mean_covariates.tolist() == [covar[genotyped[i]] for i in expected]
    # And the genotypes of the same people, by bed-reader.
    with bed_reader.open_bed(tmp_path / "g.bed") as bed:
        theirs = bed.read(np.s_[expected, :], dtype="float64")
    varies = np.array([np.ptp(x[~np.isnan(x)]) > 0 for x in theirs.T if not np.isnan(x).all()])
    if varies.all() and len(varies) == 6:
        G = random_effects(aligned.ids, plink).G
        filled = np.where(np.isnan(theirs), np.nanmean(theirs, axis=0), theirs)
        scaled = (filled - filled.mean(axis=0)) / filled.std(axis=0) / 6**0.5
        np.testing.assert_allclose(G, scaled, atol=1e-13)
