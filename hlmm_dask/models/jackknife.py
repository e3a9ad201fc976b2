"""Standard errors of the slope of variance on additive effects, by leaving out parts of the genome.

Neighbouring variants are correlated, so that no formula for independent points holds. What is left
out in turn are whole chromosomes or wide windows, of any size: the weights are those of Busing,
Meijer and van der Leeden, "Delete-m jackknife for unequal m" (Statistics and Computing 1999).
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from hlmm_dask.models.huber import newton_slope

Blocks: TypeAlias = Literal["auto", "chromosomes"] | int

MIN_BLOCKS = 5
_N_WINDOWS = 20
# Variants of a tercile.
_MIN_TERCILE = 30

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Terciles:
    """Slopes of variance on additive effects among the small, the medium and the large of these.

    Attributes
    ----------
    slopes, errors : (3,) float64
        By tercile of abs(add), corrected for noise as the slope of all; standard errors.
    neg_log10_p : float
        -log10 p of their being equal, of F with 2 and blocks - 2 degrees of freedom.
    """

    slopes: _Array
    errors: _Array
    neg_log10_p: float

    @property
    def text(self) -> str:
        """The slopes in words."""
        each = (f"{b:.3g} (SE {se:.2g})" for b, se in zip(self.slopes, self.errors, strict=True))
        return f"{', '.join(each)}; p {10.0**-self.neg_log10_p:.2g}"


@dataclass(frozen=True)
class SlopeErrors:
    """What a jackknife says of the slope.

    Attributes
    ----------
    blocks : str
        What was left out in turn, such as ``22 chromosomes``.
    r_se : float
        Standard error of r_av, NaN where it can't be estimated.
    share_se : float
        Standard error of the share of Var(add) that is no noise, 1 / noise_adjustment.
    terciles : Terciles or None
        None where r_se is NaN or variants are few.
    reason : str
        Why r_se is NaN.
    """

    blocks: str
    r_se: float
    share_se: float
    terciles: Terciles | None
    reason: str = ""


def slope_errors(
    add: _Array, add_se: _Array, var: _Array, contig: NDArray[np.integer], blocks: Blocks, *,
    start: float,
) -> SlopeErrors:  # fmt: skip
    """Estimate the standard error of the noise-corrected robust slope of var on add.

    All slopes are those at the regression's fixed point: rlm's stop rule is coarser than the
    difference that a block makes.

    Parameters
    ----------
    add, add_se, var : (n,) float64
        Finite estimates of the variants that the slope was fitted to.
    contig : (n,) int
        Their chromosomes.
    blocks : "auto", "chromosomes" or int
        See ``DispersionOptions``.
    start : float
        The slope, nearly.
    """
    block, label = jackknife_blocks(contig, blocks)
    n_blocks = int(block.max()) + 1
    if n_blocks < MIN_BLOCKS:
        nan = float("nan")
        why = f"{label}, at least {MIN_BLOCKS} blocks are needed; give a number of windows"
        return SlopeErrors(label, nan, nan, None, why)
    if np.any(block[1:] < block[:-1]):
        order = np.argsort(block, kind="stable")
        add, add_se, var, block = add[order], add_se[order], var[order], block[order]
    # In units of the largest value no square can over- or underflow.
    x_unit, y_unit = float(np.abs(add).max()), float(np.abs(var).max()) or 1.0
    x, y, start = add / x_unit, var / y_unit, start * x_unit / y_unit
    edges = np.searchsorted(block, np.arange(n_blocks + 1))
    sizes = np.diff(edges)
    shares = _shares(x, add_se / x_unit, edges)
    share_se = float(np.sqrt(jackknife_covariance(shares[:, None], sizes)[0, 0]))
    if np.any(shares <= 0.0):
        why = f"without one of the {label} the additive effects can't be told from their noise"
        return SlopeErrors(label, float("nan"), share_se, None, why)
    parts = [_slopes(x, y, edges, start)]
    size = np.abs(x)
    bounds = np.quantile(size, (1 / 3, 2 / 3))
    tercile = np.searchsorted(bounds, size)
    if bounds[0] > 0.0 and np.bincount(tercile, minlength=3).min() >= _MIN_TERCILE:
        for k in range(3):
            rows = tercile == k
            within = np.append(0, np.cumsum(rows))[edges]
            parts.append(_slopes(x[rows], y[rows], within, start))
    slopes = np.stack(parts, axis=1) / shares[:, None] * (y_unit / x_unit)
    covariance = jackknife_covariance(slopes, sizes)
    terciles = None
    if len(parts) > 1:
        contrast = np.array([[0.0, -1.0, 1.0, 0.0], [0.0, -1.0, 0.0, 1.0]])
        apart, spread = contrast @ slopes[0], contrast @ covariance @ contrast.T
        f = float(apart @ np.linalg.pinv(spread) @ apart) * (n_blocks - 2) / (2 * (n_blocks - 1))
        p = max(float(special.fdtrc(2, n_blocks - 2, f)), 1e-300)
        terciles = Terciles(slopes[0, 1:], np.sqrt(np.diag(covariance)[1:]), -float(np.log10(p)))
    return SlopeErrors(label, float(np.sqrt(covariance[0, 0])), share_se, terciles)


def jackknife_blocks(contig: NDArray[np.integer], blocks: Blocks) -> tuple[NDArray[np.int64], str]:
    """Return a block from 0 on for each variant, and what the blocks are."""
    names, chromosome = np.unique(contig, return_inverse=True)
    if blocks == "chromosomes" or (blocks == "auto" and names.size >= MIN_BLOCKS):
        return chromosome.astype(np.int64), f"{names.size} chromosomes"
    n = contig.size
    n_windows = min(_N_WINDOWS if isinstance(blocks, str) else blocks, n)
    return np.arange(n, dtype=np.int64) * n_windows // n, f"{n_windows} windows"


def jackknife_covariance(estimates: _Array, sizes: NDArray[np.integer]) -> _Array:
    """Covariance of estimates from those without each block.

    Parameters
    ----------
    estimates : (1 + b, p) float64
        From all, and without each of b blocks.
    sizes : (b,) int
        Of the blocks.

    Returns
    -------
    (p, p) float64
    """
    whole, without = estimates[0], estimates[1:]
    h = (sizes.sum() / sizes)[:, None]
    mean = np.sum(whole - (1.0 - 1.0 / h) * without, axis=0)
    apart = (h * whole - (h - 1.0) * without - mean) / np.sqrt(h - 1.0)
    return np.asarray(apart.T @ apart / len(sizes))


def _shares(x: _Array, x_se: _Array, edges: NDArray[np.integer]) -> _Array:
    """Share of Var(add) that is no noise, from all and without each block: (1 + b,)."""
    centred = x - x.mean()
    columns = (np.ones_like(x), centred, centred * centred, x_se * x_se)
    sums = np.stack([np.add.reduceat(column, edges[:-1]) for column in columns])
    total = sums.sum(axis=1, keepdims=True)
    n, first, second, noise = np.hstack([total, total - sums])
    out: _Array = 1.0 - noise / n * (n - 1.0) / (second - first * first / n)
    return out


def _slopes(x: _Array, y: _Array, edges: NDArray[np.integer], start: float) -> _Array:
    """Slopes from all, and without each block: (1 + b,)."""
    whole = newton_slope(x, y, start)
    without = [
        newton_slope(
            np.concatenate([x[:low], x[high:]]), np.concatenate([y[:low], y[high:]]), whole
        )
        if low < high
        else whole
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    return np.array([whole, *without])
