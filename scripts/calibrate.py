#!/usr/bin/env python3
"""Measure how often each test calls variants without effect, and what it finds of others.

Writes OUT.tsv (λ_GC, and the rates at 1e-3, 1e-4 and 1e-5 over what they should be, with exact
95% intervals; power where there is an effect), and OUT.png with the rates of the null variants.
Variants of one draw share their phenotype; --draw says how many.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from calibration import settings
from calibration.count import LEVELS, Counts
from calibration.draw import draw_rates
from rich.progress import Progress

SETTINGS = ("alone", "mean-effect", "covariates", "families", "power")


@dataclass(frozen=True)
class Task:
    """One draw of a setting."""

    setting: str
    samples: int
    maf: float
    variants: int
    seed: int
    effect: float = 0.0

    def run(self) -> dict[str, settings.PValues]:
        """p-values by label and test."""
        size = (self.samples, self.maf, self.variants, self.seed)
        match self.setting:
            case "alone":
                return settings.alone(*size)
            case "mean-effect":
                return settings.mean_effect(*size)
            case "covariates":
                return settings.covariates(*size)
            case "families":
                return settings.families(*size)
            case _:
                return settings.power(*size, self.effect)


def _counted(task: Task) -> tuple[Task, dict[tuple[str, str], Counts]]:
    out = {}
    for label, tests in task.run().items():
        for test, p in tests.items():
            out[label, test] = counts = Counts()
            counts.add(p)
    return task, out


def tasks(options: argparse.Namespace) -> Iterator[Task]:
    """All draws that the options ask for."""
    for setting in options.settings:
        for samples in options.samples:
            for maf in options.maf:
                draw, total, effect = options.draw, options.variants, 0.0
                if setting in ("mean-effect", "power"):
                    draw = min(draw, 100)
                if setting not in ("alone", "power"):
                    total = max(1, total // (options.fewer // 10))
                if setting == "power":
                    total = max(1, total // options.fewer)
                    # Non-centrality of the classical test: n Var(g) β² / 2.
                    effect = (2.0 * options.noncentrality / (2 * maf * (1 - maf) * samples)) ** 0.5
                for seed in range(-(-total // draw)):
                    yield Task(setting, samples, maf, draw, seed + options.seed, effect)


def rows(found: dict[tuple[Any, ...], Counts]) -> Iterator[dict[str, Any]]:
    """One row for each setting, size and test."""
    for (setting, samples, maf, label, test), counts in sorted(found.items()):
        row = {
            "setting": setting,
            "samples": samples,
            "maf": maf,
            "phenotype": label,
            "test": test,
            "variants": counts.n,
            "lambda_gc": counts.inflation,
        }
        for i, level in enumerate(LEVELS):
            rate, low, high = counts.rate(i)
            row |= {f"{level:g}": rate, f"{level:g}_low": low, f"{level:g}_high": high}
        yield row


def parser() -> argparse.ArgumentParser:
    """Options with their defaults."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = top.add_argument
    add("out", help="prefix of the files that are written")
    add("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="(all)")
    add("--samples", nargs="+", type=int, default=[2_000, 20_000], help="(2000 20000)")
    frequencies = [0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 0.5]
    add("--maf", nargs="+", type=float, default=frequencies, help="(0.005 to 0.5)")
    add("--variants", type=int, default=1_000_000, help="for each size and frequency (1000000)")
    add("--draw", type=int, default=1_000, help="variants for one phenotype (1000)")
    add("--fewer", type=int, default=100, metavar="K",
        help="where each variant has its own phenotype ('power') take 1/K of the variants, with "
        "covariates, families and effects on the mean 10/K (100)")  # fmt: skip
    add("--noncentrality", type=float, default=16.0, help="of the effects in 'power' (16)")
    add("--seed", type=int, default=1, help="of the first draw (1)")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (all cores)")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run all draws, count, write."""
    options = parser().parse_args(arguments)
    if any(n % settings.SIBLINGS for n in options.samples):
        print(f"--samples: expected multiples of {settings.SIBLINGS}", file=sys.stderr)
        return 2
    todo = list(tasks(options))
    found: dict[tuple[Any, ...], Counts] = {}
    # Processes share the cores; set before numpy is imported there.
    os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    pool = ProcessPoolExecutor(options.workers, mp_context=get_context("spawn"))
    with pool, Progress() as progress:
        bar = progress.add_task("draws", total=len(todo))
        for future in as_completed(map(partial(pool.submit, _counted), todo)):
            task, counted = future.result()
            for (label, test), counts in counted.items():
                key = (task.setting, task.samples, task.maf, label, test)
                found.setdefault(key, Counts()).__iadd__(counts)
            progress.advance(bar)
    table = pd.DataFrame(rows(found))
    table.to_csv(f"{options.out}.tsv", sep="\t", index=False, float_format="%.4g")
    if "alone" in options.settings:
        draw_rates(table[table["setting"] == "alone"], Path(f"{options.out}.png"))
    print(summary(table))
    return 0


def summary(table: pd.DataFrame) -> str:
    """Put the headline test beside the classical one, a line for each setting."""
    chosen = table[table["test"].isin(["var, classical", "var, headline"])]
    keys = ["setting", "samples", "maf", "phenotype"]
    values = ["lambda_gc", *(f"{level:g}" for level in LEVELS)]
    wide = chosen.pivot(index=keys, columns="test", values=values)
    return wide.to_string(float_format=lambda x: f"{x:.3g}")


if __name__ == "__main__":
    sys.exit(main())
