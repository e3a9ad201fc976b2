"""Sums over genotype classes straight off packed PLINK bytes (2 bits a genotype).

A byte holds four samples, the first in its lowest bits; 00 is homozygous for allele 1, 01 missing,
10 heterozygous, 11 homozygous for allele 2. Samples are selected and ordered by the layout
of the phenotype, never by rearranging genotypes: sample 4b + t stands in plane t at
position b, and those that are not analysed hold zeros.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Packed = NDArray[np.uint8]
_Floating = TypeVar("_Floating", np.float64, np.float32)
Engine = Literal["numba", "numpy"]
Powers = Literal[2, 4]

# The four codes in each byte.
_CODES = (np.arange(256)[:, None] >> np.array([0, 2, 4, 6])) & 3
# Genotypes that are on their way at a time stay in the cache.
_ROWS_GENOTYPES = 2**17


@dataclass(frozen=True)
class PackedLayout:
    """Where the analysed samples stand in a packed row.

    Attributes
    ----------
    n_file_samples : int
        Samples in the genotype file.
    sample_index : (n,) int64
        Position of each analysed sample in the file, ascending.
    """

    n_file_samples: int
    sample_index: IntArray

    @property
    def n_samples(self) -> int:
        """Number of analysed samples n."""
        return len(self.sample_index)

    @property
    def n_bytes(self) -> int:
        """Bytes of a packed row."""
        return (self.n_file_samples + 3) // 4

    def planes(self, values: FloatArray) -> FloatArray:
        """Lay out ``values`` (n,) of the analysed samples in planes (4, n_bytes), else zero."""
        assert values.shape == (self.n_samples,)
        out = np.zeros((4, self.n_bytes))
        out[self.sample_index & 3, self.sample_index >> 2] = values
        return out

    def keep(self) -> Packed:
        """Mask (n_bytes,) with the low bit of each analysed sample's pair set."""
        out = np.zeros(self.n_bytes, dtype=np.uint8)
        bits = np.left_shift(np.uint8(1), (2 * (self.sample_index & 3)).astype(np.uint8))
        np.bitwise_or.at(out, self.sample_index >> 2, bits)
        return out


@dataclass(frozen=True)
class ClassSums:
    """Sums over samples by genotype class, for ``m`` variants.

    Class k holds the samples with k copies of allele 1; missing calls are in none.

    Attributes
    ----------
    counts : (3, m) float64
        Samples n_k.
    sums : (3, m) float64
        Σ y.
    squares : (3, m) float64
        Σ y².
    cubes, fourths : (3, m) float64, optional
        Σ y³ and Σ y⁴.
    """

    counts: FloatArray
    sums: FloatArray
    squares: FloatArray
    cubes: FloatArray | None = None
    fourths: FloatArray | None = None

    def __post_init__(self) -> None:
        assert self.counts.shape == self.sums.shape == self.squares.shape
        assert self.counts.shape[0] == 3
        assert (self.cubes is None) == (self.fourths is None)

    def take(self, variants: slice | IntArray) -> "ClassSums":
        """Return the sums of some of the variants."""
        return ClassSums(
            self.counts[:, variants],
            self.sums[:, variants],
            self.squares[:, variants],
            None if self.cubes is None else self.cubes[:, variants],
            None if self.fourths is None else self.fourths[:, variants],
        )


@dataclass(frozen=True)
class PackedPhenotype:
    """A phenotype laid out for :func:`class_sums`.

    Attributes
    ----------
    layout : PackedLayout
        The analysed samples.
    planes : (4, n_bytes) float64
        Phenotype in planes.
    keep : (n_bytes,) uint8
        Mask of the analysed samples.
    total, total_squares, total_cubes, total_fourths : float
        Σ y, Σ y², Σ y³ and Σ y⁴ over the analysed samples.
    """

    layout: PackedLayout
    planes: FloatArray
    keep: Packed
    total: float
    total_squares: float
    total_cubes: float
    total_fourths: float


def pack_phenotype(layout: PackedLayout, y: FloatArray) -> PackedPhenotype:
    """Lay out phenotype ``y`` (n,) of the analysed samples."""
    squares = y * y
    return PackedPhenotype(
        layout=layout,
        planes=layout.planes(y),
        keep=layout.keep(),
        total=float(np.sum(y)),
        total_squares=float(np.sum(squares)),
        total_cubes=float(np.sum(squares * y)),
        total_fourths=float(np.sum(squares * squares)),
    )


