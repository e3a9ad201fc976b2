#!/usr/bin/env python3
"""Measure the scan, side by side with what it competes with; see ``bench.py --help``.

Every command prints a table on stderr and one JSON object on stdout: machine, sizes, the seconds of
every repeat, their medians, and the figures derived from the medians. Sizes are options.
Inputs are simulated into ``--work`` and found again there by the next call. Times are of warm
files and warm caches of compiled code; nothing is said about a cold start.
"""

import argparse
import contextlib
import heapq
import inspect
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dask.array as da
import numpy as np
import pandas as pd
from bed_reader import open_bed
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from hlmm_dask.export import write_tsv
from hlmm_dask.genotypes.packed import HEADER, decode, encode, packed_width
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.kernels.block import BlockModel, block_model, fit_packed
from hlmm_dask.kernels.hlm import fit_class_sums
from hlmm_dask.kernels.packed import PackedLayout, class_sums
from hlmm_dask.kernels.table import Filters, empty_results, fill_estimates
from hlmm_dask.scan.cluster import ClusterOptions
from hlmm_dask.scan.config import ScanConfig
from hlmm_dask.scan.events import BlockDone, Event, ScanFinished, ScanStarted
from hlmm_dask.scan.null import NullModel, fit_null
from hlmm_dask.scan.plan import choose_block_size
from hlmm_dask.scan.run import run_scan
from hlmm_dask.schema import INDEX, N_COLUMNS, Status
from hlmm_dask.store import ResultsStore

Packed = NDArray[np.uint8]
Options = argparse.Namespace

FILTERS = Filters(min_maf=0.0, max_missing=100.0)
# Variants drawn one by one; all others are these, rotated by a random number of bytes.
DRAWN = 256
MIB = 2**20


# -- what is measured -------------------------------------------------------------------------


@dataclass
class Report:
    """What one command found."""

    benchmark: str
    sizes: dict[str, Any]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def median(self, label: str) -> float:
        """Median seconds of what was measured under a name."""
        return statistics.median(self.seconds[label])

    def content(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "benchmark": self.benchmark,
            "machine": machine(),
            "sizes": self.sizes,
            "seconds": self.seconds,
            "median_seconds": {label: self.median(label) for label in self.seconds},
            "figures": self.figures,
            "skipped": self.skipped,
        }

    def show(self) -> None:
        """Print a table on stderr."""
        sizes = ", ".join(f"{name} {value}" for name, value in self.sizes.items())
        say(f"\n{self.benchmark} ({sizes})")
        for label, values in self.seconds.items():
            say(f"  {label:<34} {statistics.median(values):>12.6g} s   "
                f"{min(values):.6g} to {max(values):.6g}, {len(values)} runs")  # fmt: skip
        for name, value in self.figures.items():
            if not isinstance(value, list):
                shown = f"{value:.5g}" if isinstance(value, float) else str(value)
                say(f"  {name:<34} {shown:>12}")
        for label, reason in self.skipped.items():
            say(f"  {label:<34} skipped: {reason}")


def say(text: str) -> None:
    """Print on stderr; stdout is for JSON."""
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Describe what the figures depend on besides the code."""
    cpu = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), cpu)
    versions = {}
    for name in ("numpy", "scipy", "numba", "dask", "distributed", "zarr", "hlmm-dask"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB,
        "load_average": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "blas": [
            {key: x.get(key) for key in ("internal_api", "version", "architecture")}
            for x in threadpool_info()
            if x.get("user_api") == "blas"
        ],
        "environment": {k: v for k, v in os.environ.items() if k.startswith("OPENBLAS_")},
    }


def alternate(
    runs: dict[str, Callable[[], Any]], repeats: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Time each of ``runs`` in turn, so that what else the machine does falls on all of them."""
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for i in range(-1 if warm_up else 0, repeats):
        for label, run in runs.items():
            began = time.perf_counter()
            run()
            if i >= 0:
                seconds[label].append(time.perf_counter() - began)
    return seconds


# -- input ------------------------------------------------------------------------------------


