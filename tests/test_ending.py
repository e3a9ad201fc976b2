"""A command that is ended from outside, or loses its terminal; servers that are no scheduler."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from clusters import environment
from runs import SCRIPT, start, wait_for_blocks, wait_for_end
from studies import Study

from hlmm_dask.errors import InputError
from hlmm_dask.scanning.security import check_address, require_answer, scheduler_address


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_of_batch_systems_end_as_ctrl_c_does(
    study: Study, run_script: Callable[..., int], number: signal.Signals
) -> None:
    arguments = [study.bed, study.pheno, study.out("out"), "--block-size", "1", "--min_maf", "0.01"]
    # The tests may run under nohup, and a scan goes on without what it has inherited as ignored.
    before = signal.signal(number, signal.SIG_DFL)
    process = start(study.folder, *arguments)
    signal.signal(number, before)
    wait_for_blocks(process, study.out("out.zarr"), 1)
    # To all of its processes, as batch systems do.
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert err.rstrip().endswith("--resume")
    wait_for_end(process.pid)
    assert run_script("scan", *arguments, "--resume") == 0
    assert not [path for path in study.folder.iterdir() if path.name.startswith(".")]


def test_ctrl_c_while_workers_import(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "from hlmm_dask.scanning.fork_server import start_fork_server\n"
        "print('once')\n"
        "start_fork_server()\n"
        "try:\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "    time.sleep(5)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(75)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True,
        env=environment(), check=False, timeout=60, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (75, "once\n", "")


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&1 | true", "2>&-"])
def test_scan_goes_on_without_its_terminal(study: Study, redirection: str) -> None:
    command = (
        f"trap '' PIPE; '{sys.executable}' '{SCRIPT}' study.bed pheno.txt out --workers 1 "
        f"{redirection}; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=study.folder, env=environment(), check=False, timeout=60
    )
    assert done.returncode == 0
    assert study.out("out.models.gz").exists()


@pytest.mark.parametrize("suffix", [".models.gz", ".log", ".null_mean_effects.txt"])
def test_folder_where_a_file_must_be(
    study: Study, run_script: Callable[..., int], capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    study.out(f"out{suffix}").mkdir()
    assert run_script("scan", study.bed, study.pheno, study.out("out"), "--overwrite") == 2
    assert f"out{suffix}: is a folder" in capsys.readouterr().err
    assert not study.out("out.zarr").exists()


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b"no", b""])
def test_another_server_on_the_port(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(greeting)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(InputError, match="no Dask scheduler answers"):
            require_answer(f"tcp://127.0.0.1:{server.getsockname()[1]}", None, timeout=5.0)
        thread.join()


def test_addresses_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--scheduler http://127\.0\.0\.1:80: expected such"):
        check_address("http://127.0.0.1:80", insecure=True)
    file = tmp_path / "scheduler.json"
    for content in ('{"address": 5}', '{"address": ""}', '{"address": "foo"}'):
        file.write_text(content)
        with pytest.raises(InputError, match="no address in it"):
            scheduler_address(str(file))
