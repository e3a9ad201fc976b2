"""Blocks that fail on some workers, or on all: tried elsewhere, then listed."""

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from clusters import Processes, address_in, end, processes, wait_until
from distributed import Client
from studies import Study

from hlmm_dask.scanning.failures import read_failures
from hlmm_dask.scanning.records import Records

Run = Callable[..., int]

# No file of this worker may have more than 1,024 bytes; the probe's are empty.
LIMITED = ("bash", "-c", 'ulimit -f 1; exec "$@" > /dev/null 2>&1', "limited")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Processes]:
    with processes(tmp_path) as found:
        yield found


def workers(client: Client, n: int) -> set[str]:
    client.wait_for_workers(n, timeout=60)
    return set(client.nthreads())


def test_another_worker_takes_what_one_can_not_do(
    study: Study, started: Processes, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files: each block fails on two workers of two, then on one."""
    _, file = started.scheduler()
    limited = [started.worker(file, within=LIMITED), started.worker(file, within=LIMITED)]
    options = ["scan", study.bed, study.pheno, study.out("out"), "--scheduler-file", file]
    options += ["--block-size", 10, "--range", 10, 60]
    with Client(address_in(file), set_as_default=False) as client:
        both = workers(client, 2)
        assert run_script(*options, own_cluster=True) == 1
        err = capsys.readouterr().err
        assert "5 of 5 blocks failed (block" in err
        assert "Traceback" not in err
        found = read_failures(study.out("out.zarr") / ".run")
        assert {failure.block for failure in found} == set(range(5))
        for failure in found:
            assert len(failure.workers) == 3
            # Elsewhere as long as there is such a place.
            assert set(failure.workers[:2]) == both
            chunk = study.out("out.zarr") / f"results/c.{failure.block}.0"
            assert failure.error == f"OSError: [Errno 27] File too large: '{chunk}'"
        lines = study.out("out.log").read_text()
        assert f"tried on {', '.join(found[0].workers)}): {found[0].error}" in lines
        # Another one takes over what fails on the one that is left.
        end(limited[0])
        wait_until(lambda: len(client.nthreads()) == 1)
        started.worker(file)
        (good,) = workers(client, 2) - both
        assert run_script(*options, "--resume", own_cluster=True) == 0
    markers = [json.loads(p.read_text()) for p in study.out("out.zarr").glob(".run/blocks/*")]
    assert [marker["worker"] for marker in markers] == [good] * 5
    *_, run = json.loads(study.out("out.run.json").read_text())["runs"]
    assert run["failed_blocks"] == []
    assert 1 <= run["blocks"]["n_retried"] <= 5
    assert not list(study.out("out.zarr").rglob("*.partial"))


def test_a_record_that_has_come_counts_when_its_worker_has_died_since() -> None:
    records = Records()
    records._take((0.0, (3, pickle.dumps({"n_variants": 3}))))
    # Of a future whose result is lost nothing else can be asked.
    assert records.pop(3, SimpleNamespace(status="lost")) == {"n_variants": 3}
