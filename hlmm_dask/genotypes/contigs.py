"""Names of chromosomes and positions: which variants are left out by them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from hlmm_dask.errors import InputError

HUMAN_AUTOSOMES = 22
# Published data sets write it for variants without a place on the map, and analyse them.
UNKNOWN_POSITION = -9


def is_left_out(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether a position marks a variant as left out, as in PLINK: negative, but -9 is unknown."""
    return np.asarray((positions < 0) & (positions != UNKNOWN_POSITION))


def autosomes_of(number: int, *, all_chromosomes: bool) -> int | None:
    """Return the number of autosomes as options say it, None for all chromosomes.

    Raises
    ------
    InputError
        If the number is none of chromosomes, or both options are given.
    """
    if number < 1:
        raise InputError(f"--autosome-num {number}: expected a number of chromosomes, 1 or more")
    if not all_chromosomes:
        return number
    if number != HUMAN_AUTOSOMES:
        raise InputError("--autosome-num and the option for all chromosomes exclude each other")
    return None


def is_autosome(contig: str, autosomes: int | None = HUMAN_AUTOSOMES) -> bool:
    """Whether a chromosome is one of 1, 2, ... up to a number; any is where that is None."""
    if autosomes is None:
        return True
    name = plain_contig(contig)
    return name.isascii() and name.isdecimal() and 1 <= int(name) <= autosomes


def on_autosomes(
    contigs: npt.NDArray[Any], autosomes: int | None = HUMAN_AUTOSOMES
) -> npt.NDArray[np.bool_]:
    """Whether the chromosome of each variant (n,) is an autosome, see `is_autosome`."""
    names, codes = np.unique(contigs.astype(str), return_inverse=True)
    inside = np.array([is_autosome(name, autosomes) for name in names.tolist()], dtype=np.bool_)
    return np.asarray(inside[codes])


def plain_contig(name: str) -> str:
    """Name of a chromosome without ``chr`` and leading zeros: chr01, Chr1 and 1 are the same."""
    bare = name[3:] if name[:3].lower() == "chr" and len(name) > 3 else name
    return bare.lstrip("0") or bare[-1:]


def contig_runs(
    pieces: Iterable[npt.NDArray[Any]],
) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Find where chromosomes begin: memory is that of the runs, not of the variants.

    Parameters
    ----------
    pieces : iterable of (n,) array of str
        Names, some variants at a time.

    Returns
    -------
    list of str
        Plain names of the chromosomes, in the order of their appearance.
    (r + 1,) int64
        First variant of each run of variants of one chromosome; last the number of variants.
    (r,) int32
        Index of the name of each run.
    """
    codes: dict[str, int] = {}
    starts, runs = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int32)]
    n = 0
    for names in pieces:
        # Variants of one chromosome mostly follow each other.
        first = np.flatnonzero(np.append(True, names[1:] != names[:-1])[: len(names)])
        found = [codes.setdefault(plain_contig(str(names[i])), len(codes)) for i in first.tolist()]
        starts.append(n + first)
        runs.append(np.array(found, dtype=np.int32))
        n += len(names)
    run, start = np.concatenate(runs), np.concatenate(starts)
    new = np.diff(run, prepend=-1) != 0
    return list(codes), np.append(start[new], n), run[new]


def contig_codes(pieces: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.int32]:
    """Return a number for the chromosome of each variant, as `contig_runs` counts them."""
    _, starts, runs = contig_runs(pieces)
    return np.repeat(runs, np.diff(starts))
