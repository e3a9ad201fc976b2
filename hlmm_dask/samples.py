"""Who is analysed: phenotype, covariates and genotypes matched by (FID, IID), once."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.covariates import independent, with_moments
from hlmm_dask.discrete import cautions_of
from hlmm_dask.errors import InputError
from hlmm_dask.ids import Id, id_hints, ids_of, shown_ids
from hlmm_dask.missing import code_note, minus_nine_note
from hlmm_dask.tables import Table
from hlmm_dask.text import shown


@dataclass(frozen=True)
class AlignedSamples:
    """The analysed samples, in the order of the genotypes, with their values.

    Attributes
    ----------
    sample_index : (n_samples,) int64
        Index of each among the genotypes' samples, ascending; without genotypes 0 ... n - 1.
    ids : DataFrame
        Columns ``fid`` and ``iid``, one row a sample.
    phenotype_name : str
        Name of the phenotype's column.
    y : (n_samples,) float64
        Phenotype.
    mean_covariates : (n_samples, c) float64
        Covariates of the mean, in the units of their file.
    variance_covariates : (n_samples, v) float64
        Covariates of the log variance, in the units of their file.
    mean_names, variance_names : tuple of str
        Names of the covariates.
    mean_center, mean_scale : (c,) float64
        Mean and population standard deviation of each covariate, over the people who have the
        phenotype and all covariates, genotyped or not.
    variance_center, variance_scale : (v,) float64
        The same for the covariates of the variance.
    accounting : tuple of (str, int)
        Steps, and the people left after each.
    notes : tuple of str
        What the user should know: covariates left out, suspicious values.
    cautions : tuple of str
        Those of the notes that say what the phenotype's values mean for the tests.
    """

    sample_index: NDArray[np.int64]
    ids: pd.DataFrame
    phenotype_name: str
    y: NDArray[np.float64]
    mean_covariates: NDArray[np.float64]
    variance_covariates: NDArray[np.float64]
    mean_names: tuple[str, ...]
    variance_names: tuple[str, ...]
    mean_center: NDArray[np.float64]
    mean_scale: NDArray[np.float64]
    variance_center: NDArray[np.float64]
    variance_scale: NDArray[np.float64]
    accounting: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]
    cautions: tuple[str, ...] = ()

    @property
    def n_samples(self) -> int:
        """Analysed samples."""
        return len(self.y)

    def standardised_mean_covariates(self) -> NDArray[np.float64]:
        """Covariates of the mean, (value - center) / scale: (n_samples, c)."""
        return (self.mean_covariates - self.mean_center) / self.mean_scale

    def standardised_variance_covariates(self) -> NDArray[np.float64]:
        """Covariates of the variance, (value - center) / scale: (n_samples, v)."""
        return (self.variance_covariates - self.variance_center) / self.variance_scale


def align(
    samples: pd.DataFrame | None,
    phenotype: Table,
    *,
    phenotype_column: str | int = 1,
    mean_covariates: Table | None = None,
    variance_covariates: Table | None = None,
    genotypes_name: str = "the genotypes",
    no_minus9: bool = False,
    extra_parameters: int = 0,
) -> AlignedSamples:
    """Match phenotype, covariates and genotypes by (FID, IID).

    A table without FIDs is matched by IID alone, if the IIDs of the others are unique. The order
    of the rows in the tables has no influence on the result, to the last bit.

    Parameters
    ----------
    samples : DataFrame or None
        Samples of the genotypes, columns ``fid`` and ``iid``; None if there are no genotypes:
        then all people with phenotype and covariates, sorted by FID and IID.
    phenotype : Table
        The phenotype file.
    phenotype_column : str or int
        1-based position or name of the phenotype's column, see `choose_columns`.
    mean_covariates, variance_covariates : Table, optional
        Covariates of the mean and of the log variance; all of their columns are used.
    genotypes_name : str
        How messages name the genotypes.
    no_minus9 : bool
        Take -9 in the phenotype as a number; else it is a missing value.
    extra_parameters : int
        Parameters of the models that will be fitted, besides those of the null model without
        random effects.

    Returns
    -------
    AlignedSamples

    Raises
    ------
    InputError
        If nobody is left, the phenotype is constant or missing for all, or there are no more
        samples than parameters of the models.
    """
    people = People.match(
        samples,
        phenotype,
        mean_covariates=mean_covariates,
        variance_covariates=variance_covariates,
        genotypes_name=genotypes_name,
    )
    return people.align(phenotype_column, no_minus9=no_minus9, extra_parameters=extra_parameters)


@dataclass(frozen=True)
class People:
    """The rows of a phenotype table found in covariates and genotypes, once for all of its columns.

    Attributes
    ----------
    phenotype : Table
        The phenotype file.
    order : (n_rows,) int64
        Its rows, sorted by FID and IID.
    covariates : tuple of (Table or None, (n_rows,) int64)
        Covariates of the mean and of the variance, and the row there of each of ``order``, -1 for
        those who are not in it.
    samples : DataFrame or None
        Samples of the genotypes.
    places : (n_rows,) int64
        Which of these each of ``order`` is, -1 for those who are not genotyped.
    genotypes_name : str
        How messages name the genotypes.
    notes : tuple of str
        Who is in the phenotype file, but not among the genotypes.
    """

    phenotype: Table
    order: NDArray[np.int64]
    covariates: tuple[tuple[Table | None, NDArray[np.int64]], ...]
    samples: pd.DataFrame | None
    places: NDArray[np.int64]
    genotypes_name: str
    notes: tuple[str, ...]

    @classmethod
    def match(
        cls,
        samples: pd.DataFrame | None,
        phenotype: Table,
        *,
        mean_covariates: Table | None = None,
        variance_covariates: Table | None = None,
        genotypes_name: str = "the genotypes",
    ) -> "People":
        """Match by (FID, IID); arguments as in :func:`align`."""
        genotyped = [] if samples is None else ids_of(samples)
        given = (phenotype, mean_covariates, variance_covariates)
        references = [(genotypes_name, genotyped)]
        references += [(str(t.path), t.ids) for t in given if t is not None and t.has_fid]
        phenotype = phenotype.matched_to(*references)
        covariates = [t and t.matched_to(*references) for t in given[1:]]
        order = sorted(range(len(phenotype.ids)), key=phenotype.ids.__getitem__)
        ids = [phenotype.ids[row] for row in order]
        places = _find(ids, genotyped)
        notes: tuple[str, ...] = ()
        if samples is not None and (places < 0).any() and (places >= 0).any():
            lost = [key for key, place in zip(ids, places.tolist(), strict=True) if place < 0]
            notes = (_lost_note(lost, ids, str(phenotype.path), genotyped, genotypes_name),)
        return cls(
            phenotype,
            np.array(order, dtype=np.int64),
            tuple((t, _find(ids, [] if t is None else t.ids)) for t in covariates),
            samples,
            places,
            genotypes_name,
            notes,
        )

    def align(
        self,
        phenotype_column: str | int,
        *,
        no_minus9: bool = False,
        extra_parameters: int = 0,
    ) -> AlignedSamples:
        """Choose those with phenotype, covariates and genotypes; as :func:`align`."""
        phenotype = self.phenotype
        name, values = phenotype.column(phenotype_column)
        what = f"{phenotype.path}, phenotype {shown(name)}"
        accounting = [("in the phenotype file", len(values))]
        notes = list(self.notes)
        y = values[self.order]
        if not no_minus9 and (count := int(np.count_nonzero(y == -9))):
            y[y == -9] = np.nan
            notes.append(
                f"{what}: {count:,} of {len(y):,} values are -9, a missing value; give "
                "--no-minus9 if it is a number"
            )
        kept = np.flatnonzero(~np.isnan(y))
        if not kept.size:
            raise InputError(f"{what}: all {len(values)} values are missing, expected numbers")
        if note := code_note(what, y):
            notes.append(note)
        accounting.append(("with a phenotype value", len(kept)))

        matched = [self._covariates(table, rows, kept, notes) for table, rows in self.covariates]
        complete: NDArray[np.bool_] = np.asarray(np.isfinite(np.hstack(matched)).all(axis=1))
        tables = [table for table, _ in self.covariates]
        if any(table is not None for table in tables):
            accounting.append(("with all covariates", int(complete.sum())))
        if not complete.any():
            # hlmm-interact has its covariate in both models.
            files = " and ".join(
                dict.fromkeys(str(each.path) for each in tables if each is not None)
            )
            empty = [
                shown(name)
                for table, x in zip(tables, matched, strict=True) if table is not None
                for name, column in zip(table.names, x.T, strict=True) if np.isnan(column).all()
            ]  # fmt: skip
            without = f" (without any value: {', '.join(dict.fromkeys(empty))})" if empty else ""
            raise InputError(
                f"{files}: none of the {len(kept)} people with a phenotype in {phenotype.path} has "
                f"all covariates; check the columns for missing values{without}"
            )
        kept = kept[complete]
        # In sorted order, so that the sums don't depend on the order of the files.
        mean, variance = (
            with_moments(table, x[complete]) for table, x in zip(tables, matched, strict=True)
        )

        if self.samples is None:
            index = chosen = np.arange(len(kept), dtype=np.int64)
            ids = pd.DataFrame(self._ids(kept), columns=["fid", "iid"], dtype=str)
        else:
            chosen = self._genotyped(kept)
            index = self.places[kept[chosen]]
            ids = self.samples[["fid", "iid"]].take(index).reset_index(drop=True)
            accounting.append(("with genotypes", len(index)))
        y = y[kept[chosen]]
        mean = independent(mean.take(chosen), tables[0], "mean", notes)
        variance = independent(variance.take(chosen), tables[1], "variance", notes)
        n_parameters = 2 + len(mean.names) + len(variance.names) + extra_parameters
        if len(y) <= n_parameters:
            raise InputError(
                f"{what}: {len(y)} samples are left for {n_parameters} parameters of a model "
                f"({_steps(accounting)}); more samples or fewer covariates are needed"
            )
        if np.ptp(y) == 0:
            raise InputError(
                f"{what}: the same value {y[0]:g} for all {len(y)} analysed samples; "
                "choose a phenotype that varies (--phen_index)"
            )
        cautions = cautions_of(f"phenotype {shown(name)}", y)
        return AlignedSamples(
            sample_index=index,
            ids=ids,
            phenotype_name=name,
            y=y,
            mean_covariates=mean.values,
            variance_covariates=variance.values,
            mean_names=mean.names,
            variance_names=variance.names,
            mean_center=mean.center,
            mean_scale=mean.scale,
            variance_center=variance.center,
            variance_scale=variance.scale,
            accounting=tuple(accounting),
            notes=(*notes, *cautions),
            cautions=cautions,
        )

    def _ids(self, people: NDArray[np.int64]) -> list[Id]:
        return [self.phenotype.ids[row] for row in self.order[people].tolist()]

    def _covariates(
        self,
        table: Table | None,
        rows: NDArray[np.int64],
        kept: NDArray[np.int64],
        notes: list[str],
    ) -> NDArray[np.float64]:
        """Covariates of those ``kept`` of ``order``, NaN for those who are not in the table."""
        if table is None:
            return np.empty((len(kept), 0))
        for name, column in zip(table.names, table.values.T, strict=True):
            what = f"{table.path}, covariate {shown(name)}"
            notes += [n for n in (minus_nine_note(what, column), code_note(what, column)) if n]
        rows = rows[kept]
        absent = kept[rows < 0]
        if len(absent) == len(kept):
            path = str(self.phenotype.path)
            raise InputError(_no_overlap(self._ids(kept), path, table.ids, str(table.path)))
        if absent.size:
            lost, here = self._ids(absent), set(self.phenotype.ids)
            rest = [key for key in table.ids if key not in here]
            notes.append(
                f"{table.path}: {len(absent)} of {len(kept)} people with a phenotype are not in it "
                f"(first: {shown_ids(lost)}){_because(id_hints(lost, rest))}"
            )
        values: NDArray[np.float64] = table.values[rows]
        values[rows < 0] = np.nan
        return values

    def _genotyped(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of those ``kept`` are genotyped, in the order of the genotypes."""
        assert self.samples is not None
        places = self.places[kept]
        found = np.flatnonzero(places >= 0)
        if not found.size:
            path, ids = str(self.phenotype.path), ids_of(self.samples)
            raise InputError(_no_overlap(self._ids(kept), path, ids, self.genotypes_name))
        return found[np.argsort(places[found])]


