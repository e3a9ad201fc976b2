"""Finished blocks of a results store, or pieces of a Dataset, to be thinned."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr

from hlmm_dask.layout import METADATA, array_of
from hlmm_dask.models.dispersion import DispersionResult, NotEstimable, dispersion_effects
from hlmm_dask.schema import DISPERSION_COLUMNS
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.thinned import Thinned
from hlmm_dask.view.thinning import CARRIED, DISPERSION, Thinner, tests_of

if TYPE_CHECKING:
    import xarray as xr

_NAMES = METADATA[:3]
# Variants read at once.
_ROWS = 65_536

Source: TypeAlias = "str | os.PathLike[str] | ResultsStore | xr.Dataset"
Values = dict[str, npt.NDArray[np.float64]]


class BlockReader:
    """Reads ranges of a results store; a chunk of names is decoded once where reads follow it."""

    def __init__(self, store: ResultsStore) -> None:
        self._store = store
        group = zarr.open_group(store.path, mode="r")
        self._names = {name: array_of(group, name) for name in _NAMES}
        self._rows = self._names["variant_id"].chunks[0]
        self._held: dict[int, dict[str, npt.NDArray[Any]]] = {}

    def variants(self, start: int, stop: int) -> dict[str, npt.NDArray[Any]]:
        """Return ID, chromosome and position of the variants start..stop-1."""
        parts = []
        for chunk in range(start // self._rows, -(-stop // self._rows)):
            begin = chunk * self._rows
            if chunk not in self._held:
                if len(self._held) >= 4:
                    self._held.pop(next(iter(self._held)))
                rows = slice(begin, begin + self._rows)
                self._held[chunk] = {n: np.asarray(a[rows]) for n, a in self._names.items()}
            rows = slice(max(start - begin, 0), stop - begin)
            parts.append({name: array[rows] for name, array in self._held[chunk].items()})
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in _NAMES}

    def values(self, start: int, stop: int) -> Values:
        """Return the results of the variants start..stop-1 by column; NaN where nothing is."""
        return dict(zip(self._store.columns, self._store.read(start, stop).T, strict=True))

    def add_to(self, thinner: Thinner, blocks: Iterable[int]) -> None:
        """Read blocks and give them to a `Thinner`."""
        for index in blocks:
            block = self._store.block(index)
            thinner.add(
                block.start,
                self.variants(block.start, block.stop),
                self.values(block.start, block.stop),
            )


def thin(
    source: Source,
    *,
    dispersion: bool = False,
    **options: Any,
) -> Thinned:
    """Thin a whole scan, complete or not, to what pictures need.

    Parameters
    ----------
    source : path, ResultsStore or Dataset
        OUTPREFIX.zarr, or a Dataset as of ``open_results``.
    dispersion : bool
        Estimate dispersion effects, and keep them as a further test; without effect where they
        can't be estimated.
    options
        Of ``Thinner``.
    """
    if isinstance(source, str | os.PathLike):
        source = ResultsStore.open(source)
    pieces = _store_pieces if isinstance(source, ResultsStore) else _dataset_pieces
    n = source.n_variants if isinstance(source, ResultsStore) else source.sizes["variants"]
    extra: dict[str, npt.NDArray[np.float64]] = {}
    relation: DispersionResult | NotEstimable | None = None
    if dispersion:
        whole = {name: np.empty(n) for name in ("add", "add_se", "var", "var_se")}
        for start, _, values in pieces(source, names=False):
            for name, column in whole.items():
                column[start : start + len(values[name])] = values[name]
        relation = dispersion_effects(*whole.values())
        del whole
    if isinstance(relation, DispersionResult):
        extra = {c.name: getattr(relation, c.name) for c in DISPERSION_COLUMNS}
    tests = tests_of(source.columns if isinstance(source, ResultsStore) else source.data_vars)
    thinner = Thinner(n, tests=(*tests, DISPERSION) if extra else tests, **options)
    for start, variants, values in pieces(source, names=True):
        stop = start + len(variants["variant_position"])
        thinner.add(start, variants, values | {k: v[start:stop] for k, v in extra.items()})
    thinned = thinner.thinned()
    if isinstance(relation, DispersionResult):
        return replace(thinned, slope=relation.r_av)
    return thinned if relation is None else replace(thinned, no_dispersion=relation.reason)


Piece = tuple[int, Mapping[str, npt.NDArray[Any]], Values]


def _store_pieces(store: Any, *, names: bool) -> Iterator[Piece]:
    reader = BlockReader(store)
    step = max(1, _ROWS // store.block_size) * store.block_size
    for start in range(0, store.n_variants, step):
        stop = min(start + step, store.n_variants)
        yield start, reader.variants(start, stop) if names else {}, reader.values(start, stop)


def _dataset_pieces(dataset: Any, *, names: bool) -> Iterator[Piece]:
    wanted = {"var_se", *CARRIED, *(test.column for test in tests_of(dataset.data_vars))}
    part = dataset[[name for name in dataset.data_vars if name in wanted]]
    if not names:
        part = part.reset_coords(drop=True)
    for start in range(0, dataset.sizes["variants"], _ROWS):
        piece = part.isel(variants=slice(start, start + _ROWS)).compute()
        variants = {name: piece[name].to_numpy() for name in _NAMES} if names else {}
        yield start, variants, {str(name): piece[name].to_numpy() for name in part.data_vars}
