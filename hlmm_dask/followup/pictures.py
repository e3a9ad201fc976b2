"""A picture of each locus: the region above, the phenotype by genotype of its lead below."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.durable import replacing
from hlmm_dask.followup.inputs import Study
from hlmm_dask.followup.leads import Lead, Window
from hlmm_dask.view.spread import adjusted_phenotype, by_genotype, phenotype_scale
from hlmm_dask.view.style import theme
from hlmm_dask.view.thinned import GENOME_WIDE, AssociationTest
from hlmm_dask.view.wording import caption, short_id

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 160
_AT_ONCE = 64
# Okabe and Ito's, from hardly linked to the same.
_R2_COLOURS = ("#9aa7b4", "#56B4E9", "#009E73", "#E69F00", "#D55E00")
_R2_EDGES = (0.2, 0.4, 0.6, 0.8)


def linked_with(study: Study, index: int, window: Window) -> NDArray[np.float64]:
    """r² of all variants of a window with one of them; NaN where a variant does not vary.

    Genotypes are read and held some variants at a time.
    """
    own = study.standardised(index)
    at = study.null.sample_index
    out = np.full(len(window.index), np.nan)
    breaks = np.flatnonzero(np.diff(window.index) != 1) + 1
    for run in np.split(np.arange(len(out)), breaks):
        for i in range(0, len(run), _AT_ONCE):
            rows = run[i : i + _AT_ONCE]
            first = int(window.index[rows[0]])
            counts = study.scanned.counts(first, first + len(rows), np.float32)[:, at]
            called = np.isfinite(counts)
            n = np.maximum(called.sum(axis=1), 1)
            mean = np.where(called, counts, 0.0).sum(axis=1, dtype=np.float64) / n
            x = np.where(called, counts - mean[:, None].astype(np.float32), np.float32(0.0))
            squares = np.einsum("ij,ij->i", x, x)
            with np.errstate(invalid="ignore", divide="ignore"):
                out[rows] = np.minimum((x @ own) ** 2 / squares, 1.0)
    return out


def picture_name(lead: Lead) -> str:
    """Name of a lead's picture."""
    safe = re.sub(r"[^\w.-]+", "_", lead.id)[:60]
    return f"{lead.index}_{safe}.png"


def draw_loci(
    folder: Path, study: Study, tests: Sequence[AssociationTest], leads: Sequence[Lead],
    windows: Sequence[Window], verdicts: Sequence[str],
) -> None:  # fmt: skip
    """Draw a picture of each lead variant; those of an earlier run are removed."""
    from matplotlib.figure import Figure

    colours = theme("light")
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for lead, window, verdict in zip(leads, windows, verdicts, strict=True):
        figure = Figure(figsize=(6.4, 6.4), layout="constrained", facecolor=colours.surface)
        above, below = figure.subplots(2, height_ratios=(1.0, 1.1))
        _region(above, study, _shown(tests, lead), lead, window)
        above.set_title(
            caption(f"{short_id(lead.id)}: {verdict}"),
            loc="left",
            color=colours.text,
            fontsize=10,
            wrap=True,
        )
        _by_genotype(below, study, lead)
        with replacing(folder / picture_name(lead)) as file:
            figure.savefig(file, format="png", dpi=_DPI)


def _region(ax: "Axes", study: Study, test: AssociationTest, lead: Lead, window: Window) -> None:
    from hlmm_dask.view.drawing import draw_points, dressed

    colours = theme("light")
    dressed(ax, colours, (6.4, 3.0))
    y = window.values[test.column]
    r2 = linked_with(study, lead.index, window)
    known = np.isfinite(y)
    bins = np.searchsorted(_R2_EDGES, np.nan_to_num(r2), side="right")
    x = window.position / 1e6
    labels = ["r² < 0.2", "0.2–0.4", "0.4–0.6", "0.6–0.8", "≥ 0.8"]
    for k, (colour, label) in enumerate(zip(_R2_COLOURS, labels, strict=True)):
        rows = np.flatnonzero(known & (bins == k) & (window.index != lead.index))
        if rows.size:
            draw_points(ax, x[rows], y[rows], colour, label=label, size=14)
    at = window.index == lead.index
    ax.scatter(x[at], y[at], marker="D", s=30, c=colours.text, zorder=3, label="lead")
    ax.axhline(-np.log10(GENOME_WIDE), color=colours.muted, lw=1.0, ls=(0, (1, 2)))
    ax.set_xlabel(f"Position on chromosome {caption(lead.contig)} (Mb)")
    ax.set_ylabel("−log₁₀ p, " + test.short)
    ax.set_ylim(bottom=0.0, top=1.1 * max(float(np.nanmax(y)), 8.0))
    ax.legend(frameon=False, fontsize=8, labelcolor=colours.text, loc="upper left")


def _shown(tests: Sequence[AssociationTest], lead: Lead) -> AssociationTest:
    """Choose the test that is drawn: the variant's rarest finding."""
    by_name = {test.name: test for test in tests}
    order = ("dispersion", "variance", "mean", "joint")
    return by_name[next(name for name in order if name in lead.tests)]


def _by_genotype(ax: "Axes", study: Study, lead: Lead) -> None:
    from hlmm_dask.view.drawing import draw_spread, dressed

    colours = theme("light")
    dressed(ax, colours, (6.4, 3.4))
    draw_spread(ax, by_genotype(study.counts(lead.index), adjusted_phenotype(study.null)), colours)
    ax.set_ylabel(caption(phenotype_scale(study.null)))
