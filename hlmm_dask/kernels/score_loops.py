"""Compiled loops of the score tests: a variant's residuals laid out for the tails."""

from typing import Any

import numpy as np

from hlmm_dask.kernels.compiled import compiled
from hlmm_dask.kernels.saddlepoint import score_tails

# How far the nodes' second moment of the residuals, and of their squares, may be from the variant's
# own before all of its samples are summed.
_NEAR_SQUARES, _NEAR_FOURTHS, _CALLED = 0.1, 0.02, 0.9


@compiled(error_model="numpy")
def node_tails(
    packed: Any, outlier_at: Any, outlier: Any, value: Any, weight: Any, at: Any, q: Any,
    wanted: Any, out: Any,
) -> None:  # pragma: no cover - compiled  # fmt: skip
    """Tails of scores from nodes of the phenotype and the outliers' own genotypes.

    Parameters
    ----------
    packed : (m, n_bytes) uint8
        Packed genotypes.
    outlier_at, outlier, value, weight
        Of a `ResidualNodes` of the centred phenotype.
    at : (m, 14) float64
        See `sample_tails`.
    q : (m, 3) float64
        Frequencies of the genotypes, from the lowest that occurs.
    wanted : (m, 5) bool
        Which tails, see `score_tails`; made false where they were found.
    out : (m, 13) float64
        Filled with r* where they were found.
    """
    n_nodes, most = value.shape[0], value.shape[0] + outlier.shape[0]
    e, r, v, v0 = np.empty(most), np.empty(most), np.empty(most), np.empty(most)
    f, w = np.empty(most), np.empty(most)
    total = mean = spread = 0.0
    for i in range(n_nodes):
        total += weight[i]
        mean += weight[i] * value[i]
    mean /= total
    for i in range(n_nodes):
        spread += weight[i] * (value[i] - mean) ** 2
    spread /= total
    for j in range(packed.shape[0]):
        centre, slope, copies, n = at[j, 0], at[j, 1], at[j, 2], at[j, 3]
        variance, squares, null_squares = at[j, 4], at[j, 5], at[j, 6]
        size = n_nodes
        e1 = e2 = r1 = r2 = 0.0
        for o in range(outlier.shape[0]):
            s = outlier_at[o]
            code = (packed[j, s >> 2] >> np.uint8(2 * (s & 3))) & 3
            if code == 1:
                continue
            k = 2.0 if code == 0 else (1.0 if code == 2 else 0.0)
            e[size] = outlier[o] - centre
            r[size] = e[size] - slope * (k - copies)
            e1 += e[size]
            e2 += e[size] * e[size]
            r1 += r[size]
            r2 += r[size] * r[size]
            w[size] = 1.0
            size += 1
        rest = n - (size - n_nodes)
        # Of many missing calls the samples' distribution may be another.
        if rest < _CALLED * total:
            continue
        # The nodes' mean and spread are made those of the samples that they stand for.
        e_mean, r_mean = -e1 / rest, -r1 / rest
        e_ratio = ((null_squares - e2) / rest - e_mean * e_mean) / spread
        r_ratio = ((n * variance - r2) / rest - r_mean * r_mean) / spread
        if not abs(e_ratio - 1.0) < _NEAR_SQUARES:
            continue
        if wanted[j, 2] and not abs(r_ratio - 1.0) < _NEAR_SQUARES:
            continue
        e_scale, r_scale = np.sqrt(e_ratio), np.sqrt(r_ratio)
        for i in range(n_nodes):
            w[i] = weight[i] * rest / total
            e[i] = e_mean + e_scale * (value[i] - mean)
            r[i] = r_mean + r_scale * (value[i] - mean)
        fourths = 0.0
        for i in range(size):
            v[i] = r[i] * r[i] / variance - 1.0
            v0[i] = e[i] * e[i] * n / null_squares - 1.0
            fourths += w[i] * v[i] * v[i]
        if wanted[j, 2] and not abs(fourths / squares - 1.0) < _NEAR_FOURTHS:
            continue
        score_tails(e, v0, v, w, size, q[j], at[j], wanted[j], f, out[j])
        wanted[j] = False


@compiled(error_model="numpy")
def sample_tails(
    codes: Any, y: Any, at: Any, q: Any, wanted: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Tails of scores from all samples.

    Parameters
    ----------
    codes : (m, n) int8
        Copies of allele 1, -1 where missing.
    y : (n,) float64
        Centred phenotype.
    at : (m, 14) float64
        Mean of y over the samples with a call, effect on it, mean copies, samples with a call,
        variance of the residuals r, sum of squares of v = r²/variance - 1 and of y about its mean;
        from the seventh on as for `score_tails`.
    q, wanted, out
        See `node_tails`.
    """
    m, n = codes.shape
    e, v0, v = np.empty(n), np.empty(n), np.empty(n)
    f, w = np.empty(n), np.ones(n)
    for j in range(m):
        centre, slope, copies, variance = at[j, 0], at[j, 1], at[j, 2], at[j, 4]
        null_variance = at[j, 6] / at[j, 3]
        size = 0
        for i in range(n):
            if codes[j, i] >= 0:
                e[size] = y[i] - centre
                r = e[size] - slope * (codes[j, i] - copies)
                v[size] = r * r / variance - 1.0
                v0[size] = e[size] * e[size] / null_variance - 1.0
                size += 1
        score_tails(e, v0, v, w, size, q[j], at[j], wanted[j], f, out[j])
        wanted[j] = False
