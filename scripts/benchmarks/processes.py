"""Whole processes: start, reading, fits, the written table."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.inputs import block_starts, copies, model_of, simulated_bed, simulated_table
from benchmarks.report import Options, Report, alternate
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.kernels.block import fit_packed
from hlmm_dask.scanning.null_input import fit_null
from hlmm_dask.store import ResultsStore


def run_process(command: list[str], folder: Path) -> None:
    """Run a command in a folder; the end of what it said is shown where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr[-500:]}")


def scan_command(genofile: Iterable[Path], phenotype: Path, *more: str) -> list[str]:
    """``hlmm-scan`` by this Python; output goes to ``out`` in the current folder."""
    files = [str(path.resolve()) for path in (*genofile, phenotype)]
    return [sys.executable, "-m", "hlmm_dask", *files, "out", "--overwrite", *more]


@dataclass(frozen=True)
class InFolder:
    """A command and the folder of its output."""

    command: list[str]
    folder: Path
    reads: Path | None = None

    def prepare(self) -> None:
        """Empty the folder, and read the file that the command will read into memory."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.reads is not None:
            with self.reads.open("rb", buffering=0) as file:
                buffer = bytearray(2**20)
                while file.readinto(buffer):
                    pass

    def __call__(self) -> None:
        """Run it."""
        run_process(self.command, self.folder)


def in_folder(work: Path, command: list[str], reads: Path | None = None) -> InFolder:
    """Give a command a folder of its own."""
    return InFolder(command, Path(tempfile.mkdtemp(dir=work)), reads)


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
        ready = {label: in_folder(options.work, command, bed) for label, command in runs.items()}
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
    report.seconds |= alternate(whole, options.repeats, warm_up=options.warm_up)
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
    one = in_folder(options.work, scan_command([bed], table, "--phen_index", "all", *workers))
    each = [
        in_folder(options.work, scan_command([bed], table, "--phen_index", str(k), *workers))
        for k in range(1, options.phenotypes + 1)
    ]

    def solo() -> None:
        for run in each:
            run.prepare()
            run()

    runs = {"one pass": one, "one by one": solo}
    report.seconds |= alternate(runs, options.repeats, warm_up=False)
    ratio = report.median("one pass") / report.median("one by one")
    report.figures["one pass / one by one"] = ratio
    largest = 0.0
    for k, run in enumerate(each, 1):
        together = ResultsStore.open(one.folder / f"out.{k}.zarr")
        alone = ResultsStore.open(run.folder / "out.zarr")
        x, y = (store.read(0, store.n_variants) for store in (together, alone))
        scale = np.nanmax(np.abs(y), axis=0, initial=1e-300)
        largest = max(largest, float(np.nanmax(np.abs(x - y) / scale)))
    report.figures["largest difference, of the column's largest"] = largest


def memory(options: Options, report: Report) -> None:
    """Peak memory of a scan, summed over its processes, and at more variants (row 12)."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    phenotype = simulated_table(options.work, options.samples, 1)
    for times in sorted({1, options.times}):
        command = repeated_scan(bed, times, phenotype, options.workers)
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


def repeated_scan(bed: Path, times: int, phenotype: Path, workers: int) -> list[str]:
    """``hlmm-scan`` of the same genotypes under other names: nothing but the disk knows."""
    command = scan_command([], phenotype, "--workers", str(workers))
    # Not resolved: the names of the links are what tells them apart.
    command[3:3] = [str(path.absolute()) for path in copies(bed, times)]
    return command


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
