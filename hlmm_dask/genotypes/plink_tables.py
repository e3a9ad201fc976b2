"""The text files of PLINK 1: samples (.fam) and variants (.bim)."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from hlmm_dask.errors import InputError
from hlmm_dask.text import BOM, Lines, iter_rows, open_binary, shown

FAM_FIELDS = "FID, IID, father, mother, sex, phenotype"
BIM_FIELDS = "chromosome, ID, centimorgan, position, allele 1, allele 2"
BIM_INDEX_ROWS = 20_000


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
        If a line has not six fields, is not UTF-8, or a (FID, IID) comes twice.
    """
    fid: list[str] = []
    iid: list[str] = []
    numbers: list[int] = []
    for rows in iter_rows(path):
        table = rows.split(6, FAM_FIELDS)
        fid += table.strings(0)
        iid += table.strings(1)
        numbers += rows.numbers
    first: dict[tuple[str, str], int] = {}
    for number, key in zip(numbers, zip(fid, iid, strict=True), strict=True):
        if first.setdefault(key, number) != number:
            raise InputError(
                f"{os.fspath(path)}, line {number}: sample FID {shown(key[0])} IID {shown(key[1])} "
                f"is also on line {first[key]}; (FID, IID) must be unique"
            )
    return pd.DataFrame({"fid": fid, "iid": iid}, dtype=str)


def iter_bim(path: str | os.PathLike[str], chunk_size: int = 100_000) -> Iterator[pd.DataFrame]:
    """Read a .bim in chunks.

    Parameters
    ----------
    path : path
        The .bim; six fields a line.
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
        If a line has not six fields, is not UTF-8, or its position is not an integer.
    """
    first = 0
    for rows in iter_rows(path, chunk_rows=chunk_size):
        yield variants_frame(rows, first)
        first += len(rows)


def variants_frame(rows: Lines, first: int) -> pd.DataFrame:
    """Parse the variants of some lines, as from `iter_bim`; `first` is the index of the first."""
    table = rows.split(6, BIM_FIELDS)
    return pd.DataFrame(
        {
            "contig": table.strings(0),
            "variant_id": table.strings(1),
            "position": table.integers(3, "position"),
            "allele1": table.strings(4),
            "allele2": table.strings(5),
        },
        index=pd.RangeIndex(first, first + len(rows)),
    )


def scan_bim(path: Path) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    """Count the variants, checksum the file and note where every 20,000th line starts."""
    n_variants, crc, offset = 0, 0, 0
    index: list[tuple[int, int]] = []
    with open_binary(path) as stream:
        for number, line in enumerate(stream, 1):
            crc = zlib.crc32(line, crc)
            if (line.removeprefix(BOM) if number == 1 else line).strip():
                if n_variants % BIM_INDEX_ROWS == 0:
                    index.append((offset, number))
                n_variants += 1
            offset += len(line)
    return n_variants, crc, tuple(index)


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
