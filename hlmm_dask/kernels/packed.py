"""Sums over genotype classes straight off packed PLINK bytes (2 bits a genotype).

A byte holds four samples, the first in its lowest bits; 00 is homozygous for allele 1, 01 missing,
10 heterozygous, 11 homozygous for allele 2. Samples are selected and ordered by the layout
of the phenotype, never by rearranging genotypes: sample 4b + t stands in plane t at
position b, and those that are not analysed hold zeros.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Packed = NDArray[np.uint8]
Engine = Literal["numba", "numpy"]
Powers = Literal[2, 4]

# Bytes of a row that are summed for every variant of a sub-block before the next: four planes
# of 2048 doubles stay in the second-level cache.
_CHUNK_BYTES = 2048


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
        _count(packed, phenotype.keep, counts)
        planes = phenotype.planes.view(np.int64)
        for add in _ADD[powers]:
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
    out = np.empty((packed.shape[0], layout.n_samples), dtype=np.int8)
    _unpack(np.ascontiguousarray(packed), layout.sample_index, out)
    return out


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


def _as_float_impl(typing_context: Any, bits: Any) -> Any:
    """Reinterpret 64 bits as a double: a class is selected by AND, without a branch."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), codegen


def _popcount_impl(typing_context: Any, word: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), codegen


def _word_impl(typing_context: Any, row: Any, position: Any) -> Any:
    """Read eight bytes of a row from a position on, wherever it lies in memory."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        start = builder.gep(array.data, [arguments[1]])
        return builder.load(builder.bitcast(start, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(row, types.intp), codegen


_as_float: Any = intrinsic(_as_float_impl)
_popcount: Any = intrinsic(_popcount_impl)
_word: Any = intrinsic(_word_impl)


def _adder(four: bool, missing: bool) -> Any:
    """Compile the pass over the variants that have missing calls, or over those that have none.

    With ``four`` it sums four powers of y, else two.
    """

    # fastmath lets the compiler split each sum over vector lanes; NaN and infinity can't occur.
    @njit(fastmath={"reassoc", "nsz", "contract"}, nogil=True, cache=True)
    def add(
        packed: Any, planes: Any, has_missing: Any, out: Any
    ) -> None:  # pragma: no cover - compiled
        m, n_bytes = packed.shape
        for low in range(0, n_bytes, _CHUNK_BYTES):
            high = min(low + _CHUNK_BYTES, n_bytes)
            for j in range(m):
                if has_missing[j] != missing:
                    continue
                row = packed[j, low:high]
                s0 = s1 = s2 = q0 = q1 = q2 = 0.0
                c0 = c1 = c2 = f0 = f1 = f2 = 0.0
                for t in range(4):
                    plane = planes[t, low:high]
                    # The codes are compared where they stand in the byte: one shift less.
                    code1 = np.int64(1) << (2 * t)
                    code2 = np.int64(2) << (2 * t)
                    both = code1 | code2
                    for b in range(row.shape[0]):
                        code = np.int64(row[b]) & both
                        bits = plane[b]
                        y = _as_float(bits)
                        y0 = _as_float(bits & -np.int64(code == 0))
                        y2 = _as_float(bits & -np.int64(code == code2))
                        s0 += y0
                        s2 += y2
                        q0 += y0 * y
                        q2 += y2 * y
                        # Both conditions are known when compiled.
                        if four:
                            square = y * y
                            cube = square * y
                            c0 += y0 * square
                            c2 += y2 * square
                            f0 += y0 * cube
                            f2 += y2 * cube
                        if missing:
                            y1 = _as_float(bits & -np.int64(code == code1))
                            s1 += y1
                            q1 += y1 * y
                            if four:
                                c1 += y1 * square
                                f1 += y1 * cube
                out[j, 0] += s0
                out[j, 1] += s1
                out[j, 2] += s2
                out[j, 3] += q0
                out[j, 4] += q1
                out[j, 5] += q2
                if four:
                    out[j, 6] += c0
                    out[j, 7] += c1
                    out[j, 8] += c2
                    out[j, 9] += f0
                    out[j, 10] += f1
                    out[j, 11] += f2

    return add


# By the highest power.
_ADD = {powers: (_adder(powers == 4, False), _adder(powers == 4, True)) for powers in (2, 4)}


@njit(nogil=True, cache=True)
def _count(packed: Any, keep: Any, out: Any) -> None:  # pragma: no cover - compiled
    m, n_bytes = packed.shape
    whole = n_bytes // 8 * 8
    for j in range(m):
        row = packed[j]
        # 32 genotypes at a time; the mask has low bits only, so what a shift brings into a
        # pair's high bit is of no matter.
        n0 = n1 = n2 = np.uint64(0)
        for b in range(0, whole, 8):
            low = _word(row, b)
            high = low >> np.uint64(1)
            mask = _word(keep, b)
            n0 += _popcount(~(low | high) & mask)
            n1 += _popcount(low & ~high & mask)
            n2 += _popcount(high & ~low & mask)
        for b in range(whole, n_bytes):
            low = np.uint64(row[b])
            high = low >> np.uint64(1)
            mask = np.uint64(keep[b])
            n0 += _popcount(~(low | high) & mask)
            n1 += _popcount(low & ~high & mask)
            n2 += _popcount(high & ~low & mask)
        out[j, 0] = n0
        out[j, 1] = n1
        out[j, 2] = n2


@njit(nogil=True, cache=True)
def _unpack(packed: Any, sample_index: Any, out: Any) -> None:  # pragma: no cover - compiled
    for j in range(packed.shape[0]):
        for i in range(sample_index.shape[0]):
            s = sample_index[i]
            code = (packed[j, s >> 2] >> np.uint8(2 * (s & 3))) & 3
            if code == 0:
                out[j, i] = 2
            elif code == 1:
                out[j, i] = -1
            elif code == 2:
                out[j, i] = 1
            else:
                out[j, i] = 0
