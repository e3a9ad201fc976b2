"""The best loci of a finished scan, on a terminal."""

from collections.abc import Sequence

from rich.console import Console

from hlmm_dask.view.thinned import AssociationTest, Thinned
from hlmm_dask.view.wording import number, p_value

# The test of both effects together finds no locus that these two don't explain.
_SHOWN = ("mean", "variance", "dispersion")


def print_loci(
    thinned: Thinned, *, console: Console | None = None, n: int = 10, window: int = 500_000
) -> None:
    """Print the best loci for the mean, the variance and, where estimated, the dispersion.

    Parameters
    ----------
    thinned : Thinned
        Results of the scan.
    console : Console, optional
        Where to; standard error by default.
    n : int
        Loci for each test.
    window : int
        Base pairs within which a weaker variant belongs to a better one's locus.
    """
    console = console or Console(stderr=True)
    for test in thinned.tests:
        rows = thinned.loci(test.name, n, window=window)
        if test.name not in _SHOWN or not rows.size:
            continue
        distance = f"{window / 1000:g} kb"
        for line in (
            f"{test.label}: the best loci, more than {distance} apart",
            *_aligned(_cells(thinned, test, rows.tolist())),
        ):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _cells(thinned: Thinned, test: AssociationTest, rows: Sequence[int]) -> list[list[str]]:
    points = thinned.points
    head = ["variant", "chr", "position", "MAF", str(test.effect), f"{test.effect}_se", "p"]
    return [head] + [
        [
            str(points["id"][row]),
            str(points["contig"][row]),
            f"{points['position'][row]:,}",
            f"{points['minor_allele_frequency'][row]:.3f}",
            number(float(points[f"{test.effect}"][row]), minus="-"),
            number(float(points[f"{test.effect}_se"][row]), 2, minus="-"),
            p_value(float(points[test.column][row])),
        ]
        for row in rows
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
