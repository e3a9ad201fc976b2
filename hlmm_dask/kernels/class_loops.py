"""Compiled loops over packed PLINK bytes: counts and sums by genotype class.

Codes, planes and masks are those of :mod:`hlmm_dask.kernels.packed`.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hlmm_dask.kernels.compiled import compiled

# Bytes of a row that are summed for every variant of a sub-block before the next: four planes
# of 2048 doubles stay in the second-level cache.
_CHUNK_BYTES = 2048


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

    # Its machine code is kept by this name.
    add.__qualname__ = f"add_{4 if four else 2}{'_missing' if missing else ''}"
    # fastmath lets the compiler split each sum over vector lanes; NaN and infinity can't occur.
    return compiled(fastmath={"reassoc", "nsz", "contract"})(add)


# By the highest power of y: the passes that add, together over all variants, Σ yᵖ of the codes
# 0, 1, 2 to columns 3 (p - 1) and on. Arguments: packed (m, n_bytes), planes (4, n_bytes) as int64,
# whether a variant has missing calls (m,), sums (m, 3 powers).
ADD = {powers: (_adder(powers == 4, False), _adder(powers == 4, True)) for powers in (2, 4)}


@compiled()
def count(packed: Any, keep: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Count the codes 0, 1, 2 of each row (m, n_bytes) under a mask (n_bytes,) into (m, 3)."""
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


@compiled()
def select(packed: Any, sample_index: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Write copies of allele 1 of some samples (n,) to (m, n), -1 where missing."""
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
