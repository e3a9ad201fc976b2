"""The memory plan against what processes take, and the blocks that it chooses."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.packed import HEADER
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.kernels.block import unpacked_variants
from hlmm_dask.kernels.block_model import block_model, choose_kernel
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.kernels.table import Filters
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.scanning.fork_server import WORKER_ENVIRONMENT
from hlmm_dask.scanning.memory import (
    BASE_BYTES,
    Footprint,
    block_bytes,
    largest_n,
    model_bytes,
    worker_bytes,
)
from hlmm_dask.scanning.plan import plan_blocks
from hlmm_dask.scanning.published import publish_model
from hlmm_dask.scanning.resources import Resources
from hlmm_dask.store import ResultsStore

# A worker's task in a process of its own: a tiny block loads the kernel's loops, then a real one.
WORKER = """
import json, pickle, sys
from hlmm_dask.scanning.graph import BlockTask, _fit_and_store
from hlmm_dask.scanning.strips import PackedBlock
from hlmm_dask.store import ResultsStore

def memory(what):
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))

found = []
for folder, digest in json.loads(sys.argv[1]):
    with open(f"{folder}/genotypes", "rb") as file:
        genotypes = pickle.load(file)
    found.append(memory("VmRSS"))
    block = PackedBlock(genotypes, 0, genotypes.n_variants)
    store = ResultsStore.open(f"{folder}/out.zarr")
    _fit_and_store(block, (BlockTask(store, digest),), "topic", block_id=(0,))
