"""Small data sets on disk that several test modules use."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hlmm_dask.genotypes.plink import write_plink


@dataclass(frozen=True)
class Study:
    """A small data set on disk, and what is in it."""

    folder: Path
    bed: Path
    pheno: Path
    covar: Path
    counts: np.ndarray  # (m, n) copies of allele 1, -1 missing
    y: np.ndarray  # (n,)
    covariates: np.ndarray  # (n, 2)
    samples: pd.DataFrame
    variants: pd.DataFrame

    def out(self, name: str) -> Path:
        return self.folder / name


def make_study(
    folder: Path, *, n: int = 300, m: int = 60, seed: int = 0, scale: float = 1.0,
    contigs: tuple[str, str] = ("1", "X"),
) -> Study:  # fmt: skip
    """Write genotypes with missing calls and degenerate variants, a phenotype and covariates."""
    rng = np.random.default_rng(seed)
    counts = rng.binomial(2, rng.uniform(0.1, 0.9, (m, 1)), (m, n)).astype(np.int8)
    counts[1:m:3][rng.random(counts[1:m:3].shape) < 0.03] = -1
    if m >= 12:
        counts[2] = 0
        counts[3] = 2
        counts[4] = 1
        counts[5] = -1
        counts[6, : n // 2] = -1
        counts[8] = rng.binomial(2, 0.02, n)
    covariates = np.stack([rng.integers(1, 3, n), rng.normal(50.0, 10.0, n)], axis=1)
    g = np.where(counts[0] < 0, 1, counts[0])
    spread = np.exp(0.1 * g + 0.2 * (covariates[:, 0] - 1.5))
    y = 0.3 * g + 0.02 * covariates[:, 1] + spread * rng.standard_normal(n)
    samples = pd.DataFrame(
        {"fid": [f"f{i // 2}" for i in range(n)], "iid": [f"i{i}" for i in range(n)]}
    )
    variants = pd.DataFrame(
        {
            "contig": [contigs[0]] * (m // 2) + [contigs[1]] * (m - m // 2),
            "variant_id": [f"rs{j}" for j in range(m)],
            "position": np.arange(m) * 10 + 5,
            "allele1": ["A"] * m,
            "allele2": ["G"] * m,
        }
    )
    bed = write_plink(folder / "study.bed", counts, samples, variants)
    study = Study(
        folder, bed, folder / "pheno.txt", folder / "covar.txt", counts, scale * y, covariates,
        samples, variants,
    )  # fmt: skip
    write_values(study.pheno, samples, study.y)
    write_values(study.covar, samples, covariates)
    return study


def write_values(path: Path, samples: pd.DataFrame, values: np.ndarray) -> Path:
    """Write FID, IID and values, without a header; NaN as NA."""
    table = pd.concat([samples.reset_index(drop=True), pd.DataFrame(values)], axis=1)
    table.to_csv(path, sep="\t", header=False, index=False, na_rep="NA")
    return path
