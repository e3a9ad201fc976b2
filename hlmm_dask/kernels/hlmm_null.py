"""HLMM with intercepts only, in the eigenbasis of GᵀG: no evaluation touches the samples."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.hlmm import RandomEffectModel
from hlmm_dask.kernels.jet import Jet
from hlmm_dask.models.hlm import LOG_2PI
from hlmm_dask.models.newton import Convergence, minimise

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class InterceptFit:
    """Maximum likelihood fit of y ~ N(α, h2·GGᵀ + exp(β) I).

    Attributes
    ----------
    alpha, beta, h2 : float
        Mean, log variance of the residual, variance of the random effects.
    h2_se : float
        Standard error of h2, from the inverse observed information.
    loglik : float
        Log-likelihood at the maximum.
    convergence : Convergence
        Why the iteration ended.
    """

    alpha: float
    beta: float
    h2: float
    h2_se: float
    loglik: float
    convergence: Convergence

    @property
    def converged(self) -> bool:
        """Whether the maximum was reached to the tolerance."""
        return self.convergence == Convergence.CONVERGED


def fit_intercepts(model: RandomEffectModel, *, tolerance: float = 1e-7) -> InterceptFit:
    """Fit the null model, starting from the values in ``model``.

    With S the eigenvalues of GᵀG, b and c the rotated Gᵀy and Gᵀ1, w = exp(-β) and t = h2 w,

        -2ℓ = nβ + Σ log(1 + tS) + w Σ (y - α)² - t w Σ (b - αc)²/(1 + tS) + n log 2π

    Parameters
    ----------
    model : RandomEffectModel
        Phenotype and design; ``alpha``, ``beta`` and ``h2`` are the start.
    tolerance : float
        Distance to the maximum, in standard errors, at which to stop.

    Returns
    -------
    InterceptFit
        With ``alpha`` as the mean of ``model.y``, which is centred.
    """
    eigenvalues, vectors = np.linalg.eigh(model.gram)
    S = np.maximum(eigenvalues, 0.0)
    b, c = model.products @ vectors
    y = model.y
    n, total, squares = float(len(y)), float(y.sum()), float(y @ y)

    def evaluate(
        theta: FloatArray, rows: NDArray[np.int64]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        alpha, beta, h2 = (Jet.parameter(theta, i) for i in range(3))
        weight = np.exp(-beta.value)
        w = beta.apply(weight, -weight, weight)
        t = h2 * w
        inverse = 1.0 / (1.0 + t.value[:, None] * S)

        def form(values: FloatArray) -> Jet:
            """Σ values / (1 + tS)."""
            return t.apply(
                inverse @ values, -(inverse**2 @ (values * S)), 2.0 * (inverse**3 @ (values * S**2))
            )

        log_det = t.apply(
            -np.log(inverse).sum(axis=1), (inverse * S).sum(axis=1), -((inverse * S) ** 2).sum(1)
        )
        residual = alpha * alpha * n + alpha * (-2.0 * total) + squares
        explained = form(b * b) + alpha * form(b * c) * -2.0 + alpha * alpha * form(c * c)
        f = beta * n + log_det + w * residual - t * w * explained
        return f.value, f.gradient, f.hessian

    start = np.array([[model.alpha, model.beta, max(model.h2, model.h2_min)]])
    result = minimise(evaluate, start, lower_bound_of_last=model.h2_min, tolerance=tolerance)
    alpha, beta, h2 = result.x[0]
    with np.errstate(all="ignore"):
        h2_se = float(np.sqrt(2.0 * np.linalg.inv(result.hessian[0])[2, 2]))
    return InterceptFit(
        alpha=float(alpha),
        beta=float(beta),
        h2=float(h2),
        h2_se=h2_se,
        loglik=-0.5 * (float(result.value[0]) + n * LOG_2PI),
        convergence=Convergence(int(result.convergence[0])),
    )
