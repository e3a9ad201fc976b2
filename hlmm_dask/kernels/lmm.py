"""Linear mixed model of every variant of a block: y ~ N(Xα + g β, τ²(λK + I)).

This is what the tests with λ kept (:mod:`hlmm_dask.kernels.lmm_fixed`) and with λ found anew for
every variant (:mod:`hlmm_dask.kernels.lmm_refit`) share: the null model and the table.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlmm_dask.models.inference import neg_log10_p_normal, neg_log10_p_t
from hlmm_dask.models.lmm_rotation import Rotation
from hlmm_dask.models.lmm_spectral import Method, RotatedData, lambda_path, maximise

FloatArray = NDArray[np.float64]
# λ = σ²/τ², within GEMMA's bounds.
LAMBDA_BOUNDS = (1e-5, 1e5)
# Share of gᵀV⁻¹g below which the covariates explain a genotype.
DEPENDENT = 1e-10
# And below which they explain nothing of it.
NOTHING = 1e-24
# Share of eᵀV⁻¹e below which a genotype leaves nothing of the phenotype but rounding errors, and
# where products of genotypes are made in single precision.
PERFECT, PERFECT_SINGLE = 1e-10, 1e-6
# Variants at a time: at most so many, and so many genotypes.
CHUNK = 1024
_CHUNK_GENOTYPES = 2**22


@dataclass(frozen=True)
class LMMNull:
    """The model without a variant, picklable.

    Attributes
    ----------
    rotation : Rotation
        Eigenvectors of K, (n, r).
    data : RotatedData
        Phenotype and covariates.
    lambda_reml, lambda_ml : float
        λ = σ²/τ² at the maximum of either likelihood, within ``LAMBDA_BOUNDS``.
    loglik_ml : float
        Log-likelihood at the second.
    """

    rotation: Rotation
    data: RotatedData
    lambda_reml: float
    lambda_ml: float
    loglik_ml: float


@dataclass(frozen=True)
class LMMVariants:
    """Tests of ``m`` variants; NaN where the covariates explain the genotype.

    Where the genotype explains the phenotype ``se`` is 0.

    Attributes
    ----------
    beta, se : (m,) float64
        Effect per unit of the genotype and its standard error, at the REML λ.
    neg_log10_p_wald : (m,) float64
        -log10 p of (beta / se)² as F with 1 and n - c - 1 degrees of freedom.
    loglik_ml : (m,) float64
        Log-likelihood at the ML λ; with λ kept, at the null model's REML λ.
    neg_log10_p_lrt : (m,) float64
        -log10 p of the likelihood ratio as chi-square with 1 degree of freedom.
    lambda_reml, lambda_ml : (m,) float64
        λ of this variant's model.
    """

    beta: FloatArray
    se: FloatArray
    neg_log10_p_wald: FloatArray
    loglik_ml: FloatArray
    neg_log10_p_lrt: FloatArray
    lambda_reml: FloatArray
    lambda_ml: FloatArray

    def columns(self) -> tuple[FloatArray, ...]:
        """All columns, in order."""
        return tuple(getattr(self, field.name) for field in fields(self))


def fit_null(rotation: Rotation, y: ArrayLike, X: ArrayLike) -> LMMNull:
    """Fit the model without a variant, y (n,) on X (n, c), by REML and by ML."""
    data = rotation.rotate(y, X)
    lambda_reml, _ = _best_lambda(data, "reml")
    lambda_ml, loglik_ml = _best_lambda(data, "ml")
    return LMMNull(rotation, data, lambda_reml, lambda_ml, loglik_ml)


def chunks(genotypes: FloatArray) -> Iterator[FloatArray]:
    """Yield the rows (m, n) in parts, so that what is computed of each stays small."""
    rows = max(min(CHUNK, _CHUNK_GENOTYPES // genotypes.shape[1]), 64)
    for start in range(0, max(len(genotypes), 1), rows):
        yield genotypes[start : start + rows]


def less_covariates(
    genotypes: FloatArray, Q: FloatArray
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Return the residuals (m, n) on Q, their squares' sums, and which are but rounding errors."""
    inside = genotypes @ Q
    whole = squares(genotypes)
    explained = squares(inside)
    if np.all(explained <= NOTHING * whole):
        # Centred genotypes, and an intercept alone.
        return genotypes, whole, whole <= 0.0
    residual = genotypes - inside @ Q.T
    length = squares(residual)
    return residual, length, length <= DEPENDENT * whole


def squares(rows: FloatArray) -> FloatArray:
    """Sum the squares of each row."""
    return np.asarray(np.vecdot(rows, rows))


def tested(
    null: LMMNull,
    *,
    product: FloatArray,
    unexplained: FloatArray,
    rss0: FloatArray,
    loglik_ml: FloatArray,
    loglik_null: float,
    lambda_reml: FloatArray,
    lambda_ml: FloatArray,
    perfect: NDArray[np.bool_],
) -> LMMVariants:
    """Complete the table (m,) from gᵀPy, gᵀPg and yᵀPy at the REML λ and the ML likelihoods.

    ``perfect`` says where a genotype explains the phenotype.
    """
    df = null.data.n_samples - null.data.n_covariates - 1
    beta = np.where(perfect, 0.0, product / unexplained)
    se = np.sqrt(np.where(perfect, 0.0, (rss0 - beta * product) / (df * unexplained)))
    statistic = 2.0 * np.maximum(loglik_ml - loglik_null, 0.0)
    return LMMVariants(
        beta=beta,
        se=se,
        neg_log10_p_wald=neg_log10_p_t(beta / np.where(se > 0.0, se, np.nan), df),
        loglik_ml=loglik_ml,
        neg_log10_p_lrt=neg_log10_p_normal(np.sqrt(statistic)),
        lambda_reml=lambda_reml,
        lambda_ml=lambda_ml,
    )


def joined(parts: Iterable[LMMVariants]) -> LMMVariants:
    """Put tables one below the other."""
    columns = zip(*(part.columns() for part in parts), strict=True)
    return LMMVariants(*(np.concatenate(column) for column in columns))


def _best_lambda(data: RotatedData, method: Method) -> tuple[float, float]:
    """λ and log-likelihood at the maximum."""
    low, high = np.log(LAMBDA_BOUNDS)
    best = maximise(lambda t: data.profile(lambda_path, t, method), (low, high))
    return float(np.exp(best)), data.profile(lambda_path, best, method).loglik
