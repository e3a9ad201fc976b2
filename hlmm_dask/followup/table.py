"""OUTPREFIX.loci.tsv: one row a lead variant."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hlmm_dask.durable import replacing
from hlmm_dask.followup.checks import Found
from hlmm_dask.followup.leads import Lead, Window
from hlmm_dask.followup.refit import Refit
from hlmm_dask.followup.verdict import Rules, Slope, sex_difference, verdict
from hlmm_dask.schema import CLASS_DOC, DISPERSION_COLUMNS, RESULT_COLUMNS
from hlmm_dask.store import ResultsStore
from hlmm_dask.tab_separated import text_of

# Of the scan, by name in the store; what a store lacks is left out.
_FROM_SCAN = (
    "n_samples", "minor_allele_frequency", "effect_allele_frequency",
    *(f"n_{name}" for name in CLASS_DOC),
    "add", "add_se", "add_neg_log10_p", "var", "var_se", "var_neg_log10_p",
    "var_best_neg_log10_p", "av_neg_log10_p", "av_score_neg_log10_p",
)  # fmt: skip
_HEADER = {column.name: column.header for column in (*RESULT_COLUMNS, *DISPERSION_COLUMNS)}


def row_of(
    store: ResultsStore, lead: Lead, window: Window, found: Found, rules: Rules,
    slope: Slope, cautions: Mapping[str, Sequence[str]],
) -> dict[str, Any]:  # fmt: skip
    """Put the row of a lead variant together: scan, neighbour, refits, verdict.

    ``cautions`` are those of the scan, by effect.
    """
    variant = store.read_variants(lead.index, lead.index + 1).iloc[0]
    a1, a2 = str(variant["allele1"]), str(variant["allele2"])
    effect, other = (a2, a1) if store.effect_allele_is_a2 else (a1, a2)
    row: dict[str, Any] = {
        "SNP": lead.id, "chrom": lead.contig, "pos": lead.position, "tests": ",".join(lead.tests),
        "verdict": verdict_of(lead, window, found, rules, slope, cautions),
        "effect_allele": effect, "other_allele": other,
    }  # fmt: skip
    values = dict(zip(store.columns, store.read(lead.index, lead.index + 1)[0], strict=True))
    row |= {_HEADER[name]: values[name] for name in _FROM_SCAN if name in values}
    at = int(np.flatnonzero(window.index == lead.index)[0])
    names = [c.name for c in DISPERSION_COLUMNS if c.name in window.values]
    row |= {_HEADER[name]: window.values[name][at] for name in names}
    row |= _neighbour(window, found)
    checks = found.checks
    row["mean_leads"] = ",".join(name for name, _ in checks.neighbours)
    nothing = Refit(0)
    fits: dict[str, Refit] = {"refit": checks.base}
    for name, check in (
        ("mean_leads", checks.together),
        ("dominance", checks.dominance),
        ("covariates", checks.covariates),
    ):
        fits[name] = nothing if check is None else check.fit
    fits |= {f"scale_{scale}": fit for scale, fit in checks.scales.items()} | dict(checks.sexes)
    for name, fit in fits.items():
        row |= _columns(name, fit)
    dominance = fits["dominance"]
    row["dominance"], row["dominance_se"] = (
        (each[0] if each else np.nan) for each in (dominance.extra, dominance.extra_se)
    )
    if checks.sexes:
        row["n_unknown_sex"] = checks.base.n - sum(fit.n for fit in checks.sexes.values())
        for name, effect_name in (("add", "mean"), ("var", "variance")):
            row[f"{name}_pval_sex"] = sex_difference(checks.sexes, effect_name)
    return row


def verdict_of(
    lead: Lead, window: Window, found: Found, rules: Rules, slope: Slope,
    cautions: Mapping[str, Sequence[str]],
) -> str:  # fmt: skip
    """Verdict on each effect that a variant leads in."""
    effects = [test for test in lead.tests if test != "joint"]
    named = len(effects) != 1
    if not effects:
        at = int(np.flatnonzero(window.index == lead.index)[0])
        y = {
            "mean": window.values["add_neg_log10_p"][at],
            "variance": found.checks.base.var_neg_log10_p,
        }
        effects = [max(y, key=lambda name: float(y[name]))]
    said = {
        effect: verdict(found.checks, effect, rules, slope, cautions.get(effect, ()))
        for effect in effects
    }
    if not named:
        return said[effects[0]]
    return " | ".join(f"{effect}: {text}" for effect, text in said.items())


def write_loci(rows: Sequence[Mapping[str, Any]], path: Path) -> pd.DataFrame:
    """Write the table, whole or not at all."""
    table = pd.DataFrame(rows)
    if not rows:
        table = pd.DataFrame(columns=["SNP", "chrom", "pos", "tests", "verdict"])
    with replacing(path) as file:
        file.write(text_of(table))
    return table


def _neighbour(window: Window, found: Found) -> dict[str, Any]:
    near = found.strongest
    if near is None:
        return {"neighbour": ""} | dict.fromkeys(
            ("neighbour_pos", "neighbour_add", "neighbour_add_se", "neighbour_add_pval",
             "neighbour_r2", "neighbour_dprime"), np.nan)  # fmt: skip
    values = {name: window.values[name][near.row] for name in ("add", "add_se", "add_neg_log10_p")}
    return {
        "neighbour": str(window.id[near.row]),
        "neighbour_pos": int(window.position[near.row]),
        **{f"neighbour_{_HEADER[name]}": value for name, value in values.items()},
        "neighbour_r2": near.r2,
        "neighbour_dprime": near.d_prime,
    }


def _columns(name: str, fit: Refit) -> dict[str, Any]:
    return {
        f"n_{name}": fit.n,
        f"add_{name}": fit.add,
        f"add_se_{name}": fit.add_se,
        f"add_pval_{name}": fit.add_neg_log10_p,
        f"var_{name}": fit.var,
        f"var_se_{name}": fit.var_se,
        f"var_pval_{name}": fit.var_neg_log10_p,
    }
