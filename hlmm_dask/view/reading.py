"""Finished blocks of a results store, or pieces of a Dataset, to be thinned."""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.contigs import contig_codes
from hlmm_dask.layout import METADATA
from hlmm_dask.models.dispersion import (
    DispersionOptions,
    DispersionResult,
    NotEstimable,
    dispersion_effects,
)
from hlmm_dask.scanning.dispersion import contigs
from hlmm_dask.schema import DISPERSION_COLUMNS, NOT_COMPUTED, phenotype_unit
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.thinned import Thinned
from hlmm_dask.view.thinning import BEST, CARRIED, DISPERSION, TESTS, Thinner, tests_of

if TYPE_CHECKING:
    import xarray as xr

_NAMES = METADATA[:3]
_CONTIG = "variant_contig"
_WANTED = {*CARRIED, *(test.column for test in (*BEST, *TESTS))}
# Variants read at once.
_ROWS = 65_536

Source: TypeAlias = "str | os.PathLike[str] | ResultsStore | xr.Dataset"
Values = dict[str, npt.NDArray[np.float64]]


class BlockReader:
    """Reads ranges of a results store; a chunk of names is decoded once where reads follow it."""

    def __init__(self, store: ResultsStore) -> None:
        self._store = store
        self._rows = store.names_rows
        self._held: dict[int, dict[str, npt.NDArray[Any]]] = {}

    def variants(self, start: int, stop: int) -> dict[str, npt.NDArray[Any]]:
        """Return ID, chromosome and position of the variants start..stop-1."""
        parts = []
        for chunk in range(start // self._rows, -(-stop // self._rows)):
            begin, held = self.chunk_of(chunk * self._rows)
            rows = slice(max(start - begin, 0), stop - begin)
            parts.append({name: array[rows] for name, array in held.items()})
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in _NAMES}

    def chunk_of(self, index: int) -> tuple[int, dict[str, npt.NDArray[Any]]]:
        """Return the first variant of the chunk that holds a variant, and the chunk."""
        chunk = index // self._rows
        begin = chunk * self._rows
        if chunk not in self._held:
            if len(self._held) >= 4:
                self._held.pop(next(iter(self._held)))
            stop = min(begin + self._rows, self._store.n_variants)
            self._held[chunk] = {name: self._store.read_names(name, begin, stop) for name in _NAMES}
        return begin, self._held[chunk]

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
    dispersion: bool | DispersionOptions = False,
    **options: Any,
) -> Thinned:
    """Thin a whole scan, complete or not, to what pictures need.

    Parameters
    ----------
    source : path, ResultsStore or Dataset
        OUTPREFIX.zarr, or a Dataset as of ``open_results``.
    dispersion : bool or DispersionOptions
        Estimate dispersion effects, and keep them as a further test; without effect where they
        can't be estimated. Options say how.
    options
        Of ``Thinner``.
    """
    if isinstance(source, str | os.PathLike):
        source = ResultsStore.open(source)
    pieces = _store_pieces if isinstance(source, ResultsStore) else _dataset_pieces
    n = source.n_variants if isinstance(source, ResultsStore) else source.sizes["variants"]
    columns = source.columns if isinstance(source, ResultsStore) else source.data_vars
    extra: dict[str, npt.NDArray[np.float64]] = {}
    relation: DispersionResult | NotEstimable | None = None
    if dispersion is not False and "var" in columns:
        whole = {name: np.empty(n) for name in ("add", "add_se", "var", "var_se")}
        for start, _, values in pieces(source, names=False):
            for name, column in whole.items():
                column[start : start + len(values[name])] = values[name]
        how = DispersionOptions(blocks="auto") if dispersion is True else dispersion
        contig = contig_codes(_contigs(source))
        relation = dispersion_effects(*whole.values(), options=how, contig=contig)
        del whole
    if isinstance(relation, DispersionResult):
        extra = {c.name: getattr(relation, c.name) for c in DISPERSION_COLUMNS}
    tests = tests_of(columns)
    thinner = Thinner(n, tests=(*tests, DISPERSION) if extra else tests, **options)
    for start, variants, values in pieces(source, names=True):
        stop = start + len(variants["variant_position"])
        thinner.add(start, variants, values | {k: v[start:stop] for k, v in extra.items()})
    thinned = replace(thinner.thinned(), unit=_unit(source))
    if isinstance(relation, DispersionResult):
        return replace(
            thinned, slope=relation.r_av, slope_errors=relation.errors, cautions=relation.cautions
        )
    return thinned if relation is None else replace(thinned, no_dispersion=relation.reason)


def require_results(source: Any) -> None:
    """Raise an `InputError` if no block of a store or Dataset has results yet."""
    if isinstance(source, ResultsStore):
        begun, name = bool(source.done()), f"{source.path}: "
    else:
        status = source.get("status")
        begun, name = status is None or bool((status != NOT_COMPUTED).any()), ""
    if not begun:
        raise InputError(f"{name}no variant has results yet; let the scan finish a block first")


def _contigs(source: Any) -> Iterator[npt.NDArray[Any]]:
    if isinstance(source, ResultsStore):
        yield from contigs(source)
        return
    for start in range(0, source.sizes["variants"], _ROWS):
        yield np.asarray(source[_CONTIG][start : start + _ROWS])


def _unit(source: Any) -> str:
    if isinstance(source, ResultsStore):
        return phenotype_unit(source.fingerprint)
    return str(source["add"].attrs.get("units", "")).removesuffix(" per allele")


Piece = tuple[int, Mapping[str, npt.NDArray[Any]], Values]


def store_values(store: ResultsStore, wanted: Iterable[str]) -> Iterator[tuple[int, Values]]:
    """Give columns of a whole store in pieces, with their first variant; NaN where nothing is.

    The next piece is read, on all cores, while one is worked on.

    Raises
    ------
    StoreError
        If a block is done, but missing or damaged.
    """
    names = [name for name in store.columns if name in set(wanted)]
    where = [store.columns.index(name) for name in names]
    step = max(1, _ROWS // store.block_size)

    def read(index: int) -> npt.NDArray[np.float64]:
        return np.ascontiguousarray(store.read_block(index)[:, where].T)

    def submit(pool: ThreadPoolExecutor, first: int) -> "_Ahead":
        last = min(first + step, store.n_blocks)
        return first * store.block_size, [pool.submit(read, i) for i in range(first, last)]

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "hlmm-read") as pool:
        ahead = submit(pool, 0)
        for first in (*range(step, store.n_blocks, step), None):
            (start, parts), ahead = ahead, (0, []) if first is None else submit(pool, first)
            whole = np.concatenate([part.result() for part in parts], axis=1)
            yield start, dict(zip(names, whole, strict=True))


_Ahead: TypeAlias = "tuple[int, list[Future[npt.NDArray[np.float64]]]]"


def _store_pieces(store: Any, *, names: bool) -> Iterator[Piece]:
    reader = BlockReader(store)
    for start, values in store_values(store, _WANTED):
        stop = start + len(values["add"])
        yield start, reader.variants(start, stop) if names else {}, values


def _dataset_pieces(dataset: Any, *, names: bool) -> Iterator[Piece]:
    part = dataset[[name for name in dataset.data_vars if name in _WANTED]]
    if not names:
        part = part.reset_coords(drop=True)
    for start in range(0, dataset.sizes["variants"], _ROWS):
        piece = part.isel(variants=slice(start, start + _ROWS)).compute()
        variants = {name: piece[name].to_numpy() for name in _NAMES} if names else {}
        yield start, variants, {str(name): piece[name].to_numpy() for name in part.data_vars}
