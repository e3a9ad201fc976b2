"""The parts that pictures of a scan are drawn of, with matplotlib."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hlmm_dask.view.genome import Axis, short
from hlmm_dask.view.spread import GenotypeClass
from hlmm_dask.view.style import Theme
from hlmm_dask.view.thinned import GENOME_WIDE, AssociationTest, Thinned
from hlmm_dask.view.wording import caption

_Floats = npt.NDArray[np.float64]

# More points than this are a picture within a vector graphic.
_MAX_VECTOR = 2000


def dressed(ax: Axes | None, colours: Theme, size: tuple[float, float]) -> Axes:
    """Give an Axes the colours of a theme; without one, make a figure of a size in inches."""
    if ax is None:
        # The figure belongs to the caller, as any made with pyplot.
        import matplotlib.pyplot as plt

        figure, ax = plt.subplots(figsize=size, layout="constrained")
        figure.set_facecolor(colours.surface)
    ax.set_facecolor(colours.surface)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colours.muted)
    ax.tick_params(colors=colours.muted, labelsize=9)
    ax.grid(visible=True, axis="y", color=colours.grid, lw=0.8)
    ax.set_axisbelow(True)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_color(colours.text)
        label.set_fontsize(10)
    return ax


def nothing(ax: Axes, colours: Theme) -> None:
    """Say that no variant was fitted, in place of points."""
    ax.text(0.5, 0.5, "no variant was fitted", transform=ax.transAxes, ha="center", va="center",
            color=colours.muted, fontsize=10)  # fmt: skip


def titled(ax: Axes, title: str, colours: Theme) -> None:
    """Set the title, at the left."""
    ax.set_title(caption(title), loc="left", color=colours.text, fontsize=11, fontweight="bold")


def draw_points(
    ax: Axes, x: _Floats, y: _Floats, colour: Any, *, label: str = "", size: float = 6,
    alpha: float = 1.0,
) -> None:  # fmt: skip
    """Draw points, many of them as one picture within a vector graphic."""
    ax.scatter(x, y, s=size, c=colour, alpha=alpha, linewidths=0, label=label or None,
               rasterized=len(x) > _MAX_VECTOR, zorder=2)  # fmt: skip


def draw_skyline(
    ax: Axes, thinned: Thinned, test: AssociationTest, colours: Theme, *, sign: int
) -> float:
    """Draw a test along the genome with its significance lines; return the height it takes."""
    shown = thinned.shown[test.name]
    axis = thinned.axis
    y = thinned.points[test.column][shown]
    contig, position = thinned.points["contig"][shown], thinned.points["position"][shown]
    odd = axis.code(contig) % 2
    hit = y >= -np.log10(GENOME_WIDE)
    palette = np.array([*colours.chromosomes, colours.accent], dtype=object)
    colour = palette[np.where(hit, 2, odd)].tolist()
    draw_points(ax, axis.x(contig, position), sign * y, colour)
    lines = thinned.thresholds(test.name)
    heights = sorted(lines.items(), key=lambda line: line[1])
    if not y.size:
        nothing(ax, colours)
    top: float = 1.12 * max([*lines.values(), *y.tolist(), 1.0])
    for i, (label, height) in enumerate(heights):
        ax.axhline(sign * height, color=colours.muted, lw=1.0, ls=(0, (5, 3)) if i else (0, (1, 2)))
        # The higher line's label stands above it, the lower one's below: they may be close.
        up = (1 if i else -1) * sign
        ax.annotate(label, (1.0, sign * height), xycoords=("axes fraction", "data"),
                    xytext=(-2, 2 * up), textcoords="offset points", ha="right",
                    va="bottom" if up > 0 else "top", fontsize=8, color=colours.muted,
                    bbox={"facecolor": colours.surface, "edgecolor": "none", "pad": 0.5,
                          "alpha": 0.8})  # fmt: skip
    return top


def genome_axis(ax: Axes, axis: Axis) -> None:
    """Name the chromosomes below; a single one gets its positions."""
    ax.grid(visible=False, axis="x")
    if not axis.names:
        return
    length = float(axis.stops[-1])
    margin = 0.01 * length or 1.0
    ax.set_xlim(-margin, length + margin)
    if len(axis.names) == 1:
        unit, scale = ("Mb", 1e6) if length >= 1e6 else ("kb", 1e3) if length >= 1e4 else ("bp", 1)
        # Round positions, wherever the first variant is.
        offset = float(axis.offsets[0])
        steps = np.asarray(
            MaxNLocator(8, steps=(1, 2, 5, 10)).tick_values(-offset, length - offset)
        )
        steps = steps[(steps >= -offset) & (steps <= length - offset)]
        ax.set_xticks(steps + offset, [f"{x / scale:g}" for x in steps])
        ax.set_xlabel(f"Position on chromosome {caption(short(axis.names[0]))} ({unit})")
        return
    middles = 0.5 * (axis.starts + axis.stops)
    size = ax.get_window_extent().width * 72.0 / ax.figure.dpi
    names = [caption(short(name)) for name in axis.names]
    ticks, labels, free = [], [], -np.inf
    for middle, name in zip(middles.tolist(), names, strict=True):
        half = 0.5 * (6.0 * len(name) + 4.0) * length / size
        if middle - half >= free:
            ticks.append(middle)
            labels.append(name)
            free = middle + half
    ax.set_xticks(ticks, labels)
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel("Chromosome")


def draw_qq(ax: Axes, expected: _Floats, observed: _Floats, colour: str, label: str) -> None:
    """Draw the quantiles of one class."""
    draw_points(ax, expected, observed, colour, label=label, size=7)


def legend(ax: Axes, colours: Theme) -> None:
    """Add a legend without a frame, where it covers least; none without entries."""
    if not ax.get_legend_handles_labels()[1]:
        return
    ax.legend(frameon=False, fontsize=8.5, labelcolor=colours.text, loc="upper left",
              handletextpad=0.4, markerscale=2)  # fmt: skip


def draw_spread(ax: Axes, classes: Sequence[GenotypeClass], colours: Theme) -> None:
    """Draw density, quartiles, and mean ± SD of each genotype class."""
    low = min(float(np.quantile(each.values, 0.001)) for each in classes)
    high = max(float(np.quantile(each.values, 0.999)) for each in classes)
    pad = 0.08 * (high - low) or 1.0
    grid = np.linspace(low - pad, high + pad, 200)
    for each, colour in zip(classes, (colours.classes[2], colours.classes[3], colours.classes[0]),
                            strict=False):  # fmt: skip
        density = each.density(grid)
        half = 0.4 * density / density.max()
        ax.fill_betweenx(grid, each.copies - half, each.copies + half, color=colour, alpha=0.35,
                         lw=0)  # fmt: skip
        _, first, median, third, _ = each.quantiles
        ax.vlines(each.copies, first, third, color=colours.text, lw=5, alpha=0.35)
        ax.hlines(median, each.copies - 0.09, each.copies + 0.09, color=colours.text, lw=1.6)
        if each.n > 1:
            ax.errorbar(each.copies, each.mean, yerr=each.sd, fmt="o", ms=4, color=colours.accent,
                        capsize=4, lw=1.2, zorder=4)  # fmt: skip
    ax.set_ylim(grid[0], grid[-1])
    ax.set_xlim(-0.6, 2.6)
    ax.set_xticks(
        [each.copies for each in classes],
        [f"{each.copies}\nn {each.n:,}\nSD {each.sd:.2f}" for each in classes],
    )
    ax.set_xlabel("Copies of the effect allele; dot: mean ± SD")
