"""Lead variants of a finished scan by test, and what the scan found around them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hlmm_dask.errors import InputError
from hlmm_dask.followup.inputs import Study
from hlmm_dask.models.dispersion import DispersionResult
from hlmm_dask.schema import DISPERSION_COLUMNS
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.leads import unlinked_rows
from hlmm_dask.view.reading import BlockReader, Values, store_values
from hlmm_dask.view.thinned import AssociationTest
from hlmm_dask.view.thinning import CARRIED, DISPERSION, TESTS, Thinner, tests_of

TEST_NAMES = (*(test.name for test in TESTS), DISPERSION.name)


@dataclass(frozen=True)
class Selection:
    """Which variants lead.

    Attributes
    ----------
    tests : tuple of str
        Names of tests.
    p : float
        Largest p-value of a lead.
    window : int
        Base pairs within which a weaker variant may belong to a better one's locus,
    r2 : float
        which it does if their squared correlation is above this.
    top : int
        Most leads of each test.
    """

    tests: tuple[str, ...] = TEST_NAMES
    p: float = 5e-8
    window: int = 500_000
    r2: float = 0.1
    top: int = 100

    def check(self) -> None:
        """Raise an `InputError` for values that make no sense."""
        for name in self.tests:
            if name not in TEST_NAMES:
                raise InputError(f"--tests {name}: expected some of {','.join(TEST_NAMES)}")
        if not 0.0 < self.p <= 1.0:
            raise InputError(f"--p {self.p:g}: expected a p-value, 0 < p <= 1")
        if self.window < 0:
            raise InputError(f"--window {self.window / 1000:g}: expected kilobases, 0 or more")
        if not 0.0 <= self.r2 <= 1.0:
            raise InputError(f"--r2 {self.r2:g}: expected a squared correlation, 0 to 1")
        if self.top < 1:
            raise InputError(f"--top {self.top}: expected at least 1")


@dataclass(frozen=True)
class Window:
    """What the scan found within a window of a variant, in the order of the file.

    Attributes
    ----------
    index, position : (k,) int64
        In the scan; base pairs.
    id : (k,) object
    values : dict of str to (k,) float64
        ``add``, ``add_se``, ``add_neg_log10_p`` and the tests' -log10 p.
    """

    index: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    id: npt.NDArray[np.object_]
    values: Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Lead:
    """A lead variant.

    Attributes
    ----------
    index : int
        In the scan.
    id, contig : str
    position : int
    tests : tuple of str
        In which it leads.
    """

    index: int
    id: str
    contig: str
    position: int
    tests: tuple[str, ...]


def tests_in(
    store: ResultsStore, dispersion: DispersionResult | None
) -> tuple[AssociationTest, ...]:
    """Give the tests of a scan: those that are drawn."""
    return (*tests_of(store.columns), *(() if dispersion is None else (DISPERSION,)))


def find_leads(
    store: ResultsStore, study: Study, selection: Selection, dispersion: DispersionResult | None
) -> list[Lead]:
    """Find the lead variants of each test, in the order of the file.

    Parameters
    ----------
    store : ResultsStore
        A finished one.
    study : Study
        Its input, for linkage.
    selection : Selection
    dispersion : DispersionResult or None
        Their tests are left out without.
    """
    tests = [test for test in tests_in(store, dispersion) if test.name in selection.tests]
    least = -float(np.log10(selection.p))
    thinner = Thinner(
        store.n_variants, tests=tests, keep_above=min(least, 4.0), n_bins=1, n_sample=0
    )
    for start, variants, values in pieces(store, dispersion):
        thinner.add(start, variants, values)
    thinned = thinner.thinned()
    points = thinned.points
    found: dict[int, list[str]] = {}
    for test in tests if points else ():
        rows = unlinked_rows(
            thinned, test.name, study.standardised,
            n=selection.top, window=selection.window, r2=selection.r2, at_least=least,
        )  # fmt: skip
        for row in rows.tolist():
            found.setdefault(row, []).append(test.name)
    return [
        Lead(
            int(points["index"][row]),
            str(points["id"][row]),
            str(points["contig"][row]),
            int(points["position"][row]),
            tuple(names),
        )
        for row, names in sorted(found.items())
    ]


def windows_of(
    store: ResultsStore, leads: Sequence[Lead], window: int, dispersion: DispersionResult | None
) -> list[Window]:
    """Read what lies within a window of each lead, in one pass."""
    parts: list[list[dict[str, npt.NDArray[Any]]]] = [[] for _ in leads]
    wanted = {"add", "add_se", *(test.column for test in tests_in(store, dispersion))}
    if dispersion is not None:
        wanted |= {column.name for column in DISPERSION_COLUMNS}
    for start, variants, values in pieces(store, dispersion):
        contig = np.asarray(variants["variant_contig"]).astype(object)
        position = np.asarray(variants["variant_position"]).astype(np.int64)
        on = {name: np.flatnonzero(contig == name) for name in {lead.contig for lead in leads}}
        for lead, found in zip(leads, parts, strict=True):
            rows = on[lead.contig]
            rows = rows[np.abs(position[rows] - lead.position) <= window]
            if rows.size:
                piece = {name: values[name][rows] for name in wanted}
                ids = np.asarray(variants["variant_id"])[rows].astype(object)
                found.append(piece | {"index": start + rows, "position": position[rows], "id": ids})
    out = []
    for found in parts:
        whole = {name: np.concatenate([piece[name] for piece in found]) for name in found[0]}
        out.append(Window(whole.pop("index"), whole.pop("position"), whole.pop("id"), whole))
    return out


def pieces(
    store: ResultsStore, dispersion: DispersionResult | None
) -> Iterator[tuple[int, dict[str, npt.NDArray[Any]], Values]]:
    """Read a store: first variant, names, and the columns that pictures and leads need."""
    reader = BlockReader(store)
    wanted = (*CARRIED, *(test.column for test in tests_of(store.columns)))
    for start, values in store_values(store, wanted):
        stop = start + len(values["add"])
        if dispersion is not None:
            for column in DISPERSION_COLUMNS:
                values[column.name] = getattr(dispersion, column.name)[start:stop]
        yield start, reader.variants(start, stop), values
