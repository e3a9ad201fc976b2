"""Which variants are fitted, and the table of results that every kernel fills."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.packed import ClassSums
from hlmm_dask.models.design import least_squares
from hlmm_dask.models.inference import neg_log10_p_chi2_2df, neg_log10_p_normal
from hlmm_dask.models.newton import Convergence
from hlmm_dask.schema import CLASS_DOC, INDEX, N_COLUMNS, Status

FloatArray = NDArray[np.float64]

# Span of the log variance over a variant's genotypes beyond which the maximum is taken
# to lie at infinity: some genotype class is fitted without residual.
UNBOUNDED_SPAN = 25.0
# Sums over a class that come by difference are known to about 1e-16 of the total: a class with
# less than this share of the total sum of squares has no residual.
_NO_RESIDUAL = 1e-13


# A variant that leaves less than this share of the phenotype's sum of squares fits it perfectly.
_PERFECT = 1e-10


@dataclass(frozen=True)
class Filters:
    """Which variants are fitted; both bounds are strict.

    Attributes
    ----------
    min_maf : float
        Minor allele frequency above this.
    max_missing : float
        Percent of missing calls below this.
    count_a2 : bool
        Effects are per copy of allele 2 rather than allele 1.
    """

    min_maf: float = 0.05
    max_missing: float = 5.0
    count_a2: bool = False


@dataclass(frozen=True)
class VariantFit:
    """Maximum likelihood fits of ``m`` variants.

    Attributes
    ----------
    add, add_se, var, var_se : (m,) float64
        Effects per copy of allele 1 on mean and log variance, and their standard errors.
    loglik : (m,) float64
        Log-likelihood at the maximum, with the n log 2π term.
    status : (m,) int64
        A :class:`~hlmm_dask.schema.Status` code.
    h2 : (m,) float64, optional
        Variance of the random effects.
    add_robust_se, var_robust_se, add_var_cov : (m,) float64, optional
        Sandwich standard errors and covariance, which don't assume normal residuals.
    loglik_mean : (m,) float64, optional
        Log-likelihood without an effect on the variance.
    """

    add: FloatArray
    add_se: FloatArray
    var: FloatArray
    var_se: FloatArray
    loglik: FloatArray
    status: NDArray[np.int64]
    h2: FloatArray | None = None
    add_robust_se: FloatArray | None = None
    var_robust_se: FloatArray | None = None
    add_var_cov: FloatArray | None = None
    loglik_mean: FloatArray | None = None

    def replaced(self, rows: NDArray[np.int64], other: "VariantFit") -> "VariantFit":
        """Return the fits with those of ``rows`` (k,) taken from ``other``, k fits."""
        columns = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine is None or theirs is None:
                continue
            columns[field.name] = mine.copy()
            columns[field.name][rows] = theirs
        return VariantFit(**columns)


def convergence_status(
    convergence: NDArray[np.int64], var: FloatArray, dosage_span: FloatArray
) -> NDArray[np.int64]:
    """Status (m,) of the fits: ``UNBOUNDED`` where the log variance runs away."""
    status = np.where(
        convergence == Convergence.CONVERGED, int(Status.OK), int(Status.NOT_CONVERGED)
    )
    with np.errstate(invalid="ignore"):
        span = np.abs(var) * dosage_span
        # On the way to infinity the likelihood becomes flat, and the search stops early.
        flat = (status == Status.NOT_CONVERGED) & (span > 0.5 * UNBOUNDED_SPAN)
        runaway = flat | ~(span <= UNBOUNDED_SPAN)
    status[runaway | (convergence == Convergence.NOT_FINITE)] = Status.UNBOUNDED
    return status.astype(np.int64)


def within_class_squares(
    counts: FloatArray, sums: FloatArray, squares: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Class means of y, zero in an empty class, and sums of squares about them; all (3, m)."""
    means = np.where(counts > 0, sums / np.maximum(counts, 1.0), 0.0)
    within = squares - sums * means
    none = (counts <= 1) | (within <= _NO_RESIDUAL * squares.sum(axis=0))
    return means, np.where(none, 0.0, within)


def perfect_fit(counts: FloatArray, means: FloatArray, within: FloatArray) -> NDArray[np.bool_]:
    """Whether the regression of y on the genotype leaves no residual, (m,).

    Counts, means and sums of squares about these by class, (3, m) each.
    """
    n = counts.sum(axis=0)
    x = np.arange(3.0)[:, None] - (counts[1] + 2.0 * counts[2]) / n
    away = means - (counts * means).sum(axis=0) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (counts * x * away).sum(axis=0) / (counts * x * x).sum(axis=0)
    rest = within.sum(axis=0) + (counts * (away - slope * x) ** 2).sum(axis=0)
    total = within.sum(axis=0) + (counts * away**2).sum(axis=0)
    return np.asarray(rest <= _PERFECT * total)


def perfectly_fitted(y: FloatArray, X: FloatArray, g: FloatArray) -> bool:
    """Whether y (n,) has no residual on X (n, c) and the variant g (n,), but has one on X alone."""
    alone = y - X @ least_squares(X, y)
    both = np.column_stack([X, g])
    rest = y - both @ least_squares(both, y)
    return bool(rest @ rest <= _PERFECT * (alone @ alone))


def empty_results(n_variants: int) -> FloatArray:
    """Results (n_variants, N_COLUMNS) of a block in which nothing is fitted yet."""
    return np.full((n_variants, N_COLUMNS), np.nan)


