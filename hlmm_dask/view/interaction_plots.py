"""Phenotype by genotype and environment: mean and spread, one picture a variant."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.durable import replacing
from hlmm_dask.followup.chosen import results_of
from hlmm_dask.followup.interact import Interactions
from hlmm_dask.view.style import theme
from hlmm_dask.view.wording import caption, short_id

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

_DPI = 200
# More different values of the covariate than that are put into so many classes of equal size.
_MOST_LEVELS = 6
_CLASSES = 5


def write_interaction_plots(done: Interactions, folder: Path) -> list[Path]:
    """Draw NAME.png for each lead; return the paths. Earlier pictures are removed."""
    from matplotlib.figure import Figure

    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    model = done.model
    shared = np.column_stack([np.ones(len(model.y)), model.covariates])
    y = model.y - model.covariates @ np.linalg.lstsq(shared, model.y)[0][1:]
    written = []
    for row in done.leads.tolist():
        rows = results_of(done.scan.store, np.array([row]))
        g = done.scan.counts(rows)[0, done.sample_index]
        variant = str(rows["variant_id"].iloc[0])
        figure = Figure(figsize=(7.6, 3.6), layout="constrained", facecolor=theme("light").surface)
        _draw(figure, g, model.environment, y, variant, done.name, done.scan.facts.title)
        name = re.sub(r"[^\w.-]+", "_", variant)[:60]
        path = folder / f"{row}_{name}.png"
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=_DPI)
        written.append(path)
    return written


def classes_of(environment: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """Class of each sample, by value or by quantile, and the mean covariate of each class."""
    values, at = np.unique(environment, return_inverse=True)
    if len(values) > _MOST_LEVELS:
        edges = np.quantile(environment, np.linspace(0, 1, _CLASSES + 1)[1:-1])
        at = np.unique(np.searchsorted(edges, environment, side="left"), return_inverse=True)[1]
    return at, np.bincount(at, environment) / np.bincount(at)


def _draw(
    figure: "Figure", g: FloatArray, e: FloatArray, y: FloatArray, variant: str, name: str,
    phenotype: str,
) -> None:  # fmt: skip
    colours = theme("light")
    left, right = figure.subplots(1, 2)
    at, middle = classes_of(e)
    for k, colour in enumerate((colours.classes[2], colours.classes[3], colours.classes[0])):
        groups = [y[(g == k) & (at == j)] for j in range(len(middle))]
        some = [j for j, values in enumerate(groups) if len(values) > 2]
        if not some:
            continue
        n = np.array([len(groups[j]) for j in some])
        sd = np.array([groups[j].std(ddof=1) for j in some])
        mean = np.array([groups[j].mean() for j in some])
        label = f"{k} ({int((g == k).sum()):,})"
        # Side by side, so that no interval hides another.
        x = middle[some] + 0.012 * (k - 1) * np.ptp(middle)
        for ax, values, error in ((left, mean, sd / np.sqrt(n)), (right, sd, sd / np.sqrt(2 * n))):
            ax.errorbar(x, values, yerr=1.96 * error, fmt="o-", ms=4, lw=1.2,
                        capsize=3, color=colour, label=label)  # fmt: skip
    for ax, what in ((left, "mean"), (right, "SD")):
        ax.set_xlabel(caption(name))
        ax.set_ylabel(f"{caption(phenotype)}: {what} (95% interval)")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color=colours.grid, lw=0.6)
    left.legend(frameon=False, fontsize=8.5, title="copies (samples)", title_fontsize=8.5)
    figure.suptitle(caption(short_id(variant)), fontsize=10)
