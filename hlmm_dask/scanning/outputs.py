"""What a job writes beside its table, and whether it may."""

import os
from pathlib import Path

import numpy as np

from hlmm_dask.durable import replacing
from hlmm_dask.errors import InputError
from hlmm_dask.scanning.null import Effects


def check_outprefix(outprefix: str) -> None:
    """Raise an `InputError` unless files can be written there."""
    if not Path(f"{outprefix}x").name.removesuffix("x"):
        raise InputError(f"OUTPREFIX '{outprefix}': expected a folder and the start of a name")
    folder = Path(f"{outprefix}x").absolute().parent
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder for the output; create it")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: not writable; choose another OUTPREFIX")


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
