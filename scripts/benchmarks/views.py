"""What watching costs, and how fast ten million variants are drawn."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.inputs import simulated_bed, simulated_table
from benchmarks.processes import in_folder, repeated_scan
from benchmarks.report import Options, Report
from hlmm_dask.models.inference import neg_log10_p_chi2_2df, neg_log10_p_normal
from hlmm_dask.schema import INDEX, N_COLUMNS, Status
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.best import best_loci
from hlmm_dask.view.feed import PIECES, Feed

_BLOCK = 4096
_ROOT = Path(__file__).resolve().parents[2]
_VIEWER = """
import sys, time
import hlmm_dask
dashboard = hlmm_dask.dashboard(sys.argv[1])
while dashboard.progress["state"] != "finished":
    time.sleep(0.2)
"""


def watching(options: Options, report: Report) -> None:
    """Overhead of a dashboard in another process on a scan: wall time and the viewer's CPU."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    phenotype = simulated_table(options.work, options.samples, 1)
    command = repeated_scan(bed, options.times, phenotype, options.workers)
    run = in_folder(options.work, command, bed)
    cases = ("alone", "watched")
    for i in range(-1 if options.warm_up else 0, options.repeats):
        # In turn, and in the other order each time: the machine may be shared.
        for case in cases[:: -1 if i % 2 else 1]:
            run.prepare()
            viewer = None
            began = time.perf_counter()
            scan = _start(command, run.folder)
            if case == "watched":
                viewer = _start([sys.executable, "-c", _VIEWER, "out.zarr"], run.folder)
            _cpu_of(scan)
            seconds = {f"{case}, wall": time.perf_counter() - began}
            if viewer is not None:
                seconds["CPU of the viewer"] = _cpu_of(viewer)
            for label, value in seconds.items():
                if i >= 0:
                    report.seconds.setdefault(label, []).append(value)
    wall = report.median("watched, wall")
    report.figures["wall: percent more"] = 100.0 * (wall / report.median("alone, wall") - 1.0)
    # Start and end of the viewer are in it, which are the same for any scan.
    share = report.median("CPU of the viewer") / (wall * len(os.sched_getaffinity(0)))
    report.figures["viewer, percent of the machine's time"] = 100.0 * share


def _start(command: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=folder, stdout=quiet, stderr=quiet)


