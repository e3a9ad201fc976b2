"""What a job writes beside its table, and whether it may."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hlmm_dask.durable import replacing
from hlmm_dask.errors import InputError, StoreError
from hlmm_dask.export import check_header
from hlmm_dask.layout import LOCK_FILE, check_place
from hlmm_dask.lock import refuse_if_held
from hlmm_dask.scanning.null import Effects, NullModel
from hlmm_dask.schema import TSV_HEADERS
from hlmm_dask.store import ResultsStore

if TYPE_CHECKING:
    from hlmm_dask.scanning.job import ScanJob


_OUTPUTS = (
    ".models.gz", ".models.gz.tbi", ".parquet", ".null_mean_effects.txt",
    ".null_variance_effects.txt", ".null_h2.txt", ".null_h2_loco.tsv", ".log", ".run.json",
)  # fmt: skip
# Bytes of a fitted variant, compressed: in the store, the table, the Parquet file.
_BYTES = {".zarr": 120, ".models.gz": 150, ".parquet": 130}


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


def check_output(job: "ScanJob") -> None:
    """Raise an error unless all that a job of one phenotype writes may be written."""
    check_outprefix(job.outprefix)
    table = job.output(".models.gz")
    inputs = [path for name in job.inputs if (path := Path(name)).is_file()]
    for suffix in _OUTPUTS:
        path = job.output(suffix)
        if path.exists() and any(path.samefile(given) for given in inputs):
            raise InputError(f"{path}: is an input file; choose another OUTPREFIX")
    if job.append and job.tabix:
        raise InputError("append and tabix: a table that grows can't be indexed; give one of them")
    if job.append and table.exists():
        check_header(table, list(TSV_HEADERS))
    path = job.output(".zarr")
    if job.resume and path.exists():
        refuse_if_held(ResultsStore.open(path).run_dir / LOCK_FILE)
        return
    if job.overwrite:
        if job.keep_store:
            check_place(Path(os.path.realpath(path)), overwrite=True)
        return
    for suffix in (".zarr", ".models.gz", ".parquet"):
        if job.output(suffix).exists():
            raise StoreError(
                f"{job.output(suffix)}: exists; give --overwrite"
                if job.resume
                else f"{job.output(suffix)}: exists; give --resume to go on with "
                f"{path}, or --overwrite"
            )


def expected_sizes(job: "ScanJob", n_variants: int, fitted: float = 1.0) -> dict[str, int]:
    """Bytes of the results store and of the tables of one phenotype, about.

    Parameters
    ----------
    job : ScanJob
        Says which are written.
    n_variants : int
        Variants of the scan.
    fitted : float
        Share of them that has estimates; the rows of the others are short.
    """
    share = 0.1 + 0.9 * fitted
    written = {".zarr": job.keep_store, ".models.gz": True, ".parquet": job.parquet}
    return {s: round(n_variants * share * size) for s, size in _BYTES.items() if written[s]}


def check_space(job: "ScanJob", n_variants: int, n_phenotypes: int) -> str | None:
    """Raise an `InputError` where the disk is certainly too full; return a note where it may be."""
    needed = n_phenotypes * sum(expected_sizes(job, n_variants).values())
    folder = Path(f"{job.outprefix}x").absolute().parent
    free = shutil.disk_usage(folder).free
    what = f"{folder}: {free:,} bytes are free, the output may take {needed:,}"
    # Variants that are not fitted take next to nothing.
    if free < needed // 4:
        raise InputError(f"{what}; free some space, or choose another OUTPREFIX")
    return f"{what} if all variants are fitted" if free < needed else None


def remove_old(job: "ScanJob") -> None:
    """Remove what a replaced run wrote and this one may not write."""
    for suffix in (
        ".null_mean_effects.txt",
        ".null_variance_effects.txt",
        ".null_h2.txt",
        ".null_h2_loco.tsv",
        *([] if job.parquet else [".parquet"]),
    ):
        job.output(suffix).unlink(missing_ok=True)


def write_null(job: "ScanJob", null: NullModel) -> None:
    """Write the estimates of the null model."""
    if not job.no_covariate_estimates:
        write_effects(job.output(".null_mean_effects.txt"), null.mean_effects)
        write_effects(job.output(".null_variance_effects.txt"), null.variance_effects)
    if null.h2 is not None and not job.no_h2_estimate:
        write_estimate(job.output(".null_h2.txt"), null.h2, null.h2_se)
