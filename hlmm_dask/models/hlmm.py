"""Heteroskedastic linear mixed model: y ~ N(Xα, h2·GGᵀ + diag(exp(Vβ)))."""

from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from hlmm_dask.arguments import flag, number, whole_number
from hlmm_dask.models.design import (
    Basis,
    as_design,
    as_vector,
    check_parameter_count,
    check_parameters,
    least_squares,
    longest_length,
    start_beta,
)
from hlmm_dask.models.hlm import HLM, LOG_2PI
from hlmm_dask.models.newton import Convergence, minimise

FloatArray = NDArray[np.float64]

# Lower bound of h2, relative to the mean squared residual of least squares.
H2_MIN = 1e-5


@dataclass(frozen=True)
class HLMMFit:
    """Maximum likelihood fit of an :class:`HLMM`.

    Attributes
    ----------
    alpha, alpha_se : (c,) float64
        Effects on the mean and their standard errors.
    beta, beta_se : (v,) float64
        Effects on the log variance and their standard errors.
    h2, h2_se : float
        Variance of the random effects (in units of y²) and its standard error.
    covariance : (c + v + 1, c + v + 1) float64
        Covariance of (α, β, h2): inverse of the observed information.
        Without the last row and column, and ``h2_se`` NaN, if h2 was held fixed.
    loglik : float
        Log-likelihood at the maximum, with the n log 2π term.
    at_bound : bool
        Whether h2 is at its lower bound.
    n_iterations : int
        Evaluations of the likelihood.
    convergence : Convergence
        Why the iteration ended.
    """

    alpha: FloatArray
    alpha_se: FloatArray
    beta: FloatArray
    beta_se: FloatArray
    h2: float
    h2_se: float
    covariance: FloatArray
    loglik: float
    at_bound: bool
    n_iterations: int
    convergence: Convergence

    @property
    def converged(self) -> bool:
        """Whether the maximum was reached to the tolerance."""
        return self.convergence == Convergence.CONVERGED


@dataclass(frozen=True)
class _State:
    """What loglik, gradient and Hessian share at one point (Λ = I + h2 GᵀD⁻¹G = LLᵀ)."""

    variance: FloatArray  # (n,) exp(Vβ)
    weight: FloatArray  # (n,) exp(-Vβ)
    h2: float
    chol: FloatArray  # (l, l) L, lower
    log_det: float  # log |Σ|

    def solve(self, G: FloatArray, right: FloatArray) -> FloatArray:
        """Σ⁻¹ right, by Woodbury: D⁻¹ - h2 D⁻¹G Λ⁻¹ GᵀD⁻¹."""
        weighted = right * (self.weight if right.ndim == 1 else self.weight[:, None])
        inner = linalg.cho_solve((self.chol, True), G.T @ weighted, check_finite=False)
        weight = self.weight if right.ndim == 1 else self.weight[:, None]
        return np.asarray(weighted - self.h2 * weight * (G @ inner))


