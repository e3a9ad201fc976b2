"""Tables of chosen variants: where they go, and what every one of them begins with."""

from pathlib import Path

import pandas as pd

from hlmm_dask.errors import StoreError
from hlmm_dask.scanning.outputs import check_outprefix
from hlmm_dask.schema import Status


def require_free(path: Path, *, overwrite: bool) -> None:
    """Raise an error unless a table may be written there."""
    check_outprefix(str(path))
    if path.is_dir() or (path.exists() and not overwrite):
        raise StoreError(f"{path}: exists; give --overwrite, or move it away")


def heading(rows: pd.DataFrame, *, a2: bool) -> dict[str, object]:
    """Name the variants of results, with their alleles, samples and frequency."""
    effect, other = ("allele2", "allele1") if a2 else ("allele1", "allele2")
    return {
        "SNP": rows["variant_id"].to_numpy(),
        "chrom": rows["contig"].to_numpy(),
        "pos": rows["position"].to_numpy(),
        "effect_allele": rows[effect].to_numpy(),
        "other_allele": rows[other].to_numpy(),
        "effect_allele_frequency": rows["effect_allele_frequency"].to_numpy(),
    }


def labels(status: "pd.Series[float]") -> list[str]:
    """Words of status codes."""
    return [Status(int(code)).label for code in status]
