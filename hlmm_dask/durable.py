"""Files that are there whole or not at all, also after a crash of the machine."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place when the block ends well.

    The file is synced to disk, renamed over ``path``, and the folder is synced. When the block
    raises, the temporary file is removed and ``path`` stays as it was.

    Parameters
    ----------
    path : path
        File to be written; its folder must exist.

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
    aside = target.with_name(f".{target.name[:200]}.{uuid4().hex}.partial")
    try:
        with aside.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(target.parent)


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON, all or nothing."""
    text = json.dumps(content, indent=1, default=_plain)
    with replacing(path) as file:
        file.write(text.encode())


def sync(path: str | os.PathLike[str]) -> None:
    """Force a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _plain(value: Any) -> Any:
    """Turn numpy scalars and paths into what JSON knows."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} can't be written as JSON")
