"""Fixtures that several test modules use."""

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from hlmm_dask.genotypes.plink import write_plink


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of reference data, which lies outside the repository."""
    named = os.environ.get("HLMM_DASK_REFERENCE")
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "reference"
    folder = Path(named) if named else beside
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set HLMM_DASK_REFERENCE)")
    return folder


SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


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
    folder: Path, *, n: int = 300, m: int = 60, seed: int = 0, scale: float = 1.0
) -> Study:
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
            "contig": ["1"] * (m // 2) + ["X"] * (m - m // 2),
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


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Give a client of two worker processes, shared by all tests."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def run_script(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., int]:
    """Give a function that runs scripts/NAME.py in this process and returns its exit code.

    ``scan`` uses the shared cluster unless told otherwise.
    """

    def run(name: str, *arguments: object, own_cluster: bool = False) -> int:
        argv = [str(SCRIPTS / f"{name}.py"), *map(str, arguments)]
        if name == "scan" and not own_cluster:
            client: Client = request.getfixturevalue("client")
            argv += ["--scheduler", client.scheduler.address]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(argv[0], run_name="__main__")
        return int(end.value.code or 0)

    return run


@pytest.fixture
def run_chr(run_script: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run hlmm_chr.py, which takes no --scheduler, on the shared cluster."""

    def run(*arguments: object, client: Client) -> int:
        @contextmanager
        def shared(options: object) -> Iterator[Client]:
            yield client

        monkeypatch.setattr("hlmm_dask.scan.run.connect", shared)
        return run_script("hlmm_chr", *arguments)

    return run
