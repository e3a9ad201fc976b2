"""The null model: fitted once, frozen, and sent to every worker."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.hlmm import RandomEffectModel
from hlmm_dask.kernels.hlmm_null import InterceptFit, fit_intercepts
from hlmm_dask.models.design import Basis
from hlmm_dask.models.hlm import HLM, HLMFit
from hlmm_dask.models.hlmm import H2_MIN, HLMM, HLMMFit
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.samples import AlignedSamples
from hlmm_dask.transforms import title_of

FloatArray = NDArray[np.float64]


H2_INIT = 0.05

_Fit = TypeVar("_Fit", HLMFit, HLMMFit, InterceptFit)


@dataclass(frozen=True)
class Effects:
    """Estimated effects of an intercept and covariates.

    Attributes
    ----------
    names : tuple of str
        ``Intercept``, then the covariates.
    effects, standard_errors : (c,) float64
        Per unit of the covariate as in its file; the intercept at the covariates' means.
    """

    names: tuple[str, ...]
    effects: FloatArray
    standard_errors: FloatArray


@dataclass(frozen=True)
class NullModel:
    """The model without a variant.

    Attributes
    ----------
    model : DenseModel
        What every variant's fit starts from: by default the adjusted phenotype
        (y - Xα̂)/exp(½Vβ̂) with intercepts, else the phenotype with all covariates.
    fit_covariates : bool
        Whether the covariates stay in every model.
    n_file_samples : int
        Samples of the genotypes.
    sample_index : (n,) int64
        Position of each analysed sample among them.
    phenotype_name : str
        Name of the phenotype.
    mean_effects, variance_effects : Effects
        Covariates' effects on mean and log variance.
    loglik : float
        Log-likelihood of the null model without random effects.
    h2, h2_se, h2_loglik : float or None
        Variance of the random effects without a variant, its standard error, and the
        log-likelihood (of the adjusted phenotype, where covariates are projected out).
    accounting : tuple of (str, int)
        Steps of the selection of samples, and how many are left after each.
    notes : tuple of str
        What the user should know.
    input_sha256 : str
        SHA-256 of the values that the model was fitted to. The estimates have no part in it:
        their last bits differ from run to run.
    file_samples_sha256 : str
        SHA-256 of the IDs of all samples of the genotypes, in their order.
    random_contig, random_position : (l,) or None
        Chromosome (str) and position (int64) of each column of G; None where it is a table.
    transform : str
        What was done to the phenotype before: one of `transforms.TRANSFORMS`.
    """

    model: DenseModel
    fit_covariates: bool
    n_file_samples: int
    sample_index: NDArray[np.int64]
    phenotype_name: str
    mean_effects: Effects
    variance_effects: Effects
    loglik: float
    h2: float | None
    h2_se: float | None
    h2_loglik: float | None
    accounting: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]
    input_sha256: str
    file_samples_sha256: str = ""
    random_contig: NDArray[np.object_] | None = None
    random_position: NDArray[np.int64] | None = None
    transform: str = "none"

    @property
    def title(self) -> str:
        """Name of the phenotype with its transform."""
        return title_of(self.phenotype_name, self.transform)

    @property
    def n_samples(self) -> int:
        """Number of analysed samples."""
        return len(self.model.y)

    @property
    def n_random(self) -> int:
        """Number of random effects."""
        return 0 if self.model.design is None else self.model.design.n_random

    @property
    def name(self) -> str:
        """``HLM`` or ``HLMM``."""
        return "HLM" if self.model.design is None else "HLMM"


def fit_null_arrays(
    aligned: AlignedSamples,
    design: RandomDesign | None,
    *,
    fit_covariates: bool = False,
    h2_init: float = H2_INIT,
) -> NullModel:
    """Fit the null model to samples that are matched already; see :func:`fit_null`."""
    ones = np.ones((aligned.n_samples, 1))
    X = mean_design(aligned)
    V = np.column_stack([ones, aligned.standardised_variance_covariates()])
    y = aligned.y
    what = f"phenotype '{aligned.phenotype_name}'"
    with refused(what):
        x, v = Basis.of("the covariates of the mean", X), Basis.of("those of the variance", V)
        null = converged(HLM(y, x.Q, v.Q).fit(), what)
    # Variants have the same estimates with any columns that span the covariates.
    model = DenseModel(y, x.Q, v.Q, null.alpha, null.beta)
    if not fit_covariates:
        adjusted = (y - x.Q @ null.alpha) * np.exp(-0.5 * (v.Q @ null.beta))
        model = DenseModel(adjusted, ones, ones, np.zeros(1), np.zeros(1))
    h2: tuple[float, float, float] | None = None
    if design is not None:
        what += ", random effects"
        with refused(what):
            model, h2 = _fit_random(replace(model, design=design), h2_init, what)
    return NullModel(
        model=model,
        fit_covariates=fit_covariates,
        n_file_samples=aligned.n_samples,
        sample_index=aligned.sample_index,
        phenotype_name=aligned.phenotype_name,
        mean_effects=effects_per_unit(
            aligned.mean_names,
            x.effects(null.alpha),
            np.sqrt(np.diag(x.covariance(null.alpha_cov))),
            aligned.mean_scale,
        ),
        variance_effects=effects_per_unit(
            aligned.variance_names,
            v.effects(null.beta),
            np.sqrt(np.diag(v.covariance(null.beta_cov))),
            aligned.variance_scale,
        ),
        loglik=null.loglik,
        h2=None if h2 is None else h2[0],
        h2_se=None if h2 is None else h2[1],
        h2_loglik=None if h2 is None else h2[2],
        accounting=aligned.accounting,
        notes=aligned.notes,
        input_sha256=_digest(aligned.sample_index, y, X, V, *_arrays(design)),
    )


def _fit_random(
    model: DenseModel, h2_init: float, what: str
) -> tuple[DenseModel, tuple[float, float, float]]:
    """Fit the HLMM without a variant; also return h2, its standard error, log-likelihood."""
    assert model.design is not None
    if model.X.shape[1] == model.V.shape[1] == 1:
        # The mean square is 1 by construction where covariates were projected out.
        mean = float(model.y.mean())
        scale = float(np.mean((model.y - mean) ** 2))
        start = RandomEffectModel.build(
            model.y,
            model.design,
            alpha=mean,
            beta=float(np.log(scale)),
            h2=h2_init * scale,
            h2_min=H2_MIN * scale,
        )
        fit = converged(fit_intercepts(start), what)
        alpha, beta = np.array([fit.alpha + mean]), np.array([fit.beta])
        found, bound = (fit.h2, fit.h2_se, fit.loglik), start.h2_min
    else:
        mixed = HLMM(model.y, model.X, model.V, model.design.matrix())
        full = converged(mixed.fit(h2_init=h2_init * mixed.mean_square), what)
        alpha, beta = full.alpha, full.beta
        found, bound = (full.h2, full.h2_se, full.loglik), mixed.h2_min
    return replace(model, alpha=alpha, beta=beta, h2=found[0], h2_min=bound), found


def mean_design(aligned: AlignedSamples) -> FloatArray:
    """Design of the mean without a variant: intercept and standardised covariates."""
    ones = np.ones((aligned.n_samples, 1))
    return np.column_stack([ones, aligned.standardised_mean_covariates()])


def lmm_input_sha256(aligned: AlignedSamples) -> str:
    """SHA-256 of what the mixed model of the mean is fitted to, but for the relationships."""
    return _digest(aligned.sample_index, aligned.y, mean_design(aligned))


def _digest(*arrays: NDArray[np.generic]) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.shape} {array.dtype.str}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def _arrays(design: RandomDesign | None) -> tuple[NDArray[Any], ...]:
    return () if design is None else (design.raw, design.centre, design.scale)


def effects_per_unit(
    names: tuple[str, ...], effects: FloatArray, errors: FloatArray, scale: FloatArray
) -> Effects:
    """Effects per unit of each covariate in its file, given those of standardised covariates."""
    unit = np.concatenate([[1.0], scale])
    return Effects(("Intercept", *names), effects / unit, errors / unit)


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn a model's complaint about its data into an `InputError` that names the phenotype."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{what}: the null model can't be fitted: {error}") from error


def converged(fit: _Fit, what: str) -> _Fit:
    """Return the fit, or raise an `InputError` that says why it is not a maximum."""
    if not fit.converged:
        reason = fit.convergence.name.lower().replace("_", " ")
        raise InputError(
            f"{what}: the null model did not converge ({reason}); look for outliers, "
            "or for a covariate that explains a group of samples without residual"
        )
    return fit
