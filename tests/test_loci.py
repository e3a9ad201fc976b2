"""Loci that hold, and loci that something else explains."""

import numpy as np
import pandas as pd
import pytest

import hlmm_dask
from hlmm_dask.cli import loci_main, scan_main
from hlmm_dask.genotypes.plink import write_plink
from hlmm_dask.models.hlm import HLM

N, M = 4000, 40
VARIANCE, TAG, CAUSE, DOMINANT, SCALED, MIXED = 0, 10, 11, 20, 25, 30


def people():
    return pd.DataFrame({"fid": [f"f{i}" for i in range(N)], "iid": [f"i{i}" for i in range(N)]})


def alleles(rng, frequency):
    return rng.random((2, N)) < frequency


def write_table(path, columns):
    pd.concat([people(), pd.DataFrame(columns)], axis=1).rename(
        columns={"fid": "FID", "iid": "IID"}
    ).to_csv(path, sep="\t", index=False)
    return path


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """Phenotypes: a variance locus and a phantom; dominance; log-normal; variance by group."""
    folder = tmp_path_factory.mktemp("loci with space")
    rng = np.random.default_rng(5)
    group = rng.integers(0, 2, N)
    haplotypes = [alleles(rng, 0.3) for _ in range(M)]
    # The cause's allele is on a tenth of the haplotypes that carry the tag's: r² 0.05, D′ 1.
    haplotypes[TAG] = alleles(rng, 0.5)
    haplotypes[CAUSE] = haplotypes[TAG] & alleles(rng, 0.1)
    haplotypes[MIXED] = alleles(rng, np.where(group, 0.7, 0.2))
    counts = np.array([h.sum(axis=0) for h in haplotypes], dtype=np.int8)
    counts[1:20:6, :50] = -1
    contigs = ["1"] * 5 + ["2"] * 10 + ["chr3"] * 25
    table = pd.DataFrame(
        {
            "contig": contigs, "variant_id": [f"rs{j}" for j in range(M)],
            "position": np.arange(M) * 10_000 + 5, "allele1": "A", "allele2": "G",
        }
    )  # fmt: skip
    bed = write_plink(folder / "g.bed", counts, people(), table)
    g = np.array([h.sum(axis=0) for h in haplotypes], dtype=float)
    sex = rng.integers(1, 3, N)
    noise = rng.standard_normal((4, N))
    spread = np.exp(0.5 * g[VARIANCE] * np.where(sex == 1, 0.9, 0.0))
    phenotypes = {
        "spread": 30.0 + 2.5 * g[CAUSE] + spread * noise[0],
        "dominance": 30.0 + 3.0 * (g[DOMINANT] == 2) + noise[1],
        "lognormal": np.exp(0.5 * (0.6 * g[SCALED] + noise[2])),
        "group": np.exp(0.6 * group) * noise[3],
    }
    pheno = write_table(folder / "pheno.txt", phenotypes)
    write_table(folder / "sex.txt", {"age": rng.normal(50, 5, N), "Sex": sex})
    write_table(folder / "covar.txt", {"group": group, "age": rng.normal(50, 5, N)})
    files = [str(bed), str(pheno), str(folder / "out")]
    assert scan_main([*files, "--phen_index", "all", "--workers", "1"]) == 0
    return folder, counts, phenotypes, sex


def row(table, j):
    return table.set_index("SNP").loc[f"rs{j}"]


def test_verdicts(scanned):
    folder, *_ = scanned
    for name in ("spread", "dominance", "lognormal", "group"):
        table = hlmm_dask.loci(folder / f"out.{name}", sex=folder / "sex.txt", mean_covar=folder / "covar.txt", plots=True)
        print(table[["SNP", "tests", "verdict", "add_pval", "var_best_pval"]].to_string())