def simulated_bed(work: Path, samples: int, variants: int, missing: float, seed: int = 1) -> Path:
    """Write a .bed with allele frequencies in (0.06, 0.5), or find it in ``work``."""
    bed = work / f"n{samples}_m{variants}_missing{missing:g}_seed{seed}.bed"
    width = packed_width(samples)
    if bed.exists() and bed.stat().st_size == 3 + width * variants:
        return bed
    say(f"simulating {bed.name}")
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


def _draw(rng: np.random.Generator, samples: int, variants: int, missing: float) -> Packed:
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


# -- whole processes --------------------------------------------------------------------------


def run_process(command: list[str], folder: Path) -> None:
    """Run a command in a folder; the end of what it said is shown where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr[-500:]}")


def scan_command(genofile: Iterable[Path], phenotype: Path, *more: str) -> list[str]:
    """``hlmm-scan`` by this Python; output goes to ``out`` in the current folder."""
    files = [str(path.resolve()) for path in (*genofile, phenotype)]
    return [sys.executable, "-m", "hlmm_dask", *files, "out", "--overwrite", *more]


def in_folder(work: Path, command: list[str]) -> Callable[[], None]:
    """Prepare a run of ``command`` in a folder of its own, which each run empties first."""
    folder = Path(tempfile.mkdtemp(dir=work))

    def run() -> None:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        run_process(command, folder)

    return run


def plink(options: Options, report: Report) -> None:
    """Whole process of hlmm-scan (HLM) against plink2 --glm allow-no-covars (row 1)."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    phenotype = simulated_table(options.work, options.samples, 1)
    program = shutil.which("plink2")
    if program is None:
        report.skipped["plink2"] = "not installed (Debian package plink2)"
    for k in options.threads:
        runs = {f"hlmm-scan, {k}": scan_command([bed], phenotype, "--workers", str(k))}
        if program is not None:
            runs[f"plink2, {k}"] = [
                program, "--bfile", str(bed.with_suffix("").resolve()), "--pheno",
                str(phenotype.resolve()), "--glm", "allow-no-covars", "--threads", str(k),
                "--out", "out",
            ]  # fmt: skip
        ready = {label: in_folder(options.work, command) for label, command in runs.items()}
        report.seconds |= alternate(ready, options.repeats, warm_up=options.warm_up)
        scan = report.median(f"hlmm-scan, {k}")
        report.figures[f"microseconds per variant, {k}"] = 1e6 * scan / options.variants
        if program is not None:
            report.figures[f"hlmm-scan / plink2, {k}"] = scan / report.median(f"plink2, {k}")


def small(options: Options, report: Report) -> None:
    """HLM of few samples: whole process, and reading, sums, fit, statistics alone (row 4)."""
    bed, phenotype = options.bed, options.phenotype
    if bed is None:
        bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
        phenotype = None
    if phenotype is None:
        phenotype = simulated_table(options.work, options.samples, 1)
    genotypes = open_plink(bed)
    report.sizes |= {"samples": genotypes.n_samples, "variants": genotypes.n_variants}
    command = scan_command([bed], phenotype, "--workers", str(options.workers))
    whole = {"whole process": in_folder(options.work, command)}
    report.seconds |= alternate(whole, options.repeats)
    model = model_of(fit_null(genotypes, phenotype))

    def inner() -> None:
        for start, stop in block_starts(genotypes.n_variants, genotypes.n_samples):
            fit_packed(model, genotypes.read_packed(start, stop))

    with threadpool_limits(1):
        report.seconds |= alternate({"inner part": inner}, max(5, options.repeats))
    per_variant = 1e6 * report.median("inner part") / genotypes.n_variants
    report.figures["inner microseconds per variant"] = per_variant


