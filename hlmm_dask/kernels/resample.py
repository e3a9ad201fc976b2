"""Tests of a variance effect by permutation and by parametric bootstrap, for one variant.

With w the null model's standardised residuals, from which the variant's own effect on the mean is
taken too, both statistics of an effect on the variance depend on the sums of w² by genotype:

- the score z = Σ (g - ḡ) v / (Σ (g - ḡ)² · mean v²)^½, v = w² / mean w² - 1,
- the classical t = β̂ / SE of the HLM with mean 0 and log variance β0 + β1 (g - ḡ).

A permutation deals the genotypes anew to the values of w², so that the mean keeps the true
genotype. The bootstrap draws phenotypes from the model without an effect on the variance and
treats them like the one observed; there t is that of the HLM with a mean for the genotype as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from hlmm_dask.kernels.class_moments import ClassMoments
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
        z and t.
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
        return np.asarray((self.exceedances + 1.0) / (self.n + 1.0))

    def interval(self, level: float = 0.95) -> FloatArray:
        """Bounds (2, 2) of the share of exceedances, by Clopper and Pearson; low and high first."""
        b, tail = self.exceedances, 0.5 * (1.0 - level)
        low = np.where(b > 0, special.betaincinv(np.maximum(b, 1), self.n - b + 1.0, tail), 0.0)
        below = np.maximum(self.n - b, 1)
        high = np.where(b < self.n, special.betaincinv(b + 1.0, below, 1.0 - tail), 1.0)
        return np.stack([low, high])


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
    """Deal genotypes anew to the squared residuals, until both tests have enough exceedances.

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

    squares = w * w
    statistics = _Fixed(counts, float(squares.sum()), float((squares * squares).sum()))
    ends = np.cumsum(counts)
    whole = [squares[end - n : end].sum() for n, end in zip(counts, ends, strict=True)]
    observed = statistics.of(np.array(whole)[:, None])[:, 0]
    small = np.argsort(counts, kind="stable")[:2]
    drawn = int(counts[small].sum())
    least = np.abs(observed)[:, None] * (1.0 - _ROUNDING)
    exceedances, n = np.zeros(2, dtype=np.int64), 0
    pool = squares.copy()
    while n < most and exceedances.min() < enough:
        m = min(max(n, _FIRST_LOOK), most - n, max(1, _BATCH // max(drawn, 3)))
        sums = np.empty((m, 2))
        permuted_sums(pool, rng.random((m, drawn)), int(counts[small[0]]), sums)
        exceedances += (np.abs(statistics.of(_with_rest(sums, small, squares.sum()))) >= least).sum(
            axis=1
        )
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
    observed = _refitted(residuals(y[None]), counts)[:, 0]
    least = np.abs(observed)[:, None] * (1.0 - _ROUNDING)
    exceedances, n = np.zeros(2, dtype=np.int64), 0
    while n < n_draws:
        m = min(n_draws - n, max(1, _BATCH // len(y)))
        drawn = _refitted(residuals(model.draw(rng, m)), counts)
        exceedances += (np.abs(drawn) >= least).sum(axis=1)
        n += m
    return Resampled(observed, exceedances, n)


@dataclass(frozen=True)
class _Fixed:
    """The statistics as functions of the sums of w² by genotype; all else is fixed."""

    counts: IntArray
    squares: float
    fourths: float

    def of(self, by_class: FloatArray) -> FloatArray:
        """Give z and t (2, m) of sums (3, m)."""
        n_k = np.repeat(self.counts[:, None].astype(np.float64), by_class.shape[1], axis=1)
        x = np.arange(3.0)[:, None] - (n_k[1] + 2.0 * n_k[2]) / n_k.sum(axis=0)
        z = score(n_k, by_class, self.fourths)
        zero = np.zeros_like(n_k)
        moments = ClassMoments(n_k, x, zero[0], zero, by_class)
        return np.stack([z, _wald(ClassSums(n_k, zero, by_class), moments)])


def score(n_k: FloatArray, by_class: FloatArray, fourths: float | FloatArray) -> FloatArray:
    """Studentised score (m,) from counts and sums of w² by genotype (3, m), and Σ w⁴."""
    n, squares = n_k.sum(axis=0), by_class.sum(axis=0)
    x = np.arange(3.0)[:, None] - (n_k[1] + 2.0 * n_k[2]) / n
    sigma2 = squares / n
    spread = fourths / sigma2**2 / n - 1.0
    return np.asarray((x * by_class).sum(axis=0) / sigma2 / np.sqrt((n_k * x * x).sum(0) * spread))


def _refitted(w: FloatArray, counts: IntArray) -> FloatArray:
    """Give z and t (2, m) of residuals (m, n), for t with a mean for the genotype again."""
    starts = np.cumsum(counts) - counts
    squares = w * w
    n_k = np.repeat(counts[:, None].astype(np.float64), len(w), axis=1)
    by_class = _sums_at(squares, starts, counts)
    z = score(n_k, by_class, (squares * squares).sum(axis=1))
    sums = ClassSums(n_k, _sums_at(w, starts, counts), by_class)
    return np.stack([z, _wald(sums, ClassMoments.of(sums))])


def _sums_at(values: FloatArray, starts: IntArray, counts: IntArray) -> FloatArray:
    pairs = zip(starts, counts, strict=True)
    return np.stack([values[:, i : i + n].sum(axis=1) for i, n in pairs])


def _wald(sums: ClassSums, moments: ClassMoments) -> FloatArray:
    """β̂ / SE; infinite where a genotype has no residual left, as far out as can be."""
    fit = fit_class_sums(sums, moments=moments)
    with np.errstate(invalid="ignore"):
        t = fit.var / fit.var_se
    return np.where(fit.status == Status.OK, t, np.inf)


def _with_rest(sums: FloatArray, small: IntArray, total: float) -> FloatArray:
    """Put sums by genotype (3, m) together, the largest class by difference."""
    out = np.empty((3, len(sums)))
    out[small] = sums.T
    (largest,) = {0, 1, 2} - set(small.tolist())
    out[largest] = np.maximum(total - sums.sum(axis=1), 0.0)
    return out
