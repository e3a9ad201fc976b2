"""Pictures of a scan with matplotlib: Manhattan, Miami, QQ, effects, spread by genotype.

Each function takes a Dataset of ``open_results`` (or the path of a results store, or what `thin`
made of one, which saves reading it again for each picture) and returns the Axes.
"""

import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

try:
    from matplotlib.axes import Axes
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hlmm_dask.plot draws with matplotlib; pip install 'hlmm-dask[plot]'"
    ) from error

from hlmm_dask.errors import InputError
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.drawing import (
    draw_points,
    draw_qq,
    draw_skyline,
    draw_spread,
    dressed,
    genome_axis,
    legend,
    nothing,
    titled,
)
from hlmm_dask.view.reading import Source, require_results, thin
from hlmm_dask.view.spread import by_genotype, genotype_counts, of_null, phenotype_scale
from hlmm_dask.view.style import Style, theme
from hlmm_dask.view.thinned import GENOME_WIDE, AssociationTest, Thinned, expected_band
from hlmm_dask.view.wording import caption, decimals, short_id

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from hlmm_dask.genotypes.paths import Paths
    from hlmm_dask.genotypes.plink import PlinkGenotypes
    from hlmm_dask.scanning.null import NullModel

__all__ = ["effects", "genotype_spread", "manhattan", "miami", "qq", "thin"]


def manhattan(
    data: "Source | Thinned", test: str = "mean", *, ax: Axes | None = None, style: Style = "light"
) -> Axes:
    """Draw -log10 p of a test along the genome.

    Parameters
    ----------
    data : Dataset, path, ResultsStore or Thinned
        Results of a scan.
    test : {"mean", "variance", "joint", "dispersion"}
        The test.
    ax : Axes, optional
        Where to; a new figure by default.
    style : {"light", "dark"}
        Background.

    Returns
    -------
    Axes
        One collection of points; significance lines at 5e-8 and 0.05 / number of tests.
    """
    thinned, about = _thinned(data, test)
    colours = theme(style)
    ax = dressed(ax, colours, (10.0, 3.8))
    top = draw_skyline(ax, thinned, about, colours, sign=1)
    ax.set_ylim(0.0, top)
    titled(ax, about.label, colours)
    ax.set_ylabel("−log₁₀ p")
    genome_axis(ax, thinned.axis)
    return ax


def miami(
    data: "Source | Thinned", *, ax: Axes | None = None, style: Style = "light",
    above: str = "mean", below: str = "variance",
) -> Axes:  # fmt: skip
    """Draw two tests along the genome, one upwards and one downwards; see `manhattan`."""
    thinned, upper = _thinned(data, above, below)
    lower = thinned.test(below)
    colours = theme(style)
    ax = dressed(ax, colours, (10.0, 5.6))
    high = draw_skyline(ax, thinned, upper, colours, sign=1)
    low = draw_skyline(ax, thinned, lower, colours, sign=-1)
    ax.axhline(0.0, color=colours.muted, lw=1.0)
    ax.set_ylim(-low, high)
    ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    ax.set_ylabel("−log₁₀ p")
    titled(ax, f"{upper.label} ↑, {lower.label[0].lower()}{lower.label[1:]} ↓", colours)
    genome_axis(ax, thinned.axis)
    return ax


def qq(
    data: "Source | Thinned", test: str = "mean", *, by_frequency: bool = True,
    ax: Axes | None = None, style: Style = "light",
) -> Axes:  # fmt: skip
    """Draw observed against expected quantiles of -log10 p, with λ_GC.

    Parameters
    ----------
    data, test, ax, style
        As of `manhattan`.
    by_frequency : bool
        A line of points for each class of minor allele frequency, besides that of all.
    """
    thinned, about = _thinned(data, test)
    colours = theme(style)
    ax = dressed(ax, colours, (4.8, 4.6))
    whole = thinned.quantiles(test)
    expected, low, high = expected_band(thinned.n_tested(test))
    ax.fill_between(expected, low, high, color=colours.muted, alpha=0.18, lw=0, label="95% range")
    ax.plot(expected, expected, color=colours.muted, lw=1.0)
    draw_qq(ax, whole.expected, whole.observed, colours.text,
               f"all: {whole.n:,}, λ {decimals(thinned.lambda_gc(test))}")  # fmt: skip
    classes = range(thinned.classes.n) if by_frequency else ()
    for i in classes:
        part = thinned.quantiles(test, i)
        if part.n:
            label = (
                f"MAF {thinned.classes.labels[i]}: {part.n:,}, "
                f"λ {decimals(thinned.lambda_gc(test, i))}"
            )
            draw_qq(ax, part.expected, part.observed, colours.classes[i], label)
    ax.set(xlabel="Expected −log₁₀ p", ylabel="Observed −log₁₀ p")
    ax.set_xlim(left=0.0)
    ax.set_ylim(bottom=0.0)
    if not whole.n:
        nothing(ax, colours)
    titled(ax, about.label, colours)
    legend(ax, colours)
    return ax


