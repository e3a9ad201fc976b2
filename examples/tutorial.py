"""Variants that change a trait's mean, variance and dispersion: a tutorial that checks itself.

Two sets of genotypes and a gamma distributed trait are simulated. Every variant changes the mean
of the trait; as the variance of a gamma follows its mean, every variant changes the variance,
too, and that remains after an inverse-normal transform. Only the first variant changes the
dispersion, the variance beyond what the mean explains. The script scans the variants with the
heteroskedastic linear model (HLM) and again with random effects (HLMM), estimates the relation
between the effects on mean and variance, takes it off, and prints what it found beside what
theory expects. Plots and a report are written to the output folder.

    python examples/tutorial.py --samples 40000 --variants 500 --random-variants 100
"""

import argparse
import base64
import html
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import beta, chi2, kstest, kstwo

from hlmm_dask.errors import InputError
from hlmm_dask.models.dispersion import DispersionResult, NotEstimable, dispersion_effects
from hlmm_dask.simulation import (
    GammaTrait,
    TransformedEffects,
    expected_effects,
    gamma_phenotype,
    inverse_normal_transform,
    simulate_genotypes,
    write_phenotype,
)

NULL_MEDIAN = float(chi2.median(1))  # 0.4549


# --- simulate ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """Simulated input files and the truth behind them.

    Attributes
    ----------
    test, random, phenotype : Path
        Genotypes to scan, genotypes for the random effects, FID IID value.
    n_samples, n_test, n_random : int
        Counts.
    trait : GammaTrait
        The untransformed trait and its parameters.
    dispersion_effect : float
        Log variance per allele of the first test variant.
    explained : float
        Share of the variance of the transformed trait that all variants explain.
    """

    test: Path
    random: Path
    phenotype: Path
    n_samples: int
    n_test: int
    n_random: int
    trait: GammaTrait
    dispersion_effect: float
    explained: float


def simulate(
    folder: Path,
    *,
    samples: int = 100_000,
    variants: int = 500,
    random_variants: int = 500,
    seed: int = 1,
    heritability: float = 0.1,
    dispersion_effect: float = 0.15,
) -> Study:
    """Write test.bed, random.bed and phenotype.txt to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(3)]
    test, random = (
        simulate_genotypes(
            folder / name, n_samples=samples, n_variants=count, seed=part, maf_range=(0.1, 0.5)
        )
        for name, count, part in (
            ("test.bed", variants, seeds[0]),
            ("random.bed", random_variants, seeds[1]),
        )
    )
    trait = gamma_phenotype(
        [test.bed, random.bed],
        seed=seeds[2],
        heritability=heritability,
        dispersion_effect=dispersion_effect,
    )
    transformed = inverse_normal_transform(trait.value)
    write_phenotype(folder / "phenotype.txt", test.bed.with_suffix(".fam"), transformed)
    return Study(
        test=test.bed,
        random=random.bed,
        phenotype=folder / "phenotype.txt",
        n_samples=samples,
        n_test=variants,
        n_random=random_variants,
        trait=trait,
        dispersion_effect=dispersion_effect,
        explained=float(np.corrcoef(trait.mean, transformed)[0, 1] ** 2),
    )


# --- scan and analyse -------------------------------------------------------------------------


@dataclass(frozen=True)
class Analysis:
    """A scan's table and the dispersion effects estimated from it.

    Attributes
    ----------
    label : str
        "HLM" or "HLMM".
    table : DataFrame
        One row a variant, as written by the scan.
    fit : DispersionResult
        The relation between variance and additive effects, and the dispersion effects.
    seconds : float
        Duration of the scan, start of the workers included.
    """

    label: str
    table: pd.DataFrame
    fit: DispersionResult
    seconds: float

    @property
    def add_t(self) -> np.ndarray:
        """Additive effects over their standard errors."""
        return self.table["add_t"].to_numpy(float)

    @property
    def var_t(self) -> np.ndarray:
        """Variance effects over their standard errors."""
        return self.table["var_t"].to_numpy(float)

    @property
    def h2(self) -> float:
        """Median over variants of the variance of the random effects, NaN without."""
        values = self.table["h2"].to_numpy(float)
        return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def scan(
    genotypes: Path,
    phenotype: Path,
    out: Path,
    *,
    random_gts: Path | None = None,
    workers: int | None = None,
) -> tuple[pd.DataFrame, float]:
    """Run the command line scan; return its table and its duration in seconds."""
    command = [sys.executable, "-m", "hlmm_dask", str(genotypes), str(phenotype), str(out)]
    command += ["--dispersion", "--overwrite"]
    if random_gts is not None:
        command += ["--random_gts", str(random_gts)]
    if workers is not None:
        command += ["--workers", str(workers)]
    print("$ hlmm-scan", *command[3:], flush=True)
    started = time.perf_counter()
    # A notebook's kernel forces colours, and with them a progress bar where no terminal is.
    forced = ("FORCE_COLOR", "CLICOLOR_FORCE")
    environment = {k: v for k, v in os.environ.items() if k not in forced}
    code = subprocess.run(command, check=False, env=environment).returncode
    if code:
        raise SystemExit(code)
    return read_table(Path(f"{out}.models.gz")), time.perf_counter() - started


