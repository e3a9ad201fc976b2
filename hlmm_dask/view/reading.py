"""Finished blocks of a results store, or pieces of a Dataset, to be thinned."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr

from hlmm_dask.layout import METADATA, array_of
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.thinned import AssociationTest, Thinned
from hlmm_dask.view.thinning import CARRIED, TESTS, Thinner

if TYPE_CHECKING:
    import xarray as xr

_NAMES = METADATA[:3]
# Variants read at once.
_ROWS = 65_536

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


def thin_store(
    store: ResultsStore,
    *,
    tests: Sequence[AssociationTest] = TESTS,
    extra: Callable[[Values], Mapping[str, npt.NDArray[np.float64]]] | None = None,
    **options: Any,
) -> Thinned:
    """Thin a whole store, complete or not.

    Parameters
    ----------
    store : ResultsStore
    tests : sequence of AssociationTest
        What to keep.
    extra : callable, optional
        Given the columns of a piece, returns more of them (dispersion effects).
    options
        Of `Thinner`.
    """
    reader = BlockReader(store)
    thinner = Thinner(store.n_variants, tests=tests, **options)
    step = max(1, _ROWS // store.block_size) * store.block_size
    for start in range(0, store.n_variants, step):
        stop = min(start + step, store.n_variants)
        values = reader.values(start, stop)
        if extra is not None:
            values |= extra(values)
        thinner.add(start, reader.variants(start, stop), values)
    return thinner.thinned()


def thin_dataset(
    dataset: "xr.Dataset", *, tests: Sequence[AssociationTest] = TESTS, **options: Any
) -> Thinned:
    """Thin a Dataset as of ``open_results``, or as a scan returns."""
    n = dataset.sizes["variants"]
    thinner = Thinner(n, tests=tests, **options)
    wanted = {*CARRIED, *(test.column for test in tests)}
    columns = [name for name in dataset.data_vars if name in wanted]
    part = dataset[columns]
    for start in range(0, n, _ROWS):
        piece = part.isel(variants=slice(start, start + _ROWS)).compute()
        thinner.add(
            start,
            {name: piece[name].to_numpy() for name in _NAMES},
            {str(name): piece[name].to_numpy() for name in columns},
        )
    return thinner.thinned()
