"""Rows of a store in the order that a format wants, some blocks at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.export import Values
from hlmm_dask.genotypes.contigs import plain_contig
from hlmm_dask.store import ResultsStore

_BATCH_VARIANTS = 65_536
_POSITION_BITS = 40
# PLINK's numbers for X, Y, the pseudo-autosomal region of X and mitochondria are 23 to 26, those
# of the GWAS catalogue 23, 24, 23, 25.
_HUMAN = {str(number): number for number in range(1, 25)} | {
    "X": 23, "XY": 23, "PAR": 23, "PAR1": 23, "PAR2": 23, "25": 23,
    "Y": 24, "M": 25, "MT": 25, "26": 25,
}  # fmt: skip


@cache
def human_number(contig: str) -> int:
    """Return a human chromosome's number, 1 to 25 (X 23, Y 24, MT 25); 0 for any other name."""
    return _HUMAN.get(plain_contig(contig).upper(), 0)


def human_numbers(contigs: "pd.Series[str]") -> NDArray[np.int64]:
    """Numbers of many human chromosomes."""
    codes, names = pd.factorize(contigs)
    return np.array([human_number(str(name)) for name in names], dtype=np.int64)[codes]


def order_by(store: ResultsStore, rank: Callable[[str], int]) -> NDArray[np.int64] | None:
    """Order the variants by a chromosome's rank and position.

    Holds 16 bytes a variant.

    Returns
    -------
    (n_variants,) int64, or None
        Rows of the store in that order; None if they already are.
    """
    keys = np.empty(store.n_variants, dtype=np.int64)
    for start in range(0, store.n_variants, store.names_rows):
        stop = min(start + store.names_rows, store.n_variants)
        rows = slice(start, stop)
        codes, names = pd.factorize(store.read_names("variant_contig", start, stop))
        positions = store.read_names("variant_position", start, stop)
        ranks = np.array([rank(name) for name in names], dtype=np.int64)
        keys[rows] = ranks[codes] << _POSITION_BITS
        keys[rows] += np.clip(positions, 0, (1 << _POSITION_BITS) - 1)
    if bool((np.diff(keys) >= 0).all()):
        return None
    return np.argsort(keys, kind="stable")


@dataclass(frozen=True)
class Reader:
    """Reads rows of a complete store.

    Attributes
    ----------
    store : ResultsStore
        The store.
    names : sequence of str
        Columns to read.
    extra : mapping of str to (n_variants,) float64
        Further columns.
    """

    store: ResultsStore
    names: Sequence[str]
    extra: Mapping[str, Values]

    def frames(self, order: NDArray[np.int64] | None = None) -> Iterator[pd.DataFrame]:
        """Read all rows: ``variant_id contig position effect other`` and the columns.

        Raises
        ------
        StoreError
            If a block is missing or damaged.
        """
        step = -(-_BATCH_VARIANTS // self.store.block_size) * self.store.block_size
        if order is None:
            for start in range(0, self.store.n_variants, step):
                yield self._read(start, step)
            return
        held, held_start = pd.DataFrame(), -1
        for begin in range(0, len(order), step):
            rows = order[begin : begin + step]
            parts = []
            # Sorted pieces, as chromosomes in another order, are read once or twice.
            for start in np.unique(rows // step) * step:
                if start != held_start:
                    held, held_start = self._read(int(start), step), int(start)
                inside = np.flatnonzero((rows >= start) & (rows < start + step))
                parts.append(held.iloc[rows[inside] - start].set_axis(inside))
            yield pd.concat(parts).sort_index()

    def _read(self, start: int, step: int) -> pd.DataFrame:
        store = self.store
        stop = min(start + step, store.n_variants)
        first, last = start // store.block_size, -(-stop // store.block_size)
        values = store.read_blocks(first, last)
        alleles = {"allele1": "effect", "allele2": "other"}
        if store.effect_allele_is_a2:
            alleles = {"allele1": "other", "allele2": "effect"}
        frame = store.read_variants(start, stop).rename(columns=alleles)
        for name in self.names:
            frame[name] = values[:, store.columns.index(name)]
        for name, column in self.extra.items():
            frame[name] = np.asarray(column[start:stop], dtype=np.float64)
        return frame