class HLMM:
    """Heteroskedastic linear mixed model y ~ N(Xα, h2·GGᵀ + diag(exp(Vβ))).

    Time is linear in the number of samples, n l² for each evaluation; no n x n matrix is formed.

    Parameters
    ----------
    y : (n,) array_like
        Phenotype.
    X : (n, c) array_like
        Design of the mean; 1-D means one column.
    V : (n, v) array_like
        Design of the log variance; 1-D means one column.
    G : (n, l) array_like
        Design of the random effects, each column scaled by l^-½; 1-D means one column.

    Raises
    ------
    ValueError
        If shapes differ, a value is not finite, columns of X or V are linearly dependent, or
        n <= c + v + 1; the message says which.

    References
    ----------
    Young, Wauthier & Donnelly (2018), Nature Genetics 50, 1608-1614, methods and supplementary
    note: heteroskedastic linear mixed model.
    """

    def __init__(self, y: ArrayLike, X: ArrayLike, V: ArrayLike, G: ArrayLike) -> None:
        self.y = as_vector("y", y)
        self.X = as_design("X", X, self.n_samples)
        self.V = as_design("V", V, self.n_samples)
        self.G = as_design("G", G, self.n_samples)
        check_parameter_count(self.n_samples, self.X.shape[1] + self.V.shape[1] + 1)
        Basis.of("X", self.X)
        Basis.of("V", self.V)
        if not np.any(self.G):
            raise ValueError("G has no column, or zeros alone; use HLM without random effects")

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.y)

    @cached_property
    def mean_square(self) -> float:
        """Mean squared residual of ordinary least squares."""
        return float(np.mean((self.y - self.X @ self.alpha_ols()) ** 2))

    @property
    def h2_min(self) -> float:
        """Lower bound of h2: 1e-5 times the mean squared residual of least squares.

        It is 1e-5 for a standardised phenotype, hlmm's bound, and moves with the unit of y.
        """
        return H2_MIN * self.mean_square

    # -- likelihood ---------------------------------------------------------------------------

    def loglik(self, alpha: ArrayLike, beta: ArrayLike, h2: float) -> float:
        """Log-likelihood at (α, β, h2).

        -2ℓ = n log 2π + log|Σ| + rᵀΣ⁻¹r, with r = y - Xα, Σ = h2 GGᵀ + D,
        log|Σ| = Σ Vβ + log|Λ|, Λ = I + h2 GᵀD⁻¹G
        """
        state = self._state(beta, h2)
        residual = self.y - self.X @ self._alpha(alpha)
        return self._loglik(state, residual, state.solve(self.G, residual))

    def profile_loglik(self, beta: ArrayLike, h2: float) -> float:
        """Log-likelihood at (β, h2) with α at its maximum given them."""
        return self.loglik(self.alpha_mle(beta, h2), beta, h2)

    def neg_loglik(self, beta: ArrayLike, h2: float) -> float:
        """-2ℓ/n - log 2π at (β, h2) and the best α, what hlmm minimises."""
        return -2.0 * self.profile_loglik(beta, h2) / self.n_samples - LOG_2PI

    def neg_loglik_and_gradient(self, beta: ArrayLike, h2: float) -> tuple[float, FloatArray]:
        """-2ℓ/n - log 2π at the best α, and its gradient in (β, h2), (v + 1,).

        hlmm's ``likelihood_and_gradient(beta, h2)``.
        """
        alpha = self.alpha_mle(beta, h2)
        gradient = self.gradient(alpha, beta, h2)[self.X.shape[1] :]
        return (
            -2.0 * self.loglik(alpha, beta, h2) / self.n_samples - LOG_2PI,
            gradient / self.n_samples,
        )

    def alpha_ols(self) -> FloatArray:
        """Ordinary least squares estimate of α, (c,)."""
        return least_squares(self.X, self.y)

    def approx_beta_mle(self) -> FloatArray:
        """Analytical approximation to β without random effects, see :meth:`HLM.approx_beta_mle`."""
        return HLM(self.y, self.X, self.V).approx_beta_mle()

    def alpha_mle(self, beta: ArrayLike, h2: float) -> FloatArray:
        """Maximum likelihood estimate of α given (β, h2), (c,): generalised least squares."""
        state = self._state(beta, h2)
        solved = state.solve(self.G, self.X)
        return np.asarray(np.linalg.solve(self.X.T @ solved, solved.T @ self.y))

    def alpha_cov(self, beta: ArrayLike, h2: float) -> FloatArray:
        """Covariance of α̂ given (β, h2), (XᵀΣ⁻¹X)⁻¹, (c, c)."""
        state = self._state(beta, h2)
        return np.asarray(np.linalg.inv(self.X.T @ state.solve(self.G, self.X)))

    def gradient(self, alpha: ArrayLike, beta: ArrayLike, h2: float) -> FloatArray:
        """Gradient of -2ℓ in (α, β, h2), (c + v + 1,)."""
        return self._evaluate(self._alpha(alpha), self._beta(beta), h2)[1]

    def hessian(self, alpha: ArrayLike, beta: ArrayLike, h2: float) -> FloatArray:
        """Hessian of -2ℓ in (α, β, h2), (c + v + 1, c + v + 1)."""
        return self._evaluate(self._alpha(alpha), self._beta(beta), h2)[2]

    def parameter_covariance(self, alpha: ArrayLike, beta: ArrayLike, h2: float) -> FloatArray:
        """Inverse of the observed information of (α, β, h2), half the Hessian of -2ℓ."""
        return np.asarray(2.0 * np.linalg.inv(self.hessian(alpha, beta, h2)))

    # -- maximum likelihood -------------------------------------------------------------------

    def fit(
        self,
        *,
        h2_init: float | None = None,
        start: tuple[ArrayLike, ArrayLike] | None = None,
        h2_min: float | None = None,
        fix_h2: bool = False,
        tolerance: float = 1e-7,
        max_iterations: int = 60,
    ) -> HLMMFit:
        """Maximise the likelihood over (α, β, h2) by Newton's method.

        Parameters
        ----------
        h2_init : float, optional
            Start of h2, in units of y²; by default 0.05 times the mean squared residual.
        start : tuple of (c,) and (v,) array_like, optional
            Start of α and β; by default from ordinary least squares.
        h2_min : float, optional
            Lower bound of h2 in units of y², :attr:`h2_min` by default.
        fix_h2 : bool
            Keep h2 at ``h2_init``.
        tolerance : float
            Distance to the maximum, in standard errors, at which to stop.
        max_iterations : int
            Newton steps at the most.

        Returns
        -------
        HLMMFit
            Estimates; ``convergence`` says whether they are a maximum.
        """
        flag("fix_h2", fix_h2)
        bound = self.h2_min if h2_min is None else number("h2_min", h2_min, least=0.0)
        first = 0.05 * self.mean_square
        h2_start = max(first if h2_init is None else number("h2_init", h2_init, least=0.0), bound)
        c, v = self.X.shape[1], self.V.shape[1]
        x_basis, v_basis = Basis.of("X", self.X), Basis.of("V", self.V)
        centred = copy(self)
        centred.X, centred.V = x_basis.Q, v_basis.Q
        if start is None:
            alpha = centred.alpha_ols()
            residual = self.y - centred.X @ alpha
            beta = start_beta(centred.V, self.y, residual)
            mean_square = float(np.mean(residual**2))
            # The random effects' share of the variance leaves the residual's.
            share = min(h2_start * float(np.mean(np.sum(self.G**2, axis=1))), 0.5 * mean_square)
            beta = beta + least_squares(
                centred.V, np.full(self.n_samples, np.log1p(-share / mean_square))
            )
        else:
            alpha = x_basis.coordinates(self._alpha(start[0]))
            beta = v_basis.coordinates(self._beta(start[1]))
        # Searched about the start, so that no digits of the residuals are lost to y's mean.
        centred.y = self.y - centred.X @ alpha
        theta = np.concatenate([np.zeros(c), beta, [h2_start]])
        size = c + v if fix_h2 else c + v + 1

        def evaluate(
            x: FloatArray, rows: NDArray[np.int64]
        ) -> tuple[FloatArray, FloatArray, FloatArray]:
            h2 = h2_start if fix_h2 else float(x[0, -1])
            try:
                value, gradient, hessian = centred._evaluate(x[0, :c], x[0, c : c + v], h2)
            except linalg.LinAlgError:
                return np.full(1, np.inf), np.zeros((1, size)), np.zeros((1, size, size))
            return np.array([value]), gradient[None, :size], hessian[None, :size, :size]

        result = minimise(
            evaluate,
            theta[None, :size],
            lower_bound_of_last=None if fix_h2 else bound,
            first_length=lambda step, _: longest_length(
                np.max(np.abs(step[:, c : c + v] @ centred.V.T), axis=1)
            ),
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        best = result.x[0]
        h2 = h2_start if fix_h2 else float(best[-1])
        covariance = np.full((size, size), np.nan)
        with suppress(np.linalg.LinAlgError):
            covariance = 2.0 * np.linalg.inv(result.hessian[0])
        triangle = np.eye(size)
        triangle[:c, :c], triangle[c : c + v, c : c + v] = x_basis.triangle, v_basis.triangle
        whole = Basis(np.empty((0, size)), triangle)
        covariance = whole.covariance(covariance)
        with np.errstate(invalid="ignore"):
            se = np.sqrt(np.diag(covariance))
        return HLMMFit(
            alpha=x_basis.effects(alpha + best[:c]),
            alpha_se=se[:c],
            beta=v_basis.effects(best[c : c + v]),
            beta_se=se[c : c + v],
            h2=h2,
            h2_se=float("nan") if fix_h2 else float(se[-1]),
            covariance=covariance,
            loglik=-0.5 * float(result.value[0]),
            at_bound=h2 <= bound,
            n_iterations=int(result.n_iterations[0]),
            convergence=Convergence(int(result.convergence[0])),
        )

    # -- inner --------------------------------------------------------------------------------

    def _state(self, beta: ArrayLike, h2: float) -> _State:
        eta = self.V @ self._beta(beta)
        with np.errstate(over="ignore"):
            weight = np.exp(-eta)
            inner = h2 * (self.G * weight[:, None]).T @ self.G
        inner[np.diag_indices_from(inner)] += 1.0
        if not np.all(np.isfinite(inner)):
            raise linalg.LinAlgError("weights overflow")
        chol = linalg.cholesky(inner, lower=True, check_finite=False)
        log_det = float(np.sum(eta) + 2.0 * np.sum(np.log(np.diag(chol))))
        return _State(np.exp(eta), weight, float(h2), chol, log_det)

    def _loglik(self, state: _State, residual: FloatArray, solved: FloatArray) -> float:
        return -0.5 * (state.log_det + float(residual @ solved) + self.n_samples * LOG_2PI)

    def _evaluate(
        self, alpha: FloatArray, beta: FloatArray, h2: float
    ) -> tuple[float, FloatArray, FloatArray]:
        """-2ℓ, its gradient and its Hessian in (α, β, h2).

        With P = Σ⁻¹, u = Pr, ∂Σ/∂β_a = diag(D V_a), ∂Σ/∂h2 = GGᵀ:

        - ∂β_a = Σ_i D_i V_ia (P_ii - u_i²),  ∂h2 = tr GᵀPG - ‖Gᵀu‖²
        - ∂β_a∂β_b = Σ_i D_i V_ia V_ib (P_ii - u_i²)
          + Σ_ij D_i V_ia D_j V_jb (2 u_i P_ij u_j - P_ij²)
        - D_i P_ij D_j = D_i [i=j] - h2 U_i·U_j with U = G L⁻ᵀ, so that the sum over P_ij²
          needs only the l x l matrices Uᵀ diag(V_a D⁻¹) U.
        """
        X, V, G = self.X, self.V, self.G
        c, v = X.shape[1], V.shape[1]
        state = self._state(beta, h2)
        residual = self.y - X @ alpha
        u = state.solve(G, residual)
        PX = state.solve(G, X)
        U = linalg.solve_triangular(state.chol, G.T, lower=True, check_finite=False).T
        leverage = h2 * np.sum(U * U, axis=1) * state.weight  # h2 w_i U_i·U_i, in [0, 1)
        trace_term = 1.0 - leverage  # D_i P_ii
        du = state.variance * u
        excess = trace_term - du * u
        gamma = G.T @ u
        # K = GᵀPG = Λ⁻¹ GᵀD⁻¹G, which keeps its digits where h2 is small or zero
        weighted_gram = (G * state.weight[:, None]).T @ G
        K = linalg.cho_solve((state.chol, True), weighted_gram, check_finite=False)

        gradient = np.empty(c + v + 1)
        gradient[:c] = -2.0 * (X.T @ u)
        gradient[c : c + v] = V.T @ excess
        gradient[-1] = np.trace(K) - gamma @ gamma

        hessian = np.empty((c + v + 1, c + v + 1))
        hessian[:c, :c] = 2.0 * (X.T @ PX)
        Vu = V * du[:, None]
        hessian[:c, c:-1] = 2.0 * (PX.T @ Vu)
        GtPX = G.T @ PX
        hessian[:c, -1] = 2.0 * (GtPX.T @ gamma)

        # Σ_ij V_ia V_jb D_i D_j P_ij²: the diagonal of D, twice its product with h2 UUᵀ,
        # and the square of that.
        hessian[c:-1, c:-1] = (V * (excess - (1.0 - 2.0 * leverage))[:, None]).T @ V
        VU = np.stack([(U * (state.weight * V[:, a])[:, None]).T @ U for a in range(v)])
        flat = VU.reshape(v, -1)
        hessian[c:-1, c:-1] -= h2**2 * (flat @ flat.T)
        hessian[c:-1, c:-1] += 2.0 * (Vu.T @ state.solve(G, Vu))

        # ∂β_a∂h2 = -tr(D V_a PGGᵀP) + 2 (D V_a u)ᵀ PG Gᵀu, with PG = D⁻¹GΛ⁻¹ = D⁻¹U L⁻¹
        PG = (
            state.weight[:, None]
            * linalg.solve_triangular(state.chol, U.T, lower=True, trans="T", check_finite=False).T
        )
        row_norm = state.variance * np.sum(PG * PG, axis=1)
        hessian[c:-1, -1] = -(V.T @ row_norm) + 2.0 * (Vu.T @ (PG @ gamma))
        hessian[-1, -1] = -np.sum(K * K) + 2.0 * gamma @ (K @ gamma)
        hessian[c:, :c] = hessian[:c, c:].T
        hessian[-1, c:-1] = hessian[c:-1, -1]
        return -2.0 * self._loglik(state, residual, u), gradient, hessian

    def _alpha(self, alpha: ArrayLike) -> FloatArray:
        return check_parameters("alpha", alpha, self.X.shape[1])

    def _beta(self, beta: ArrayLike) -> FloatArray:
        return check_parameters("beta", beta, self.V.shape[1])


def simulate(
    n_samples: int,
    n_random: int,
    alpha: ArrayLike,
    beta: ArrayLike,
    h2: float,
    *,
    seed: int | np.random.Generator | None = None,
) -> HLMM:
    """Simulate a data set from the model, as hlmm's ``simulate(n, l, alpha, beta, h2)``.

    X and V are standard normal, G has standardised binomial(2, ½) columns times l^-½.

    Parameters
    ----------
    n_samples : int
        Number of samples n.
    n_random : int
        Number of random effects l.
    alpha : (c,) array_like
        Effects on the mean.
    beta : (v,) array_like
        Effects on the log variance.
    h2 : float
        Variance of the random effects.
    seed : int or numpy.random.Generator, optional
        Seed of the random numbers.

    Returns
    -------
    HLMM
        Model with the simulated data.
    """
    whole_number("n_samples", n_samples, least=1)
    whole_number("n_random", n_random, least=1)
    number("h2", h2, least=0.0)
    rng = np.random.default_rng(seed)
    alpha = np.atleast_1d(np.asarray(alpha, dtype=np.float64))
    beta = np.atleast_1d(np.asarray(beta, dtype=np.float64))
    X = rng.standard_normal((n_samples, len(alpha)))
    V = rng.standard_normal((n_samples, len(beta)))
    G = rng.binomial(2, 0.5, (n_samples, n_random)).astype(np.float64)
    G = (G - G.mean(axis=0)) / G.std(axis=0) * n_random**-0.5
    random = G @ rng.standard_normal(n_random) * np.sqrt(h2)
    residual = rng.standard_normal(n_samples) * np.exp(0.5 * (V @ beta))
    return HLMM(X @ alpha + random + residual, X, V, G)
