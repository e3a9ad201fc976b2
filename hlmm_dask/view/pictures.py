"""Every picture of a scan as PNG and SVG files."""

import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hlmm_dask.durable import replacing
from hlmm_dask.errors import InputError
from hlmm_dask.view.leads import AtHand
from hlmm_dask.view.report import Report
from hlmm_dask.view.scales import Scales
from hlmm_dask.view.style import theme
from hlmm_dask.view.thinned import Thinned
from hlmm_dask.view.wording import caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 200

Draw = Callable[..., "Axes"]


def require_matplotlib() -> None:
    """Raise an `InputError` if plots can't be drawn."""
    if find_spec("matplotlib") is None:
        raise InputError(
            "--plots: matplotlib is missing; install it: pip install 'hlmm-dask[plot]'"
        )


def write_pictures(report: Report, folder: Path, scales: Scales | None = None) -> list[Path]:
    """Draw all pictures to NAME.png and NAME.svg; return the paths.

    ``scales`` of the same variants have their effects drawn side by side.

    Raises
    ------
    InputError
        If matplotlib is missing.
    """
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    folder.mkdir(exist_ok=True)
    # Of leads that may no longer be any.
    for old in folder.glob("spread_*.*"):
        old.unlink()
    written: list[Path] = []
    pictures = _pictures(report)
    if scales is not None:
        of_each = zip(scales.thinned, scales.labels, strict=True)
        panels: list[Draw] = [partial(_on_scale, thinned, label) for thinned, label in of_each]
        pictures["effects_by_scale"] = (5.2 * len(panels), 4.6), panels
    for name, (size, draws) in pictures.items():
        figure = Figure(figsize=size, layout="constrained", facecolor=theme("light").surface)
        axes = figure.subplots(1, len(draws), squeeze=False)[0]
        for draw, ax in zip(draws, axes, strict=True):
            draw(ax=ax)
        for suffix in ("png", "svg"):
            path = folder / f"{name}.{suffix}"
            # Text stays text, and the same input gives the same file.
            with (
                replacing(path) as file,
                mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
            ):
                # A date would make each file another.
                about = {"Date": None} if suffix == "svg" else {}
                figure.savefig(file, format=suffix, dpi=_DPI, metadata=about)
            written.append(path)
    return written


def _pictures(report: Report) -> dict[str, tuple[tuple[float, float], list[Draw]]]:
    from hlmm_dask import plot

    data = report.thinned
    pictures: dict[str, tuple[tuple[float, float], list[Draw]]] = {}
    for test in data.tests:
        pictures[f"manhattan_{test.name}"] = (10.0, 3.8), [partial(plot.manhattan, data, test.name)]
        pictures[f"qq_{test.name}"] = (4.8, 4.6), [partial(plot.qq, data, test.name)]
    if report.has_variance:
        pictures["miami"] = (10.0, 5.6), [partial(plot.miami, data)]
        pictures["effects"] = (5.6, 4.6), [partial(plot.effects, data)]
    here = report.here
    if isinstance(here, AtHand):
        for row in report.drawn_leads:
            index = int(data.points["index"][row])
            name = re.sub(r"[^\w.-]+", "_", str(data.points["id"][row]))[:60]
            pictures[f"spread_{index}_{name}"] = (4.6, 4.2), [partial(_spread, here, index)]
    return pictures


def _on_scale(thinned: Thinned, label: str, *, ax: "Axes") -> "Axes":
    from hlmm_dask import plot
    from hlmm_dask.view.drawing import titled

    plot.effects(thinned, ax=ax)
    titled(ax, label, theme("light"))
    return ax


def _spread(here: AtHand, index: int, *, ax: "Axes") -> "Axes":
    from hlmm_dask import plot

    scanned = here.scanned
    return plot.genotype_spread(
        scanned.genotypes, here.null, scanned.first + index, count_a2=scanned.count_a2,
        ylabel=caption(here.scale).replace(" (", "\n("), ax=ax,
    )  # fmt: skip
