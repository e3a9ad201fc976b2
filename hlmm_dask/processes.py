"""Which process left something behind, and whether it still lives."""

import os
import socket
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from zlib import crc32

# What a process of another host left untouched for so long is taken for abandoned.
ABANDONED_SECONDS = 600.0


def place() -> str:
    """Name the process table that this process's id belongs to."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def born(pid: int) -> str | None:
    """Start time of a process in ticks since boot (Linux), None where it can't be known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in brackets, may hold spaces; the start time is field 22, the state field 3.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def exists(pid: int) -> bool:
    """Whether there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def signature() -> str:
    """Name this process in the name of a file: process table, id, start time."""
    pid = os.getpid()
    return f"{crc32(place().encode()):08x}-{pid}-{born(pid) or 0}"


os.register_at_fork(after_in_child=signature.cache_clear)


def is_abandoned(signed: str, path: Path, *, elsewhere: bool = True) -> bool:
    """Whether the process with this signature, which left the file or folder, is dead."""
    where, pid, start = signed.split("-")
    if where == f"{crc32(place().encode()):08x}":
        return born(int(pid)) != start if start != "0" else not exists(int(pid))
    if not elsewhere:
        return False
    times = [entry.lstat().st_mtime for entry in (path, *path.rglob("*"))]
    return time.time() - max(times) > ABANDONED_SECONDS
