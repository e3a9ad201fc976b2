"""Score tests of mean and variance effects whose reference distribution comes from the genotypes.

With e what y is above its mean, r the residuals of its regression on the genotype x (centred),
v = r²/σ² - 1, σ² the mean of r², and v0 the same of e, the studentised scores are

    z_mean = Σ x e / (Σ x² · mean e²)^½,    z_var = Σ x v / (Σ x² · mean v²)^½    (Koenker)

Their p-values are those of random genotypes with the residuals fixed. Residuals that are fixed are
e and v0; v takes the variant's effect on the mean off, and so changes with the genotypes: an
outlier takes the regression with it. The p-value of the variance is by z0, the score of v0; where
the mean has a score above 2 SD, it is max(p_v, min(p_v0, 10 p_mean)). Where there is an effect on
the mean p_v holds; where there is none p_v0 does, and 10 p_mean is below a level in a tenth of the
cases that the level allows.

A large score has the saddlepoint approximation of both tails added up (`saddlepoint`), or its
expansion where the score is near enough to normal; others have Edgeworth's series. The few samples
that make a score far from normal are taken with each of their genotypes (`expansion_loops`), large
score or not: without, it is a mixture, and medians and tails of the p-values are off.

The joint test of no effect at all goes by e and v0. With ρ their correlation, z0 the score of v0,
z⊥ = (z0 - ρ z_mean) / (1 - ρ²)^½ is not correlated with z_mean, and T² = z_mean² + z⊥² has two
degrees of freedom. In the centre p is by the sum of their squared normal quantiles, each by its own
p-value. T is the score of f = (z_mean ẽ + z⊥ ṽ⊥)/T itself, ẽ and ṽ⊥ of unit variance: of all
directions the one in which the variant lies farthest out. In the tail p is the mean of two of a
chi-square with two degrees of freedom, both of T² where scores are normal: of the squared normal
quantile of the upper tail of f, in simulations too large for rare variants and skewed residuals,
and of the sum of the squared quantiles of z_mean and z⊥, too small there: the same few samples make
both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.class_moments import ClassMoments
from hlmm_dask.kernels.packed import Packed
from hlmm_dask.kernels.residual_nodes import ResidualNodes
from hlmm_dask.kernels.score_moments import ScoreMoments
from hlmm_dask.models.inference import (
    neg_log10_p_chi2_2df,
    neg_log10_p_normal,
    neg_log10_p_tails,
    normal_quantile,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Codes = NDArray[np.int8]

SPA_THRESHOLD = 2.0
_LN10 = float(np.log(10.0))
# Scores up to the first have no saddlepoint, scores above the second no series for the centre.
_CENTRE = (0.05, 3.0)
# -log10 of how much smaller the p-value of the mean must be than another for that not to count.
_PLAIN_EFFECT = 1.0
# With fewer samples all of them are summed.
_FEW_SAMPLES = 400
# Genotypes that are unpacked at once.
_UNPACKED = 4_000_000


@dataclass(frozen=True)
class Scores:
    """Studentised scores of ``m`` variants and what their distribution depends on.

    Attributes
    ----------
    mean, variance, null_variance, joint : (m,) float64
        z_mean, z_var, z0 and T; NaN where there is no such score.
    at : (m, 14) float64
        What the loops take, see `hlmm_dask.kernels.score_loops`.
    frequencies : (m, 3) float64
        Of the genotypes, from the lowest that occurs.
    """

    mean: FloatArray
    variance: FloatArray
    null_variance: FloatArray
    joint: FloatArray
    at: FloatArray
    frequencies: FloatArray

    @property
    def apart(self) -> FloatArray:
        """Absolute value of z⊥, (m,)."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.maximum(self.joint**2 - self.mean**2, 0.0))

    @classmethod
    def of(cls, moments: ClassMoments) -> "Scores":
        """Scores from class moments up to the fourth."""
        n_k, x, n = moments.counts, moments.x, moments.n
        with np.errstate(all="ignore"):
            x_square = (n_k * x * x).sum(axis=0)
            slope = (n_k * x * moments.means).sum(axis=0) / x_square
            spread = np.sqrt(x_square / n)
            sigma2, z_var, v_square, _ = _of_squares(moments, slope, spread)
            null_sigma2, z0, null_square, rho = _of_squares(moments, 0.0 * slope, spread)
            z_mean = slope * spread * np.sqrt(n / null_sigma2)
            left = 1.0 - rho * rho
            apart = np.where(left > 1e-10, (z0 - rho * z_mean) / np.sqrt(left), np.nan)
            joint = np.hypot(z_mean, apart)
            of_v = apart / np.sqrt(left)
            lowest = (n_k > 0).argmax(axis=0)
            classes = np.minimum(lowest + np.arange(3)[:, None], 2)
            q = np.take_along_axis(n_k / n, classes, axis=0)
            q = np.where(lowest + np.arange(3)[:, None] > 2, 0.0, q)
            sd, null_sd = np.sqrt(null_sigma2), np.sqrt(null_square / n)
            at = np.stack([
                moments.centre, slope, -x[0], n, sigma2, v_square, null_sigma2 * n, z_mean, z_var,
                (z_mean - rho * of_v) / sd, of_v / null_sd, joint, -rho * of_v / sd, z0,
            ], axis=1)  # fmt: skip
        return cls(z_mean, z_var, z0, joint, at, np.ascontiguousarray(q.T))