def read_table(path: Path) -> pd.DataFrame:
    """Read a scan's .models.gz; IDs and chromosomes are strings."""
    return pd.read_csv(path, sep="\t", dtype={"SNP": str, "chrom": str})


def analyse(label: str, table: pd.DataFrame, seconds: float) -> Analysis:
    """Estimate dispersion effects from the columns add and var of a scan's table."""
    fit = dispersion_effects(
        *(table[c].to_numpy(float) for c in ("add", "add_se", "var", "var_se"))
    )
    if isinstance(fit, NotEstimable):
        raise SystemExit(f"No dispersion effects: {fit.reason}. Simulate more samples or variants.")
    return Analysis(label=label, table=table, fit=fit, seconds=seconds)


@cache
def _expected(shape: float, heritability: float, captured: float) -> TransformedEffects:
    return expected_effects(shape, heritability=heritability, captured=captured)


def theory(study: Study, label: str) -> TransformedEffects:
    """Effects that the gamma model lets a scan find; the HLMM captures the random variants."""
    share = study.n_random / (study.n_test + study.n_random) if label == "HLMM" else 0.0
    return _expected(study.trait.shape, study.trait.heritability, share)


@dataclass(frozen=True)
class Row:
    """One line of the table of figures: for each analysis what is expected and what was found."""

    name: str
    expected: tuple[str, ...]
    found: tuple[float, ...]


def figures(study: Study, analyses: Sequence[Analysis]) -> list[Row]:
    """Compare the scans with theory.

    The effects are drawn from a Normal distribution, so a squared t of the mean is 1 + a times a
    chi-square with 1 df, where a = n x (share of the variance that one variant explains) /
    (variance that the model leaves unexplained). A variance effect that is r times the additive
    effect gives 1 + n x share x r² / 2: the standard error of a log variance is sqrt(2) times
    that of the mean of a trait with variance 1. Random effects leave less variance unexplained
    and cost degrees of freedom. Slope and dispersion effect are those of `expected_effects`.
    """
    n, n_random = study.n_samples, study.n_random
    share = study.explained / (study.n_test + n_random)

    def strength(x: Analysis) -> float:
        if x.label == "HLM":
            return n * share
        left = 1.0 - n_random * share
        reliability = n * share / (n * share + left)
        return (n - n_random * reliability) * share / left

    def var_strength(x: Analysis) -> float:
        return n * share * theory(study, x.label).coupling ** 2 / 2.0

    def ks_expected(a: float) -> str:
        """Give p where t² / (1 + a) follows the chi-square exactly."""
        grid = np.linspace(0.0, 40.0, 4001)
        distance = float(np.max(chi2.cdf(grid, 1) - chi2.cdf(grid / (1.0 + a), 1)))
        p = float(kstwo.sf(distance, study.n_test))
        return f"~ {show(p)}" if p < 0.01 else "any in 0–1"

    def row(
        name: str, expected: str | Callable[[Analysis], str], found: Callable[[Analysis], float]
    ) -> Row:
        return Row(
            name=name,
            expected=tuple(
                expected if isinstance(expected, str) else expected(x) for x in analyses
            ),
            found=tuple(float(found(x)) for x in analyses),
        )

    def median(t: np.ndarray) -> float:
        return float(np.nanmedian(t**2))

    def ks(t: np.ndarray) -> float:
        return float(kstest(t[np.isfinite(t)] ** 2, "chi2", args=(1,)).pvalue)

    return [
        row(
            "Median t² of additive effects",
            lambda x: f"{NULL_MEDIAN * (1 + strength(x)):.3f}",
            lambda x: median(x.add_t),
        ),
        row(
            "Median t² of variance effects",
            lambda x: f"{NULL_MEDIAN * (1 + var_strength(x)):.3f}",
            lambda x: median(x.var_t),
        ),
        row(
            "Median t² of dispersion effects*",
            f"{NULL_MEDIAN:.3f}",
            lambda x: median(x.fit.dispersion_t[1:]),
        ),
        row("KS test of additive t², p", lambda x: ks_expected(strength(x)), lambda x: ks(x.add_t)),
        row(
            "KS test of variance t², p",
            lambda x: ks_expected(var_strength(x)),
            lambda x: ks(x.var_t),
        ),
        row(
            "KS test of dispersion t²*, p",
            "any in 0–1",
            lambda x: ks(x.fit.dispersion_t[1:]),
        ),
        row(
            "Slope of variance on additive effects",
            lambda x: f"{theory(study, x.label).coupling:.3f}",
            lambda x: x.fit.r_av,
        ),
        row(
            "First variant: dispersion effect",
            lambda x: f"{study.dispersion_effect * theory(study, x.label).dispersion:.3f}",
            lambda x: float(x.fit.dispersion[0]),
        ),
        row("First variant: its standard error", "", lambda x: float(x.fit.dispersion_se[0])),
        row(
            "First variant: −log10 p of dispersion",
            "large",
            lambda x: float(x.fit.dispersion_neg_log10_p[0]),
        ),
        row(
            "Variance of the random effects, h2",
            lambda x: "" if x.label == "HLM" else f"{n_random * share:.4f}",
            lambda x: x.h2,
        ),
        row("Duration of the scan, s", "", lambda x: x.seconds),
    ]


