"""The null model: fitted once, frozen, and sent to every worker."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd
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
from hlmm_dask.samples import AlignedSamples, People
from hlmm_dask.tables import Table, read_table
from hlmm_dask.transforms import check_transform, title_of, transformed

if TYPE_CHECKING:
    import xarray as xr
    from typing_extensions import TypeIs

FloatArray = NDArray[np.float64]
TableSource = str | PathLike[str] | Table
Genotypes: TypeAlias = "Paths | PlinkGenotypes | xr.Dataset"

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
    transform: str = "none",
) -> NullModel:
    """Match samples, fit the null model, and adjust the phenotype.

    Steps: samples with phenotype, covariates and genotypes; the transform; HLM with the
    covariates; unless ``fit_covariates``, y becomes (y - Xα̂)/exp(½Vβ̂); with random effects,
    h2 of what is then left, by HLMM.

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
    transform : {"none", "log", "rint"}
        Of the analysed samples' phenotype as it is: natural logarithm, or normal scores of ranks.

    Returns
    -------
    NullModel

    Raises
    ------
    InputError
        If input can't be used, or the null model does not converge.
    """
    return read_null_input(
        genotypes, phenotype, phenotype_column=phenotype_column,
        mean_covariates=mean_covariates, variance_covariates=variance_covariates,
        random_genotypes=random_genotypes, random_table=random_table,
        fit_covariates=fit_covariates, h2_init=h2_init, missing=missing, transform=transform,
    ).fit()  # fmt: skip


@dataclass(frozen=True)
class NullInput:
    """What a null model is fitted to: all of it read and checked but the columns of G.

    Attributes
    ----------
    aligned : AlignedSamples
        The analysed samples with their values.
    random : PlinkGenotypes, Table or None
        Where the random effects' columns come from.
    fit_covariates : bool
        Whether the covariates stay in every model.
    h2_init : float
        Start of h2, as a share of the phenotype's variance.
    n_file_samples, file_samples_sha256, notes, transform
        As in ``NullModel``.
    """

    aligned: AlignedSamples
    random: PlinkGenotypes | Table | None
    fit_covariates: bool
    h2_init: float
    n_file_samples: int
    file_samples_sha256: str
    notes: tuple[str, ...]
    transform: str = "none"

    @property
    def n_columns(self) -> int:
        """Columns in the file of the random effects; those that are constant will be left out."""
        if self.random is None:
            return 0
        return len(self.random.names) if isinstance(self.random, Table) else self.random.n_variants

    def fit(self) -> NullModel:
        """Read the random effects and fit; see :func:`fit_null`."""
        notes, design, contig, position = self.notes, None, None, None
        if self.random is not None:
            columns = random_effects(self.aligned.ids, self.random)
            design = RandomDesign(columns.raw, columns.centre, columns.scale)
            contig, position = columns.contig, columns.position
            notes = (*notes, *columns.notes)
        fitted = fit_null_arrays(
            self.aligned, design, fit_covariates=self.fit_covariates, h2_init=self.h2_init
        )
        return replace(
            fitted,
            n_file_samples=self.n_file_samples,
            notes=notes,
            file_samples_sha256=self.file_samples_sha256,
            random_contig=contig,
            random_position=position,
            transform=self.transform,
        )


def read_null_input(
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
    transform: str = "none",
) -> NullInput:
    """Read and match what the null model is fitted to; arguments as in :func:`fit_null`.

    Raises
    ------
    InputError
        If input can't be used.
    """
    return read_null_inputs(
        genotypes, phenotype, [(phenotype_column, transform)],
        mean_covariates=mean_covariates, variance_covariates=variance_covariates,
        random_genotypes=random_genotypes, random_table=random_table,
        fit_covariates=fit_covariates, h2_init=h2_init, missing=missing,
    )[0]  # fmt: skip


def read_null_inputs(
    genotypes: Genotypes,
    phenotype: TableSource,
    chosen: Sequence[tuple[str | int, str]],
    *,
    mean_covariates: TableSource | None = None,
    variance_covariates: TableSource | None = None,
    random_genotypes: Paths | PlinkGenotypes | None = None,
    random_table: TableSource | None = None,
    fit_covariates: bool = False,
    h2_init: float = H2_INIT,
    missing: Sequence[str] = ("NA",),
) -> list[NullInput]:
    """As :func:`read_null_input` for several phenotypes, each a column and a transform of it."""
    samples, source = genotyped_samples(genotypes)
    check_h2_init(h2_init)
    for _, transform in chosen:
        check_transform(transform)
    if random_genotypes is not None and random_table is not None:
        raise InputError("random effects are given as genotypes and as a table; give one of them")
    tables = [_table(phenotype, missing)] + [
        None if given is None else _table(given, missing)
        for given in (mean_covariates, variance_covariates)
    ]
    traits, mean, variance = tables
    assert traits is not None
    people = People.match(
        samples,
        traits,
        mean_covariates=mean,
        variance_covariates=variance,
        genotypes_name=source,
    )
    columns = {column: people.align(column) for column in dict.fromkeys(c for c, _ in chosen)}
    random: PlinkGenotypes | Table | None = None
    if random_table is not None:
        random = _table(random_table, missing)
    elif random_genotypes is not None:
        random = _plink(random_genotypes)
    digest = samples_digest(samples)
    return [
        NullInput(
            aligned=transformed(columns[column], transform, traits.path),
            random=random,
            fit_covariates=fit_covariates,
            h2_init=h2_init,
            n_file_samples=len(samples),
            file_samples_sha256=digest,
            notes=(
                *table_notes(tables),
                *columns[column].notes,
                *(() if random is None else random.notes),
            ),
            transform=transform,
        )
        for column, transform in chosen
    ]


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
    what = f"phenotype '{aligned.phenotype_name}'"
    with refused(what):
        null = converged(HLM(y, X, V).fit(), what)
    model = DenseModel(y, X, V, null.alpha, null.beta)
    if not fit_covariates:
        adjusted = (y - X @ null.alpha) * np.exp(-0.5 * (V @ null.beta))
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


def check_h2_init(h2_init: float) -> None:
    """Raise an `InputError` unless h2 can start there."""
    if not 0.0 < h2_init < 1.0:
        raise InputError(f"h2_init {h2_init:g}: expected a share of the variance, 0 < h2_init < 1")


def table_notes(tables: Sequence[Table | None]) -> tuple[str, ...]:
    """Give what was noted while the tables were read, each note once."""
    notes = [note for table in tables if table is not None for note in table.notes]
    return tuple(dict.fromkeys(notes))


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


def genotyped_samples(genotypes: Genotypes) -> tuple[pd.DataFrame, str]:
    """Give the samples, ``fid`` and ``iid``, and the name of where they stand."""
    if is_dataset(genotypes):
        require_variables(genotypes, ("sample_id",))
        ids = genotypes["sample_id"].to_numpy().astype(str).astype(object)
        families = ids
        if "sample_family_id" in genotypes:
            families = genotypes["sample_family_id"].to_numpy().astype(str).astype(object)
        return pd.DataFrame({"fid": families, "iid": ids}), "the Dataset"
    plink = _plink(genotypes)
    return plink.samples, str(plink.files[0].fam)


def is_dataset(genotypes: Genotypes) -> "TypeIs[xr.Dataset]":
    """Whether genotypes are a Dataset; does not import xarray, which none has made then."""
    xarray = sys.modules.get("xarray")
    return xarray is not None and isinstance(genotypes, xarray.Dataset)


def require_variables(dataset: "xr.Dataset", names: Sequence[str]) -> None:
    """Raise an `InputError` that names the variables which a Dataset of genotypes lacks."""
    lacking = [name for name in names if name not in dataset.variables]
    if lacking:
        raise InputError(
            f"the Dataset has no {', '.join(lacking)}; expected the variables of open_bed: "
            "dimensions variants and samples, names as in VCF Zarr"
        )


def samples_digest(samples: pd.DataFrame) -> str:
    """SHA-256 of the (FID, IID) of all samples in their order."""
    # As lists: items of a Series come one by one, and slowly.
    pairs = zip(samples["fid"].tolist(), samples["iid"].tolist(), strict=True)
    text = "\n".join(map("\t".join, pairs))
    return hashlib.sha256(text.encode()).hexdigest()


def _plink(source: Paths | PlinkGenotypes | None) -> PlinkGenotypes:
    assert source is not None
    return source if isinstance(source, PlinkGenotypes) else open_plink(source)


def _table(source: TableSource, missing: Sequence[str]) -> Table:
    return source if isinstance(source, Table) else read_table(source, missing=missing)
