"""Compiled loop of the HLM's profile likelihood from class sums."""

import math
from typing import Any

from hlmm_dask.kernels.compiled import compiled


@compiled(error_model="numpy")
def profile(
    beta1: Any, rows: Any, x: Any, n_k: Any, s_k: Any, mean_k: Any, within_k: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Evaluate the profile of variants ``rows`` (b,) at values of β1, see `fit_class_sums`.

    Parameters
    ----------
    beta1 : (b,) float64
        Values.
    x, n_k, s_k, mean_k, within_k : (3, m) float64
        Copies of allele 1 (centred), samples, Σ y, and mean and sum of squares about it by class.
    out : (11, b) float64
        Filled: α1, -2ℓ less n log 2π, its gradient and Hessian, 1 / Var(α1), e^-η by class, and
        the class mean of y less μ.
    """
    for i in range(rows.shape[0]):
        j = rows[i]
        x0, x1, x2 = x[0, j], x[1, j], x[2, j]
        n0, n1, n2 = n_k[0, j], n_k[1, j], n_k[2, j]
        # The largest exponent is taken out, so that nothing overflows.
        shift = max(-beta1[i] * x0, -beta1[i] * x1, -beta1[i] * x2)
        v0 = math.exp(-beta1[i] * x0 - shift)
        v1 = math.exp(-beta1[i] * x1 - shift)
        v2 = math.exp(-beta1[i] * x2 - shift)
        a0, a1, a2 = v0 * n0, v1 * n1, v2 * n2
        b0, b1, b2 = v0 * s_k[0, j], v1 * s_k[1, j], v2 * s_k[2, j]
        w0 = a0 + a1 + a2
        w1 = a0 * x0 + a1 * x1 + a2 * x2
        w2 = a0 * x0 * x0 + a1 * x1 * x1 + a2 * x2 * x2
        y0 = b0 + b1 + b2
        y1 = b0 * x0 + b1 * x1 + b2 * x2
        det = w0 * w2 - w1 * w1
        slope = (w0 * y1 - w1 * y0) / det
        intercept = (y0 - slope * w1) / w0
        d0 = mean_k[0, j] - intercept - slope * x0
        d1 = mean_k[1, j] - intercept - slope * x1
        d2 = mean_k[2, j] - intercept - slope * x2
        # Σ v R by class.
        r0 = v0 * (within_k[0, j] + n0 * d0 * d0)
        r1 = v1 * (within_k[1, j] + n1 * d1 * d1)
        r2 = v2 * (within_k[2, j] + n2 * d2 * d2)
        n = n0 + n1 + n2
        level = (r0 + r1 + r2) / n
        m1 = (r0 * x0 + r1 * x1 + r2 * x2) / level
        m2 = (r0 * x0 * x0 + r1 * x1 * x1 + r2 * x2 * x2) / level
        curvature = (a0 * d0 * x0 * x0 + a1 * d1 * x1 * x1 + a2 * d2 * x2 * x2) / level
        out[0, i] = slope
        out[1, i] = n * (math.log(level) + shift + 1.0)
        out[2, i] = -m1
        out[3, i] = m2 - m1 * m1 / n - 2.0 * curvature * curvature * level * w0 / det
        out[4, i] = det / (w0 * level)
        out[5, i], out[6, i], out[7, i] = v0 / level, v1 / level, v2 / level
        out[8, i], out[9, i], out[10, i] = d0, d1, d2
