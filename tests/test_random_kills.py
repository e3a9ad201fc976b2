"""Twenty SIGKILLs of workers, schedulers and clients over one scan, resumed until it is done."""

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from clusters import Forked, Process, Processes, processes, scan, wait_until
from runs import markers, session_members, start, wait_for_end
from studies import make_study, write_values

BLOCKS = 150


@dataclass
class Watch:
    """One scan in its several runs: what has been seen finished must stay as it was."""

    started: Processes
    arguments: list[object]
    store: Path
    seen: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    process: "subprocess.Popen[str] | Forked | None" = None

    def run(self, *cluster: object) -> None:
        """Start the scan, or go on with it, unless it is running."""
        if self.process is None or self.process.poll() is not None:
            option = ["--resume"] if self.store.exists() else []
            arguments = [*self.arguments, *option, *cluster]
            if cluster:
                self.log.unlink(missing_ok=True)
                self.process = self.started.fork(
                    scan, [*map(str, arguments)], self.started.folder, self.log.name
                )
            else:
                self.process = start(self.started.folder, *arguments)

    @property
    def log(self) -> Path:
        return self.started.folder / "scan.log"

    def end(self) -> tuple[int | None, str]:
        """Wait for the end: exit code, and what was written to the standard error."""
        if isinstance(self.process, Forked):
            self.process.wait(120)
            return self.process.poll(), self.log.read_text()
        assert self.process is not None
        _, err = self.process.communicate(timeout=120)
        return self.process.returncode, err

    def wait_for_more(self, n: int) -> None:
        """Wait for n more blocks than were seen; keep what is there then."""
        until = time.monotonic() + 90
        while len(markers(self.store)) < len(self.seen) + n:
            assert self.process is not None
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < until, (len(self.seen), n)
            time.sleep(0.005)
        self.look()

    def look(self) -> None:
        """Compare with what was seen before."""
        found = markers(self.store)
        assert {name: found.get(name) for name in self.seen} == self.seen
        self.seen = found

    def lose_cluster(self) -> None:
        code, err = self.end()
        # 2 where the scheduler died before this client had reached it: the markers that were
        # waited for may be of blocks that workers finished after an earlier client's death.
        assert code in (1, 2), err
        assert "scheduler" in err.splitlines()[-1] or "--resume" in err.splitlines()[-1], err
        assert "Traceback" not in err
        self.look()

    def kill_client(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.end()
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

    def __init__(self, started: Processes) -> None:
        self.started = started
        self.file = started.folder / "scheduler.json"
        self.scheduler: Process | None = None
        self.workers: list[Process] = []

    def complete(self) -> None:
        """Start what isn't running."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.file.unlink(missing_ok=True)
            self.scheduler, _ = self.started.scheduler("--no-dashboard")
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < 2:
            self.workers.append(self.started.worker(self.file))

    def kill_worker(self, which: int) -> None:
        self.workers[which].kill()
        self.workers[which].wait()

    def kill(self) -> None:
        for process in (self.scheduler, *self.workers):
            if process is not None:
                process.kill()
                process.wait()


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with processes(tmp_path_factory.mktemp("cluster")) as started:
        yield Cluster(started)


@pytest.fixture
def watches() -> Iterator[list[Watch]]:
    watches: list[Watch] = []
    yield watches
    for watch in watches:
        if watch.process is not None and watch.process.poll() is None:
            watch.process.kill()
            watch.end()


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
        watches.append(Watch(cluster.started, arguments, folder / "out.zarr"))
    whole, killed = watches
    cluster.complete()
    whole.run("--scheduler-file", cluster.file)
    code, err = whole.end()
    assert code == 0, err

    chance = random.Random(20)
    kills = 0
    # A cluster of its own: the scheduler is in the client.
    plan = ["client"] * 4 + ["worker"] * 5
    chance.shuffle(plan)
    for target in [*plan, "client"]:
        killed.run()
        assert killed.process is not None
        killed.wait_for_more(chance.randint(1, 4))
        if target == "client":
            killed.kill_client()
        else:
            # One that has just been killed may not be replaced yet.
            wait_until(lambda: workers_of(killed.process.pid))
            os.kill(chance.choice(workers_of(killed.process.pid)), 9)
        kills += 1

    # Processes that are started one by one.
    plan = ["scheduler"] * 3 + ["worker"] * 4 + ["client"] * 3
    chance.shuffle(plan)
    for target in plan:
        cluster.complete()
        killed.run("--scheduler-file", cluster.file, "--connect-timeout", 30)
        assert killed.process is not None
        killed.wait_for_more(chance.randint(1, 4))
        if target == "client":
            killed.kill_client()
        elif target == "worker":
            cluster.kill_worker(chance.randrange(2))
        else:
            assert cluster.scheduler is not None
            cluster.scheduler.kill()
            # The client notices and ends; so do the workers.
            killed.lose_cluster()
            cluster.kill()
        kills += 1

    assert kills == 20
    assert len(killed.seen) < BLOCKS
    cluster.complete()
    killed.run("--scheduler-file", cluster.file)
    code, err = killed.end()
    assert code == 0, err
    killed.look()
    assert len(killed.seen) == BLOCKS
    tables = [(folder / "out.models.gz").read_bytes() for folder in folders]
    assert tables[0] == tables[1]
    assert listing(folders[0]) == listing(folders[1])
