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

from hlmm_dask.errors import ChangedInputError, InputError
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
    sizes = {"10": 3, "02": 4, "X": 2, "MT": 1, "24": 2, "PAR1": 1}
    parts = {k: make(tmp_path / f"chr{k}.bed", m=m, contig=k) for k, m in sizes.items()}
    order = ["02", "10", "X", "24", "PAR1", "MT"]
    plink = open_plink(tmp_path / "chr@.bed")
    assert [p.stem for p in plink.paths] == [f"chr{k}" for k in order]
    assert plink.files == open_plink([tmp_path / f"chr{k}" for k in order]).files
    expected = np.concatenate([parts[k] for k in order])
    for start, stop in [(0, 13), (3, 5), (4, 4), (6, 13)]:
        np.testing.assert_array_equal(
            decode(plink.read_packed(start, stop), 10), expected[start:stop]
        )
    contigs = np.repeat(order, [sizes[k] for k in order])
    table = pd.concat(plink.iter_variants(2, 12, chunk_size=3))
    assert table["contig"].tolist() == contigs[2:12].tolist()
    assert table.index.tolist() == list(range(2, 12))
    given = open_plink([tmp_path / "chrX.bed", tmp_path / "chr02.bed"])
    assert [p.stem for p in given.paths] == ["chrX", "chr02"]


def test_a_pattern_takes_labels_of_chromosomes_alone(tmp_path):
    folder = tmp_path / "batch@1"
    folder.mkdir()
    for name in (
        "chr1",
        "chr2",
        "chr1_qc",
        "chr2_old",
        "chrs",
        "chr99",
        "chr001",
        "chr",
        "chrchr3",
    ):
        make(folder / f"{name}.bed", contig=name[3:4] or "1")
    plink = open_plink(folder / "chr@")
    assert [p.stem for p in plink.paths] == ["chr1", "chr2"]
    taken, passed = plink.notes
    assert taken == f"{folder}/chr@.bed: 2 files (chr1.bed, chr2.bed)"
    assert "not taken: 7 files (chr.bed, chr001.bed, chr1_qc.bed, chr2_old.bed, ..., " in passed
    # The prefix is taken where the pattern has it.
    with pytest.raises(InputError, match=r"no file matches.*9 files .*: no chromosome"):
        open_plink(folder / "@.bed")
    # One label for all @, and none in a folder's name.
    make(folder / "chr3.chr3.bed", contig="3")
    make(folder / "chr3.chr4.bed", contig="3")
    assert [p.stem for p in open_plink(folder / "chr@.chr@").paths] == ["chr3.chr3"]
    with pytest.raises(InputError, match=r"batch@/chr1.bed: no such file"):
        open_plink(tmp_path / "batch@" / "chr1.bed")
    # A file of that very name is none of a pattern.
    make(folder / "chr@.bed", contig="7")
    assert [p.stem for p in open_plink(folder / "chr@.bed").paths] == ["chr@"]


@pytest.mark.parametrize(
    ("label", "contigs"),
    [("1", ["01"]), ("05", ["chr5"]), ("X", ["23", "chrX", "25", "PAR1"]), ("26", ["MT", "chrM"]),
     ("XY", ["25", "PAR2"]), ("m", ["MT"]), ("23", ["X"])],
)  # fmt: skip
def test_a_label_is_the_variants_chromosome_by_any_of_its_names(tmp_path, label, contigs):
    table = pd.concat([variants(2, contig) for contig in contigs])
    write_plink(tmp_path / f"c{label}", counts(len(table), 4), people(4), table)
    assert open_plink(tmp_path / "c@").n_variants == len(table)


