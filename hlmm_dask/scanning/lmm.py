"""The homoskedastic mixed model without a variant: y ~ N(Xα, σ²K + τ²I)."""

from dataclasses import dataclass
from os import PathLike
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.frames import TableSource
from hlmm_dask.ids import ids_of
from hlmm_dask.kernels.lmm import LAMBDA_BOUNDS, LMMNull, fit_null
from hlmm_dask.missing import MissingLike
from hlmm_dask.models.lmm_heritability import standard_error
from hlmm_dask.models.lmm_spectral import lambda_path
from hlmm_dask.relationship.files import read_kinship
from hlmm_dask.relationship.kinship import Id, Kinship
from hlmm_dask.scanning.kinship import RelationshipParts
from hlmm_dask.scanning.null import (
    Effects,
    NullModel,
    effects_per_unit,
    lmm_input_sha256,
    mean_design,
    refused,
)
from hlmm_dask.scanning.null_input import (
    Genotypes,
    NullInput,
    genotyped_samples,
    read_null_input,
)
from hlmm_dask.scanning.relationships import Relationships, Rotated
from hlmm_dask.transforms import title_of

FloatArray = NDArray[np.float64]
KinshipLike: TypeAlias = str | PathLike[str] | Kinship | RelationshipParts | Relationships


@dataclass(frozen=True)
class VarianceEstimates:
    """Variances of the model without a variant, by REML.

    Attributes
    ----------
    left_out : str
        Chromosome that the matrix is without, ``none`` for the whole one.
    h2, h2_se : float
        Share σ²d / (σ²d + τ²) of K in the variance, d the mean of its diagonal, and its standard
        error from the curvature of the likelihood; NaN at a bound of σ²/τ².
    sigma2, tau2 : float
        σ² and τ².
    loglik_reml, loglik_ml : float
        Maxima of the log-likelihoods; REML with + ½ log|XᵀX|.
    """

    left_out: str
    h2: float
    h2_se: float
    sigma2: float
    tau2: float
    loglik_reml: float
    loglik_ml: float


@dataclass(frozen=True)
class LMMNullModel:
    """The model without a variant, and what tests of variants start from.

    Attributes
    ----------
    relationships : Relationships
        The matrices.
    ids : list of (str, str)
        FID and IID of the analysed samples.
    y : (n,) float64
        Phenotype.
    X : (n, c) float64
        Intercept and standardised covariates.
    whole : LMMNull
        Fit with the whole matrix.
    diagonal : float
        Mean of its diagonal.
    estimates : VarianceEstimates
        Of that fit.
    n_file_samples, sample_index, phenotype_name, mean_effects, accounting, notes, transform
        As in ``NullModel``.
    input_sha256, file_samples_sha256 : str
        As in ``NullModel``.
    """

    relationships: Relationships
    ids: list[Id]
    y: FloatArray
    X: FloatArray
    whole: LMMNull
    diagonal: float
    estimates: VarianceEstimates
    n_file_samples: int
    sample_index: NDArray[np.int64]
    phenotype_name: str
    mean_effects: Effects
    accounting: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]
    input_sha256: str
    file_samples_sha256: str
    transform: str = "none"

    name = "LMM"
    n_random = 0
    fit_covariates = True
    variance_effects = Effects((), np.empty(0), np.empty(0))

    @property
    def title(self) -> str:
        """Name of the phenotype with its transform."""
        return title_of(self.phenotype_name, self.transform)

    @property
    def n_samples(self) -> int:
        """Number of analysed samples."""
        return len(self.y)

    @property
    def loglik(self) -> float:
        """Log-likelihood (ML)."""
        return self.estimates.loglik_ml

    @property
    def h2(self) -> float:
        """Share of K in the variance."""
        return self.estimates.h2

    @property
    def h2_se(self) -> float:
        """Standard error of the share."""
        return self.estimates.h2_se

    def without(self, chromosome: str) -> tuple[LMMNull, float, VarianceEstimates]:
        """Fit with the matrix without a chromosome: null model, mean diagonal, estimates."""
        rotated = self.relationships.rotated(self.ids, chromosome)
        null = _fit(rotated, self.y, self.X, self.phenotype_name)
        return null, rotated.diagonal, variance_estimates(null, rotated.diagonal, chromosome)


AnyNull: TypeAlias = NullModel | LMMNullModel


