"""Columns of G that are left out of some variants' random effects, and the null model without them.

A tested variant that is itself, or is linked with, a column of G competes with its own random
effect. Columns near it are therefore left out, in sets that many variants share: for each set the
null model is fitted again, from the Gram matrix of all columns.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.hlmm import RandomEffectModel
from hlmm_dask.kernels.hlmm_null import fit_intercepts
from hlmm_dask.models.hlm import HLM
from hlmm_dask.models.hlmm import HLMM

FloatArray = NDArray[np.float64]
Indices = NDArray[np.int64]
_Kept = TypeVar("_Kept")

# Models of sets that a process keeps: variants come in order, so that few are in use at once.
_ALIVE = 4


@dataclass(frozen=True)
class SetNull:
    """Null model without the columns of a set.

    Attributes
    ----------
    alpha, beta : (c,), (v,) float64
        Effects on mean and log variance.
    h2, h2_se : float
        Variance of the random effects and its standard error; NaN where no column is left.
    converged : bool
        Whether that is a maximum.
    """

    alpha: FloatArray
    beta: FloatArray
    h2: float
    h2_se: float
    converged: bool


@dataclass(frozen=True)
class LeftOut:
    """Which columns are left out for which variants.

    Columns near each other are neighbours in the order of chromosome and position, so that a
    set is a range of that order, and variants of one set are mostly neighbours, in runs.

    Attributes
    ----------
    order : (l,) int64
        Columns by chromosome and position.
    ranges : (s, 2) int64
        For each set the range of ``order`` that is left out, its end not included.
    starts, sets : (r,) int64
        For each run its first variant, counted from the first of the scan, and its set.
    names : tuple of str
        Name of each set.
    nulls : tuple of SetNull, optional
        Null model of each set; without, each is fitted where it is needed.
    """

    order: Indices
    ranges: Indices
    starts: Indices
    sets: Indices
    names: tuple[str, ...]
    nulls: tuple[SetNull, ...] | None = None

    @property
    def n_sets(self) -> int:
        """Number of sets."""
        return len(self.ranges)

    @property
    def n_left(self) -> Indices:
        """Columns that each set leaves in, (s,)."""
        return np.asarray(len(self.order) - (self.ranges[:, 1] - self.ranges[:, 0]))

    def sets_of(self, variants: Indices) -> Indices:
        """Set of each of these variants, counted from the first of the scan."""
        return np.asarray(self.sets[np.searchsorted(self.starts, variants, side="right") - 1])

    def n_untouched(self, n_variants: int) -> int:
        """Count the variants, of all of the scan, for which nothing is left out."""
        untouched = self.ranges[:, 0] == self.ranges[:, 1]
        return int(np.diff(self.starts, append=n_variants)[untouched[self.sets]].sum())

    def columns(self, index: int) -> Indices:
        """Columns that a set leaves in, ascending."""
        first, last = self.ranges[index]
        return np.sort(np.concatenate([self.order[:first], self.order[last:]]))


def fit_without(
    dense: DenseModel, random_effects: RandomEffectModel | None, columns: Indices
) -> SetNull:
    """Fit the null model with these columns of G alone.

    Parameters
    ----------
    dense : DenseModel
        The model with all columns; its estimates are the start.
    random_effects : RandomEffectModel or None
        The same with its Gram matrix, where there is an intercept only.
    columns : (k,) int64
        Columns that stay; without any it is an HLM.
    """
    if not len(columns):
        fixed = HLM(dense.y, dense.X, dense.V).fit()
        return SetNull(fixed.alpha, fixed.beta, np.nan, np.nan, fixed.converged)
    if random_effects is not None:
        fit = fit_intercepts(random_effects.only(columns))
        alpha, beta = np.array([fit.alpha + float(np.mean(dense.y))]), np.array([fit.beta])
        return SetNull(alpha, beta, fit.h2, fit.h2_se, fit.converged)
    assert dense.design is not None
    mixed = HLMM(dense.y, dense.X, dense.V, dense.design.only(columns).matrix())
    full = mixed.fit(h2_init=dense.h2, start=(dense.alpha, dense.beta), h2_min=dense.h2_min)
    return SetNull(full.alpha, full.beta, full.h2, full.h2_se, full.converged)


class FewKept(Generic[_Kept]):
    """What was made last, for each of a few keys; pickled empty."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: int, make: Callable[[], _Kept]) -> _Kept:
        """Return what is kept for a key, made now if it is not there."""
        # Made under the lock: threads that want the same wait for it instead of making it twice.
        with self._lock:
            if key not in self._kept:
                while len(self._kept) >= _ALIVE:
                    self._kept.popitem(last=False)
                self._kept[key] = make()
            self._kept.move_to_end(key)
            return self._kept[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
