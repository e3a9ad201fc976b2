"""The files that a scan read, found again by its record and opened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.followup.refit import Design, independent
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.ids import ids_of
from hlmm_dask.missing import Missing
from hlmm_dask.samples import AlignedSamples, align
from hlmm_dask.scanning.null import NullModel
from hlmm_dask.scanning.null_input import NullInput, read_null_input
from hlmm_dask.scanning.scanned import ScannedGenotypes
from hlmm_dask.store import ResultsStore
from hlmm_dask.tables import Table, by_name, read_column, read_table
from hlmm_dask.transforms import transformed
from hlmm_dask.view.facts import Facts
from hlmm_dask.view.leads import missing_values, paths_from

FloatArray = NDArray[np.float64]
_FILES = ("genofile", "phenofile", "mean_covar", "var_covar", "random_gts")


@dataclass(frozen=True)
class Files:
    """Input that is given anew, names as the options of ``hlmm-scan``; else that of the run."""

    genofile: str | Sequence[str] | None = None
    phenofile: str | None = None
    mean_covar: str | None = None
    var_covar: str | None = None
    mean_covar_cols: str | None = None
    var_covar_cols: str | None = None
    random_gts: str | None = None
    random_gts_txt: bool | None = None
    missing_char: Sequence[str] | None = None
    no_minus9: bool | None = None


@dataclass(frozen=True)
class Study:
    """The input of a scan.

    Attributes
    ----------
    scanned : ScannedGenotypes
    traits : Table
        The phenotype, one column.
    given : NullInput
        What the null model was fitted to.
    null : NullModel
        The scan's own.
    covariates : AlignedSamples or None
        Samples and values with all covariates of the run, or those given now.
    mean, variance : Table or None
        The tables of these covariates.
    scale : str
        Transform of the phenotype.
    missing : Missing
        What means missing in the tables.
    no_minus9 : bool
        Whether -9 in the phenotype is a number.
    left_out : float or None
        Base pairs within which the scan left out random effects; infinite: the chromosome.
    """

    scanned: ScannedGenotypes
    traits: Table
    given: NullInput
    null: NullModel
    covariates: AlignedSamples | None
    mean: Table | None
    variance: Table | None
    scale: str
    missing: Missing
    no_minus9: bool
    left_out: float | None

    @property
    def genotypes(self) -> PlinkGenotypes:
        """The files of the genotypes."""
        return self.scanned.genotypes

    def counts(self, index: int) -> FloatArray:
        """Count copies of the effect allele of a variant of the scan, of the analysed samples."""
        return np.asarray(self.scanned.counts(index, index + 1)[0, self.null.sample_index])

    def standardised(self, index: int) -> NDArray[np.float32]:
        """Genotypes of the analysed samples with mean 0 and length 1, missing ones at the mean."""
        return self.scanned.standardised(index, self.null.sample_index)

    def null_on(self, scale: str) -> NullModel:
        """Fit the null model to the phenotype under another transform."""
        if scale == self.scale:
            return self.null
        given = self.given.aligned
        raw = given if self.scale == "none" else self._raw()
        aligned = transformed(raw, scale, self.traits.path)
        return replace(self.given, aligned=aligned, transform=scale).fit()

    def with_covariates(self) -> tuple[NDArray[np.bool_], Design, FloatArray] | None:
        """Give the samples with all covariates, and the design with all of them in both parts.

        Returns
        -------
        rows : (n,) bool
            Those of the analysed samples.
        design : Design
            With every covariate, of mean or variance, in both parts; y is not adjusted.
        unit : float64
            What a unit of the random effects' prediction is on the scale of y, of these samples.
        """
        if self.covariates is None:
            return None
        aligned = self.covariates
        kept = np.isin(aligned.sample_index, self.null.sample_index)
        rows = np.isin(self.null.sample_index, aligned.sample_index)
        columns = np.column_stack(
            [aligned.standardised_mean_covariates(), aligned.standardised_variance_covariates()]
        )[kept]
        X = independent(np.column_stack([np.ones(len(columns)), columns]))
        y = self.given.aligned.y[rows]
        return rows, Design(y, X, X), self._unit()[rows]

    def _raw(self) -> AlignedSamples:
        """Return the aligned samples with the phenotype as it stands in the file."""
        aligned = self.given.aligned
        values = self.traits.values[:, 0]
        known = dict(zip(self.traits.ids, values.tolist(), strict=True))
        people = zip(aligned.ids["fid"].tolist(), aligned.ids["iid"].tolist(), strict=True)
        return replace(aligned, y=np.array([known[each] for each in people]))

    def _unit(self) -> FloatArray:
        """exp(½Vβ̂) of the null model, where the phenotype was divided by it."""
        aligned, effects = self.given.aligned, self.null.variance_effects.effects
        if self.null.fit_covariates:
            return np.ones(aligned.n_samples)
        away = aligned.variance_covariates - aligned.variance_center
        return np.asarray(np.exp(0.5 * (effects[0] + away @ effects[1:])))


def design_of(null: NullModel) -> Design:
    """Give what variants were fitted to."""
    return Design(null.model.y, null.model.X, null.model.V)


def open_study(store: ResultsStore, facts: Facts, files: Files) -> Study:
    """Open what a scan read.

    Parameters
    ----------
    store : ResultsStore
        Its results.
    facts : Facts
        Of the scan.
    files : Files
        Instead of what the record of the run names.

    Raises
    ------
    InputError
        If a file is not known, missing, or not the one that was scanned.
    """
    if files.random_gts is not None and facts.attrs["model"] != "HLMM":
        raise InputError(
            f"--random-gts: {store.path} is a scan without random effects; leave it out"
        )
    options = _options(facts, files)
    for name, what in (("genofile", "genotypes"), ("phenofile", "phenotype file")):
        if not options.get(name):
            raise InputError(
                f"the record of the run (.run.json) does not name the {what}; give --{name}"
            )
    missing, no_minus9 = missing_values(options)
    genotypes = open_plink(options["genofile"])
    if genotypes.identity() != facts.fingerprint.get("genotypes"):
        raise InputError(
            f"{genotypes.paths[0]}: not the genotypes that were scanned; give them with --genofile"
        )
    phenotype = by_name(str(facts.attrs["phenotype"]))
    traits = read_column(options["phenofile"], phenotype, missing=missing)
    # Values are looked up by the IDs of the genotypes.
    traits = traits.matched_to((str(genotypes.files[0].fam), ids_of(genotypes.samples)))
    mean, variance = (_covariates(options, part, missing) for part in ("mean", "var"))
    # Covariates that the run had not are for the refits alone.
    had = {part: bool(facts.options.get(f"{part}_covar")) for part in ("mean", "var")}
    if not facts.options:
        had = dict.fromkeys(had, True)
    given = _null_input(
        options, facts, genotypes, traits, missing,
        mean if had["mean"] else None, variance if had["var"] else None,
    )  # fmt: skip
    null = given.fit()
    kept = facts.fingerprint.get("phenotype_and_covariates_sha256")
    if null.input_sha256 != kept:
        raise InputError(
            f"{options['phenofile']}: phenotype, covariates or random effects are not those that "
            "were scanned; give the scan's files (--phenofile, --mean_covar, --var_covar, "
            "--random_gts)"
        )
    covariates = None
    if mean is not None or variance is not None:
        covariates = align(
            genotypes.samples, traits, mean_covariates=mean, variance_covariates=variance,
            genotypes_name=str(genotypes.files[0].fam), no_minus9=no_minus9,
            # Of the variant that is fitted again.
            extra_parameters=2,
        )  # fmt: skip
    left_out = None
    if facts.fingerprint.get("loco"):
        left_out = float("inf")
    elif facts.fingerprint.get("exclude_window") is not None:
        left_out = 1000.0 * float(facts.fingerprint["exclude_window"])
    first, count_a2 = int(facts.attrs["first_variant"]), facts.attrs["effect_allele"] == "A2"
    scanned = ScannedGenotypes(genotypes, store, first, count_a2)
    return Study(
        scanned, traits, given, null, covariates, mean, variance, facts.transform, missing,
        no_minus9, left_out,
    )  # fmt: skip


def _options(facts: Facts, files: Files) -> dict[str, Any]:
    """Options of the run, its paths as its command meant them, and what is given now."""
    options = dict(facts.options)
    for name in _FILES:
        options[name] = paths_from(str(facts.run.get("directory", "")), options.get(name))
    given = {f.name: getattr(files, f.name) for f in fields(files)}
    return options | {name: value for name, value in given.items() if value is not None}


def _covariates(options: Mapping[str, Any], part: str, missing: Missing) -> Table | None:
    path = options.get(f"{part}_covar")
    if path is None:
        return None
    columns = options.get(f"{part}_covar_cols") or "all"
    return read_table(path, columns=columns, missing=missing)


def _null_input(
    options: Mapping[str, Any], facts: Facts, genotypes: PlinkGenotypes, traits: Table,
    missing: Missing, mean: Table | None, variance: Table | None,
) -> NullInput:  # fmt: skip
    random = table = None
    if facts.attrs["model"] == "HLMM":
        path = options.get("random_gts")
        if path is None:
            raise InputError(
                "the scan had random effects, and the record of the run (.run.json) does not name "
                "their file; give --random_gts"
            )
        if options.get("random_gts_txt"):
            table = read_table(path, missing=missing)
        else:
            random = path
    return read_null_input(
        genotypes,
        traits,
        mean_covariates=mean,
        variance_covariates=variance,
        random_genotypes=random,
        random_table=table,
        fit_covariates=bool(facts.fingerprint.get("fit_covariates")),
        h2_init=float(options.get("h2_init") or 0.05),
        missing=missing,
        no_minus9=missing_values(options)[1],
        transform=facts.transform,
    )
