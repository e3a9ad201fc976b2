"""Elementwise passes of the model with covariates: one loop over a chunk instead of ten arrays.

Both engines give the same sums up to rounding; numpy's is the plain one.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
Engine = Literal["numba", "numpy"]


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
        # Imported late: who only plans a scan needs no compiler.
        from hlmm_dask.kernels.covariate_compiled import weigh as compiled

        compiled(
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
        from hlmm_dask.kernels.covariate_compiled import weigh_dosages as compiled

        compiled(stacked, g, _or_empty(mask), mask is not None, rows, start, beta_g, sums)
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


def multiply_scores(
    stacked: FloatArray,
    directions: FloatArray,
    g: FloatArray,
    mask: BoolArray | None,
    rows: IntArray,
    start: int,
    ends: FloatArray,
    sums: FloatArray,
    *,
    engine: Engine,
) -> None:
    """Add squares and products of two linear combinations of each sample's scores.

    ``stacked`` (2k, s) is that of :func:`weigh`: w r and w r². With ``directions`` (2k, s) Xa and
    Vb, and ``ends`` (k, 2) what belongs to g in a and b, these are w r (Xa + g a_g) and
    (w r² - 1)(Vb + g b_g); to ``sums`` (k, 3) Σ of the square of the first, of the second, and of
    their product are added. The others are as for :func:`weigh`; ``directions`` is overwritten.
    """
    if engine == "numba":
        from hlmm_dask.kernels.covariate_compiled import multiply_scores as compiled

        compiled(stacked, directions, g, _or_empty(mask), mask is not None, rows, start, ends, sums)
        return
    k, s = len(rows), stacked.shape[1]
    mean, spread = directions[:k], directions[k:]
    g = g[rows, start : start + s]
    mean += ends[:, :1] * g
    mean *= stacked[:k]
    spread += ends[:, 1:] * g
    spread *= stacked[k:] - (1.0 if mask is None else mask[rows, start : start + s])
    sums[:, 0] += (mean * mean).sum(axis=1)
    sums[:, 1] += (spread * spread).sum(axis=1)
    sums[:, 2] += (mean * spread).sum(axis=1)


def _or_empty(mask: BoolArray | None) -> BoolArray:
    return np.empty((0, 0), dtype=np.bool_) if mask is None else mask