def _find(wanted: list[Id], ids: list[Id]) -> NDArray[np.int64]:
    """Give the row of each of those wanted among ``ids``, -1 where there is none."""
    row_of = {key: row for row, key in enumerate(ids)}
    return np.array([row_of.get(key, -1) for key in wanted], dtype=np.int64)


def _no_overlap(ids: list[Id], name: str, others: list[Id], other_name: str) -> str:
    """Say that two files have nobody in common, with examples and the likely reason."""
    hint = "; ".join(id_hints(ids, others)) or "both must use the same FID and IID"
    return (
        f"{name}: none of its {len(ids)} people with values is in {other_name} "
        f"({len(others)} people); it has {shown_ids(ids, 3)}; "
        f"the other has {shown_ids(others, 3)}; {hint}"
    )


def _lost_note(lost: list[Id], ids: list[Id], name: str, others: list[Id], other_name: str) -> str:
    """Say who of a file is not in another one, and who of that one is not in the file."""
    here = set(ids)
    rest = [key for key in others if key not in here]
    also = f"; {len(rest):,} there are not in it (first: {shown_ids(rest, 3)})" if rest else ""
    return (
        f"{name}: {len(lost):,} of {len(ids):,} people are not in {other_name} (first: "
        f"{shown_ids(lost, 3)}){also}{_because(id_hints(lost, rest))}"
    )


def _because(hints: list[str]) -> str:
    return "".join(f"; {hint}" for hint in hints)


def _steps(accounting: list[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {text}" for text, count in accounting)
