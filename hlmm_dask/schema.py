"""Every variable of a results table once: name, header in the text table, unit and meaning."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Status(IntEnum):
    """What became of a variant; anything but ``OK`` has NaN for its estimates."""

    OK = 0
    ALL_MISSING = 1
    MISSING = 2
    MONOMORPHIC = 3
    ALL_HETEROZYGOUS = 4
    LOW_MAF = 5
    COLLINEAR = 6
    UNBOUNDED = 7
    NOT_CONVERGED = 8
    FEW_CARRIERS = 9
    NEGATIVE_POSITION = 10
    NO_STANDARD_ERROR = 11

    @property
    def label(self) -> str:
        """The word that stands in the table's status column."""
        return self.name.lower()


STATUS_DOC = {
    Status.OK: "fitted",
    Status.ALL_MISSING: "no genotype call among the analysed samples",
    Status.MISSING: "percent of missing calls not below max_missing",
    Status.MONOMORPHIC: "only one allele among the analysed samples",
    Status.ALL_HETEROZYGOUS: "every called sample is heterozygous, or has the same dosage",
    Status.LOW_MAF: "minor allele frequency not above min_maf",
    Status.COLLINEAR: "the genotype is a linear combination of the covariates",
    Status.UNBOUNDED: "likelihood without maximum (a genotype class, or all, without residual)",
    Status.NOT_CONVERGED: "iteration limit reached before the tolerance",
    Status.FEW_CARRIERS: "hlmm-interact: fewer carriers of the rarer allele than min_carriers",
    Status.NEGATIVE_POSITION: "its negative position (-9 excepted) marks it as left out",
    Status.NO_STANDARD_ERROR: "the information at the estimates is not positive definite",
}

# -log10 p of each test, the one to go by first: the score test where the results have it.
_TESTED = {
    "mean": ("add_neg_log10_p",),
    "variance": ("var_best_neg_log10_p", "var_neg_log10_p"),
    "joint": ("av_score_neg_log10_p", "av_neg_log10_p"),
}


def tested_columns(columns: Iterable[str]) -> dict[str, str]:
    """Return the column of -log10 p of each test that results with these columns have."""
    there = set(columns)
    found = {
        test: next((name for name in names if name in there), "") for test, names in _TESTED.items()
    }
    return {test: name for test, name in found.items() if name}


# Status in a Dataset of a variant whose block has no results yet.
NOT_COMPUTED = -1


def nothing_fitted(counts: Mapping[str, int]) -> str:
    """Say why no variant of a scan was fitted, the most frequent reason first; else nothing."""
    left_out = {label: n for label, n in counts.items() if n}
    if not left_out or Status.OK.label in left_out:
        return ""
    docs = {status.label: doc for status, doc in STATUS_DOC.items()}
    reasons = ", ".join(
        f"{n:,} {label} ({docs[label]})" if label in docs else f"{n:,} {label}"
        for label, n in sorted(left_out.items(), key=lambda item: -item[1])
    )
    return f"no variant was fitted: {reasons}"


@dataclass(frozen=True)
class Column:
    """One column of the results.

    Attributes
    ----------
    name : str
        Name in the results store and in a Dataset.
    header : str
        Header in the text table; the first 13 are hlmm's.
    unit : str
        Unit of the values.
    doc : str
        One line on the meaning.
    """

    name: str
    header: str
    unit: str
    doc: str


# Genotypes by the name in a column's, in the order of the copies of the effect allele.
CLASS_DOC = {
    "hom_ref": "without the effect allele",
    "het": "with one copy of it",
    "hom_alt": "with two copies of it",
}

# What a kernel returns for each variant and the store keeps: float64, in this order.
RESULT_COLUMNS: tuple[Column, ...] = (
    Column("n_samples", "n", "count", "analysed samples with a call"),
    Column("minor_allele_frequency", "frequency", "1", "minor allele frequency among them"),
    Column("loglik", "likelihood", "log", "log-likelihood at the maximum"),
    Column("add", "add", "phenotype per allele", "effect of the effect allele on the mean"),
    Column("add_se", "add_se", "phenotype per allele", "standard error of add"),
    Column("add_t", "add_t", "1", "add / add_se"),
    Column("add_neg_log10_p", "add_pval", "-log10", "-log10 p of add_t², chi-square, 1 df"),
    Column("var", "var", "log variance per allele", "effect on the log variance"),
    Column("var_se", "var_se", "log variance per allele", "standard error of var"),
    Column("var_t", "var_t", "1", "var / var_se"),
    Column("var_neg_log10_p", "var_pval", "-log10", "-log10 p of var_t², chi-square, 1 df"),
    Column("av_neg_log10_p", "av_pval", "-log10", "-log10 p of add_t² + var_t², 2 df"),
    Column("effect_allele_frequency", "effect_allele_frequency", "1", "of the counted allele"),
    Column("h2", "h2", "phenotype²", "variance of the random effects (NaN without)"),
    Column(
        "add_robust_se", "add_robust_se", "phenotype per allele", "sandwich standard error of add"
    ),
    Column(
        "var_robust_se",
        "var_robust_se",
        "log variance per allele",
        "sandwich standard error of var",
    ),
    Column("status", "status", "code", "0 = fitted, else why not (schema.Status)"),
    Column("add_var_cov", "add_var_cov", "phenotype log variance per allele²",
           "sandwich covariance of add and var"),
    Column("av_robust_neg_log10_p", "av_robust_pval", "-log10",
           "-log10 p of add and var by their sandwich covariance, chi-square, 2 df"),
    Column("var_lrt_neg_log10_p", "var_lrt_pval", "-log10",
           "-log10 p of the likelihood ratio of an effect on the variance, chi-square, 1 df"),
    Column("add_score_neg_log10_p", "add_score_pval", "-log10",
           "-log10 p of the score of an effect on the mean, saddlepoint tails"),
    Column("var_score_t", "var_score_t", "1", "studentised score of an effect on the variance"),
    Column("var_score_neg_log10_p", "var_score_pval", "-log10",
           "-log10 p of var_score_t, saddlepoint tails"),
    Column("av_score_neg_log10_p", "av_score_pval", "-log10",
           "-log10 p of both scores, 2 df, saddlepoint tail"),
    Column("var_best_neg_log10_p", "var_best_pval", "-log10",
           "-log10 p of an effect on the variance to go by: var_score_pval"),
    *(
        Column(f"n_{name}", f"n_{name}", "count", f"samples {text}")
        for name, text in CLASS_DOC.items()
    ),
    *(
        Column(f"pheno_mean_{name}", f"pheno_mean_{name}", "phenotype", f"mean of those {text}")
        for name, text in CLASS_DOC.items()
    ),
    *(
        Column(f"pheno_sd_{name}", f"pheno_sd_{name}", "phenotype",
               f"standard deviation of those {text}")
        for name, text in CLASS_DOC.items()
    ),
)  # fmt: skip

