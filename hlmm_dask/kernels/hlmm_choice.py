"""Which variants the linear HLMM is good enough for, and which need more."""

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.hlmm_linear import LinearFit
from hlmm_dask.kernels.linear_model import LinearModel
from hlmm_dask.models.inference import neg_log10_p_chi2_2df, neg_log10_p_normal
from hlmm_dask.schema import Status

# Where ``auto`` takes the approximation at all, and which variants it then fits exactly.
SAMPLES_PER_EFFECT = 50
COSTLY_GRAM = 5e8  # n l²
EXACT_NEG_LOG10_P = 3.0
LINKED_SHARE = 0.05
# Which it fits once more about their own BLUP.
MANY_SAMPLES_PER_EFFECT = 150
MANY_MISSING = 0.02


def linear_is_good(n_samples: int, n_random: int) -> bool:
    """Whether the approximation is within 1e-3 standard errors of the exact fit, and worth it.

    Its error falls with the samples per random effect. Where the exact fit takes a few
    milliseconds, it is made for every variant.
    """
    enough = n_samples >= SAMPLES_PER_EFFECT * n_random
    return enough and n_samples * n_random**2 >= COSTLY_GRAM


def needs_exact(model: LinearModel, linear: LinearFit) -> NDArray[np.bool_]:
    """Which variants to fit exactly, (m,).

    Those near significance in any of the three Wald tests (p below 1e-3), those which share more
    with G than an unrelated variant does, and those that could not be fitted.
    """
    fit = linear.fit
    with np.errstate(invalid="ignore", divide="ignore"):
        add_t, var_t = fit.add / fit.add_se, fit.var / fit.var_se
    largest = np.maximum(neg_log10_p_normal(add_t), neg_log10_p_normal(var_t))
    largest = np.maximum(largest, neg_log10_p_chi2_2df(add_t**2 + var_t**2))
    linked = linear.share > 2.0 * _unrelated_share(model) + LINKED_SHARE
    # Not "below": NaN needs the exact fit as well.
    return np.asarray(~(largest < EXACT_NEG_LOG10_P) | linked | (fit.status != Status.OK))


def needs_polish(model: LinearModel, linear: LinearFit) -> NDArray[np.bool_]:
    """Which variants to fit once more about their own BLUP, (m,).

    Measured without that: errors up to 1e-3 standard errors with 50 to 100 samples per random
    effect, 5e-5 with 200; 3e-4 and 8e-4 where 1% and 4% of the calls are missing.
    """
    few = len(model.base.y) < MANY_SAMPLES_PER_EFFECT * model.base.n_random
    linked = linear.share > 1.5 * _unrelated_share(model) + 0.01
    needed = few | linked | (linear.share_called < 1.0 - MANY_MISSING)
    # A fit that failed has no BLUP to start from.
    return np.asarray(needed & (linear.fit.status == Status.OK))


def _unrelated_share(model: LinearModel) -> float:
    """Share of its sum of squares that a variant without relation to G has in common with it."""
    t = model.base.h2 * np.exp(-model.base.beta)
    explained = t * model.eigenvalues / (1.0 + t * model.eigenvalues)
    return float(np.sum(explained)) / len(model.base.y)
