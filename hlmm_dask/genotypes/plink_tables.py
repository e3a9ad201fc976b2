"""The text files of PLINK 1: samples (.fam) and variants (.bim)."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.contigs import UNKNOWN_POSITION, is_left_out
from hlmm_dask.ids import require_unique
from hlmm_dask.missing import NUMBER, Missing
from hlmm_dask.sex_codes import sex_code
from hlmm_dask.text import Lines, iter_rows, shown

FAM_FIELDS = "FID, IID, father, mother, sex, phenotype"
BIM_FIELDS = "chromosome, ID, centimorgan, position, allele 1, allele 2"
# PLINK 2 reads a .bim without centimorgans, too.
_SHORT_BIM_FIELDS = "chromosome, ID, position, allele 1, allele 2"
BIM_INDEX_ROWS = 20_000
_SHOWN = 5
# Names of columns in PLINK 2's .psam and .pvar, and in tables that were made by hand.
_FAM_NAMES = {b"FID", b"IID"}
_BIM_NAMES = {b"CHROM", b"CHR", b"SNP", b"POS", b"BP"}


def read_fam(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the samples of a .fam.

    Parameters
    ----------
    path : path
        The .fam; six fields a line.

    Returns
    -------
    DataFrame
        Columns ``fid`` and ``iid``, strings as they stand in the file.

    Raises
    ------
    InputError
        If a line has not six fields, is not UTF-8, or a (FID, IID) comes twice; if the first line
        is a header.
    """
    fid: list[str] = []
    iid: list[str] = []
    numbers: list[int] = []
    for rows in iter_rows(path):
        if not numbers:
            _refuse_header(rows, _FAM_NAMES, FAM_FIELDS, _is_person)
        table = rows.split(6, FAM_FIELDS)
        fid += table.strings(0)
        iid += table.strings(1)
        numbers += rows.numbers
    require_unique(path, list(zip(fid, iid, strict=True)), numbers, "sample ")
    return pd.DataFrame({"fid": fid, "iid": iid}, dtype=str)


def iter_bim(path: str | os.PathLike[str], chunk_size: int = 100_000) -> Iterator[pd.DataFrame]:
    """Read a .bim in chunks.

    Parameters
    ----------
    path : path
        The .bim; six fields a line, or five (without centimorgans).
    chunk_size : int
        Variants in a chunk; the last chunk may have fewer.

    Yields
    ------
    DataFrame
        Columns ``contig``, ``variant_id``, ``position`` (int64), ``allele1``, ``allele2``; the
        index goes on from chunk to chunk.

    Raises
    ------
    InputError
        If a line has another number of fields than the first, is not UTF-8, or its position is not
        an integer; if the first line is a header.
    """
    first = n_fields = 0
    for rows in iter_rows(path, chunk_rows=chunk_size):
        n_fields = n_fields or bim_width(rows)
        yield variants_frame(rows, first, n_fields)
        first += len(rows)


def variants_frame(rows: Lines, first: int, n_fields: int) -> pd.DataFrame:
    """Parse the variants of some lines, as from `iter_bim`; `first` is the index of the first."""
    return pd.DataFrame(_columns(rows, n_fields), index=pd.RangeIndex(first, first + len(rows)))


def bim_width(rows: Lines) -> int:
    """Fields in a line of a .bim, given its first lines: 6, or 5 without centimorgans."""
    _refuse_header(rows, _BIM_NAMES, BIM_FIELDS, _is_variant)
    return 5 if len(rows.lines[0].split()) == 5 else 6


def _columns(rows: Lines, n_fields: int) -> dict[str, Any]:
    table = rows.split(n_fields, BIM_FIELDS if n_fields == 6 else _SHORT_BIM_FIELDS)
    return {
        "contig": table.strings(0),
        "variant_id": table.strings(1),
        "position": table.integers(n_fields - 3, "position"),
        "allele1": table.strings(n_fields - 2),
        "allele2": table.strings(n_fields - 1),
    }


def _refuse_header(
    rows: Lines, names: set[bytes], expected: str, is_entry: Callable[[list[bytes]], bool]
) -> None:
    """Raise an `InputError` if the first line names columns: PLINK 1's tables have no header.

    Columns may have any names: a header is also a first line that is no entry before one that is.
    """
    first, *others = (_unquoted(line) for line in rows.lines[:2])
    found = {word.lstrip(b"#").upper() for word in first[:3]}
    marked = first[0].upper() in {b"#" + name for name in names}
    unlike = not is_entry(first) and any(map(is_entry, others))
    if marked or unlike or len(found & names) > 1:
        text = b" ".join(first[:3]).decode(errors="backslashreplace")
        raise InputError(
            f"{rows.path}, line {rows.numbers[0]}: a header ({text} ...), "
            f"expected no header ({expected}); remove the line, for example with `tail -n +2`"
        )