def classify(
    results: FloatArray,
    *,
    n_called: FloatArray,
    copies: FloatArray,
    uniform: NDArray[np.bool_],
    n_analysed: int,
    filters: Filters,
) -> None:
    """Fill sample counts, frequencies and status.

    Parameters
    ----------
    results : (m, N_COLUMNS) float64
        Filled in place; status ``OK`` marks the variants to fit.
    n_called : (m,) float64
        Samples with a call.
    copies : (m,) float64
        Copies of allele 1 that they carry together.
    uniform : (m,) bool
        Whether all of them carry the same.
    n_analysed : int
        Analysed samples, called or not.
    filters : Filters
        The bounds.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        frequency = copies / n_called / 2.0
        # Not 1 - frequency: a bound that is met exactly must not depend on the allele counted.
        maf = np.minimum(copies, 2.0 * n_called - copies) / n_called / 2.0
    # 100 (1 - n/N) in this form: the strict comparison is then hlmm's to the last bit.
    missing_percent = 100.0 * (1.0 - n_called / n_analysed)

    status = np.full(len(results), int(Status.OK))
    status[~(maf > filters.min_maf)] = Status.LOW_MAF
    status[uniform] = Status.ALL_HETEROZYGOUS
    status[(copies == 0) | (copies == 2.0 * n_called)] = Status.MONOMORPHIC
    too_many = ~(missing_percent < filters.max_missing)
    status[too_many] = Status.MISSING
    status[n_called == 0] = Status.ALL_MISSING
    unknown = too_many | (n_called == 0)

    results[:, INDEX["n_samples"]] = n_called
    results[:, INDEX["minor_allele_frequency"]] = np.where(unknown, np.nan, maf)
    results[:, INDEX["effect_allele_frequency"]] = (
        1.0 - frequency if filters.count_a2 else frequency
    )
    results[:, INDEX["status"]] = status


def fill_estimates(
    results: FloatArray, rows: NDArray[np.int64], fit: VariantFit, *, count_a2: bool
) -> None:
    """Fill the estimates of ``rows`` (k,) and all that follows from them.

    Where the fit's status is not ``OK`` the estimates stay NaN. With ``count_a2`` the effects
    change their sign.
    """
    status = fit.status.copy()
    needed = [fit.add, fit.add_se, fit.var, fit.var_se, fit.loglik]
    if fit.h2 is not None:
        needed.append(fit.h2)
    usable = np.isfinite(needed).all(axis=0) & (fit.add_se > 0.0) & (fit.var_se > 0.0)
    status[(status == Status.OK) & ~usable] = Status.NO_STANDARD_ERROR
    results[rows, INDEX["status"]] = status
    fitted = status == Status.OK
    rows = rows[fitted]
    sign = -1.0 if count_a2 else 1.0
    add, var = sign * fit.add[fitted], sign * fit.var[fitted]
    add_se, var_se = fit.add_se[fitted], fit.var_se[fitted]
    add_t, var_t = add / add_se, var / var_se
    columns = {
        "loglik": fit.loglik[fitted],
        "add": add,
        "add_se": add_se,
        "add_t": add_t,
        "add_neg_log10_p": neg_log10_p_normal(add_t),
        "var": var,
        "var_se": var_se,
        "var_t": var_t,
        "var_neg_log10_p": neg_log10_p_normal(var_t),
        "av_neg_log10_p": neg_log10_p_chi2_2df(add_t**2 + var_t**2),
    }
    optional = {
        "h2": fit.h2,
        "add_robust_se": fit.add_robust_se,
        "var_robust_se": fit.var_robust_se,
        "add_var_cov": fit.add_var_cov,
    }
    columns |= {name: values[fitted] for name, values in optional.items() if values is not None}
    if "add_var_cov" in columns:
        columns["av_robust_neg_log10_p"] = neg_log10_p_chi2_2df(_wald(columns))
    if fit.loglik_mean is not None:
        gain = np.maximum(columns["loglik"] - fit.loglik_mean[fitted], 0.0)
        columns["var_lrt_neg_log10_p"] = neg_log10_p_normal(np.sqrt(2.0 * gain))
    fill_columns(results, rows, columns)


def fill_columns(
    results: FloatArray, rows: NDArray[np.int64], columns: Mapping[str, FloatArray]
) -> None:
    """Fill columns by name, each with values (k,) of ``rows`` (k,)."""
    for name, values in columns.items():
        results[rows, INDEX[name]] = values


def fill_classes(results: FloatArray, sums: ClassSums, *, mean: float, count_a2: bool) -> None:
    """Fill counts, and mean and standard deviation of the phenotype, by genotype.

    Parameters
    ----------
    results : (m, N_COLUMNS) float64
        Filled in place.
    sums : ClassSums
        Of the centred phenotype, for all of the variants.
    mean : float
        What was taken off the phenotype.
    count_a2 : bool
        The effect allele is allele 2.
    """
    n_k = sums.counts
    means, within = within_class_squares(n_k, sums.sums, sums.squares)
    names = [*CLASS_DOC][:: -1 if count_a2 else 1]
    for k, name in enumerate(names):
        n = n_k[k]
        results[:, INDEX[f"n_{name}"]] = n
        results[:, INDEX[f"pheno_mean_{name}"]] = np.where(n > 0, means[k] + mean, np.nan)
        sd = np.sqrt(np.maximum(within[k], 0.0) / np.maximum(n - 1.0, 1.0))
        results[:, INDEX[f"pheno_sd_{name}"]] = np.where(n > 1, sd, np.nan)


def _wald(columns: Mapping[str, FloatArray]) -> FloatArray:
    """Statistic of add and var by their sandwich covariance, NaN where that is singular."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a = columns["add"] / columns["add_robust_se"]
        b = columns["var"] / columns["var_robust_se"]
        r = columns["add_var_cov"] / (columns["add_robust_se"] * columns["var_robust_se"])
        left = np.where(r * r < 1.0 - 1e-10, 1.0 - r * r, np.nan)
        return np.asarray((a * a - 2.0 * r * a * b + b * b) / left)