def test_a_pattern_refuses_what_it_can_not_tell(tmp_path):
    make(tmp_path / "chr1.bed")
    # Not the first line alone.
    table = pd.concat([variants(5, "2"), variants(2, "3")])
    write_plink(tmp_path / "chr2", counts(7, 10), people(10), table)
    with pytest.raises(InputError, match=r"chr2.bim: variants on chromosome '3', expected 2"):
        open_plink(tmp_path / "chr@.bed")
    make(tmp_path / "chr2.bed", contig="2")
    for other, name in (("chr01", "1"), ("chrX", "X"), ("chr23", "X")):
        make(tmp_path / f"{other}.bed", contig=name)
        if other != "chrX":
            with pytest.raises(InputError, match=rf"{other}.bed.* both of chromosome {name}; "):
                open_plink(tmp_path / "chr@.bed")
            (tmp_path / f"{other}.bed").unlink()
    with pytest.raises(InputError, match=r"nowhere: can't be read"):
        open_plink(tmp_path / "nowhere" / "chr@.bed")


def test_other_formats_are_answered_with_the_command_that_converts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, command in [
        ("a b.pgen", "plink2 --pfile 'a b' --make-bed --out 'a b'"),
        ("x.psam", "plink2 --pfile x --make-bed --out x"),
        ("x.bgen", "plink2 --bgen x.bgen ref-first --sample x.sample --make-bed --out x"),
        ("x.VCF.gz", "plink2 --vcf x.VCF.gz --make-bed --out x"),
        ("x.vcf", "plink2 --vcf x.vcf --make-bed --out x"),
        ("x.bcf", "plink2 --bcf x.bcf --make-bed --out x"),
        ("chr@.ped", "plink --file chr1 --make-bed --out chr1"),
        ("x.bim", "give x.bed"),
        ("x.fam", "give x.bed"),
        ("x.bed.gz", "gunzip x.bed.gz"),
        ("x.zarr", "xarray.open_zarr"),
    ]:
        if "@" not in name:
            Path(name).write_bytes(b"")
        with pytest.raises(InputError) as error:
            open_plink(name)
        assert str(error.value).startswith(f"{name}: ")
        assert str(error.value).endswith(command) or command in str(error.value)
    with pytest.raises(InputError, match=r"^y.pgen: no such file$"):
        open_plink("y.pgen")
    Path("y.pgen").write_bytes(b"")
    with pytest.raises(InputError, match=r"y.bed: no such file; y.pgen is a PLINK 2 file, conv"):
        open_plink("y")
    Path("y.txt").write_text("FID IID x\n")
    with pytest.raises(InputError, match=r"y.txt: its name does not end with .bed"):
        open_plink("y.txt")
    # A prefix may look like another format.
    make("z.vcf.bed")
    assert open_plink("z.vcf").n_variants == 7
    Path("w.bed").write_bytes(b"\x6c\x1b\x10" + bytes(20))
    for suffix in (".bim", ".fam"):
        Path(f"w{suffix}").write_bytes(Path(f"z.vcf{suffix}").read_bytes())
    with pytest.raises(InputError, match=r"w.bed: a PLINK 2 file.*plink2 --pfile w"):
        open_plink("w")


@pytest.mark.parametrize("given", [None, 3, np.zeros((2, 2)), ["a.bed", 3], b"a.bed"])
def test_genotypes_are_given_by_paths(given):
    with pytest.raises(InputError, match=r"genotypes are given as \w+, expected a path"):
        open_plink(given)


def test_a_bim_of_five_columns_has_no_centimorgans(tmp_path, monkeypatch):
    make(tmp_path / "a.bed")
    six = pd.concat(open_plink(tmp_path / "a").iter_variants())
    bim = tmp_path / "a.bim"
    lines = [line.split("\t") for line in bim.read_text().splitlines()]
    short = ["\t".join(fields[:2] + fields[3:]) for fields in lines]
    bim.write_text("\n".join(short) + "\n")
    monkeypatch.setattr("hlmm_dask.genotypes.plink_tables.BIM_INDEX_ROWS", 4)
    monkeypatch.setattr("hlmm_dask.genotypes.plink.BIM_INDEX_ROWS", 4)
    plink = open_plink(tmp_path / "a")
    pd.testing.assert_frame_equal(pd.concat(plink.iter_variants()), six)
    pd.testing.assert_frame_equal(pd.concat(iter_bim(bim, chunk_size=2)), six)
    bim.write_text("\n".join([*short[:5], "\t".join(lines[5]), short[6]]) + "\n")
    with pytest.raises(InputError, match=r"line 6: 6 fields, expected 5 \(chromosome, ID, pos"):
        open_plink(tmp_path / "a")


