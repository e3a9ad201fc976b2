"""A thinned scan: points to draw, quantiles, λ_GC, the axis of the genome, independent loci."""

import itertools
from bisect import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from hlmm_dask.models.inference import genomic_control_lambda
from hlmm_dask.models.jackknife import SlopeErrors
from hlmm_dask.view.genome import Axis, Contig

_Floats = npt.NDArray[np.float64]

# Histogram of -log10 p: steps of 0.001 up to 8, of 0.1% above.
_FINE, _BEND = 1e-3, 8.0
_N_FINE, _N_WIDE = 8000, 10_000

# p-value below which a variant is significant among all of a genome.
GENOME_WIDE = 5e-8


@dataclass(frozen=True)
class AssociationTest:
    """A test that pictures are drawn of.

    Attributes
    ----------
    name : str
        Its name in code.
    column : str
        Where -log10 p stands in the results.
    label, short : str
        What is tested, in words; in one or two.
    effect : str or None
        Column of the effect, None where there are two.
    df : int
        Degrees of freedom of the chi-square statistic.
    """

    name: str
    column: str
    label: str
    short: str
    effect: str | None
    df: int


@dataclass(frozen=True)
class FrequencyClasses:
    """Classes of minor allele frequency: up to the first edge, up to the second, ..."""

    edges: tuple[float, ...] = (0.01, 0.05, 0.2)

    @property
    def n(self) -> int:
        """Number of classes."""
        return len(self.edges) + 1

    @property
    def labels(self) -> tuple[str, ...]:
        """A label for each class."""
        bounds = ("0", *(f"{edge:g}" for edge in self.edges), "0.5")
        return tuple(f"{a}–{b}" for a, b in itertools.pairwise(bounds))

    def of(self, frequency: _Floats) -> npt.NDArray[np.int64]:
        """Class of each frequency; of NaN, any."""
        return np.searchsorted(np.array(self.edges), frequency).astype(np.int64)


@dataclass(frozen=True)
class Quantiles:
    """Points of a QQ plot, largest first: expected and observed -log10 p of n values."""

    expected: _Floats
    observed: _Floats
    n: int


@dataclass(frozen=True)
class Thinned:
    """What is left of a scan, to be drawn.

    Attributes
    ----------
    tests : tuple of AssociationTest
        In the order of `counts`.
    classes : FrequencyClasses
        Of the histograms.
    n_variants, n_added, n_fitted : int
        Of the scan; of the blocks so far; of these with estimates.
    contigs : tuple of Contig
        Chromosomes seen so far, in the order of the axis.
    points : dict of str to (k,) array
        Kept variants in file order: ``index`` (in the scan), ``id``, ``contig``, ``position``,
        and columns of the results. Without a block so far it is empty, without a fitted variant
        its columns are.
    shown : dict of str to (k,) bool
        By test: the points that its Manhattan plot shows.
    in_effects : (k,) bool
        The points that the plot of effects shows.
    counts : (tests, classes, bins) int64
        Histograms of -log10 p; see `histogram_edges`.
    exact : tuple of (values, classes), or None
        By test: all values, while they are few.
    slope : float or None
        Of variance on additive effects, where dispersion effects were estimated.
    no_dispersion : str
        Why they could not be.
    slope_errors : SlopeErrors or None
        What a jackknife says of the slope.
    cautions : tuple of str
        What a reader of the dispersion effects should know.
    unit : str
        Of effects on the mean, per allele; nothing where it is not known.
    """

    tests: tuple[AssociationTest, ...]
    classes: FrequencyClasses
    n_variants: int
    n_added: int
    n_fitted: int
    contigs: tuple[Contig, ...]
    points: Mapping[str, npt.NDArray[Any]]
    shown: Mapping[str, npt.NDArray[np.bool_]]
    in_effects: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.int64]
    exact: tuple[tuple[_Floats, npt.NDArray[np.int64]], ...] | None
    slope: float | None = None
    no_dispersion: str = ""
    slope_errors: SlopeErrors | None = None
    cautions: tuple[str, ...] = ()
    unit: str = ""

    @property
    def slope_se(self) -> float | None:
        """Standard error of the slope, None where it is not known."""
        errors = self.slope_errors
        return None if errors is None or np.isnan(errors.r_se) else errors.r_se

    @property
    def axis(self) -> Axis:
        """The genome along one line."""
        return Axis.of(self.contigs)

    @property
    def sample_label(self) -> str:
        """What the plot of effects shows besides the significant."""
        every = int(self.in_effects.sum()) == self.n_fitted
        return "variants" if every else "a random sample of the variants"

    def test(self, name: str) -> AssociationTest:
        """Return a test by its name."""
        return self.tests[self._number(name)]

    def n_tested(self, name: str) -> int:
        """Variants with a p-value."""
        return int(self.counts[self._number(name)].sum())

    def thresholds(self, name: str) -> dict[str, float]:
        """-log10 p of the significance lines, by label."""
        n = self.n_tested(name)
        lines = {"5e-8": -float(np.log10(GENOME_WIDE))}
        if n:
            lines[f"0.05 / {n:,}"] = -float(np.log10(0.05 / n))
        return lines

    def lambda_gc(self, name: str, frequency_class: int | None = None) -> float:
        """λ_GC: the median of the statistic over that of the chi-square; NaN without a value."""
        counts, values = self._chosen(name, frequency_class)
        if not counts.sum():
            return float("nan")
        return genomic_control_lambda(
            _median(counts) if values is None else values, self.test(name).df
        )

    def quantiles(
        self, name: str, frequency_class: int | None = None, *, n_points: int = 1000
    ) -> Quantiles:
        """Return points of a QQ plot: each of the best hundred, and `n_points` in all."""
        counts, values = self._chosen(name, frequency_class)
        n = int(counts.sum())
        ranks = _ranks(n, n_points)
        expected = -np.log10((ranks + 0.5) / n) if n else np.zeros(0)
        if values is not None:
            return Quantiles(expected, np.sort(values)[::-1][ranks], n)
        edges = histogram_edges()
        above = np.cumsum(counts[::-1])  # values in the topmost bins
        bins = np.searchsorted(above, ranks, side="right")
        here = counts[::-1][bins]
        share = (above[bins] - ranks - 0.5) / here
        low, high = edges[:-1][::-1][bins], edges[1:][::-1][bins]
        return Quantiles(expected, low + share * (high - low), n)

    def loci(self, name: str, n: int | None = 10, *, window: int = 500_000,
             at_least: float = 0.0) -> npt.NDArray[np.intp]:  # fmt: skip
        """Rows of `points` that are the best of their surroundings, best first.

        Parameters
        ----------
        name : str
            The test.
        n : int or None
            Most loci; all without.
        window : int
            Base pairs within which another variant belongs to a better one's locus.
        at_least : float
            Smallest -log10 p.
        """
        y = self.points[self.test(name).column]
        rows = np.flatnonzero(y >= at_least)
        rows = rows[np.argsort(-y[rows], kind="stable")]
        places = (
            (str(self.points["contig"][row]), int(self.points["position"][row]))
            for row in rows.tolist()
        )
        return rows[spaced(places, n=n, window=window)]

    def _number(self, name: str) -> int:
        return [test.name for test in self.tests].index(name)

    def _chosen(
        self, name: str, frequency_class: int | None
    ) -> tuple[npt.NDArray[np.int64], _Floats | None]:
        t = self._number(name)
        if frequency_class is None:
            counts = self.counts[t].sum(axis=0)
        else:
            counts = self.counts[t, frequency_class]
        if self.exact is None:
            return counts, None
        values, classes = self.exact[t]
        return counts, values if frequency_class is None else values[classes == frequency_class]


