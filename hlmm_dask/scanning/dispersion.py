"""Dispersion effects of a finished store, or of an existing table."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.durable import replacing, sweep
from hlmm_dask.errors import InputError
from hlmm_dask.export import read_models_table
from hlmm_dask.models.dispersion import DispersionResult, NotEstimable, dispersion_effects
from hlmm_dask.scanning.summary import read_columns
from hlmm_dask.schema import DISPERSION_COLUMNS
from hlmm_dask.store import ResultsStore


def estimate_dispersion(store: ResultsStore) -> DispersionResult | NotEstimable:
    """Dispersion effects of all variants of a complete store."""
    columns = read_columns(store, ("add", "add_se", "var", "var_se"))
    return dispersion_effects(columns["add"], columns["add_se"], columns["var"], columns["var_se"])


def add_dispersion(table: str, out: str, *, overwrite: bool = False) -> str:
    """Add dispersion effects to a text table; see ``hlmm-dispersion``.

    Returns
    -------
    str
        One line on the fitted relation.

    Raises
    ------
    InputError
        If the table can't be read, ``out`` exists, or nothing can be estimated.
    """
    target = Path(out)
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists; give --overwrite or another name")
    frame = read_models_table(table)
    needed = ("add", "add_se", "var", "var_se")
    if lacking := [name for name in needed if name not in frame]:
        raise InputError(f"{table}: no column {', '.join(lacking)}; expected a table of a scan")
    result = dispersion_effects(frame["add"], frame["add_se"], frame["var"], frame["var_se"])
    if isinstance(result, NotEstimable):
        raise InputError(f"{table}: no dispersion effects: {result.reason}")
    headers = {column.name: column.header for column in DISPERSION_COLUMNS}
    for name, values in dispersion_columns(result).items():
        frame[headers[name]] = values
    sweep(target.absolute().parent, target.name)
    with replacing(target) as file:
        frame.to_csv(file, sep="\t", index=False, na_rep="NaN", compression="gzip")
    return f"{result.n_used:,} variants, slope of var on add {result.r_av:.6g}"


def dispersion_columns(result: DispersionResult) -> dict[str, NDArray[np.float64]]:
    """Columns of dispersion effects by their names in ``schema.DISPERSION_COLUMNS``."""
    return {
        "dispersion": result.dispersion,
        "dispersion_se": result.dispersion_se,
        "dispersion_t": result.dispersion_t,
        "dispersion_neg_log10_p": result.dispersion_neg_log10_p,
    }