FOOTNOTE = (
    f"* First variant left out. The median of a chi-square with 1 df is {NULL_MEDIAN:.4f}; KS is "
    "the Kolmogorov–Smirnov test of squared t against that distribution."
)


def show(value: float) -> str:
    """Format a figure for the table: four digits, a dash for no value."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:#.4g}".rstrip(".")


def print_figures(rows: Sequence[Row], labels: Sequence[str]) -> None:
    """Print the table of figures as aligned text."""
    head = ["", *(f"{label} {what}" for label in labels for what in ("expected", "found"))]
    lines = [head]
    for row in rows:
        pairs = zip(row.expected, row.found, strict=True)
        lines.append([row.name, *(cell for e, f in pairs for cell in (e, show(f)))])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    print()
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
    print(f"\n{FOOTNOTE}")


# --- plots ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Theme:
    """Colours of a plot; the hues are Okabe and Ito's, told apart by all."""

    surface: str
    text: str
    muted: str
    grid: str
    points: str
    accent: str
    second: str


LIGHT = Theme("#ffffff", "#1b1f24", "#5b636d", "#e4e7eb", "#0072B2", "#D55E00", "#007a5a")
DARK = Theme("#16191d", "#e8eaed", "#9aa3ad", "#2c3138", "#56B4E9", "#E69F00", "#2fbf95")

Plot = Callable[[Study, Sequence[Analysis], Theme], Figure]


@contextmanager
def themed(theme: Theme) -> Iterator[None]:
    """Draw in the colours of `theme`, with open axes and a faint grid."""
    settings: dict[Any, Any] = {
        "figure.facecolor": theme.surface,
        "savefig.facecolor": theme.surface,
        "axes.facecolor": theme.surface,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.text,
        "axes.titlecolor": theme.text,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "text.color": theme.text,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "figure.constrained_layout.use": True,
        "font.family": "sans-serif",
    }
    with plt.rc_context(settings):
        yield


def panels(analyses: Sequence[Analysis], *, height: float) -> tuple[Figure, list[Axes]]:
    """Make one panel for each analysis, side by side, titled by its model."""
    n = len(analyses)
    width = 9.0 if n > 1 else 5.2
    figure, axes = plt.subplots(
        1, n, figsize=(width, height), squeeze=False, sharex=True, sharey=True
    )
    names = {
        "HLM": "Fixed effects (HLM)",
        "HLMM": "With random effects (HLMM)",
    }
    for ax, analysis in zip(axes[0], analyses, strict=True):
        ax.set_title(names.get(analysis.label, analysis.label))
    return figure, list(axes[0])


def signed(value: float) -> str:
    """Three decimals with a typographic minus."""
    return f"{value:.3f}".replace("-", "−")


