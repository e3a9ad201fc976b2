"""Compiled loops of the linear HLMM over unpacked genotypes: each reads a variant once."""

from typing import Any

import numpy as np

from hlmm_dask.kernels.compiled import compiled, compiled_part

# fastmath lets the compiler split each sum over vector lanes; NaN and infinity can't occur.
_FAST: Any = {"reassoc", "nsz", "contract"}


@compiled()
def count(codes: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Count 0, 1 and 2 copies in each row of codes (b, n) int8 into (3, b)."""
    for j in range(codes.shape[0]):
        row = codes[j]
        zero = one = two = 0
        for i in range(row.shape[0]):
            zero += row[i] == 0
            one += row[i] == 1
            two += row[i] == 2
        out[0, j], out[1, j], out[2, j] = zero, one, two


@compiled_part(fastmath=_FAST)
def _add_row(out: Any, factor: Any, row: Any) -> None:  # pragma: no cover - compiled
    for k in range(out.shape[0]):
        out[k] += factor * row[k]


@compiled(fastmath=_FAST)
def add_chunk(
    codes: Any, low: Any, e: Any, leverage: Any, raw: Any, mean: Any, x: Any, by_class: Any,
    totals: Any, sums: Any,
) -> None:  # pragma: no cover - compiled  # fmt: skip
    """Sum over a chunk of samples by class, and lay out the factors of its products with G.

    Parameters
    ----------
    codes : (b, n) int8
        Copies of allele 1, -1 where missing.
    low : int
        First sample of the chunk.
    e : (1 or b, s) float64
        Residuals of the chunk's samples, the same for all variants or of each.
    leverage : (s,) float64
        Their leverages.
    raw : (s, l) floating
        Their raw values of G.
    mean : (b,) float64
        Mean copies of each variant.
    x : (2, b, at least s) floating
        Filled: centred copies, 0 where missing; the same times e.
    by_class : (4, 3, b) float64
        Added to from the second on: Σ e, Σ e² and Σ leverage.
    totals : (4, b, l) float64
        Added to from the third on: Σ G and Σ e G over missing calls, which are few.
    sums : (4, b) float64
        Added to: sums of x, and over missing calls Σ 1 and Σ e.
    """
    b, size = codes.shape[0], e.shape[1]
    for j in range(b):
        code, r = codes[j, low : low + size], e[min(j, e.shape[0] - 1)]
        s0 = s1 = s2 = q0 = q1 = q2 = h0 = h1 = h2 = 0.0
        # Loaded whatever the class: without a branch the compiler takes several samples at once.
        for i in range(size):
            c, v, h = code[i], r[i], leverage[i]
            v0 = v if c == 0 else 0.0
            v1 = v if c == 1 else 0.0
            v2 = v if c == 2 else 0.0
            s0 += v0
            s1 += v1
            s2 += v2
            q0 += v0 * v
            q1 += v1 * v
            q2 += v2 * v
            h0 += h if c == 0 else 0.0
            h1 += h if c == 1 else 0.0
            h2 += h if c == 2 else 0.0
        by_class[1, 0, j] += s0
        by_class[1, 1, j] += s1
        by_class[1, 2, j] += s2
        by_class[2, 0, j] += q0
        by_class[2, 1, j] += q1
        by_class[2, 2, j] += q2
        by_class[3, 0, j] += h0
        by_class[3, 1, j] += h1
        by_class[3, 2, j] += h2
        centre, alone, scaled = mean[j], x[0, j], x[1, j]
        total = total_e = 0.0
        for i in range(size):
            c, v = code[i], r[i]
            away = np.float64(c) - centre
            away = x.dtype.type(away if c >= 0 else 0.0)
            product = x.dtype.type(away * v)
            alone[i] = away
            scaled[i] = product
            total += away
            total_e += product
        sums[0, j] += total
        sums[1, j] += total_e
        if by_class[0, 0, j] + by_class[0, 1, j] + by_class[0, 2, j] < codes.shape[1]:
            for i in range(size):
                if code[i] < 0:
                    sums[2, j] += 1.0
                    sums[3, j] += r[i]
                    _add_row(totals[2, j], 1.0, raw[i])
                    _add_row(totals[3, j], r[i], raw[i])
