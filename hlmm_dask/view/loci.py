"""The best loci of a finished scan, on a terminal."""

from collections.abc import Iterable

from rich.console import Console

from hlmm_dask.view.best import Loci
from hlmm_dask.view.terminal import print_line
from hlmm_dask.view.wording import number, p_value, short_id


def print_loci(
    loci: Iterable[Loci], *, console: Console | None = None, window: int = 500_000
) -> None:
    """Print the best loci for the mean, the variance and, where estimated, the dispersion.

    Parameters
    ----------
    loci : iterable of Loci
        Of each test.
    console : Console, optional
        Where to; standard error by default.
    window : int
        Base pairs within which a weaker variant belongs to a better one's locus.
    """
    console = console or Console(stderr=True)
    for each in loci:
        if not len(each.points["index"]):
            continue
        distance = f"{window / 1000:g} kb"
        for line in (
            f"{each.test.label}: the best loci, more than {distance} apart",
            *_aligned(_cells(each)),
        ):
            print_line(console, line)


def _cells(loci: Loci) -> list[list[str]]:
    test, points = loci.test, loci.points
    head = ["variant", "chr", "position", "MAF", str(test.effect), f"{test.effect}_se", "p"]
    return [head] + [
        [
            short_id(str(points["id"][row])),
            short_id(str(points["contig"][row])),
            f"{points['position'][row]:,}",
            f"{points['minor_allele_frequency'][row]:.3f}",
            number(float(points[f"{test.effect}"][row]), minus="-"),
            number(float(points[f"{test.effect}_se"][row]), 2, minus="-"),
            p_value(float(points[test.column][row])),
        ]
        for row in range(len(points["index"]))
    ]


def _aligned(cells: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in cells
    ]  # fmt: skip
