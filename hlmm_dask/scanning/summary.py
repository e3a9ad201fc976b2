"""What a complete store says in a few figures."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hlmm_dask.models.inference import genomic_control_lambda
from hlmm_dask.schema import Status, tested_columns
from hlmm_dask.store import ResultsStore

_ROWS = 65_536


def summarise(store: ResultsStore, seconds: float) -> dict[str, Any]:
    """Summary of a complete store: variants by status, λ_GC of the tests, rate."""
    counts = status_counts(store.markers())
    # Of the tests that reports and live views show.
    tests = tested_columns(store.columns)
    p = read_columns(store, tests.values())
    return {
        "n_variants": store.n_variants,
        "n_fitted": counts.get(Status.OK.label, 0),
        "counts": counts,
        **{
            f"lambda_gc_{test}": genomic_control_lambda(p[column], 2 if test == "joint" else 1)
            for test, column in tests.items()
        },
        "seconds": seconds,
        "variants_per_second": store.n_variants / seconds,
    }


def status_counts(markers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Add up the variants by status of blocks that are done, from their markers."""
    counts: dict[str, int] = {}
    for marker in markers:
        for label, n in marker["counts"].items():
            counts[label] = counts.get(label, 0) + n
    return counts


def read_columns(store: ResultsStore, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read whole columns of a store, some blocks at a time."""
    names = tuple(names)
    where = [store.columns.index(name) for name in names]
    out = np.empty((len(names), store.n_variants))
    step = max(1, _ROWS // store.block_size)
    for first in range(0, store.n_blocks, step):
        last = min(first + step, store.n_blocks)
        start, stop = store.block(first).start, store.block(last - 1).stop
        out[:, start:stop] = store.read_blocks(first, last)[:, where].T
    return dict(zip(names, out, strict=True))
