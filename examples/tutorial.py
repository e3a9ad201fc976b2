"""Variants that change a trait's mean, variance and dispersion: a tutorial that checks itself.

Two sets of genotypes and a gamma distributed trait are simulated. Every variant changes the mean
of the trait; as the variance of a gamma follows its mean, every variant changes the variance,
too, and that remains after an inverse-normal transform. Only the first variant changes the
dispersion, the variance beyond what the mean explains. The script scans the variants with the
heteroskedastic linear model (HLM) and again with random effects (HLMM), estimates the relation
between the effects on mean and variance, takes it off, and prints what it found beside what
theory expects. It ends by asking whether the best hits are real: each is refitted with its
neighbours and with dominance. Plots, and a report of each scan, are written to the output folder.

    python examples/tutorial.py --samples 40000 --variants 500 --random-variants 100
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import chi2, kstest, kstwo

from hlmm_dask import loci, plot
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
from hlmm_dask.view.thinned import Thinned

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
    thinned : Thinned
        The results store, to be drawn.
    seconds : float
        Duration of the scan, start of the workers included.
    """

    label: str
    table: pd.DataFrame
    fit: DispersionResult
    thinned: Thinned
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
    command += ["--dispersion", "--report", "--overwrite"]
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


def analyse(label: str, out: Path, table: pd.DataFrame, seconds: float) -> Analysis:
    """Estimate dispersion effects from the columns add and var of a scan's table."""
    fit = dispersion_effects(
        *(table[c].to_numpy(float) for c in ("add", "add_se", "var", "var_se"))
    )
    if isinstance(fit, NotEstimable):
        raise SystemExit(f"No dispersion effects: {fit.reason}. Simulate more samples or variants.")
    thinned = plot.thin(f"{out}.zarr", dispersion=True)
    return Analysis(label=label, table=table, fit=fit, thinned=thinned, seconds=seconds)


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


def plot_coupling(study: Study, analysis: Analysis) -> Figure:
    """Draw variance effects against additive effects, with the relation found and the theory's."""
    ax = plot.effects(analysis.thinned)
    expected = theory(study, analysis.label).coupling
    reach = np.array(ax.get_xlim())
    ax.plot(reach, expected * reach, color="black", lw=1.2, ls="--",
            label=f"gamma model, slope {expected:.3f}")  # fmt: skip
    ax.set_xlim(*reach)
    add, var = (float(analysis.table[name].iloc[0]) for name in ("add", "var"))
    ax.annotate("first variant", (add, var), xytext=(8, 0), textcoords="offset points", va="center")
    ax.legend(frameon=False, fontsize=8.5, loc="lower left")
    return figure_of(ax)


def plot_dispersion(analysis: Analysis) -> Figure:
    """Draw the evidence for dispersion effects along the genome."""
    return figure_of(plot.manhattan(analysis.thinned, "dispersion"))


def plot_qq(analysis: Analysis) -> Figure:
    """Draw quantiles of variance effects, and of what is left of them as dispersion effects."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.6), layout="constrained")
    for ax, test in zip(axes, ("variance", "dispersion"), strict=True):
        plot.qq(analysis.thinned, test, ax=ax)
    return figure


def plot_power(one: Analysis, two: Analysis) -> Figure:
    """Draw squared t of additive and dispersion effects, HLMM against HLM."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.6), layout="constrained")
    pairs = (
        (one.add_t**2, two.add_t**2, "Effect on the mean"),
        (one.fit.dispersion_t**2, two.fit.dispersion_t**2, "Dispersion effect"),
    )
    for ax, (a, b, title) in zip(axes, pairs, strict=True):
        top = 1.06 * float(np.nanmax(np.concatenate([a, b])))
        slope = float(np.nansum(a * b) / np.nansum(a * a))
        ax.plot([0, top], [0, top], color="0.6", lw=1, label="no change")
        ax.scatter(a, b, s=12, label=f"variants, on average × {slope:.2f}")
        ax.set(title=title, xlabel=f"t² without random effects ({one.label})",
               ylabel=f"t² with random effects ({two.label})", aspect="equal")  # fmt: skip
        ax.legend(frameon=False, loc="upper left")
    return figure


def figure_of(ax: Axes) -> Figure:
    """Return the figure that an Axes stands in."""
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    return figure


def judge(out: Path) -> pd.DataFrame:
    """Refit the best hits of a scan in changed models, and say what is left of them.

    The first variant's dispersion effect should hold. That an effect on the variance follows from
    one on the mean is told by the line that dispersion effects are measured from.
    """
    # The trait is normal scores of ranks already.
    options = {"transform": "none", "p": 1e-6, "top": 3, "window": 20.0}
    found = loci(out, tests="mean,variance,dispersion", **options)
    return found[["SNP", "tests", "verdict"]]


def print_verdicts(found: pd.DataFrame) -> None:
    """Print each hit with its verdict."""
    print("\nIs it real?" if len(found) else "\nIs it real? There is no hit with p < 1e-6.")
    for row in found.to_dict("records"):
        print(f"  {row['SNP']} ({row['tests'].replace(',', ', ')}): {row['verdict']}")


def finish(folder: Path, study: Study, analyses: Sequence[Analysis]) -> list[Row]:
    """Print the figures; save the plots as PNG."""
    rows = figures(study, analyses)
    print_figures(rows, [x.label for x in analyses])
    pictures = {
        "coupling": plot_coupling(study, analyses[0]),
        "dispersion": plot_dispersion(analyses[0]),
        "qq": plot_qq(analyses[0]),
        "power": plot_power(analyses[0], analyses[-1]),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.png", dpi=160)
        plt.close(figure)
    reports = " and ".join(str(folder / f"{x.label.lower()}.report.html") for x in analyses)
    print(f"\nReports: {reports}")
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
    plt.switch_backend("Agg")  # files only, no windows

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
        out = folder / label.lower()
        table, seconds = scan(
            study.test, study.phenotype, out, random_gts=random_gts, workers=options.workers
        )
        analyses.append(analyse(label, out, table, seconds))
    finish(folder, study, analyses)
    print_verdicts(judge(folder / "hlm"))
    print(f"Everything took {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