def _unquoted(line: bytes) -> list[bytes]:
    """Split a line; quotes as R writes them are taken off."""
    return [word.strip(b"\"'") or word for word in line.split()]


def _is_person(fields: list[bytes]) -> bool:
    """Whether sex or phenotype may be values; lines of another length are refused elsewhere."""
    if len(fields) != 6:
        return True
    sex = fields[4].decode(errors="surrogateescape")
    return sex_code(sex) is not None or any(map(_is_value, fields[4:]))


def _is_variant(fields: list[bytes]) -> bool:
    """Whether the position may be a value; lines of another length are refused elsewhere."""
    return len(fields) not in {5, 6} or _is_value(fields[-3])


def _is_value(field: bytes) -> bool:
    return NUMBER.fullmatch(field) is not None or Missing().means(field)


@dataclass(frozen=True)
class BimSummary:
    """What the lines of a .bim say together.

    Attributes
    ----------
    n_variants, n_fields : int
        Variants, and fields in a line.
    index : tuple of (int, int)
        Byte offset and line number from which to read variant 0, 20,000, ...
    contigs : tuple of str
        Chromosomes as they are named, in the order of their appearance.
    left_out : tuple of str
        IDs of the first variants with a position that marks them as left out.
    n_left_out, n_unknown : int
        All of those, and the variants whose position -9 says that it is unknown.
    """

    n_variants: int
    n_fields: int
    index: tuple[tuple[int, int], ...]
    contigs: tuple[str, ...]
    left_out: tuple[str, ...]
    n_left_out: int
    n_unknown: int

    def notes(self, path: Path) -> list[str]:
        """Say which variants are left out by their position, and how many have position -9."""
        unknown = [
            f"{path}: {self.n_unknown:,} of {self.n_variants:,} variants have the position "
            f"{UNKNOWN_POSITION}, taken as unknown; they are analysed (PLINK leaves them out)"
        ]
        if not self.n_left_out:
            return unknown if self.n_unknown else []
        some = ", ".join(shown(name) for name in self.left_out)
        more = ", ..." if self.n_left_out > len(self.left_out) else ""
        return [
            f"{path}: {self.n_left_out:,} of {self.n_variants:,} variants have a negative position "
            f"and are left out, as in PLINK (first: {some}{more})",
            *(unknown if self.n_unknown else []),
        ]


def scan_bim(path: Path) -> BimSummary:
    """Check every line before any work; count the variants, and index every 20,000th.

    Raises
    ------
    InputError
        As `iter_bim`.
    """
    n_variants, at = 0, (0, 1)
    n_fields = 0
    index: list[tuple[int, int]] = []
    contigs: dict[str, None] = {}
    left_out: list[str] = []
    n_left_out = n_unknown = 0
    for rows in iter_rows(path, chunk_rows=BIM_INDEX_ROWS):
        n_fields = n_fields or bim_width(rows)
        columns = _columns(rows, n_fields)
        contigs |= dict.fromkeys(columns["contig"])
        marked = np.flatnonzero(is_left_out(columns["position"]))
        n_left_out += len(marked)
        n_unknown += int(np.count_nonzero(columns["position"] == UNKNOWN_POSITION))
        left_out += [columns["variant_id"][i] for i in marked[: _SHOWN - len(left_out)].tolist()]
        index.append(at)
        n_variants += len(rows)
        at = rows.end
    return BimSummary(
        n_variants, n_fields, tuple(index), tuple(contigs), tuple(left_out), n_left_out, n_unknown
    )


def require_same_samples(
    first_path: Path, first: pd.DataFrame, path: Path, other: pd.DataFrame
) -> None:
    """Raise an InputError at the first difference between the samples of two .fam files."""
    if len(first) != len(other):
        raise InputError(
            f"{path}: {len(other)} samples, {len(first)} in {first_path}; "
            "all genotype files must have the same samples in the same order"
        )
    differ = (first["fid"] != other["fid"]) | (first["iid"] != other["iid"])
    if differ.any():
        i = int(np.flatnonzero(differ)[0])
        a, b = (" ".join(shown(x) for x in table.iloc[i]) for table in (first, other))
        raise InputError(
            f"{path}: sample {i + 1} is {b}, {a} in {first_path}; "
            "all genotype files must have the same samples in the same order"
        )
