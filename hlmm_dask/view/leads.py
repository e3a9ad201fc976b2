"""Independent lead variants: by distance, or by linkage where the genotypes are at hand."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.missing import Missing
from hlmm_dask.scanning.null import NullModel, lmm_input_sha256
from hlmm_dask.scanning.null_input import NullInput, read_null_input
from hlmm_dask.scanning.scanned import ScannedGenotypes
from hlmm_dask.store import ResultsStore
from hlmm_dask.tables import Table, by_name, read_table
from hlmm_dask.view.facts import Facts
from hlmm_dask.view.spread import phenotype_scale
from hlmm_dask.view.thinned import GENOME_WIDE, Thinned

# Variants whose genotypes are compared, at most, for each test.
_MAX_CANDIDATES = 2000


@dataclass(frozen=True)
class AtHand:
    """Genotypes and phenotype of a scan.

    Attributes
    ----------
    scanned : ScannedGenotypes
    null : NullModel
        Without random effects, covariates projected out.
    scale : str
        What its phenotype is, and its unit.
    """

    scanned: ScannedGenotypes
    null: NullModel
    scale: str

    def counts(self, index: int) -> NDArray[np.float64]:
        """Return copies of the effect allele of one variant of the scan, NaN where missing."""
        return np.asarray(self.scanned.counts(index, index + 1)[0])

    def standardised(self, index: int) -> NDArray[np.float32]:
        """Genotypes of the analysed samples with mean 0 and length 1, missing ones at the mean."""
        return self.scanned.standardised(index, self.null.sample_index)


def at_hand(store: ResultsStore, facts: Facts) -> AtHand | str:
    """Open a scan's genotypes and phenotype; say why not, where they can't be had."""
    if not facts.options:
        return (
            "the record of the run (.run.json), which names the files, is missing (a scan from "
            "Python has none)"
        )
    options = dict(facts.options)
    for name in ("genofile", "phenofile", "mean_covar", "var_covar"):
        options[name] = paths_from(str(facts.run.get("directory", "")), options.get(name))
    missing, no_minus9 = missing_values(options)
    try:
        genotypes = open_plink(options["genofile"])
        if genotypes.identity() != facts.fingerprint.get("genotypes"):
            return f"{genotypes.paths[0]} is not the file that was scanned"
        given = read_null_input(
            genotypes,
            options["phenofile"],
            phenotype_column=by_name(facts.attrs["phenotype"]),
            mean_covariates=_covariates(options, "mean", missing),
            variance_covariates=_covariates(options, "var", missing),
            missing=missing,
            no_minus9=no_minus9,
            transform=facts.transform,
        )
        null = given.fit()
    except (InputError, OSError) as error:
        return str(error)
    if not _same_input(facts, given, null):
        return f"{options['phenofile']} or covariates are not what was scanned"
    first, count_a2 = int(facts.attrs["first_variant"]), facts.attrs["effect_allele"] == "A2"
    return AtHand(
        ScannedGenotypes(genotypes, store, first, count_a2),
        null,
        phenotype_scale(null, mixed=facts.attrs["model"] != "HLM"),
    )


def _same_input(facts: Facts, given: NullInput, null: NullModel) -> bool:
    """Whether phenotype and covariates are those that were scanned."""
    kept = facts.fingerprint.get("phenotype_and_covariates_sha256")
    if facts.attrs["model"] == "HLMM":
        # That digest is also of the random effects' columns, which are not read here.
        loglik = facts.phenotype.get("loglik", null.loglik)
        return isclose(null.loglik, loglik, rel_tol=1e-6)
    lmm = facts.attrs["model"] == "LMM"
    return kept == (lmm_input_sha256(given.aligned) if lmm else null.input_sha256)


def paths_from(folder: str, path: Any) -> Any:
    """Paths as the command meant them, wherever this process was started."""
    if isinstance(path, list):
        return [paths_from(folder, each) for each in path]
    return None if path is None else os.path.join(folder, path)


def missing_values(options: Mapping[str, Any]) -> tuple[Missing, bool]:
    """Give what meant missing in a run's tables, and whether -9 was a number in phenotypes."""
    # Runs of versions before that option took it for a number.
    return Missing.of(options.get("missing_char") or ()), bool(options.get("no_minus9", True))


def _covariates(options: Mapping[str, Any], part: str, missing: Missing) -> Table | None:
    path = options[f"{part}_covar"]
    if path is None:
        return None
    return read_table(path, columns=options[f"{part}_covar_cols"], missing=missing)


def lead_rows(
    thinned: Thinned,
    test: str,
    here: AtHand | None,
    *,
    n: int = 200,
    window: int = 500_000,
    r2: float = 0.1,
) -> NDArray[np.intp]:
    """Rows of the points that lead: the significant ones, or, if fewer, the ten best.

    Parameters
    ----------
    thinned : Thinned
    test : str
        Its name.
    here : AtHand or None
        Genotypes: a variant then belongs to the locus of a better one within `window` only if
        their squared correlation is above `r2`; without, in any case.
    n : int
        Most leads.
    window : int
        Base pairs.
    r2 : float
        Squared correlation.
    """
    least = -float(np.log10(GENOME_WIDE))
    by_distance = thinned.loci(test, n, window=window, at_least=least)
    if by_distance.size < 10:
        by_distance = thinned.loci(test, 10, window=window)
    if here is None:
        return by_distance
    leads = unlinked_rows(
        thinned, test, here.standardised, n=n, window=window, r2=r2, at_least=least
    ).tolist()
    # Below significance, what stands near a lead is not a further one.
    y = thinned.points[thinned.test(test).column]
    rest = [row for row in by_distance.tolist() if row not in leads and y[row] < least]
    return np.array([*leads, *rest][: max(n, 10)], dtype=np.intp)


def unlinked_rows(
    thinned: Thinned,
    test: str,
    standardised: Callable[[int], NDArray[np.float32]],
    *,
    n: int,
    window: int,
    r2: float,
    at_least: float,
) -> NDArray[np.intp]:
    """Rows of the points that are hardly correlated with any better one near them, best first.

    Parameters
    ----------
    thinned : Thinned
    test : str
        Its name.
    standardised : callable
        Gives genotypes with mean 0 and length 1 of a variant, by its index in the scan.
    n : int
        Most leads.
    window : int
        Base pairs within which variants are compared.
    r2 : float
        Squared correlation above which the weaker of two is no lead.
    at_least : float
        Smallest -log10 p.
    """
    points: Mapping[str, Any] = thinned.points
    y = points[thinned.test(test).column]
    candidates = np.flatnonzero(y >= at_least)
    candidates = candidates[np.argsort(-y[candidates], kind="stable")][:_MAX_CANDIDATES]
    leads: list[int] = []
    genotypes: dict[int, NDArray[np.float32]] = {}
    for row in candidates.tolist():
        if len(leads) >= n:
            break
        near = [
            lead
            for lead in leads
            if points["contig"][lead] == points["contig"][row]
            and abs(points["position"][lead] - points["position"][row]) <= window
        ]
        g = standardised(int(points["index"][row])) if near else None
        for lead in near:
            if lead not in genotypes:
                genotypes[lead] = standardised(int(points["index"][lead]))
        if g is None or all(float(g @ genotypes[lead]) ** 2 <= r2 for lead in near):
            leads.append(row)
    return np.array(leads, dtype=np.intp)
