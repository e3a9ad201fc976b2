"""What every variant's model has in common when covariates stay in all of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_CHUNK_SAMPLES = 4096


@dataclass(frozen=True)
class CovariateModel:
    """Phenotype, covariates, and the null model's derivatives.

    Attributes
    ----------
    y : (n,) float64
        Phenotype.
    X, V : (n, c), (n, v) float64
        Designs of mean and log variance, the intercept among them.
    alpha, beta : (c,), (v,) float64
        Null model, from which each variant's fit starts.
    residual, weight : (n,) float64
        y - Xα and exp(-Vβ) of the null model.
    gradient : (c + v,) float64
        Gradient of -2ℓ in (α, β) at the null model; close to 0 if that is a maximum.
    inverse : (c + v, c + v) float64, optional
        Inverse of the Hessian of -2ℓ there; absent where that is not positive definite.
    gram_x, gram_v : (c, c), (v, v) float64
        XᵀX and VᵀV.
    same_design : bool
        Whether X and V are the same matrix.
    """

    y: FloatArray
    X: FloatArray
    V: FloatArray
    alpha: FloatArray
    beta: FloatArray
    residual: FloatArray
    weight: FloatArray
    gradient: FloatArray
    inverse: FloatArray | None
    gram_x: FloatArray
    gram_v: FloatArray
    same_design: bool

    @classmethod
    def build(
        cls, y: FloatArray, X: FloatArray, V: FloatArray, alpha: FloatArray, beta: FloatArray
    ) -> "CovariateModel":
        """Compute once what all variants share.

        Parameters
        ----------
        y : (n,) float64
            Phenotype.
        X, V : (n, c), (n, v) float64
            Designs of mean and log variance.
        alpha, beta : (c,), (v,) float64
            Null model.
        """
        residual = y - X @ alpha
        weight = np.exp(-(V @ beta))
        c, v = X.shape[1], V.shape[1]
        gradient = np.zeros(c + v)
        hessian = np.zeros((c + v, c + v))
        for i in range(0, len(y), _CHUNK_SAMPLES):
            part = slice(i, i + _CHUNK_SAMPLES)
            x, u, w = X[part], V[part], weight[part]
            wr = w * residual[part]
            z = wr * residual[part]
            gradient[:c] -= 2.0 * (wr @ x)
            gradient[c:] += (1.0 - z) @ u
            hessian[:c, :c] += 2.0 * (x.T @ (x * w[:, None]))
            hessian[c:, :c] += 2.0 * (u.T @ (x * wr[:, None]))
            hessian[c:, c:] += u.T @ (u * z[:, None])
        hessian[:c, c:] = hessian[c:, :c].T
        return cls(
            y=y,
            X=X,
            V=V,
            alpha=alpha,
            beta=beta,
            residual=residual,
            weight=weight,
            gradient=gradient,
            inverse=_inverse(hessian),
            gram_x=X.T @ X,
            gram_v=V.T @ V,
            same_design=X.shape == V.shape and bool(np.array_equal(X, V)),
        )


def _inverse(hessian: FloatArray) -> FloatArray | None:
    """Inverse of a symmetric matrix, or nothing where it is not positive definite."""
    diagonal = np.diagonal(hessian)
    if not np.all(diagonal > 0.0):
        return None
    # Scaled to a unit diagonal: the units of y and of covariates make no difference.
    scale = 1.0 / np.sqrt(diagonal)
    try:
        root = np.linalg.cholesky(hessian * scale * scale[:, None])
    except np.linalg.LinAlgError:
        return None
    half = np.linalg.solve(root, np.diag(scale))
    return np.asarray(half.T @ half, dtype=np.float64)
