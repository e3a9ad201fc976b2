"""The null model: fitted once, frozen, and sent to every worker."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.paths import Paths
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.hlmm import RandomEffectModel
from hlmm_dask.kernels.hlmm_null import InterceptFit, fit_intercepts
from hlmm_dask.models.hlm import HLM, HLMFit
from hlmm_dask.models.hlmm import H2_MIN, HLMM, HLMMFit
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.random_effects import random_effects
from hlmm_dask.samples import AlignedSamples, align
from hlmm_dask.tables import Table, read_table

FloatArray = NDArray[np.float64]
TableSource = str | PathLike[str] | Table
Genotypes = Paths | PlinkGenotypes | xr.Dataset

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

    def digest(self) -> str:
        """SHA-256 of all numbers that decide the scan's results."""
        total = hashlib.sha256()
        model = self.model
        arrays: list[NDArray[Any]] = [self.sample_index, model.y, model.X, model.V]
        arrays += [model.alpha, model.beta]
        if model.design is not None:
            arrays += [model.design.raw, model.design.centre, model.design.scale]
            arrays.append(np.array([model.h2, model.h2_min]))
        for array in arrays:
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()


def fit_null(
    genotypes: Genotypes,
    phenotype: TableSource,
    *,
    phenotype_column: str | int = 1,
    mean_covariates: TableSource | None = None,
    variance_covariates: TableSource | None = None,
    random_genotypes: Paths | PlinkGenotypes | None = None,
    random_table: TableSource | None = None,
    fit_covariates: bool = False,
    h2_init: float = H2_INIT,
    missing: Sequence[str] = ("NA",),
) -> NullModel:
    """Match samples, fit the null model, and adjust the phenotype.

    Steps: samples with phenotype, covariates and genotypes; HLM with the covariates; unless
    ``fit_covariates``, y becomes (y - Xα̂)/exp(½Vβ̂); with random effects, h2 of what
    is then left, by HLMM.

    Parameters
    ----------
    genotypes : path, paths, PlinkGenotypes or Dataset
        What will be scanned; only its samples are read.
    phenotype : path or Table
        FID, IID, values.
    phenotype_column : str or int
        Name or 1-based number of the phenotype's column.
    mean_covariates, variance_covariates : path or Table, optional
        FID, IID, covariates of the mean and of the log variance.
    random_genotypes : path, paths or PlinkGenotypes, optional
        Variants with random effects.
    random_table : path or Table, optional
        FID, IID, columns with random effects, instead of genotypes.
    fit_covariates : bool
        Keep the covariates in every variant's model instead of projecting them out.
    h2_init : float
        Start of h2, as a share of the phenotype's variance.
    missing : sequence of str
        What stands for a missing value in the tables.

    Returns
    -------
    NullModel

    Raises
    ------
    InputError
        If input can't be used, or the null model does not converge.
    """
    samples, source = _samples(genotypes)
    aligned = align(
        samples,
        _table(phenotype, missing),
        phenotype_column=phenotype_column,
        mean_covariates=None if mean_covariates is None else _table(mean_covariates, missing),
        variance_covariates=(
            None if variance_covariates is None else _table(variance_covariates, missing)
        ),
        genotypes_name=source,
    )
    if random_genotypes is not None and random_table is not None:
        raise InputError("random effects are given as genotypes and as a table; give one of them")
    design, notes = None, aligned.notes
    if random_genotypes is not None or random_table is not None:
        columns = random_effects(
            aligned.ids,
            _table(random_table, missing) if random_table is not None else _plink(random_genotypes),
        )
        design = RandomDesign(columns.raw, columns.centre, columns.scale)
        notes = notes + columns.notes
    fitted = fit_null_arrays(aligned, design, fit_covariates=fit_covariates, h2_init=h2_init)
    return replace(fitted, n_file_samples=len(samples), notes=notes)


def fit_null_arrays(
    aligned: AlignedSamples,
    design: RandomDesign | None,
    *,
    fit_covariates: bool = False,
    h2_init: float = H2_INIT,
) -> NullModel:
    """Fit the null model to samples that are matched already; see :func:`fit_null`."""
    ones = np.ones((aligned.n_samples, 1))
    X = np.column_stack([ones, aligned.standardised_mean_covariates()])
    V = np.column_stack([ones, aligned.standardised_variance_covariates()])
    y = aligned.y
    null = converged(HLM(y, X, V).fit(), f"phenotype '{aligned.phenotype_name}'")
    model = DenseModel(y, X, V, null.alpha, null.beta)
    if not fit_covariates:
        adjusted = (y - X @ null.alpha) * np.exp(-0.5 * (V @ null.beta))
        model = DenseModel(adjusted, ones, ones, np.zeros(1), np.zeros(1))
    h2: tuple[float, float, float] | None = None
    if design is not None:
        what = f"phenotype '{aligned.phenotype_name}', random effects"
        model, h2 = _fit_random(replace(model, design=design), h2_init, what)
    return NullModel(
        model=model,
        fit_covariates=fit_covariates,
        n_file_samples=aligned.n_samples,
        sample_index=aligned.sample_index,
        phenotype_name=aligned.phenotype_name,
        mean_effects=effects_per_unit(
            aligned.mean_names, null.alpha, null.alpha_se, aligned.mean_scale
        ),
        variance_effects=effects_per_unit(
            aligned.variance_names, null.beta, null.beta_se, aligned.variance_scale
        ),
        loglik=null.loglik,
        h2=None if h2 is None else h2[0],
        h2_se=None if h2 is None else h2[1],
        h2_loglik=None if h2 is None else h2[2],
        accounting=aligned.accounting,
        notes=aligned.notes,
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


def effects_per_unit(
    names: tuple[str, ...], effects: FloatArray, errors: FloatArray, scale: FloatArray
) -> Effects:
    """Effects per unit of each covariate in its file, given those of standardised covariates."""
    unit = np.concatenate([[1.0], scale])
    return Effects(("Intercept", *names), effects / unit, errors / unit)


def converged(fit: _Fit, what: str) -> _Fit:
    """Return the fit, or raise an `InputError` that says why it is not a maximum."""
    if not fit.converged:
        reason = fit.convergence.name.lower().replace("_", " ")
        raise InputError(
            f"{what}: the null model did not converge ({reason}); look for outliers, "
            "or for a covariate that explains a group of samples without residual"
        )
    return fit


def _samples(genotypes: Genotypes) -> tuple[pd.DataFrame, str]:
    if isinstance(genotypes, xr.Dataset):
        ids = genotypes["sample_id"].to_numpy().astype(str).astype(object)
        families = ids
        if "sample_family_id" in genotypes:
            families = genotypes["sample_family_id"].to_numpy().astype(str).astype(object)
        return pd.DataFrame({"fid": families, "iid": ids}), "the Dataset"
    plink = _plink(genotypes)
    return plink.samples, str(plink.files[0].fam)


def _plink(source: Paths | PlinkGenotypes | None) -> PlinkGenotypes:
    assert source is not None
    return source if isinstance(source, PlinkGenotypes) else open_plink(source)


def _table(source: TableSource, missing: Sequence[str]) -> Table:
    return source if isinstance(source, Table) else read_table(source, missing=missing)
