"""What is left of an effect when its model is changed, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hlmm_dask.errors import InputError
from hlmm_dask.followup.refit import Refit
from hlmm_dask.models.inference import neg_log10_p_normal

SCALES = {"none": "raw", "log": "log", "rint": "rank"}


@dataclass(frozen=True)
class Rules:
    """When an effect counts as explained.

    Attributes
    ----------
    gone_p : float
        A refitted effect is gone if its p-value is above this,
    share : float
        and its statistic below this share of what it was.
    min_carriers : int
        Samples that carry the rarer allele, for a verdict.
    """

    gone_p: float = 1e-3
    share: float = 0.5
    min_carriers: int = 20

    def check(self) -> None:
        """Raise an `InputError` for values that make no sense."""
        if not 0.0 < self.gone_p < 1.0:
            raise InputError(f"--gone-p {self.gone_p:g}: expected a p-value, 0 < p < 1")
        if not 0.0 < self.share <= 1.0:
            raise InputError(f"--share {self.share:g}: expected a share, 0 < share <= 1")
        if self.min_carriers < 0:
            raise InputError(f"--min-carriers {self.min_carriers}: expected 0 or more")

    @property
    def gone_at(self) -> float:
        """-log10 of `gone_p`."""
        return -float(np.log10(self.gone_p))


@dataclass(frozen=True)
class Evidence:
    """A statistic with its -log10 p."""

    z: float
    p: float

    def gone_from(self, base: "Evidence", rules: Rules) -> bool:
        """Whether the evidence of `base` is not there any more; not, where nothing is known."""
        kept = self.z * np.sign(base.z)
        weak = kept < rules.share * abs(base.z) and self.p < rules.gone_at
        return bool(weak or kept < 0.0)

    def weaker_than(self, base: "Evidence", rules: Rules) -> bool:
        """Whether it is there, but much less of it."""
        less = self.z * np.sign(base.z) < rules.share * abs(base.z)
        return bool(less and not self.gone_from(base, rules))


@dataclass(frozen=True)
class Slope:
    """How effects on the variance go with those on the mean.

    Attributes
    ----------
    value : float
        Log variance per unit of the phenotype; NaN where not estimated.
    caution : str
        Why it is not reliable, in a clause; empty where it is.
    """

    value: float = float("nan")
    caution: str = ""

    @property
    def reliable(self) -> bool:
        """Whether an effect on the variance can be said to follow from that on the mean."""
        return bool(np.isfinite(self.value)) and not self.caution


def evidence(fit: Refit, effect: str, slope: Slope) -> Evidence:
    """Take the evidence of an effect (mean, variance or dispersion) from a refit."""
    if effect == "mean":
        return Evidence(fit.add / fit.add_se, fit.add_neg_log10_p)
    if effect == "variance":
        return Evidence(fit.score, fit.var_neg_log10_p)
    r = slope.value
    z = (fit.var - r * fit.add) / float(np.hypot(fit.var_se, r * fit.add_se))
    return Evidence(z, float(neg_log10_p_normal(z)))


@dataclass(frozen=True)
class Check:
    """A changed model: the effect in it, and on the same samples without the change."""

    fit: Refit
    base: Refit


@dataclass(frozen=True)
class Checks:
    """All refits of one variant.

    Attributes
    ----------
    base : Refit
        As in the scan.
    carriers : int
        Samples that carry the rarer allele.
    neighbours : tuple of (str, Refit)
        With each of the lead variants for the mean alone.
    together : Check or None
        With all of them; None without any.
    dominance, covariates : Check or None
    scale : str
        Transform of the phenotype that was scanned.
    scales : mapping of str to Refit
        Under other transforms.
    sexes : mapping of str to Refit
        Among the samples of each sex.
    """

    base: Refit
    carriers: int
    neighbours: Sequence[tuple[str, Refit]]
    together: Check | None
    dominance: Check | None
    covariates: Check | None
    scale: str
    scales: Mapping[str, Refit]
    sexes: Mapping[str, Refit]


def verdict(
    checks: Checks, effect: str, rules: Rules, slope: Slope, cautions: Sequence[str] = ()
) -> str:
    """Say whether an effect holds, or what explains it: all reasons found, joined.

    What limits the verdict follows in parentheses: a sex that can't be fitted, a slope that is not
    reliable, and the cautions of the scan.

    Parameters
    ----------
    checks : Checks
    effect : {"mean", "variance", "dispersion"}
    rules : Rules
    slope : Slope
        For variance and dispersion.
    cautions : sequence of str
        On the scan's test of the effect, a clause each.
    """
    base = evidence(checks.base, effect, slope)
    if not np.isfinite(base.z):
        why = checks.base.reason or slope.caution
        return f"can't be fitted again ({why})" if why else "can't be fitted again"
    if checks.carriers < rules.min_carriers:
        return f"too few carriers of the rarer allele ({checks.carriers})"
    limits = [
        *_unfitted_sexes(checks.sexes, effect, slope),
        *([slope.caution] if slope.caution and effect != "mean" else []),
        *cautions,
    ]
    said = _judged(checks, effect, base, rules, slope)
    return f"{said} ({'; '.join(limits)})" if limits else said


def _judged(checks: Checks, effect: str, base: Evidence, rules: Rules, slope: Slope) -> str:
    """Say whether an effect that can be judged holds."""
    if base.p < rules.gone_at:
        return "only by the classical test" if effect == "variance" else "not found again"
    reasons: list[str] = []
    weaker: list[str] = []

    def look(check: Check | None, reason: str, with_what: str) -> None:
        if check is None:
            return
        found = evidence(check.fit, effect, slope)
        before = evidence(check.base, effect, slope)
        if found.gone_from(before, rules):
            reasons.append(reason)
        elif found.weaker_than(before, rules):
            weaker.append(with_what)

    names = [
        name
        for name, fit in checks.neighbours
        if evidence(fit, effect, slope).gone_from(base, rules)
    ][:1] or [name for name, _ in checks.neighbours]
    listed = " and ".join(names)
    look(checks.together, f"explained by the mean effect of {listed}",
         f"with the mean effect of {listed}")  # fmt: skip
    if effect == "variance" and slope.reliable:
        # Both by their standard errors, as the scan has them.
        wald = checks.base.var / checks.base.var_se
        whole = Evidence(wald, float(neg_log10_p_normal(wald)))
        if evidence(checks.base, "dispersion", slope).gone_from(whole, rules):
            reasons.append("explained by its own effect on the mean")
    if effect != "mean":
        look(checks.dominance, "explained by dominance", "with dominance")
    look(checks.covariates, "explained by covariates", "with covariates")
    # The slope of the dispersion is one of the scale that was scanned.
    if effect != "dispersion":
        reasons += _scale_reasons(checks, effect, base, rules)
    reasons += _sex_reasons(checks.sexes, effect, base, rules, slope)
    if reasons:
        return "; ".join(reasons)
    return f"holds, but weaker {' and '.join(weaker)}" if weaker else "holds"


def _scale_reasons(checks: Checks, effect: str, base: Evidence, rules: Rules) -> list[str]:
    tried = {
        name: found
        for name, fit in checks.scales.items()
        if np.isfinite((found := evidence(fit, effect, Slope())).z)
    }
    gone = [name for name, found in tried.items() if found.gone_from(base, rules)]
    if gone and len(gone) == len(tried):
        return [f"only on the {SCALES[checks.scale]} scale"]
    return [f"not on the {SCALES[name]} scale" for name in gone]


def _sex_reasons(
    sexes: Mapping[str, Refit], effect: str, base: Evidence, rules: Rules, slope: Slope
) -> list[str]:
    """Name the sex that alone has the effect, where the two differ."""
    if not sexes or not sex_difference(sexes, effect) >= rules.gone_at:
        return []
    found = {name: evidence(fit, effect, slope) for name, fit in sexes.items()}
    gone = [name for name, each in found.items() if each.gone_from(base, rules)]
    return [f"only in {next(n for n in found if n not in gone)}s"] if len(gone) == 1 else []


def _unfitted_sexes(sexes: Mapping[str, Refit], effect: str, slope: Slope) -> list[str]:
    """Name the sexes that can't be compared."""
    out = []
    for name, fit in sexes.items():
        if not fit.n:
            out.append(f"no {name}s among the analysed samples")
        elif not np.isfinite(evidence(fit, effect, slope).z):
            out.append(f"{name}s can't be fitted: {fit.reason}")
    return out


def sex_difference(sexes: Mapping[str, Refit], effect: str) -> float:
    """-log10 p of the difference of an effect between the sexes."""
    one, two = sexes.values()
    if effect == "mean":
        z = (one.add - two.add) / float(np.hypot(one.add_se, two.add_se))
    else:
        z = (one.var - two.var) / float(np.hypot(one.var_robust_se, two.var_robust_se))
    return float(neg_log10_p_normal(z))
