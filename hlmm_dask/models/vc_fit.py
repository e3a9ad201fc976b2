"""Estimates of a variance component model: errors, predictions, criteria, tests, a summary."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import special

from hlmm_dask.models.vc_effects import FloatArray
from hlmm_dask.models.vc_maximise import Iteration, Maximum

if TYPE_CHECKING:
    from hlmm_dask.models.variance_components import VarianceComponents

_COLUMNS_AT_A_TIME = 512


@dataclass(frozen=True)
class Prediction:
    """Best linear unbiased predictions of one component's effects.

    Attributes
    ----------
    levels : tuple of str or None
        Names of the effects; None where each stands for a sample.
    values : (q,) float64
        û = σ² (Z A)ᵀ P y.
    error_variances : (q,) float64
        Var(û - u) = σ² A - σ⁴ (Z A)ᵀ P Z A, its diagonal, at the estimated components.
    """

    levels: tuple[str, ...] | None
    values: FloatArray
    error_variances: FloatArray


@dataclass(frozen=True)
class LikelihoodRatio:
    """Likelihood ratio test of nested models.

    Attributes
    ----------
    statistic : float
        2 (ℓ₁ - ℓ₀), not below 0.
    degrees : tuple of int
        Degrees of freedom of the chi-squares in the mixture.
    weights : tuple of float
        Their weights.
    p_value : float
        Probability of a statistic at least as large under the smaller model.
    """

    statistic: float
    degrees: tuple[int, ...]
    weights: tuple[float, ...]
    p_value: float


@dataclass(frozen=True)
class VCFit:
    """Fit of a :class:`~hlmm_dask.models.variance_components.VarianceComponents`.

    Attributes
    ----------
    model : VarianceComponents
        The model.
    maximum : Maximum
        Where the maximiser ended.
    reml : bool
        Whether the restricted likelihood was maximised.
    kind : {"observed", "expected", "average"}
        Information that standard errors are taken from.
    """

    model: "VarianceComponents"
    maximum: Maximum
    reml: bool
    kind: Literal["observed", "expected", "average"]

    @property
    def converged(self) -> bool:
        """Whether the maximum was reached to the tolerance."""
        return self.maximum.status == "converged"

    @property
    def trace(self) -> tuple[Iteration, ...]:
        """The iterations."""
        return self.maximum.trace

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the components."""
        return self.model.names

    @property
    def components(self) -> FloatArray:
        """Estimated variances σ²_i (c,), in squared units of y."""
        return self.maximum.state.components

    @property
    def at_zero(self) -> tuple[bool, ...]:
        """Whether each component's estimate lies on its bound."""
        return tuple(bool(value == 0) for value in self.components)

    @cached_property
    def information(self) -> dict[str, FloatArray]:
        """Observed, expected and average information of the components, (c, c) each."""
        state = self.maximum.state
        average = self.model.information(state, "average", reml=self.reml)
        expected = self.model.information(state, "expected", reml=self.reml)
        return {"observed": 2.0 * average - expected, "expected": expected, "average": average}

    @cached_property
    def covariance(self) -> FloatArray:
        """Covariance of the components (c, c); NaN for those at zero, the others' given these."""
        return self._covariance(self.kind)

    @property
    def se(self) -> FloatArray:
        """Standard errors of the components (c,)."""
        return np.asarray(np.sqrt(np.diagonal(self.covariance)))

    @property
    def proportions(self) -> FloatArray:
        """Components as shares of their sum, (c,)."""
        return np.asarray(self.components / self.components.sum())

    @property
    def proportions_covariance(self) -> FloatArray:
        """Covariance of the proportions (c, c), by the delta method."""
        free = self.components > 0
        # What is at zero is taken as known.
        covariance = np.where(np.outer(free, free), self.covariance, 0.0)
        total, c = self.components.sum(), len(self.components)
        jacobian = (np.eye(c) - self.proportions[:, None]) / total
        out = jacobian @ covariance @ jacobian.T
        out[~free] = out[:, ~free] = np.nan
        return np.asarray(out)

    @property
    def proportions_se(self) -> FloatArray:
        """Standard errors of the proportions (c,)."""
        return np.sqrt(np.maximum(np.diagonal(self.proportions_covariance), 0.0))

    @property
    def beta(self) -> FloatArray:
        """Fixed effects (p,), generalised least squares at the estimated components."""
        return self.maximum.state.beta

    @property
    def beta_covariance(self) -> FloatArray:
        """(XᵀΣ⁻¹X)⁻¹, (p, p)."""
        qsq = self.maximum.state.qsq
        inverse = np.asarray(np.linalg.solve(qsq, np.eye(len(qsq))), dtype=np.float64)
        return self.model.basis.covariance(inverse)

    @property
    def beta_se(self) -> FloatArray:
        """Standard errors of the fixed effects (p,)."""
        return np.sqrt(np.diagonal(self.beta_covariance))

    @property
    def loglik(self) -> float:
        """The log-likelihood that was maximised."""
        return self.maximum.loglik

    @property
    def loglik_ml(self) -> float:
        """Full log-likelihood at the estimates."""
        return self.model.loglik_of(self.maximum.state, reml=False)

    @property
    def loglik_reml(self) -> float:
        """Restricted log-likelihood at the estimates, with ½ log|XᵀX| (Harville 1974)."""
        return self.model.loglik_of(self.maximum.state, reml=True)

    @property
    def n_parameters(self) -> int:
        """Parameters that were estimated: components, and for ML the fixed effects."""
        return len(self.components) + (0 if self.reml else len(self.beta))

    @property
    def aic(self) -> float:
        """Akaike's criterion, 2 k - 2 ℓ; by REML comparable for the same X alone."""
        return 2.0 * self.n_parameters - 2.0 * self.loglik

    @property
    def bic(self) -> float:
        """Bayesian criterion, k log m - 2 ℓ, m = n for ML and n - p for REML."""
        n, p = self.model.X.shape
        return self.n_parameters * float(np.log(n - p if self.reml else n)) - 2.0 * self.loglik

    def predict(self, name: str) -> Prediction:
        """Best linear unbiased predictions (BLUP) of a component's effects.

        Raises
        ------
        ValueError
            If there is no such component.
        """
        if name not in self.names:
            raise ValueError(f"no component {name!r}, expected one of {', '.join(self.names)}")
        i = self.names.index(name)
        effect, state = self.model.effects[i], self.maximum.state
        variance = float(self.components[i])
        explained = np.empty(effect.n_effects)
        for start in range(0, effect.n_effects, _COLUMNS_AT_A_TIME):
            columns = slice(start, min(start + _COLUMNS_AT_A_TIME, effect.n_effects))
            loading = effect.loading_columns(columns.start, columns.stop)
            explained[columns] = np.sum(loading * state.project(loading), axis=0)
        return Prediction(
            effect.levels,
            variance * effect.predict(state.Py),
            np.maximum(variance * effect.prior - variance**2 * explained, 0.0),
        )

    def likelihood_ratio(self, smaller: "VCFit") -> LikelihoodRatio:
        """Test this model against one without some of its components, or fixed effects (ML).

        Under the smaller model an estimate is at its bound, zero, half of the time: with r
        components tested the distribution is the mixture of chi-squares with k = 0..r degrees
        of freedom and weights C(r, k) / 2^r (Self & Liang 1987; for r > 1 it holds where the
        estimates of those components are uncorrelated). Fixed effects add to each k.

        Raises
        ------
        ValueError
            If the models are not nested, or differ in the phenotype or the likelihood.
        """
        model, other = self.model, smaller.model
        if self.reml != smaller.reml:
            raise ValueError("one model was fitted by REML, the other by ML; use one for both")
        if not np.array_equal(model.y, other.y):
            raise ValueError("the models have different phenotypes")
        if extra := set(other.names) - set(model.names):
            raise ValueError(f"{', '.join(sorted(extra))}: not in the larger model")
        rank = int(np.linalg.matrix_rank(np.hstack([model.X, other.X])))
        if rank > model.X.shape[1]:
            raise ValueError("the smaller model has fixed effects that the larger has not")
        fixed = model.X.shape[1] - other.X.shape[1]
        if fixed and self.reml:
            raise ValueError("REML likelihoods of different fixed effects can't be compared")
        tested = len(model.names) - len(other.names)
        if not tested + fixed:
            raise ValueError("the models are the same")
        statistic = max(0.0, 2.0 * (self.loglik - smaller.loglik))
        degrees = tuple(k + fixed for k in range(tested + 1))
        weights = tuple(float(special.comb(tested, k)) / 2.0**tested for k in range(tested + 1))
        p_value = sum(
            w * float(special.chdtrc(d, statistic) if d else statistic == 0)
            for d, w in zip(degrees, weights, strict=True)
        )
        return LikelihoodRatio(statistic, degrees, weights, p_value)

    def table(self) -> dict[str, list[str] | FloatArray]:
        """Columns of a table with one row a component."""
        return {
            "component": list(self.names),
            "variance": self.components,
            "variance_se": self.se,
            "proportion": self.proportions,
            "proportion_se": self.proportions_se,
        }

    def summary(self) -> str:
        """Text with components, fixed effects, likelihoods and criteria."""
        method = "REML" if self.reml else "ML"
        width = max(len(name) for name in (*self.names, "component"))
        lines = [
            f"{method} by {self.maximum.maximiser}, {self.model.n_samples} samples, "
            f"{len(self.trace) - 1} iterations: {self.maximum.status}",
            f"{'component':<{width}} {'variance':>12} {'SE':>12} {'proportion':>12} {'SE':>12}",
        ]
        rows = zip(
            self.names, self.components, self.se, self.proportions, self.proportions_se, strict=True
        )
        for name, *values in rows:
            lines.append(f"{name:<{width}} " + " ".join(f"{value:12.6g}" for value in values))
        lines.append(f"{'fixed effect':<{width}} {'estimate':>12} {'SE':>12}")
        for j, (beta, se) in enumerate(zip(self.beta, self.beta_se, strict=True), 1):
            lines.append(f"{j:<{width}} {beta:12.6g} {se:12.6g}")
        lines.append(
            f"log-likelihood {self.loglik_ml:.6f}, restricted {self.loglik_reml:.6f}; "
            f"AIC {self.aic:.4f}, BIC {self.bic:.4f}"
        )
        return "\n".join(lines)

    def _covariance(self, kind: str) -> FloatArray:
        free = np.flatnonzero(self.components > 0)
        out = np.full((len(self.components),) * 2, np.nan)
        information = self.information[kind][np.ix_(free, free)]
        if np.linalg.eigvalsh(information)[0] > 0:
            out[np.ix_(free, free)] = np.linalg.solve(information, np.eye(len(free)))
        return out
