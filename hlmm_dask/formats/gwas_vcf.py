"""GWAS-VCF 1.0: one VCF file, a sample column for each effect."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hlmm_dask import bgzf
from hlmm_dask.durable import aside, rename, replacing, sync
from hlmm_dask.formats.effects import Effect, statistics_of
from hlmm_dask.formats.study import UNKNOWN, Study
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
from hlmm_dask.genotypes.contigs import plain_contig

# The end of a chromosome in an index for tabix.
_LAST_POSITION = 1 << 29
_CONTIG = re.compile(r"[0-9A-Za-z!#$%&+./:;?@^_|~-]+")
_META = """\
##fileformat=VCFv4.2
##source={software}
##FILTER=<ID=PASS,Description="All filters passed">
##FORMAT=<ID=ES,Number=A,Type=Float,Description="Effect size estimate relative to the alternative allele">
##FORMAT=<ID=SE,Number=A,Type=Float,Description="Standard error of effect size estimate">
##FORMAT=<ID=LP,Number=A,Type=Float,Description="-log10 p-value for effect estimate">
##FORMAT=<ID=AF,Number=A,Type=Float,Description="Alternate allele frequency in the association study">
##FORMAT=<ID=SS,Number=A,Type=Integer,Description="Sample size used to estimate genetic effect">
##FORMAT=<ID=ID,Number=1,Type=String,Description="Study variant identifier">
##META=<ID=TotalVariants,Number=1,Type=Integer,Description="Total number of variants in input">
##META=<ID=VariantsNotHarmonised,Number=1,Type=Integer,Description="Total number of variants not compared with a reference genome">
##META=<ID=StudyType,Number=1,Type=String,Description="Type of GWAS study [Continuous or CaseControl]">
"""  # noqa: E501  # a header line is one line


def is_placed(contig: str) -> bool:
    """Whether a chromosome's name is one, and VCF can hold it."""
    return plain_contig(contig) != "0" and _CONTIG.fullmatch(contig) is not None


def write_gwas_vcf(
    effects: Sequence[Effect],
    frames: Iterator[pd.DataFrame],
    path: Path,
    *,
    contigs: Iterable[str],
    study: Study,
    n_variants: int,
) -> str:
    """Write a GWAS-VCF file, whole or not at all, and its index where pysam is there.

    REF is the other allele and ALT the effect allele, whatever the reference genome has.

    Parameters
    ----------
    effects : sequence of Effect
        One sample column each.
    frames : iterator of DataFrame
        Rows of the store, chromosomes in one piece each, positions ascending.
    path : Path
        OUTPREFIX.gwas.vcf.gz.
    contigs : iterable of str
        Chromosomes in order.
    study : Study
        What is known of the scan.
    n_variants : int
        Variants of the scan.

    Returns
    -------
    str
        How many variants were written, which were left out, and why there is no index.
    """
    counts: Counter[str] = Counter()
    n_rows = last = 0
    with replacing(path) as file:
        file.write(bgzf.compress(_header(effects, contigs, study, n_variants).encode()))
        for frame in frames:
            usable = np.any([statistics_of(effect, frame).usable for effect in effects], axis=0)
            placed = {name: is_placed(name) for name in frame["contig"].unique()}
            kept = frame[
                sift(
                    {
                        "not fitted": not_fitted(frame),
                        "without these effects": ~usable,
                        "without a chromosome": ~frame["contig"].map(placed).to_numpy(dtype=bool),
                        "without a position": frame["position"].to_numpy() < 1,
                        "with alleles other than A, C, G, T": ~are_nucleotides(frame),
                        SAME_ALLELES: are_same(frame),
                    },
                    counts,
                )
            ]
            file.write(bgzf.compress(join(_columns(kept, effects), separator="\t", missing=".")))
            n_rows += len(kept)
            last = max(last, int(kept["position"].max() if len(kept) else 0))
        file.write(bgzf.END)
        index_path(path).unlink(missing_ok=True)
    obstacle = _write_index(path, last)
    return f"{path}: {n_rows:,} variants{left_out(counts)}{obstacle}"


def _header(
    effects: Sequence[Effect], contigs: Iterable[str], study: Study, n_variants: int
) -> str:
    lines = [_META.format(software=study.software.replace(" ", "-"))]
    assembly = "" if study.assembly == UNKNOWN else f",assembly={_word(study.assembly)}"
    lines += [f"##contig=<ID={name}{assembly}>\n" for name in contigs if is_placed(name)]
    names = [f"{_word(study.phenotype)}_{effect.name}" for effect in effects]
    lines += [
        f"##SAMPLE=<ID={name},TotalVariants={n_variants},VariantsNotHarmonised={n_variants},"
        "StudyType=Continuous>\n"
        for name in names
    ]
    fixed = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT")
    return "".join([*lines, "\t".join([*fixed, *names]), "\n"])


def _columns(frame: pd.DataFrame, effects: Sequence[Effect]) -> list[Any]:
    def same(text: str) -> Any:
        return pa.array([text] * len(frame), pa.large_string())

    frequency = pa.array(frame["effect_allele_frequency"].to_numpy())
    n_samples = pa.array(frame["n_samples"].to_numpy(dtype=np.int64))
    name = identifiers(frame["variant_id"], also=":;,=")
    samples = []
    for effect in effects:
        numbers = statistics_of(effect, frame)
        values = (numbers.beta, numbers.se, numbers.neg_log10_p, frequency, n_samples, name)
        parts = [pa.array(value).cast(pa.large_string()) for value in values]
        colon = pa.scalar(":", pa.large_string())
        samples.append(
            pc.if_else(
                pa.array(numbers.usable),
                pc.binary_join_element_wise(*parts, colon),
                pa.scalar(None, pa.large_string()),
            )
        )
    return [
        strings(frame["contig"]),
        pa.array(frame["position"].to_numpy(dtype=np.int64)),
        identifiers(frame["variant_id"], also=";"),
        upper(frame["other"]),
        upper(frame["effect"]),
        same("."),
        same("PASS"),
        same("."),
        same("ES:SE:LP:AF:SS:ID"),
        *samples,
    ]


def index_path(path: Path) -> Path:
    """Name of the index for tabix."""
    return Path(f"{path}.tbi")


def _write_index(path: Path, last: int) -> str:
    """Write PATH.tbi; say why not, where that can't be."""
    if last > _LAST_POSITION:
        return f"; no index: position {last:,} is beyond {_LAST_POSITION:,}"
    try:
        import pysam
    except ImportError:
        return "; no index: it needs pysam, pip install 'hlmm-dask[tabix]'"
    index = index_path(path)
    new = aside(index)
    try:
        pysam.tabix_index(os.fspath(path), force=True, preset="vcf", index=os.fspath(new))
        sync(new)
        rename(new, index)
    finally:
        new.unlink(missing_ok=True)
    sync(index.parent)
    return ""


def _word(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z_.-]", "_", text)