def phenotypes(options: Options, report: Report) -> None:
    """Several phenotypes in one pass against a scan of each (row 9)."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    table = simulated_table(options.work, options.samples, options.phenotypes)
    workers = ("--workers", str(options.workers))
    tiny = simulated_bed(options.work, 64, 8, 0.0)
    trial = scan_command([tiny], simulated_table(options.work, 64, 2), "--phen_index", "all")
    try:
        in_folder(options.work, [*trial, *workers])()
    except SystemExit as error:
        report.skipped["one pass"] = f"--phen_index all is not there ({str(error)[-120:].strip()})"
        return
    one = in_folder(options.work, scan_command([bed], table, "--phen_index", "all", *workers))
    each = [
        in_folder(options.work, scan_command([bed], table, "--phen_index", str(k), *workers))
        for k in range(1, options.phenotypes + 1)
    ]

    def solo() -> None:
        for run in each:
            run()

    runs = {"one pass": one, "one by one": solo}
    report.seconds |= alternate(runs, options.repeats, warm_up=False)
    ratio = report.median("one pass") / report.median("one by one")
    report.figures["one pass / one by one"] = ratio


def memory(options: Options, report: Report) -> None:
    """Peak memory of a scan, summed over its processes, and at more variants (row 12)."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    phenotype = simulated_table(options.work, options.samples, 1)
    for times in (1, options.times):
        beds = [bed]
        for i in range(1, times):
            # The same genotypes under other names: nothing but the disk knows.
            copy = bed.with_name(f"{bed.stem}_copy{i}.bed")
            for suffix in (".bed", ".bim", ".fam"):
                link = copy.with_suffix(suffix)
                if not link.exists():
                    link.symlink_to(bed.with_suffix(suffix).resolve())
            beds.append(copy)
        files = [path.absolute() for path in beds]
        command = scan_command([], phenotype, "--workers", str(options.workers))
        command[3:3] = [str(path) for path in files]
        folder = Path(tempfile.mkdtemp(dir=options.work))
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        began = time.perf_counter()
        rss = pss = 0.0
        while process.poll() is None:
            now = [resident(pid) for pid in descendants(process.pid)]
            rss = max(rss, sum(x for x, _ in now))
            pss = max(pss, sum(x for _, x in now))
            time.sleep(options.interval)
        if process.returncode:
            raise SystemExit(f"the scan ended with {process.returncode}")
        shutil.rmtree(folder)
        label = f"{options.variants * times} variants"
        report.seconds[label] = [time.perf_counter() - began]
        report.figures[f"peak RSS MB, {label}"] = rss / 1e6
        report.figures[f"peak PSS MB, {label}"] = pss / 1e6


