"""The best loci of a store: one pass, with a few thousand variants of each test in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hlmm_dask.models.inference import neg_log10_p_normal
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.reading import BlockReader, Values, store_values
from hlmm_dask.view.thinned import AssociationTest, Thinned, spaced
from hlmm_dask.view.thinning import DISPERSION, tests_of

# Variants of a test kept for their p-value. The best of each piece of the file is kept besides:
# where one locus has all the others, more loci are found nevertheless.
_KEPT = 5000
_NAMES = ("variant_id", "variant_contig", "variant_position")
_CARRIED = ("minor_allele_frequency", "add", "add_se", "var", "var_se")


@dataclass(frozen=True)
class Loci:
    """The best variants of a test, each the best of its surroundings, best first.

    Attributes
    ----------
    test : AssociationTest
    points : dict of str to array
        ``id``, ``contig``, ``position``, ``minor_allele_frequency``, effect and its standard
        error, -log10 p.
    """

    test: AssociationTest
    points: Mapping[str, npt.NDArray[Any]]


def loci_of(thinned: Thinned, *, n: int = 10, window: int = 500_000) -> list[Loci]:
    """Take the best loci of each effect from a thinned scan."""
    found = []
    for test in thinned.tests:
        if test.effect is not None:
            rows = thinned.loci(test.name, n, window=window)
            found.append(Loci(test, {k: column[rows] for k, column in thinned.points.items()}))
    return found


def best_loci(
    store: ResultsStore,
    *,
    line: tuple[float, float] | None = None,
    n: int = 10,
    window: int = 500_000,
) -> list[Loci]:
    """Find the best loci for the mean, the variance and, with a line, the dispersion.

    Parameters
    ----------
    store : ResultsStore
        Complete or not.
    line : (float, float), optional
        Slope of the effects on the variance that go with effects on the mean, and its standard
        error where the dispersion effects' are to hold it, else 0.
    n : int
        Loci of each test.
    window : int
        Base pairs within which a weaker variant belongs to a better one's locus.
    """
    tests = [
        t for t in tests_of(store.columns) if t.effect is not None and t.column in store.columns
    ]
    if line is not None:
        tests.append(DISPERSION)
    kept = [_Kept(test) for test in tests]
    for start, columns in store_values(store, (*_CARRIED, *(t.column for t in tests))):
        if line is not None:
            columns |= _dispersion(columns, *line)
        for each in kept:
            each.add(start, columns)
    names = _Names(store, [each.best() for each in kept])
    return [Loci(each.test, names.loci(each.best(), n, window)) for each in kept]


def _dispersion(columns: Values, slope: float, slope_se: float) -> Values:
    effect = columns["var"] - slope * columns["add"]
    se = np.hypot(columns["var_se"], slope * columns["add_se"])
    se = np.hypot(se, slope_se * columns["add"])
    return {
        "dispersion": effect,
        "dispersion_se": se,
        DISPERSION.column: neg_log10_p_normal(effect / se),
    }


class _Kept:
    """The best variants of a test so far: columns by name, with ``index`` in the scan."""

    def __init__(self, test: AssociationTest) -> None:
        self.test = test
        self._names = dict.fromkeys((*_CARRIED, f"{test.effect}", f"{test.effect}_se", test.column))
        self._pieces: list[Values] = []
        self._floor = 0.0

    def add(self, start: int, columns: Values) -> None:
        """Take the results of the variants start, start + 1, ..."""
        y = columns[self.test.column]
        rows = np.flatnonzero(y >= self._floor)  # not NaN
        if not rows.size:
            rows = np.flatnonzero(y == np.fmax.reduce(y))[:1]
        if not rows.size:
            return
        best = rows[np.argmax(y[rows])]
        piece = {name: columns[name][rows] for name in self._names if name in columns}
        self._pieces.append(piece | {"index": start + rows, "first": rows == best})
        if sum(len(each["index"]) for each in self._pieces) > 4 * _KEPT:
            self._compact()

    def best(self) -> Values:
        """Return what is kept, best first."""
        self._compact()
        if not self._pieces:
            return {"index": np.zeros(0, dtype=np.int64)}
        order = np.argsort(-self._pieces[0][self.test.column], kind="stable")
        return {name: column[order] for name, column in self._pieces[0].items()}

    def _compact(self) -> None:
        if not self._pieces:
            return
        first = self._pieces[0]
        whole = {name: np.concatenate([each[name] for each in self._pieces]) for name in first}
        y = whole[self.test.column]
        if len(y) > _KEPT:
            top = np.argpartition(-y, _KEPT)[:_KEPT]
            self._floor = float(y[top].min())
            keep = whole["first"].copy()
            keep[top] = True
            whole = {name: column[keep] for name, column in whole.items()}
        self._pieces = [whole]


class _Names:
    """Names and places of candidates; each chunk of them is read at most once."""

    def __init__(self, store: ResultsStore, candidates: Sequence[Values]) -> None:
        self._reader = BlockReader(store)
        self._wanted = np.unique(np.concatenate([each["index"] for each in candidates]))
        self._places: dict[int, tuple[str, int]] = {}
        self._ids: dict[int, str] = {}

    def loci(self, candidates: Values, n: int, window: int) -> dict[str, npt.NDArray[Any]]:
        """Return those of the candidates, best first, that no better one is near."""
        index = candidates["index"].tolist()
        rows = spaced(map(self._place, index), n=n, window=window)
        found = [(self._ids[index[row]], *self._places[index[row]]) for row in rows]
        return {name: column[rows] for name, column in candidates.items()} | {
            name: np.array([each[k] for each in found], dtype=object)
            for k, name in enumerate(("id", "contig", "position"))
        }

    def _place(self, index: int) -> tuple[str, int]:
        if index not in self._places:
            start, names = self._reader.chunk_of(index)
            stop = start + len(names["variant_position"])
            low, high = np.searchsorted(self._wanted, (start, stop))
            here = self._wanted[low:high]
            ids, contigs, positions = (names[name][here - start].tolist() for name in _NAMES)
            self._ids.update(zip(here.tolist(), ids, strict=True))
            places = zip(contigs, positions, strict=True)
            self._places.update(zip(here.tolist(), places, strict=True))
        return self._places[index]
