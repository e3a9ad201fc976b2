"""The covariance slope·K + level·I in the eigenbasis of K: profile likelihood and its derivatives.

With K = U S Uᵀ the rotated data Uᵀy and UᵀX have a diagonal covariance, so a likelihood costs
O(n) (Kang et al. 2008; Lippert et al. 2011). Where only the first r eigenvectors are kept, K is
taken to be zero outside them, and what lies there enters by its cross products alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from hlmm_dask.arguments import choice, number, whole_number
from hlmm_dask.models.design import Basis, check_parameter_count

FloatArray = NDArray[np.float64]
Method = Literal["reml", "ml"]
LOG_2PI = float(np.log(2.0 * np.pi))
# A residual below this share of y is what rounding leaves of none.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Profile:
    """The likelihood at one covariance σ²(slope·K + level·I), β and σ² at their maximum.

    Attributes
    ----------
    method : str
        Which likelihood, "reml" or "ml".
    loglik, gradient, hessian : float
        Log-likelihood with all constants, REML with + ½ log|XᵀX| (Harville 1974), and its
        derivatives along the path of the covariance.
    beta : (c,) float64
        Generalised least squares.
    unscaled_cov : (c, c) float64
        Covariance of ``beta`` over σ².
    rss : float
        (y - Xβ)ᵀ(slope·K + level·I)⁻¹(y - Xβ).
    """

    method: Method
    loglik: float
    gradient: float
    hessian: float
    beta: FloatArray
    unscaled_cov: FloatArray
    rss: float


# Slope and level of a covariance, and their first and second derivatives along a path.
Coefficients = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
CovariancePath = Callable[[float], Coefficients]


def heritability_path(h2: float) -> Coefficients:
    """h²K + (1 - h²)I and its derivatives in h²."""
    return (h2, 1.0 - h2), (1.0, -1.0), (0.0, 0.0)


def gamma_path(log_gamma: float) -> Coefficients:
    """K + I/γ and its derivatives in log γ."""
    delta = float(np.exp(-log_gamma))
    return (1.0, delta), (0.0, -delta), (0.0, delta)


def lambda_path(log_lambda: float) -> Coefficients:
    """λK + I and its derivatives in log λ."""
    value = float(np.exp(log_lambda))
    return (value, 1.0), (value, 0.0), (value, 0.0)


@dataclass(frozen=True)
class RotatedData:
    """Phenotype and design in the eigenbasis of K.

    Inside, the columns of X are made orthonormal, X = QR, and y is replaced by its least squares
    residual: units and collinearity of covariates cost no digits.

    Attributes
    ----------
    values : (r,) float64
        Eigenvalues of K.
    inside : (r, c + 1) float64
        Rotated columns of Q and, last, the residual of y.
    whole : (n, c + 1) float64
        The same unrotated where r < n; where r = n, ``inside`` itself.
    rest : (c + 1, c + 1) float64
        Their cross products outside the r eigenvectors; zero where r = n.
    triangle : (c, c) float64
        R.
    ols : (c,) float64
        Least squares coefficients in units of Q.
    """

    values: FloatArray
    inside: FloatArray
    whole: FloatArray
    rest: FloatArray
    triangle: FloatArray
    ols: FloatArray

    @classmethod
    def full(cls, py: FloatArray, px: FloatArray, values: FloatArray) -> "RotatedData":
        """Take Uᵀy (n,) and UᵀX (n, c) with all n eigenvectors."""
        whole, triangle, ols = _orthonormal(py, px)
        return cls(values, whole, whole, np.zeros((len(ols) + 1,) * 2), triangle, ols)

    @classmethod
    def low_rank(
        cls, py: FloatArray, px: FloatArray, values: FloatArray, y: FloatArray, X: FloatArray
    ) -> "RotatedData":
        """Take the r rotated rows together with y (n,) and X (n, c) as they are."""
        whole, triangle, ols = _orthonormal(y, X)
        pq = linalg.solve_triangular(triangle, px.T, trans="T").T
        inside = np.column_stack([pq, py - pq @ ols])
        return cls(values, inside, whole, whole.T @ whole - inside.T @ inside, triangle, ols)

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.whole)

    @property
    def n_covariates(self) -> int:
        """Number of columns of X."""
        return len(self.ols)

    @property
    def low(self) -> bool:
        """Whether r < n."""
        return len(self.values) < self.n_samples

    @property
    def singular(self) -> bool:
        """Whether K has an eigenvalue of zero."""
        return self.low or not np.all(self.values > 0)

    def truncated(self, rank: int) -> "RotatedData":
        """Take all but the first ``rank`` eigenvalues as zero."""
        check_rank(rank, len(self.values))
        dropped = self.inside[rank:]
        return replace(
            self,
            values=self.values[:rank],
            inside=self.inside[:rank],
            rest=self.rest + dropped.T @ dropped,
        )

    def in_units_of_x(self, q_beta: FloatArray) -> FloatArray:
        """Turn coefficients of Q (c,), of the residual of y, into those of X, of y."""
        return np.asarray(linalg.solve_triangular(self.triangle, q_beta + self.ols))

    def profile(self, path: CovariancePath, at: float, method: Method) -> Profile:
        """Likelihood at a point of a path of covariances slope·K + level·I.

        With D the diagonal covariance, A = QᵀD⁻¹Q, e the residual and ' along the path:
        (log|D|)' = tr D⁻¹D',  (log|A|)' = tr A⁻¹A',  rss' = -eᵀD⁻¹D'D⁻¹e.
        """
        method = choice("method", method, get_args(Method))
        n, c = self.n_samples, self.n_covariates
        n_rest = n - len(self.values)
        (v, v0), (v1, v1_0), (v2, v2_0) = (
            (slope * self.values + level, level) for slope, level in path(at)
        )
        lowest = v.min() if n_rest == 0 else min(v.min(), v0)
        if not lowest > 0.0:
            return _impossible(method, c)

        def cross(weight: FloatArray, weight_rest: float, right: FloatArray) -> FloatArray:
            """Weighted products of (Q, residual) with columns given in terms of them (c + 1, k)."""
            out = self.inside.T @ (weight[:, None] * (self.inside @ right))
            return out + weight_rest * (self.rest @ right)

        # A level of zero is allowed where nothing lies outside the eigenvectors.
        u0, share0, bend0 = (1.0 / v0, v1_0 / v0, v2_0 / v0) if n_rest else (0.0, 0.0, 0.0)
        everything = np.eye(c + 1)
        gram = cross(1.0 / v, u0, everything)
        factor = linalg.cho_factor(gram[:c, :c], lower=True)
        q_beta = linalg.cho_solve(factor, gram[:c, c])
        # Columns Q and residual e = y - Qβ.
        basis = everything.copy()
        basis[:c, c] = -q_beta
        rss = float(basis[:, c] @ cross(1.0 / v, u0, basis[:, c:])[:, 0])
        share, bend = v1 / v, v2 / v
        first = basis.T @ cross(-share / v, -share0 * u0, basis)
        second = basis.T @ cross((2.0 * share**2 - bend) / v, (2.0 * share0**2 - bend0) * u0, basis)
        logdet = float(np.log(v).sum()) + (n_rest * np.log(v0) if n_rest else 0.0)
        logdet1 = float(share.sum()) + n_rest * share0
        logdet2 = float((bend - share**2).sum()) + n_rest * (bend0 - share0**2)
        rss1 = first[c, c]
        rss2 = second[c, c] - 2.0 * first[:c, c] @ linalg.cho_solve(factor, first[:c, c])
        df = n
        if method == "reml":
            df = n - c
            ratio = linalg.cho_solve(factor, first[:c, :c])
            logdet += 2.0 * float(np.log(np.diag(factor[0])).sum())
            logdet1 += float(np.trace(ratio))
            logdet2 += float(
                np.trace(linalg.cho_solve(factor, second[:c, :c])) - np.sum(ratio * ratio.T)
            )
        inverse = linalg.solve_triangular(self.triangle, np.eye(c))
        relative = rss1 / rss
        return Profile(
            method,
            float(-0.5 * (df * (np.log(rss / df) + LOG_2PI + 1.0) + logdet)),
            float(-0.5 * (df * relative + logdet1)),
            float(-0.5 * (df * (rss2 / rss - relative**2) + logdet2)),
            self.in_units_of_x(q_beta),
            inverse @ linalg.cho_solve(factor, inverse.T),
            rss,
        )


def maximise(
    evaluate: Callable[[float], Profile],
    bounds: tuple[float, float],
    *,
    n_grid: int = 41,
    tolerance: float = 1e-8,
    max_iterations: int = 500,
) -> float:
    """Find the highest maximum on an interval: a grid, then Newton's method kept in a bracket.

    Returns
    -------
    float
        The maximum; exactly a bound where the likelihood still rises there.

    Raises
    ------
    ValueError
        If the steps are not below ``tolerance`` within ``max_iterations``.
    """
    number("tolerance", tolerance, above=0.0)
    whole_number("max_iterations", max_iterations, least=1)
    grid = np.linspace(*bounds, n_grid)
    best = int(np.argmax([evaluate(float(t)).loglik for t in grid]))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, n_grid - 1)])
    t = float(grid[best])
    for _ in range(max_iterations):
        at = evaluate(t)
        low, high = (t, high) if at.gradient > 0 else (low, t)
        step = -at.gradient / at.hessian if at.hessian < 0 else np.nan
        following = t + step if low < t + step < high else 0.5 * (low + high)
        if abs(following - t) <= tolerance:
            return following
        t = following
    raise ValueError(f"no maximum found to {tolerance:g} within {max_iterations} iterations")


def _orthonormal(y: FloatArray, X: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Q and the residual of y side by side, R, and the coefficients of Q."""
    check_parameter_count(len(y), X.shape[1])
    basis, root = Basis.of("X", X), float(np.sqrt(len(y)))
    q, triangle = basis.Q / root, basis.triangle * root
    ols: FloatArray = q.T @ y
    residual = y - q @ ols
    if not np.linalg.norm(residual) > _ROUNDING * np.linalg.norm(y):
        raise ValueError("y is a linear combination of the columns of X: no residual is left")
    return np.column_stack([q, residual]), triangle, ols


def _impossible(method: Method, c: int) -> Profile:
    """No density: a direction without variance."""
    return Profile(
        method, -np.inf, np.nan, np.nan, np.full(c, np.nan), np.full((c, c), np.nan), np.nan
    )


def check_rank(rank: int | None, largest: int) -> None:
    """Raise a ValueError unless ``rank`` is None or from 1 to ``largest``."""
    if rank is not None and whole_number("rank", rank, least=1) > largest:
        raise ValueError(f"rank {rank}: expected at most {largest}")
