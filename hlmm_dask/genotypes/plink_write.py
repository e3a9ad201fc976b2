"""Write PLINK 1 files block by block."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.genotypes.packed import HEADER, encode


def write_plink(
    path: str | os.PathLike[str],
    counts: NDArray[np.int8] | Iterable[NDArray[np.int8]],
    samples: pd.DataFrame,
    variants: pd.DataFrame | Iterable[pd.DataFrame],
) -> Path:
    """Write a .bed, .bim and .fam.

    Parameters
    ----------
    path : path
        The .bed; the suffix may be left out.
    counts : (n_variants, n_samples) int8, or iterable of such blocks of variants
        Counts of allele 1: 0, 1, 2, or -1 for missing. Blocks are written as they come.
    samples : DataFrame
        Columns ``fid`` and ``iid``.
    variants : DataFrame or iterable of DataFrames
        Columns as from `iter_bim`.

    Returns
    -------
    Path
        The .bed.

    Raises
    ------
    ValueError
        If shapes don't fit together or a count is none of 0, 1, 2, -1.
    """
    name = os.fspath(path)
    bed = Path(name if name.endswith(".bed") else name + ".bed")
    blocks = [counts] if isinstance(counts, np.ndarray) else counts
    n_counts = 0
    with open(bed, "wb") as stream:
        stream.write(HEADER)
        for block in blocks:
            if block.ndim != 2 or block.shape[1] != len(samples):
                raise ValueError(f"block of shape {block.shape} for {len(samples)} samples")
            stream.write(encode(block).tobytes())
            n_counts += len(block)
    n_variants = 0
    with open(bed.with_suffix(".bim"), "w", encoding="utf-8", newline="\n") as text:
        for table in [variants] if isinstance(variants, pd.DataFrame) else variants:
            columns = ("contig", "variant_id", "position", "allele1", "allele2")
            for contig, name, position, a1, a2 in zip(*(table[c] for c in columns), strict=True):
                text.write(f"{contig}\t{name}\t0\t{position}\t{a1}\t{a2}\n")
            n_variants += len(table)
    if n_counts != n_variants:
        raise ValueError(f"genotypes of {n_counts} variants, a table of {n_variants}")
    with open(bed.with_suffix(".fam"), "w", encoding="utf-8", newline="\n") as text:
        for fid, iid in zip(samples["fid"], samples["iid"], strict=True):
            text.write(f"{fid}\t{iid}\t0\t0\t0\t-9\n")
    return bed
