"""A block of variants and a homoskedastic mixed model in, a table of results out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.lmm import CHUNK, LMMNull, LMMVariants
from hlmm_dask.kernels.lmm_fixed import FixedPlan, fit_fixed
from hlmm_dask.kernels.lmm_refit import RefitPlan, fit_refit, plan_refit
from hlmm_dask.kernels.packed import (
    FloatArray,
    IntArray,
    Packed,
    PackedLayout,
    count_codes,
    look_up,
)
from hlmm_dask.kernels.table import Filters, classify, empty_results
from hlmm_dask.models.lmm_rotation import Rotation
from hlmm_dask.schema import INDEX, LMM_INDEX, LMM_NAMES, Status

Plan: TypeAlias = RefitPlan | FixedPlan

# Genotypes that are unpacked at once.
_PART_GENOTYPES = 2**22
# In the order of the two-bit codes: two copies, missing, one copy, none.
_COPIES = np.array([2.0, np.nan, 1.0, 0.0])
_MISSING_CODE = 1
_CLASSIFIED = ("n_samples", "minor_allele_frequency", "effect_allele_frequency", "status")


class Plans(Protocol):
    """The plan of each set of variants, made or read where it is needed."""

    def __getitem__(self, index: int, /) -> Plan: ...


@dataclass(frozen=True)
class LMMBlockModel:
    """All that testing a block needs besides its genotypes; the same for every block.

    Attributes
    ----------
    layout : PackedLayout
        Where the analysed samples stand in the file.
    filters : Filters
        Which variants are tested.
    plans : Plans
        By set of variants, which share a relationship matrix.
    diagonals : (s,) float64
        Mean of the diagonal of each matrix.
    starts, sets : (r,) int64
        For each run of variants its first, counted from the first of the scan, and its set.
    """

    layout: PackedLayout
    filters: Filters
    plans: Plans
    diagonals: FloatArray
    starts: IntArray
    sets: IntArray

    def fit_packed(self, packed: Packed, *, first: int = 0) -> FloatArray:
        """Test every variant of a block of packed hard calls; see :meth:`fit_dosage`."""
        packed = np.ascontiguousarray(packed)
        two, missing, one = count_codes(packed, self.layout)
        n_called = self.layout.n_samples - missing
        copies = 2.0 * two + one
        results = self._classified(n_called, copies, one == n_called)

        def centred(rows: IntArray) -> FloatArray:
            mean = (copies[rows] / n_called[rows])[:, None]
            if not missing[rows].any():
                counts = look_up(packed[rows], self.layout.sample_index, _COPIES)
                counts -= mean
                return counts
            table = _COPIES - mean
            table[:, _MISSING_CODE] = 0.0
            return look_up(packed[rows], self.layout.sample_index, table)

        return self._fitted(results, centred, first)

    def fit_dosage(self, dosage: NDArray[np.floating[Any]], *, first: int = 0) -> FloatArray:
        """Test every variant of a block of dosages.

        Parameters
        ----------
        dosage : (m, n_file_samples) floating
            Copies of allele 1 of all samples in the file, NaN where missing: the mean of the
            others is taken.
        first : int
            The block's first variant, counted from the first of the scan.

        Returns
        -------
        (m, len(LMM_COLUMNS)) float64
            One row for each variant, columns as in ``schema.LMM_COLUMNS``.
        """
        analysed = dosage[:, self.layout.sample_index].astype(np.float64)
        called = ~np.isnan(analysed)
        n_called = called.sum(axis=1).astype(np.float64)
        copies = np.where(called, analysed, 0.0).sum(axis=1)
        highest = np.where(called, analysed, -np.inf).max(axis=1)
        lowest = np.where(called, analysed, np.inf).min(axis=1)
        results = self._classified(n_called, copies, highest == lowest)

        def centred(rows: IntArray) -> FloatArray:
            g = analysed[rows] - (copies[rows] / n_called[rows])[:, None]
            return np.where(np.isnan(g), 0.0, g)

        return self._fitted(results, centred, first)

    def _classified(
        self, n_called: FloatArray, copies: FloatArray, uniform: NDArray[np.bool_]
    ) -> FloatArray:
        whole = empty_results(len(n_called))
        classify(
            whole,
            n_called=n_called,
            copies=copies,
            uniform=uniform,
            n_analysed=self.layout.n_samples,
            filters=self.filters,
        )
        results = np.full((len(whole), len(LMM_NAMES)), np.nan)
        for name in _CLASSIFIED:
            results[:, LMM_INDEX[name]] = whole[:, INDEX[name]]
        return results

    def _fitted(
        self, results: FloatArray, centred: Callable[[IntArray], FloatArray], first: int
    ) -> FloatArray:
        rows = np.flatnonzero(results[:, LMM_INDEX["status"]] == Status.OK)
        sets = self.sets[np.searchsorted(self.starts, first + rows, side="right") - 1]
        size = max(1, min(CHUNK, _PART_GENOTYPES // self.layout.n_samples))
        for index in np.unique(sets):
            plan, chosen = self.plans[int(index)], rows[sets == index]
            for i in range(0, len(chosen), size):
                part = chosen[i : i + size]
                g = centred(part)
                tests = fit_refit(plan, g) if isinstance(plan, RefitPlan) else fit_fixed(plan, g)
                self._fill(results, part, tests, float(self.diagonals[index]))
        return results

    def _fill(
        self, results: FloatArray, rows: IntArray, tests: LMMVariants, diagonal: float
    ) -> None:
        estimated = np.isfinite(tests.beta)
        results[rows[~estimated], LMM_INDEX["status"]] = Status.COLLINEAR
        results[rows[estimated & (tests.se == 0)], LMM_INDEX["status"]] = Status.UNBOUNDED
        whole = np.isfinite(np.column_stack(tests.columns())).all(axis=1) & (tests.se > 0)
        nothing = estimated & ~(tests.se == 0) & ~whole
        results[rows[nothing], LMM_INDEX["status"]] = Status.NO_STANDARD_ERROR
        tested = estimated & whole
        rows = rows[tested]
        share = diagonal * tests.lambda_reml
        add = -tests.beta if self.filters.count_a2 else tests.beta
        columns = {
            "loglik": tests.loglik_ml,
            "add": add,
            "add_se": tests.se,
            "add_t": add / np.where(tests.se > 0, tests.se, np.nan),
            "add_neg_log10_p": tests.neg_log10_p_wald,
            "add_lrt_neg_log10_p": tests.neg_log10_p_lrt,
            "h2": share / (1.0 + share),
        }
        for name, values in columns.items():
            results[rows, LMM_INDEX[name]] = values[tested]


def taken_apart(plan: Plan) -> tuple[FixedPlan | LMMNull, NDArray[np.floating[Any]]]:
    """Give what a plan can be made of again, without its one large array, and the array."""
    null = plan.null
    bare = replace(null, rotation=Rotation(null.rotation.values, np.empty((0, 0))))
    if isinstance(plan, FixedPlan):
        # Tests with λ kept do without the eigenvectors.
        return replace(plan, null=bare, factor=np.empty((0, 0))), plan.factor
    return bare, null.rotation.vectors


def put_together(part: FixedPlan | LMMNull, array: NDArray[np.floating[Any]]) -> Plan:
    """Undo :func:`taken_apart`."""
    if isinstance(part, FixedPlan):
        return replace(part, factor=array)
    vectors = np.asarray(array, dtype=np.float64)
    return plan_refit(replace(part, rotation=Rotation(part.rotation.values, vectors)))
