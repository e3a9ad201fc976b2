"""What a job writes beside its table, and whether it may."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hlmm_dask.durable import replacing, sweep
from hlmm_dask.errors import InputError
from hlmm_dask.placement import clean_up
from hlmm_dask.scanning.null import Effects

# Metadata, markers, the null model of a small study.
_RUN_BYTES = 1_000_000


def check_outprefix(outprefix: str) -> None:
    """Raise an `InputError` unless files can be written there."""
    if not Path(f"{outprefix}x").name.removesuffix("x"):
        raise InputError(f"OUTPREFIX '{outprefix}': expected a folder and the start of a name")
    folder = Path(f"{outprefix}x").absolute().parent
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder for the output; create it")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: not writable; choose another OUTPREFIX")


def tidy_up(outprefix: str) -> None:
    """Clean up what killed runs left half done at OUTPREFIX."""
    start = Path(f"{outprefix}x").absolute()
    clean_up(Path(os.path.realpath(f"{outprefix}.zarr")))
    sweep(start.parent, start.name.removesuffix("x"))


def needed_bytes(n_variants: int, n_columns: int, *, parquet: bool = False) -> int:
    """Bytes that the results store and the tables of one phenotype take on disk at the most.

    Parameters
    ----------
    n_variants, n_columns : int
        Rows and columns of the table.
    parquet : bool
        Whether the table is written as Parquet too.
    """
    # Doubles hardly compress, neither as numbers nor, eight or nine bytes each, as packed text.
    return n_variants * n_columns * 8 * (3 if parquet else 2) + _RUN_BYTES


def require_space(stores: Sequence[Path], needed: int) -> None:
    """Raise an `InputError` if the disk has no room for these stores and their tables.

    Parameters
    ----------
    stores : sequence of Path
        Results stores, in one folder. What an existing one takes is there for the new one, or
        need not be written again.
    needed : int
        Bytes that each takes with its tables.
    """
    folder = stores[0].resolve().parent
    there = sum(
        file.stat().st_size for path in stores for file in path.rglob("*") if file.is_file()
    )
    needed, free = needed * len(stores) - there, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: the output needs about {_megabytes(needed)}, {_megabytes(free)} are free; "
            "make room or choose another OUTPREFIX"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def write_effects(path: Path, effects: Effects) -> None:
    """Write name, effect and standard error, tab separated, one line each, as hlmm does."""
    rows = zip(effects.names, effects.effects, effects.standard_errors, strict=True)
    write_text(path, "".join(f"{name}\t{float(e)!r}\t{float(se)!r}\n" for name, e, se in rows))


def write_estimate(path: Path, value: float, standard_error: float | None) -> None:
    """Write a value and its standard error, one line each, as hlmm does."""
    se = "NaN" if standard_error is None or np.isnan(standard_error) else repr(standard_error)
    write_text(path, f"{value!r}\n{se}\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())