def mark_first(ax: Axes, x: float, y: float, label: str, theme: Theme) -> None:
    """Mark the variant that has a dispersion effect, and name it."""
    ax.scatter(
        [x], [y], s=60, marker="D", color=theme.accent, edgecolor=theme.surface, lw=1, zorder=4
    )
    ax.annotate(
        label,
        (x, y),
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        zorder=3,
        bbox={"facecolor": theme.surface, "edgecolor": "none", "pad": 1.0},
    )


def plot_coupling(study: Study, analyses: Sequence[Analysis], theme: Theme) -> Figure:
    """Variance effects against additive effects, with the estimated relation."""
    figure, axes = panels(analyses, height=4.2)
    for ax, x in zip(axes, analyses, strict=True):
        add, var = x.table["add"].to_numpy(float), x.table["var"].to_numpy(float)
        ax.axhline(0, color=theme.muted, lw=0.7, zorder=1)
        ax.axvline(0, color=theme.muted, lw=0.7, zorder=1)
        ax.scatter(add[1:], var[1:], s=14, color=theme.points, alpha=0.55, lw=0)
        expected = theory(study, x.label).coupling
        reach = np.array([-1.0, 1.0]) * 1.05 * np.nanmax(np.abs(add))
        label = f"relation found, slope {signed(x.fit.r_av)}"
        ax.plot(reach, x.fit.r_av * reach, color=theme.second, lw=2, label=label)
        ax.plot(
            reach,
            expected * reach,
            color=theme.text,
            lw=1.2,
            ls=(0, (4, 3)),
            label=f"gamma model, slope {signed(expected)}",
        )
        mark_first(ax, float(add[0]), float(var[0]), "first variant", theme)
        ax.locator_params(axis="x", nbins=6)
        ax.set_xlabel("Effect on the mean (SD per allele)")
    axes[0].set_ylabel("Effect on the log variance (per allele)")
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low, high + 0.2 * (high - low))  # room for the legend
    for ax in axes:
        ax.legend(loc="upper right")
    return figure


def plot_dispersion(study: Study, analyses: Sequence[Analysis], theme: Theme) -> Figure:
    """Evidence for a dispersion effect along the variants, the first one marked."""
    figure, axes = panels(analyses, height=3.6)
    threshold = -np.log10(0.05 / study.n_test)
    for ax, x in zip(axes, analyses, strict=True):
        p = x.fit.dispersion_neg_log10_p
        index = np.arange(1, p.size + 1)
        ax.scatter(index[1:], p[1:], s=12, color=theme.points, alpha=0.6, lw=0)
        ax.axhline(threshold, color=theme.muted, lw=1.2, ls=(0, (4, 3)))
        ax.annotate(
            f"0.05 / {study.n_test}",
            (p.size, threshold),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=9,
            color=theme.muted,
        )
        mark_first(ax, 1.0, float(p[0]), f"first variant, {p[0]:.1f}", theme)
        ax.set_xlabel("Variant")
        ax.grid(visible=False, axis="x")
    axes[0].set_ylabel("Dispersion effect, −log10 p")
    axes[0].set_ylim(0, 1.04 * axes[0].get_ylim()[1])
    return figure


def plot_qq(study: Study, analyses: Sequence[Analysis], theme: Theme) -> Figure:
    """Quantiles of variance p-values before, and of dispersion p-values after the correction."""
    figure, axes = panels(analyses, height=4.2)
    for ax, x in zip(axes, analyses, strict=True):
        before = x.table["var_pval"].to_numpy(float)[1:]
        after = x.fit.dispersion_neg_log10_p[1:]
        m = int(np.isfinite(after).sum())
        rank = np.arange(1, m + 1)
        expected = -np.log10((rank - 0.5) / m)
        low, high = (-np.log10(beta.ppf(q, rank, m - rank + 1)) for q in (0.975, 0.025))
        ax.fill_between(expected, low, high, color=theme.muted, alpha=0.18, lw=0, label="95% range")
        ax.plot([0, expected[0]], [0, expected[0]], color=theme.text, lw=1)
        for p, colour, marker, name in (
            (before, theme.points, "o", "variance effects"),
            (after, theme.accent, "^", "dispersion effects"),
        ):
            p = np.sort(p[np.isfinite(p)])[::-1]
            ax.scatter(expected[: p.size], p, s=16, marker=marker, color=colour, lw=0, label=name)
        ax.set_xlabel("Expected −log10 p")
        ax.legend(loc="upper left")
    axes[0].set_ylabel("Observed −log10 p")
    return figure


