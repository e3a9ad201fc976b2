"""Columns of a covariate table: their moments, and those that say something."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.models.design import independent_columns
from hlmm_dask.tables import Table
from hlmm_dask.text import shown

# Rounding of a mean leaves a constant column a spread of this size.
_CONSTANT = 1e-12
# The inverse of a smaller spread may overflow.
_SMALLEST_SPREAD = 1e-250


class Covariates(NamedTuple):
    """Columns of one covariate table with their moments; see `AlignedSamples`."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    center: NDArray[np.float64]
    scale: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> "Covariates":
        """Return those rows, the moments as they are."""
        return self._replace(values=self.values[rows])

    def keep(self, columns: list[int]) -> "Covariates":
        """Return those columns."""
        return Covariates(
            tuple(self.names[j] for j in columns),
            self.values[:, columns],
            self.center[columns],
            self.scale[columns],
        )


def with_moments(table: Table | None, values: NDArray[np.float64]) -> Covariates:
    """Give the columns of a table (none without one) the moments of their ``values`` (n, c)."""
    names = () if table is None else table.names
    columns = [np.ascontiguousarray(column) for column in values.T]
    center = np.array([column.mean() for column in columns])
    scale = np.array([population_sd(c, m) for c, m in zip(columns, center, strict=True)])
    return Covariates(names, values, center, scale)


def population_sd(values: NDArray[np.float64], mean: float) -> float:
    """Compute the population SD, at any scale; 0 where the spread is that of rounding."""
    deviations = values - mean
    largest = float(np.abs(deviations).max(initial=0.0))
    if largest <= max(_CONSTANT * float(np.abs(values).max(initial=0.0)), _SMALLEST_SPREAD):
        return 0.0
    return largest * float(np.sqrt(np.mean((deviations / largest) ** 2)))


def independent(
    covariates: Covariates, table: Table | None, role: str, notes: list[str]
) -> Covariates:
    """Leave out constant columns, and those that the intercept and the columns before explain."""
    if table is None:
        return covariates
    n = len(covariates.values)
    varying: list[int] = []
    columns = [np.ones(n)]
    for j, name in enumerate(covariates.names):
        column = np.ascontiguousarray(covariates.values[:, j])
        mean = float(column.mean())
        spread = population_sd(column, mean)
        if covariates.scale[j] == 0 or spread == 0:
            notes.append(
                f"{table.path}: {role} covariate {shown(name)} is constant; it is left out"
            )
            continue
        columns.append((column - mean) / spread)
        varying.append(j)
    _, kept, repeated = independent_columns(np.column_stack(columns))
    names = ["the intercept", *(shown(covariates.names[j]) for j in varying)]
    for at, of in repeated:
        listed = ", ".join(names[k] for k in of[:5]) + (", ..." if len(of) > 5 else "")
        says = f"repeats {listed}"
        if len(of) > 1:
            says = f"is a linear combination of those before it ({listed})"
        notes.append(f"{table.path}: {role} covariate {names[at]} {says}; it is left out")
    return covariates.keep([varying[k - 1] for k in kept if k])
