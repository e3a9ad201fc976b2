"""Elementwise passes of the model with covariates: one loop over a chunk instead of ten arrays.

Both engines give the same sums up to rounding; numpy's is the plain one.
"""

import math
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_dask.kernels.compiled import compiled

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
Engine = Literal["numba", "numpy"]

_LOG2_E = 1.0 / math.log(2.0)
# log 2 in two parts, the first of few digits, so that k times it is exact.
_LOG_2_HIGH = 6.93145751953125e-1
_LOG_2_LOW = 1.42860682030941723212e-6
# Beyond this the result is 1e±304: far from any maximum, and finite.
_LARGEST_EXPONENT = 700.0
_FAST = {"reassoc", "nsz", "contract"}


def weigh(
    stacked: FloatArray,
    g: FloatArray,
    mask: BoolArray | None,
    rows: IntArray,
    start: int,
    residual: FloatArray,
    alpha_g: FloatArray,
    beta_g: FloatArray,
    sums: FloatArray,
    *,
    engine: Engine,
) -> None:
    """Turn linear predictors of a chunk of samples into weighted residuals.

    Parameters
    ----------
    stacked : (2k, s) float64
        -Vβ of k variants, then -Xα; replaced by w r and w r².
    g : (b, n) float64
        Centred dosages of all variants and samples, C-contiguous.
    mask : (b, n) bool, optional
        Whether called.
    rows : (k,) int64
        The variants.
    start : int
        The chunk's first sample.
    residual : (s,) float64
        Residuals of the null model, from which Xα and g α_g are taken.
    alpha_g, beta_g : (k,) float64
        Effects of the variants.
    sums : (k, 3) float64
        To these Σ w r², Σ w r g and Σ w r² g are added.
    engine : {"numba", "numpy"}
        How.
    """
    if engine == "numba":
        _weigh(
            stacked,
            g,
            _or_empty(mask),
            mask is not None,
            rows,
            start,
            residual,
            alpha_g,
            beta_g,
            sums,
        )
        return
    k, s = len(rows), stacked.shape[1]
    upper, lower = stacked[:k], stacked[k:]
    g = g[rows, start : start + s]
    upper -= beta_g[:, None] * g
    np.exp(upper, out=upper)
    if mask is not None:
        upper *= mask[rows, start : start + s]
    lower -= alpha_g[:, None] * g
    lower += residual
    upper *= lower
    lower *= upper
    sums[:, 0] += lower.sum(axis=1)
    sums[:, 1] += (upper * g).sum(axis=1)
    sums[:, 2] += (lower * g).sum(axis=1)


def weigh_dosages(
    stacked: FloatArray,
    g: FloatArray,
    mask: BoolArray | None,
    rows: IntArray,
    start: int,
    beta_g: FloatArray,
    sums: FloatArray,
    *,
    engine: Engine,
) -> None:
    """Turn linear predictors of a chunk into weights and weighted dosages.

    ``stacked`` (2k, s) holds -Vβ in its first half; it is replaced by w and w g. Σ w g² is added
    to ``sums`` (k,). The others are as for :func:`weigh`.
    """
    if engine == "numba":
        _weigh_dosages(stacked, g, _or_empty(mask), mask is not None, rows, start, beta_g, sums)
        return
    k, s = len(rows), stacked.shape[1]
    upper, lower = stacked[:k], stacked[k:]
    g = g[rows, start : start + s]
    upper -= beta_g[:, None] * g
    np.exp(upper, out=upper)
    if mask is not None:
        upper *= mask[rows, start : start + s]
    np.multiply(upper, g, out=lower)
    sums += (lower * g).sum(axis=1)


def _or_empty(mask: BoolArray | None) -> BoolArray:
    return np.empty((0, 0), dtype=np.bool_) if mask is None else mask


@njit(fastmath=_FAST, error_model="numpy", inline="always")
def _exp_parts(x: float) -> tuple[float, float]:
    """Give p and the integer k with e^x = p 2^k, both by arithmetic that vectorises."""
    x = min(max(x, -_LARGEST_EXPONENT), _LARGEST_EXPONENT)
    k = math.floor(x * _LOG2_E + 0.5)
    r = (x - k * _LOG_2_HIGH) - k * _LOG_2_LOW
    # Taylor's series: |r| < 0.35, where the first term left out is 5e-18.
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    return p * r + 1.0, k


@compiled(fastmath=_FAST, error_model="numpy")
def _weigh(
    stacked: FloatArray,
    g: FloatArray,
    mask: BoolArray,
    masked: bool,
    rows: IntArray,
    start: int,
    residual: FloatArray,
    alpha_g: FloatArray,
    beta_g: FloatArray,
    sums: FloatArray,
) -> None:
    k, s = len(rows), stacked.shape[1]
    # 2^k is made of its bits.
    bits = np.empty(s, dtype=np.int64)
    power = bits.view(np.float64)
    for i in range(k):
        upper, lower, dosage = stacked[i], stacked[k + i], g[rows[i], start : start + s]
        a, b = alpha_g[i], beta_g[i]
        for t in range(s):
            p, exponent = _exp_parts(upper[t] - b * dosage[t])
            upper[t] = p
            bits[t] = (np.int64(exponent) + 1023) << 52
        if masked:
            called = mask[rows[i], start : start + s]
            for t in range(s):
                upper[t] *= called[t]
        sum_z, sum_wrg, sum_zg = 0.0, 0.0, 0.0
        for t in range(s):
            r = lower[t] + residual[t] - a * dosage[t]
            wr = upper[t] * power[t] * r
            z = wr * r
            upper[t] = wr
            lower[t] = z
            sum_z += z
            sum_wrg += wr * dosage[t]
            sum_zg += z * dosage[t]
        sums[i, 0] += sum_z
        sums[i, 1] += sum_wrg
        sums[i, 2] += sum_zg


@compiled(fastmath=_FAST, error_model="numpy")
def _weigh_dosages(
    stacked: FloatArray,
    g: FloatArray,
    mask: BoolArray,
    masked: bool,
    rows: IntArray,
    start: int,
    beta_g: FloatArray,
    sums: FloatArray,
) -> None:
    k, s = len(rows), stacked.shape[1]
    bits = np.empty(s, dtype=np.int64)
    power = bits.view(np.float64)
    for i in range(k):
        upper, lower, dosage, b = (
            stacked[i],
            stacked[k + i],
            g[rows[i], start : start + s],
            beta_g[i],
        )
        for t in range(s):
            p, exponent = _exp_parts(upper[t] - b * dosage[t])
            upper[t] = p
            bits[t] = (np.int64(exponent) + 1023) << 52
        if masked:
            called = mask[rows[i], start : start + s]
            for t in range(s):
                upper[t] *= called[t]
        total = 0.0
        for t in range(s):
            w = upper[t] * power[t]
            wg = w * dosage[t]
            upper[t] = w
            lower[t] = wg
            total += wg * dosage[t]
        sums[i] += total
