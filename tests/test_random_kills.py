"""Twenty SIGKILLs of workers, schedulers and clients over one scan, resumed until it is done."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from clusters import address_in, wait_until
from runs import markers, session_members, start, wait_for_end
from studies import make_study, write_values

BLOCKS = 150


@dataclass
class Watch:
    """One scan in its several runs: what has been seen finished must stay as it was."""

    folder: Path
    arguments: list[object]
    store: Path
    seen: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def run(self, *cluster: object) -> None:
        """Start the scan, or go on with it, unless it is running."""
        if self.process is None or self.process.poll() is not None:
            option = ["--resume"] if self.store.exists() else []
            self.process = start(
                self.folder, *self.arguments, *option, *cluster, own_cluster=not cluster
            )

    def wait_for_more(self, n: int) -> None:
        """Wait for n more blocks than were seen; keep what is there then."""
        until = time.monotonic() + 90
        while len(markers(self.store)) < len(self.seen) + n:
            assert self.process is not None
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until, (len(self.seen), n)
            time.sleep(0.005)
        self.look()

    def look(self) -> None:
        """Compare with what was seen before."""
        found = markers(self.store)
        assert {name: found.get(name) for name in self.seen} == self.seen
        self.seen = found

    def lose_cluster(self) -> None:
        assert self.process is not None
        _, err = self.process.communicate(timeout=90)
        # 2 where the scheduler died before this client had reached it: the markers that were
        # waited for may be of blocks that workers finished after an earlier client's death.
        assert self.process.returncode in (1, 2), err
        assert "scheduler" in err.splitlines()[-1] or "--resume" in err.splitlines()[-1], err
        assert "Traceback" not in err
        self.look()

    def kill_client(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()
        wait_for_end(self.process.pid)
        self.look()


def workers_of(session: int) -> list[int]:
    """Worker processes of a scan with its own cluster: grandchildren, of its fork server."""
    parents = {}
    for pid in session_members(session):
        # Processes come and go meanwhile.
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            parents[pid] = int(status.partition("PPid:")[2].split()[0])
    return [pid for pid, parent in parents.items() if parents.get(parent) == session]


class Cluster:
    """A scheduler and two workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def complete(self) -> None:
        """Start what isn't running."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.file.unlink(missing_ok=True)
            self.scheduler = self._start(
                "scheduler", "--scheduler-file", self.file, "--host", "127.0.0.1", "--port", "0",
                "--no-dashboard",
            )  # fmt: skip
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < 2:
            self.workers.append(
                self._start(
                    "worker",
                    "--scheduler-file",
                    self.file,
                    "--host",
                    "127.0.0.1",
                    "--no-nanny",
                    "--nthreads",
                    "1",
                    "--no-dashboard",
                    "--local-directory",
                    self.folder,
                )
            )
        until = time.monotonic() + 60
        # The file is there before its content.
        while not (self.file.exists() and address_in(self.file)):
            assert time.monotonic() < until
            time.sleep(0.02)

    def kill_worker(self, which: int) -> None:
        self.workers[which].kill()
        self.workers[which].wait()

    def kill(self) -> None:
        for process in (self.scheduler, *self.workers):
            if process is not None:
                process.kill()
                process.wait()

    def _start(self, role: str, *arguments: object) -> subprocess.Popen[bytes]:
        module = f"distributed.cli.dask_{role}"
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.kill()


@pytest.fixture
def watches() -> Iterator[list[Watch]]:
    watches: list[Watch] = []
    yield watches
    for watch in watches:
        if watch.process is not None and watch.process.poll() is None:
            watch.process.kill()
            watch.process.communicate()


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path, cluster: Cluster, watches: list[Watch]) -> None:
    study = make_study(tmp_path, n=1000, m=2 * BLOCKS)
    rng = np.random.default_rng(4)
    table = write_values(tmp_path / "random.txt", study.samples, rng.normal(size=(1000, 250)))
    options: list[object] = ["--random_gts", table, "--random_gts_txt", "--min_maf", "0.01"]
    options += ["--method", "exact", "--block-size", 2]
    folders = [tmp_path / "undisturbed", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
        arguments = [study.bed, study.pheno, folder / "out", *options]
        watches.append(Watch(tmp_path, arguments, folder / "out.zarr"))
    whole, scan = watches
    whole.run()
    assert whole.process is not None
    _, err = whole.process.communicate(timeout=120)
    assert whole.process.returncode == 0, err

    chance = random.Random(20)
    kills = 0
    # A cluster of its own: the scheduler is in the client.
    plan = ["client"] * 4 + ["worker"] * 5
    chance.shuffle(plan)
    for target in [*plan, "client"]:
        scan.run()
        assert scan.process is not None
        scan.wait_for_more(chance.randint(1, 4))
        if target == "client":
            scan.kill_client()
        else:
            # One that has just been killed may not be replaced yet.
            wait_until(lambda: workers_of(scan.process.pid))
            os.kill(chance.choice(workers_of(scan.process.pid)), 9)
        kills += 1

    # Processes that are started one by one.
    plan = ["scheduler"] * 3 + ["worker"] * 4 + ["client"] * 3
    chance.shuffle(plan)
    for target in plan:
        cluster.complete()
        scan.run("--scheduler-file", cluster.file, "--connect-timeout", 30)
        assert scan.process is not None
        scan.wait_for_more(chance.randint(1, 4))
        if target == "client":
            scan.kill_client()
        elif target == "worker":
            cluster.kill_worker(chance.randrange(2))
        else:
            assert cluster.scheduler is not None
            cluster.scheduler.kill()
            # The client notices and ends; so do the workers.
            scan.lose_cluster()
            cluster.kill()
        kills += 1

    assert kills == 20
    assert len(scan.seen) < BLOCKS
    cluster.complete()
    scan.run("--scheduler-file", cluster.file)
    assert scan.process is not None
    _, err = scan.process.communicate(timeout=120)
    assert scan.process.returncode == 0, err
    scan.look()
    assert len(scan.seen) == BLOCKS
    tables = [(folder / "out.models.gz").read_bytes() for folder in folders]
    assert tables[0] == tables[1]
    assert listing(folders[0]) == listing(folders[1])
