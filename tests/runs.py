"""Scans in processes of their own, watched from outside."""

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "scan.py"


def markers(store: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of the markers of all finished blocks."""
    folder = next(store.glob("*/blocks"), None)
    if folder is None:
        return {}
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.glob("*.json")}


def start(folder: Path, *arguments: object, own_cluster: bool = True) -> subprocess.Popen[str]:
    """Start the scan command in a session of its own, with two workers of its own."""
    cluster = ["--workers", "2"] if own_cluster else []
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments), *cluster],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=folder,
        # A shell starts background jobs with interrupts ignored, and that is inherited.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_blocks(process: subprocess.Popen[str], store: Path, n: int) -> None:
    until = time.monotonic() + 60
    while len(markers(store)) < n:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def session_members(session: int) -> list[int]:
    """Processes of a session that still live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def wait_for_end(session: int) -> None:
    until = time.monotonic() + 30
    while session_members(session):
        assert time.monotonic() < until
        time.sleep(0.05)
