"""Another user of this machine gets nothing from a scan's own cluster."""

import multiprocessing
import os
import resource
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
import pytest
from clusters import environment, fork_server, intruder, visitor
from distributed import Client

from hlmm_dask import InputError
from hlmm_dask.scanning.cluster import ClusterOptions, connect
from hlmm_dask.scanning.machine import private_folder, user_at

OTHER = 65534  # nobody


def intrude(client: Client) -> list[list[str]]:
    """Return what another user got: role, way, protocol, and what was answered."""
    info = client.scheduler_info(n_workers=-1)
    addresses = [("scheduler", client.scheduler.address)]
    for address, worker in info["workers"].items():
        addresses += [("worker", address), ("nanny", worker["nanny"])]
    return list(as_another(intruder, addresses))


def as_another(target: Callable[..., None], *arguments: object) -> Any:
    """Run a function of `clusters` as another user; return what it found."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    fork_server()
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    with here, there:
        process = context.Process(target=target, args=(OTHER, *arguments, there))
        process.start()
        try:
            assert here.poll(120)
            uid, found = here.recv()
        finally:
            process.kill()
            process.join()
    assert uid == OTHER
    return found


def ran(found: Sequence[Sequence[str]]) -> set[str]:
    """Return the roles in which a command of the other user ran."""
    return {role for role, _, _, answer in found if str(os.getuid()) in answer}


def test_another_user_can_not_run_commands(client: Client) -> None:
    # Without TLS the same user gets in everywhere: the attempts are made in the right way.
    assert ran(intrude(client)) == {"scheduler", "worker", "nanny"}
    with connect(ClusterOptions(workers=1)) as own:
        found = intrude(own)
    assert len(found) == 8
    assert ran(found) == set()


def test_another_user_does_not_see_results() -> None:
    """Dask's own pages show no values; ours does, to the user who scans."""
    with connect(ClusterOptions(workers=1)) as own:
        base = own.dashboard_link.removesuffix("status")
        for path in ("hlmm", "hlmm/runs", "hlmm/data?run=x"):
            assert as_another(visitor, f"{base}{path}") == 403
        assert as_another(visitor, f"{base}health") == 200
        with urllib.request.urlopen(f"{base}hlmm/runs", timeout=30) as answer:
            assert answer.status == 200
    assert user_at("127.0.0.1", 1) is None


def test_the_folder_of_workers_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spilled data are unpickled: nobody else may put something else in their place."""
    with dask.config.set({"temporary-directory": str(tmp_path / "new")}):
        folder = Path(private_folder())
        assert folder.stat().st_mode & 0o077 == 0
        with connect(ClusterOptions(workers=1)) as own:
            (worker,) = own.scheduler_info(n_workers=-1)["workers"].values()
            assert Path(worker["local_directory"]).is_relative_to(folder)
        folder.chmod(0o777)
        with pytest.raises(InputError, match=r"closed to others .* set Dask's temporary-directory"):
            private_folder()
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match="closed to others"):
            private_folder()
        folder.unlink()
        folder.write_text("")
        with pytest.raises(InputError, match=r"can't be made .*File exists"):
            private_folder()
    monkeypatch.setattr(os, "getuid", lambda: OTHER)
    with (
        dask.config.set({"temporary-directory": str(tmp_path)}),
        pytest.raises(InputError, match="that is yours"),
    ):
        private_folder()


def test_too_few_files_or_too_long_a_path_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (40, 40))
    with pytest.raises(InputError, match=r"may open 40 files; --workers 2 requires \d+\. Raise"):
        ClusterOptions(workers=2).check()
    ClusterOptions(scheduler="tcp://127.0.0.1:1").check()
    long = tmp_path / ("x" * 105)
    long.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SOCKETS], capture_output=True, text=True, check=False, timeout=60,
        env=environment({"TMPDIR": str(long)}),
    )  # fmt: skip
    assert "x: can't hold the sockets of worker processes (AF_UNIX path too long); set TMPDIR" in (
        done.stdout
    )


SOCKETS = """
from hlmm_dask import InputError
from hlmm_dask.scanning.cluster import ClusterOptions
try:
    ClusterOptions(workers=1).check()
except InputError as error:
    print(error)
"""