print(json.dumps([found[-1], memory("VmHWM")]))
"""


def prepare(
    folder: Path, n: int, m: int, n_random: int, n_covariates: int, method: str
) -> tuple[str, str]:
    """Write a block of genotypes, and a store with a null model for it."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    ones = np.ones((n, 1))
    X, V = (
        np.column_stack([ones, rng.normal(size=(n, n_covariates))]) if n_covariates else ones
        for _ in range(2)
    )
    design = None
    if n_random:
        raw = rng.binomial(2, 0.3, (n, n_random)).astype(np.float32)
        scale = 1 / (raw.std(axis=0, dtype=np.float64) * n_random**0.5)
        design = RandomDesign(raw, raw.mean(axis=0, dtype=np.float64), scale)
    zeros = np.zeros(1 + n_covariates)
    dense = DenseModel(rng.normal(size=n), X, V, zeros, zeros, design, 0.1, 1e-5)
    layout = PackedLayout(n, np.arange(n))
    model = block_model(dense, layout, Filters(0.01, 5.0, False), method=method)
    drawn = (min(m, 320), n // 4, 4)
    codes = rng.choice(np.array([0, 2, 3, 1], np.uint8), drawn, p=[0.3, 0.4, 0.29, 0.01])
    packed = (codes << np.array([0, 2, 4, 6], np.uint8)).sum(axis=2, dtype=np.uint8)
    (folder / "a.bed").write_bytes(HEADER + packed[np.arange(m) % len(packed)].tobytes())
    (folder / "a.bim").write_text("".join(f"1 r{j} 0 1 A G\n" for j in range(m)))
    (folder / "a.fam").write_text("".join(f"f{i} i{i} 0 0 0 -9\n" for i in range(n)))
    (folder / "genotypes").write_bytes(pickle.dumps(open_plink(folder / "a.bed")))
    names = {"contig": "1", "variant_id": [f"r{j}" for j in range(m)], "position": 1}
    variants = pd.DataFrame({**names, "allele1": "A", "allele2": "G"})
    store = ResultsStore.create(
        folder / "out.zarr", n_variants=m, block_size=m, variants=[variants], fingerprint={}
    )
    return str(folder), publish_model(store, model).model_digest


MEASURED = [
    (200_000, 320, 0, 0, "exact"),
    # More than a strip.
    (200_000, 2000, 0, 0, "exact"),
    (200_000, 40, 0, 4, "exact"),
    (40_000, 120, 0, 20, "exact"),
    (100_000, 48, 100, 0, "exact"),
    (12_000, 24, 400, 0, "exact"),
    (100_000, 64, 200, 0, "linear"),
    (20_000, 200, 300, 0, "linear"),
    (60_000, 64, 150, 0, "auto"),
    (20_000, 2, 100, 3, "exact"),
]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("n", "m", "n_random", "n_covariates", "method"), MEASURED)
def test_plan_against_a_process(
    tmp_path: Path, n: int, m: int, n_random: int, n_covariates: int, method: str
) -> None:
    small = prepare(tmp_path / "small", 400, 4, min(n_random, 3), min(n_covariates, 2), method)
    large = prepare(tmp_path / "large", n, m, n_random, n_covariates, method)
    done = subprocess.run(
        [sys.executable, "-c", WORKER, json.dumps([small, large])],
        capture_output=True, text=True, check=False, env=os.environ | WORKER_ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    base, peak = json.loads(done.stdout)
    columns = 1 + n_covariates
    kernel = choose_kernel(n, n_random, intercepts=not n_covariates, method=method)
    at = Footprint(n, n, kernel, n_random, 4, columns, columns)
    planned = model_bytes(at) + block_bytes(at, m)
    print(f"measured {(peak - base) / 1e6:.1f} MB, planned {planned / 1e6:.1f} MB, {kernel}")
    assert base < BASE_BYTES
    assert peak - base <= planned <= 3 * (peak - base)


footprints = st.builds(
    Footprint,
    n_file_samples=st.just(10**6),
    n_samples=st.integers(10, 10**6),
    kernel=st.sampled_from(["exact", "linear", "auto", "dense"]),
    n_random=st.integers(1, 3000),
    raw_bytes=st.sampled_from([4, 8]),
    n_mean=st.integers(1, 50),
    n_variance=st.integers(1, 50),
    leaves_out=st.booleans(),
    dosages=st.booleans(),
) | st.builds(
    Footprint,
    n_file_samples=st.just(10**6),
    n_samples=st.integers(10, 10**6),
    kernel=st.sampled_from(["sums", "covariates"]),
    n_mean=st.integers(1, 50),
    n_variance=st.integers(1, 50),
    engine=st.sampled_from(["numba", "numpy"]),
    dosages=st.booleans(),
)


@given(
    phenotypes=st.lists(footprints, min_size=1, max_size=3),
    limit=st.integers(10**8, 10**12),
    threads=st.integers(1, 16),
)
def test_a_worker_keeps_to_its_limit(phenotypes: list[Footprint], limit: int, threads: int) -> None:
    try:
        plan = plan_blocks(phenotypes, 10**7, Resources(3, threads, limit))
    except InputError:
        assert worker_bytes(phenotypes, 1, threads) > 0.8 * limit
        return
    assert plan.needed_bytes == worker_bytes(phenotypes, plan.block_size, threads)
    assert plan.needed_bytes <= 0.8 * limit
    unlimited = plan_blocks(phenotypes, 10**7, Resources(3, threads, None))
    assert plan.block_size <= unlimited.block_size
    # Not smaller than memory asks for.
    if plan.block_size < unlimited.block_size:
        assert worker_bytes(phenotypes, plan.block_size + 1, threads) > 0.8 * limit
    # The largest n is just that.
    assert plan.largest_n is not None
    for n, fits in ((plan.largest_n, True), (plan.largest_n + 1, False)):
        grown = [replace(at, n_file_samples=n, n_samples=n) for at in phenotypes]
        assert (worker_bytes(grown, 1, threads) <= 0.8 * limit) == fits


def test_what_can_not_fit_is_refused_with_figures_and_remedies() -> None:
    at = Footprint(400_000, 400_000, "exact", 5000, 8)
    needed = worker_bytes([at], 1, 2)
    assert needed > 16e9
    with pytest.raises(InputError) as error:
        plan_blocks([at], 1000, Resources(4, 2, 8 * 10**9))
    for word in (
        f"{needed:,} bytes", "6,400,000,000 of its limit of 8,000,000,000", "--memory-limit",
        "fewer --workers", "--threads-per-worker", "fewer random effects", "400,000 samples",
    ):  # fmt: skip
        assert word in str(error.value)
    assert largest_n([at], 8 * 10**9, 1, 2) < 400_000


@pytest.mark.parametrize(("kept", "remedy"), [(None, "--block-size"), (900_000, "--overwrite")])
def test_block_sizes_that_are_given_are_checked(kept: int | None, remedy: str) -> None:
    at = Footprint(10**6, 10**6)
    resources = Resources(2, 1, 10**9)
    assert plan_blocks([at], 10**6, resources, given=100).block_size == 100
    with pytest.raises(InputError, match=remedy):
        plan_blocks([at], 10**6, resources, given=None if kept else 900_000, kept=kept)
    # A resumed run keeps the size of its store, however it would be cut now.
    assert plan_blocks([at], 10**6, resources, kept=7).block_size == 7


@given(m=st.integers(1, 10**4), n=st.integers(1, 10**7), n_random=st.integers(0, 10**4))
def test_unpacked_variants_are_few(m: int, n: int, n_random: int) -> None:
    part = unpacked_variants(m, n, n_random)
    assert 1 <= part <= m
    assert part == 1 or (part * n <= 4_000_000 and 170 * part * n_random <= 17_000_000)