def plot_power(study: Study, analyses: Sequence[Analysis], theme: Theme) -> Figure:
    """Squared t of additive and dispersion effects, HLMM against HLM."""
    one, two = analyses[0], analyses[-1]
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 4.2))
    pairs = (
        (one.add_t**2, two.add_t**2, "Additive effects"),
        (one.fit.dispersion_t**2, two.fit.dispersion_t**2, "Dispersion effects"),
    )
    for ax, (a, b, title) in zip(axes, pairs, strict=True):
        top = 1.06 * float(np.nanmax(np.concatenate([a, b])))
        slope = float(np.nansum(a * b) / np.nansum(a * a))
        ax.plot([0, top], [0, top], color=theme.muted, lw=1, label="no change")
        ax.scatter(a[1:], b[1:], s=14, color=theme.points, alpha=0.6, lw=0)
        ax.scatter(
            a[:1],
            b[:1],
            s=60,
            marker="D",
            color=theme.accent,
            lw=0,
            zorder=4,
            label="first variant",
        )
        ax.set(
            title=title,
            xlabel=f"t² without random effects ({one.label})",
            ylabel=f"t² with random effects ({two.label})",
            xlim=(-0.02 * top, top),
            ylim=(-0.02 * top, top),
            aspect="equal",
        )
        ax.annotate(f"on average × {slope:.2f}", (0.98, 0.04), xycoords="axes fraction", ha="right")
        ax.legend(loc="upper left")
    return figure


@dataclass(frozen=True)
class Section:
    """A plot of the report: file name, heading and what there is to see."""

    stem: str
    title: str
    text: str
    plot: Plot


SECTIONS = (
    Section(
        "coupling",
        "The effect on the variance follows the effect on the mean",
        "Each point is a variant. None but the first was given a variance effect of its own; the "
        "line is what the gamma distribution leaves after the inverse-normal transform. It is "
        "estimated by robust regression through the origin, corrected for the noise of the "
        "additive effects.",
        plot_coupling,
    ),
    Section(
        "dispersion",
        "Taking the line off leaves the dispersion effects",
        "The dispersion effect is the variance effect less what the line predicts. The first "
        "variant was given one; the others were not.",
        plot_dispersion,
    ),
    Section(
        "qq",
        "Variance effects are inflated, dispersion effects are not",
        "The first variant is left out. Points above the band carry more signal than chance.",
        plot_qq,
    ),
    Section(
        "power",
        "Random effects sharpen the tests",
        "Variants that are modelled as random effects no longer add to the residual variance, so "
        "the squared t statistics of true effects grow.",
        plot_power,
    ),
)


def render(study: Study, analyses: Sequence[Analysis], plot: Plot, theme: Theme) -> bytes:
    """Draw a plot and return it as PNG."""
    with themed(theme):
        figure = plot(study, analyses, theme)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160)
        plt.close(figure)
    return buffer.getvalue()


# --- report -----------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --bg:#f5f6f8; --card:#fff; --text:#1b1f24; --muted:#5b636d;
  --line:#dfe3e8; --good:#0072B2; }
