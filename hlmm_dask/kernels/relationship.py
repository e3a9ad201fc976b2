"""Sums for realised relationship matrices, from packed genotypes, tile by tile."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.packed import (
    FloatArray,
    IntArray,
    Packed,
    PackedLayout,
    count_codes,
    look_up,
)

Kind = Literal["standardised", "centred", "scaled"]
# In the order of the two-bit codes: two copies, missing, one copy, none.
_COPIES = np.array([2.0, np.nan, 1.0, 0.0])
_MISSING_CODE, _NO_COPY = 1, 3


@dataclass(frozen=True)
class RelationshipModel:
    """How genotypes x become relationships; μ is the mean of the observed, f = μ/2.

    Attributes
    ----------
    layout : PackedLayout
        The samples; means and frequencies are theirs.
    rows : (n,) int64
        Where those stand in the file whose relationships are computed.
    kind : {"standardised", "centred", "scaled"}
        ``standardised``: mean of (x_j - μ)(x_k - μ) / 2f(1-f) over the variants that both have
        (Yang et al. 2011, GCTA). ``centred``: mean of (x_j - μ)(x_k - μ) over all variants,
        missing calls at μ (Zhou & Stephens 2012, GEMMA -gk 1). ``scaled``: the same with x in
        units of its population standard deviation (GEMMA -gk 2).
    min_maf : float
        Variants with a minor allele frequency above this are used, and that vary.
    max_missing : float
        And with a percentage of missing calls below this.
    """

    layout: PackedLayout
    rows: IntArray
    kind: Kind
    min_maf: float
    max_missing: float


@dataclass(frozen=True)
class Tile:
    """Sums over variants for the pairs of some samples with some others.

    Attributes
    ----------
    sums : (r, c) float64
        Sum of the products.
    absent : (r, c) float32 or None
        For ``standardised``, variants that one of the two has not; None where all are called.
    n_variants : int
        Variants used.
    """

    sums: FloatArray
    absent: NDArray[np.float32] | None
    n_variants: int


def tile_sums(packed: Packed, model: RelationshipModel, rows: slice, columns: slice) -> Tile:
    """Sum over the variants of a block (m, n_bytes), for the pairs of a tile."""
    packed = np.ascontiguousarray(packed)
    table, used, complete = _values(packed, model)
    packed, table, complete = packed[used], table[used], complete[used]
    left = model.rows[rows]
    # The product with itself takes half as long.
    right = left if rows == columns else model.rows[columns]
    absent = None
    if model.kind == "standardised":
        absent = _absent(packed, left, right)
    elif model.kind == "centred" and complete.any():
        sums = _of_counts(packed[complete], -table[complete, _NO_COPY], left, right)
        if not complete.all():
            sums += _of_values(packed[~complete], table[~complete], left, right)
        return Tile(sums, None, len(packed))
    return Tile(_of_values(packed, table, left, right), absent, len(packed))


def _values(
    packed: Packed, model: RelationshipModel
) -> tuple[FloatArray, NDArray[np.bool_], NDArray[np.bool_]]:
    """Values (m, 4) by two-bit code, missing calls zero; which variants are used; which have all.

    Those have no missing call among the samples.
    """
    n = model.layout.n_samples
    two, missing, one = count_codes(packed, model.layout)
    called = n - missing
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (2.0 * two + one) / called
        # Whole numbers below 2⁵³ all along: exactly zero for a variant that doesn't vary.
        spread = called * (4.0 * two + one) - (2.0 * two + one) ** 2
        maf = np.minimum(mean, 2.0 - mean) / 2.0
        used = (spread > 0) & (maf > model.min_maf) & (100.0 * missing < model.max_missing * n)
        divisor = {
            "standardised": np.sqrt(mean * (1.0 - mean / 2.0)),
            "centred": np.ones(len(packed)),
            "scaled": np.sqrt(spread / called / n),
        }[model.kind]
        table = (_COPIES - mean[:, None]) / divisor[:, None]
    table[:, _MISSING_CODE] = 0.0
    return table, used, missing == 0


def _of_values(packed: Packed, table: FloatArray, left: IntArray, right: IntArray) -> FloatArray:
    """Products of the values that a table has for two sets of samples, summed over variants."""
    Z = look_up(packed, left, table)
    return Z.T @ (Z if right is left else look_up(packed, right, table))


def _of_counts(packed: Packed, mean: FloatArray, left: IntArray, right: IntArray) -> FloatArray:
    """Products of counts less their means (m,), summed over variants without missing calls."""
    # Σ xx' is a whole number up to 4 m, exact in single precision, which takes half the time.
    assert 4 * len(packed) <= 2**24
    table = _COPIES.astype(np.float32)
    x = look_up(packed, left, table)
    other = x if right is left else look_up(packed, right, table)
    # Half of Σ μ² on each side, so that the matrix is symmetric to the last bit.
    half = 0.5 * (mean @ mean)
    of_left, of_right = (np.einsum("ij,i->j", each, mean) - half for each in (x, other))
    sums: FloatArray = of_left[:, None] + of_right
    np.subtract(x.T @ other, sums, out=sums)
    return sums


def _absent(packed: Packed, left: IntArray, right: IntArray) -> NDArray[np.float32] | None:
    low, high = packed & 0x55, (packed >> 1) & 0x55
    some = packed[np.any(low & ~high, axis=1)]
    if not len(some):
        return None
    table = np.zeros(4, dtype=np.float32)
    table[_MISSING_CODE] = 1.0
    of_left, of_right = look_up(some, left, table), look_up(some, right, table)
    # Whole numbers, exact in single precision.
    either = of_left.sum(axis=0)[:, None] + of_right.sum(axis=0) - of_left.T @ of_right
    return either if either.any() else None
