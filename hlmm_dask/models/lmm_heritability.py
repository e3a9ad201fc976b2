"""Heritability: y ~ N(Xβ, σ²(h²K + (1 - h²)I)), by REML or ML, with estimates on the boundary.

A rotation by the eigenvectors of K serves every phenotype of the same samples:

    rotation = rotation_of_kinship(K)
    fit = fit_heritability(rotation.rotate(y, X))
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlmm_dask.arguments import bounds as check_bounds
from hlmm_dask.arguments import choice, number
from hlmm_dask.errors import InputError
from hlmm_dask.models.design import as_design
from hlmm_dask.models.lmm_rotation import Rotation, rotation_of_kinship
from hlmm_dask.models.lmm_spectral import (
    Method,
    Profile,
    RotatedData,
    heritability_path,
    maximise,
)

FloatArray = NDArray[np.float64]
FitStatus = Literal["ok", "empty", "constant", "infinite", "not_fitted"]
# With a singular K there is no density at h² = 1, and the likelihood can rise without limit
# towards it; the search ends where γ is 1e5.
_SINGULAR_LIMIT = 1.0 - 1e-5


@dataclass(frozen=True)
class HeritabilityFit:
    """Fit of one phenotype.

    Attributes
    ----------
    method : str
        "reml" or "ml".
    n_samples : int
        Samples with a phenotype.
    h2 : float
        Share of K in the variance σ².
    h2_se : float
        From the curvature of the profile likelihood; NaN at a bound.
    at_bound : bool
        Whether the likelihood is highest at an end of the interval searched.
    beta, beta_se : (c,) float64
        Effects of the columns of X and their standard errors given h².
    beta_cov : (c, c) float64
        Covariance of the effects.
    sigma_sq : float
        σ² with n - c degrees of freedom, whatever the method; the standard errors use it.
    sigma_sq_ml : float
        σ² with n.
    loglik : float
        Log-likelihood with all constants; REML with + ½ log|XᵀX|.
    name : str
        Name of the phenotype; empty where none is known.
    status : {"ok", "empty", "constant", "infinite", "not_fitted"}
        Whether there are estimates; without them, all but ``n_samples`` are NaN.
    reason : str
        Why there are none, in one line.
    notes : tuple of str
        What was done to K.
    """

    method: Method
    n_samples: int
    h2: float
    h2_se: float
    at_bound: bool
    beta: FloatArray
    beta_se: FloatArray
    beta_cov: FloatArray
    sigma_sq: float
    sigma_sq_ml: float
    loglik: float
    name: str = ""
    status: FitStatus = "ok"
    reason: str = ""
    notes: tuple[str, ...] = ()


def profile_loglik(
    data: RotatedData, h2: ArrayLike, *, method: Method = "reml"
) -> NDArray[np.float64]:
    """Log-likelihood at one or many values of h², β and σ² at their maximum.

    Parameters
    ----------
    data : RotatedData
        From :meth:`Rotation.rotate`.
    h2 : array_like
        Values in [0, 1], any shape.
    method : str
        "reml" or "ml".

    Returns
    -------
    float64, same shape
        With all constants; -inf at h² = 1 if K is singular.
    """
    method = choice("method", method, get_args(Method))
    values = np.asarray(h2, dtype=np.float64)
    if not np.all((values >= 0.0) & (values <= 1.0)):
        raise ValueError("h2 has values outside [0, 1]")
    logliks = [data.profile(heritability_path, float(v), method).loglik for v in values.ravel()]
    return np.array(logliks).reshape(values.shape)


def fit_heritability(
    data: RotatedData,
    *,
    method: Method = "reml",
    bounds: tuple[float, float] = (0.0, 1.0),
    tolerance: float = 1e-8,
) -> HeritabilityFit:
    """Fit h² by REML or ML; an estimate on the boundary is exactly 0 or 1.

    Parameters
    ----------
    data : RotatedData
        From :meth:`Rotation.rotate`.
    method : str
        "reml" or "ml".
    bounds : (float, float)
        Where to look for h². With a singular K the search ends at 1 - 1e-5, short of 1.
    tolerance : float
        Length of the step in h² at which to stop.
    """
    method = choice("method", method, get_args(Method))
    low, high = check_bounds("bounds", bounds, least=0.0, most=1.0)
    if data.singular:
        high = min(high, _SINGULAR_LIMIT)
    h2 = maximise(
        lambda value: data.profile(heritability_path, value, method),
        (low, high),
        tolerance=tolerance,
    )
    return heritability_fit_at(data, h2, method=method, at_bound=h2 in (low, high))


def heritability_fit_at(
    data: RotatedData, h2: float, *, method: Method = "reml", at_bound: bool = False
) -> HeritabilityFit:
    """Everything else at a given h², which is taken for the maximum unless ``at_bound``."""
    method = choice("method", method, get_args(Method))
    h2 = number("h2", h2, least=0.0, most=1.0)
    at = data.profile(heritability_path, h2, method)
    sigma_sq = at.rss / (data.n_samples - data.n_covariates)
    cov = sigma_sq * at.unscaled_cov
    return HeritabilityFit(
        method=method,
        n_samples=data.n_samples,
        h2=h2,
        h2_se=np.nan if at_bound else standard_error(at),
        at_bound=at_bound,
        beta=at.beta,
        beta_se=np.sqrt(np.diag(cov)),
        beta_cov=cov,
        sigma_sq=sigma_sq,
        sigma_sq_ml=at.rss / data.n_samples,
        loglik=at.loglik,
    )


def fit_phenotypes(
    Y: ArrayLike, X: ArrayLike, K: ArrayLike, *, method: Method = "reml"
) -> tuple[HeritabilityFit, ...]:
    """Fit every column of Y (n, t), each over the samples that have it (not NaN).

    Phenotypes that miss the same samples share one rotation. A phenotype that can't be fitted
    has its own status and NaN for its estimates; the others are fitted.

    Parameters
    ----------
    Y : (n, t) array_like or DataFrame
        Phenotypes, NaN where missing. The columns of a DataFrame give the fits their names.
    X : (n, c) array_like
        Design of the mean.
    K : (n, n) array_like
        Relationships; negative eigenvalues are taken as zero, as in `rotation_of_kinship`.
    method : str
        "reml" or "ml".

    Returns
    -------
    tuple of HeritabilityFit
        One for each column.
    """
    method = choice("method", method, get_args(Method))
    labels = getattr(Y, "columns", None)
    if np.ndim(Y) != 2:
        raise InputError(f"Y has {np.ndim(Y)} dimensions, expected 2: a column for each phenotype")
    if labels is not None:
        # pandas' own missing values become NaN only when asked for.
        Y = cast("Any", Y).to_numpy(dtype=np.float64, na_value=np.nan)
    Y = np.asarray(Y, dtype=np.float64)
    names = [f"phenotype {j + 1}" if labels is None else str(labels[j]) for j in range(Y.shape[1])]
    X = as_design("X", X, len(Y))
    K = as_design("K", K, len(Y))
    fits: dict[int, HeritabilityFit] = {}
    for present, columns in _by_subset(Y):
        fitted = []
        for j in columns:
            status = _unusable(Y[present, j])
            if status is None:
                fitted.append(j)
            else:
                reason = f"{names[j]}: {_REASONS[status]}"
                fits[j] = _not_fitted(method, len(present), X.shape[1], status, reason)
        if not fitted:
            continue
        rotation: Rotation | None = None
        for j in fitted:
            try:
                rotation = rotation or rotation_of_kinship(K[np.ix_(present, present)])
                # Of values whose squares overflow no residual is left.
                with np.errstate(over="ignore", invalid="ignore"):
                    data = rotation.rotate(Y[present, j], X[present])
                fits[j] = fit_heritability(data, method=method)
            except ValueError as error:
                if rotation is None and len(present) == len(Y):
                    raise
                reason = f"{names[j]}: {error}"
                fits[j] = _not_fitted(method, len(present), X.shape[1], "not_fitted", reason)
            fits[j] = replace(fits[j], notes=() if rotation is None else rotation.notes)
    return tuple(replace(fits[j], name=name) for j, name in enumerate(names))


_REASONS: dict[FitStatus, str] = {
    "empty": "no sample has a value",
    "constant": "all samples have the same value",
    "infinite": "it has infinite values; leave these samples out, or make them NaN",
}


def _unusable(y: FloatArray) -> FitStatus | None:
    if not y.size:
        return "empty"
    if not np.all(np.isfinite(y)):
        return "infinite"
    return "constant" if np.ptp(y) == 0.0 else None


def _not_fitted(
    method: Method, n_samples: int, c: int, status: FitStatus, reason: str
) -> HeritabilityFit:
    nan: Any = float("nan")
    none = np.full(c, np.nan)
    return HeritabilityFit(
        method, n_samples, nan, nan, False, none, none, np.full((c, c), np.nan), nan, nan, nan,
        status=status, reason=reason,
    )  # fmt: skip


def standard_error(at: Profile) -> float:
    """From the curvature; NaN where the profile is not concave."""
    return float((-at.hessian) ** -0.5) if at.hessian < 0 else float("nan")


def _by_subset(Y: FloatArray) -> Iterator[tuple[NDArray[np.int64], list[int]]]:
    """Yield samples that have a phenotype, and the phenotypes that exactly these have."""
    groups: dict[bytes, list[int]] = {}
    missing = np.isnan(Y)
    for j in range(Y.shape[1]):
        groups.setdefault(missing[:, j].tobytes(), []).append(j)
    for columns in groups.values():
        yield np.flatnonzero(~missing[:, columns[0]]), columns
