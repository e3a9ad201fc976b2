"""What the null model is fitted to: samples matched, phenotypes and covariates read."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import pandas as pd

from hlmm_dask.arguments import flag, number
from hlmm_dask.errors import InputError
from hlmm_dask.frames import TableSource, as_table, one_column
from hlmm_dask.genotypes.foreign_dataset import samples_of
from hlmm_dask.genotypes.paths import Paths
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.missing import MissingLike
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.option_rules import require
from hlmm_dask.random_effects import random_effects
from hlmm_dask.samples import AlignedSamples, People
from hlmm_dask.tables import Table
from hlmm_dask.text import shown
from hlmm_dask.transforms import known_transform, transformed

if TYPE_CHECKING:
    import xarray as xr
    from typing_extensions import TypeIs

from hlmm_dask.scanning.null import H2_INIT, NullModel, fit_null_arrays

Genotypes: TypeAlias = "Paths | PlinkGenotypes | xr.Dataset"


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
    missing: MissingLike = (),
    no_minus9: bool = False,
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
    phenotype : path, Table, DataFrame or Series
        FID, IID, values; see `as_table` for the IDs of a DataFrame.
    phenotype_column : str or int
        1-based position of the phenotype's column, or its name; text as on the command line.
    mean_covariates, variance_covariates : path, Table, DataFrame or Series, optional
        FID, IID, covariates of the mean and of the log variance.
    random_genotypes : path, paths or PlinkGenotypes, optional
        Variants with random effects.
    random_table : path, Table or DataFrame, optional
        FID, IID, columns with random effects, instead of genotypes.
    fit_covariates : bool
        Keep the covariates in every variant's model instead of projecting them out.
    h2_init : float
        Start of h2, as a share of the phenotype's variance.
    missing : sequence of str
        Fields of the tables that mean missing, besides NA, NaN, ``.`` and the empty field.
    no_minus9 : bool
        Take -9 in the phenotype as a number; else it is a missing value.
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
    require(
        {
            "h2_init": h2_init,
            "random_gts": random_genotypes is not None or random_table is not None,
            "fit_covariates": fit_covariates,
            "mean_covar": mean_covariates is not None or variance_covariates is not None,
        },
        {"h2_init": H2_INIT, "random_gts": False, "fit_covariates": False, "mean_covar": False},
    )  # fmt: skip
    return read_null_input(
        genotypes, phenotype, phenotype_column=phenotype_column,
        mean_covariates=mean_covariates, variance_covariates=variance_covariates,
        random_genotypes=random_genotypes, random_table=random_table,
        fit_covariates=fit_covariates, h2_init=h2_init, missing=missing, no_minus9=no_minus9,
        transform=transform,
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
    missing: MissingLike = (),
    no_minus9: bool = False,
    transform: str = "none",
) -> NullInput:
    """Read and match what the null model is fitted to; arguments as in :func:`fit_null`.

    Raises
    ------
    InputError
        If input can't be used.
    """
    if not isinstance(phenotype, Table):
        phenotype = one_column(phenotype, phenotype_column, missing=missing)
        phenotype_column = 1
    return read_null_inputs(
        genotypes, phenotype, [(phenotype_column, transform)],
        mean_covariates=mean_covariates, variance_covariates=variance_covariates,
        random_genotypes=random_genotypes, random_table=random_table,
        fit_covariates=fit_covariates, h2_init=h2_init, missing=missing, no_minus9=no_minus9,
    )[0]  # fmt: skip


def read_null_inputs(
    genotypes: Genotypes,
    phenotype: Table,
    chosen: Sequence[tuple[str | int, str]],
    *,
    mean_covariates: TableSource | None = None,
    variance_covariates: TableSource | None = None,
    random_genotypes: Paths | PlinkGenotypes | None = None,
    random_table: TableSource | None = None,
    fit_covariates: bool = False,
    h2_init: float = H2_INIT,
    missing: MissingLike = (),
    no_minus9: bool = False,
) -> list[NullInput]:
    """As :func:`read_null_input` for several phenotypes, each a column and a transform of it."""
    samples, source = genotyped_samples(genotypes)
    check_h2_init(h2_init)
    flag("fit_covariates", fit_covariates)
    flag("no_minus9", no_minus9)
    chosen = [(column, known_transform(transform)) for column, transform in chosen]
    if random_genotypes is not None and random_table is not None:
        raise InputError("random effects are given as genotypes and as a table; give one of them")
    mean, variance = (
        None if given is None else as_table(given, missing=missing)
        for given in (mean_covariates, variance_covariates)
    )
    columns = list(dict.fromkeys(column for column, _ in chosen))
    people = People.match(
        samples,
        phenotype,
        mean_covariates=mean,
        variance_covariates=variance,
        genotypes_name=source,
    )
    # A variant has an effect on the mean and one on the variance, or in an LMM one variance more.
    extra = 2 + (random_genotypes is not None or random_table is not None)
    aligned = _aligned(people, columns, no_minus9=no_minus9, extra_parameters=extra)
    random: PlinkGenotypes | Table | None = None
    if random_table is not None:
        random = as_table(random_table, missing=missing)
    elif random_genotypes is not None:
        random = _plink(random_genotypes)
    digest = samples_digest(samples)
    return [
        NullInput(
            aligned=transformed(aligned[column], transform, phenotype.path),
            random=random,
            fit_covariates=fit_covariates,
            h2_init=h2_init,
            n_file_samples=len(samples),
            file_samples_sha256=digest,
            notes=(
                *table_notes([phenotype, mean, variance]),
                *aligned[column].notes,
                *(() if random is None else random.notes),
            ),
            transform=transform,
        )
        for column, transform in chosen
    ]


def check_h2_init(h2_init: float) -> None:
    """Raise an `InputError` unless h2 can start there."""
    expected = "a share of the variance, above 0 and below 1"
    number("--h2-init", h2_init, above=0.0, below=1.0, expected=expected)


def table_notes(tables: Sequence[Table | None]) -> tuple[str, ...]:
    """Give what was noted while the tables were read, each note once."""
    notes = [note for table in tables if table is not None for note in table.notes]
    return tuple(dict.fromkeys(notes))


def genotyped_samples(genotypes: Genotypes) -> tuple[pd.DataFrame, str]:
    """Give the samples, ``fid`` and ``iid``, and the name of where they stand."""
    if is_dataset(genotypes):
        return samples_of(genotypes), "the Dataset"
    plink = _plink(genotypes)
    return plink.samples, str(plink.files[0].fam)


def is_dataset(genotypes: Genotypes) -> "TypeIs[xr.Dataset]":
    """Whether genotypes are a Dataset; does not import xarray, which none has made then."""
    xarray = sys.modules.get("xarray")
    return xarray is not None and isinstance(genotypes, xarray.Dataset)


def samples_digest(samples: pd.DataFrame) -> str:
    """SHA-256 of the (FID, IID) of all samples in their order."""
    # As lists: items of a Series come one by one, and slowly.
    pairs = zip(samples["fid"].tolist(), samples["iid"].tolist(), strict=True)
    text = "\n".join(map("\t".join, pairs))
    return hashlib.sha256(text.encode()).hexdigest()


def _plink(source: Paths | PlinkGenotypes | None) -> PlinkGenotypes:
    assert source is not None
    return source if isinstance(source, PlinkGenotypes) else open_plink(source)


def _aligned(
    people: People, columns: Sequence[str | int], *, no_minus9: bool, extra_parameters: int
) -> dict[str | int, AlignedSamples]:
    """Align each phenotype; where some can't be used, name all of them."""
    aligned: dict[str | int, AlignedSamples] = {}
    wrong: dict[str | int, InputError] = {}
    for column in columns:
        try:
            aligned[column] = people.align(
                column, no_minus9=no_minus9, extra_parameters=extra_parameters
            )
        except InputError as error:
            wrong[column] = error
    if wrong:
        first, *others = wrong
        listed = ", ".join(shown(people.phenotype.column(name)[0]) for name in others[:20])
        more = ", ..." if len(others) > 20 else ""
        also = f"; nor can these phenotypes be used: {listed}{more}" if others else ""
        raise InputError(f"{wrong[first]}{also}")
    return aligned