def class_sums(
    packed: Packed,
    phenotype: PackedPhenotype,
    *,
    powers: Powers = 2,
    engine: Engine = "numba",
) -> ClassSums:
    """Sum the phenotype by genotype class for every variant of a block.

    Parameters
    ----------
    packed : (m, n_bytes) uint8
        Packed genotypes.
    phenotype : PackedPhenotype
        Phenotype in the layout of the same file. Its mean should be near zero: high powers
        of a large mean would cost the digits of what lies about it.
    powers : {2, 4}
        The highest power of y that is summed.
    engine : {"numba", "numpy"}
        The compiled loop, or plain array operations that give the same sums (slower,
        the reference in the tests).

    Returns
    -------
    ClassSums
        Class 0 is the total without the others and the missing calls.
    """
    m, n_bytes = packed.shape
    assert phenotype.planes.shape == (4, n_bytes)
    if engine == "numba":
        counts = np.zeros((m, 3), dtype=np.int64)
        sums = np.zeros((m, 3 * powers))
        packed = np.ascontiguousarray(packed)
        # Imported late: who only plans a scan needs no compiler.
        from hlmm_dask.kernels import class_loops

        class_loops.count(packed, phenotype.keep, counts)
        planes = phenotype.planes.view(np.int64)
        for add in class_loops.ADD[powers]:
            add(packed, planes, counts[:, 1] > 0, sums)
    else:
        counts, sums = _sums_numpy(packed, phenotype, powers)
    # Columns of counts and sums by the two-bit code: 0 = two copies, 1 = missing, 2 = one copy.
    two, missing, one = counts.T.astype(np.float64)
    n0 = phenotype.layout.n_samples - two - missing - one
    totals = (
        phenotype.total,
        phenotype.total_squares,
        phenotype.total_cubes,
        phenotype.total_fourths,
    )
    out = np.empty((powers, 3, m))
    for p in range(powers):
        of_two, of_missing, of_one = sums[:, 3 * p : 3 * p + 3].T
        rest = np.where(n0 == 0, 0.0, totals[p] - of_two - of_missing - of_one)
        out[p] = (np.maximum(rest, 0.0) if p % 2 else rest), of_one, of_two
    return ClassSums(np.stack([n0, one, two]), *out)


def unpack(packed: Packed, layout: PackedLayout) -> NDArray[np.int8]:
    """Return copies of allele 1 of the analysed samples, (m, n) int8, -1 where missing."""
    from hlmm_dask.kernels import class_loops

    out = np.empty((packed.shape[0], layout.n_samples), dtype=np.int8)
    class_loops.select(np.ascontiguousarray(packed), layout.sample_index, out)
    return out


def count_codes(packed: Packed, layout: PackedLayout) -> FloatArray:
    """Count two copies, missing calls and one copy among the analysed samples, (3, m)."""
    keep = layout.keep()
    whole = layout.n_bytes // 8 * 8
    low, high, both = np.zeros((3, len(packed)))
    for rows in slices(len(packed), _ROWS_GENOTYPES // layout.n_bytes):
        # 32 genotypes at a time.
        for part, kept in (
            (packed[rows, :whole].view(np.uint64), keep[:whole].view(np.uint64)),
            (packed[rows, whole:], keep[whole:]),
        ):
            # The mask has low bits only: what a shift brings into a pair's high bit is cleared.
            bits = part & kept, (part >> 1) & kept
            for total, which in ((low, bits[0]), (high, bits[1]), (both, bits[0] & bits[1])):
                total[rows] += np.bitwise_count(which).sum(axis=1, dtype=np.int64)
    return np.stack([layout.n_samples - low - high + both, low - both, high - both])


def look_up(packed: Packed, samples: IntArray, table: NDArray[_Floating]) -> NDArray[_Floating]:
    """Replace the codes of some samples (n,) by what a table has for them, (m, n).

    The table is one for each variant, (m, 4), or one for all, (4,).
    """
    n_bytes = packed.shape[1]
    used, at = np.unique(samples >> 2, return_inverse=True)
    places = 4 * at + (samples & 3)
    out = np.empty((len(packed), len(samples)), table.dtype)
    for_all = table.take(_CODES) if table.ndim == 1 else None
    for rows in slices(len(packed), _ROWS_GENOTYPES // (4 * n_bytes)):
        part: Packed = packed[rows] if len(used) == n_bytes else packed[rows][:, used]
        if for_all is not None:
            values = for_all.take(part, axis=0)
        else:
            by_byte = table[rows].take(_CODES, axis=1).reshape(-1, 4)
            values = by_byte.take(part + 256 * np.arange(len(part))[:, None], axis=0)
        values = values.reshape(len(part), -1)
        values.take(places, axis=1, out=out[rows], mode="clip")
    return out


def slices(m: int, size: int) -> Iterator[slice]:
    """Cut m rows into parts of a size, at least 1."""
    size = max(1, size)
    return (slice(i, min(i + size, m)) for i in range(0, m, size))


def _sums_numpy(
    packed: Packed, phenotype: PackedPhenotype, powers: Powers
) -> tuple[IntArray, FloatArray]:
    m = len(packed)
    counts = np.zeros((m, 3), dtype=np.int64)
    sums = np.zeros((m, 3 * powers))
    for t in range(4):
        code = (packed >> (2 * t)) & 3
        kept = (phenotype.keep >> (2 * t)) & 1
        y = phenotype.planes[t]
        for k in range(3):
            is_class = code == k
            counts[:, k] += (is_class * kept).sum(axis=1, dtype=np.int64)
            power = y
            for p in range(powers):
                sums[:, 3 * p + k] += is_class @ power
                power = power * y
    return counts, sums
