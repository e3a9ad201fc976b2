"""What ``hlmm-loci`` found: its table read again, and the report's section on it."""

from pathlib import Path

import pandas as pd

from hlmm_dask.errors import InputError
from hlmm_dask.view.page_parts import table
from hlmm_dask.view.wording import p_value

_WORDS = (
    "SNP", "chrom", "tests", "verdict", "effect_allele", "other_allele", "neighbour", "mean_leads",
)  # fmt: skip
# p-values of the section, by header; the last are shown where there is such a refit.
_SHOWN = {
    "add_pval": "p, mean",
    "var_pval_refit": "p, variance",
    "var_pval_mean_leads": "with mean leads",
    "var_pval_dominance": "with dominance",
    "var_pval_covariates": "with covariates",
    "var_pval_scale_log": "on log",
    "var_pval_scale_rint": "on ranks",
    "var_pval_male": "males",
    "var_pval_female": "females",
}


def read_loci(path: Path) -> pd.DataFrame:
    """Read OUTPREFIX.loci.tsv; IDs and chromosomes are strings.

    Raises
    ------
    InputError
        If it is no such table.
    """
    try:
        found = pd.read_csv(
            path, sep="\t", dtype=dict.fromkeys(_WORDS, str), keep_default_na=False,
            na_values=["NaN"],
        )  # fmt: skip
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a table of hlmm-loci ({error}); run hlmm-loci") from error
    if lacking := [name for name in ("SNP", "chrom", "pos", "tests", "verdict")
                   if name not in found]:  # fmt: skip
        raise InputError(f"{path}: no column {', '.join(lacking)}; run hlmm-loci again")
    return found


def verdict_section(loci: pd.DataFrame | None) -> str:
    """Return the section of the report; nothing where ``hlmm-loci`` has not run."""
    if loci is None:
        return ""
    shown = {name: label for name, label in _SHOWN.items()
             if name in loci and loci[name].notna().any()}  # fmt: skip
    head = ("Variant", "Chr", "Position", "Leads for", "Verdict", *shown.values())
    rows = [
        (row["SNP"], row["chrom"], f"{row['pos']:,}", row["tests"].replace(",", ", "),
         row["verdict"], *(p_value(row[name]) for name in shown))
        for row in loci.to_dict("records")
    ]  # fmt: skip
    said = (
        "Lead variants refitted by hlmm-loci; the p-values of the variance are of score tests, "
        "each with one change of the model."
    )
    body = table(head, rows, kind="verdicts") if rows else "<p>No variant leads.</p>"
    return f"<section><h2>Do the loci hold?</h2><p>{said}</p>{body}</section>"
