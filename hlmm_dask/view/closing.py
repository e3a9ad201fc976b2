"""What a finished scan shows: its best loci, and on request its report and pictures."""

import sys
from glob import escape
from pathlib import Path

from hlmm_dask.errors import InputError
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.best import best_loci, loci_of
from hlmm_dask.view.loci import print_loci
from hlmm_dask.view.pictures import require_matplotlib, write_pictures
from hlmm_dask.view.report import read_report, write_report


def show_loci(outprefix: str, *, slope: float | None) -> None:
    """Print the best loci of OUTPREFIX.zarr, given a slope those for the dispersion, too."""
    print_loci(best_loci(ResultsStore.open(f"{outprefix}.zarr"), slope=slope))


def scans_of(outprefix: str) -> list[str]:
    """Return the scan of that name, or those of its several phenotypes.

    Raises
    ------
    InputError
        If there is a table only: it says too little for a report.
    """
    if Path(f"{outprefix}.zarr").exists():
        return [outprefix]
    start = Path(f"{outprefix}.x")
    several = sorted(start.parent.glob(f"{escape(start.name[:-1])}*.zarr"))
    if not several and Path(f"{outprefix}.models.gz").exists():
        raise InputError(
            f"{outprefix}.zarr: does not exist beside the table (hlmm-chr keeps no results store); "
            "scan with hlmm-scan"
        )
    return [str(path.with_suffix("")) for path in several] or [outprefix]


def make_report(
    outprefix: str,
    *,
    page: bool = True,
    plots: bool = False,
    kilobases: float = 500.0,
) -> None:
    """Write OUTPREFIX.report.html and the pictures, and print the best loci.

    Parameters
    ----------
    outprefix : str
        Of a scan, finished or not.
    page, plots : bool
        What to write. What is there from before is replaced.
    kilobases : float
        Within which a weaker variant belongs to a better one's locus.

    Raises
    ------
    InputError, StoreError
        If there is no scan, or matplotlib is missing.
    """
    if not 0.0 <= kilobases < float("inf"):
        raise InputError(f"--window {kilobases:g}: expected kilobases, 0 or more")
    if plots:
        require_matplotlib()
    window = round(1000 * kilobases)
    report = read_report(outprefix, window=window)
    print_loci(loci_of(report.thinned, window=window), window=window)
    if page:
        write_report(report, Path(f"{outprefix}.report.html"))
        print(f"report: {outprefix}.report.html", file=sys.stderr)
    if plots:
        write_pictures(report, Path(f"{outprefix}.plots"))
        print(f"pictures: {outprefix}.plots/", file=sys.stderr)