def descendants(pid: int) -> list[int]:
    """List a process and all below it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(x) for x in (task / "children").read_text().split()]
    return found


def resident(pid: int) -> tuple[int, int]:
    """Bytes of memory of a process: RSS, and PSS, where shared pages are divided."""
    values = {"Rss:": 0, "Pss:": 0}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, *rest = line.split()
            if name in values:
                values[name] = 1024 * int(rest[0])
    return values["Rss:"], values["Pss:"]


# -- inner rates, one core --------------------------------------------------------------------


def sums(options: Options, report: Report) -> None:
    """Class sums off packed bytes, one core, against decoding and numpy (row 2)."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    null = fit_null(bed, simulated_table(options.work, options.samples, 1))
    phenotype = model_of(null).phenotype
    packed = open_plink(bed).read_packed(0, options.variants)
    words = packed.ravel()[: packed.size // 8 * 8].view(np.uint64)
    y = null.model.y
    Y = np.column_stack([np.ones_like(y), y, y * y])

    def by_decoding() -> None:
        with open_bed(bed, num_threads=1) as file:
            for start in range(0, options.variants, 64):
                index = np.s_[start : start + 64]
                counts = file.read(np.s_[:, index], dtype="int8", num_threads=1).T
                for k in range(3):
                    (counts == k).astype(np.float64) @ Y

    with threadpool_limits(1):
        report.seconds |= alternate(
            {
                "touch every byte": lambda: np.bitwise_xor.reduce(words),
                "packed, numba": lambda: class_sums(packed, phenotype),
                "packed, numpy": lambda: class_sums(packed, phenotype, engine="numpy"),
                "bed-reader int8, one-hot numpy": by_decoding,
            },
            options.repeats,
        )
    n_genotypes = options.samples * options.variants
    for label in report.seconds:
        report.figures[f"ns per genotype: {label}"] = 1e9 * report.median(label) / n_genotypes


def solver(options: Options, report: Report) -> None:
    """Newton and all statistics for a block of class sums, one core (row 3)."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    model = model_of(fit_null(bed, simulated_table(options.work, options.samples, 1)))
    packed = open_plink(bed).read_packed(0, options.variants)
    block = class_sums(packed, model.phenotype)
    rows = np.flatnonzero((block.counts > 0).sum(axis=0) > 1)

    def fit() -> None:
        results = empty_results(options.variants)
        fill_estimates(results, rows, fit_class_sums(block.take(rows)), count_a2=False)

    with threadpool_limits(1):
        report.seconds |= alternate({"fit and statistics": fit}, max(20, options.repeats))
    per_variant = 1e6 * report.median("fit and statistics") / options.variants
    report.figures["microseconds per variant"] = per_variant


def hlm(options: Options, report: Report) -> None:
    """HLM of many samples: reading, sums, fit, statistics, one core (row 2b)."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    genotypes = open_plink(bed)
    model = model_of(fit_null(genotypes, simulated_table(options.work, options.samples, 1)))
    blocks = list(block_starts(options.variants, options.samples))

    def read() -> None:
        for start, stop in blocks:
            genotypes.read_packed(start, stop)

    def whole() -> None:
        for start, stop in blocks:
            fit_packed(model, genotypes.read_packed(start, stop))

    with threadpool_limits(1):
        runs = {"reading alone": read, "reading, sums, fit": whole}
        report.seconds |= alternate(runs, options.repeats)
    for label in report.seconds:
        per_variant = 1e6 * report.median(label) / options.variants
        report.figures[f"microseconds per variant: {label}"] = per_variant


def covariates(options: Options, report: Report) -> None:
    """HLM with covariates kept in every model, one core (row 5)."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    table = simulated_table(options.work, options.samples, options.covariates)
    null = fit_null(
        bed,
        simulated_table(options.work, options.samples, 1),
        mean_covariates=table,
        variance_covariates=table,
        fit_covariates=True,
    )
    _fit(options, report, bed, {"exact": model_of(null)})


def hlmm(options: Options, report: Report) -> None:
    """HLMM, exact, h2 fitted at every variant, one core (rows 6 and 7)."""
    bed, null = _random_null(options)
    choice = {"method": "exact"} if has_methods() else {}
    _fit(options, report, bed, {"exact": model_of(null, **choice)})


def hlmm_linear(options: Options, report: Report) -> None:
    """HLMM, linear in the number of random effects, one core (row 8)."""
    if not has_methods():
        report.skipped["linear"] = "block_model has no argument 'method'"
        return
    bed, null = _random_null(options)
    exact = model_of(null, method="exact")
    found = _fit(options, report, bed, {"linear": model_of(null, method="linear")})["linear"]
    packed = open_plink(bed).read_packed(0, options.compare)
    with threadpool_limits(1):
        began = time.perf_counter()
        expected = fit_packed(exact, packed)
        took = time.perf_counter() - began
    report.seconds["exact, for comparison"] = [took]
    report.figures["ms per variant: exact"] = 1e3 * took / options.compare
    for name in ("add", "var"):
        j, se = INDEX[name], expected[:, INDEX[f"{name}_se"]]
        away = np.abs(found[: options.compare, j] - expected[:, j]) / se
        report.figures[f"largest difference of {name} in SE"] = float(np.nanmax(away))


def has_methods() -> bool:
    """Whether there is a choice of methods for random effects."""
    return "method" in inspect.signature(block_model).parameters


def _random_null(options: Options) -> tuple[Path, NullModel]:
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    random = random_bed(options)
    phenotype = simulated_table(options.work, options.samples, 1, random)
    return bed, fit_null(bed, phenotype, random_genotypes=random, h2_init=0.2)


def _fit(
    options: Options, report: Report, bed: Path, models: dict[str, BlockModel]
) -> dict[str, NDArray[np.float64]]:
    packed = open_plink(bed).read_packed(0, options.variants)
    found: dict[str, NDArray[np.float64]] = {}

    def run(label: str) -> Callable[[], None]:
        def fit() -> None:
            found[label] = fit_packed(models[label], packed)

        return fit

    with threadpool_limits(1):
        for model in models.values():
            fit_packed(model, packed[:2])
        runs = {label: run(label) for label in models}
        report.seconds |= alternate(runs, options.repeats, warm_up=False)
    for label, results in found.items():
        per_variant = 1e3 * report.median(label) / options.variants
        report.figures[f"ms per variant: {label}"] = per_variant
        fitted = int(np.sum(results[:, INDEX["status"]] == Status.OK))
        report.figures[f"variants fitted: {label}"] = fitted
    return found


# -- cluster ----------------------------------------------------------------------------------


class Watch:
    """Notes when a scan's blocks began and ended, and this process's memory."""

    def __init__(self, *, stop: bool = False) -> None:
        self.began = self.seconds = 0.0
        self.resident: list[int] = []
        self._done = 0
        self._stop = stop

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, ScanStarted):
            self.began = time.perf_counter()
            self.resident.append(resident(os.getpid())[0])
        elif isinstance(event, BlockDone):
            self._done += 1
            if self._done % 500 == 0:
                self.resident.append(resident(os.getpid())[0])
        elif isinstance(event, ScanFinished):
            self.seconds = time.perf_counter() - self.began
            self.resident.append(resident(os.getpid())[0])
            if self._stop:
                raise Finished


class Finished(Exception):
    """All blocks came back; what follows in a scan is not wanted."""


def watched(
    work: Path, bed: Path, null: NullModel, workers: int, block_size: int | None, watch: Watch
) -> Watch:
    """Scan with a cluster of its own."""
    folder = Path(tempfile.mkdtemp(dir=work))
    try:
        run_scan(
            bed, null, ScanConfig(min_maf=0.0, max_missing=100.0), folder / "out.zarr",
            cluster=ClusterOptions(workers=workers), block_size=block_size, observers=(watch,),
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    return watch


def workers(options: Options, report: Report) -> None:
    """Rate of two worker processes against one, HLM and HLMM, without start (row 10)."""
    random = simulated_bed(options.work, options.random_samples, options.random, 0.0, seed=2)
    cases = {
        "HLM": (options.samples, options.variants, None),
        "HLMM": (options.random_samples, options.random_variants, random),
    }
    for name, (samples, variants, chosen) in cases.items():
        bed = simulated_bed(options.work, samples, variants, options.missing)
        phenotype = simulated_table(options.work, samples, 1, chosen)
        null = fit_null(bed, phenotype, random_genotypes=chosen)
        size = max(1, min(choose_block_size(variants, samples), variants // 16))
        for _ in range(options.repeats):
            for k in (1, 2):
                seconds = watched(options.work, bed, null, k, size, Watch()).seconds
                report.seconds.setdefault(f"{name}, {k}", []).append(seconds)
        ratio = report.median(f"{name}, 1") / report.median(f"{name}, 2")
        report.figures[f"{name}: rate of 2 / rate of 1"] = ratio


def no_work(block: Packed, *, block_id: tuple[int, ...]) -> NDArray[np.object_]:
    """Give the record of a block without doing anything to it."""
    out = np.empty((1, 1), dtype=object)
    out[0, 0] = {"n_variants": len(block), "n_fitted": 0, "seconds": 0.0, "worker": ""}
    return out


def empty_records(blocks: da.Array, task: Any) -> da.Array:
    """Stand in for ``scan.graph.lazy_records``: the same graph with an empty kernel."""
    records: da.Array = da.map_blocks(
        no_work, blocks, chunks=((1,) * blocks.numblocks[0], (1,)), dtype=object,
        meta=np.empty((0, 0), dtype=object),
    )  # fmt: skip
    return records


def scheduling(options: Options, report: Report) -> None:
    """Many blocks of one variant, with an empty kernel and with the real one (row 11)."""
    bed = simulated_bed(options.work, options.samples, options.blocks, 0.0)
    null = fit_null(bed, simulated_table(options.work, options.samples, 1))
    kinds = {"empty kernel": True, "one variant, stored": False}
    for label, empty in kinds.items():
        for _ in range(options.repeats):
            watch = Watch(stop=empty)
            with contextlib.ExitStack() as stack:
                if empty:
                    stack.enter_context(patch("hlmm_dask.scan.run.lazy_records", empty_records))
                    stack.enter_context(contextlib.suppress(Finished))
                watched(options.work, bed, null, options.workers, 1, watch)
            report.seconds.setdefault(label, []).append(watch.seconds)
            # The scheduler lives in this process.
            report.figures[f"scheduler MB at start, {label}"] = watch.resident[0] / 1e6
            report.figures[f"scheduler MB at most, {label}"] = max(watch.resident) / 1e6
            report.figures[f"scheduler MB at end, {label}"] = watch.resident[-1] / 1e6
        per_block = 1e3 * report.median(label) / options.blocks
        report.figures[f"ms per block: {label}"] = per_block


# -- on paper ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """What a schedule is simulated from; seconds, bytes per second, rows per second."""

    start: float
    read: float
    storage: float
    kernel_per_genotype: float
    kernel_per_variant: float
    schedule_per_block: float
    write_per_block: float
    table_rows: float


def simulate(rates: Rates, samples: int, variants: int, block: int, cores: int) -> float:
    """Seconds that a scan takes on a number of cores.

    Blocks are handed out in order, each to the core that is free first. A block waits for the
    scheduler, which gives out one after the other; then for the shared storage, which serves one
    after the other at its full rate, while a core takes no more than its own rate; then it is
    fitted and written by its core alone. Start and the final table come on top, serial. Without
    the ends of the queue that is

        start + max(blocks (read + fit + write) / cores, blocks schedule, bytes / storage)
        + variants / table_rows
    """
    width = packed_width(samples)
    free = [0.0] * cores
    scheduler = storage = last = 0.0
    for first in range(0, variants, block):
        size = min(block, variants - first)
        scheduler = max(free[0], scheduler) + rates.schedule_per_block
        reading = max(scheduler, storage)
        storage = reading + size * width / rates.storage
        end = max(storage, reading + size * width / rates.read)
        end += size * (samples * rates.kernel_per_genotype + rates.kernel_per_variant)
        end += rates.write_per_block
        heapq.heapreplace(free, end)
        last = max(last, end)
    return rates.start + last + variants / rates.table_rows


def plan(options: Options, report: Report) -> None:
    """Simulate the schedule of a large scan on 10 to 1,000 cores, from measured rates."""
    rates = measured_rates(options, report)
    given = {name: getattr(options, name) for name in Rates.__dataclass_fields__}
    rates = replace(rates, **{name: x for name, x in given.items() if x is not None})
    report.figures |= {f"rate: {name}": value for name, value in asdict(rates).items()}
    samples, variants = options.samples, options.variants
    block = options.block_size or choose_block_size(variants, samples)
    report.figures["variants a block"] = block
    one = simulate(rates, samples, variants, block, 1)
    table = []
    for cores in options.cores:
        seconds = simulate(rates, samples, variants, block, cores)
        table.append(
            {
                "cores": cores,
                "hours": seconds / 3600,
                "core_hours": cores * seconds / 3600,
                "efficiency": one / seconds / cores,
            }
        )
    report.figures["schedule"] = table
    report.figures["hours on one core"] = one / 3600
    blocks = -(-variants // block)
    serial = {
        "scheduler": blocks * rates.schedule_per_block,
        "storage": variants * packed_width(samples) / rates.storage,
        "table": variants / rates.table_rows,
    }
    for name, seconds in serial.items():
        report.figures[f"serial hours: {name}"] = seconds / 3600
    # Where the shared parts, which no core more makes faster, are half of the time.
    shared = max(serial["scheduler"], serial["storage"])
    parallel = one - rates.start - serial["table"]
    fixed = rates.start + serial["table"]
    report.figures["cores at which it saturates"] = int(parallel / max(shared, fixed)) + 1
    report.figures["saturated by"] = (
        max(("scheduler", "storage"), key=serial.__getitem__) if shared > fixed else "table"
    )
    say(f"\n  {'cores':>6} {'hours':>10} {'core-hours':>11} {'efficiency':>11}")
    for row in table:
        say(f"  {row['cores']:>6} {row['hours']:>10.3f} {row['core_hours']:>11.1f} "
            f"{row['efficiency']:>11.0%}")  # fmt: skip


def measured_rates(options: Options, report: Report) -> Rates:
    """Measure on this machine, on a small part, what `simulate` needs."""
    samples, variants = options.measure_samples, options.measure_variants
    bed = simulated_bed(options.work, samples, variants, options.missing)
    genotypes = open_plink(bed)
    model = model_of(fit_null(genotypes, simulated_table(options.work, samples, 1)))
    packed = genotypes.read_packed(0, variants)
    n_blocks = 200
    block = options.block_size or choose_block_size(options.variants, options.samples)
    folder = Path(tempfile.mkdtemp(dir=options.work))
    table = pd.DataFrame(
        {"contig": "1", "variant_id": [f"v{j}" for j in range(8 * block)],
         "position": np.arange(8 * block), "allele1": "A", "allele2": "G"}
    )  # fmt: skip
    store = ResultsStore.create(
        folder / "out.zarr", n_variants=len(table), block_size=block, variants=iter([table]),
        fingerprint={}, attrs={}, count_a2=False,
    )  # fmt: skip
    results = np.random.default_rng(0).standard_normal((block, N_COLUMNS))
    results[:, INDEX["status"]] = Status.OK
    results[:, INDEX["n_samples"]] = samples

    def write() -> None:
        for index in range(8):
            store.write_block(index, results, record={"n_fitted": block, "seconds": 0.0})

    with threadpool_limits(1):
        report.seconds |= alternate(
            {
                "reading": lambda: genotypes.read_packed(0, variants),
                "class sums": lambda: class_sums(packed, model.phenotype),
                "sums, fit, statistics": lambda: fit_packed(model, packed),
                "writing 8 blocks": write,
            },
            options.repeats,
        )
    report.seconds |= alternate(
        {"table": lambda: write_tsv(store, folder / "out.models.gz")}, options.repeats
    )
    shutil.rmtree(folder)
    tiny = simulated_bed(options.work, 64, n_blocks, 0.0)
    null = fit_null(tiny, simulated_table(options.work, 64, 1))
    watch = Watch(stop=True)
    began = time.perf_counter()
    with patch("hlmm_dask.scan.run.lazy_records", empty_records), contextlib.suppress(Finished):
        watched(options.work, tiny, null, 2, 1, watch)
    report.seconds[f"scheduling {n_blocks} blocks"] = [watch.seconds]
    fit = report.median("sums, fit, statistics") - report.median("class sums")
    return Rates(
        start=time.perf_counter() - began - watch.seconds,
        read=packed.size / report.median("reading"),
        storage=2e9,
        kernel_per_genotype=report.median("class sums") / (samples * variants),
        kernel_per_variant=max(0.0, fit) / variants,
        schedule_per_block=watch.seconds / n_blocks,
        write_per_block=report.median("writing 8 blocks") / 8,
        table_rows=8 * block / report.median("table"),
    )


# -- command line -----------------------------------------------------------------------------

# Sizes by command; where a target is set, its sizes.
SIZES: dict[Callable[[Options, Report], None], dict[str, int]] = {
    plink: {"samples": 100_000, "variants": 100_000},
    sums: {"samples": 100_000, "variants": 500},
    hlm: {"samples": 100_000, "variants": 2_000},
    solver: {"samples": 20_000, "variants": 1_000},
    small: {"samples": 2_000, "variants": 12_226},
    covariates: {"samples": 100_000, "variants": 128},
    hlmm: {"samples": 20_000, "variants": 64, "random": 200},
    hlmm_linear: {"samples": 100_000, "variants": 256, "random": 500},
    phenotypes: {"samples": 100_000, "variants": 10_000},
    workers: {
        "samples": 100_000, "variants": 100_000,
        "random_samples": 20_000, "random_variants": 2_000, "random": 200,
    },
    scheduling: {"samples": 64, "blocks": 10_000},
    memory: {"samples": 100_000, "variants": 100_000},
    plan: {"samples": 500_000, "variants": 10_000_000,
           "measure_samples": 100_000, "measure_variants": 500},
}  # fmt: skip
COMMANDS = {"class-sums" if run is sums else run.__name__.replace("_", "-"): run for run in SIZES}
# Sizes that ``all --scale`` leaves as they are, and the smallest of the others.
_UNSCALED = {plan: {"samples", "variants"}, scheduling: {"samples"}}
_SMALLEST = {"samples": 400, "random_samples": 400, "measure_samples": 400, "random": 10}
_SMALLEST_OTHER = 32


def parser() -> argparse.ArgumentParser:
    """Every command with its sizes as options."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--repeats", type=int, default=3, help="runs of each (3)")
    common.add_argument(
        "--work", type=Path, help="folder for inputs, which are kept and found again"
    )
    common.add_argument(
        "--missing", type=float, default=None, help="share of missing calls (0.01; plink 0)"
    )
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run in COMMANDS.items():
        text = (run.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, parents=[common], help=text, description=text)
        for size, default in SIZES[run].items():
            command.add_argument(
                f"--{size.replace('_', '-')}", type=int, default=default, help=f"({default})"
            )
        _more_options(command, run)
        if run is plan:
            command.epilog = inspect.getdoc(simulate)
            command.formatter_class = argparse.RawDescriptionHelpFormatter
    every = commands.add_parser("all", parents=[common], help="Run all commands, sizes reduced.")
    every.add_argument("--scale", type=float, default=0.01, help="factor of all sizes (0.01)")
    every.add_argument("--only", nargs="+", choices=COMMANDS, help="just these")
    return top


