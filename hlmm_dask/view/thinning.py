"""Results of a scan thinned, block by block, to what a picture can show.

A screen has a few thousand pixels, a scan millions of variants. `Thinner` takes blocks in any
order and keeps, in bounded memory, the variants that can be seen: for each test all below a
p-value, and the best variant of each cell of a grid (place in the file by -log10 p) elsewhere;
besides, histograms of -log10 p by frequency class for quantiles and λ_GC, and a sample of effects.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hlmm_dask.schema import tested_columns
from hlmm_dask.view.genome import Contigs
from hlmm_dask.view.thinned import (
    GENOME_WIDE,
    AssociationTest,
    FrequencyClasses,
    Thinned,
    histogram_bin,
    n_histogram_bins,
)

TESTS = (
    AssociationTest("mean", "add_neg_log10_p", "Effect on the mean", "mean", "add", 1),
    AssociationTest("variance", "var_neg_log10_p", "Effect on the variance", "variance", "var", 1),
    AssociationTest("joint", "av_neg_log10_p", "Mean and variance (2 df)", "2 df", None, 2),
)
# Instead of the classical tests, where the results have them.
BEST = (
    AssociationTest(
        "variance", "var_best_neg_log10_p", "Effect on the variance (score test, saddlepoint)",
        "variance", "var", 1,
    ),
    AssociationTest(
        "joint", "av_score_neg_log10_p", "Mean and variance (score test, 2 df)", "2 df", None, 2
    ),
)  # fmt: skip
DISPERSION = AssociationTest(
    "dispersion", "dispersion_neg_log10_p", "Dispersion effect", "dispersion", "dispersion", 1
)


def tests_of(columns: Iterable[Any]) -> tuple[AssociationTest, ...]:
    """Give the tests to draw of results with these columns."""
    by_column = {test.column: test for test in (*TESTS, *BEST)}
    return tuple(by_column[column] for column in tested_columns(map(str, columns)).values())


# What a kept variant carries from the results, where the block has it.
CARRIED = (
    "minor_allele_frequency", "add", "add_se", "var", "var_se", "dispersion", "dispersion_se",
)  # fmt: skip

# Cells of -log10 p: steps of 0.1 up to 4, of 5% above.
_STEP, _BEND, _GROWTH = 0.1, 4.0, np.log(1.05)
_N_LOW, _N_HIGH = 40, 190
_N_Y = _N_LOW + _N_HIGH

# Most variants of each test in the plot of effects for their p-value.
_N_BEST = 1000
# Values up to which quantiles are exact.
_N_EXACT = 100_000

_Floats = npt.NDArray[np.float64]


class Thinner:
    """Takes blocks of results in any order, each once; `thinned` gives what they add up to.

    Parameters
    ----------
    n_variants : int
        Of the whole scan.
    tests : sequence of AssociationTest
        Which to keep; their columns must be in the blocks.
    keep_above : float
        Variants with a -log10 p above this are all kept, up to `cap` for each test (the best).
    cap : int
        Most variants of a test kept for their p-value; the others are thinned.
    n_bins : int
        Pieces of the file, of equal numbers of variants, in which the rest is thinned: as many
        as there are pixels.
    classes : FrequencyClasses
        By which histograms are kept.
    n_sample : int
        Variants, about, sampled at random (always the same) for the plot of effects.
    """

    def __init__(
        self,
        n_variants: int,
        *,
        tests: Sequence[AssociationTest] = TESTS,
        keep_above: float = 4.0,
        cap: int = 20_000,
        n_bins: int = 1000,
        classes: FrequencyClasses | None = None,
        n_sample: int = 8000,
    ) -> None:
        self.n_variants = n_variants
        self.tests = tuple(tests)
        self.classes = classes or FrequencyClasses()
        self._cap, self._n_bins = cap, n_bins
        self._n_added = self._n_fitted = 0
        self._floor = np.full(len(self.tests), keep_above)
        self._best = np.full((len(self.tests), n_bins * _N_Y), -1.0)
        shape = (len(self.tests), self.classes.n, n_histogram_bins())
        self._counts = np.zeros(shape, dtype=np.int64)
        self._exact: list[_Pieces] | None = [_Pieces([], []) for _ in self.tests]
        self._contigs = Contigs()
        # Exact integers: as a float the largest would become 2^64.
        share = (2**64 - 1) * min(n_sample, n_variants) // n_variants
        self._sample_below = np.uint64(share)
        self._pool: list[dict[str, npt.NDArray[Any]]] = []
        self._n_pool, self._compact_at = 0, 200_000

    def add(
        self, start: int, variants: Mapping[str, npt.NDArray[Any]], values: Mapping[str, _Floats]
    ) -> None:
        """Take the results of the variants start, start + 1, ...

        Parameters
        ----------
        start : int
            Index of the first variant in the scan.
        variants : mapping of str to (k,) array
            ``variant_id``, ``variant_contig`` (strings) and ``variant_position``.
        values : mapping of str to (k,) float64
            Columns of the results: those of the tests, and of `CARRIED` what there is.
        """
        k = len(variants["variant_position"])
        index = np.arange(start, start + k)
        contig = self._contigs.add(index, variants["variant_contig"], variants["variant_position"])
        frequency = values["minor_allele_frequency"]
        classes = self.classes.of(frequency)
        place = index * self._n_bins // self.n_variants * _N_Y
        keep = np.zeros(k, dtype=bool)
        fitted = np.zeros(k, dtype=bool)
        for t, test in enumerate(self.tests):
            rows = np.flatnonzero(values[test.column] >= 0.0)  # not NaN
            y = values[test.column][rows]
            fitted[rows] = True
            np.add.at(self._counts[t], (classes[rows], histogram_bin(y)), 1)
            if self._exact is not None:
                self._exact[t].values.append(y)
                self._exact[t].classes.append(classes[rows])
            cell = place[rows] + _cell(y)
            best = self._best[t]
            np.maximum.at(best, cell, y)
            keep[rows[(y >= best[cell]) | (y >= self._floor[t])]] = True
        keep |= fitted & (_hash(index) <= self._sample_below)
        self._n_added += k
        self._n_fitted += int(fitted.sum())
        if self._exact is not None and self._n_fitted > _N_EXACT:
            self._exact = None
        self._take(np.flatnonzero(keep), index, contig, variants, values)

    def thinned(self) -> Thinned:
        """Return what the blocks so far add up to."""
        self._compact()
        pool = self._pool[0] if self._pool else {}
        if pool:
            order = np.argsort(pool["index"], kind="stable")
            pool = {name: column[order] for name, column in pool.items()}
        shown = {
            test.name: self._shown(t, pool) if pool else np.zeros(0, dtype=bool)
            for t, test in enumerate(self.tests)
        }
        effects = self._in_effects(pool) if pool else np.zeros(0, dtype=bool)
        exact = None
        if self._exact is not None:
            exact = tuple(piece.joined() for piece in self._exact)
        return Thinned(
            tests=self.tests,
            classes=self.classes,
            n_variants=self.n_variants,
            n_added=self._n_added,
            n_fitted=self._n_fitted,
            contigs=self._contigs.ordered(),
            points=self._named(pool),
            shown=shown,
            in_effects=effects,
            counts=self._counts.copy(),
            exact=exact,
        )

    # The pool of candidates

    def _take(
        self,
        rows: npt.NDArray[np.intp],
        index: npt.NDArray[np.int64],
        contig: npt.NDArray[np.int32],
        variants: Mapping[str, npt.NDArray[Any]],
        values: Mapping[str, _Floats],
    ) -> None:
        # The first piece is kept even if it is empty: it names the columns.
        if not rows.size and self._pool:
            return
        piece: dict[str, npt.NDArray[Any]] = {
            "index": index[rows],
            "contig": contig[rows],
            "position": np.asarray(variants["variant_position"])[rows].astype(np.int64),
            "id": np.asarray(variants["variant_id"])[rows].astype(object),
        }
        names = [*CARRIED, *(test.column for test in self.tests)]
        piece |= {name: np.asarray(values[name])[rows] for name in names if name in values}
        self._pool.append(piece)
        self._n_pool += rows.size
        if self._n_pool > self._compact_at:
            self._compact()
            self._compact_at = 2 * self._n_pool + 100_000

    def _compact(self) -> None:
        """Drop candidates that better ones have replaced."""
        if not self._pool:
            return
        pool = {
            name: np.concatenate([piece[name] for piece in self._pool]) for name in self._pool[0]
        }
        keep = self._in_effects(pool)
        for t in range(len(self.tests)):
            keep |= self._shown(t, pool)
        self._pool = [{name: column[keep] for name, column in pool.items()}]
        self._n_pool = int(keep.sum())

    def _shown(self, t: int, pool: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
        """Which candidates the plot of a test shows: the best of all, and of each cell."""
        y = pool[self.tests[t].column]
        rows = np.flatnonzero(y >= 0.0)
        cell = pool["index"][rows] * self._n_bins // self.n_variants * _N_Y + _cell(y[rows])
        winners = rows[y[rows] >= self._best[t][cell]]
        cells = cell[y[rows] >= self._best[t][cell]]
        shown = np.zeros(len(y), dtype=bool)
        shown[winners[np.unique(cells, return_index=True)[1]]] = True
        top = np.flatnonzero(y >= self._floor[t])
        if top.size > self._cap:
            top = top[np.argpartition(-y[top], self._cap)[: self._cap]]
            self._floor[t] = y[top].min()
        shown[top] = True
        return shown

    def _in_effects(self, pool: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
        """Which candidates the plot of effects shows: the sample, and the significant."""
        chosen = _hash(pool["index"]) <= self._sample_below
        for test in self.tests:
            y = np.nan_to_num(pool[test.column], nan=-1.0)
            if not y.size:
                continue
            n_best = min(_N_BEST, y.size)
            best = np.argpartition(-y, n_best - 1)[:n_best]
            chosen[best[y[best] >= -np.log10(GENOME_WIDE)]] = True
        return chosen

    def _named(self, pool: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        if not pool:
            return {}
        names = np.array(self._contigs.names, dtype=object)
        return pool | {"contig": names[pool["contig"]]}


@dataclass(frozen=True)
class _Pieces:
    """Values of one test with their frequency classes, as they came."""

    values: list[_Floats]
    classes: list[npt.NDArray[np.int64]]

    def joined(self) -> tuple[_Floats, npt.NDArray[np.int64]]:
        empty_classes = np.zeros(0, dtype=np.int64)
        return np.concatenate([np.zeros(0), *self.values]), np.concatenate(
            [empty_classes, *self.classes]
        )


def _cell(y: _Floats) -> npt.NDArray[np.int64]:
    """Cell of a -log10 p among those of one piece of the file."""
    cell = (y * (1.0 / _STEP)).astype(np.int64)
    high = np.flatnonzero(y >= _BEND)
    if high.size:
        steps = np.log(y[high] / _BEND) / _GROWTH
        cell[high] = _N_LOW + np.minimum(steps, _N_HIGH - 1).astype(np.int64)
    return cell


def _hash(index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Mix an index to evenly spread 64 bits (the finaliser of splitmix64)."""
    x = index.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
