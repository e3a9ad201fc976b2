"""Linear mixed model with one relationship matrix: y ~ N(Xβ, σ²K + τ²I), by REML."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from hlmm_dask.arguments import bounds as check_bounds
from hlmm_dask.arguments import flag, number
from hlmm_dask.errors import InputError
from hlmm_dask.models.design import as_design, as_vector
from hlmm_dask.models.lmm_alternatives import Alternatives, tested_alternatives
from hlmm_dask.models.lmm_heritability import fit_heritability, standard_error
from hlmm_dask.models.lmm_rotation import (
    Rotation,
    not_negative,
    rotation_of_effects,
    rotation_of_kinship,
)
from hlmm_dask.models.lmm_spectral import (
    LOG_2PI,
    Profile,
    RotatedData,
    gamma_path,
    heritability_path,
    maximise,
)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class LinearMixedModelFit:
    """REML fit of a :class:`LinearMixedModel`.

    Attributes
    ----------
    beta : (p,) float64
        Effects of the columns of X, in units of y per unit of the column.
    beta_cov : (p, p) float64
        Their covariance given γ.
    sigma_sq, tau_sq : float
        Variances σ² of K and τ² of I.
    gamma, log_gamma : float
        γ = σ²/τ² and its natural logarithm.
    h_sq : float
        γ / (1 + γ).
    h_sq_standard_error : float
        From the curvature of the profile likelihood in h²; NaN where γ was given.
    loglik : float
        Restricted log-likelihood with all constants and + ½ log|XᵀX| (Harville 1974).
    """

    beta: FloatArray
    beta_cov: FloatArray
    sigma_sq: float
    tau_sq: float
    gamma: float
    log_gamma: float
    h_sq: float
    h_sq_standard_error: float
    loglik: float


class LinearMixedModel:
    """y ~ N(Xβ, σ²K + τ²I) with K = Pᵀ diag(s) P, full rank or low rank.

    The rows of P (r, n) are eigenvectors of K. With r = n the triple (Py, PX, s) is all there is
    to know; with r < n, K is zero outside the rows of P and y and X are needed as well.

    Parameters
    ----------
    py : (r,) array_like
        Rotated phenotype.
    px : (r, p) array_like
        Rotated design.
    s : (r,) array_like
        Eigenvalues of K; negative ones are taken as zero, as in `rotation_of_kinship`.
    y : (n,) array_like, optional
        Phenotype, for a low-rank model.
    x : (n, p) array_like, optional
        Design, for a low-rank model.

    Attributes
    ----------
    data : RotatedData
        Phenotype and design in the eigenbasis of K.
    notes : tuple of str
        What was done to K: negative eigenvalues taken as zero, dependent columns left out.

    Raises
    ------
    ValueError
        If shapes differ, a value is not finite, columns are linearly dependent, or n <= p.

    References
    ----------
    Lippert et al. (2011), Nature Methods 8, 833-835; Harville (1974), Biometrika 61, 383-385.
    """

    def __init__(
        self,
        py: ArrayLike,
        px: ArrayLike,
        s: ArrayLike,
        y: ArrayLike | None = None,
        x: ArrayLike | None = None,
    ) -> None:
        py = as_vector("py", py)
        px = as_design("px", px, len(py))
        s = as_vector("s", s)
        if len(s) != len(py):
            raise ValueError(f"s has {len(s)} values, but py has {len(py)}")
        s, notes = not_negative(s)
        self.notes = tuple(f"the relationship matrix is {note}" for note in notes)
        if y is None and x is None:
            self.data = RotatedData.full(py, px, s)
            return
        if y is None or x is None:
            raise ValueError("y and x are given together (low rank) or not at all (full rank)")
        y = as_vector("y", y)
        x = as_design("x", x, len(y))
        if x.shape[1] != px.shape[1] or len(py) > len(y):
            raise ValueError(f"px has shape {px.shape}, x {x.shape}: expected (r, p) with r <= n")
        self.data = RotatedData.low_rank(py, px, s, y, x)

    @classmethod
    def from_kinship(
        cls, y: ArrayLike, x: ArrayLike, k: ArrayLike
    ) -> tuple["LinearMixedModel", FloatArray]:
        """Full-rank model from K (n, n), and its P (n, n); negative eigenvalues become zero."""
        return cls._from_rotation(rotation_of_kinship(k), y, x)

    @classmethod
    def from_random_effects(
        cls, y: ArrayLike, x: ArrayLike, z: ArrayLike, max_condition_number: float = 1e10
    ) -> tuple["LinearMixedModel", FloatArray]:
        """Model with K = zzᵀ from z (n, m), and its P (r, n).

        If n > m its rank r is that of z: repeated columns and zeros add nothing. Eigenvalues
        below the largest one over ``max_condition_number`` count as zero.
        """
        rotation = rotation_of_effects(z, max_condition_number=max_condition_number)
        return cls._from_rotation(rotation, y, x)

    @classmethod
    def _from_rotation(
        cls, rotation: Rotation, y: ArrayLike, x: ArrayLike
    ) -> tuple["LinearMixedModel", FloatArray]:
        return cls._from_data(rotation.rotate(y, x), rotation.notes), rotation.vectors.T

    @classmethod
    def _from_data(cls, data: RotatedData, notes: tuple[str, ...]) -> "LinearMixedModel":
        model = cls.__new__(cls)
        model.data = data
        model.notes = notes
        return model

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.data.n_samples

    @property
    def f(self) -> int:
        """Number of fixed effects."""
        return self.data.n_covariates

    @property
    def r(self) -> int:
        """Number of eigenvectors."""
        return len(self.data.values)

    @property
    def low_rank(self) -> bool:
        """Whether K is taken to be zero outside the eigenvectors."""
        return self.r < self.n

    def truncated(self, rank: int) -> "LinearMixedModel":
        """Keep the first ``rank`` eigenvectors; the other eigenvalues are taken to be zero."""
        return self._from_data(self.data.truncated(rank), self.notes)

    def compute_neg_log_reml(
        self, log_gamma: float, return_parameters: bool = False
    ) -> float | tuple[float, FloatArray, float, float]:
        """½ (log|V| + log|XᵀV⁻¹X|) with V = σ²K + τ²I at the best β and σ² given γ.

        It is -log REML up to a constant; with ``return_parameters`` also β, σ² and τ².
        """
        flag("return_parameters", return_parameters)
        at = self._at(number("log_gamma", log_gamma))
        df = self.n - self.f
        log_xx = 2.0 * float(np.log(np.abs(np.diag(self.data.triangle))).sum())
        value = -at.loglik - 0.5 * df * (LOG_2PI + 1.0) + 0.5 * log_xx
        if not return_parameters:
            return value
        sigma_sq = at.rss / df
        return value, at.beta, sigma_sq, sigma_sq * float(np.exp(-log_gamma))

    def fit(
        self,
        log_gamma: float | None = None,
        bounds: tuple[float, float] = (-8.0, 8.0),
        tol: float = 1e-8,
        maxiter: int = 500,
    ) -> LinearMixedModelFit:
        """Fit by REML, or at a given log γ.

        Parameters
        ----------
        log_gamma : float, optional
            Where to fit; found by maximisation if not given.
        bounds : (float, float)
            Where to look for log γ.
        tol : float
            Length of the step in log γ at which to stop.
        maxiter : int
            Limit of the number of steps.

        Raises
        ------
        ValueError
            If the maximum lies at a bound, or is not found within ``maxiter`` steps.
        """
        error = np.nan
        if log_gamma is None:
            bounds = check_bounds("bounds", bounds)
            log_gamma = maximise(self._at, bounds, tolerance=tol, max_iterations=maxiter)
            if min(abs(log_gamma - bound) for bound in bounds) <= tol:
                raise InputError(self._at_bound(bounds, log_gamma, tol))
            h_sq = float(special.expit(log_gamma))
            error = standard_error(self.data.profile(heritability_path, h_sq, "reml"))
        log_gamma = number("log_gamma", log_gamma)
        at = self._at(log_gamma)
        sigma_sq = at.rss / (self.n - self.f)
        gamma = float(np.exp(log_gamma))
        return LinearMixedModelFit(
            beta=at.beta,
            beta_cov=sigma_sq * at.unscaled_cov,
            sigma_sq=sigma_sq,
            tau_sq=sigma_sq / gamma,
            gamma=gamma,
            log_gamma=log_gamma,
            h_sq=float(special.expit(log_gamma)),
            h_sq_standard_error=error,
            loglik=at.loglik,
        )

    def h_sq_normalized_lkhd(self) -> FloatArray:
        """Restricted likelihood of h² = 0, 0.01, .., 1 that sums to 1; the ends are NaN."""
        loglik = np.array(
            [self.data.profile(heritability_path, k / 100.0, "reml").loglik for k in range(1, 100)]
        )
        likelihood = np.exp(loglik - loglik.max())
        return np.concatenate([[np.nan], likelihood / likelihood.sum(), [np.nan]])

    def fit_alternatives(
        self, log_gamma: float, pa: ArrayLike, a: ArrayLike | None = None
    ) -> Alternatives:
        """Test covariates one at a time, with γ kept.

        Parameters
        ----------
        log_gamma : float
            That of the fit without them.
        pa : (r, m) array_like
            Rotated covariates, a column each.
        a : (n, m) array_like, optional
            For a low-rank model, the covariates as they are (of a full-rank model that was
            truncated, all n rotated rows).
        """
        return tested_alternatives(self.data, number("log_gamma", log_gamma), pa, a)

    def _at_bound(self, bounds: tuple[float, float], log_gamma: float, tol: float) -> str:
        """Say what helps where the likelihood is highest at a bound of log γ."""
        name, bound = ("lower", bounds[0]) if log_gamma < sum(bounds) / 2 else ("upper", bounds[1])
        found = f"the likelihood is highest at the {name} bound of log_gamma, {bound:g}"
        best = fit_heritability(self.data, tolerance=min(tol, 1e-8))
        if not best.at_bound and not bounds[0] <= special.logit(best.h2) <= bounds[1]:
            wider = (float(np.floor(special.logit(best.h2))) - 1.0, bounds[1])
            if name == "upper":
                wider = (bounds[0], float(np.ceil(special.logit(best.h2))) + 1.0)
            return f"{found}; its maximum is at h_sq {best.h2:.6g}: give bounds={wider}"
        end = 0 if name == "lower" else 1
        return (
            f"{found} (h_sq {special.expit(bound):.6g}), and rises on towards h_sq {end}: wider "
            f"bounds don't help; give log_gamma={bound:g} to fit there, or use "
            "models.fit_heritability(model.data), which allows for h_sq at its bound"
        )

    def _at(self, log_gamma: float) -> Profile:
        return self.data.profile(gamma_path, log_gamma, "reml")
