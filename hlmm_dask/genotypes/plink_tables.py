"""The text files of PLINK 1: samples (.fam) and variants (.bim)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hlmm_dask.errors import InputError
from hlmm_dask.ids import require_unique
from hlmm_dask.text import Lines, iter_rows, shown

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
    require_unique(path, list(zip(fid, iid, strict=True)), numbers, "sample ")
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
    return pd.DataFrame(_columns(rows), index=pd.RangeIndex(first, first + len(rows)))


def _columns(rows: Lines) -> dict[str, Any]:
    table = rows.split(6, BIM_FIELDS)
    return {
        "contig": table.strings(0),
        "variant_id": table.strings(1),
        "position": table.integers(3, "position"),
        "allele1": table.strings(4),
        "allele2": table.strings(5),
    }


def scan_bim(path: Path) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Check every line before any work; count the variants, and index every 20,000th.

    Returns
    -------
    n_variants : int
    index : tuple of (int, int)
        Byte offset and line number from which to read variant 0, 20,000, ...

    Raises
    ------
    InputError
        As `iter_bim`.
    """
    n_variants, at = 0, (0, 1)
    index: list[tuple[int, int]] = []
    for rows in iter_rows(path, chunk_rows=BIM_INDEX_ROWS):
        _columns(rows)
        index.append(at)
        n_variants += len(rows)
        at = rows.end
    return n_variants, tuple(index)


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
