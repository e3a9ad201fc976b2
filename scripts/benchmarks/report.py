"""What a benchmark found, and the machine that it ran on."""

import argparse
import contextlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

Options = argparse.Namespace

MIB = 2**20


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
    """Time each of ``runs`` in turn, so that what else the machine does falls on all of them.

    What a run has to ``prepare`` is not timed.
    """
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for i in range(-1 if warm_up else 0, repeats):
        for label, run in runs.items():
            getattr(run, "prepare", lambda: None)()
            began = time.perf_counter()
            run()
            if i >= 0:
                seconds[label].append(time.perf_counter() - began)
    return seconds
