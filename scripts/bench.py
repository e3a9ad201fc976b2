#!/usr/bin/env python3
"""Measure the scan, side by side with what it competes with; see ``bench.py --help``.

Every command prints a table on stderr and one JSON object on stdout: machine, sizes, the seconds of
every repeat, their medians, and the figures derived from the medians. Sizes are options.
Inputs are simulated into ``--work`` and found again there by the next call. Times are of warm
files and warm caches of compiled code; nothing is said about a cold start.
"""

import argparse
import contextlib
import inspect
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cluster import scheduling, workers
from benchmarks.kernels import covariates, hlm, hlmm, hlmm_linear, solver, sums
from benchmarks.mixed import lmm
from benchmarks.paper import plan
from benchmarks.processes import (
    memory,
    phenotypes,
    plink,
    small,
)
from benchmarks.report import Options, Report
from benchmarks.schedule import Rates, simulate
from benchmarks.shares import profile
from benchmarks.views import drawing, watching

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
    lmm: {"samples": 1_410, "variants": 12_226},
    phenotypes: {"samples": 100_000, "variants": 10_000},
    workers: {
        "samples": 100_000, "variants": 100_000,
        "random_samples": 20_000, "random_variants": 8_000, "random": 200,
    },
    scheduling: {"samples": 64, "blocks": 10_000},
    memory: {"samples": 100_000, "variants": 100_000},
    watching: {"samples": 100_000, "variants": 100_000},
    drawing: {"variants": 10_000_000},
    profile: {
        "samples": 100_000, "variants": 100_000, "few_samples": 2_000, "few_variants": 12_226,
        "random_variants": 2_000, "random": 500, "some": 2_000,
    },
    plan: {"samples": 500_000, "variants": 10_000_000,
           "measure_samples": 100_000, "measure_variants": 500,
           "measure_rows": 200_000, "blocks": 2_000},
}  # fmt: skip
COMMANDS = {"class-sums" if run is sums else run.__name__.replace("_", "-"): run for run in SIZES}
# Sizes that ``all --scale`` leaves as they are, and the smallest of the others.
_UNSCALED: dict[Any, set[str]] = {plan: {"samples", "variants"}, scheduling: {"samples"}}
_SMALLEST = {
    "samples": 400,
    "random_samples": 400,
    "few_samples": 400,
    "measure_samples": 400,
    "random": 10,
}
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
    common.add_argument(
        "--no-warm-up", dest="warm_up", action="store_false", help="time the first run too"
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
    if run in (small, phenotypes, memory, scheduling, watching):
        command.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    if run is lmm:
        command.add_argument("--threads", type=int, default=1, help="of each program (1)")
    if run in (small, lmm):
        command.add_argument("--bed", type=Path, help="these genotypes instead of simulated ones")
        command.add_argument("--phenotype", type=Path, help="FID IID value, for --bed")
    if run is covariates:
        command.add_argument("--covariates", type=int, default=10, help="in mean and variance (10)")
    if run is phenotypes:
        command.add_argument("--phenotypes", type=int, default=20, help="in one table (20)")
    if run is hlmm_linear:
        command.add_argument("--compare", type=int, default=4, help="variants fitted exactly (4)")
    if run is workers:
        command.add_argument("--times", type=int, default=4, help="as many variants (4)")
    if run in (memory, watching):
        command.add_argument("--times", type=int, default=10, help="as many variants (10)")
    if run is memory:
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
        options.missing = 0.0 if run in (plink, memory, watching, profile) else 0.01
    hidden = {"command", "work", "repeats", "warm_up"} | set(Rates.__dataclass_fields__)
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
                one.missing, one.warm_up = options.missing, options.warm_up
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
