"""Which variants of a finished scan are looked at: by ID, the best of a test, or all."""

import os
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.scanning.summary import status_counts
from hlmm_dask.schema import nothing_fitted
from hlmm_dask.store import ResultsStore
from hlmm_dask.text import iter_rows, shown

IntArray = NDArray[np.int64]

# Column of -log10 p by the name of a test.
TESTS = {
    "var": "var_best_neg_log10_p",
    "add": "add_neg_log10_p",
    "av": "av_score_neg_log10_p",
    "classical": "var_neg_log10_p",
}

_ROWS = 65_536


def choose(store: ResultsStore, *, variants: str | None, top: int | None, test: str) -> IntArray:
    """Rows of the variants that are named, or else the best."""
    if variants is not None:
        return named(store, variants)
    assert top is not None
    return best_of(store, test, top)


def best_of(store: ResultsStore, test: str, n: int) -> IntArray:
    """Rows of the n variants with the smallest p of a test, the best first.

    No rows where the scan has fitted no variant.

    Raises
    ------
    InputError
        If n is no number of variants, or none of those fitted has a p.
    """
    if n < 1:
        raise InputError(f"--top {n}: expected a number of variants, at least 1")
    at = store.columns.index(TESTS[test])
    rows, values = np.empty(0, dtype=np.int64), np.empty(0)
    for start in range(0, store.n_variants, _ROWS):
        stop = min(start + _ROWS, store.n_variants)
        p = store.read(start, stop)[:, at]
        known = np.flatnonzero(~np.isnan(p))
        rows, values = np.append(rows, start + known), np.append(values, p[known])
        kept = np.argsort(-values, kind="stable")[:n]
        rows, values = rows[kept], values[kept]
    if not len(rows) and not nothing_fitted(status_counts(store.markers())):
        raise InputError(f"{store.path}: no variant has a p-value of --test {test}; choose another")
    return rows


def named(store: ResultsStore, text: str) -> IntArray:
    """Rows of the variants named in ``text``: IDs with commas, or a file with an ID a line.

    Variants that share an ID are all taken.

    Raises
    ------
    InputError
        If an ID is not in the scan.
    """
    # Path.is_file raises where a list of IDs is longer than a file's name may be.
    if os.path.isfile(text):
        wanted = [
            name for lines in iter_rows(text) for name in lines.split(1, "an ID a line").strings(0)
        ]
    else:
        wanted = text.split(",")
    found: dict[str, list[int]] = {name: [] for name in wanted if name}
    if not found:
        raise InputError(f"--variants {shown(text)}: no ID, expected ID,ID,... or a file of IDs")
    for start in range(0, store.n_variants, _ROWS):
        stop = min(start + _ROWS, store.n_variants)
        names = store.read_variants(start, stop)["variant_id"]
        for row in np.flatnonzero(names.isin(list(found))).tolist():
            found[names.iloc[row]].append(start + row)
    lacking = [name for name, rows in found.items() if not rows]
    if lacking:
        some = ", ".join(shown(name) for name in lacking[:5])
        raise InputError(
            f"--variants: {len(lacking)} of {len(found)} IDs are not in {store.path} (first: "
            f"{some}); check the IDs, or name a file of IDs that exists"
        )
    return np.array([row for rows in found.values() for row in rows], dtype=np.int64)


def results_of(store: ResultsStore, rows: IntArray) -> pd.DataFrame:
    """Metadata and results of some variants in that order; the index is the row of each."""
    parts = []
    # Without rows the columns remain.
    for start, stop in list(consecutive(rows)) or [(0, 0)]:
        values = pd.DataFrame(store.read(start, stop), columns=list(store.columns))
        parts.append(pd.concat([store.read_variants(start, stop), values], axis=1))
    return pd.concat(parts).set_index(rows)


def consecutive(rows: IntArray) -> Iterator[tuple[int, int]]:
    """Split rows into ranges of neighbours: first, last + 1."""
    for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else ():
        yield int(run[0]), int(run[-1]) + 1
