"""Dispersion effects: what of a variance effect the mean-variance relation does not explain.

A trait whose variance depends on its mean gives every variant with an effect on the mean an
effect on the variance as well. Over many variants that shows as a line, var = r add, which is
estimated robustly and taken off (Young, Wauthier and Donnelly, Nature Genetics 2018, "Identifying
loci affecting trait variability and detecting interactions in genome-wide association studies").
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from hlmm_dask.arguments import choice, flag, number, whole_number
from hlmm_dask.models.huber import huber_slope
from hlmm_dask.models.inference import neg_log10_p_normal
from hlmm_dask.models.jackknife import MIN_BLOCKS, Blocks, SlopeErrors, slope_errors

MIN_VARIANTS = 30

# Where less than this share of Var(add) is no noise, or less than so many of its standard errors,
# the correction for noise is hardly determined.
_LEAST_SHARE, _LEAST_ERRORS = 0.2, 3.0
# Terciles whose slopes differ by this -log10 p are worth a word.
_TERCILES_DIFFER = 3.0

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class DispersionOptions:
    """How the line is estimated from which dispersion effects are measured.

    Attributes
    ----------
    blocks : "auto", "chromosomes", int or None
        What the jackknife of its slope leaves out in turn: each chromosome, or each of so many
        windows of equal numbers of variants. ``auto`` takes 20 windows where there are fewer
        than 5 chromosomes; None does without standard errors.
    exclude : float or None
        Variants with an additive p-value below this have no part in the line.
    slope_error : bool
        Whether ``dispersion_se`` holds the uncertainty of the line.
    """

    blocks: Blocks | None = None
    exclude: float | None = None
    slope_error: bool = False

    def __post_init__(self) -> None:
        """Raise an `InputError` for values that make no sense."""
        if isinstance(self.blocks, str):
            blocks = choice("dispersion blocks", self.blocks, ("auto", "chromosomes"))
            object.__setattr__(self, "blocks", blocks)
        elif self.blocks is not None:
            whole_number("dispersion blocks", self.blocks, least=MIN_BLOCKS)
        if self.exclude is not None:
            expected = "a p-value, above 0 and below 1"
            number("dispersion exclude", self.exclude, above=0.0, below=1.0, expected=expected)
        flag("slope_error", self.slope_error)


@dataclass(frozen=True)
class DispersionResult:
    """Dispersion effects of all variants and the line they were measured from.

    Attributes
    ----------
    slope : float
        Robust slope s of var on add, attenuated by the noise of add.
    mean_noise : float
        Mean of add_se² over the variants used.
    var_add : float
        Variance of add over the variants used (n - 1).
    noise_adjustment : float
        1 + mean_noise / (var_add - mean_noise), the correction of that attenuation.
    r_av : float
        slope * noise_adjustment, log variance per unit of the phenotype.
    n_used, n_excluded : int
        Variants with finite estimates that the line was fitted to, and those left out of it for
        their additive p-value.
    converged : bool
        Whether the robust regression met its stop rule.
    errors : SlopeErrors or None
        Standard error of r_av, and slopes by tercile of the additive effect, from a jackknife.
    dispersion, dispersion_se : (n_variants,) float64
        var - r_av add, and its standard error; NaN where the variant has no estimates.
    dispersion_t, dispersion_neg_log10_p : (n_variants,) float64
        dispersion / dispersion_se, and -log10 p of its square, chi-square with 1 df.
    """

    slope: float
    mean_noise: float
    var_add: float
    noise_adjustment: float
    r_av: float
    n_used: int
    n_excluded: int
    converged: bool
    errors: SlopeErrors | None
    dispersion: _Array
    dispersion_se: _Array
    dispersion_t: _Array
    dispersion_neg_log10_p: _Array

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader of the dispersion effects should know, one line each."""
        lines = []
        share = 1.0 / self.noise_adjustment
        errors = self.errors
        share_se = 0.0 if errors is None else errors.share_se
        if share < _LEAST_SHARE or share < _LEAST_ERRORS * share_se:
            lines.append(
                f"the slope of var on add is multiplied by {self.noise_adjustment:.3g} for the "
                f"noise of add, which is hardly determined: Var(add) {self.var_add:.4g} is close "
                f"to the mean add_se² {self.mean_noise:.4g}; dispersion effects are not reliable"
            )
        if errors is not None:
            if errors.reason:
                lines.append(f"no standard error of the slope of var on add: {errors.reason}")
            elif errors.terciles is not None and errors.terciles.neg_log10_p > _TERCILES_DIFFER:
                lines.append(
                    "the slope of var on add differs between small and large effects: "
                    f"{errors.terciles.text}; the mean-variance relation is no line, or small "
                    "effects are mostly noise beside a few large ones"
                )
        return tuple(lines)


