import os
import pickle
import warnings
from pathlib import Path

import bed_reader
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.plink import (
    decode,
    encode,
    iter_bim,
    open_plink,
    read_fam,
    to_dosage,
    write_plink,
)

FIXTURE_OK = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def people(n, prefix="i"):
    return pd.DataFrame(
        {"fid": [f"f{k}" for k in range(n)], "iid": [f"{prefix}{k}" for k in range(n)]}
    )


def variants(m, contig="1", first=0):
    return pd.DataFrame(
        {
            "contig": contig,
            "variant_id": [f"rs{k + first}" for k in range(m)],
            "position": [10 * k for k in range(m)],
            "allele1": "A",
            "allele2": "G",
        }
    )


def counts(m, n, seed=0):
    return np.random.default_rng(seed).integers(-1, 3, size=(m, n)).astype(np.int8)


def make(path, m=7, n=10, seed=0, **kwargs):
    genotypes = counts(m, n, seed)
    write_plink(path, genotypes, people(n), variants(m, **kwargs))
    return genotypes


# .fam


@pytest.mark.parametrize(
    "content",
    [
        b"1 001 0 0 1 -9\n1 1 0 0 2 -9\n",
        b"1\t001\t0\t0\t1\t-9\r\n1\t1\t0\t0\t2\t-9\r\n",
        b"\xef\xbb\xbf1 \t001 0 0 1 -9\n\n  \n1 1 0 0 2 -9",
        b"\n\n 1 001 0 0 1 -9 \n1 1 0 0 2 -9",
    ],
)
def test_fam_layouts(tmp_path, content):
    path = tmp_path / "a.fam"
    path.write_bytes(content)
    table = read_fam(path)
    assert list(table["fid"]) == ["1", "1"]
    assert list(table["iid"]) == ["001", "1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1 1 0 0 1 -9\n1 2 0 0 1\n", r"line 2: 5 fields, expected 6"),
        (b"1 1 0 0 1 -9\n\n1 2 0 0 1 -9 7\n", r"line 3: 7 fields, expected 6"),
        (b"a b 0 0 1 -9\nc b 0 0 1 -9\na b 0 0 1 -9\n", r"line 3: sample FID 'a' IID 'b'.*line 1"),
        (b"a b 0 0 1 -9\nc M\xfcller 0 0 1 -9\n", r"line 2: .*not UTF-8.*0xfc.*iconv"),
    ],
)
def test_fam_errors(tmp_path, content, message):
    path = tmp_path / "a.fam"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_fam(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


# What a field may hold: no ASCII white space, no byte order mark at the start of the file.
WORD = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters=" \ufeff"),
    min_size=1,
    max_size=8,
)
GAP = st.text(" \t", min_size=1, max_size=3)
EDGE = st.text(" \t", max_size=2)
BLANKS = st.lists(st.sampled_from(["", " ", "\t"]), max_size=2)


@st.composite
def layout(draw, rows, end=None):
    """Text of `rows` in a random layout of white space, line ends, BOM and blank lines."""
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    lines = []
    for row in rows:
        lines += draw(BLANKS)
        line = draw(EDGE) + row[0]
        for field in row[1:]:
            line += draw(GAP) + field
        lines.append(line + draw(EDGE))
    lines += draw(BLANKS)
    text = newline.join(lines) + draw(st.sampled_from(["", newline]))
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()


@FIXTURE_OK
@given(data=st.data(), ids=st.lists(st.tuples(WORD, WORD), min_size=1, max_size=6, unique=True))
def test_fam_any_layout(tmp_path, data, ids):
    path = tmp_path / "a.fam"
    path.write_bytes(data.draw(layout([(*key, "0", "0", "1", "-9") for key in ids])))
    table = read_fam(path)
    assert list(zip(table["fid"], table["iid"], strict=True)) == ids


# .bim


