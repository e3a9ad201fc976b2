"""Dispersion effects of a finished store, or of an existing table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_dask import bgzf
from hlmm_dask.durable import replacing, sweep
from hlmm_dask.errors import InputError
from hlmm_dask.export import BATCH_VARIANTS, read_models_table
from hlmm_dask.genotypes.contigs import contig_codes
from hlmm_dask.models.dispersion import (
    DispersionOptions,
    DispersionResult,
    NotEstimable,
    dispersion_effects,
)
from hlmm_dask.scanning.summary import read_columns
from hlmm_dask.schema import DISPERSION_COLUMNS
from hlmm_dask.store import ResultsStore
from hlmm_dask.tab_separated import text_of

# In the summary of a scan.
SLOPE, SLOPE_SE = "slope of var on add", "r_se"

_COLUMNS = ("add", "add_se", "var", "var_se")


def estimate_dispersion(
    store: ResultsStore, options: DispersionOptions
) -> DispersionResult | NotEstimable:
    """Dispersion effects of all variants of a complete store."""
    columns = read_columns(store, _COLUMNS)
    return dispersion_effects(
        *(columns[name] for name in _COLUMNS), options=options, contig=contig_codes(contigs(store))
    )


def contigs(store: ResultsStore) -> Iterator[NDArray[Any]]:
    """Names of the variants' chromosomes, some at a time."""
    for start in range(0, store.n_variants, store.names_rows):
        stop = min(start + store.names_rows, store.n_variants)
        yield store.read_names("variant_contig", start, stop)


def slope_summary(result: DispersionResult) -> dict[str, Any]:
    """Slope of the line, its standard error, and the slopes by tercile, for a summary."""
    summary: dict[str, Any] = {SLOPE: f"{result.r_av:.6g}"}
    if result.n_excluded:
        summary |= {"variants left out of the slope": result.n_excluded}
    if (errors := result.errors) is not None:
        summary |= {SLOPE_SE: float(f"{errors.r_se:.6g}"), "r_blocks": errors.blocks}
        if errors.terciles is not None:
            summary |= {"r_by_tercile": errors.terciles.text}
    return summary


def add_dispersion(
    table: str, out: str, options: DispersionOptions, *, overwrite: bool = False
) -> list[str]:
    """Add dispersion effects to a text table; see ``hlmm-dispersion``.

    Returns
    -------
    list of str
        Lines on the fitted relation.

    Raises
    ------
    InputError
        If the table can't be read, ``out`` exists, or nothing can be estimated.
    """
    target = Path(out)
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists; give --overwrite or another name")
    frame = read_models_table(table)
    if lacking := [name for name in _COLUMNS if name not in frame]:
        raise InputError(f"{table}: no column {', '.join(lacking)}; expected a table of a scan")
    if "chrom" not in frame and options.blocks == "chromosomes":
        raise InputError(f"{table}: no column chrom; give a number of windows instead")
    contig = contig_codes([frame["chrom"].to_numpy(dtype=object)]) if "chrom" in frame else None
    result = dispersion_effects(*(frame[name] for name in _COLUMNS), options=options, contig=contig)
    if isinstance(result, NotEstimable):
        raise InputError(f"{table}: no dispersion effects: {result.reason}")
    headers = {column.name: column.header for column in DISPERSION_COLUMNS}
    for name, values in dispersion_columns(result).items():
        frame[headers[name]] = values
    sweep(target.absolute().parent, target.name)
    with replacing(target) as file:
        for start in range(0, len(frame), BATCH_VARIANTS):
            rows = frame.iloc[start : start + BATCH_VARIANTS]
            file.write(bgzf.compress(text_of(rows, header=not start)))
        file.write(bgzf.END)
    # An index of the table that was replaced.
    Path(f"{target}.tbi").unlink(missing_ok=True)
    errors = result.errors
    line = f"{result.n_used:,} variants, slope of var on add {result.r_av:.6g}"
    if errors is not None and not errors.reason:
        line += f", SE {errors.r_se:.3g} ({errors.blocks})"
    if errors is not None and errors.terciles is not None:
        line += f"; by tercile of add {errors.terciles.text}"
    return [line, *result.cautions]


def dispersion_columns(result: DispersionResult) -> dict[str, NDArray[np.float64]]:
    """Columns of dispersion effects by their names in ``schema.DISPERSION_COLUMNS``."""
    return {
        "dispersion": result.dispersion,
        "dispersion_se": result.dispersion_se,
        "dispersion_t": result.dispersion_t,
        "dispersion_neg_log10_p": result.dispersion_neg_log10_p,
    }