@media (prefers-color-scheme: dark) { :root { --bg:#0e1013; --card:#16191d; --text:#e8eaed;
  --muted:#9aa3ad; --line:#2c3138; --good:#56B4E9; } }
* { box-sizing: border-box; }
body { margin:0; background:var(--bg); color:var(--text);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif; }
main { max-width:60rem; margin:0 auto; padding:2.5rem 1.25rem 4rem; }
h1 { font-size:1.7rem; line-height:1.25; margin:0 0 .5rem; letter-spacing:-.01em; }
h2 { font-size:1.15rem; margin:0 0 .35rem; }
p { margin:0 0 1rem; max-width:44rem; } .muted { color:var(--muted); font-size:.9rem; }
section { background:var(--card); border:1px solid var(--line); border-radius:10px;
  padding:1.4rem 1.5rem; margin-top:1.25rem; }
img { display:block; width:100%; height:auto; }
.scroll { overflow-x:auto; } table { border-collapse:collapse; width:100%; font-size:.92rem;
  font-variant-numeric:tabular-nums; }
th, td { padding:.42rem .6rem; text-align:right; border-bottom:1px solid var(--line);
  white-space:nowrap; }
th:first-child, td:first-child { text-align:left; padding-left:0; }
thead th { color:var(--muted); font-weight:600; } td.found { font-weight:600; }
tbody tr:last-child td { border-bottom:0; }
dl { display:flex; flex-wrap:wrap; gap:.6rem 2.2rem; margin:1rem 0 0; }
dt { color:var(--muted); font-size:.82rem; } dd { margin:0; font-weight:600; font-size:1.1rem; }
"""


def write_report(
    path: Path,
    study: Study,
    analyses: Sequence[Analysis],
    rows: Sequence[Row],
    pictures: dict[str, tuple[bytes, bytes]],
) -> None:
    """Write one self-contained HTML page: the table and the plots, for light and dark screens."""
    first = float(analyses[0].fit.dispersion_neg_log10_p[0])
    facts = {
        "Samples": f"{study.n_samples:,}",
        "Variants scanned": f"{study.n_test:,}",
        "Variants in the random effects": f"{study.n_random:,}",
        "Heritability before the transform": f"{study.trait.heritability:.0%}",
        "Dispersion, first variant": f"−log10 p = {show(first)}",
    }
    top = "".join(f'<th colspan="2">{html.escape(x.label)}</th>' for x in analyses)
    sub = "<th>expected</th><th>found</th>" * len(analyses)
    body = ""
    for row in rows:
        cells = "".join(
            f'<td>{html.escape(e)}</td><td class="found">{html.escape(show(f))}</td>'
            for e, f in zip(row.expected, row.found, strict=True)
        )
        body += f"<tr><td>{html.escape(row.name)}</td>{cells}</tr>\n"
    sections = ""
    for section in SECTIONS:
        if section.stem not in pictures:
            continue
        light, dark = (base64.b64encode(png).decode() for png in pictures[section.stem])
        sections += (
            f"<section><h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p>"
            f'<picture><source media="(prefers-color-scheme: dark)" '
            f'srcset="data:image/png;base64,{dark}"><img alt="{html.escape(section.title)}" '
            f'src="data:image/png;base64,{light}"></picture></section>\n'
        )
    items = "".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items())
    path.write_text(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Mean, variance and dispersion effects</title><style>{STYLE}</style></head>"
        "<body><main><h1>Mean, variance and dispersion effects of a simulated trait</h1>"
        "<p>A gamma distributed trait, inverse-normal transformed, scanned with heteroskedastic "
        "linear models. What theory expects stands beside what was found.</p>"
        f"<dl>{items}</dl><section><h2>Figures</h2><div class='scroll'><table><thead>"
        f"<tr><th></th>{top}</tr><tr><th></th>{sub}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<p class='muted' style='margin:.9rem 0 0'>{html.escape(FOOTNOTE)}</p></section>"
        f"{sections}</main></body></html>\n",
        encoding="utf-8",
    )


def finish(folder: Path, study: Study, analyses: Sequence[Analysis]) -> list[Row]:
    """Print the figures; write the plots as PNG and the report."""
    rows = figures(study, analyses)
    print_figures(rows, [x.label for x in analyses])
    pictures = {}
    for section in SECTIONS:
        pair = tuple(render(study, analyses, section.plot, theme) for theme in (LIGHT, DARK))
        pictures[section.stem] = (pair[0], pair[1])
        (folder / f"{section.stem}.png").write_bytes(pair[0])
    write_report(folder / "report.html", study, analyses, rows, pictures)
    print(f"\nReport: {folder / 'report.html'}")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--samples", type=int, default=100_000, help="simulated people")
    parser.add_argument("--variants", type=int, default=500, help="variants to scan")
    parser.add_argument(
        "--random-variants", type=int, default=500, help="variants modelled as random effects"
    )
    parser.add_argument("--out", type=Path, default=Path("tutorial"), help="output folder")
    parser.add_argument("--seed", type=int, default=1, help="seed of all that is simulated")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of a scan")
    options = parser.parse_args(arguments)
    folder: Path = options.out

    started = time.perf_counter()
    try:
        study = simulate(
            folder,
            samples=options.samples,
            variants=options.variants,
            random_variants=options.random_variants,
            seed=options.seed,
        )
    except InputError as error:
        parser.error(str(error))
    print(
        f"Simulated {study.n_samples:,} samples with {study.n_test:,} + {study.n_random:,} "
        f"variants in {time.perf_counter() - started:.1f} s"
    )
    analyses = []
    for label, random_gts in (("HLM", None), ("HLMM", study.random)):
        table, seconds = scan(
            study.test,
            study.phenotype,
            folder / label.lower(),
            random_gts=random_gts,
            workers=options.workers,
        )
        analyses.append(analyse(label, table, seconds))
    finish(folder, study, analyses)
    print(f"Everything took {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