def _cpu_of(process: "subprocess.Popen[bytes]") -> float:
    """Wait for the end; return the CPU seconds of a process and all that it has waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{process.args!r} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def drawing(options: Options, report: Report) -> None:
    """Paint of a dashboard, its updates, the report, the closing table, of many variants."""
    store = simulated_store(options.work, options.variants)
    for _ in range(options.repeats):
        looks, pieces = _looks(store)
        report.seconds.setdefault("first look", []).append(looks[0])
        report.seconds.setdefault("longest look", []).append(max(looks))
        report.seconds.setdefault("all read", []).append(sum(looks))
        began = time.perf_counter()
        best_loci(store)
        report.seconds.setdefault("ten best loci", []).append(time.perf_counter() - began)
    report.figures["looks until all is read"] = len(looks)
    report.figures["MB sent in all"] = len(json.dumps(pieces)) / 1e6
    try:
        painted = _painted(pieces, options.repeats)
    except (ImportError, OSError) as error:
        report.skipped["painting in a browser"] = str(error)
    else:
        report.seconds |= painted
    prefix = str(store.path).removesuffix(".zarr")
    process = _start([sys.executable, str(_ROOT / "scripts/report.py"), prefix], options.work)
    began = time.perf_counter()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"report.py ended with {process.returncode}")
    report.seconds["report"] = [time.perf_counter() - began]
    report.figures["report, MB"] = Path(f"{prefix}.report.html").stat().st_size / 1e6
    report.figures["report, peak RSS MB"] = usage.ru_maxrss / 1e3


def _looks(store: ResultsStore) -> tuple[list[float], dict[str, Any]]:
    """Seconds of each look of a view until all is read, and what it then shows."""
    feed, looks, sent = Feed(store.path), [], 0
    while not feed.complete:
        began = time.perf_counter()
        wait = feed.poll()
        json.dumps(feed.since(sent))
        looks.append(time.perf_counter() - began)
        sent = feed.version
        time.sleep(wait)
    return looks, feed.since(0)


def _painted(pieces: dict[str, Any], repeats: int) -> dict[str, list[float]]:
    """Seconds that a browser takes to show it at first, and after a change of everything."""
    import shutil

    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise FileNotFoundError("no chromium was found")
    static = _ROOT / "hlmm_dask/view/static"
    script = (static / "dashboard.js").read_text("utf-8")
    with sync_playwright() as driver, contextlib.closing(
        driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
    ) as browser:  # fmt: skip
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.set_content("<div id=view></div>")
        page.add_style_tag(content=(static / "dashboard.css").read_text("utf-8"))
        page.add_script_tag(content=script.replace("export default", "window.view ="))
        page.evaluate("pieces => { window.pieces = pieces; }", pieces)
        times = {"first paint in a browser": [], "update in a browser": []}
        for _ in range(repeats):
            first, update = page.evaluate(_PAINT, list(PIECES))
            times["first paint in a browser"].append(first / 1e3)
            times["update in a browser"].append(update / 1e3)
    return times


# Two frames after a change it is on the screen.
_PAINT = """async (names) => {
  const listeners = {};
  const model = { get: (n) => window.pieces[n], set() {}, save_changes() {},
    on: (event, f) => (listeners[event] ??= []).push(f) };
  const shown = () => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));
  const el = document.getElementById("view");
  el.replaceChildren();
  let began = performance.now();
  const clean = window.view.render({ model, el });
  await shown();
  const first = performance.now() - began;
  began = performance.now();
  for (const n of names) for (const f of listeners[`change:${n}`] ?? []) f();
  await shown();
  const update = performance.now() - began;
  clean();
  return [first, update];
}"""


def simulated_store(work: Path, variants: int) -> ResultsStore:
    """Write a finished store of random results on 22 chromosomes, or find it in ``work``."""
    path = work / f"results_m{variants}.zarr"
    if path.exists():
        return ResultsStore.open(path)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        store = ResultsStore.create(
            Path(folder, "s.zarr"), n_variants=variants, block_size=min(_BLOCK, variants),
            variants=_names(variants), fingerprint={"fit_covariates": False},
            attrs={
                "model": "HLM", "phenotype": "trait", "n_analysed_samples": 1000,
                "first_variant": 0,
            },
        )  # fmt: skip
        rng = np.random.default_rng(1)
        for block in store.blocks():
            values = _results(rng, block.stop - block.start)
            store.write_block(block.index, values, record={"worker": "w", "seconds": 1.0})
        store.finish({"seconds": 1.0, "variants_per_second": float(variants)})
        store.path.rename(path)
    return ResultsStore.open(path)


def _names(variants: int) -> Iterator[pd.DataFrame]:
    each = -(-variants // 22)
    for start in range(0, variants, 100_000):
        index = np.arange(start, min(start + 100_000, variants))
        yield pd.DataFrame(
            {
                "contig": (index // each + 1).astype(str).astype(object),
                "variant_id": np.char.add("rs", index.astype(str)).astype(object),
                "position": index % each * 250 + 1, "allele1": "A", "allele2": "G",
            }
        )  # fmt: skip


def _results(rng: np.random.Generator, n: int) -> np.ndarray:
    add_t, var_t = rng.standard_normal((2, n))
    # Some real ones.
    add_t[rng.random(n) < 2e-5] *= 8.0
    values = np.full((n, N_COLUMNS), np.nan)
    se = rng.uniform(0.005, 0.02, n)
    columns = {
        "n_samples": 1000.0, "minor_allele_frequency": rng.uniform(0.01, 0.5, n),
        "loglik": rng.normal(-1400.0, 1.0, n), "add": se * add_t, "add_se": se, "add_t": add_t,
        "add_neg_log10_p": neg_log10_p_normal(add_t), "var": 1.4 * se * var_t,
        "var_se": 1.4 * se, "var_t": var_t, "var_neg_log10_p": neg_log10_p_normal(var_t),
        "av_neg_log10_p": neg_log10_p_chi2_2df(add_t**2 + var_t**2),
        "effect_allele_frequency": rng.uniform(0.01, 0.99, n), "add_robust_se": 1.01 * se,
        "var_robust_se": 1.5 * se, "status": float(Status.OK),
    }  # fmt: skip
    for name, column in columns.items():
        values[:, INDEX[name]] = column
    return values
