"""One run an output: a lock file that names its owner and shows that the owner lives."""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from hlmm_dask.durable import open_to_append, write_json
from hlmm_dask.errors import StoreError, TakenOverError
from hlmm_dask.json_files import read_json
from hlmm_dask.processes import born, exists, place

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
# A living run renews its lock at least twice meanwhile.
_WATCHED_BEATS = 2.5
_HOLDER = {
    "owner": str,
    "token": str,
    "pid": range(1, 1 << 31),
    "host": str,
    "since": float,
    "heartbeat": float,
    "place": object,
    "born": object,
}


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds.

    Attributes
    ----------
    path : Path
        The lock file.
    token : str
        What tells this holder from every other.
    """

    path: Path
    token: str

    def check(self) -> None:
        """Raise a `TakenOverError` if another run has taken the lock over."""
        holder = read_lock(self.path)
        if holder is None or holder.get("token") != self.token:
            raise TakenOverError(
                f"{self.path}: another run has taken this output over; this one stops"
            )


@contextmanager
def hold_lock(path: Path, owner: str) -> Iterator[Lock]:
    """Hold the lock file ``path`` while the block runs.

    A lock whose process has ended (same host) is taken over, and one without a sign of life for
    60 s (another host). The clock of another host may be wrong: such a lock is watched for 25 s,
    in which its run would renew it.

    Parameters
    ----------
    path : Path
        The lock file, in an existing folder.
    owner : str
        Who holds it, in words that tell a reader which run it is.

    Yields
    ------
    Lock
        The lock held; a thread renews it every 10 s.

    Raises
    ------
    StoreError
        If a living run holds it; names that run.
    """
    token = uuid4().hex
    content = {"owner": owner, "token": token, "pid": os.getpid(), "since": time.time()}
    content |= {"host": socket.gethostname(), "place": place(), "born": born(os.getpid())}
    abandoned = refuse_if_held(path)
    with _guard(path):
        holder = read_lock(path)
        if holder is not None and holder != abandoned:
            raise _in_use(path, holder, 0.0)
        write_json(path, content | {"heartbeat": time.time()})
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, content, ended), daemon=True)
    beat.start()
    try:
        yield Lock(path, token)
    finally:
        ended.set()
        beat.join()
        # The folder may be gone, or the lock another's.
        with suppress(FileNotFoundError), _guard(path):
            holder = read_lock(path)
            if holder is not None and holder.get("token") == token:
                path.unlink()


def read_lock(path: Path) -> dict[str, Any] | None:
    """Return what the lock file says, None without a (readable) one."""
    try:
        holder: dict[str, Any] = read_json(path, _HOLDER)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return None
    return holder


def refuse_if_held(path: Path, *, watch: bool = True) -> dict[str, Any] | None:
    """Raise a `StoreError` that names the owner if a living run holds the lock file.

    Parameters
    ----------
    path : Path
        The lock file.
    watch : bool
        Watch a lock of another host that seems abandoned before it is taken for that. Without,
        the answer is immediate, and relies on that host's clock.

    Returns
    -------
    dict or None
        What an abandoned lock file says; None without a (readable) one.
    """
    holder = read_lock(path)
    if holder is None:
        return None
    try:
        silent = time.time() - float(holder["heartbeat"])
        pid, where, since = int(holder["pid"]), holder["place"], holder["born"]
    except (KeyError, TypeError, ValueError):
        return holder
    # Where the process table is ours it decides; a heartbeat may stall in a busy process.
    if where == place():
        held = born(pid) == since if since is not None else exists(pid)
    else:
        held = abs(silent) < STALE_SECONDS
        if watch and not held and (holder := _after_a_while(path, before := holder)) != before:
            held, silent = holder is not None, 0.0
    if held and holder is not None:
        raise _in_use(path, holder, silent)
    return holder


def _after_a_while(path: Path, holder: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a lock file says as soon as that changes, or after some heartbeats."""
    until = time.monotonic() + _WATCHED_BEATS * HEARTBEAT_SECONDS
    now: dict[str, Any] | None = holder
    while now == holder and time.monotonic() < until:
        time.sleep(HEARTBEAT_SECONDS / 20)
        now = read_lock(path)
    return now


def _in_use(path: Path, holder: dict[str, Any], silent: float) -> StoreError:
    owner, host, pid = (holder.get(key, "unknown") for key in ("owner", "host", "pid"))
    return StoreError(
        f"{path.parent}: in use by {owner} (process {pid} on {host}, last sign of life "
        f"{max(silent, 0.0):.0f} s ago); wait until it ends, or end it and give --resume"
    )


def _beat(path: Path, content: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        # A full disk or a shared file system's hiccup must not end the run: try again later.
        with suppress(OSError), _guard(path):
            holder = read_lock(path)
            if holder is not None and holder.get("token") != content["token"]:
                return
            write_json(path, content | {"heartbeat": time.time()})


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """Keep other processes from looking at and changing the lock at the same moment."""
    with open_to_append(path.with_name(f"{path.name}.guard")) as file:
        # Some shared file systems know no flock; the lock file itself still stands.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
