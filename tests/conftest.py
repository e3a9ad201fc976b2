"""Fixtures that several test modules use."""

import importlib.metadata
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import dask
import pytest
from clusters import FORKED, HOUSEKEEPING, fork_server
from distributed import Client, LocalCluster
from studies import Study, make_study

# Small problems: BLAS threads would only wait for each other. Set before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.update(HOUSEKEEPING)
dask.config.refresh()
# Every scan asks for the versions of thirty packages, and parses their metadata each time.
importlib.metadata.version = cache(importlib.metadata.version)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of reference data, which lies outside the repository."""
    named = os.environ.get("HLMM_DASK_REFERENCE")
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "reference"
    folder = Path(named) if named else beside
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set HLMM_DASK_REFERENCE)")
    return folder


SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


def local_cluster(n_workers: int, *, memory_limit: int | str = 0, **options: int) -> LocalCluster:
    """Start worker processes as the command does: by forking one that has all imports done."""
    fork_server()
    with dask.config.set(FORKED):
        return LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=memory_limit,
            **options,
        )


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Give a client of two worker processes, shared by all tests."""
    with local_cluster(2) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def run_script(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., int]:
    """Give a function that runs scripts/NAME.py in this process and returns its exit code.

    ``scan`` uses the shared cluster unless told otherwise.
    """

    def run(name: str, *arguments: object, own_cluster: bool = False) -> int:
        argv = [str(SCRIPTS / f"{name}.py"), *map(str, arguments)]
        if name == "scan" and not own_cluster:
            client: Client = request.getfixturevalue("client")
            argv += ["--scheduler", client.scheduler.address]
        monkeypatch.setattr(sys, "argv", argv)
        with dask.config.set(FORKED if own_cluster else {}), pytest.raises(SystemExit) as end:
            runpy.run_path(argv[0], run_name="__main__")
        return int(end.value.code or 0)

    return run


@pytest.fixture
def run_chr(run_script: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run hlmm_chr.py, which takes no --scheduler, on the shared cluster."""

    def run(*arguments: object, client: Client) -> int:
        @contextmanager
        def shared(options: object) -> Iterator[Client]:
            yield client

        monkeypatch.setattr("hlmm_dask.scanning.connection.connect", shared)
        return run_script("hlmm_chr", *arguments)

    return run


@pytest.fixture
def cluster_of() -> Iterator[Callable[..., Client]]:
    """Give a function that starts a cluster of so many worker processes for one test."""
    with ExitStack() as stack:

        def start(n_workers: int, *, memory_limit: int | str = 0) -> Client:
            cluster = stack.enter_context(
                local_cluster(n_workers, memory_limit=memory_limit, silence_logs=50)
            )
            return stack.enter_context(Client(cluster, set_as_default=False))

        yield start
