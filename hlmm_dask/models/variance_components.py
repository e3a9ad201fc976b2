"""Linear mixed model with any number of variance components: y ~ N(Xβ, Σ σ²_i V_i)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from hlmm_dask.arguments import choice, flag
from hlmm_dask.models.design import (
    Basis,
    as_design,
    as_vector,
    check_parameter_count,
    check_parameters,
    least_squares,
)
from hlmm_dask.models.vc_blocks import Factored, block_groups
from hlmm_dask.models.vc_effects import FloatArray, RandomEffect
from hlmm_dask.models.vc_fit import VCFit
from hlmm_dask.models.vc_maximise import Maximiser, maximise

Information = Literal["observed", "expected", "average"]
_LOG_2PI = float(np.log(2.0 * np.pi))
# Covariances whose products have a smaller eigenvalue than this can't be told apart.
_DEPENDENT = 1e-10


@dataclass(frozen=True)
class VCState:
    """The model at given components; S = Σ⁻¹, P = S - S X (XᵀSX)⁻¹ Xᵀ S.

    Attributes
    ----------
    components : (c,) float64
        Variances σ²_i.
    factored : Factored
        Factors of Σ.
    SQ : (n, p) float64
        S Q with the orthogonal basis Q of X.
    qsq : (p, p) float64
        QᵀSQ.
    beta : (p,) float64
        Generalised least squares estimate of the fixed effects.
    Py : (n,) float64
        P y = S (y - Xβ).
    ypy : float
        yᵀPy.
    logdet_xsx : float
        log|XᵀSX|.
    """

    components: FloatArray
    factored: Factored
    SQ: FloatArray
    qsq: FloatArray
    beta: FloatArray
    Py: FloatArray
    ypy: float
    logdet_xsx: float

    def project(self, rhs: FloatArray) -> FloatArray:
        """P ``rhs`` (n, r)."""
        return self.factored.solve(rhs) - self.SQ @ np.linalg.solve(self.qsq, self.SQ.T @ rhs)


class VarianceComponents:
    """Linear mixed model y ~ N(Xβ, Σ_i σ²_i V_i), σ²_i >= 0.

    Parameters
    ----------
    y : (n,) array_like
        Phenotype.
    X : (n, p) array_like
        Design of the mean; 1-D means one column. An intercept is not added.
    effects : sequence of RandomEffect
        The random effects.
    residual : bool
        Add independent residuals as the last component, named ``residual``.

    Raises
    ------
    ValueError
        If shapes differ, a value is not finite, columns of X are linearly dependent, names
        repeat, or a covariance is a linear combination of the others; the message says which.

    References
    ----------
    Harville (1977), JASA 72, 320-338; Gilmour, Thompson & Cullis (1995), Biometrics 51,
    1440-1450 (average information); Lynch & Walsh (1998), chapter 27.
    """

    def __init__(
        self,
        y: ArrayLike,
        X: ArrayLike,
        effects: Sequence[RandomEffect],
        *,
        residual: bool = True,
    ) -> None:
        flag("residual", residual)
        self.y = as_vector("y", y)
        n = self.n_samples
        self.X = as_design("X", X, n)
        last = (RandomEffect.residual(n),) if residual else ()
        self.effects = (*effects, *last)
        self.names = tuple(effect.name for effect in self.effects)
        for effect in self.effects:
            found = effect.n_effects if effect.V is None else effect.V.shape[0]
            if found != n:
                raise ValueError(f"{effect.name!r} has {found} samples, but y has {n} values")
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"names of the components: {self.names}, expected different ones")
        check_parameter_count(n, self.X.shape[1] + len(self.effects))
        self.basis = Basis.of("X", self.X)
        self._groups = block_groups(self.effects, n)
        self._check_independent()
        triangle = np.diagonal(self.basis.triangle)
        self._logdet_tt = 2.0 * float(np.log(triangle).sum())
        self.logdet_xx = self._logdet_tt + len(triangle) * float(np.log(n))

    @property
    def n_samples(self) -> int:
        """Number of samples n."""
        return len(self.y)

    @property
    def n_components(self) -> int:
        """Number of components c."""
        return len(self.effects)

    def state(self, components: ArrayLike) -> VCState | None:
        """Factorise at given components (c,); None where Σ is not positive definite."""
        values = check_parameters("components", components, self.n_components)
        if not np.all(values >= 0):
            return None
        try:
            factored = Factored(self._groups, values)
        except np.linalg.LinAlgError:
            return None
        Q = self.basis.Q
        SQ = factored.solve(Q)
        qsq = Q.T @ SQ
        q_beta = np.asarray(np.linalg.solve(qsq, SQ.T @ self.y), dtype=np.float64)
        residual = self.y - Q @ q_beta
        Py = factored.solve(residual[:, None])[:, 0]
        sign, logdet_qsq = np.linalg.slogdet(qsq)
        if not sign > 0:
            return None
        logdet_xsx = float(logdet_qsq) + self._logdet_tt
        beta = self.basis.effects(q_beta)
        return VCState(values, factored, SQ, qsq, beta, Py, float(residual @ Py), logdet_xsx)

    def loglik(
        self, components: ArrayLike, *, beta: ArrayLike | None = None, reml: bool = True
    ) -> float:
        """Log-likelihood with all its constants; -inf where Σ is not positive definite.

        ML: -½ (n log 2π + log|Σ| + (y-Xβ)ᵀΣ⁻¹(y-Xβ)), at the best β unless ``beta`` is given.
        REML: -½ ((n-p) log 2π + log|Σ| + log|XᵀΣ⁻¹X| - log|XᵀX| + yᵀPy), Harville (1974); some
        programs leave out log|XᵀX|, which is the attribute ``logdet_xx``.

        Raises
        ------
        ValueError
            If ``beta`` is given for REML, or a shape is wrong.
        """
        flag("reml", reml)
        state = self.state(components)
        if state is None:
            return -np.inf
        if beta is None:
            return self.loglik_of(state, reml=reml)
        if reml:
            raise ValueError("the restricted likelihood is no function of beta; give reml=False")
        away = self.X @ (check_parameters("beta", beta, self.X.shape[1]) - state.beta)
        return self.loglik_of(state, reml=False) - 0.5 * float(
            away @ state.factored.solve(away[:, None])[:, 0]
        )

    def loglik_of(self, state: VCState, *, reml: bool) -> float:
        """Log-likelihood of a state, as :meth:`loglik`."""
        n, p = self.X.shape
        twice = n * _LOG_2PI + state.factored.logdet + state.ypy
        if reml:
            twice += state.logdet_xsx - self.logdet_xx - p * _LOG_2PI
        return -0.5 * float(twice)

    def score(self, state: VCState, *, reml: bool = True) -> FloatArray:
        """Gradient of the log-likelihood in the components, (c,).

        ½ (yᵀPV_iPy - tr(T V_i)), T = P for REML and Σ⁻¹ for ML.
        """
        flag("reml", reml)
        traces = state.factored.traces()
        if reml:
            for i, effect in enumerate(self.effects):
                inner = state.SQ.T @ effect.times(state.SQ)
                traces[i] -= np.trace(np.linalg.solve(state.qsq, inner))
        quadratic = [state.Py @ VPy for VPy in self._VPy(state).T]
        return 0.5 * (np.array(quadratic) - traces)

    def information(
        self, state: VCState, kind: Information = "average", *, reml: bool = True
    ) -> FloatArray:
        """Information matrix of the components, (c, c).

        Average ½ yᵀPV_iPV_jPy, expected ½ tr(T V_i T V_j), observed twice the first less the
        second: minus the second derivatives of the log-likelihood (for ML profiled over β).
        """
        kind = choice("information", kind, get_args(Information))
        flag("reml", reml)
        if kind == "average":
            VPy = self._VPy(state)
            average = 0.5 * VPy.T @ state.project(VPy)
            return np.asarray(0.5 * (average + average.T))
        expected = 0.5 * self._trace_products(state, reml=reml)
        if kind == "expected":
            return expected
        return 2.0 * self.information(state, "average") - expected

    def fit(
        self,
        *,
        reml: bool = True,
        maximiser: Maximiser = "average",
        start: ArrayLike | None = None,
        max_iterations: int | None = None,
        tolerance: float = 1e-8,
        information: Information = "observed",
        verbose: bool = False,
    ) -> VCFit:
        """Estimate the components by (restricted) maximum likelihood.

        Parameters
        ----------
        reml : bool
            Restricted likelihood; else maximum likelihood.
        maximiser : {"average", "fisher", "newton", "em", "grid"}
            Average information, Fisher scoring, Newton-Raphson after three steps of scoring,
            expectation-maximisation, or a grid over the proportions that closes in.
        start : (c,) array_like, optional
            Components to start from; by default equal shares of the residual variance.
        max_iterations : int, optional
            Most iterations; by default 100, for Fisher scoring 1,000 and for EM 20,000.
        tolerance : float
            Ends when the average information step that is left changes no component by more
            than this share of the total variance. (So for every maximiser: EM's own steps are
            small long before its end.)
        information : {"observed", "expected", "average"}
            What standard errors are taken from.
        verbose : bool
            Print a line for each iteration.

        Returns
        -------
        VCFit
            ``converged`` says whether the tolerance was reached.

        Raises
        ------
        ValueError
            If an option is unknown, or the covariance at ``start`` is not positive definite.
        """
        flag("reml", reml)
        flag("verbose", verbose)
        kind = choice("information", information, get_args(Information))
        first = self.default_start() if start is None else np.asarray(start, dtype=np.float64)
        result = maximise(
            self,
            first,
            maximiser,
            reml=reml,
            max_iterations=max_iterations,
            tolerance=tolerance,
            verbose=verbose,
        )
        return VCFit(self, result, reml, kind)

    def default_start(self) -> FloatArray:
        """Equal shares of the residual variance, scaled to the best total."""
        n, p = self.X.shape
        residual = self.y - self.X @ least_squares(self.X, self.y)
        total = float(residual @ residual) / (n - p)
        if not total > 1e-26 * float(np.mean(self.y**2)):
            raise ValueError("y is a linear combination of the columns of X: no residual is left")
        size = [1.0 if e.V is None else float(np.mean(e.V.diagonal())) for e in self.effects]
        start = total / self.n_components / np.array(size)
        state = self.state(start)
        if state is None:
            raise ValueError(
                "the covariance with equal shares is not positive definite; give start"
            )
        return np.asarray(start * state.ypy / (n - p))

    def _VPy(self, state: VCState) -> FloatArray:
        return np.stack([effect.times(state.Py) for effect in self.effects], axis=1)

    def _trace_products(self, state: VCState, *, reml: bool) -> FloatArray:
        """tr(T V_i T V_j), (c, c)."""
        out = state.factored.trace_products()
        if not reml:
            return out
        lower = linalg.cholesky(state.qsq, lower=True)
        # Q = S Q L⁻ᵀ with L Lᵀ = QᵀSQ (Q on the right the basis of X), so that P = S - Q Qᵀ.
        Q = linalg.solve_triangular(lower, state.SQ.T, lower=True).T
        VQ = [effect.times(Q) for effect in self.effects]
        SVQ = [state.factored.solve(columns) for columns in VQ]
        QVQ = [Q.T @ columns for columns in VQ]
        for i in range(self.n_components):
            for j in range(i + 1):
                change = np.sum(QVQ[i] * QVQ[j].T) - 2.0 * np.sum(VQ[i] * SVQ[j])
                out[i, j] += change
                out[j, i] = out[i, j]
        return out

    def _check_independent(self) -> None:
        c = self.n_components
        gram = np.zeros((c, c))
        for group in self._groups:
            parts = [group.covariance(i) for i in range(c)]
            shape = np.broadcast_shapes(*(part.shape for part in parts), (len(group.index), 1, 1))
            full = [np.broadcast_to(part, shape) for part in parts]
            for i in range(c):
                for j in range(i + 1):
                    gram[i, j] += np.einsum("bkl,bkl->", full[i], full[j])
                    gram[j, i] = gram[i, j]
        size = np.sqrt(np.diagonal(gram))
        value, vectors = np.linalg.eigh(gram / np.outer(size, size))
        if value[0] < _DEPENDENT:
            among = [n for n, w in zip(self.names, vectors[:, 0], strict=True) if abs(w) > 1e-4]
            raise ValueError(
                f"the covariances of {', '.join(among)} are linearly dependent among these "
                "samples: their components can't be told apart, leave one out"
            )
