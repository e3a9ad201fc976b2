"""Columns to lines of text, and which rows a format can't hold."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hlmm_dask.schema import Status

SAME_ALLELES = "with the same allele twice"
_NUCLEOTIDES = "^[ACGTacgt]+$"
_OK = float(Status.OK)


def join(columns: Sequence[Any], *, separator: str, missing: str) -> bytes:
    """Join columns (arrow arrays) to lines, with a line end after each."""
    parts = [pc.fill_null(column.cast(pa.large_string()), missing) for column in columns]
    lines = pc.binary_join_element_wise(*parts, pa.scalar(separator, pa.large_string()))
    return "".join(f"{line}\n" for line in lines.to_pylist()).encode()


def strings(column: "pd.Series[Any]") -> Any:
    """Return a column of text as arrow's."""
    return pa.array(column.astype(object), pa.large_string())


def identifiers(ids: "pd.Series[str]", *, also: str = "") -> Any:
    """IDs with '_' for white space, quotes and the characters of ``also``; '.' if empty."""
    clean = pc.replace_substring_regex(strings(ids), rf'[\s\pZ\pC"{also}]', "_")
    return pc.if_else(pc.equal(pc.binary_length(clean), 0), ".", clean)


def are_nucleotides(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether both alleles are sequences of A, C, G and T."""
    good = np.ones(len(frame), dtype=np.bool_)
    for name in ("effect", "other"):
        good &= pc.match_substring_regex(strings(frame[name]), _NUCLEOTIDES).to_numpy(False)
    return good


def are_same(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether both alleles are the same: no effect has a direction then."""
    effect, other = upper(frame["effect"]), upper(frame["other"])
    return np.asarray(pc.equal(effect, other).to_numpy(False), dtype=np.bool_)


def upper(column: "pd.Series[str]") -> Any:
    """Alleles in capitals."""
    return pc.ascii_upper(strings(column))


def not_fitted(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows whose status is not ok."""
    return np.asarray(frame["status"] != _OK, dtype=np.bool_)


def sift(reasons: Mapping[str, NDArray[np.bool_]], counts: Counter[str]) -> NDArray[np.bool_]:
    """Return the rows that nothing speaks against; count the others by the first reason."""
    gone = np.zeros(len(next(iter(reasons.values()))), dtype=np.bool_)
    for reason, bad in reasons.items():
        counts[reason] += int(np.count_nonzero(bad & ~gone))
        gone |= bad
    return ~gone


def left_out(counts: Mapping[str, int]) -> str:
    """Say in words what was left out and why."""
    listed = ", ".join(f"{n:,} {reason}" for reason, n in counts.items() if n)
    return f"; left out: {listed}" if listed else ""
