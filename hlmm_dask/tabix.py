"""An index of the text table for tabix, by chromosome and position; needs pysam."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hlmm_dask.durable import rename, sync
from hlmm_dask.errors import InputError
from hlmm_dask.export import table_headers
from hlmm_dask.store import ResultsStore

_BATCH_VARIANTS = 65_536
# The format's end of a chromosome.
_LAST_POSITION = 1 << 29


def require_pysam() -> Any:
    """Return pysam; an `InputError` says how to install it."""
    try:
        import pysam
    except ImportError as error:
        raise InputError(
            "--tabix needs pysam, which is not installed; pip install 'hlmm-dask[tabix]'"
        ) from error
    return pysam


def write_index(store: ResultsStore, table: str | os.PathLike[str]) -> str | None:
    """Write TABLE.tbi for the table of a store, if its order allows it.

    Parameters
    ----------
    store : ResultsStore
        The store that `write_tsv` wrote the table from, not appended to another.
    table : path
        OUTPREFIX.models.gz.

    Returns
    -------
    str or None
        Why no index was written, None if it was.

    Raises
    ------
    InputError
        If pysam is not installed.
    OSError
        If the table can't be read or the index not be written.
    """
    pysam = require_pysam()
    obstacle = _obstacle(store)
    if obstacle is not None:
        return f"no index for tabix: {obstacle}"
    headers = table_headers(store)
    target = Path(f"{table}.tbi")
    aside = target.with_name(f".{target.name[:200]}.{uuid4().hex}.partial")
    position = headers.index("pos")
    try:
        # No variant's name makes a line a comment: no line starts with a NUL.
        pysam.tabix_index(
            os.fspath(table), force=True, seq_col=headers.index("chrom"), start_col=position,
            end_col=position, meta_char="\0", line_skip=1, index=os.fspath(aside),
        )  # fmt: skip
        sync(aside)
        rename(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    sync(target.parent)
    return None


def _obstacle(store: ResultsStore) -> str | None:
    """Find the first variant out of tabix's order: chromosomes in one piece each, ascending."""
    seen: set[str] = set()
    contig, last = None, 0
    for start in range(0, store.n_variants, _BATCH_VARIANTS):
        variants = store.read_variants(start, min(start + _BATCH_VARIANTS, store.n_variants))
        positions = variants["position"].to_numpy(dtype=np.int64)
        runs = pc.run_end_encode(pa.array(variants["contig"], pa.large_string()))
        begin = 0
        for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            here = positions[begin:end]
            if name != contig:
                if name in seen:
                    return f"variant {start + begin + 1} goes back to chromosome '{name}'"
                seen.add(name)
                contig, last = name, 1
            bad = np.diff(here, prepend=last) < 0
            bad |= (here < 1) | (here > _LAST_POSITION)
            if bad.any():
                i = int(bad.argmax())
                where = f"variant {start + begin + i + 1} is at '{name}':{here[i]}"
                if not 1 <= here[i] <= _LAST_POSITION:
                    return f"{where}, expected 1 to {_LAST_POSITION:,}"
                return f"{where}, before the one above it; sort the genotype file by position"
            last, begin = int(here[-1]), end
    return None
