"""Heteroskedastic linear model: y ~ N(Xα, diag(exp(Vβ)))."""

from contextlib import suppress
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
from hlmm_dask.models.newton import Convergence, minimise

FloatArray = NDArray[np.float64]
LOG_2PI = float(np.log(2.0 * np.pi))


@dataclass(frozen=True)
class HLMFit:
    """Maximum likelihood fit of an :class:`HLM`.

    Attributes
    ----------
    alpha : (c,) float64
        Effects on the mean, in units of y per unit of the column of X.
    alpha_se : (c,) float64
        Their standard errors.
    alpha_cov : (c, c) float64
        Their covariance, (XᵀD⁻¹X)⁻¹.
    beta : (v,) float64
        Effects on the log variance.
    beta_se : (v,) float64
        Their standard errors.
    beta_cov : (v, v) float64
        Their covariance, 2(VᵀV)⁻¹ (inverse expected information).
    loglik : float
        Log-likelihood at the maximum, with the n log 2π term.
    n_iterations : int
        Evaluations of the likelihood.
    convergence : Convergence
        Why the iteration ended.
    """

    alpha: FloatArray
    alpha_se: FloatArray
    alpha_cov: FloatArray
    beta: FloatArray
    beta_se: FloatArray
    beta_cov: FloatArray
    loglik: float
    n_iterations: int
    convergence: Convergence

    @property
    def converged(self) -> bool:
        """Whether the maximum was reached to the tolerance."""
        return self.convergence == Convergence.CONVERGED


