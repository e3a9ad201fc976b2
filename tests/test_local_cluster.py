"""Clusters of this machine: workers that can't be started, scripts without a guard, Ctrl-C."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from clusters import environment
from studies import Study

from hlmm_dask.errors import InputError, ScanError
from hlmm_dask.scanning.cluster import ClusterOptions, connect

UNGUARDED = """
import sys, hlmm_dask
from hlmm_dask.scanning.cluster import ClusterOptions
null = hlmm_dask.fit_null("study.bed", "pheno.txt")
hlmm_dask.scan("study.bed", null, cluster=ClusterOptions(workers=2), background="late" in sys.argv)
"""


def run_script(study: Study, script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (study.folder / "script.py").write_text(script)
    with (study.folder / "script.py").open() as stdin:
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=120,
            cwd=study.folder, env=environment(), stdin=stdin,
        )  # fmt: skip


def test_a_script_without_a_guard_is_shown_the_guard(study: Study) -> None:
    done = run_script(study, UNGUARDED, "script.py")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("hlmm_dask.errors.InputError: the script that started this scan")
    assert lines[-1].endswith("put its calls under 'if __name__ == \"__main__\":'")
    # Of this process alone, and of our own frames.
    assert done.stderr.count("Traceback") == 1
    assert len(lines) < 25
    assert "multiprocessing" not in done.stderr


COMMAND = """
import sys
from hlmm_dask.cli import scan_main
sys.exit(scan_main(["study.bed", "pheno.txt", "out", "--workers", "2"]))
"""


def test_a_command_called_without_a_guard_is_shown_the_guard(study: Study) -> None:
    """The command starts the fork server before it connects."""
    done = run_script(study, COMMAND, "script.py")
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("hlmm-scan: error: the script that started this scan runs again")
    assert "Traceback" not in done.stderr


def test_a_script_on_standard_input_is_refused(study: Study) -> None:
    """Worker processes would look for a file of the name '<stdin>'."""
    done = run_script(study, f"if __name__ == '__main__':{COMMAND.replace(chr(10), chr(10) + ' ')}")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("hlmm-scan: error: <stdin>: worker processes can't read the script")


def test_a_host_that_replaces_the_main_module_starts_workers(study: Study) -> None:
    """As IPython and runpy do."""
    host = f"""
import multiprocessing, sys, types
sys.modules["__main__"] = types.ModuleType("__main__")
{COMMAND}
"""
    done = run_script(study, host, "-c", host)
    assert done.returncode == 0, done.stderr


class Killer(threading.Thread):
    """Kills each worker process in the moment of its start, up to a number of them."""

    def __init__(self, n: int) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.killed: set[int] = set()
        self._n = n

    def run(self) -> None:
        me = psutil.Process()
        # Other tests' workers live already.
        before = {child.pid for child in me.children(recursive=True)}
        while len(self.killed) < self._n and not self.ended.is_set():
            for server in me.children():
                for child in server.children():
                    if child.pid not in before | self.killed and len(self.killed) < self._n:
                        child.kill()
                        self.killed.add(child.pid)
            time.sleep(0.002)


@contextmanager
def killer(n: int) -> Iterator[None]:
    """Kill n worker processes, each in the moment of its start."""
    with connect(ClusterOptions(workers=1)):
        pass  # the fork server runs from here on, and is no worker
    kills = Killer(n)
    kills.start()
    try:
        yield
    finally:
        kills.ended.set()
        kills.join()
    assert len(kills.killed) == n


def test_a_worker_that_is_killed_while_it_starts_is_started_again() -> None:
    with killer(1), connect(ClusterOptions(workers=1)) as client:
        assert client.submit(sum, (1, 2)).result() == 3


def test_workers_that_are_killed_whenever_they_start() -> None:
    text = "can't be started, tried 3 times: Worker process [0-9]+ was killed by signal 9$"
    with killer(3), pytest.raises(ScanError, match=text), connect(ClusterOptions(workers=1)):
        pass


@pytest.mark.parametrize(
    "limit", ["1e999", "1", "-1", "0.5", "nan", "inf", "10 sheep", "", "-4GiB", "900kB", 1, 0.5, -7]
)
def test_memory_limits_that_make_no_sense(limit: str) -> None:
    with pytest.raises(InputError, match=rf"--memory-limit {limit}: expected a size such as 4GiB"):
        ClusterOptions(memory_limit=limit).check()


@pytest.mark.parametrize("limit", ["10GB", "4GiB", "auto", "0", 0, 2**30, "1500000000", "1e9"])
def test_memory_limits(limit: str) -> None:
    ClusterOptions(memory_limit=limit).check()


def on_terminal(
    folder: Path, command: list[str], moment: Callable[[str], bool], presses: int
) -> tuple[int, str]:
    """Run a command on a terminal of its own, press Ctrl-C at a moment; exit code and output."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.chdir(folder)
        os.execve(command[0], command, environment({"COLUMNS": "200"}))
    said, until = b"", time.monotonic() + 120
    try:
        while True:
            assert time.monotonic() < until, said
            if presses and moment(said.decode(errors="replace")):
                os.write(terminal, b"\x03")
                presses -= 1
            if select.select([terminal], [], [], 0.05)[0]:
                try:
                    said += os.read(terminal, 65536)
                except OSError:  # as Linux says that the last process has closed it
                    break
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert not presses, said
    return os.waitstatus_to_exitcode(status), said.decode()


@pytest.mark.parametrize(
    ("moment", "presses"),
    [("", 2), ("samples of phenotype", 1), ("on 2 workers", 3)],
    ids=["imports", "cluster", "blocks"],
)
def test_ctrl_c_on_a_terminal(study: Study, moment: str, presses: int) -> None:
    began = time.monotonic()

    def reached(said: str) -> bool:
        # Python itself can't be interrupted without a traceback while it starts.
        return moment in said and time.monotonic() > began + 0.5

    command = [
        sys.executable, "-m", "hlmm_dask", "study.bed", "pheno.txt", "out", "--workers", "2",
        "--block-size", "1", "--min-maf", "0.01", "--tests", "levene,drm",
    ]  # fmt: skip
    code, said = on_terminal(study.folder, command, reached, presses)
    assert code == 75, said
    ended = said.partition("^C")[2]
    lines = [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", ended))
             if line.strip(" ^C")]  # fmt: skip
    assert "hlmm-scan: interrupted" in lines, said
    at = lines.index("hlmm-scan: interrupted")
    expected = [] if at == len(lines) - 1 else ["finished blocks are kept; go on with:"]
    assert lines[at + 1 : at + 2] == expected, said
    assert len(lines) <= at + 3, said
    for word in ("Traceback", "distributed", "Exception", "Error", "multiprocessing", "tornado"):
        assert word not in said, said
