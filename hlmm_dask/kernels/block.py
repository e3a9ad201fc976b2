"""A block of variants and a null model in, a table of results out."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.kernels.class_moments import ClassMoments
from hlmm_dask.kernels.class_tests import SIGNED, class_tests, needs_fourths
from hlmm_dask.kernels.covariate_null import CovariateModel
from hlmm_dask.kernels.dense import DenseModel, fit_dense
from hlmm_dask.kernels.hlm import fit_class_sums
from hlmm_dask.kernels.hlm_covariates import fit_with_covariates
from hlmm_dask.kernels.hlmm import Codes, RandomEffectModel, fit_random_effects
from hlmm_dask.kernels.hlmm_choice import linear_is_good, needs_exact, needs_polish
from hlmm_dask.kernels.hlmm_linear import fit_linear
from hlmm_dask.kernels.left_out import FewKept, LeftOut, fit_without
from hlmm_dask.kernels.linear_model import LinearModel
from hlmm_dask.kernels.packed import (
    ClassSums,
    Engine,
    Packed,
    PackedLayout,
    PackedPhenotype,
    Powers,
    class_sums,
    pack_phenotype,
    unpack,
)
from hlmm_dask.kernels.residual_nodes import ResidualNodes
from hlmm_dask.kernels.score import SPA_THRESHOLD, Scores, score_columns, tails_of
from hlmm_dask.kernels.score_null import ScoreNull, general_columns
from hlmm_dask.kernels.table import (
    Filters,
    VariantFit,
    classify,
    empty_results,
    fill_classes,
    fill_columns,
    fill_estimates,
)
from hlmm_dask.schema import INDEX, Status

FloatArray = NDArray[np.float64]
Method = Literal["auto", "exact", "linear"]
Kernel = Literal[
    "sums", "covariates", "exact", "linear", "auto", "dense", "lmm-refit", "lmm-fixed"
]  # fmt: skip

# Doubles of unpacked genotypes that are alive at once.
_UNPACKED_DOUBLES = 4_000_000
# Vectors of the length of the random effects that a variant takes.
_VECTORS = 40


@dataclass(frozen=True)
class BlockModel:
    """All that fitting a block needs besides its genotypes; the same for every block.

    Attributes
    ----------
    phenotype : PackedPhenotype
        Phenotype of the analysed samples in the layout of the genotype file.
    filters : Filters
        Which variants are fitted.
    dense : DenseModel
        The model in full; serves where no faster kernel does.
    covariates : CovariateModel, optional
        Given when covariates stay in every model (and there are no random effects).
    random_effects : RandomEffectModel, optional
        Given when there are random effects (and no covariates in every model).
    linear : LinearModel, optional
        Given when random effects are fitted by the approximation that is linear in their number,
        and exactly only where that matters.
    engine : {"numba", "numpy"}
        How class sums are computed.
    left_out : LeftOut, optional
        Columns of G that are left out for some variants; the model of each set is made from
        this one where it is needed, and kept while it is in use.
    spa_threshold : float
        Scores above this many standard deviations have saddlepoint tails.
    tests : tuple of str
        Further tests of the variance, whose columns come last.
    """

    phenotype: PackedPhenotype
    filters: Filters
    dense: DenseModel
    covariates: CovariateModel | None
    random_effects: RandomEffectModel | None
    linear: LinearModel | None = None
    engine: Engine = "numba"
    left_out: LeftOut | None = None
    spa_threshold: float = SPA_THRESHOLD
    tests: tuple[str, ...] = ()
    _sets: FewKept["BlockModel"] = field(default_factory=FewKept, compare=False, repr=False)

    @property
    def layout(self) -> PackedLayout:
        """Where the analysed samples stand in the file."""
        return self.phenotype.layout

    @cached_property
    def mean(self) -> float:
        """Mean of the phenotype."""
        return float(self.dense.y.mean())

    @cached_property
    def y(self) -> FloatArray:
        """Phenotype (n,), centred."""
        return self.dense.y - self.mean

    @cached_property
    def score_null(self) -> ScoreNull:
        """What the score tests take from the null model where class sums are not enough."""
        return ScoreNull.build(self.dense)

    @cached_property
    def nodes(self) -> ResidualNodes:
        """What stands for its distribution."""
        return ResidualNodes.of(self.y, self.layout.sample_index)

    @property
    def from_sums(self) -> bool:
        """Whether class sums of a variant are all that its fit needs."""
        dense = self.dense
        return dense.design is None and dense.X.shape[1] == dense.V.shape[1] == 1

    @property
    def with_gram(self) -> RandomEffectModel | None:
        """Random effects with their Gram matrix, however they are fitted."""
        return self.random_effects if self.linear is None else self.linear.base

    def of_set(self, index: int) -> "BlockModel":
        """Model of the variants of a set, without the columns that it leaves out."""
        return self._sets.get(index, lambda: _without(self, index))

    def by_set(
        self, rows: NDArray[np.int64], first: int
    ) -> Iterator[tuple["BlockModel", NDArray[np.int64]]]:
        """Give the model of each set among the variants ``first + rows``, and its rows."""
        if self.left_out is None:
            yield self, rows
            return
        sets = self.left_out.sets_of(first + rows)
        for index in np.unique(sets):
            yield self.of_set(int(index)), rows[sets == index]


def choose_kernel(
    n_samples: int, n_random: int, *, intercepts: bool, method: Method = "exact"
) -> Kernel:
    """How variants are fitted.

    Parameters
    ----------
    n_samples, n_random : int
        Analysed samples and random effects.
    intercepts : bool
        Whether no covariate stays in every model.
    method : {"auto", "exact", "linear"}
        See :func:`block_model`.

    Returns
    -------
    str
        From class ``sums``; with ``covariates``; with random effects ``exact``, ``linear``, or
        linear first (``auto``); ``dense`` where no faster kernel serves.
    """
    if not n_random:
        return "sums" if intercepts else "covariates"
    if not intercepts:
        return "dense"
    if method == "auto":
        return "auto" if linear_is_good(n_samples, n_random) else "exact"
    return method


def unpacked_variants(n_variants: int, n_samples: int, n_random: int = 0) -> int:
    """Variants of a block that are unpacked at once: their memory is bounded for any n and l."""
    return min(n_variants, max(1, _UNPACKED_DOUBLES // max(n_samples, _VECTORS * n_random)))


def block_model(
    dense: DenseModel,
    layout: PackedLayout,
    filters: Filters,
    *,
    method: Method = "exact",
    engine: Engine = "numba",
    spa_threshold: float = SPA_THRESHOLD,
    tests: tuple[str, ...] = (),
) -> BlockModel:
    """Choose the kernel for a model and lay out what it needs.

    Parameters
    ----------
    dense : DenseModel
        The model in full.
    layout : PackedLayout
        Where the analysed samples stand in the file.
    filters : Filters
        Which variants are fitted.
    method : {"auto", "exact", "linear"}
        How random effects are fitted: exactly; by the approximation linear in their number; or
        by it where it is good and exactly where it matters, see :func:`needs_exact`.
    engine : {"numba", "numpy"}
        How class sums are computed.
    spa_threshold : float
        Scores above this many standard deviations have saddlepoint tails.
    tests : tuple of str
        Further tests of the variance, names as in ``schema.TEST_COLUMNS``.
    """
    kernel = choose_kernel(
        len(dense.y),
        0 if dense.design is None else dense.design.n_random,
        intercepts=dense.X.shape[1] == dense.V.shape[1] == 1,
        method=method,
    )
    covariates = random_effects = linear = None
    if dense.design is None:
        # Also serves dosages that are not hard calls.
        covariates = CovariateModel.build(dense.y, dense.X, dense.V, dense.alpha, dense.beta)
    elif kernel != "dense":
        random_effects = RandomEffectModel.build(
            dense.y,
            dense.design,
            alpha=float(dense.alpha[0]),
            beta=float(dense.beta[0]),
            h2=dense.h2,
            h2_min=dense.h2_min,
            fix_h2=dense.fix_h2,
        )
    if random_effects is not None and kernel != "exact":
        linear = LinearModel.build(random_effects)
        # What is refitted exactly needs the full model; with "linear" nothing is.
        random_effects = random_effects if kernel == "auto" else None
    # Class sums are for models with an intercept, to which a shift of y makes no difference;
    # centred, Σy² holds no digits of the mean.
    return BlockModel(
        phenotype=pack_phenotype(layout, dense.y - dense.y.mean()),
        filters=filters,
        dense=dense,
        covariates=covariates,
        random_effects=random_effects,
        linear=linear,
        engine=engine,
        spa_threshold=spa_threshold,
        tests=tests,
    )


def _without(model: BlockModel, index: int) -> BlockModel:
    """Model with the columns alone that a set leaves in, the null model fitted to them."""
    left_out, dense, base = model.left_out, model.dense, model.with_gram
    assert left_out is not None
    assert dense.design is not None
    columns = left_out.columns(index)
    if len(columns) == dense.design.n_random:
        return replace(model, left_out=None, _sets=FewKept())
    null = left_out.nulls[index] if left_out.nulls else fit_without(dense, base, columns)
    if not null.converged:
        raise InputError(
            f"random effects without {left_out.names[index]}: the null model of the "
            f"{len(columns)} columns left did not converge; choose other columns for G"
        )
    if not len(columns):
        return replace(
            model,
            left_out=None,
            _sets=FewKept(),
            dense=replace(dense, design=None, alpha=null.alpha, beta=null.beta),
            covariates=CovariateModel.build(dense.y, dense.X, dense.V, null.alpha, null.beta),
            random_effects=None,
            linear=None,
        )
    exact = linear = None
    if base is not None:
        alpha = float(null.alpha[0] - dense.y.mean())
        exact = replace(base.only(columns), alpha=alpha, beta=float(null.beta[0]), h2=null.h2)
        linear = None if model.linear is None else model.linear.only(exact, columns)
    return replace(
        model,
        left_out=None,
        _sets=FewKept(),
        dense=replace(
            dense,
            design=dense.design.only(columns),
            alpha=null.alpha,
            beta=null.beta,
            h2=null.h2,
        ),
        random_effects=None if model.random_effects is None else exact,
        linear=linear,
    )


def fit_packed(model: BlockModel, packed: Packed, *, first: int = 0) -> FloatArray:
    """Fit every variant of a block of packed hard calls.

    Parameters
    ----------
    model : BlockModel
        The null model and the phenotype.
    packed : (m, n_bytes) uint8
        Packed genotypes of all samples in the file.
    first : int
        The block's first variant, counted from the first of the scan.

    Returns
    -------
    (m, N_COLUMNS) float64
        One row for each variant, columns as in ``schema.RESULT_COLUMNS``.
    """
    results = empty_results(len(packed))
    needs_four = model.from_sums
    if model.left_out is not None:
        needs_four = not model.left_out.n_left.all()
    powers: Powers = 4 if needs_four or needs_fourths(model.tests) else 2
    sums = class_sums(packed, model.phenotype, powers=powers, engine=model.engine)
    n_called = sums.counts.sum(axis=0)
    classify(
        results,
        n_called=n_called,
        copies=sums.counts[1] + 2.0 * sums.counts[2],
        uniform=sums.counts[1] == n_called,
        n_analysed=model.layout.n_samples,
        filters=model.filters,
    )
    fill_classes(results, sums, mean=model.mean, count_a2=model.filters.count_a2)
    rows = np.flatnonzero(results[:, INDEX["status"]] == Status.OK)
    for part, chosen in model.by_set(rows, first):
        if not chosen.size:
            continue
        if part.from_sums:
            own = sums.take(chosen)
            moments = ClassMoments.of(own)
            fit = fit_class_sums(own, moments=moments)
            fill_estimates(results, chosen, fit, count_a2=model.filters.count_a2)
            _fill_scores(part, packed, chosen, moments, results)
        else:
            _fit_unpacked(part, packed, chosen, results)
    return np.hstack([results, _further_tests(model, packed, sums, results)])


def _further_tests(
    model: BlockModel, packed: Packed, sums: ClassSums, results: FloatArray
) -> FloatArray:
    """Statistic and -log10 p of the further tests of each variant that was fitted."""
    out = np.full((len(results), 2 * len(model.tests)), np.nan)
    if not model.tests:
        return out
    rows = np.flatnonzero(results[:, INDEX["status"]] == Status.OK)
    size = unpacked_variants(max(len(rows), 1), model.layout.n_samples)
    for i in range(0, len(rows), size):
        part = rows[i : i + size]
        moments = ClassMoments.of(sums.take(part))
        codes = unpack(packed[part], model.layout)
        out[part] = class_tests(model.tests, moments, codes, model.y)
    if model.filters.count_a2:
        for j, test in enumerate(model.tests):
            out[:, 2 * j] *= -1.0 if test in SIGNED else 1.0
    return out


def _fill_scores(
    model: BlockModel,
    packed: Packed,
    rows: NDArray[np.int64],
    moments: ClassMoments,
    results: FloatArray,
) -> None:
    scores = Scores.of(moments)
    tails = tails_of(
        scores, packed, rows, model.nodes, model.y, lambda some: unpack(some, model.layout),
        threshold=model.spa_threshold,
    )  # fmt: skip
    _fill_fitted(results, rows, score_columns(scores, tails), model.filters)


def _fill_fitted(
    results: FloatArray, rows: NDArray[np.int64], columns: dict[str, FloatArray], filters: Filters
) -> None:
    """Fill columns where the variant was fitted; that with a sign is of the effect allele."""
    if filters.count_a2:
        columns["var_score_t"] = -columns["var_score_t"]
    fitted = results[rows, INDEX["status"]] == Status.OK
    fill_columns(results, rows[fitted], {name: v[fitted] for name, v in columns.items()})


def _fit_unpacked(
    model: BlockModel, packed: Packed, rows: NDArray[np.int64], results: FloatArray
) -> None:
    n_random = 0 if model.dense.design is None else model.dense.design.n_random
    size = unpacked_variants(len(rows), model.layout.n_samples, n_random)
    for i in range(0, len(rows), size):
        part = rows[i : i + size]
        codes = unpack(packed[part], model.layout)
        if model.linear is not None:
            fit = _fit_linear(model.linear, model.random_effects, codes)
        elif model.random_effects is not None:
            fit = fit_random_effects(model.random_effects, codes)
        else:
            fit = _fit_dosage(model, np.where(codes < 0, np.nan, codes.astype(np.float64)))
        fill_estimates(results, part, fit, count_a2=model.filters.count_a2)
        columns = general_columns(model.score_null, codes, threshold=model.spa_threshold)
        _fill_fitted(results, part, columns, model.filters)


def fit_dosage(model: BlockModel, dosage: NDArray[np.floating], *, first: int = 0) -> FloatArray:
    """Fit every variant of a block of dosages.

    Parameters
    ----------
    model : BlockModel
        The null model and the phenotype.
    dosage : (m, n_file_samples) floating
        Copies of allele 1 of all samples in the file, NaN where missing. For hard calls
        :func:`fit_packed` gives the same, faster.
    first : int
        The block's first variant, counted from the first of the scan.

    Returns
    -------
    (m, N_COLUMNS) float64
        One row for each variant, columns as in ``schema.RESULT_COLUMNS``.
    """
    analysed = dosage[:, model.layout.sample_index].astype(np.float64)
    called = ~np.isnan(analysed)
    n_called = called.sum(axis=1).astype(np.float64)
    copies = np.where(called, analysed, 0.0).sum(axis=1)
    highest = np.where(called, analysed, -np.inf).max(axis=1)
    lowest = np.where(called, analysed, np.inf).min(axis=1)
    results = empty_results(len(dosage))
    classify(
        results,
        n_called=n_called,
        copies=copies,
        uniform=highest == lowest,
        n_analysed=model.layout.n_samples,
        filters=model.filters,
    )
    rows = np.flatnonzero(results[:, INDEX["status"]] == Status.OK)
    for part, chosen in model.by_set(rows, first):
        if chosen.size:
            fit = _fit_dosage(part, analysed[chosen])
            fill_estimates(results, chosen, fit, count_a2=model.filters.count_a2)
            columns = general_columns(
                part.score_null, analysed[chosen], threshold=model.spa_threshold
            )
            _fill_fitted(results, chosen, columns, model.filters)
    # Without classes there are no further tests.
    return np.hstack([results, np.full((len(results), 2 * len(model.tests)), np.nan)])


def _fit_linear(linear: LinearModel, exact: RandomEffectModel | None, codes: Codes) -> VariantFit:
    first = fit_linear(linear, codes)
    fit = first.fit
    exactly = np.zeros(len(codes), dtype=bool) if exact is None else needs_exact(linear, first)
    rows = np.flatnonzero(needs_polish(linear, first) & ~exactly)
    if rows.size:
        fit = fit.replaced(rows, fit_linear(linear, codes[rows], polish=first.change[rows]).fit)
    rows = np.flatnonzero(exactly)
    if exact is None or not rows.size:
        return fit
    return fit.replaced(rows, fit_random_effects(exact, codes[rows]))


def _fit_dosage(model: BlockModel, dosage: FloatArray) -> VariantFit:
    if model.covariates is not None:
        return fit_with_covariates(model.covariates, dosage, engine=model.engine)
    return fit_dense(model.dense, dosage)