def _more_options(command: argparse.ArgumentParser, run: Callable[..., None]) -> None:
    if run is plink:
        command.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(1 2)")
        command.add_argument(
            "--no-warm-up", dest="warm_up", action="store_false", help="time the first run too"
        )
    if run in (small, phenotypes, memory, scheduling):
        command.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    if run is small:
        command.add_argument("--bed", type=Path, help="these genotypes instead of simulated ones")
        command.add_argument("--phenotype", type=Path, help="FID IID value, for --bed")
    if run is covariates:
        command.add_argument("--covariates", type=int, default=10, help="in mean and variance (10)")
    if run is phenotypes:
        command.add_argument("--phenotypes", type=int, default=20, help="in one table (20)")
    if run is hlmm_linear:
        command.add_argument("--compare", type=int, default=4, help="variants fitted exactly (4)")
    if run is memory:
        command.add_argument("--times", type=int, default=10, help="as many variants (10)")
        command.add_argument("--interval", type=float, default=0.1, help="seconds (0.1)")
    if run is plan:
        cores = [10, 20, 50, 100, 200, 500, 1000]
        command.add_argument("--cores", type=int, nargs="+", default=cores, help="(10 to 1000)")
        command.add_argument("--block-size", type=int, help="variants a block (as the scan does)")
        for name in Rates.__dataclass_fields__:
            text = "instead of the measured one" if name != "storage" else "bytes a second (2e9)"
            command.add_argument(f"--{name.replace('_', '-')}", type=float, help=text)