def fit_lmm_null(
    genotypes: Genotypes,
    phenotype: TableSource,
    *,
    kinship: KinshipLike,
    phenotype_column: str | int = 1,
    mean_covariates: TableSource | None = None,
    missing: MissingLike = (),
    no_minus9: bool = False,
    transform: str = "none",
) -> LMMNullModel:
    """Match samples, and fit the homoskedastic mixed model without a variant by REML and ML.

    Parameters
    ----------
    genotypes : path, paths, PlinkGenotypes or Dataset
        What will be scanned; only its samples are read.
    phenotype : path, Table, DataFrame or Series
        FID, IID, values.
    kinship : path, Kinship, RelationshipParts or Relationships
        Relationships of all who are analysed; with parts, `scan` can leave out each variant's
        chromosome. ``Relationships.of`` shares decompositions among phenotypes.
    phenotype_column : str or int
        1-based position of the phenotype's column, or its name; text as on the command line.
    mean_covariates : path, Table, DataFrame or Series, optional
        FID, IID, covariates.
    missing : sequence of str
        Fields of the tables that mean missing, besides NA, NaN, ``.`` and the empty field.
    no_minus9 : bool
        Take -9 in the phenotype as a number; else it is a missing value.
    transform : {"none", "log", "rint"}
        What is done to the phenotype first.

    Raises
    ------
    InputError
        If input can't be used.
    """
    given = read_null_input(
        genotypes, phenotype, phenotype_column=phenotype_column,
        mean_covariates=mean_covariates, fit_covariates=True, missing=missing,
        no_minus9=no_minus9, transform=transform,
    )  # fmt: skip
    if isinstance(kinship, str | PathLike):
        samples = genotyped_samples(genotypes)[0]
        kinship = read_kinship(kinship, samples=ids_of(samples))
    if not isinstance(kinship, Relationships):
        kinship = Relationships.of(kinship)
    return fit_lmm_input(given, kinship)


def fit_lmm_input(given: NullInput, relationships: Relationships) -> LMMNullModel:
    """Fit to samples that are matched already; see :func:`fit_lmm_null`."""
    aligned = given.aligned
    ids = ids_of(aligned.ids)
    y = aligned.y
    X = mean_design(aligned)
    rotated = relationships.rotated(ids)
    null = _fit(rotated, y, X, aligned.phenotype_name)
    at = null.data.profile(lambda_path, float(np.log(null.lambda_reml)), "reml")
    variance = at.rss / (len(y) - X.shape[1])
    return LMMNullModel(
        relationships=relationships,
        ids=ids,
        y=y,
        X=X,
        whole=null,
        diagonal=rotated.diagonal,
        estimates=variance_estimates(null, rotated.diagonal),
        n_file_samples=given.n_file_samples,
        sample_index=aligned.sample_index,
        phenotype_name=aligned.phenotype_name,
        mean_effects=effects_per_unit(
            aligned.mean_names,
            at.beta,
            np.sqrt(variance * np.diag(at.unscaled_cov)),
            aligned.mean_scale,
        ),
        accounting=aligned.accounting,
        notes=(
            *given.notes,
            *relationships.notes,
            *(f"{relationships.source}: {n}" for n in rotated.rotation.notes),
        ),
        input_sha256=lmm_input_sha256(aligned),
        file_samples_sha256=given.file_samples_sha256,
        transform=given.transform,
    )


def variance_estimates(null: LMMNull, diagonal: float, left_out: str = "none") -> VarianceEstimates:
    """Estimates at the REML maximum of a fit whose matrix has this mean diagonal."""
    at = null.data.profile(lambda_path, float(np.log(null.lambda_reml)), "reml")
    tau2 = at.rss / (null.data.n_samples - null.data.n_covariates)
    share = diagonal * null.lambda_reml
    h2 = share / (1.0 + share)
    inside = LAMBDA_BOUNDS[0] < null.lambda_reml < LAMBDA_BOUNDS[1]
    return VarianceEstimates(
        left_out=left_out,
        h2=h2,
        h2_se=h2 * (1.0 - h2) * standard_error(at) if inside else float("nan"),
        sigma2=null.lambda_reml * tau2,
        tau2=tau2,
        loglik_reml=at.loglik,
        loglik_ml=null.loglik_ml,
    )


def _fit(rotated: Rotated, y: FloatArray, X: FloatArray, phenotype: str) -> LMMNull:
    with refused(f"phenotype '{phenotype}'"):
        return fit_null(rotated.rotation, y, X)
