"""What a cluster on this machine takes from it, checked before any work."""

import os
import resource
import socket
import stat
import sys
import tempfile
from multiprocessing.connection import Listener
from pathlib import Path

import dask

from hlmm_dask.errors import InputError

# Open files of a process that holds a scheduler: its own, and those for each worker.
_OWN_FILES, _FILES_PER_WORKER = 40, 12


def require_open_files(n_workers: int) -> None:
    """Raise an `InputError` if this process may not open the files that so many workers need."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _OWN_FILES + _FILES_PER_WORKER * n_workers
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise InputError(
            f"this process may open {limit} files; --workers {n_workers} requires {needed}. "
            f"Raise the limit ('ulimit -n {needed}') or use fewer workers"
        )


def require_sockets() -> None:
    """Raise an `InputError` if worker processes can't be started through the temporary folder."""
    try:
        # As the process from which workers are forked does.
        with Listener(family="AF_UNIX"):
            pass
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: can't hold the sockets of worker processes "
            f"({error.strerror or error}); set TMPDIR to a folder with a short path that you can "
            "write in"
        ) from None


def private_folder() -> str:
    """Return the folder for temporary files of workers, which no other user can enter.

    Workers unpickle what they have put there. In a folder of another user, that user could put
    something else in its place.

    Raises
    ------
    InputError
        If it can't be made, or is not private.
    """
    of_dask = dask.config.get("temporary-directory")
    setting = "Dask's temporary-directory" if of_dask else "TMPDIR"
    parent = Path(of_dask or tempfile.gettempdir())
    folder = parent.absolute() / f"hlmm-dask-{os.getuid()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise InputError(
            f"{folder}: can't be made for temporary files of workers ({error.strerror}); set "
            f"{setting} to a folder that you can write in"
        ) from None
    mine = found.st_uid == os.getuid() and not found.st_mode & 0o077
    if not (mine and stat.S_ISDIR(found.st_mode)):
        raise InputError(
            f"{folder}: expected a folder that is yours and closed to others (mode 0700), for "
            f"temporary files of workers; remove it or set {setting} to another folder"
        )
    return str(folder)


def peak_bytes() -> int:
    """Return the most memory that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def user_at(address: str, port: int) -> int | None:
    """Return the user ID of the process that holds a TCP socket of this machine (Linux).

    Parameters
    ----------
    address, port : str, int
        The socket's own IPv4 address and port.

    Returns
    -------
    int or None
        None if there is no such socket here, or that can't be known.
    """
    try:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        number = int.from_bytes(socket.inet_aton(address), sys.byteorder)
    except OSError:
        return None
    wanted = f"{number:08X}:{port:04X}"
    # Second the socket's own address, eighth the user.
    return next((int(f[7]) for f in map(str.split, lines) if f[1] == wanted), None)
