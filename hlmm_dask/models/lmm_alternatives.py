"""Tests of one more covariate at a time in a linear mixed model whose variance ratio is kept."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, special

from hlmm_dask.models.design import as_design
from hlmm_dask.models.lmm_spectral import RotatedData

FloatArray = NDArray[np.float64]
# Share of a covariate's sum of squares below which the others explain it.
_DEPENDENT = 1e-10


@dataclass(frozen=True)
class Alternatives:
    """One more covariate at a time, γ kept, against the model without it.

    Attributes
    ----------
    beta : (m,) float64
        Effect of the covariate.
    sigma_sq : (m,) float64
        σ² of the alternative, with n - p - 1 degrees of freedom.
    chi_sq : (m,) float64
        Likelihood ratio statistic n log(RSS₀ / RSS₁), 1 degree of freedom.
    p_value : (m,) float64
        Its p-value. All are NaN for a covariate that depends linearly on the others.
    """

    beta: FloatArray
    sigma_sq: FloatArray
    chi_sq: FloatArray
    p_value: FloatArray


def tested_alternatives(
    data: RotatedData, log_gamma: float, pa: ArrayLike, a: ArrayLike | None
) -> Alternatives:
    """Test the columns of ``pa``; see ``LinearMixedModel.fit_alternatives``."""
    n, c = data.n_samples, data.n_covariates
    pa = as_design("pa", pa, len(data.values))
    delta = float(np.exp(-log_gamma))
    weight = (1.0 / (data.values + delta))[:, None]
    gram = data.inside.T @ (weight * data.inside)
    cross = data.inside.T @ (weight * pa)
    square = np.sum(weight * pa**2, axis=0)
    if data.low:
        if a is None:
            raise ValueError("a low-rank model needs a (n, m), the covariates as they are")
        a = as_design("a", a, n)
        if a.shape[1] != pa.shape[1]:
            raise ValueError(f"a has {a.shape[1]} columns, but pa has {pa.shape[1]}")
        gram += data.rest / delta
        cross += (data.whole.T @ a - data.inside.T @ pa) / delta
        square += (np.sum(a**2, axis=0) - np.sum(pa**2, axis=0)) / delta
    factor = linalg.cholesky(gram[:c, :c], lower=True)
    # Both without what the model's own covariates explain.
    explained = linalg.solve_triangular(
        factor, np.column_stack([gram[:c, c:], cross[:c]]), lower=True
    )
    product = cross[c] - explained[:, 0] @ explained[:, 1:]
    unexplained = square - np.sum(explained[:, 1:] ** 2, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        beta = np.where(unexplained > _DEPENDENT * square, product / unexplained, np.nan)
    rss0 = gram[c, c] - explained[:, 0] @ explained[:, 0]
    rss1 = rss0 - beta * product
    chi_sq = -n * np.log1p(-beta * product / rss0)
    return Alternatives(
        beta=beta,
        sigma_sq=rss1 / (n - c - 1),
        chi_sq=chi_sq,
        p_value=special.chdtrc(1.0, chi_sq),
    )
