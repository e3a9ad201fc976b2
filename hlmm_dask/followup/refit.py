"""One variant refitted: its effects on mean and variance, and a test that trusts no distribution.

The model is the HLM with the variant in both designs and further columns in that of the mean. The
test of the variance is the score test of the scan (`hlmm_dask.kernels.score`), for any covariates:
with v = r² exp(-Vβ̂) - 1 of the model without the variant's effect on the variance, which is
orthogonal to V at the maximum, and g̃ what V leaves of the genotype,

    z = Σ g̃ v / (Σ g̃² · mean v²)^½

with saddlepoint tails where |z| > 2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.saddlepoint import both_tails
from hlmm_dask.kernels.score import SPA_THRESHOLD
from hlmm_dask.models.design import independent_columns, least_squares
from hlmm_dask.models.hlm import HLM
from hlmm_dask.models.inference import neg_log10_p_normal, neg_log10_p_tails

FloatArray = NDArray[np.float64]
_NAN = float("nan")


@dataclass(frozen=True)
class Design:
    """What the refits of a phenotype share.

    Attributes
    ----------
    y : (n,) float64
        Phenotype.
    X, V : (n, c), (n, v) float64
        Designs of mean and log variance without the variant, the intercept among them.
    """

    y: FloatArray
    X: FloatArray
    V: FloatArray

    def rows(self, chosen: NDArray[np.bool_]) -> "Design":
        """Keep some of the samples, and the columns that are independent among them."""
        return Design(self.y[chosen], independent(self.X[chosen]), independent(self.V[chosen]))


def independent(X: FloatArray) -> FloatArray:
    """Leave out the columns (n, c) that those before them explain, and those that are zero."""
    return np.asarray(X[:, independent_columns(X)[1]])


@dataclass(frozen=True)
class Refit:
    """Effects of a variant in one model; NaN where it can't be fitted.

    Attributes
    ----------
    n : int
        Samples.
    add, add_se, var, var_se : float
        Effects on mean and log variance and their standard errors, as in a scan.
    var_robust_se : float
        Standard error of var from the kurtosis that the residuals have.
    add_neg_log10_p : float
        Of add / add_se.
    score, var_neg_log10_p : float
        Studentised score of an effect on the variance; its -log10 p, with saddlepoint tails.
    extra, extra_se : (k,) float64
        Effects on the mean of the further columns.
    reason : str
        Why it can't be fitted; empty where it is.
    """

    n: int
    add: float = _NAN
    add_se: float = _NAN
    var: float = _NAN
    var_se: float = _NAN
    var_robust_se: float = _NAN
    add_neg_log10_p: float = _NAN
    score: float = _NAN
    var_neg_log10_p: float = _NAN
    extra: tuple[float, ...] = ()
    extra_se: tuple[float, ...] = ()
    reason: str = ""


def refit(design: Design, g: FloatArray, extra: FloatArray | None = None) -> Refit:
    """Fit one variant, on request with further columns in the mean model.

    Parameters
    ----------
    design : Design
        Of n samples.
    g : (n,) float64
        Copies of the effect allele; NaN where missing: without these samples.
    extra : (n, k) float64, optional
        Further columns of X.

    Returns
    -------
    Refit
        Without estimates where the model can't be fitted, as with collinear columns.
    """
    called = np.isfinite(g)
    part, g = design.rows(called), g[called]
    n, k = len(g), 0
    if not n:
        return Refit(0, reason="no samples")
    if n == 1:
        return Refit(1, reason="a single sample")
    if np.ptp(part.y) == 0.0:
        return Refit(n, reason="the phenotype is constant")
    if np.ptp(g) == 0.0:
        return Refit(n, reason="the genotype is constant")
    x = g - g.mean()
    X = np.column_stack([part.X, x])
    if extra is not None:
        others = extra[called] - extra[called].mean(axis=0)
        X, k = np.column_stack([X, others]), others.shape[1]
    try:
        full = HLM(part.y, X, np.column_stack([part.V, x])).fit()
        without = HLM(part.y, X, part.V).fit()
    except ValueError as error:
        # Too few samples, dependent columns, or no residual: one clause without a full stop.
        return Refit(n, reason=str(error))
    if not (full.converged and without.converged):
        return Refit(n, reason="the fit did not converge")
    v = (part.y - X @ without.alpha) ** 2 * np.exp(-(part.V @ without.beta)) - 1.0
    left = x - part.V @ least_squares(part.V, x)
    mean_square = float(np.mean(v * v))
    if not mean_square > 0.0:
        return Refit(n, reason="the squared residuals are constant")
    score = float(left @ v / np.sqrt(left @ left * mean_square))
    at = part.X.shape[1]
    add, add_se = float(full.alpha[at]), float(full.alpha_se[at])
    return Refit(
        n=n,
        add=add,
        add_se=add_se,
        var=float(full.beta[-1]),
        var_se=float(full.beta_se[-1]),
        var_robust_se=float(full.beta_se[-1]) * float(np.sqrt(mean_square / 2.0)),
        add_neg_log10_p=float(neg_log10_p_normal(add / add_se)),
        score=score,
        var_neg_log10_p=_score_p(score, v, g),
        extra=tuple(full.alpha[at + 1 : at + 1 + k].tolist()),
        extra_se=tuple(full.alpha_se[at + 1 : at + 1 + k].tolist()),
    )


def _score_p(score: float, v: FloatArray, g: FloatArray) -> float:
    """-log10 p of a score: v fixed, genotypes drawn by their own frequencies."""
    plain = float(neg_log10_p_normal(score))
    if abs(score) <= SPA_THRESHOLD:
        return plain
    counts = np.bincount(np.rint(g).astype(np.int64), minlength=3)[:3]
    q = np.zeros(3)
    seen = counts[int(np.flatnonzero(counts)[0]) :]
    q[: len(seen)] = seen / len(g)
    tails = np.full(3, np.nan)
    both_tails(np.ascontiguousarray(v), np.ones(len(v)), len(v), q, score, tails)
    p = float(neg_log10_p_tails(tails[None, :2])[0])
    return p if np.isfinite(p) else plain
