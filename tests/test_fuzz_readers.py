"""Damaged .fam, .bim, .bed headers and tables: read, or refused in one line, nothing else.

Valid files are mutated by hypothesis (flipped, lost and repeated bytes, odd tokens, white space,
long lines, huge numbers, other encodings). CI runs a fixed set of examples for a few seconds. By
hand, for as long as wanted, with new examples each time and a count at the end::

    HLMM_DASK_FUZZ_SECONDS=300 python -m pytest -s tests/test_fuzz_readers.py

The seconds are shared by the targets. What it found stays below, in FOUND.
"""

import os
import re
import secrets
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.packed import decode
from hlmm_dask.genotypes.plink import iter_bim, open_plink, read_fam
from hlmm_dask.random_effects import random_effects
from hlmm_dask.samples import align
from hlmm_dask.tables import read_table

SECONDS = float(os.environ.get("HLMM_DASK_FUZZ_SECONDS", "0"))
EXAMPLES = 150
MOST = 20  # replacements of one mutation: they multiply

N, M = 9, 5
FAM = b"".join(b"f%d 00%d 0 0 %d -9\n" % (i // 2, i, i % 3) for i in range(N))
BIM = b"".join(b"%s\trs%d\t0\t%d\tA\tG\n" % (b"1" if j < 3 else b"X", j, 10 * j) for j in range(M))
# One sample in the last byte of a variant, and zeros.
BED = b"\x6c\x1b\x01" + b"".join(bytes([7 + 3 * j, 8 + 3 * j, j % 4]) for j in range(M))
TABLE = b"FID IID height sex\n" + b"".join(
    b"f%d 00%d %.3f %d\n" % (i // 2, i, (i * 7 % 5) / 3, 1 + i % 2) for i in range(N)
)
COVAR = re.sub(rb"(?m)^.*IID.*\n", b"", TABLE)

ODD = [
    b"\0", b"\r", b"\r\n", b"\n", b"\n\n", b"\t", b" ", b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xa0",
    b"\xc2\xa0", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff",
    b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x1f\x8b", b"PK\x03\x04", b"\xd9\xa1", b"\xe2\x88\x92",
    b"#", b'"', b"'", b",", b";", b"NA", b"nan", b"-nan", b"nan(1)", b"inf", b"-Infinity", b"1e999",
    b"1e308", b"-1e308", b"1e-320", b"1e-999", b"0x10", b"1_0", b"+1", b"1.", b".5", b".", b"-",
    b"1d5", b"-9", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809",
    b"9" * 5000, b"A" * 9000, b"x " * 3000, b"FID IID", b"#FID\tIID\ta\ta\n", b"\x1b[31m", b"%s",
    b"{}", b"\xf0\x9f\xa7\xac", b"\xe4\xba\xba",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """Content with up to six mutations, often none."""
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3, 6]))):
        at = draw(st.integers(0, len(content)))
        stop = min(len(content), at + draw(st.sampled_from([1, 1, 2, 5, 20, 1000])))
        kind = draw(st.integers(0, 8))
        odd = draw(st.sampled_from(ODD)) if kind < 4 else b""
        if kind == 0:
            content = content[:at] + odd + content[at:]
        elif kind == 1:  # in place of a field
            fields = list(re.finditer(rb"\S+", content))
            span = fields[at % len(fields)].span() if fields else (0, 0)
            content = content[: span[0]] + odd + content[span[1] :]
        elif kind == 2:
            old = draw(st.sampled_from([b" ", b"\t", b"\n", b"0", b"."]))
            content = content.replace(old, odd, MOST)
        elif kind == 3:  # a column
            some = cycle([odd, *draw(st.lists(st.sampled_from(ODD), max_size=3))])
            content = re.sub(rb"(?m)\S+$", lambda _, some=some: next(some), content, count=MOST)
        elif kind == 4:
            content = content[:at]
        elif kind == 5:
            content = content[:at] + content[stop:]
        elif kind == 6:
            content = content[:stop] + content[at:]
        elif kind == 7:
            content = content[:at] + draw(st.binary(max_size=8)) + content[stop:]
        else:
            code = draw(st.sampled_from(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp500"]))
            content = content.decode("latin-1").encode(code, "replace")
    return content


def write(folder: Path, **contents: bytes) -> None:
    for name, content in contents.items():
        (folder / name.replace("_", ".")).write_bytes(content)


def fam(folder: Path, content: bytes) -> None:
    write(folder, a_fam=content)
    table = read_fam(folder / "a.fam")
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert len(table) == sum(bool(line.strip()) for line in lines)
    assert not table.duplicated().any()


def bim(folder: Path, content: bytes) -> None:
    write(folder, a_bim=content)
    for table in iter_bim(folder / "a.bim", 3):
        assert table["position"].dtype == np.int64
        assert (table.map(str).map(len) > 0).all(axis=None)


def plink(folder: Path, contents: tuple[bytes, bytes, bytes]) -> None:
    bed, variants, samples = contents
    write(folder, a_bed=bed, a_bim=variants, a_fam=samples)
    opened = open_plink(folder / "a.bed")
    assert len(opened.samples) == opened.n_samples
    assert sum(len(part) for part in opened.iter_variants()) == opened.n_variants
    packed = opened.read_packed(0, opened.n_variants)
    assert packed.tobytes() == bed[3:]
    assert decode(packed, opened.n_samples).shape == (opened.n_variants, opened.n_samples)


def table(folder: Path, content: bytes) -> None:
    write(folder, t_txt=content)
    read = read_table(folder / "t.txt")
    assert read.values.shape == (len(read.ids), len(read.names))
    assert not np.isinf(read.values).any()
    assert len(set(read.ids)) == len(read.ids)


def samples(folder: Path, contents: tuple[bytes, bytes, bytes]) -> None:
    write(folder, t_txt=contents[0], c_txt=contents[1], a_fam=contents[2])
    phenotype, covariates = (read_table(folder / name) for name in ("t.txt", "c.txt"))
    aligned = align(
        read_fam(folder / "a.fam"), phenotype, mean_covariates=covariates,
        variance_covariates=covariates, genotypes_name="a.fam",
    )  # fmt: skip
    assert np.isfinite(aligned.standardised_mean_covariates()).all()
    assert np.isfinite(aligned.y).all()
    assert np.isfinite(random_effects(aligned.ids, covariates).G).all()


def selection(folder: Path, text: str) -> None:
    write(folder, t_txt=TABLE)
    names = read_table(folder / "t.txt", columns=text).names
    assert names
    assert set(names) <= {"height", "sex"}


def accepted(target: Callable[[Path, object], None], folder: Path, content: object) -> bool:
    """Whether the target takes the content; anything but an InputError of one line goes on."""
    try:
        target(folder, content)
    except InputError as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert message.isprintable(), message
        assert len(message) < 1000 + 4 * len(str(folder)), message
        return False
    return True


TARGETS: dict[str, tuple[Callable[[Path, object], None], st.SearchStrategy[object]]] = {
    "fam": (fam, mutated(FAM)),
    "bim": (bim, mutated(BIM)),
    "plink": (plink, st.tuples(mutated(BED), mutated(BIM), mutated(FAM))),
    "table": (table, mutated(TABLE) | mutated(COVAR)),
    "samples": (samples, st.tuples(mutated(TABLE), mutated(COVAR), mutated(FAM))),
    "selection": (
        selection,
        st.text("0123456789,- ", max_size=9)
        | st.sampled_from([*(odd.decode("latin-1") for odd in ODD), "1-2", "2-1", "sex,1"]),
    ),
}


# What ended in another exception, or was silently read as something else.
FOUND: list[tuple[str, object, str]] = [
    ("bim", BIM.replace(b"\t20\t", b"\t" + b"9" * 5000 + b"\t"), "line 3: position '999"),
    ("bim", BIM.replace(b"\t20\t", b"\t0x20\t"), "line 3: position '0x20' is not an integer"),
    ("bim", BIM.replace(b"rs2", b"rs\0"), "line 3: a NUL byte"),
    ("fam", FAM.replace(b"\n", b"\r"), "line 1: a CR within the line"),
    ("fam", FAM.decode().encode("utf-16"), "UTF-16 text"),
    ("fam", FAM.decode().encode("utf-32"), "UTF-32 text"),
    ("fam", b"\x1f\x8b\x08\x00" + FAM, "gzip-compressed"),
    ("plink", (BED, BIM.replace(b"\t40\t", b"\t4x\t"), FAM), "line 5: position '4x'"),
    ("plink", (BED, BIM.replace(b"rs4", b"rs\xe9"), FAM), "line 5: .* is not UTF-8"),
    ("table", COVAR.replace(b" 1\n", b" nan(1)\n", 1), "column '2': 'nan.1.' is not a number"),
    ("table", b"1 1 1\r1 2 2\r1 3 3", "line 1: a CR within the line"),
    ("samples", (TABLE, re.sub(rb"(?m)\S+$", b"1e308", COVAR, count=2), FAM), "too large"),
    ("samples", (re.sub(rb"(?m)\d.000 .$", b"-1e308 1", TABLE), COVAR, FAM), "too large"),
    ("selection", "9" * 5000, "no column '999"),
    ("selection", "1-" + "9" * 5000, "no column '1-999"),
    ("selection", "A" * 9000, "no column 'AAA"),
    ("selection", "2-1", "the smaller number first"),
    ("selection", "\u0663", "no column"),
]


@pytest.mark.parametrize(("name", "content", "message"), FOUND)
def test_found(tmp_path: Path, name: str, content: object, message: str) -> None:
    target, _ = TARGETS[name]
    assert not accepted(target, tmp_path, content)
    with pytest.raises(InputError, match=message):
        target(tmp_path, content)


def test_missing_token_that_is_no_utf8(tmp_path: Path) -> None:
    write(tmp_path, t_txt=b"a b 1 \xff\nc d 2 3\n")
    token = os.fsdecode(b"\xff")  # as the command line gives it
    values = read_table(tmp_path / "t.txt", missing=(token,)).values
    np.testing.assert_array_equal(values, [[1, np.nan], [2, 3]])


def test_spread_whose_inverse_overflows(tmp_path: Path) -> None:
    tiny = re.sub(rb"(\d)\n", rb"\1e-310\n", COVAR)
    samples(tmp_path, (TABLE, tiny, FAM))


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.fam")
    with pytest.raises(InputError, match="no regular file"):
        read_fam(tmp_path / "a.fam")


@pytest.mark.parametrize("name", TARGETS)
def test_fuzz(tmp_path: Path, name: str) -> None:
    target, strategy = TARGETS[name]
    taken: list[bool] = []

    def check(content: object) -> None:
        taken.append(accepted(target, tmp_path, content))

    options = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    end = time.monotonic() + SECONDS / len(TARGETS)
    while not taken or time.monotonic() < end:
        start = secrets.randbits(32) if SECONDS else 0
        seed(start)(options(given(strategy)(check)))()
    print(f"\n{name}: {len(taken)} examples, {sum(taken)} taken as valid")
    # Both ways out are met.
    assert 0 < sum(taken) < len(taken)
