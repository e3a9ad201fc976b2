"""Running clusters: what is refused before a scan, and what happens when their processes die."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
from clusters import ROOT, Process, Processes, address_in, environment, processes, wait_until
from distributed import Client
from distributed.comm import CommClosedError
from studies import Study, make_study, write_values
from test_resume import markers

import hlmm_dask
from hlmm_dask import InputError, ScanError, fit_null, read_models_table
from hlmm_dask.scanning.cluster import ClusterOptions, connect
from hlmm_dask.scanning.events import BlockDone, BlockFailed, Event, Note, ScanStarted
from hlmm_dask.scanning.probe import probe_workers
from hlmm_dask.scanning.security import check_address, is_loopback
from hlmm_dask.scanning.watch import Silence

Run = Callable[..., int]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Processes]:
    with processes(tmp_path) as found:
        yield found


@pytest.fixture
def slow_study(tmp_path: Path) -> Study:
    """A study with random effects, so that its blocks take a while."""
    study = make_study(tmp_path, n=800, m=160)
    values = np.random.default_rng(4).normal(size=(800, 90))
    write_values(tmp_path / "random.txt", study.samples, values)
    return study


def arguments(study: Study, out: str) -> list[object]:
    return [study.bed, study.pheno, study.out(out), "--random_gts", study.folder / "random.txt",
            "--random_gts_txt", "--block-size", 4, "--min_maf", "0.01"]  # fmt: skip


# What is refused


def test_a_scheduler_that_dies_while_workers_are_waited_for(
    started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file = started.scheduler()

    def dies(client: Client, n_workers: int, timeout: float) -> None:
        # Dask's word for it; a scheduler that is killed here may be looked for a minute long.
        raise CommClosedError("ConnectionResetError: [Errno 104] Connection reset by peer")

    monkeypatch.setattr(Client, "wait_for_workers", dies)
    with (
        pytest.raises(InputError, match=r"the scheduler went away .* start it again"),
        connect(ClusterOptions(scheduler_file=str(file))),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("tcp://127.0.0.1:8786", True), ("tcp://127.9.8.7:8786", True), ("tcp://[::1]:8786", True),
        ("tcp://localhost:8786", True), ("inproc://10.0.0.1/5/1", True), ("127.0.0.1:8786", True),
        ("tcp://10.0.0.1:8786", False), ("tcp://[fe80::1]:8786", False),
        ("tcp://localhost.example.org:8786", False), ("node7:8786", False),
        ("tcp://127.0.0.1.example.org:8786", False), ("tcp://0.0.0.0:8786", False),
    ],
)  # fmt: skip
def test_loopback(address: str, local: bool) -> None:
    assert is_loopback(address) == local
    check_address(address, insecure=True)
    if local:
        check_address(address, insecure=False)
    else:
        with pytest.raises(InputError, match="--insecure"):
            check_address(address, insecure=False)


@pytest.mark.parametrize(
    ("scheduler", "text"),
    [
        (["--scheduler", "tcp://192.0.2.1:8786"], "unencrypted scheduler"),
        (["--scheduler-file", '{"address": "tcp://192.0.2.1:8786"}'], "unencrypted scheduler"),
        (["--scheduler-file", "{}"], "no address in it"),
        (["--scheduler", "tls://192.0.2.1:8786"], "needs --tls-ca, --tls-cert and --tls-key"),
        (["--scheduler", "tcp://127.0.0.1:1", "--connect-timeout", "0.1"], "no Dask scheduler"),
        (["--scheduler", "tcp://127.0.0.1:1", "--tls-ca", "x"], "need a tls:// address"),
        (["--scheduler", "tls://127.0.0.1:1", "--tls-ca", "x", "--tls-cert", "y"], "x: no such"),
        (["--scheduler", "tcp://127.0.0.1"], "tcp://127.0.0.1"),
        (["--no-workers-timeout", "0"], "--no-workers-timeout 0: expected"),
        (["--scheduler", "inproc://10.0.0.1/5/1"], "no such scheduler in this process"),
        (["--scheduler", "inproc://nonsense"], "no such scheduler in this process"),
        (["--scheduler", "unix:///run/socket"], "expected such as tls://"),
        (["--scheduler", "ws://127.0.0.1:1", "--connect-timeout", "0.3"], "no Dask scheduler"),
        (["--workers", "64", "--queue", "short"], "--queue requires --jobqueue"),
        (["--jobqueue-option", "interface=ib0"], "--jobqueue-option requires --jobqueue"),
        (["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], "--workers and --scheduler"),
        (["--scheduler", "tcp://127.0.0.1:1", "--memory-limit", "4GiB"], "limit and --scheduler"),
    ],
)  # fmt: skip
def test_refused_at_once(
    study: Study, run_script: Run, capsys: pytest.CaptureFixture[str], scheduler: list[str],
    text: str,
) -> None:  # fmt: skip
    if scheduler[0] == "--scheduler-file":
        file = study.folder / "scheduler.json"
        file.write_text(scheduler[1])
        scheduler = ["--scheduler-file", str(file)]
    options = [study.bed, study.pheno, study.out("out"), *scheduler]
    assert run_script("scan", *options, own_cluster=True) == 2
    err = capsys.readouterr().err.strip()
    assert text in err
    assert "distributed." not in err
    assert len(err.splitlines()[-1:]) == 1
    assert not list(study.folder.glob("out*"))


def test_own_cluster_listens_on_loopback_alone() -> None:
    me = psutil.Process()

    def listening() -> set[tuple[str, int]]:
        family = [me, *me.children(recursive=True)]
        found = [c for p in family for c in p.net_connections("inet") if c.status == "LISTEN"]
        return {(c.laddr.ip, c.laddr.port) for c in found}

    before = listening()
    with connect(ClusterOptions(workers=1)) as client:
        own = listening() - before
        assert client.dashboard_link.startswith("http://127.0.0.1:")
    assert len(own) >= 2
    assert {ip for ip, _ in own} == {"127.0.0.1"}


def claim_version(folder: Path, package: str) -> None:
    """Install the metadata of another version, first in the path of whoever has this folder."""
    metadata = folder / f"{package}-0.0.1.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Name: {package}\nVersion: 0.0.1\n")


def test_files_that_are_no_modules_make_no_other_source(
    study: Study, started: Processes, run_script: Run
) -> None:
    _, file = started.scheduler()
    other = study.folder / "other"
    shutil.copytree(ROOT / "hlmm_dask", other / "hlmm_dask")
    checkpoints = other / "hlmm_dask" / ".ipynb_checkpoints"
    checkpoints.mkdir()
    (checkpoints / "errors-checkpoint.py").write_text("")
    # As Emacs locks a file.
    (other / "hlmm_dask" / ".#errors.py").symlink_to("me@host.1")
    started.worker(file, env={"PYTHONPATH": str(other)})
    scan = ["scan", study.bed, study.pheno, study.out("out"), "--scheduler-file", file]
    assert run_script(*scan, own_cluster=True) == 0


def test_workers_that_cannot_serve_are_named(
    study: Study, started: Processes, run_script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another version of a package, another source of this one, an old protocol: all for real."""
    _, file = started.scheduler()
    fake = study.folder / "fake"
    claim_version(fake, "numba")
    other = study.folder / "other"
    shutil.copytree(ROOT / "hlmm_dask", other / "hlmm_dask")
    with (other / "hlmm_dask" / "errors.py").open("a") as source:
        source.write("# changed\n")
    old = started.worker(file, env={"PYTHONPATH": f"{fake}{os.pathsep}{ROOT}"})
    changed = started.worker(file, env={"PYTHONPATH": str(other)})
    with Client(address_in(file), set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    scan = ["scan", study.bed, study.pheno, study.out("out"), "--scheduler-file", file]
    assert run_script(*scan, own_cluster=True) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "worker tcp://127.0.0.1:" in last
    assert "has numba 0.0.1, the client" in last
    assert "has another source of hlmm_dask" in last
    for process in (old, changed):
        process.kill()
        process.wait()
    claim_version(fake, "msgpack")
    started.worker(file, env={"PYTHONPATH": f"{fake}{os.pathsep}{ROOT}"})
    assert run_script(*scan, own_cluster=True) == 2
    assert "has msgpack 0.0.1, this process" in capsys.readouterr().err
    assert not list(study.folder.glob("out*"))
    assert not list(study.folder.glob(".hlmm*"))


def test_workers_that_do_not_answer(study: Study, started: Processes) -> None:
    _, file = started.scheduler()
    hanging, _ = started.worker(file), started.worker(file)
    with Client(address_in(file), set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        pids = client.run(os.getpid)
        name = next(name for name, pid in pids.items() if pid == hanging.pid)
        hanging.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(InputError, match=rf"1 of 2 workers \({name}\) did not answer .* 2 s"):
            probe_workers(client, [], [study.folder], limit=2.0)
        assert time.monotonic() - began < 10
        hanging.send_signal(signal.SIGCONT)
        assert len(probe_workers(client, [], [study.folder])) == 2
    assert not list(study.folder.glob(".hlmm*"))


def in_mount_namespace(command: str) -> list[str]:
    """Start of a command that runs with its own view of the file system, made by ``command``."""
    return ["unshare", "-m", "sh", "-c", f'{command} && exec "$@"', "sh"]


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        ("mount -t tmpfs none {genotypes}", "can't read {genotypes}/study.bed (No such file"),
        ("mount -t tmpfs none {out}", "can't read {out}/.hlmm-probe."),
        ("mount --bind {out} {out} && mount -o remount,bind,ro {out}", "can't write in {out}"),
    ],
)
def test_workers_that_do_not_see_the_files(
    tmp_path: Path, started: Processes, run_script: Run, capsys: pytest.CaptureFixture[str],
    mount: str, text: str,
) -> None:  # fmt: skip
    genotypes, out = tmp_path / "genotypes", tmp_path / "out"
    genotypes.mkdir()
    out.mkdir()
    study = make_study(genotypes)
    within = in_mount_namespace(mount.format(genotypes=genotypes, out=out))
    if subprocess.run([*within, "true"], check=False, capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    _, file = started.scheduler()
    started.worker(file, within=within)
    options = [study.bed, study.pheno, out / "x", "--scheduler-file", file]
    assert run_script("scan", *options, own_cluster=True) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "worker tcp://127.0.0.1:" in last
    assert text.format(genotypes=genotypes, out=out) in last
    assert not list(out.iterdir())


# What dies during a scan


@pytest.mark.parametrize("nanny", ["--no-nanny", "--nanny"])
def test_workers_that_join_are_probed(
    study: Study, client: Client, started: Processes, nanny: str
) -> None:
    """The only worker dies; one without the package's source joins, then a good one."""
    null = fit_null(study.bed, study.pheno)
    expected = hlmm_dask.scan(study.bed, null, client=client)
    _, file = started.scheduler()
    first = started.worker(file)
    other = study.folder / "other"
    shutil.copytree(ROOT / "hlmm_dask", other / "hlmm_dask")
    (other / "hlmm_dask" / "more.py").write_text("")
    notes: list[str] = []
    replaced: list[Process] = []

    def watch(event: Event) -> None:
        if isinstance(event, BlockDone) and not replaced:
            first.kill()
            replaced.append(started.worker(file, nanny, env={"PYTHONPATH": str(other)}))
            # It is closed before it has done anything.
            replaced[0].wait(60)
            replaced.append(started.worker(file))
        if isinstance(event, Note):
            notes.append(event.text)

    with Client(address_in(file), set_as_default=False) as own:
        own.wait_for_workers(1, timeout=60)
        results = hlmm_dask.scan(study.bed, null, client=own, block_size=1, observers=[watch])
        # Nothing stays with the scheduler.
        assert plugins_left(own) == []
    assert len(notes) == 1
    assert "has another source of hlmm_dask" in notes[0]
    assert results.equals(expected)


def plugins_left(client: Client) -> list[str]:
    names = client.run_on_scheduler(
        lambda dask_scheduler: [*dask_scheduler.worker_plugins, *dask_scheduler.plugins]
    )
    return [name for name in names if "hlmm" in name]


def test_the_gate_ends_with_its_client(study: Study, started: Processes) -> None:
    """A client that is killed leaves nothing with the scheduler."""
    _, file = started.scheduler()
    started.worker(file)
    process = started.start([sys.executable, "-c", GATE, address_in(file)], env=environment())
    with Client(address_in(file), set_as_default=False) as client:
        wait_until(lambda: len(plugins_left(client)) == 2)
        process.kill()
        wait_until(lambda: plugins_left(client) == [])


GATE = """
import sys, time
from distributed import Client
from hlmm_dask.scanning.probe import Needs, gate
with Client(sys.argv[1]) as client, gate(client, Needs(), frozenset(), ()):
    time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["scheduler", "workers"])
def test_cluster_killed(
    slow_study: Study, started: Processes, run_script: Run, victim: str
) -> None:
    scheduler, file = started.scheduler()
    workers = [started.worker(file), started.worker(file)]
    scan = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "scan.py"),
         *map(str, arguments(slow_study, "out")), "--scheduler-file", str(file),
         "--no-workers-timeout", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=slow_study.folder,
        env=environment(),
    )  # fmt: skip
    store = slow_study.out("out.zarr")
    wait_until(lambda: len(markers(store)) >= 4 or scan.poll() is not None)
    for process in [scheduler] if victim == "scheduler" else workers:
        os.kill(process.pid, signal.SIGKILL)
    _, err = scan.communicate(timeout=60)
    assert scan.returncode == 1, err
    assert "Traceback" not in err
    assert "distributed." not in err
    *_, error, hint, command = err.strip().splitlines()
    what = f"the scheduler {address_in(file)} is gone" if victim == "scheduler" else "no worker for"
    assert error.startswith("hlmm-scan: error: ")
    assert what in error
    assert "go on with" in hint
    assert command.endswith("--resume")
    before = markers(store)
    assert 4 <= len(before) < 40
    assert not slow_study.out("out.models.gz").exists()
    assert run_script("scan", *arguments(slow_study, "out"), "--resume") == 0
    after = markers(store)
    assert len(after) == 40
    assert {name: after[name] for name in before} == before
    assert len(read_models_table(slow_study.out("out.models.gz"))) == 160


def test_a_block_that_kills_its_workers(
    slow_study: Study, cluster_of: Callable[[int], Client]
) -> None:
    null = fit_null(slow_study.bed, slow_study.pheno, random_table=slow_study.folder / "random.txt")
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        own = cluster_of(1)
    failed: list[BlockFailed] = []

    def kill(event: Event) -> None:
        if isinstance(event, BlockDone) and event.block == 2:
            os.kill(own.run(os.getpid).popitem()[1], signal.SIGKILL)
        if isinstance(event, BlockFailed):
            failed.append(event)

    with pytest.raises(ScanError, match=r"workers died 1 times .* --memory-limit"):
        hlmm_dask.scan(
            slow_study.bed, null, client=own, out=slow_study.out("out.zarr"), block_size=4,
            observers=[kill],
        )  # fmt: skip
    assert failed


def test_a_failing_block_is_tried_again_then_listed(study: Study, client: Client) -> None:
    """Where its chunk belongs lies a folder; the other blocks are kept, and then it is fitted."""
    null = fit_null(study.bed, study.pheno)
    out = study.out("out.zarr")
    obstacle = out / "results" / "c.2.0" / "in the way"
    failed: list[BlockFailed] = []

    def obstruct(event: Event) -> None:
        if isinstance(event, ScanStarted):
            obstacle.mkdir(parents=True)
        if isinstance(event, BlockFailed):
            failed.append(event)

    with pytest.raises(ScanError, match=r"1 of 6 blocks failed \(block 2: .*Error: .*--resume"):
        hlmm_dask.scan(study.bed, null, client=client, out=out, block_size=10, observers=[obstruct])
    assert [event.block for event in failed] == [2]
    assert len(markers(out)) == 5
    shutil.rmtree(obstacle.parent)
    results = hlmm_dask.scan(study.bed, null, client=client, out=out, block_size=10, resume=True)
    assert results.equals(hlmm_dask.scan(study.bed, null, client=client))


@pytest.mark.parametrize("nanny", ["--no-nanny", "--nanny"])
def test_a_worker_that_hangs_is_ended(
    study: Study, started: Processes, monkeypatch: pytest.MonkeyPatch, nanny: str
) -> None:
    """SIGSTOP, as of a machine that has no memory left: its blocks are computed elsewhere."""
    null = fit_null(study.bed, study.pheno)
    _, file = started.scheduler()
    for _ in range(2):
        started.worker(file, nanny)
    notes: list[str] = []
    stopped: list[str] = []

    with Client(address_in(file), set_as_default=False) as own:
        own.wait_for_workers(2, timeout=60)
        pids = own.run(os.getpid)
        # Once before: imports may take all of a worker's attention for seconds.
        expected = hlmm_dask.scan(study.bed, null, client=own, block_size=1)
        monkeypatch.setattr("hlmm_dask.scanning.watch.SILENT_SECONDS", 8.0)

        def stop(event: Event) -> None:
            if isinstance(event, BlockDone) and not stopped:
                stopped.append(next(address for address in pids if address != event.worker))
                os.kill(pids[stopped[0]], signal.SIGSTOP)
            if isinstance(event, Note):
                notes.append(event.text)

        results = hlmm_dask.scan(study.bed, null, client=own, block_size=1, observers=[stop])
        assert stopped[0] not in own.nthreads()
        # The nanny has put another one in its place.
        if nanny == "--nanny":
            own.wait_for_workers(2, timeout=60)
    (note,) = notes
    assert note.startswith(f"worker {stopped[0]} gave no sign of life for 8 s; it is ended")
    assert results.equals(expected)


def test_a_computer_that_was_suspended_ends_no_worker() -> None:
    """Then no time has passed for it, whatever the clock says: looks are counted."""
    silence = Silence()
    for _ in range(5):
        silence.count({"a": 1.0, "b": 1.0})
    assert silence.longer_than(5.0) == []
    silence.count({"a": 1.0, "b": 1e6})
    assert silence.longer_than(5.0) == ["a"]
    # Each is named once, and one that is gone is forgotten.
    assert silence.longer_than(5.0) == []
    silence.count({"b": 1e6})
    assert silence.longer_than(1.0) == ["b"]
