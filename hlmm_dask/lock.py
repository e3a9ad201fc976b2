"""One run an output: a lock file that names its owner and shows that the owner lives."""

import fcntl
import json
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

from hlmm_dask.durable import write_json
from hlmm_dask.errors import StoreError, TakenOverError
from hlmm_dask.processes import born, exists, place

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0


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

    A lock whose process has ended (same host), or without a sign of life for 60 s (another
    host), is taken over.

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
    with _guard(path):
        refuse_if_held(path)
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
        holder = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return holder if isinstance(holder, dict) else None


def refuse_if_held(path: Path) -> None:
    """Raise a `StoreError` that names the owner if a living run holds the lock file."""
    holder = read_lock(path)
    if holder is None:
        return
    try:
        silent = time.time() - float(holder["heartbeat"])
        owner, host, pid = str(holder["owner"]), str(holder["host"]), int(holder["pid"])
        where, since = holder["place"], holder["born"]
    except (KeyError, TypeError, ValueError):
        return
    # Where the process table is ours it decides; a heartbeat may stall in a busy process.
    if where == place():
        held = born(pid) == since if since is not None else exists(pid)
    else:
        held = silent < STALE_SECONDS
    if held:
        raise StoreError(
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
    with path.with_name(f"{path.name}.guard").open("wb") as file:
        # Some shared file systems know no flock; the lock file itself still stands.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
