"""The model of a block: all that fitting it needs besides its genotypes."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.kernels.covariate_null import CovariateModel
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.hlmm import RandomEffectModel
from hlmm_dask.kernels.hlmm_choice import linear_is_good
from hlmm_dask.kernels.left_out import FewKept, LeftOut, fit_without
from hlmm_dask.kernels.linear_model import LinearModel
from hlmm_dask.kernels.packed import (
    Engine,
    PackedLayout,
    PackedPhenotype,
    pack_phenotype,
)
from hlmm_dask.kernels.residual_nodes import ResidualNodes
from hlmm_dask.kernels.score import SPA_THRESHOLD
from hlmm_dask.kernels.score_null import ScoreNull
from hlmm_dask.kernels.table import (
    Filters,
)

FloatArray = NDArray[np.float64]
Method = Literal["auto", "exact", "linear"]
Kernel = Literal[
    "sums", "covariates", "exact", "linear", "auto", "dense", "lmm-refit", "lmm-fixed"
]  # fmt: skip


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
    def adjusted(self) -> FloatArray:
        """Phenotype (n,) without what covariates in the model explain of it, centred."""
        dense = self.dense
        sd = np.exp(0.5 * (dense.V @ dense.beta))
        residuals: FloatArray = (dense.y - dense.X @ dense.alpha) / sd
        return residuals - float(residuals.mean())

    @cached_property
    def adjusted_phenotype(self) -> PackedPhenotype:
        """The same, laid out for class sums."""
        return pack_phenotype(self.layout, self.adjusted)

    @cached_property
    def score_null(self) -> ScoreNull:
        """What the score tests take from the null model where class sums are not enough."""
        return ScoreNull.build(self.dense)

    @cached_property
    def nodes(self) -> ResidualNodes:
        """What stands for its distribution."""
        return ResidualNodes.of(self.y, self.layout.sample_index)

    @property
    def has_covariates(self) -> bool:
        """Whether covariates stay in every model."""
        return not self.dense.X.shape[1] == self.dense.V.shape[1] == 1

    @property
    def from_sums(self) -> bool:
        """Whether class sums of a variant are all that its fit needs."""
        return self.dense.design is None and not self.has_covariates

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
