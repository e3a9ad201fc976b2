"""Tests of a variance effect by permutation and by parametric bootstrap, for one variant.

With w the null model's standardised residuals, from which the variant's own effect on the mean is
taken too, both statistics of an effect on the variance depend on sums of w and w² by genotype:

- the score z = Σ (g - ḡ) v / (Σ (g - ḡ)² · mean v²)^½, v = w² / mean w² - 1,
- the classical t = β̂ / SE of the HLM, which has an effect of the genotype on the mean as well.

A permutation deals the genotypes anew to the values of w: the mean keeps the true genotype. That t
has a mean for the genotypes as dealt, too, makes it what it is with the true ones: of few carriers
a mean leaves less than their variance. The bootstrap draws phenotypes from the model without an
effect on the variance and treats them like the one observed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from hlmm_dask.kernels.hlm import fit_class_sums
from hlmm_dask.kernels.packed import ClassSums
from hlmm_dask.schema import Status

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Doubles of a batch.
_BATCH = 2_000_000
_FIRST_LOOK = 200
# What sums in another order may differ by.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Resampled:
    """What came of resampling, for the score and for the classical statistic.

    Attributes
    ----------
    observed : (2,) float64
        z and t; NaN where a statistic does not exist, so that p is none either.
    exceedances : (2,) int64
        Resamples whose statistic is at least as far from 0.
    n : int
        Resamples.
    """

    observed: FloatArray
    exceedances: IntArray
    n: int

    @property
    def p(self) -> FloatArray:
        """(b + 1) / (n + 1), never 0."""
        p = (self.exceedances + 1.0) / (self.n + 1.0)
        return np.where(np.isnan(self.observed), np.nan, p)

    def interval(self, level: float = 0.95) -> FloatArray:
        """Bounds (2, 2) of the share of exceedances, by Clopper and Pearson; low and high first."""
        b, tail = self.exceedances, 0.5 * (1.0 - level)
        low = np.where(b > 0, special.betaincinv(np.maximum(b, 1), self.n - b + 1.0, tail), 0.0)
        below = np.maximum(self.n - b, 1)
        high = np.where(b < self.n, special.betaincinv(b + 1.0, below, 1.0 - tail), 1.0)
        return np.where(np.isnan(self.observed), np.nan, np.stack([low, high]))


@dataclass(frozen=True)
class NullResiduals:
    """Standardised residuals of y ~ N(Xα, h2·GGᵀ + D), with α by generalised least squares.

    With u = Σ⁻¹(y - Xα̂) and P = Σ⁻¹ they are w_i = u_i / P_ii^½; without random effects
    (y - Xα̂) / D^½.

    Attributes
    ----------
    X : (n, c) float64
        Design of the mean, the variant in it.
    D : (n,) float64
        Variance of the residuals.
    h2 : float
        Variance of the random effects.
    G : (n, l) float64 or None
        Their design.
    """

    X: FloatArray
    D: FloatArray
    h2: float = 0.0
    G: FloatArray | None = None

    def draw(self, rng: np.random.Generator, k: int) -> FloatArray:
        """Draw k phenotypes (k, n) with mean 0; their mean is of no effect on the residuals."""
        y = rng.standard_normal((k, len(self.D))) * np.sqrt(self.D)
        if self.G is not None:
            y += np.sqrt(self.h2) * rng.standard_normal((k, self.G.shape[1])) @ self.G.T
        return y

    def residuals(self) -> Callable[[FloatArray], FloatArray]:
        """Give the function that makes residuals (k, n) of phenotypes (k, n)."""
        weight = 1.0 / self.D
        precision = weight
        if self.G is not None:
            scaled = self.G * weight[:, None]
            inner = np.eye(self.G.shape[1]) + self.h2 * self.G.T @ scaled
            back = self.h2 * np.linalg.solve(inner, scaled.T)
            precision = weight - np.einsum("nl,ln->n", scaled, back)
        root = 1.0 / np.sqrt(precision)

        def solve(y: FloatArray) -> FloatArray:
            out: FloatArray = y * weight
            return out if self.G is None else out - (y @ scaled) @ back

        SX = solve(self.X.T)
        gram = self.X.T @ SX.T

        def of(y: FloatArray) -> FloatArray:
            alpha = np.linalg.solve(gram, SX @ y.T).T
            return np.asarray((solve(y) - alpha @ SX) * root)

        return of


def permute(
    w: FloatArray,
    counts: IntArray,
    *,
    rng: np.random.Generator,
    most: int,
    enough: int = 30,
) -> Resampled:
    """Deal genotypes anew to the residuals, until both tests have enough exceedances.

    Looks at 200 permutations, then at twice as many each time: p and its interval are of all
    that were made.

    Parameters
    ----------
    w : (n,) float64
        Standardised residuals, samples in the order of their genotypes 0, 1, 2.
    counts : (3,) int64
        Samples of each.
    rng : Generator
    most : int
        Permutations at the most.
    enough : int
        Exceedances of both statistics with which to stop.
    """
    # Imported late: who only draws needs no compiler.
    from hlmm_dask.kernels.resample_loops import permuted_sums

    observed = _statistics(w[None], counts)[:, 0]
    fourths = float((w**4).sum())
    n_k = counts[:, None].astype(np.float64)
    total = np.array([w.sum(), w @ w])
    small = np.argsort(counts, kind="stable")[:2]
    drawn = int(counts[small].sum())
    least = np.abs(observed)[:, None] * (1.0 - _ROUNDING) - _ROUNDING
    exceedances, n = np.zeros(2, dtype=np.int64), 0
    known = ~np.isnan(observed)
    pool = w.copy()
    while n < most and exceedances[known].min(initial=enough) < enough:
        m = min(max(n, _FIRST_LOOK), most - n, max(1, _BATCH // max(drawn, 3)))
        sums = np.empty((m, 2, 2))
        permuted_sums(pool, rng.random((m, drawn)), int(counts[small[0]]), sums)
        by_class = np.empty((2, 3, m))
        by_class[:, small] = sums.T
        # The largest class by difference.
        by_class[:, 3 - small.sum()] = (total - sums.sum(axis=1)).T
        dealt = _of_sums(np.repeat(n_k, m, axis=1), by_class[0], by_class[1], fourths)
        exceedances += (np.abs(dealt) >= least).sum(axis=1)
        n += m
    return Resampled(observed, exceedances, n)


def bootstrap(
    y: FloatArray,
    model: NullResiduals,
    counts: IntArray,
    *,
    rng: np.random.Generator,
    n_draws: int,
) -> Resampled:
    """Compare a phenotype with draws from the model without an effect on the variance.

    Parameters
    ----------
    y : (n,) float64
        Phenotype, samples in the order of their genotypes 0, 1, 2.
    model : NullResiduals
        The model, samples in that order.
    counts : (3,) int64
        Samples of each genotype.
    rng : Generator
    n_draws : int
        Phenotypes drawn.
    """
    residuals = model.residuals()
    observed = _statistics(residuals(y[None]), counts)[:, 0]
    least = np.abs(observed)[:, None] * (1.0 - _ROUNDING) - _ROUNDING
    exceedances, n = np.zeros(2, dtype=np.int64), 0
    while n < n_draws:
        m = min(n_draws - n, max(1, _BATCH // len(y)))
        drawn = _statistics(residuals(model.draw(rng, m)), counts)
        exceedances += (np.abs(drawn) >= least).sum(axis=1)
        n += m
    return Resampled(observed, exceedances, n)


def score(n_k: FloatArray, by_class: FloatArray, fourths: float | FloatArray) -> FloatArray:
    """Studentised score (m,) from counts and sums of w² by genotype (3, m), and Σ w⁴."""
    n, squares = n_k.sum(axis=0), by_class.sum(axis=0)
    x = np.arange(3.0)[:, None] - (n_k[1] + 2.0 * n_k[2]) / n
    sigma2 = squares / n
    spread = fourths / sigma2**2 / n - 1.0
    spread = np.where(spread > 1e-10, spread, np.nan)
    return np.asarray((x * by_class).sum(axis=0) / sigma2 / np.sqrt((n_k * x * x).sum(0) * spread))


def _statistics(w: FloatArray, counts: IntArray) -> FloatArray:
    """Give z and t (2, m) of residuals (m, n), samples in the order of their genotypes."""
    n_k = np.repeat(counts[:, None].astype(np.float64), len(w), axis=1)
    squares = w * w
    ends = np.cumsum(counts)
    ranges = [slice(end - n, end) for n, end in zip(counts, ends, strict=True)]
    sums, by_class = (np.stack([v[:, at].sum(axis=1) for at in ranges]) for v in (w, squares))
    return _of_sums(n_k, sums, by_class, (squares * squares).sum(axis=1))


def _of_sums(
    n_k: FloatArray, sums: FloatArray, squares: FloatArray, fourths: float | FloatArray
) -> FloatArray:
    """Give z and t (2, m) from counts, Σ w and Σ w² by genotype (3, m), and Σ w⁴.

    t is infinite where a genotype has no residual left, as far out as can be.
    """
    squares = np.maximum(squares, 0.0)
    fit = fit_class_sums(ClassSums(n_k, sums, squares))
    with np.errstate(invalid="ignore"):
        t = np.where(fit.status == Status.OK, fit.var / fit.var_se, np.inf)
    return np.stack([score(n_k, squares, fourths), t])
