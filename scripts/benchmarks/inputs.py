"""Simulated inputs, large ones in seconds, and the models made of them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.report import Options
from hlmm_dask.genotypes.packed import HEADER, decode, encode, packed_width
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.kernels.block_model import BlockModel, block_model
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.kernels.table import Filters
from hlmm_dask.scanning.null import NullModel
from hlmm_dask.scanning.plan import choose_block_size

FILTERS = Filters(min_maf=0.0, max_missing=100.0)
# Variants drawn one by one; all others are these, rotated by a random number of bytes.
DRAWN = 256


def simulated_bed(work: Path, samples: int, variants: int, missing: float, seed: int = 1) -> Path:
    """Write a .bed with allele frequencies in (0.06, 0.5), or find it in ``work``."""
    bed = work / f"n{samples}_m{variants}_missing{missing:g}_seed{seed}.bed"
    width = packed_width(samples)
    if bed.exists() and bed.stat().st_size == 3 + width * variants:
        return bed
    print(f"simulating {bed.name}", file=sys.stderr)
    with open(bed.with_suffix(".fam"), "w") as out:
        out.writelines(f"f{i} i{i} 0 0 0 -9\n" for i in range(samples))
    with open(bed.with_suffix(".bim"), "w") as out:
        out.writelines(f"1 v{j} 0 {j + 1} A G\n" for j in range(variants))
    rng = np.random.default_rng(seed)
    drawn = min(DRAWN, variants)
    rows = np.concatenate(
        [_draw(rng, samples, min(32, drawn - j), missing) for j in range(0, drawn, 32)]
    )
    full = samples // 4  # the last byte has padding and stays in its place
    with open(bed, "wb") as file:
        file.write(HEADER)
        for start in range(0, variants, drawn):
            block = rows[: min(drawn, variants - start)].copy()
            if start and full:
                for row, shift in zip(block, rng.integers(full, size=len(block)), strict=True):
                    row[:full] = np.concatenate([row[shift:full], row[:shift]])
            file.write(block.tobytes())
    return bed


def copies(bed: Path, times: int) -> list[Path]:
    """Give the same genotypes under ``times`` names: nothing but the disk knows."""
    beds = [bed]
    for i in range(1, times):
        copy = bed.with_name(f"{bed.stem}_copy{i}.bed")
        for suffix in (".bed", ".bim", ".fam"):
            link = copy.with_suffix(suffix)
            if not link.exists():
                link.symlink_to(bed.with_suffix(suffix).resolve())
        beds.append(copy)
    return beds


def _draw(
    rng: np.random.Generator, samples: int, variants: int, missing: float
) -> NDArray[np.uint8]:
    bound = np.round(rng.uniform(0.06, 0.5, (variants, 1)) * 65536.0).astype(np.uint16)
    shape = (variants, samples)
    counts = (rng.integers(0, 65536, shape, dtype=np.uint16) < bound).astype(np.int8)
    counts += rng.integers(0, 65536, shape, dtype=np.uint16) < bound
    if missing:
        counts[rng.random(shape, dtype=np.float32) < missing] = -1
    return encode(counts)


def simulated_table(work: Path, samples: int, columns: int, random: Path | None = None) -> Path:
    """Write FID, IID and normal columns, a fifth of the variance from ``random``'s variants."""
    path = work / f"n{samples}_c{columns}{f'_{random.stem}' if random else ''}.txt"
    if path.exists():
        return path
    rng = np.random.default_rng(columns)
    values = rng.standard_normal((samples, columns))
    if random is not None:
        genotypes = open_plink(random)
        score = np.zeros((samples, columns))
        for start in range(0, genotypes.n_variants, 50):
            stop = min(start + 50, genotypes.n_variants)
            counts = decode(genotypes.read_packed(start, stop), samples).astype(np.float32)
            counts -= counts.mean(axis=1, keepdims=True)
            score += counts.T @ rng.standard_normal((stop - start, columns)).astype(np.float32)
        values = values * 0.8**0.5 + score / score.std(axis=0) * 0.2**0.5
    frame = pd.DataFrame(values)
    frame.insert(0, "iid", [f"i{i}" for i in range(samples)])
    frame.insert(0, "fid", [f"f{i}" for i in range(samples)])
    aside = path.with_suffix(".partial")
    frame.to_csv(aside, sep=" ", header=False, index=False, float_format="%.9g")
    aside.replace(path)
    return path


def random_bed(options: Options) -> Path:
    """Variants of the random effects."""
    return simulated_bed(options.work, options.samples, options.random, 0.0, seed=2)


def model_of(null: NullModel, **choice: Any) -> BlockModel:
    """Choose the kernel as the scan does."""
    layout = PackedLayout(null.n_file_samples, null.sample_index)
    return block_model(null.model, layout, FILTERS, **choice)


def block_starts(variants: int, samples: int) -> Iterator[tuple[int, int]]:
    """Blocks as the scan cuts them."""
    size = choose_block_size(variants, samples)
    for start in range(0, variants, size):
        yield start, min(start + size, variants)
