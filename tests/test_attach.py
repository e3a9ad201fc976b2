"""Views of runs that they did not start: other processes, other clusters."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from scans import columns_of, make_store, names_of

import hlmm_dask
from hlmm_dask.cli import report_main
from hlmm_dask.errors import ScanError
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.models.inference import genomic_control_lambda
from hlmm_dask.scanning.cluster import ClusterOptions, connect
from hlmm_dask.scanning.events import BlockDone, Event, ScanStarted
from hlmm_dask.scanning.run import RUNS_KEY
from hlmm_dask.store import ResultsStore

pytest.importorskip("anywidget")

VIEWER = """
import json, sys, time
import hlmm_dask
dashboard = hlmm_dask.dashboard(sys.argv[1], every=0.05)
while True:
    print(json.dumps({"progress": dashboard.progress, "qq": dashboard.qq}), flush=True)
    time.sleep(0.05)
"""
N = 600


class Viewer:
    """A process that shows a dashboard and prints what is on it."""

    def __init__(self, store: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", VIEWER, str(store)], stdout=subprocess.PIPE, text=True
        )

    def wait_for(self, n_blocks: int, state: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            shown: dict[str, Any] = json.loads(line)
            progress = shown["progress"]
            assert progress.get("n_done_blocks", 0) <= n_blocks
            if (progress.get("n_seen_blocks"), progress["state"]) == (n_blocks, state):
                return shown
        raise AssertionError(f"the viewer ended with {self.process.wait()}")

    def kill(self) -> None:
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGKILL)  # not sent to one that has ended
        self.process.wait()
        self.process.stdout.close()


def numbers(columns: dict[str, np.ndarray], stop: int) -> float:
    return genomic_control_lambda(columns["add_neg_log10_p"][:stop])


@pytest.mark.slow
def test_a_viewer_is_killed_and_another_attaches(tmp_path) -> None:
    rng = np.random.default_rng(2)
    add_t, var_t = rng.standard_normal((2, N))
    columns = columns_of(add_t, var_t, rng.uniform(0.05, 0.5, N))
    store = make_store(tmp_path / "s.zarr", columns, names_of(N), leave_out=range(3, 6))
    source = make_store(tmp_path / "whole.zarr", columns, names_of(N))
    viewers = []

    def write(block: int) -> None:
        values = source.read(source.block(block).start, source.block(block).stop)
        store.write_block(block, values, record={"worker": "w", "seconds": 0.1})

    try:
        with store.lock("this test"):
            viewers.append(Viewer(store.path))
            shown = viewers[0].wait_for(3, "running")
            assert shown["progress"]["owner"].startswith(f"process {os.getpid()} on ")
            assert shown["qq"]["mean"]["lambda"] == pytest.approx(numbers(columns, 300), rel=1e-4)
            write(3)
            shown = viewers[0].wait_for(4, "running")
            assert shown["qq"]["mean"]["lambda"] == pytest.approx(numbers(columns, 400), rel=1e-4)
            viewers[0].kill()
            write(4)
            viewers.append(Viewer(store.path))
            shown = viewers[1].wait_for(5, "running")
            assert shown["progress"]["n_done_variants"] == 500
            assert shown["qq"]["mean"]["lambda"] == pytest.approx(numbers(columns, 500), rel=1e-4)
            write(5)
            store.finish({"seconds": 1.0})
        shown = viewers[1].wait_for(6, "finished")
        assert shown["progress"]["n_fitted"] == N
        assert shown["qq"]["mean"]["lambda"] == pytest.approx(numbers(columns, N), rel=1e-4)
    finally:
        for viewer in viewers:
            viewer.kill()


def test_dashboard_of_a_run_of_this_process(study, client: Client) -> None:
    """Numbers follow the run; how it ended is told though the store does not know."""
    null = hlmm_dask.fit_null(study.bed, study.pheno)
    seen: list[tuple[int, int]] = []

    def look(event: Event) -> None:
        if isinstance(event, BlockDone) and not seen:
            dashboard = hlmm_dask.dashboard(run, every=0.01)
            seen.append((dashboard.progress["n_done_blocks"], len(dashboard.workers)))
            dashboard.close()
            run.cancel()

    run = hlmm_dask.scan(
        study.bed, null, client=client, block_size=2, observers=[look], background=True
    )
    assert isinstance(run.exception(60), hlmm_dask.ScanCancelled)
    assert seen
    assert 1 <= seen[0][0] <= 30
    assert seen[0][1] == 2  # workers of the cluster, also one that has done nothing yet
    dashboard = hlmm_dask.dashboard(run)
    assert dashboard.progress["ended"] == "cancelled"
    assert "cancelled" in dashboard.progress["error"]
    assert dashboard.progress["state"] == "stopped"
    dashboard.close()
    assert not ResultsStore.open(run.store).is_finished


def test_a_block_that_fails_is_shown_with_its_reason(study, client: Client) -> None:
    """Where its chunk belongs lies a folder: the views say so, in whichever process."""
    null = hlmm_dask.fit_null(study.bed, study.pheno)
    out = study.out("out.zarr")

    def obstruct(event: Event) -> None:
        if isinstance(event, ScanStarted):
            (out / "results" / "c.2.0" / "in the way").mkdir(parents=True)

    run = hlmm_dask.scan(
        study.bed, null, client=client, out=out, block_size=10, observers=[obstruct],
        background=True,
    )  # fmt: skip
    assert isinstance(run.exception(60), ScanError)
    for source, state in ((run, "failed"), (out, "stopped")):
        dashboard = hlmm_dask.dashboard(source)
        (failure,) = dashboard.failures
        assert failure["block"] == 2
        assert re.match(r"IsADirectoryError: .*c\.2\.0", failure["error"])
        progress = dashboard.progress
        assert (progress["n_failed"], progress["n_done_blocks"]) == (1, 5)
        assert progress.get("ended", progress["state"]) == state
        dashboard.close()
    assert report_main([str(out)]) == 0
    page = study.out("out.report.html").read_text("utf-8")
    assert "1 of 6 blocks have no results" in page
    assert "Block 2 failed: IsADirectoryError" in page


def test_what_ended_a_run_is_told_by_its_store(study, client: Client) -> None:
    """Genotypes that are cut off while they are read end the run, for every viewer to read."""
    null = hlmm_dask.fit_null(study.bed, study.pheno)
    genotypes, out = open_plink(study.bed), study.out("out.zarr")

    def shorten(event: Event) -> None:
        if isinstance(event, ScanStarted):
            os.truncate(study.bed, study.bed.stat().st_size - 1)

    with pytest.raises(ScanError):
        hlmm_dask.scan(genotypes, null, client=client, out=out, block_size=10, observers=[shorten])
    dashboard = hlmm_dask.dashboard(out)
    assert dashboard.progress["state"] == "stopped"
    assert f"{study.bed}: changed while it was scanned" in dashboard.progress["error"]
    dashboard.close()


# The page of a scheduler that no scan has started


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory) -> Iterator[Client]:
    file = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0"),
            *("--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)),
            *("--preload", "hlmm_dask.view.preload"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            if file.exists():
                break
            time.sleep(0.1)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def fetch(client: Client, path: str) -> str:
    address = client.dashboard_link.replace("status", path)
    with urllib.request.urlopen(address, timeout=30) as answer:
        return str(answer.read().decode())


def test_a_cluster_of_a_scan_has_the_page_among_those_of_dask() -> None:
    with connect(ClusterOptions(workers=1)) as client:
        assert json.loads(fetch(client, "hlmm/runs")) == {"runs": []}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(client, "nothing")
        for path in ("status", "hlmm", ""):
            assert '<a href="workers">' in fetch(client, path)
            assert '<a href="hlmm">' in fetch(client, path)


def test_a_scheduler_with_the_preload_has_the_page(scheduler, tmp_path) -> None:
    assert '<a href="hlmm">' in fetch(scheduler, "hlmm")
    assert "hlmm" in fetch(scheduler, "status")
    assert json.loads(fetch(scheduler, "hlmm/runs")) == {"runs": []}
    rng = np.random.default_rng(2)
    columns = columns_of(*rng.standard_normal((2, N)), rng.uniform(0.05, 0.5, N))
    stores = [make_store(tmp_path / f"{i}.zarr", columns, names_of(N)) for i in range(2)]
    for i, store in enumerate(stores):
        scheduler.set_metadata([RUNS_KEY, str(store.path)], float(i))
    runs = json.loads(fetch(scheduler, "hlmm/runs"))["runs"]
    assert runs == [str(stores[1].path), str(stores[0].path)]
    for _ in range(20):
        answer = json.loads(fetch(scheduler, f"hlmm/data?run={runs[0]}&since=0"))
        if answer["pieces"]["progress"]["n_seen_blocks"] == 6:
            break
        time.sleep(answer["wait"])
    assert answer["pieces"]["qq"]["mean"]["lambda"] == pytest.approx(numbers(columns, N), rel=1e-4)
    again = json.loads(fetch(scheduler, f"hlmm/data?run={runs[0]}&since={answer['version']}"))
    assert again["pieces"] == {}


@pytest.mark.parametrize(
    "path", ["hlmm/data?run=/etc/passwd", "hlmm/data?run=", "hlmm/static/../feed.py"]
)
def test_nothing_else_can_be_asked_for(scheduler, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(scheduler, path)
    assert refused.value.code in (403, 404)
    refused.value.close()
