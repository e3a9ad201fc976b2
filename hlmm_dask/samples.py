"""Who is analysed: phenotype, covariates and genotypes matched by (FID, IID), once."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.ids import shown_ids
from hlmm_dask.tables import Table, minus_nine_note
from hlmm_dask.text import shown

Id = tuple[str, str]

# A column is a combination of those before it when less than this share of its length is left.
_COLLINEAR = 1e-8
# Rounding of a mean leaves a constant column a spread of this size.
_CONSTANT = 1e-12
# The inverse of a smaller spread may overflow.
_SMALLEST_SPREAD = 1e-250


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
) -> AlignedSamples:
    """Match phenotype, covariates and genotypes by (FID, IID).

    The order of the rows in the tables has no influence on the result, to the last bit.

    Parameters
    ----------
    samples : DataFrame or None
        Samples of the genotypes, columns ``fid`` and ``iid``; None if there are no genotypes:
        then all people with phenotype and covariates, sorted by FID and IID.
    phenotype : Table
        The phenotype file.
    phenotype_column : str or int
        Name or 1-based number of the phenotype's column.
    mean_covariates, variance_covariates : Table, optional
        Covariates of the mean and of the log variance; all of their columns are used.
    genotypes_name : str
        How messages name the genotypes.

    Returns
    -------
    AlignedSamples

    Raises
    ------
    InputError
        If nobody is left, the phenotype is constant or missing for all, or there are no more
        samples than parameters of the null model.
    """
    name, values = phenotype.column(phenotype_column)
    what = f"{phenotype.path}, phenotype {shown(name)}"
    accounting = [("in the phenotype file", len(values))]
    notes = [note] if (note := minus_nine_note(what, values)) else []
    rows = np.flatnonzero(~np.isnan(values)).tolist()
    people = sorted((phenotype.ids[row], row) for row in rows)
    if not people:
        raise InputError(f"{what}: all {len(values)} values are missing, expected numbers")
    accounting.append(("with a phenotype value", len(people)))
    ids = [key for key, _ in people]
    y = values[[row for _, row in people]]

    tables = [mean_covariates, variance_covariates]
    matched = [_match_covariates(table, ids, phenotype, notes) for table in tables]
    complete: NDArray[np.bool_] = np.asarray(np.isfinite(np.hstack(matched)).all(axis=1))
    if mean_covariates is not None or variance_covariates is not None:
        accounting.append(("with all covariates", int(complete.sum())))
    if not complete.any():
        files = " and ".join(str(table.path) for table in tables if table is not None)
        raise InputError(
            f"{files}: none of the {len(ids)} people with a phenotype in {phenotype.path} has "
            "all covariates; check the columns for missing values"
        )
    ids = [key for key, kept in zip(ids, complete.tolist(), strict=True) if kept]
    y = y[complete]
    # In sorted order, so that the sums don't depend on the order of the files.
    mean, variance = (
        _with_moments(table, x[complete]) for table, x in zip(tables, matched, strict=True)
    )

    if samples is None:
        index = order = np.arange(len(ids), dtype=np.int64)
    else:
        index, order = _intersect(samples, ids, phenotype, genotypes_name)
        accounting.append(("with genotypes", len(index)))
    y = y[order]
    mean = _independent(mean.take(order), mean_covariates, "mean", notes)
    variance = _independent(variance.take(order), variance_covariates, "variance", notes)
    n_parameters = 2 + len(mean.names) + len(variance.names)
    if len(y) <= n_parameters:
        raise InputError(
            f"{what}: {len(y)} samples are left for {n_parameters} parameters of the null model "
            f"({_steps(accounting)}); more samples or fewer covariates are needed"
        )
    if np.ptp(y) == 0:
        raise InputError(
            f"{what}: the same value {y[0]:g} for all {len(y)} analysed samples; "
            "choose a phenotype that varies (--phen_index)"
        )
    fids, iids = zip(*(ids[i] for i in order.tolist()), strict=True)
    return AlignedSamples(
        sample_index=index,
        ids=pd.DataFrame({"fid": fids, "iid": iids}, dtype=str),
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
        notes=tuple(notes),
    )


class _Covariates(NamedTuple):
    """Columns of one covariate table with their moments; see AlignedSamples."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    center: NDArray[np.float64]
    scale: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> "_Covariates":
        return self._replace(values=self.values[rows])

    def keep(self, columns: list[int]) -> "_Covariates":
        return _Covariates(
            tuple(self.names[j] for j in columns),
            self.values[:, columns],
            self.center[columns],
            self.scale[columns],
        )


