"""GWAS-SSF, ldsc's and regenie's tables: one file an effect, one row a variant."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hlmm_dask import bgzf
from hlmm_dask.durable import replacing
from hlmm_dask.formats.effects import Effect, Statistics, statistics_of
from hlmm_dask.formats.rows import human_numbers
from hlmm_dask.formats.text import (
    SAME_ALLELES,
    are_nucleotides,
    are_same,
    identifiers,
    join,
    left_out,
    not_fitted,
    sift,
    strings,
    upper,
)

_Reasons = dict[str, NDArray[np.bool_]]
# Letters that stand opposite each other: which strand was read can't be told.
_AMBIGUOUS = ("AT", "TA", "CG", "GC")


@dataclass(frozen=True)
class TableFormat:
    """A text table of summary statistics.

    Attributes
    ----------
    suffix : str
        End of a file's name.
    header : tuple of str
        Names of the columns.
    separator, missing : str
        What stands between columns, and for a value that is not there.
    unfit : callable
        Which rows of a batch the format can't hold, by reason.
    columns : callable
        The columns as arrow arrays, in the order of the header.
    """

    suffix: str
    header: tuple[str, ...]
    separator: str
    missing: str
    unfit: Callable[[pd.DataFrame], _Reasons]
    columns: Callable[[pd.DataFrame, Statistics, Effect], list[Any]]


def write_table(
    layout: TableFormat,
    effect: Effect,
    frames: Iterator[pd.DataFrame],
    path: Path,
    *,
    describes: Path | None = None,
) -> str:
    """Write a table, whole or not at all.

    Parameters
    ----------
    layout : TableFormat
        The format.
    effect : Effect
        The effect.
    frames : iterator of DataFrame
        Rows of the store in the format's order.
    path : Path
        File to be written; BGZF, which any reader of gzip reads.
    describes : Path, optional
        File about the table that is replaced; removed with it.

    Returns
    -------
    str
        How many variants were written, and which were left out.
    """
    counts: Counter[str] = Counter()
    n_rows = 0
    with replacing(path) as file:
        file.write(bgzf.compress((layout.separator.join(layout.header) + "\n").encode()))
        for frame in frames:
            unusable = ~statistics_of(effect, frame).usable
            reasons = {"not fitted": not_fitted(frame), "without this effect": unusable}
            kept = frame[sift(reasons | layout.unfit(frame), counts)]
            columns = layout.columns(kept, statistics_of(effect, kept), effect)
            text = join(columns, separator=layout.separator, missing=layout.missing)
            file.write(bgzf.compress(text))
            n_rows += len(kept)
        file.write(bgzf.END)
        if describes is not None:
            describes.unlink(missing_ok=True)
    return f"{path}: {n_rows:,} variants{left_out(counts)}"


def _numbers(values: NDArray[np.float64]) -> Any:
    return pa.array(values)


def _integers(column: "pd.Series[Any]") -> Any:
    return pa.array(column.to_numpy(dtype=np.int64))


def _unfit_ssf(frame: pd.DataFrame) -> _Reasons:
    return {
        "not on a human chromosome": human_numbers(frame["contig"]) == 0,
        "without a position": frame["position"].to_numpy() < 1,
        "with alleles other than A, C, G, T": ~are_nucleotides(frame),
        SAME_ALLELES: are_same(frame),
    }


def _ssf(frame: pd.DataFrame, numbers: Statistics, _: Effect) -> list[Any]:
    ids = identifiers(frame["variant_id"])
    return [
        pa.array(human_numbers(frame["contig"])),
        _integers(frame["position"]),
        upper(frame["effect"]),
        upper(frame["other"]),
        _numbers(numbers.beta),
        _numbers(numbers.se),
        _numbers(frame["effect_allele_frequency"].to_numpy()),
        _numbers(numbers.neg_log10_p),
        pc.if_else(pc.match_substring_regex(ids, "^rs[0-9]+$"), ids, None),
        _integers(frame["n_samples"]),
        ids,
    ]


def _unfit_ldsc(frame: pd.DataFrame) -> _Reasons:
    pair = np.asarray(frame["effect"] + frame["other"], dtype=object)
    pairs = pd.Series(pair).str.upper()
    short = (frame["effect"].str.len() == 1) & (frame["other"].str.len() == 1)
    return {
        "no SNP": ~(short.to_numpy(dtype=bool) & are_nucleotides(frame)),
        SAME_ALLELES: are_same(frame),
        "strand-ambiguous": pairs.isin(_AMBIGUOUS).to_numpy(),
    }


def _ldsc(frame: pd.DataFrame, numbers: Statistics, _: Effect) -> list[Any]:
    return [
        identifiers(frame["variant_id"]),
        upper(frame["effect"]),
        upper(frame["other"]),
        _integers(frame["n_samples"]),
        _numbers(numbers.z),
    ]


def _unfit_regenie(frame: pd.DataFrame) -> _Reasons:
    return {"without a position": frame["position"].to_numpy() < 1}


def _regenie(frame: pd.DataFrame, numbers: Statistics, effect: Effect) -> list[Any]:
    human = pa.array(human_numbers(frame["contig"]))
    nothing = pa.nulls(len(frame), pa.large_string())
    return [
        pc.if_else(
            pc.greater(human, 0), human.cast(pa.large_string()), identifiers(frame["contig"])
        ),
        _integers(frame["position"]),
        identifiers(frame["variant_id"]),
        strings(frame["other"]),
        strings(frame["effect"]),
        _numbers(frame["effect_allele_frequency"].to_numpy()),
        _integers(frame["n_samples"]),
        pa.array([effect.test] * len(frame), pa.large_string()),
        _numbers(numbers.beta),
        _numbers(numbers.se),
        _numbers(numbers.z**2),
        _numbers(numbers.neg_log10_p),
        nothing,
    ]


SSF = TableFormat(
    ".ssf.tsv.gz",
    (
        "chromosome", "base_pair_location", "effect_allele", "other_allele", "beta",
        "standard_error", "effect_allele_frequency", "neg_log_10_p_value", "rsid", "n",
        "study_variant_id",
    ),
    "\t", "#NA", _unfit_ssf, _ssf,
)  # fmt: skip
LDSC = TableFormat(
    ".sumstats.gz", ("SNP", "A1", "A2", "N", "Z"), "\t", "NA", _unfit_ldsc, _ldsc
)  # fmt: skip
REGENIE = TableFormat(
    ".regenie.gz",
    (
        "CHROM", "GENPOS", "ID", "ALLELE0", "ALLELE1", "A1FREQ", "N", "TEST", "BETA", "SE",
        "CHISQ", "LOG10P", "EXTRA",
    ),
    " ", "NA", _unfit_regenie, _regenie,
)  # fmt: skip