class HLM:
    """Heteroskedastic linear model y ~ N(Xα, diag(exp(Vβ))).

    Parameters
    ----------
    y : (n,) array_like
        Phenotype.
    X : (n, c) array_like
        Design of the mean; 1-D means one column. An intercept is not added.
    V : (n, v) array_like
        Design of the log variance; 1-D means one column. An intercept is not added.

    Raises
    ------
    ValueError
        If shapes differ, a value is not finite, columns are linearly dependent, or
        n <= c + v; the message says which.

    References
    ----------
    Young, Wauthier & Donnelly (2018), Nature Genetics 50, 1608-1614, methods: heteroskedastic
    linear model.
    """

    def __init__(self, y: ArrayLike, X: ArrayLike, V: ArrayLike) -> None:
        self.y = as_vector("y", y)
        self.X = as_design("X", X, self.n_samples)
        self.V = as_design("V", V, self.n_samples)
        check_parameter_count(self.n_samples, self.X.shape[1] + self.V.shape[1])
        Basis.of("X", self.X)
        Basis.of("V", self.V)

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.y)

    def loglik(self, alpha: ArrayLike, beta: ArrayLike) -> float:
        """Log-likelihood at (α, β).

        ℓ = -½ Σ [Vβ + (y - Xα)² exp(-Vβ)] - ½ n log 2π
        """
        eta = self.V @ self._beta(beta)
        residual = self.y - self.X @ self._alpha(alpha)
        deviance = float(np.sum(eta) + np.sum(residual**2 * np.exp(-eta)))
        return -0.5 * (deviance + self.n_samples * LOG_2PI)

    def neg_loglik(self, alpha: ArrayLike, beta: ArrayLike) -> float:
        """-2ℓ - n log 2π at (α, β), hlmm's ``likelihood(beta, alpha, negative=True)``."""
        return -2.0 * self.loglik(alpha, beta) - self.n_samples * LOG_2PI

    def profile_loglik(self, beta: ArrayLike) -> float:
        """Log-likelihood at β with α at its maximum given β."""
        return self.loglik(self.alpha_mle(beta), beta)

    def alpha_ols(self) -> FloatArray:
        """Ordinary least squares estimate of α, (c,)."""
        return least_squares(self.X, self.y)

    def alpha_mle(self, beta: ArrayLike) -> FloatArray:
        """Maximum likelihood estimate of α given β, (c,): weighted least squares."""
        root = np.exp(-0.5 * (self.V @ self._beta(beta)))
        return least_squares(self.X * root[:, None], self.y * root)

    def approx_beta_mle(self) -> FloatArray:
        """Analytical approximation to the maximum likelihood estimate of β, (v,).

        One Newton step from β = 0, that is from unit variance, at the least squares α,
        (Vᵀ diag(r²) V)⁻¹ Vᵀ(r² - 1): hlmm's start. It depends on the unit of y;
        :meth:`fit` starts from an approximation that does not.
        """
        squared = (self.y - self.X @ self.alpha_ols()) ** 2
        information = (self.V * squared[:, None]).T @ self.V
        return np.asarray(np.linalg.solve(information, self.V.T @ (squared - 1.0)))

    def grad_alpha(self, alpha: ArrayLike, beta: ArrayLike) -> FloatArray:
        """Gradient of -2ℓ with respect to α at (α, β), (c,)."""
        residual = self.y - self.X @ self._alpha(alpha)
        weight = np.exp(-(self.V @ self._beta(beta)))
        return np.asarray(-2.0 * (self.X.T @ (weight * residual)))

    def grad_beta(self, alpha: ArrayLike, beta: ArrayLike) -> FloatArray:
        """Gradient of -2ℓ with respect to β at (α, β), (v,): Vᵀ(1 - r² exp(-Vβ))."""
        residual = self.y - self.X @ self._alpha(alpha)
        weight = np.exp(-(self.V @ self._beta(beta)))
        return np.asarray(self.V.T @ (1.0 - weight * residual**2))

    def hessian(self, alpha: ArrayLike, beta: ArrayLike) -> FloatArray:
        """Hessian of -2ℓ in (α, β), (c + v, c + v)."""
        residual = self.y - self.X @ self._alpha(alpha)
        weight = np.exp(-(self.V @ self._beta(beta)))
        c = self.X.shape[1]
        out = np.empty((c + self.V.shape[1],) * 2)
        out[:c, :c] = 2.0 * (self.X * weight[:, None]).T @ self.X
        out[:c, c:] = 2.0 * (self.X * (weight * residual)[:, None]).T @ self.V
        out[c:, :c] = out[:c, c:].T
        out[c:, c:] = (self.V * (weight * residual**2)[:, None]).T @ self.V
        return out

    def alpha_cov(self, beta: ArrayLike) -> FloatArray:
        """Covariance of α̂ given β, (XᵀD⁻¹X)⁻¹ with D = diag(exp(Vβ)), (c, c)."""
        weight = np.exp(-(self.V @ self._beta(beta)))
        return np.asarray(np.linalg.inv((self.X * weight[:, None]).T @ self.X))

    def beta_cov(self) -> FloatArray:
        """Covariance of β̂, 2(VᵀV)⁻¹ (inverse expected information), (v, v)."""
        return np.asarray(2.0 * np.linalg.inv(self.V.T @ self.V))

    def fit(
        self,
        *,
        beta_start: ArrayLike | None = None,
        tolerance: float = 1e-7,
        max_iterations: int = 60,
    ) -> HLMFit:
        """Maximise the likelihood by Newton's method on the profile likelihood of β.

        Parameters
        ----------
        beta_start : (v,) array_like, optional
            Start of β; by default from the least squares residuals.
        tolerance : float
            Distance to the maximum, in standard errors, at which to stop.
        max_iterations : int
            Newton steps at the most.

        Returns
        -------
        HLMFit
            Estimates; ``convergence`` says whether they are a maximum.

        Raises
        ------
        ValueError
            If least squares leaves no residual.
        """
        x, v = Basis.of("X", self.X), Basis.of("V", self.V)
        centred = copy(self)
        centred.X, centred.V = x.Q, v.Q
        origin = centred.alpha_ols()
        # Searched about least squares, so that no digits of the residuals are lost to y's mean.
        centred.y = self.y - x.Q @ origin
        if beta_start is None:
            start = start_beta(v.Q, self.y, centred.y)
        else:
            start = v.coordinates(self._beta(beta_start))
        c = self.X.shape[1]

        def evaluate(
            x: FloatArray, rows: NDArray[np.int64]
        ) -> tuple[FloatArray, FloatArray, FloatArray]:
            beta = x[0]
            outside = np.full(1, np.inf), np.zeros_like(x), np.zeros((1, x.shape[1], x.shape[1]))
            if np.ptp(v.Q @ beta) > 600.0:
                return outside
            alpha = centred.alpha_mle(beta)
            full = centred.hessian(alpha, beta)
            try:
                explained = full[c:, :c] @ np.linalg.solve(full[:c, :c], full[:c, c:])
            except np.linalg.LinAlgError:
                return outside
            profile = full[c:, c:] - explained
            value = np.array([-2.0 * centred.loglik(alpha, beta)])
            return value, centred.grad_beta(alpha, beta)[None], profile[None]

        result = minimise(
            evaluate,
            start[None],
            first_length=lambda step, _: longest_length(np.max(np.abs(step @ v.Q.T), axis=1)),
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        beta = result.x[0]
        alpha = centred.alpha_mle(beta)
        alpha_cov, beta_cov = np.full((c, c), np.nan), v.covariance(centred.beta_cov())
        with suppress(np.linalg.LinAlgError):
            alpha_cov = x.covariance(centred.alpha_cov(beta))
        with np.errstate(invalid="ignore"):
            alpha_se = np.sqrt(np.diag(alpha_cov))
        return HLMFit(
            alpha=x.effects(origin + alpha),
            alpha_se=alpha_se,
            alpha_cov=alpha_cov,
            beta=v.effects(beta),
            beta_se=np.sqrt(np.diag(beta_cov)),
            beta_cov=beta_cov,
            loglik=centred.loglik(alpha, beta),
            n_iterations=int(result.n_iterations[0]),
            convergence=Convergence(int(result.convergence[0])),
        )

    def _alpha(self, alpha: ArrayLike) -> FloatArray:
        return check_parameters("alpha", alpha, self.X.shape[1])

    def _beta(self, beta: ArrayLike) -> FloatArray:
        return check_parameters("beta", beta, self.V.shape[1])