def test_bim_odd_alleles_and_positions(tmp_path):
    path = tmp_path / "a.bim"
    long = "ACGT" * 500
    path.write_text(f"1\trs1\t0\t-9\t#A\t{long}\r\n\nX rs2  0.1 5 <DEL> G#")
    (table,) = iter_bim(path)
    assert table["allele1"].tolist() == ["#A", "<DEL>"]
    assert table["allele2"].tolist() == [long, "G#"]
    assert table["position"].tolist() == [-9, 5]
    assert table["position"].dtype == np.int64
    assert table["contig"].tolist() == ["1", "X"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 rs 0 5 A", "line 2: 5 fields, expected 6"),
        ("1 rs 0 5 A C 7", "line 2: 7 fields, expected 6"),
        ("1 rs 0 1e5 A C", "line 2: position '1e5' is not an integer"),
        ("1 rs 0 1_0 A C", "line 2: position '1_0' is not an integer"),
        ("1 rs 0 9223372036854775808 A C", "line 2: position '9223372036854775808' is not"),
    ],
)
def test_bim_errors(tmp_path, line, message):
    path = tmp_path / "a.bim"
    path.write_text(f"1 rs 0 +5 A C\n{line}\n")
    with pytest.raises(InputError, match=message):
        list(iter_bim(path))


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_bim_chunks(tmp_path, chunk_size):
    make(tmp_path / "a.bed", m=7)
    chunks = list(iter_bim(tmp_path / "a.bim", chunk_size))
    assert [len(c) for c in chunks[:-1]] == [chunk_size] * (len(chunks) - 1)
    whole = pd.concat(chunks)
    assert whole["variant_id"].tolist() == [f"rs{k}" for k in range(7)]
    assert whole.index.tolist() == list(range(7))


# Packed genotypes


