"""Compiled passes of the model with covariates; see :mod:`hlmm_dask.kernels.covariate_loops`."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hlmm_dask.kernels.compiled import compiled

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

_LOG2_E = 1.0 / math.log(2.0)
# log 2 in two parts, the first of few digits, so that k times it is exact.
_LOG_2_HIGH = 6.93145751953125e-1
_LOG_2_LOW = 1.42860682030941723212e-6
# Beyond this the result is 1e±304: far from any maximum, and finite.
_LARGEST_EXPONENT = 700.0
_FAST = {"reassoc", "nsz", "contract"}


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
def weigh(
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
    """Do what ``covariate_loops.weigh`` says; ``mask`` is read where ``masked``."""
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
def weigh_dosages(
    stacked: FloatArray,
    g: FloatArray,
    mask: BoolArray,
    masked: bool,
    rows: IntArray,
    start: int,
    beta_g: FloatArray,
    sums: FloatArray,
) -> None:
    """Do what ``covariate_loops.weigh_dosages`` says; ``mask`` is read where ``masked``."""
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


@compiled(fastmath=_FAST, error_model="numpy")
def multiply_scores(
    stacked: FloatArray,
    directions: FloatArray,
    g: FloatArray,
    mask: BoolArray,
    masked: bool,
    rows: IntArray,
    start: int,
    ends: FloatArray,
    sums: FloatArray,
) -> None:
    """Do what ``covariate_loops.multiply_scores`` says; ``mask`` is read where ``masked``."""
    k, s = len(rows), stacked.shape[1]
    excess = np.empty(s)
    for i in range(k):
        dosage, wr, z = g[rows[i], start : start + s], stacked[i], stacked[k + i]
        if masked:
            called = mask[rows[i], start : start + s]
            for t in range(s):
                excess[t] = z[t] - called[t]
        else:
            for t in range(s):
                excess[t] = z[t] - 1.0
        a, b = ends[i, 0], ends[i, 1]
        mean_mean, spread_spread, mean_spread = 0.0, 0.0, 0.0
        for t in range(s):
            mean = wr[t] * (directions[i, t] + a * dosage[t])
            spread = excess[t] * (directions[k + i, t] + b * dosage[t])
            mean_mean += mean * mean
            spread_spread += spread * spread
            mean_spread += mean * spread
        sums[i, 0] += mean_mean
        sums[i, 1] += spread_spread
        sums[i, 2] += mean_spread