def _of_squares(
    moments: ClassMoments, slope: FloatArray, spread: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Mean square of the residuals, score and sum of squares of v, and its correlation with them.

    ``slope`` (m,) is the effect taken off y, ``spread`` (m,) the genotype's standard deviation.
    """
    n_k, x, n = moments.counts, moments.x, moments.n
    _, r2, r3, r4 = moments.powers(np.where(n_k > 0, moments.means - slope * x, 0.0))
    squares = r2.sum(axis=0)
    sigma2 = squares / n
    v_square = r4.sum(axis=0) / sigma2**2 - n
    v_square = np.where(v_square > 1e-10 * n, v_square, np.nan)
    z = (x * r2).sum(axis=0) / sigma2 / (spread * np.sqrt(v_square))
    return sigma2, z, v_square, r3.sum(axis=0) / sigma2 / np.sqrt(squares * v_square)


def score_columns(scores: Scores, tails: FloatArray) -> dict[str, FloatArray]:
    """Columns of the results by name, from scores and what `tails_of` gives, (m, 13)."""
    from hlmm_dask.kernels.expansion_loops import OWN_EFFECT

    def mended(score: FloatArray, part: slice, centre: FloatArray | None = None) -> FloatArray:
        p = neg_log10_p_normal(score)
        if centre is not None:
            p = np.where(np.isnan(centre), p, centre)
        rows = np.flatnonzero(~np.isnan(tails[:, part.start]))
        better = neg_log10_p_tails(tails[rows, part])
        known = np.isfinite(better)
        p[rows[known]] = better[known]
        return p

    mean = mended(scores.mean, slice(0, 2), tails[:, 9])
    variance = mended(scores.null_variance, slice(2, 4), tails[:, 10])
    with np.errstate(invalid="ignore"):
        own = np.flatnonzero(np.abs(scores.mean) > OWN_EFFECT)
    without_mean = np.maximum(variance, mean - _PLAIN_EFFECT)
    variance[own] = np.fmin(without_mean, mended(scores.variance, slice(4, 6), tails[:, 11]))[own]
    # In the centre both parts by their own p-values: their sum of squares is as of normal ones.
    of_parts = normal_quantile(mean) ** 2 + normal_quantile(tails[:, 12]) ** 2
    joint = neg_log10_p_chi2_2df(np.where(np.isnan(of_parts), scores.joint**2, of_parts))
    rows = np.flatnonzero(~np.isnan(tails[:, 6]))
    if rows.size:
        apart = mended(scores.apart, slice(7, 9))[rows]
        parts = normal_quantile(mean[rows]) ** 2 + normal_quantile(apart) ** 2
        direction = np.maximum(tails[rows, 6], 0.0) ** 2
        with np.errstate(invalid="ignore"):
            log_p = np.logaddexp(-0.5 * direction, -0.5 * parts) - np.log(2.0)
        known = np.isfinite(log_p)
        joint[rows[known]] = np.maximum(-log_p[known], 0.0) / _LN10
    return {
        "add_score_neg_log10_p": mean,
        "var_score_t": scores.variance,
        "var_score_neg_log10_p": variance,
        "av_score_neg_log10_p": joint,
        "var_best_neg_log10_p": variance,
    }


def expanded(
    scores: Scores, called: NDArray[np.bool_], moments: ScoreMoments, threshold: float
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Expansions of scores, and what they leave to the saddlepoint.

    Parameters
    ----------
    scores : Scores
        Of m variants.
    called : (m, k) bool
        Whether the samples that ``moments`` keeps have a call.
    moments : ScoreMoments
        Of the null model.
    threshold : float
        In standard deviations; for the joint score what has the same p-value.

    Returns
    -------
    tails : (m, 13) float64
        r* as `hlmm_dask.kernels.saddlepoint.score_tails` has them, NaN where not found; then
        -log10 p of mean, v0, v and z⊥ in the centre.
    wanted : (m, 5) bool
        Tails that were not found.
    """
    # Imported late: who only plans a scan needs no compiler.
    from hlmm_dask.kernels import expansion_loops

    wanted = _wanted_tails(scores, threshold)
    tails = np.full((len(wanted), 13), np.nan)
    expansion_loops.expand(
        scores.at, scores.frequencies, moments.n, moments.rest, moments.kept, called,
        min(max(threshold, _CENTRE[0]), _CENTRE[1]), wanted, tails,
    )  # fmt: skip
    return tails, wanted


def tails_of(
    scores: Scores,
    packed: Packed,
    rows: IntArray,
    nodes: ResidualNodes,
    y: FloatArray,
    unpack: Callable[[Packed], Codes],
    *,
    threshold: float = SPA_THRESHOLD,
) -> FloatArray:
    """Tails of the scores that are above a threshold, and expansions of the others.

    Parameters
    ----------
    scores : Scores
        Of m variants.
    packed, rows
        Packed genotypes of a block, and where in it the m variants stand.
    nodes : ResidualNodes
        Of the centred phenotype.
    y : (n,) float64
        That phenotype.
    unpack : callable
        Gives the codes (k, n) of packed variants (k, n_bytes).
    threshold : float
        In standard deviations; for the joint score what has the same p-value.

    Returns
    -------
    (m, 13) float64
        See `expanded`.
    """
    from hlmm_dask.kernels import score_loops

    at = nodes.kept_at
    called = ((packed[rows[:, None], at >> 2] >> (2 * (at & 3))) & 3) != 1
    out, wanted = expanded(scores, called, nodes.moments, threshold)
    found = np.flatnonzero(wanted.any(axis=1))
    if not found.size:
        return out
    part, left = out[found], wanted[found]
    of_scores, q = scores.at[found], scores.frequencies[found]
    chosen = np.ascontiguousarray(packed[rows[found]])
    if len(y) >= _FEW_SAMPLES:
        score_loops.node_tails(
            chosen, nodes.outlier_at, nodes.outlier, nodes.value, nodes.weight, of_scores, q, left,
            part,
        )  # fmt: skip
    rest = np.flatnonzero(left.any(axis=1))
    step = max(1, _UNPACKED // len(y))
    for i in range(0, len(rest), step):
        some = rest[i : i + step]
        own = part[some]
        score_loops.sample_tails(unpack(chosen[some]), y, of_scores[some], q[some], left[some], own)
        part[some] = own
    out[found] = part
    return out


def _wanted_tails(scores: Scores, threshold: float) -> NDArray[np.bool_]:
    """Which scores are above a threshold: mean, variance by v0 and v, joint, and z⊥; (m, 5)."""
    from hlmm_dask.kernels.expansion_loops import OWN_EFFECT

    least = max(threshold, _CENTRE[0])
    least_joint = np.sqrt(2.0 * _LN10 * neg_log10_p_normal(least))
    with np.errstate(invalid="ignore"):
        joint = scores.joint > least_joint
        own = np.abs(scores.mean) > OWN_EFFECT
        return np.stack(
            [
                np.abs(scores.mean) > least,
                np.abs(scores.null_variance) > least,
                own & (np.abs(scores.variance) > least),
                joint,
                joint & (scores.apart > least),
            ],
            axis=1,
        )