@pytest.mark.parametrize("n", [1, 4, 5, 6, 7, 8])
def test_encode_decode(n):
    genotypes = counts(9, n)
    packed = encode(genotypes)
    assert packed.shape == (9, -(-n // 4))
    np.testing.assert_array_equal(decode(packed, n), genotypes)
    expected = np.where(genotypes < 0, np.nan, genotypes)
    np.testing.assert_array_equal(to_dosage(packed, n), expected.astype(np.float32))


def test_codes_of_the_format():
    # Lowest bits first: 00 -> 2 copies, 01 -> missing, 10 -> 1, 11 -> 0.
    packed = np.array([[0b11100100]], dtype=np.uint8)
    assert decode(packed, 4).tolist() == [[2, -1, 1, 0]]


def test_encode_refuses_other_values():
    for bad in (3, -2):
        with pytest.raises(ValueError, match="0, 1, 2 or -1"):
            encode(np.array([[bad]], dtype=np.int8))
    with pytest.raises(ValueError, match=r"\(n_variants, 2\)"):
        decode(np.zeros((1, 1), np.uint8), 5)


@FIXTURE_OK
@given(n=st.integers(1, 13), m=st.integers(1, 9), data=st.data())
def test_read_packed_agrees_with_bed_reader(tmp_path, n, m, data):
    path = tmp_path / f"{n}_{m}.bed"
    make(path, m=m, n=n, seed=n * m)
    start = data.draw(st.integers(0, m))
    stop = data.draw(st.integers(start, m))
    plink = open_plink(path)
    mine = decode(plink.read_packed(start, stop), n)
    with bed_reader.open_bed(path, count_A1=True) as bed:
        theirs = bed.read(np.s_[:, start:stop], dtype="int8").T
    np.testing.assert_array_equal(mine, np.where(theirs == -127, -1, theirs))


def test_write_in_blocks(tmp_path):
    genotypes = make(tmp_path / "whole.bed", m=9, n=6)
    table = variants(9)
    write_plink(
        tmp_path / "blocks",
        (genotypes[i : i + 4] for i in range(0, 9, 4)),
        people(6),
        (table[i : i + 2] for i in range(0, 9, 2)),
    )
    for suffix in (".bed", ".bim", ".fam"):
        whole = (tmp_path / "whole").with_suffix(suffix).read_bytes()
        assert (tmp_path / "blocks").with_suffix(suffix).read_bytes() == whole
    with pytest.raises(ValueError, match="9 variants, a table of 8"):
        write_plink(tmp_path / "x", genotypes, people(6), variants(8))
    with pytest.raises(ValueError, match="for 5 samples"):
        write_plink(tmp_path / "x", genotypes, people(5), variants(9))


# Opening


def test_open(tmp_path):
    folder = tmp_path / "with space ü"
    folder.mkdir()
    make(folder / "a.b.bed", m=5, n=6)
    plink = open_plink(folder / "a.b")
    assert plink == open_plink(str(folder / "a.b.bed"))
    assert (plink.n_samples, plink.n_variants, plink.n_bytes) == (6, 5, 2)
    assert plink.samples["iid"].tolist() == [f"i{k}" for k in range(6)]
    copy = pickle.loads(pickle.dumps(plink))
    assert copy == plink
    assert "samples" not in vars(copy)
    assert plink.notes == ()
    np.testing.assert_array_equal(copy.read_packed(0, 5), plink.read_packed(0, 5))


def test_size_of_pickle_does_not_grow(tmp_path):
    make(tmp_path / "a.bed", m=3, n=500)
    plink = open_plink(tmp_path / "a.bed")
    assert len(plink.samples) == 500
    assert len(pickle.dumps(plink)) < 1000


def test_several_files(tmp_path):
    sizes = {"10": 3, "2": 4, "X": 2, "MT": 1, "Y": 2, "scaffold": 1}
    parts = {k: make(tmp_path / f"chr{k}.bed", m=m, contig=k) for k, m in sizes.items()}
    (tmp_path / "chr1.old.bed").write_bytes(b"not taken")
    order = ["2", "10", "X", "Y", "MT", "scaffold"]
    plink = open_plink(tmp_path / "chr@.bed")
    assert [p.stem for p in plink.paths] == [f"chr{k}" for k in order]
    assert plink == open_plink([tmp_path / f"chr{k}" for k in order])
    expected = np.concatenate([parts[k] for k in order])
    for start, stop in [(0, 13), (3, 5), (4, 4), (6, 13)]:
        np.testing.assert_array_equal(
            decode(plink.read_packed(start, stop), 10), expected[start:stop]
        )
    contigs = np.repeat(order, [sizes[k] for k in order])
    table = pd.concat(plink.iter_variants(2, 12, chunk_size=3))
    assert table["contig"].tolist() == contigs[2:12].tolist()
    assert table.index.tolist() == list(range(2, 12))
    given = open_plink([tmp_path / "chrX.bed", tmp_path / "chr2.bed"])
    assert [p.stem for p in given.paths] == ["chrX", "chr2"]


def test_variants_beyond_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr("hlmm_dask.genotypes.plink_tables.BIM_INDEX_ROWS", 4)
    monkeypatch.setattr("hlmm_dask.genotypes.plink.BIM_INDEX_ROWS", 4)
    make(tmp_path / "a.bed", m=19)
    bim = tmp_path / "a.bim"
    lines = bim.read_bytes().splitlines()
    bim.write_bytes(b"\xef\xbb\xbf\r\n" + b"\r\n\r\n".join(lines))
    plink = open_plink(tmp_path / "a.bed")
    assert len(plink.files[0].bim_index) == 5
    (note,) = plink.notes
    assert (
        "a.bim: read with a byte order mark, CRLF line ends, blank lines, no final newline" in note
    )
    for start in range(19):
        for stop in range(start + 1, 20):
            table = pd.concat(plink.iter_variants(start, stop, chunk_size=5))
            assert table["variant_id"].tolist() == [f"rs{k}" for k in range(start, stop)]


def test_pattern_errors(tmp_path):
    with pytest.raises(InputError, match="no file matches"):
        open_plink(tmp_path / "chr@.bed")
    with pytest.raises(InputError, match="no genotype file given"):
        open_plink([])
    make(tmp_path / "a.bed")
    with pytest.raises(InputError, match="given twice"):
        open_plink([tmp_path / "a", tmp_path / "a.bed"])


def test_other_samples(tmp_path):
    make(tmp_path / "a.bed", n=4)
    write_plink(tmp_path / "b", counts(2, 4), people(4, "j"), variants(2))
    make(tmp_path / "c.bed", n=3)
    with pytest.raises(InputError, match=r"b.fam: sample 1 is 'f0' 'j0', 'f0' 'i0' in .*a.fam"):
        open_plink([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(InputError, match=r"c.fam: 3 samples, 4 in .*a.fam"):
        open_plink([tmp_path / "a", tmp_path / "c"])
    # Same people, other sex and phenotype.
    make(tmp_path / "d.bed", n=4)
    text = (tmp_path / "d.fam").read_text()
    (tmp_path / "d.fam").write_text(text.replace("-9", "1"))
    assert open_plink([tmp_path / "a", tmp_path / "d"]).n_variants == 14


@pytest.mark.parametrize("suffix", [".bed", ".bim", ".fam"])
def test_missing_and_empty_files(tmp_path, suffix):
    make(tmp_path / "a.bed")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"empty|no variants|no samples"):
        open_plink(tmp_path / "a.bed")
    path.unlink()
    with pytest.raises(InputError, match=rf"a{suffix}: no such file"):
        open_plink(tmp_path / "a.bed")


def test_wrong_beds(tmp_path):
    make(tmp_path / "a.bed", m=7, n=10)
    bed = tmp_path / "a.bed"
    good = bed.read_bytes()
    for content, message in [
        (good[:-1], r"23 bytes, expected 24 .*7 variants.*10 samples.*truncated"),
        (good + b"\0", r"25 bytes, expected 24 .*too long"),
        (b"PK" + good[2:], r"starts with bytes 50 4b 01, expected 6c 1b 01"),
        (b"\x6c\x1b\x00" + good[3:], r"sample-major.*plink --bfile \S*a --make-bed --out"),
        (b"\x6c\x1b\x07" + good[3:], r"third byte 07, expected 01"),
        (b"\x6c\x1b", r"third byte missing"),
    ]:
        bed.write_bytes(content)
        with pytest.raises(InputError, match=message):
            open_plink(bed)


def test_changed_during_the_run(tmp_path):
    make(tmp_path / "a.bed", m=7, n=10)
    bed = tmp_path / "a.bed"
    plink = open_plink(bed)
    later = plink.files[0].bed_mtime_ns + 10**9
    os.utime(bed, ns=(later, later))
    with pytest.raises(InputError, match="modified since it was opened"):
        plink.read_packed(0, 1)
    bed.write_bytes(bed.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"changed .* 20 bytes, 24 when it was opened"):
        plink.read_packed(0, 1)
    bed.unlink()
    with pytest.raises(InputError, match="no such file"):
        plink.read_packed(0, 1)
    bim = tmp_path / "a.bim"
    content = bim.read_bytes()
    # Of the same length: alleles that were swapped, with effects of the old ones.
    bim.write_bytes(content[:-2] + b"T\n")
    with pytest.raises(InputError, match=r"a\.bim: changed .* modified since it was opened"):
        list(plink.iter_variants())
    bim.write_text("1 rs0 0 1 A C\n")
    with pytest.raises(InputError, match=r"a\.bim: changed .* 14 bytes"):
        list(plink.iter_variants())


def test_range_errors(tmp_path):
    make(tmp_path / "a.bed", m=7)
    plink = open_plink(tmp_path / "a")
    for start, stop in [(-1, 3), (3, 2), (0, 8)]:
        with pytest.raises(InputError, match="<= 7"):
            plink.read_packed(start, stop)


def test_identity(tmp_path):
    make(tmp_path / "a.bed")
    make(tmp_path / "b.bed")
    make(tmp_path / "c.bed", contig="2")
    a, b, c = (open_plink(tmp_path / name).identity() for name in "abc")
    assert a == b
    assert a != c


def test_reference_genotypes(reference: Path):
    for name, n, m in [("mouse/mouse", 1940, 12226), ("gamma/test", 5000, 200)]:
        plink = open_plink(reference / name)
        assert (plink.n_samples, plink.n_variants) == (n, m)
        table = pd.concat(plink.iter_variants(0, 200))
        with warnings.catch_warnings(), bed_reader.open_bed(plink.paths[0], count_A1=True) as bed:
            assert table["variant_id"].tolist() == bed.sid[:200].tolist()
            assert plink.samples["iid"].tolist() == bed.iid.tolist()
            expected = bed.read(np.s_[:, 100:200], dtype="float32").T
        np.testing.assert_array_equal(to_dosage(plink.read_packed(100, 200), n), expected)