# What a variant has without being fitted.
COUNTED_COLUMNS: frozenset[str] = frozenset(
    ("n_samples", "minor_allele_frequency", "effect_allele_frequency")
) | {f"{what}_{name}" for what in ("n", "pheno_mean", "pheno_sd") for name in CLASS_DOC}

RESULT_NAMES: tuple[str, ...] = tuple(column.name for column in RESULT_COLUMNS)
INDEX: dict[str, int] = {name: i for i, name in enumerate(RESULT_NAMES)}
N_COLUMNS = len(RESULT_COLUMNS)

# The same of the homoskedastic mixed model, --model lmm.
_SHARED = {column.name: column for column in RESULT_COLUMNS}
LMM_COLUMNS: tuple[Column, ...] = (
    _SHARED["n_samples"],
    _SHARED["minor_allele_frequency"],
    Column("loglik", "likelihood", "log", "log-likelihood (ML) at the ML variance ratio"),
    _SHARED["add"],
    _SHARED["add_se"],
    _SHARED["add_t"],
    Column("add_neg_log10_p", "add_pval", "-log10", "-log10 p of add_t², F, 1 and n - c - 1 df"),
    Column(
        "add_lrt_neg_log10_p", "add_lrt_pval", "-log10",
        "-log10 p of the likelihood ratio, chi-square, 1 df",
    ),
    _SHARED["effect_allele_frequency"],
    Column("h2", "h2", "1", "share of the relationship matrix in the variance (REML)"),
    _SHARED["status"],
)  # fmt: skip
LMM_NAMES: tuple[str, ...] = tuple(column.name for column in LMM_COLUMNS)
LMM_INDEX: dict[str, int] = {name: i for i, name in enumerate(LMM_NAMES)}

# Further tests of the variance, by the name that asks for one: its statistic and its -log10 p.
TEST_COLUMNS: dict[str, tuple[Column, Column]] = {
    test: (
        Column(f"{name}_{symbol}", f"{name}_{symbol}", "1", f"{doc}: {symbol}"),
        Column(f"{name}_neg_log10_p", f"{name}_pval", "-log10", f"-log10 p of {name}_{symbol}"),
    )
    for test, name, symbol, doc in (
        ("levene", "levene", "f", "Levene's test, deviations from class means"),
        ("brown-forsythe", "brown_forsythe", "f", "Brown and Forsythe's, from class medians"),
        ("bartlett", "bartlett", "chi2", "Bartlett's test, for normal residuals"),
        ("drm", "drm", "t", "deviation regression model, from class medians"),
        ("svlm", "svlm", "t", "squared residual value linear model"),
    )
}


def phenotype_unit(fingerprint: Mapping[str, Any]) -> str:
    """Return the unit of the phenotype as it was fitted, given what a store was made with."""
    return "phenotype" if fingerprint.get("fit_covariates") else "SD"


DISPERSION_COLUMNS: tuple[Column, ...] = (
    Column("dispersion", "dispersion", "log variance per allele", "var - r_av add"),
    Column("dispersion_se", "dispersion_se", "log variance per allele", "its standard error"),
    Column("dispersion_t", "dispersion_t", "1", "dispersion / dispersion_se"),
    Column("dispersion_neg_log10_p", "dispersion_pval", "-log10", "-log10 p, chi-square, 1 df"),
)

# The text table: hlmm's 13 columns first, then what hlmm leaves out. Variant metadata come from
# the .bim, everything else from RESULT_COLUMNS by header.
TSV_HEADERS: tuple[str, ...] = (
    "SNP", "n", "frequency", "likelihood",
    "add", "add_se", "add_t", "add_pval",
    "var", "var_se", "var_t", "var_pval", "av_pval",
    "chrom", "pos", "effect_allele", "other_allele", "effect_allele_frequency", "h2", "status",
    "add_robust_se", "var_robust_se", "add_var_cov", "av_robust_pval", "var_lrt_pval",
    "add_score_pval", "var_score_t", "var_score_pval", "av_score_pval", "var_best_pval",
    *(f"{what}_{name}" for what in ("n", "pheno_mean", "pheno_sd") for name in CLASS_DOC),
)  # fmt: skip
LMM_HEADERS: tuple[str, ...] = (
    "SNP", "n", "frequency", "likelihood",
    "add", "add_se", "add_t", "add_pval", "add_lrt_pval",
    "chrom", "pos", "effect_allele", "other_allele", "effect_allele_frequency", "h2", "status",
)  # fmt: skip
