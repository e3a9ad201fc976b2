"""One variant at a time by the models themselves: the exact, slow path.

It serves what no faster kernel covers (random effects together with covariates in every model or
with dosages), and is what every faster kernel is tested against.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.table import VariantFit, convergence_status, perfectly_fitted
from hlmm_dask.models.hlm import HLM, HLMFit
from hlmm_dask.models.hlmm import HLMM, HLMMFit
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.schema import Status

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class DenseModel:
    """What all variants share.

    Attributes
    ----------
    y : (n,) float64
        Phenotype.
    X, V : (n, c), (n, v) float64
        Designs of mean and log variance, the intercept among them.
    alpha, beta : (c,), (v,) float64
        Null model, from which each variant's fit starts.
    design : RandomDesign, optional
        Design of the random effects, (n, l).
    h2, h2_min : float
        Null model's variance of the random effects and its lower bound.
    fix_h2 : bool
        Keep h2 at the null model's.
    """

    y: FloatArray
    X: FloatArray
    V: FloatArray
    alpha: FloatArray
    beta: FloatArray
    design: RandomDesign | None = None
    h2: float = 0.0
    h2_min: float = 0.0
    fix_h2: bool = False


def fit_dense(model: DenseModel, dosage: FloatArray) -> VariantFit:
    """Fit every variant of ``dosage`` (m, n), copies of allele 1, NaN where missing."""
    m = len(dosage)
    G = None if model.design is None else model.design.matrix()
    estimates = np.full((m, 6), np.nan)
    status = np.zeros(m, dtype=np.int64)
    for j, g in enumerate(dosage):
        called = ~np.isnan(g)
        x = g[called] - g[called].mean()
        X = np.column_stack([model.X[called], x])
        V = np.column_stack([model.V[called], x])
        if perfectly_fitted(model.y[called], X[:, :-1], x):
            status[j] = Status.UNBOUNDED
            continue
        try:
            fit = _fit_one(model, model.y[called], X, V, None if G is None else G[called])
        except ValueError:
            # The designs were checked before; what is left is dependence on the variant.
            status[j] = Status.COLLINEAR
            continue
        h2 = fit.h2 if isinstance(fit, HLMMFit) else np.nan
        estimates[j] = (
            fit.alpha[-1], fit.alpha_se[-1], fit.beta[-1], fit.beta_se[-1], fit.loglik, h2,
        )  # fmt: skip
        status[j] = convergence_status(
            np.array([fit.convergence]), fit.beta[-1:], np.array([np.ptp(x)])
        )[0]
    add, add_se, var, var_se, loglik, h2s = estimates.T
    return VariantFit(
        add=add,
        add_se=add_se,
        var=var,
        var_se=var_se,
        loglik=loglik,
        status=status,
        h2=None if model.design is None else h2s,
    )


def _fit_one(
    model: DenseModel, y: FloatArray, X: FloatArray, V: FloatArray, G: FloatArray | None
) -> HLMFit | HLMMFit:
    beta = np.append(model.beta, 0.0)
    if G is None:
        return HLM(y, X, V).fit(beta_start=beta)
    return HLMM(y, X, V, G).fit(
        h2_init=model.h2,
        start=(np.append(model.alpha, 0.0), beta),
        h2_min=model.h2_min,
        fix_h2=model.fix_h2,
    )
