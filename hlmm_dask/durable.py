"""Files that are there whole or not at all, also after a crash of the machine."""

import errno
import json
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from isal import isal_zlib

from hlmm_dask.errors import StoreError
from hlmm_dask.json_files import check_shape, read_json
from hlmm_dask.processes import ABANDONED_SECONDS, is_abandoned, signature

_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
# Modes of files with values of people, and of folders with such files.
PRIVATE = 0o600
PRIVATE_FOLDER = 0o700

_SIGNED = re.compile(r"\..*\.([0-9a-f]{8}-\d+-\d+)\.[0-9a-f]{8}\.(partial|old|keys)", re.DOTALL)


def aside(path: Path, kind: str = "partial") -> Path:
    """Name a hidden place beside ``path``, in which `leftovers` recognises its maker."""
    return path.with_name(f".{_short(path.name)}.{signature()}.{uuid4().hex[:8]}.{kind}")


def leftovers(
    folder: Path, start: str = "", kind: str = "partial", *, elsewhere: bool = True
) -> list[Path]:
    """Find what processes that are dead left in `aside` places of files named ``start...``.

    Without ``elsewhere`` only those of this machine: of others age alone would tell.
    """
    found = []
    for path in folder.iterdir():
        signed = _SIGNED.fullmatch(path.name)
        if signed and signed[2] == kind and path.name.startswith(f".{_short(start)}"):
            with suppress(OSError):
                if is_abandoned(signed[1], path, elsewhere=elsewhere):
                    found.append(path)
    return found


def sweep(folder: Path, start: str = "") -> None:
    """Remove what dead processes left unfinished of files and folders named ``start...``."""
    for path in leftovers(folder, start):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


@contextmanager
def working_folder(path: Path) -> Iterator[Path]:
    """Make a folder beside ``path`` for as long as the block runs, with a sign of life.

    Only the owner may read it.
    """
    folder = aside(path)
    folder.mkdir(PRIVATE_FOLDER)
    ended = threading.Event()

    def show_life() -> None:
        while not ended.wait(ABANDONED_SECONDS / 10):
            with suppress(OSError):
                os.utime(folder)

    threading.Thread(target=show_life, daemon=True).start()
    try:
        yield folder
    finally:
        ended.set()
        shutil.rmtree(folder, ignore_errors=True)


def create(path: Path, mode: int = 0o666) -> BinaryIO:
    """Open a new file for reading and writing; a file or link of that name is an error."""
    return open(path, "x+b", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, mode))


def open_to_append(path: Path) -> BinaryIO:
    """Open a file, made where there is none, to write at its end.

    Raises
    ------
    StoreError
        If the name is a symbolic link: its target may be anyone's file.
    OSError
        If it can't be written.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    try:
        return open(path, "ab", opener=opener)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise linked(path) from None
        raise


def linked(path: Path) -> StoreError:
    """Say that a symbolic link stands where a file or folder of a run belongs."""
    return StoreError(
        f"{path}: is a symbolic link, which a scan neither follows nor replaces; remove it, or put "
        "the file or folder itself there"
    )


@contextmanager
def replacing(
    path: str | os.PathLike[str], *, sync_folder: bool = True, mode: int = 0o666
) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place when the block ends well.

    The file is synced to disk, renamed over ``path``, and the folder is synced. When the block
    raises, the temporary file is removed and ``path`` stays as it was.

    Parameters
    ----------
    path : path
        File to be written; its folder must exist.
    sync_folder : bool
        Without, a crash of the machine may leave ``path`` as it was, but nothing torn.
    mode : int
        Permissions of a new file, less the umask.

    Yields
    ------
    BinaryIO
        The temporary file, open for reading and writing.

    Raises
    ------
    OSError
        If the folder can't be written or the disk is full.
    """
    target = Path(path)
    temporary = aside(target)
    try:
        with create(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            # A full disk does not say which.
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    if sync_folder:
        sync(target.parent)


def write_json(
    path: str | os.PathLike[str], content: Mapping[str, Any], *, sync_folder: bool = True
) -> None:
    """Write ``content`` as JSON, all or nothing."""
    text = json.dumps(content, indent=1, default=_plain)
    with replacing(path, sync_folder=sync_folder) as file:
        file.write(text.encode())


def write_record(
    path: str | os.PathLike[str], content: Mapping[str, Any], *, sync_folder: bool = True
) -> dict[str, Any]:
    """Write ``content`` as JSON with a checksum; return it as it will be read."""
    plain = as_json(content)
    write_json(path, plain | {"crc32": _checksum(plain)}, sync_folder=sync_folder)
    return plain


def read_record(path: Path, shape: Any) -> dict[str, Any]:
    """Read what `write_record` wrote, of a shape as in `check_shape`.

    Raises
    ------
    ValueError
        If it is damaged, or has another shape.
    OSError
        If it can't be read.
    """
    content: dict[str, Any] = read_json(path, {str: object})
    if content.pop("crc32", None) != _checksum(content):
        raise ValueError(f"{path}: damaged: its checksum differs")
    check_shape(content, shape)
    return content


def as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``content`` as it is read back from JSON."""
    return dict(json.loads(json.dumps(dict(content), default=_plain)))


def checksum_of(path: Path) -> str:
    """CRC-32 and size of a file."""
    crc = size = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            crc, size = isal_zlib.crc32(piece, crc), size + len(piece)
    return f"{crc:08x} {size}"


def sync(path: str | os.PathLike[str]) -> None:
    """Force a file or a folder's entries to disk.

    Some file systems can't sync folders, and say so: their entries need no sync or get none.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (error.errno in _NO_SYNC and stat.S_ISDIR(os.fstat(handle).st_mode)):
            raise
    finally:
        os.close(handle)


def rename(old: Path, new: Path) -> None:
    """Rename a file or folder within its folder; a file that is there is replaced.

    Raises
    ------
    OSError
        If that is not possible.
    """
    try:
        old.replace(new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        text = (
            "can't be put in its place by renaming, as the file system has the folder on two "
            "devices (a container's overlay, or a quota); write to a folder on one device"
        )
        raise OSError(errno.EXDEV, text, str(new)) from error


def _short(name: str) -> str:
    """Leave room for the signature: a name may have 255 bytes."""
    return name.encode()[:150].decode(errors="ignore")


def _checksum(content: Mapping[str, Any]) -> str:
    return f"{isal_zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def _plain(value: Any) -> Any:
    """Turn numpy scalars and paths into what JSON knows."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} can't be written as JSON")