@pytest.mark.parametrize(
    ("suffix", "header"),
    [(".fam", "#FID IID PAT MAT SEX PHENO1"), (".fam", "FID\tIID\tSEX"), (".fam", "#IID SEX"),
     (".bim", "#CHROM\tID\tCM\tPOS\tALT\tREF"), (".bim", "#CHROM POS ID REF ALT"),
     (".bim", "chr snp cm bp a1 a2"), (".bim", "chr rsid cm pos a1 a2"),
     (".bim", '"V1" "V2" "V3" "V4" "V5" "V6"'), (".bim", "contig id position alt ref"),
     (".fam", '"FID" "IID" "F" "M" "S" "P"'), (".fam", "V1 V2 V3 V4 V5 V6"),
     (".fam", "Family Individual Father Mother Sex Phenotype")],
)  # fmt: skip
def test_a_header_is_named_as_one(tmp_path, suffix, header):
    # Of seven samples: with the header as an eighth, the .bed would have the size that is expected.
    make(tmp_path / "a.bed", n=7)
    path = tmp_path / f"a{suffix}"
    path.write_text(f"{header}\n{path.read_text()}")
    with pytest.raises(InputError, match=rf"a{suffix}, line 1: a header \(#?\w+ .*tail -n \+2"):
        open_plink(tmp_path / "a")


@pytest.mark.parametrize(
    "first", ["f i 0 0 other -9", "f i 0 0 3 Case", "f i 0 0 NA Low", "f i 0 0 1 Low"]
)
def test_an_odd_first_sample_is_no_header(tmp_path, first):
    path = tmp_path / "a.fam"
    path.write_text(f"{first}\nf j 0 0 2 -9\n")
    assert read_fam(path)["iid"].tolist() == ["i", "j"]


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
    later = plink.files[0].bed_stamp.mtime_ns + 10**9
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


@pytest.mark.parametrize("how", ["replaced", "written to"])
def test_changed_with_the_same_size_and_time(tmp_path, how):
    make(tmp_path / "a.bed", m=7, n=10)
    plink = open_plink(tmp_path / "a")
    for name, read in (("bed", lambda: plink.read_packed(0, 1)),
                       ("bim", lambda: list(plink.iter_variants()))):  # fmt: skip
        path = tmp_path / f"a.{name}"
        times = path.stat()
        content = path.read_bytes()
        target = tmp_path / "new" if how == "replaced" else path
        target.write_bytes(content[:-1] + bytes([content[-1] ^ 4]))
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
        target.replace(path)
        assert path.stat().st_mtime_ns == times.st_mtime_ns
        with pytest.raises(ChangedInputError, match=rf"a.{name}: changed .* same size and time"):
            read()


@pytest.mark.parametrize("n", [6, 7, 8, 9])
@pytest.mark.parametrize("lost", [0, -1])
def test_a_fam_that_lost_a_line(tmp_path, n, lost):
    make(tmp_path / "a.bed", m=200, n=n)
    fam = tmp_path / "a.fam"
    lines = fam.read_text().splitlines(keepends=True)
    del lines[lost]
    fam.write_text("".join(lines))
    with pytest.raises(InputError, match=r"has genotypes after the last of the|bytes, expected"):
        open_plink(tmp_path / "a")


def test_padding_is_looked_at_in_every_variant_that_is_read(tmp_path):
    make(tmp_path / "a.bed", m=200, n=10)
    bed = tmp_path / "a.bed"
    content = bytearray(bed.read_bytes())
    content[3 + 3 * 3 - 1] |= 0x30  # the third variant, which is not looked at when opening
    bed.write_bytes(content)
    plink = open_plink(bed)
    plink.read_packed(3, 200)
    with pytest.raises(InputError, match=r"a.bed: variant 3 has genotypes after .* 10 samples"):
        plink.read_packed(1, 200)


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