def _match_covariates(
    table: Table | None, ids: list[Id], phenotype: Table, notes: list[str]
) -> NDArray[np.float64]:
    """Covariates of `ids`, NaN for those who are not in the table."""
    if table is None:
        return np.empty((len(ids), 0))
    for name, column in zip(table.names, table.values.T, strict=True):
        if note := minus_nine_note(f"{table.path}, covariate {shown(name)}", column):
            notes.append(note)
    row_of = {key: row for row, key in enumerate(table.ids)}
    rows = np.array([row_of.get(key, -1) for key in ids])
    absent = [key for key, row in zip(ids, rows, strict=True) if row < 0]
    if len(absent) == len(ids):
        raise InputError(_no_overlap(ids, str(phenotype.path), table.ids, str(table.path)))
    if absent:
        notes.append(
            f"{table.path}: {len(absent)} of {len(ids)} people with a phenotype are not in it "
            f"(first: {shown_ids(absent)})"
        )
    values: NDArray[np.float64] = table.values[rows]
    values[rows < 0] = np.nan
    return values


def _with_moments(table: Table | None, values: NDArray[np.float64]) -> _Covariates:
    names = () if table is None else table.names
    columns = [np.ascontiguousarray(column) for column in values.T]
    center = np.array([column.mean() for column in columns])
    scale = np.array([population_sd(c, m) for c, m in zip(columns, center, strict=True)])
    return _Covariates(names, values, center, scale)


def population_sd(values: NDArray[np.float64], mean: float) -> float:
    """Compute the population SD, at any scale; 0 where the spread is that of rounding."""
    deviations = values - mean
    largest = float(np.abs(deviations).max(initial=0.0))
    if largest <= max(_CONSTANT * float(np.abs(values).max(initial=0.0)), _SMALLEST_SPREAD):
        return 0.0
    return largest * float(np.sqrt(np.mean((deviations / largest) ** 2)))


def _intersect(
    samples: pd.DataFrame, ids: list[Id], phenotype: Table, genotypes_name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index of the genotyped among `samples`, ascending, and of the same people among `ids`."""
    genotyped = list(zip(samples["fid"].tolist(), samples["iid"].tolist(), strict=True))
    position = {key: i for i, key in enumerate(ids)}
    pairs = [(i, position[key]) for i, key in enumerate(genotyped) if key in position]
    if not pairs:
        raise InputError(_no_overlap(ids, str(phenotype.path), genotyped, genotypes_name))
    index, order = np.array(pairs, dtype=np.int64).T
    return np.ascontiguousarray(index), np.ascontiguousarray(order)


def _independent(
    covariates: _Covariates, table: Table | None, role: str, notes: list[str]
) -> _Covariates:
    """Leave out constant columns, and those that the intercept and the columns before explain."""
    if table is None:
        return covariates
    kept: list[int] = []
    basis = [np.full(len(covariates.values), len(covariates.values) ** -0.5)]
    for j, name in enumerate(covariates.names):
        column = np.ascontiguousarray(covariates.values[:, j])
        spread = population_sd(column, float(column.mean()))
        if covariates.scale[j] == 0 or spread == 0:
            notes.append(
                f"{table.path}: {role} covariate {shown(name)} is constant; it is left out"
            )
            continue
        rest = (column - column.mean()) / spread
        length = float(np.linalg.norm(rest))
        # Twice, against the rounding of the first pass.
        for _ in range(2):
            for vector in basis:
                rest = rest - vector * float(vector @ rest)
        left = float(np.linalg.norm(rest))
        if left <= _COLLINEAR * length:
            before = ", ".join(shown(covariates.names[k]) for k in kept[:5])
            notes.append(
                f"{table.path}: {role} covariate {shown(name)} is a linear combination of those "
                f"before it ({before}{', ...' if len(kept) > 5 else ''}); it is left out"
            )
            continue
        basis.append(rest / left)
        kept.append(j)
    return covariates.keep(kept)


def _no_overlap(ids: list[Id], name: str, others: list[Id], other_name: str) -> str:
    """Say that two files have nobody in common, with examples and the likely reason."""
    hints: list[str] = []
    by_iid = len({iid for _, iid in ids} & {iid for _, iid in others})
    if by_iid:
        hints.append(f"{by_iid} would match by IID alone: make the FIDs the same")
    swapped = len({(iid, fid) for fid, iid in ids} & set(others))
    if swapped:
        hints.append(f"{swapped} would match with FID and IID exchanged")
    bare = {tuple(part.lstrip("0") for part in key) for key in ids}
    zeros = len(bare & {tuple(part.lstrip("0") for part in key) for key in others})
    if zeros:
        hints.append(f"{zeros} would match without leading zeros: IDs are text, '01' is not '1'")
    hint = "; ".join(hints) or "both must use the same FID and IID"
    return (
        f"{name}: none of its {len(ids)} people with values is in {other_name} "
        f"({len(others)} people); it has {shown_ids(ids, 3)}; "
        f"the other has {shown_ids(others, 3)}; {hint}"
    )


def _steps(accounting: list[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {text}" for text, count in accounting)
