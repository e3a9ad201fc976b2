"""Names of chromosomes."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt


def plain_contig(name: str) -> str:
    """Name of a chromosome without ``chr`` and leading zeros: chr01, Chr1 and 1 are the same."""
    bare = name[3:] if name[:3].lower() == "chr" and len(name) > 3 else name
    return bare.lstrip("0") or bare[-1:]


def contig_codes(pieces: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.int32]:
    """Return a number for the chromosome of each variant, in the order of their appearance.

    Parameters
    ----------
    pieces : iterable of (n,) array of str
        Names, some variants at a time.
    """
    codes: dict[str, int] = {}
    parts = [np.zeros(0, dtype=np.int32)]
    for names in pieces:
        # Variants of one chromosome mostly follow each other.
        first = np.flatnonzero(np.append(True, names[1:] != names[:-1])[: len(names)])
        runs = [codes.setdefault(plain_contig(str(names[i])), len(codes)) for i in first.tolist()]
        lengths = np.diff(np.append(first, len(names)))
        parts.append(np.repeat(np.array(runs, dtype=np.int32), lengths))
    return np.concatenate(parts)
