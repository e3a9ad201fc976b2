"""Scans in this process, with worker processes of their own."""

import contextlib
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dask.array as da
import numpy as np
from distributed import Client
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.inputs import copies, simulated_bed, simulated_table
from benchmarks.processes import resident
from benchmarks.report import Options, Report
from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.kernels.block import fit_packed
from hlmm_dask.scanning.cluster import ClusterOptions, connect
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.dispatch import scan_model
from hlmm_dask.scanning.events import BlockDone, Event, ScanFinished, ScanStarted
from hlmm_dask.scanning.null import NullModel
from hlmm_dask.scanning.null_input import fit_null
from hlmm_dask.scanning.plan import choose_block_size, footprint
from hlmm_dask.scanning.records import announced
from hlmm_dask.scanning.run import run_scan
from hlmm_dask.scanning.source import open_source
from hlmm_dask.scanning.strips import PackedBlock

Packed = NDArray[np.uint8]


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
    work: Path,
    bed: Path | list[Path],
    null: NullModel,
    client: Client,
    block_size: int | None,
    watch: Watch,
) -> Watch:
    """Scan on a cluster that is there."""
    folder = Path(tempfile.mkdtemp(dir=work))
    config = ScanConfig(min_maf=0.0, max_missing=100.0)
    try:
        run_scan(
            bed,
            null,
            config,
            folder / "out.zarr",
            client=client,
            block_size=block_size,
            observers=(watch,),
        )
    finally:
        shutil.rmtree(folder)
    return watch


def workers(options: Options, report: Report) -> None:
    """Rate of two worker processes against one, HLM and HLMM, without start (row 10).

    Beside it what the machine gives: the same blocks read and fitted by one and by two processes
    that know nothing of each other nor of a scheduler.
    """
    random = simulated_bed(options.work, options.random_samples, options.random, 0.0, seed=2)
    cases = {
        "HLM": (options.samples, options.variants, None),
        "HLMM": (options.random_samples, options.random_variants, random),
    }
    with contextlib.ExitStack() as stack:
        # Both clusters stay; the one that waits takes next to nothing.
        clients = {k: stack.enter_context(connect(ClusterOptions(workers=k))) for k in (1, 2)}
        for name, (samples, variants, chosen) in cases.items():
            bed = simulated_bed(options.work, samples, variants, options.missing)
            phenotype = simulated_table(options.work, samples, 1, chosen)
            beds = copies(bed, options.times)
            null = fit_null(beds, phenotype, random_genotypes=chosen)
            for i in range(-1 if options.warm_up else 0, options.repeats):
                for k, client in clients.items():
                    in_memory(bed)
                    seconds = watched(options.work, beds, null, client, None, Watch()).seconds
                    if i >= 0:
                        report.seconds.setdefault(f"{name}, {k}", []).append(seconds)
                    in_memory(bed)
                    seconds = alone(beds, null, k)
                    if i >= 0:
                        label = f"{name}, {k} without a scheduler"
                        report.seconds.setdefault(label, []).append(seconds)
            for kind in ("", " without a scheduler"):
                times = [report.seconds[f"{name}, {k}{kind}"] for k in clients]
                ratio = float(np.median([one / two for one, two in zip(*times, strict=True)]))
                report.figures[f"{name}: rate of 2 / rate of 1{kind}"] = ratio
            for k in clients:
                rate = variants * options.times / report.median(f"{name}, {k}")
                report.figures[f"{name}, {k}: variants per second"] = rate


def in_memory(path: Path) -> None:
    """Read a file, so that what follows finds it in memory."""
    with open(path, "rb") as file:
        while file.read(2**24):
            pass


def alone(beds: list[Path], null: NullModel, processes: int) -> float:
    """Seconds in which processes of their own read and fit all blocks, an equal share each."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(processes + 1, timeout=600)
    workers = [
        context.Process(target=_fit_share, args=(beds, null, together, i, processes))
        for i in range(processes)
    ]
    for process in workers:
        process.start()
    together.wait()
    began = time.perf_counter()
    together.wait()
    seconds = time.perf_counter() - began
    for process in workers:
        process.join()
    return seconds


def _fit_share(beds: list[Path], null: NullModel, together: Any, first: int, step: int) -> None:
    config = ScanConfig(min_maf=0.0, max_missing=100.0)
    source = open_source(beds, config)
    model = scan_model(null, config, source)
    genotypes = source.genotypes
    assert isinstance(genotypes, PlinkGenotypes)
    n = genotypes.n_variants
    size = choose_block_size(
        n, genotypes.n_samples, n_random=null.n_random, kernel=footprint(null, config).kernel
    )
    with threadpool_limits(limits=1):
        fit_packed(model, genotypes.read_packed(0, min(8, n)), first=0)
        together.wait()
        for start in range(first * size, n, step * size):
            for strip in PackedBlock(genotypes, start, min(start + size, n)).strips():
                fit_packed(model, strip, first=start)
        together.wait()


def no_work(block: Packed, topic: str, *, block_id: tuple[int, ...]) -> NDArray[np.object_]:
    """Give the record of a block without doing anything to it."""
    record = {
        "n_variants": len(block),
        "n_fitted": 0,
        "seconds": 0.0,
        "worker": "",
        "warnings": {},
    }
    return announced(topic, block_id[0], record)


def empty_records(blocks: da.Array, tasks: Any, topic: str) -> da.Array:
    """Stand in for ``scan.graph.lazy_records``: the same graph with an empty kernel."""
    records: da.Array = da.map_blocks(
        no_work, blocks, topic, chunks=((1,) * blocks.numblocks[0], (1,)), dtype=object,
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
                    stack.enter_context(
                        patch("hlmm_dask.scanning.dispatch.lazy_records", empty_records)
                    )
                    stack.enter_context(contextlib.suppress(Finished))
                cluster = ClusterOptions(workers=options.workers)
                client = stack.enter_context(connect(cluster))
                watched(options.work, bed, null, client, 1, watch)
            report.seconds.setdefault(label, []).append(watch.seconds)
            # The scheduler lives in this process.
            report.figures[f"scheduler MB at start, {label}"] = watch.resident[0] / 1e6
            report.figures[f"scheduler MB at most, {label}"] = max(watch.resident) / 1e6
            report.figures[f"scheduler MB at end, {label}"] = watch.resident[-1] / 1e6
        per_block = 1e3 * report.median(label) / options.blocks
        report.figures[f"ms per block: {label}"] = per_block
