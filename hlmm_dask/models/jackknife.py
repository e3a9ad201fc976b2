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

from hlmm_dask.models.huber import MAD, K, huber_slope

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
        By tercile of the size of the effect on the mean that is expected behind add and its noise,
        add t² / (t² + add_se²) with t² = Var(add) less noise, on which var is regressed here:
        for normal effects that corrects each variant for its own noise. Standard errors.
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
    add: _Array, add_se: _Array, var: _Array, contig: NDArray[np.integer], blocks: Blocks
) -> SlopeErrors:
    """Estimate the standard error of the noise-corrected robust slope of var on add.

    The slope without a block is one step of Newton's method from that of all, at its scale: some
    percent from a new fit's error for hundreds of variants, far less for more. The regression is
    at its fixed point then; rlm's stop rule is coarser than the difference that a block makes.

    Parameters
    ----------
    add, add_se, var : (n,) float64
        Finite estimates of the variants that the slope was fitted to.
    contig : (n,) int
        Their chromosomes.
    blocks : "auto", "chromosomes" or int
        See ``DispersionOptions``.
    """
    block, label = jackknife_blocks(contig, blocks)
    nan, sizes = float("nan"), np.bincount(block)
    if sizes.size < MIN_BLOCKS:
        why = f"{label}, at least {MIN_BLOCKS} blocks are needed; give a number of windows"
        return SlopeErrors(label, nan, nan, None, why)
    # In units of the largest value no square can over- or underflow.
    x_unit, y_unit = float(np.abs(add).max()), float(np.abs(var).max()) or 1.0
    x, y = add / x_unit, var / y_unit
    shares = _shares(x, add_se / x_unit, block)
    share_se = float(np.sqrt(jackknife_covariance(shares[:, None], sizes)[0, 0]))
    if np.any(shares <= 0.0):
        why = f"without one of the {label} the additive effects can't be told from their noise"
        return SlopeErrors(label, nan, share_se, None, why)
    parts = [_slopes(x, y, block, sizes.size) / shares[0]]
    signal = float(shares[0] * x.var(ddof=1))
    x *= signal / (signal + (add_se / x_unit) ** 2)
    size = np.abs(x)
    bounds = np.quantile(size, (1 / 3, 2 / 3))
    tercile = np.searchsorted(bounds, size)
    if bounds[0] > 0.0 and np.bincount(tercile, minlength=3).min() >= _MIN_TERCILE:
        for k in range(3):
            rows = tercile == k
            parts.append(_slopes(x[rows], y[rows], block[rows], sizes.size))
    slopes = np.stack(parts, axis=1) * (shares[0] / shares)[:, None] * (y_unit / x_unit)
    if not np.isfinite(slopes).all():
        why = f"without one of the {label} there is no slope"
        return SlopeErrors(label, nan, share_se, None, why)
    covariance = jackknife_covariance(slopes, sizes)
    terciles = _equality(slopes[0], covariance, sizes.size) if len(parts) > 1 else None
    return SlopeErrors(label, float(np.sqrt(covariance[0, 0])), share_se, terciles)


def jackknife_blocks(contig: NDArray[np.integer], blocks: Blocks) -> tuple[NDArray[np.intp], str]:
    """Return a block from 0 on for each variant, and what the blocks are."""
    there = np.bincount(contig) > 0
    n_chromosomes = int(there.sum())
    if blocks == "chromosomes" or (blocks == "auto" and n_chromosomes >= MIN_BLOCKS):
        return (np.cumsum(there) - 1)[contig], f"{n_chromosomes} chromosomes"
    n = contig.size
    n_windows = min(_N_WINDOWS if isinstance(blocks, str) else blocks, n)
    return np.arange(n, dtype=np.intp) * n_windows // n, f"{n_windows} windows"


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


def _equality(slopes: _Array, covariance: _Array, n_blocks: int) -> Terciles:
    """Test the last three of four slopes for equality: Hotelling's T² of their differences."""
    contrast = np.array([[0.0, -1.0, 1.0, 0.0], [0.0, -1.0, 0.0, 1.0]])
    apart, spread = contrast @ slopes, contrast @ covariance @ contrast.T
    t2 = float(apart @ np.linalg.pinv(spread) @ apart)
    p = float(special.fdtrc(2, n_blocks - 2, t2 * (n_blocks - 2) / (2 * (n_blocks - 1))))
    return Terciles(slopes[1:], np.sqrt(np.diag(covariance)[1:]), -float(np.log10(max(p, 1e-300))))


def _shares(x: _Array, x_se: _Array, block: NDArray[np.intp]) -> _Array:
    """Share of Var(add) that is no noise, from all and without each block: (1 + b,)."""
    centred = x - x.mean()
    columns = (np.ones_like(x), centred, centred * centred, x_se * x_se)
    n, first, second, noise = np.stack([_without(block, column) for column in columns])
    out: _Array = 1.0 - noise / n * (n - 1.0) / (second - first * first / n)
    return out


def _slopes(x: _Array, y: _Array, block: NDArray[np.intp], n_blocks: int) -> _Array:
    """Slopes from all, and without each block: (1 + b,)."""
    slope = huber_slope(x, y, tol=1e-8, max_iter=100).slope
    residual = y - slope * x
    absolute = np.abs(residual)
    bound = K / MAD * float(np.median(absolute))
    score = np.clip(residual, -bound, bound) * x
    curvature = np.where(absolute <= bound, x * x, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = _without(block, score, n_blocks) / _without(block, curvature, n_blocks)
    return np.asarray(slope + steps)


def _without(block: NDArray[np.intp], values: _Array, n_blocks: int = 0) -> _Array:
    """Sum of all values, and of those without each block: (1 + b,)."""
    sums = np.bincount(block, weights=values, minlength=n_blocks)
    return np.asarray(np.append(0.0, -sums) + sums.sum())