def measure(name: str, options: Options) -> Report:
    """Run one command."""
    run = COMMANDS[name]
    if options.missing is None:
        options.missing = 0.0 if run in (plink, memory) else 0.01
    hidden = {"command", "work", "repeats"} | set(Rates.__dataclass_fields__)
    sizes = {k: v for k, v in vars(options).items() if k not in hidden and v is not None}
    report = Report(name, {k: str(v) if isinstance(v, Path) else v for k, v in sizes.items()})
    run(options, report)
    report.show()
    return report


def main(argv: list[str] | None = None) -> int:
    """Measure, and print."""
    options = parser().parse_args(argv)
    with contextlib.ExitStack() as stack:
        if options.work is None:
            options.work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options.work = options.work.resolve()
        options.work.mkdir(parents=True, exist_ok=True)
        if options.command != "all":
            found = measure(options.command, options).content()
        else:
            reports = []
            for name in options.only or COMMANDS:
                one = parser().parse_args([name, *scaled(name, options.scale)])
                one.work, one.repeats = options.work, options.repeats
                one.missing = options.missing
                reports.append(measure(name, one).content())
            found = {"benchmark": "all", "scale": options.scale, "reports": reports}
    json.dump(found, sys.stdout, indent=1)
    print()
    return 0


def scaled(name: str, scale: float) -> list[str]:
    """Options of a command with all sizes reduced."""
    run = COMMANDS[name]
    out = []
    for size, value in SIZES[run].items():
        if size not in _UNSCALED.get(run, ()):
            least = min(value, _SMALLEST.get(size, _SMALLEST_OTHER))
            out += [f"--{size.replace('_', '-')}", str(max(least, int(value * scale)))]
    return out


if __name__ == "__main__":
    sys.exit(main())
