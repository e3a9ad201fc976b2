"""What a finished scan shows: its best loci, and on request its report and pictures."""

import sys
from pathlib import Path

from hlmm_dask.errors import InputError
from hlmm_dask.view.loci import print_loci
from hlmm_dask.view.pictures import require_matplotlib, write_pictures
from hlmm_dask.view.reading import thin
from hlmm_dask.view.report import read_report, write_report


def show_loci(outprefix: str, *, dispersion: bool) -> None:
    """Print the best loci of OUTPREFIX.zarr, on request those for the dispersion, too."""
    print_loci(thin(f"{outprefix}.zarr", dispersion=dispersion))


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
    print_loci(report.thinned, window=window)
    if page:
        write_report(report, Path(f"{outprefix}.report.html"))
        print(f"report: {outprefix}.report.html", file=sys.stderr)
    if plots:
        write_pictures(report, Path(f"{outprefix}.plots"))
        print(f"pictures: {outprefix}.plots/", file=sys.stderr)