def spaced(places: Iterable[tuple[str, int]], *, n: int | None, window: int) -> list[int]:
    """Which of the variants, best first, have no better one within a window of base pairs.

    Parameters
    ----------
    places : iterable of (str, int)
        Chromosome and position of each.
    n : int or None
        Most to be found; all without.
    window : int
        Base pairs.
    """
    leads: list[int] = []
    taken: dict[str, list[int]] = {}
    for i, (contig, position) in enumerate(places):
        here = taken.setdefault(contig, [])
        at = bisect(here, position)
        if at and position - here[at - 1] <= window:
            continue
        if at < len(here) and here[at] - position <= window:
            continue
        here.insert(at, position)
        leads.append(i)
        if n is not None and len(leads) >= n:
            break
    return leads


def expected_band(n: int, *, n_points: int = 200) -> tuple[_Floats, _Floats, _Floats]:
    """Return expected -log10 p of n uniform p-values, and the bounds that hold 95% of each."""
    ranks = _ranks(n, n_points) + 1.0
    low, high = (-np.log10(special.betaincinv(ranks, n - ranks + 1.0, q)) for q in (0.975, 0.025))
    return -np.log10((ranks - 0.5) / max(n, 1)), low, high


def n_histogram_bins() -> int:
    """Bins of the histogram of -log10 p."""
    return _N_FINE + _N_WIDE


def histogram_edges() -> _Floats:
    """Edges of the bins, one more than bins."""
    wide = _BEND * np.exp(_FINE * np.arange(_N_WIDE + 1))
    return np.concatenate([_FINE * np.arange(_N_FINE), wide])


def histogram_bin(y: _Floats) -> npt.NDArray[np.int64]:
    """Bin of each -log10 p."""
    bins = (y * (1.0 / _FINE)).astype(np.int64)
    high = np.flatnonzero(bins >= _N_FINE)
    if high.size:
        steps = np.log(np.maximum(y[high] / _BEND, 1.0)) / _FINE
        bins[high] = _N_FINE + np.minimum(steps, _N_WIDE - 1).astype(np.int64)
    return bins


def _median(counts: npt.NDArray[np.int64]) -> float:
    edges = histogram_edges()
    below = np.cumsum(counts)
    half = 0.5 * below[-1]
    i = int(np.searchsorted(below, half))
    share = (half - (below[i] - counts[i])) / counts[i]
    return float(edges[i] + share * (edges[i + 1] - edges[i]))


def _ranks(n: int, n_points: int) -> npt.NDArray[np.int64]:
    """Ranks to draw, 0 the best: all if few, else the best hundred and some evenly by log."""
    if n <= n_points:
        return np.arange(n)
    rest = np.geomspace(100, n - 1, n_points - 100)
    return np.unique(np.concatenate([np.arange(100), rest.astype(np.int64)]))