@dataclass(frozen=True)
class NotEstimable:
    """No dispersion effects can be estimated; ``reason`` is one line that says why."""

    reason: str


def dispersion_effects(
    add: ArrayLike,
    add_se: ArrayLike,
    var: ArrayLike,
    var_se: ArrayLike,
    *,
    to_fixed_point: bool = False,
    options: DispersionOptions | None = None,
    contig: ArrayLike | None = None,
) -> DispersionResult | NotEstimable:
    """Estimate dispersion effects from additive and log-variance effects.

    With s the robust slope of var on add and m the mean of add_se²::

        r_av = s (1 + m / (Var(add) - m))
        dispersion = var - r_av add,    dispersion_se² = var_se² + r_av² add_se²

    and with ``options.slope_error`` dispersion_se² + add² r_se² for the uncertainty of r_av.

    Parameters
    ----------
    add, add_se : (n_variants,) array_like
        Effects on the mean and standard errors, phenotype units per allele.
    var, var_se : (n_variants,) array_like
        Effects on the log variance and standard errors, per allele. A variant with a
        non-finite value in any of the four has NaN in the result and no part in s, m and
        Var(add).
    to_fixed_point : bool
        Run the robust regression to its fixed point instead of rlm's stop (1e-4 relative).
    options : DispersionOptions, optional
        By default no jackknife, and all variants with estimates for the line.
    contig : (n_variants,) array_like of int, optional
        A number for each variant's chromosome; without, all are on one.

    Returns
    -------
    DispersionResult or NotEstimable
        The latter with fewer than 30 variants or Var(add) <= m, where the additive effects
        can't be told from their noise, or without the slope's standard error where it is asked
        for.

    Raises
    ------
    ValueError
        If the four are not 1-D of one length.
    """
    a, a_se, v, v_se = (np.asarray(z, dtype=np.float64) for z in (add, add_se, var, var_se))
    if a.ndim != 1 or not a.shape == a_se.shape == v.shape == v_se.shape:
        raise ValueError(
            "add, add_se, var and var_se must be 1-D of one length, found "
            f"{a.shape}, {a_se.shape}, {v.shape} and {v_se.shape}"
        )
    flag("to_fixed_point", to_fixed_point)
    options = options or DispersionOptions()
    fitted = np.isfinite(a) & np.isfinite(a_se) & np.isfinite(v) & np.isfinite(v_se)
    used = fitted
    if options.exclude is not None:
        # Compared as t, which is faster than p for millions.
        used = fitted & (np.abs(a) <= -special.ndtri(0.5 * options.exclude) * a_se)
    n_used = int(used.sum())
    if n_used < MIN_VARIANTS:
        return NotEstimable(
            f"{n_used} variants have estimates, at least {MIN_VARIANTS} are needed "
            "for the regression of variance on additive effects"
            + ("" if used is fitted else f" (without those with p < {options.exclude:g})")
        )
    mean_noise = float(np.mean(a_se[used] ** 2))
    var_add = float(np.var(a[used], ddof=1))
    if not var_add > mean_noise:
        return NotEstimable(
            f"the variance of the additive effects ({var_add:.4g}) does not exceed their mean "
            f"squared standard error ({mean_noise:.4g}): they can't be told from noise"
        )
    fit = huber_slope(a[used], v[used], to_fixed_point=to_fixed_point)
    noise_adjustment = 1.0 + mean_noise / (var_add - mean_noise)
    r_av = fit.slope * noise_adjustment
    errors = None
    if options.blocks is not None:
        groups = np.zeros(n_used, dtype=np.int64) if contig is None else np.asarray(contig)[used]
        errors = slope_errors(a[used], a_se[used], v[used], groups, options.blocks)
    r_se = 0.0
    if options.slope_error:
        r_se = float("nan") if errors is None else errors.r_se
        if not np.isfinite(r_se):
            why = "no blocks for it" if errors is None else errors.reason
            return NotEstimable(f"the standard error of the slope can't be estimated: {why}")

    dispersion = np.full(a.shape, np.nan)
    se = np.full(a.shape, np.nan)
    t = np.full(a.shape, np.nan)
    dispersion[fitted] = v[fitted] - r_av * a[fitted]
    se[fitted] = np.hypot(v_se[fitted], r_av * a_se[fitted])
    if r_se:
        se = np.hypot(se, r_se * a)
    positive = se > 0.0
    t[positive] = dispersion[positive] / se[positive]
    return DispersionResult(
        slope=fit.slope,
        mean_noise=mean_noise,
        var_add=var_add,
        noise_adjustment=noise_adjustment,
        r_av=r_av,
        n_used=n_used,
        n_excluded=int(fitted.sum()) - n_used,
        converged=fit.converged,
        errors=errors,
        dispersion=dispersion,
        dispersion_se=se,
        dispersion_t=t,
        dispersion_neg_log10_p=neg_log10_p_normal(t),
    )
