import threading
import time
from pathlib import Path

import pytest
import xarray as xr
from distributed import Client
from studies import Study

import hlmm_dask
from hlmm_dask import ScanCancelled, StoreError, fit_null
from hlmm_dask.scanning.events import BlockDone, BlockFailed, Event, ScanStarted
from hlmm_dask.scanning.failures import FailureLog, read_failures
from hlmm_dask.scanning.run import RUNS_KEY
from hlmm_dask.store import ResultsStore


@pytest.fixture
def null(study: Study) -> hlmm_dask.NullModel:
    return fit_null(study.bed, study.pheno)


@pytest.mark.parametrize("kept", [True, False])
def test_results_are_those_of_a_scan_one_waits_for(study, null, client: Client, kept: bool) -> None:
    out = study.out("out.zarr") if kept else None
    run = hlmm_dask.scan(study.bed, null, client=client, out=out, block_size=7, background=True)
    results = run.result(60)
    assert (run.status, run.done(), run.exception()) == ("finished", True, None)
    assert not kept or run.store == out
    expected = hlmm_dask.scan(study.bed, null, client=client, block_size=7)
    xr.testing.assert_equal(results.load(), expected)


def test_the_caller_goes_on_meanwhile(study, null, client: Client) -> None:
    """The scan stands still until its caller has looked at it."""
    go = threading.Event()

    def wait(event: Event) -> None:
        assert go.wait(60)

    run = hlmm_dask.scan(study.bed, null, client=client, observers=[wait], background=True)
    assert (run.status, run.done()) == ("running", False)
    with pytest.raises(TimeoutError):
        run.result(0.01)
    go.set()
    assert run.result(60).sizes["variants"] == len(study.counts)


def test_cancelled_and_resumed(study, null, client: Client) -> None:
    out = study.out("out.zarr")
    first, seen = threading.Event(), threading.Event()

    def stop(event: Event) -> None:
        if isinstance(event, BlockDone):
            first.set()
            assert seen.wait(60)

    run = hlmm_dask.scan(
        study.bed, null, client=client, out=out, block_size=2, observers=[stop], background=True
    )
    assert first.wait(60)
    run.cancel()
    assert run.status == "cancelling"
    seen.set()
    with pytest.raises(ScanCancelled, match=r"out\.zarr: cancelled.*--resume"):
        run.result(60)
    assert (run.status, run.client) == ("cancelled", None)
    store = ResultsStore.open(out)
    assert store.done()
    assert not store.is_finished
    resumed = hlmm_dask.scan(
        study.bed, null, client=client, out=out, resume=True, background=True
    ).result(60)
    expected = hlmm_dask.scan(study.bed, null, client=client, block_size=2)
    xr.testing.assert_equal(resumed.load(), expected)


def test_errors_come_with_the_result(study, null, client: Client) -> None:
    out = study.out("out.zarr")
    hlmm_dask.scan(study.bed, null, client=client, out=out)
    run = hlmm_dask.scan(study.bed, null, client=client, out=out, background=True)
    with pytest.raises(StoreError, match="exists"):
        run.result(60)
    assert run.status == "failed"
    assert isinstance(run.exception(), StoreError)


def test_the_scheduler_knows_the_store(study, null, client: Client) -> None:
    out = study.out("out.zarr")
    before = time.time()
    hlmm_dask.scan(study.bed, null, client=client, out=out)
    assert client.get_metadata([RUNS_KEY, str(out)]) >= before


def test_failures_stay_until_the_next_run(tmp_path: Path) -> None:
    log = FailureLog([tmp_path])
    assert read_failures(tmp_path) == []
    failures = [BlockFailed(3, "KilledWorker: no memory", 100), BlockFailed(1, "OSError: ü", 20)]
    for failure in failures:
        log(failure)
    with (tmp_path / "failures.jsonl").open("a") as file:
        file.write('{"block": 9, "err')  # half written
    assert read_failures(tmp_path) == failures
    log(ScanStarted(100, 10))
    assert read_failures(tmp_path) == []
