"""Results stores filled with numbers of a test's choosing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hlmm_dask.models.inference import neg_log10_p_chi2_2df, neg_log10_p_normal
from hlmm_dask.schema import INDEX, N_COLUMNS, Status
from hlmm_dask.store import ResultsStore


def columns_of(add_t: np.ndarray, var_t: np.ndarray, maf: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of results with these statistics; effects have standard error 0.1."""
    se = np.full(len(add_t), 0.1)
    return {
        "n_samples": np.full(len(add_t), 500.0), "minor_allele_frequency": maf,
        "add": 0.1 * add_t, "add_se": se, "add_t": add_t,
        "add_neg_log10_p": neg_log10_p_normal(add_t),
        "var": 0.1 * var_t, "var_se": se, "var_t": var_t,
        "var_neg_log10_p": neg_log10_p_normal(var_t),
        "var_best_neg_log10_p": neg_log10_p_normal(var_t),
        "av_neg_log10_p": neg_log10_p_chi2_2df(add_t**2 + var_t**2),
        "av_score_neg_log10_p": neg_log10_p_chi2_2df(add_t**2 + var_t**2),
    }  # fmt: skip


def names_of(
    n: int, contigs: Sequence[str] = ("1", "2", "X"), step: int = 1000
) -> dict[str, np.ndarray]:
    """IDs, chromosomes in equal shares, and positions of n variants."""
    share = -(-n // len(contigs))
    return {
        "variant_id": np.array([f"rs{i}" for i in range(n)], dtype=np.dtypes.StringDType()),
        "variant_contig": np.repeat(np.array(contigs, dtype=np.dtypes.StringDType()), share)[:n],
        "variant_position": np.arange(n) % share * step + 1,
    }


def make_store(
    path: Path, columns: dict[str, np.ndarray], names: dict[str, np.ndarray], *,
    block_size: int = 100, leave_out: Sequence[int] = (), finish: bool = True,
) -> ResultsStore:  # fmt: skip
    """A store with these results, but for the blocks that are left out; NaN has a status."""
    n = len(names["variant_position"])
    table = pd.DataFrame(
        {
            "contig": names["variant_contig"].astype(object),
            "variant_id": names["variant_id"].astype(object),
            "position": names["variant_position"], "allele1": "A", "allele2": "G",
        }
    )  # fmt: skip
    store = ResultsStore.create(
        path, n_variants=n, block_size=block_size, variants=[table],
        fingerprint={"fit_covariates": False},
        attrs={
            "model": "HLM", "phenotype": "height", "n_analysed_samples": 500, "first_variant": 0,
        },
    )  # fmt: skip
    values = np.full((n, N_COLUMNS), np.nan)
    for name, column in columns.items():
        values[:, INDEX[name]] = column
    values[:, INDEX["status"]] = np.where(np.isnan(columns["add"]), Status.LOW_MAF, Status.OK)
    for block in store.blocks():
        if block.index not in leave_out:
            store.write_block(block.index, values[block.start : block.stop], record={})
    if finish and not leave_out:
        store.finish({"seconds": 12.0})
    return store
