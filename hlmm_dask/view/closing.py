"""What a finished scan shows: its best loci, and on request its report and pictures."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hlmm_dask.errors import InputError
from hlmm_dask.models.dispersion import DispersionOptions
from hlmm_dask.view.loci import print_loci
from hlmm_dask.view.pictures import require_matplotlib, write_pictures
from hlmm_dask.view.reading import thin
from hlmm_dask.view.report import read_report, write_report
from hlmm_dask.view.scales import compare, scale_lines, scales_section


def show_loci(outprefix: str, *, dispersion: DispersionOptions | None) -> None:
    """Print the best loci of OUTPREFIX.zarr, on request those for the dispersion, too."""
    print_loci(thin(f"{outprefix}.zarr", dispersion=dispersion or False))


def make_reports(
    outprefixes: Sequence[str],
    *,
    page: bool = True,
    plots: bool = False,
    kilobases: float = 500.0,
) -> None:
    """Write OUTPREFIX.report.html and the pictures, and print the best loci.

    Parameters
    ----------
    outprefixes : sequence of str
        Of scans, finished or not. Several, of the same variants, are compared in each report.
    page, plots : bool
        What to write. What is there from before is replaced.
    kilobases : float
        Within which a weaker variant belongs to a better one's locus.

    Raises
    ------
    InputError, StoreError
        If there is no scan, matplotlib is missing, or scans can't be compared.
    """
    if not 0.0 <= kilobases < float("inf"):
        raise InputError(f"--window {kilobases:g}: expected kilobases, 0 or more")
    if plots:
        require_matplotlib()
    window = round(1000 * kilobases)
    reports = {name: read_report(name, window=window) for name in dict.fromkeys(outprefixes)}
    scales = compare(list(reports.values())) if len(reports) > 1 else None
    section = scales_section(scales) if scales else ""
    for outprefix, report in reports.items():
        if scales:
            print(f"{outprefix}:", file=sys.stderr)
        print_loci(report.thinned, window=window)
        if page:
            write_report(report, Path(f"{outprefix}.report.html"), section)
            print(f"report: {outprefix}.report.html", file=sys.stderr)
        if plots:
            write_pictures(report, Path(f"{outprefix}.plots"))
            print(f"pictures: {outprefix}.plots/", file=sys.stderr)
    if scales:
        print("\n".join(scale_lines(scales)), file=sys.stderr)
