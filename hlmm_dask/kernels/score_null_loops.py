"""Compiled loops of the score tests with covariates or random effects, a pass over all samples."""

from typing import Any

import numpy as np

from hlmm_dask.kernels.compiled import compiled
from hlmm_dask.kernels.saddlepoint import score_tails

# How much of the samples' squared shares cells may lack, and the largest effect on the mean (share
# of the variance), before all samples are summed.
_NEAR, _SMALL = 0.02, 0.004


# fastmath lets the compiler split each sum over vector lanes; NaN and infinity can't occur.
_FAST: Any = {"reassoc", "nsz", "contract"}


@compiled(error_model="numpy", fastmath=_FAST)
def centre(dosage: Any, g: Any, called: Any, about: Any) -> None:  # pragma: no cover - compiled
    """Centre genotypes.

    Parameters
    ----------
    dosage : (m, n)
        Copies of allele 1, NaN or negative where missing.
    g : (m, n) float64
        Filled: copies less their mean, 0 where missing.
    called : (m, n) int8
        Filled: 1 where called, 0 where not.
    about : (m, 5) float64
        Filled: samples with a call, mean copies, and how many have exactly 0, 1 and 2 copies.
    """
    m, n = dosage.shape
    for j in range(m):
        count = copies = zero = one = two = 0.0
        for i in range(n):
            is_called = 1.0 if dosage[j, i] >= 0 else 0.0
            x = np.float64(dosage[j, i]) if dosage[j, i] >= 0 else 0.0
            called[j, i] = np.int8(is_called)
            g[j, i] = x
            count += is_called
            copies += x
            zero += is_called if x == 0.0 else 0.0
            one += 1.0 if x == 1.0 else 0.0
            two += 1.0 if x == 2.0 else 0.0
        copies /= count
        about[j, 0], about[j, 1], about[j, 2], about[j, 3], about[j, 4] = (
            count, copies, zero, one, two,
        )  # fmt: skip
        for i in range(n):
            g[j, i] = (g[j, i] - copies) * called[j, i]


@compiled(error_model="numpy", fastmath=_FAST)
def scores(
    g: Any, called: Any, e: Any, weight: Any, c: Any, at: Any
) -> None:  # pragma: no cover - compiled
    """Studentised scores of centred genotypes.

    Parameters
    ----------
    g : (m, n) float64
        Genotypes less their regression on the covariates, 0 where missing.
    called : (m, n) int8
        1 where called.
    e, weight, c : (n,) float64
        Of a `ScoreNull`.
    at : (m, 15) float64
        Filled: mean of u, effect on the mean, mean of v, samples with a call, mean of e by weight,
        sums of squares of v and of u; from the seventh on as for
        `score_tails`; mean of v without the variant's own effect.
    """
    m, n = g.shape
    for j in range(m):
        gwe = gwg = gg = count = u1 = u2 = total = 0.0
        for i in range(n):
            x, u, here = g[j, i], weight[i] * e[i], called[j, i]
            gwe += x * u
            gwg += x * x * weight[i]
            gg += x * x
            u1 += here * u
            u2 += here * u * u
            count += here
            total += here * weight[i]
        slope, level = gwe / gwg, u1 / total
        v1 = v2 = gv = null1 = null2 = g_null = u_null = 0.0
        for i in range(n):
            x, here = g[j, i], called[j, i]
            r = e[i] - level
            u = here * weight[i] * r
            v0 = here * (u * r - c[i])
            null1 += v0
            null2 += v0 * v0
            g_null += x * v0
            u_null += u * v0
            r -= slope * x
            v = here * (weight[i] * r * r - c[i])
            v1 += v
            v2 += v * v
            gv += x * v
        u1 /= count
        v1 /= count
        null1 /= count
        u2 -= count * u1 * u1
        v2 -= count * v1 * v1
        null2 -= count * null1 * null1
        at[j, :] = np.nan
        at[j, 0], at[j, 1], at[j, 2], at[j, 3], at[j, 4] = u1, slope, v1, count, level
        at[j, 5], at[j, 6], at[j, 7] = v2, u2, gwe / np.sqrt(gg * u2 / count)
        at[j, 14] = null1
        # Without spread of the squares there is no test of it.
        if v2 > 1e-10 * count * max(1.0, v1 * v1) and null2 > 1e-10 * count:
            mean, variance = at[j, 7], g_null / np.sqrt(gg * null2 / count)
            at[j, 8], at[j, 13] = gv / np.sqrt(gg * v2 / count), variance
            # Σ u = 0 about `level`.
            rho = u_null / np.sqrt(u2 * null2)
            left = 1.0 - rho * rho
            if left > 1e-10:
                apart = (variance - rho * mean) / np.sqrt(left)
                of_v = apart / np.sqrt(left)
                at[j, 9] = (mean - rho * of_v) / np.sqrt(u2 / count)
                at[j, 10] = of_v / np.sqrt(null2 / count)
                at[j, 11] = np.sqrt(mean * mean + apart * apart)
                at[j, 12] = -rho * of_v / np.sqrt(u2 / count)


@compiled(error_model="numpy")
def tails(
    g: Any, called: Any, e: Any, weight: Any, c: Any, outlier: Any, cells: Any, at: Any, q: Any,
    wanted: Any, out: Any,
) -> None:  # pragma: no cover - compiled  # fmt: skip
    """Tails of scores: from cells of the samples where these are near enough, else from all.

    Parameters
    ----------
    outlier, cells
        Of a `ScoreNull`.
    q, wanted, out
        As in `hlmm_dask.kernels.score_loops.node_tails`; others as in `scores`.
    """
    m, n = g.shape
    n_cells = cells.shape[1]
    u, v, v0, f, w = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for j in range(m):
        slope, v_mean, count, level = at[j, 1], at[j, 2], at[j, 3], at[j, 4]
        null_mean = at[j, 14]
        size = 0
        u_squares = v_squares = 0.0
        if n > 4 * (n_cells + outlier.shape[0]) and at[j, 7] ** 2 < _SMALL * count:
            for o in range(outlier.shape[0]):
                i = outlier[o]
                if called[j, i] > 0:
                    r = e[i] - level
                    u[size], v0[size] = weight[i] * r, weight[i] * r * r - c[i] - null_mean
                    r -= slope * g[j, i]
                    v[size], w[size] = weight[i] * r * r - c[i] - v_mean, 1.0
                    size += 1
            share = (count - size) / (n - outlier.shape[0])
            for k in range(n_cells):
                u[size], v0[size] = cells[0, k], cells[1, k] - null_mean
                v[size], w[size] = cells[1, k] - v_mean, share * cells[2, k]
                size += 1
            for k in range(size):
                u_squares += w[k] * u[k] * u[k]
                v_squares += w[k] * v[k] * v[k]
        if not (
            abs(u_squares / at[j, 6] - 1.0) < _NEAR and abs(v_squares / at[j, 5] - 1.0) < _NEAR
        ):
            size = 0
            for i in range(n):
                if called[j, i] > 0:
                    r = e[i] - level
                    u[size], v0[size] = weight[i] * r, weight[i] * r * r - c[i] - null_mean
                    r -= slope * g[j, i]
                    v[size], w[size] = weight[i] * r * r - c[i] - v_mean, 1.0
                    size += 1
        score_tails(u, v0, v, w, size, q[j], at[j], wanted[j], f, out[j])