def effects(
    data: "Source | Thinned",
    *,
    slope: float | None = None,
    slope_se: float | None = None,
    ax: Axes | None = None,
    style: Style = "light",
) -> Axes:
    """Draw effects on the variance against effects on the mean, with the line fitted to them.

    Around the line is its 95% confidence band, where its standard error is known.

    Parameters
    ----------
    data, ax, style
        As of `manhattan`.
    slope : float, optional
        Of the line; by default that from which dispersion effects are measured, if any.
    slope_se : float, optional
        Its standard error; by default that of the default slope.
    """
    thinned, _ = _thinned(data, "mean", "variance", dispersion=True)
    colours = theme(style)
    ax = dressed(ax, colours, (5.6, 4.6))
    shown = thinned.in_effects
    add, var = thinned.points["add"][shown], thinned.points["var"][shown]
    best = np.max([thinned.points[t.column][shown] for t in thinned.tests], axis=0)
    hit = best >= -np.log10(GENOME_WIDE)
    ax.axhline(0.0, color=colours.muted, lw=0.7, zorder=1)
    ax.axvline(0.0, color=colours.muted, lw=0.7, zorder=1)
    for rows, colour, label in (
        (~hit, colours.chromosomes[1], thinned.sample_label),
        (hit, colours.accent, "p < 5e-8 in any test"),
    ):
        if rows.any():
            draw_points(ax, add[rows], var[rows], colour, label=label, size=9, alpha=0.7)
    if not add.size:
        nothing(ax, colours)
    if slope is None:
        slope, slope_se = thinned.slope, thinned.slope_se if slope_se is None else slope_se
    if slope is not None and add.size:
        low, high = ax.get_ylim()
        said = "" if slope_se is None else f" (SE {slope_se:.2g})"
        reach = 1.03 * np.nanmax(np.abs(add)) * np.array([-1.0, 1.0])
        ax.plot(reach, slope * reach, color=colours.line, lw=1.8, zorder=3,
                label=f"fitted line, slope {slope:.3g}{said}".replace("-", "−"))  # fmt: skip
        if slope_se is not None:
            half = 1.96 * slope_se
            bounds = slope + half * np.array([-1.0, -1.0, 1.0, 1.0])
            corners = reach[[0, 1, 1, 0]]
            ax.fill(corners, bounds * corners, lw=0, color=colours.line, alpha=0.2, zorder=2.5)
        ax.set_ylim(low, high)
    ax.set(
        xlabel=f"Effect on the mean ({f'{thinned.unit} per allele'.strip()})",
        ylabel="Effect on the log variance (per allele)",
    )
    titled(ax, "Effect on the variance against effect on the mean", colours)
    legend(ax, colours)
    return ax


def genotype_spread(
    genotypes: "Paths | PlinkGenotypes | npt.NDArray[np.generic]",
    phenotype: "NullModel | npt.ArrayLike", variant: str | int = 0, *,
    count_a2: bool = False, ylabel: str | None = None, ax: Axes | None = None,
    style: Style = "light",
) -> Axes:  # fmt: skip
    """Draw the phenotype by genotype of a variant: density, quartiles, mean and SD.

    Parameters
    ----------
    genotypes : path, PlinkGenotypes or (n,) array
        PLINK files, or the genotypes of the variant itself: copies of the effect allele.
    phenotype : NullModel or (n,) array
        A null model, for the phenotype adjusted for its covariates (random effects are not taken
        off); or a value for each sample of the file, drawn as it is.
    variant : str or int
        ID or index in the file.
    count_a2 : bool
        Count copies of allele 2 instead of allele 1.
    ylabel : str, optional
        What the phenotype is, and its unit; by default what is known of it.
    ax, style
        As of `manhattan`.
    """
    colours = theme(style)
    ax = dressed(ax, colours, (4.6, 4.2))
    counts, name = genotype_counts(genotypes, variant, count_a2=count_a2)
    if _is_null_model(phenotype):
        classes, scale = of_null(counts, phenotype), phenotype_scale(phenotype)
    else:
        classes, scale = by_genotype(counts, phenotype), "Phenotype"
    if not classes:
        raise InputError(f"variant {name}: no sample has a genotype and a phenotype")
    draw_spread(ax, classes, colours)
    titled(ax, short_id(name), colours)
    ax.set_ylabel(caption(scale).replace(" (", "\n(") if ylabel is None else ylabel)
    return ax


def _is_null_model(phenotype: object) -> "TypeIs[NullModel]":
    """Whether it is a null model; told by what it has, so that Dask need not be imported."""
    return hasattr(phenotype, "sample_index")


def _thinned(
    data: "Source | Thinned", *tests: str, dispersion: bool = False
) -> tuple[Thinned, AssociationTest]:
    """Thin what is not yet, and look the first test up."""
    if isinstance(data, Thinned):
        thinned = data
    else:
        data = ResultsStore.open(data) if isinstance(data, str | os.PathLike) else data
        require_results(data)
        thinned = thin(data, dispersion=dispersion or "dispersion" in tests)
    names = [test.name for test in thinned.tests]
    for test in tests:
        if test not in names:
            why = f" ({thinned.no_dispersion})" if thinned.no_dispersion else ""
            raise InputError(f"test '{test}': not among {', '.join(names)}{why}")
    return thinned, thinned.test(tests[0])
