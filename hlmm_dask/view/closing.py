"""What a finished scan shows: its best loci, and on request its report and pictures."""

from collections.abc import Sequence
from glob import escape
from pathlib import Path

from hlmm_dask.errors import InputError
from hlmm_dask.printable import say
from hlmm_dask.store import ResultsStore
from hlmm_dask.transforms import TRANSFORMS
from hlmm_dask.view.best import best_loci, loci_of
from hlmm_dask.view.facts import ATTRS
from hlmm_dask.view.loci import print_loci


def show_loci(outprefix: str, *, slope: float | str | None, slope_se: float | None = None) -> None:
    """Print the best loci of OUTPREFIX.zarr, given a slope those for the dispersion, too."""
    store = ResultsStore.open(f"{outprefix}.zarr")
    line = None if slope is None else (float(slope), slope_se or 0.0)
    print_loci(best_loci(store, line=line))


def scans_of(outprefix: str) -> list[list[str]]:
    """Return the scan of that name, or those of its several phenotypes, each with its transforms.

    Raises
    ------
    InputError
        If there is a table only: it says too little for a report.
    """
    if Path(f"{outprefix}.zarr").exists():
        return [[outprefix]]
    start = Path(f"{outprefix}.x")
    several = sorted(start.parent.glob(f"{escape(start.name[:-1])}*.zarr"))
    if not several and Path(f"{outprefix}.models.gz").exists():
        raise InputError(
            f"{outprefix}.zarr: does not exist beside the table (hlmm-chr keeps no results store); "
            "scan with hlmm-scan"
        )
    groups: dict[str, list[tuple[int, str]]] = {}
    for path in several:
        about = ResultsStore.open(path).attrs(ATTRS)
        place = TRANSFORMS.index(about.get("transform", "none"))
        groups.setdefault(about["phenotype"], []).append((place, str(path.with_suffix(""))))
    return [[name for _, name in sorted(group)] for group in groups.values()] or [[outprefix]]


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
    # Imported late: most scans show their best loci alone.
    from hlmm_dask.view.pictures import require_matplotlib, write_pictures
    from hlmm_dask.view.report import read_report, write_report
    from hlmm_dask.view.scales import compare, scale_lines, scales_section

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
            say(f"{outprefix}:")
        print_loci(loci_of(report.thinned, window=window), window=window)
        if page:
            write_report(report, Path(f"{outprefix}.report.html"), section)
            say(f"report: {outprefix}.report.html")
        if plots:
            write_pictures(report, Path(f"{outprefix}.plots"), scales)
            say(f"pictures: {outprefix}.plots/")
    if scales:
        for line in scale_lines(scales):
            say(line)
