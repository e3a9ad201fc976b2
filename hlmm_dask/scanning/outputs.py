"""What a job writes beside its table, and whether it may."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hlmm_dask.durable import replacing, sweep
from hlmm_dask.errors import InputError, StoreError
from hlmm_dask.export import check_appendable
from hlmm_dask.formats.effects import EFFECTS
from hlmm_dask.formats.munge import FORMATS, check_targets, targets
from hlmm_dask.lock import refuse_if_held
from hlmm_dask.placement import LOCK_FILE, check_place, clean_up, place_of, require_writable
from hlmm_dask.scanning.null import Effects
from hlmm_dask.scanning.written_outputs import check_outputs
from hlmm_dask.schema import TSV_HEADERS
from hlmm_dask.store import ResultsStore
from hlmm_dask.tab_separated import quoted

if TYPE_CHECKING:
    from hlmm_dask.scanning.job import ScanJob
    from hlmm_dask.scanning.lmm import AnyNull


_OUTPUTS = (
    ".models.gz", ".models.gz.tbi", ".parquet", ".null_mean_effects.txt",
    ".null_variance_effects.txt", ".null_h2.txt", ".null_h2_loco.tsv", ".log", ".run.json",
    ".report.html", ".null_lmm.tsv", ".loci.tsv", ".check.tsv", ".interaction.tsv",
)  # fmt: skip
# Bytes of a fitted variant, compressed: in the store, the table, the Parquet file.
_BYTES = {".zarr": 245, ".models.gz": 270, ".parquet": 240}

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
    # With the dot: chr1 must not take what chr10 is writing.
    sweep(start.parent, f"{start.name.removesuffix('x')}.")


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
    write_text(
        path, "".join(f"{quoted(name)}\t{float(e)!r}\t{float(se)!r}\n" for name, e, se in rows)
    )


def write_estimate(path: Path, value: float, standard_error: float | None) -> None:
    """Write a value and its standard error, one line each, as hlmm does."""
    se = "NaN" if standard_error is None or np.isnan(standard_error) else repr(standard_error)
    write_text(path, f"{value!r}\n{se}\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def check_output(job: "ScanJob", *, tidy: bool = True) -> None:
    """Raise an error unless all that a job of one phenotype writes may be written.

    Parameters
    ----------
    job : ScanJob
        Of one phenotype.
    tidy : bool
        First clean up what killed runs left.
    """
    check_outprefix(job.outprefix)
    place = place_of(job.output(".zarr"))
    if tidy:
        tidy_up(job.outprefix)
    table = job.output(".models.gz")
    inputs = [path for name in job.inputs if (path := Path(name)).is_file()]
    for suffix in _OUTPUTS:
        path = job.output(suffix)
        if path.exists() and any(path.samefile(given) for given in inputs):
            raise InputError(f"{path}: is an input file; choose another OUTPREFIX")
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected a file or nothing; move it away")
    if job.append and job.tabix:
        raise InputError("append and tabix: a table that grows can't be indexed; give one of them")
    if job.append and table.exists():
        check_appendable(table, list(TSV_HEADERS))
    if job.formats:
        effects = ("mean", "variance", *(["dispersion"] if job.dispersion else []))
        replaces = job.overwrite or job.resume
        check_targets(job.outprefix, job.formats, effects, overwrite=replaces)
    path = job.output(".zarr")
    if job.resume and path.exists():
        store = ResultsStore.open(path, repair=True)
        refuse_if_held(store.run_dir / LOCK_FILE)
        require_writable(place)
        _require_version(store)
        check_outputs(store, job)
        return
    if job.overwrite:
        if job.keep_store:
            check_place(place, overwrite=True)
        return
    for suffix in (".zarr", ".models.gz", ".parquet"):
        if job.output(suffix).exists():
            raise StoreError(
                f"{job.output(suffix)}: exists; give --overwrite"
                if job.resume
                else f"{job.output(suffix)}: exists; give --resume to go on with "
                f"{path}, or --overwrite"
            )


def _require_version(store: ResultsStore) -> None:
    """Raise a `StoreError` if a scan was begun with another version: its numbers may differ."""
    begun, now = store.fingerprint.get("hlmm_dask"), version("hlmm-dask")
    if begun != now:
        raise StoreError(
            f"{store.path}: begun with hlmm-dask {begun}, this is {now}; finish it with that "
            "version, or start again with --overwrite"
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


def remove_old(job: "ScanJob") -> None:
    """Remove what was made from a replaced run and this one may not write."""
    for suffix in (
        ".null_mean_effects.txt",
        ".null_variance_effects.txt",
        ".null_h2.txt",
        ".null_h2_loco.tsv",
        ".report.html",
        ".null_lmm.tsv",
        ".loci.tsv",
        ".check.tsv",
        ".interaction.tsv",
        ".parquet",
    ):
        job.output(suffix).unlink(missing_ok=True)
    for suffix in (".plots", ".loci", ".interaction"):
        folder = job.output(suffix)
        if folder.is_symlink():
            continue
        for pattern in ("*.png", "*.svg"):
            for picture in folder.glob(pattern):
                picture.unlink(missing_ok=True)
        # What else is in there is the user's.
        with suppress(OSError):
            folder.rmdir()
    for path in targets(job.outprefix, FORMATS, tuple(EFFECTS)):
        path.unlink(missing_ok=True)


def write_null(job: "ScanJob", null: "AnyNull") -> None:
    """Write the estimates of the null model."""
    if not job.no_covariate_estimates:
        write_effects(job.output(".null_mean_effects.txt"), null.mean_effects)
        if null.variance_effects.names:
            write_effects(job.output(".null_variance_effects.txt"), null.variance_effects)
    if null.h2 is not None and not job.no_h2_estimate:
        write_estimate(job.output(".null_h2.txt"), null.h2, null.h2_se)
