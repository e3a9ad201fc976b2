"""Whether a file is still the one that was opened."""

import os
from dataclasses import dataclass
from pathlib import Path

from hlmm_dask.errors import ChangedInputError, InputError


@dataclass(frozen=True)
class FileStamp:
    """What tells a file from one that replaces it, within a run.

    Size and time of modification can be the same after a replacement (``cp -p``, ``touch -r``);
    the inode and the time of its last change can't be set by a program. They differ between
    copies of the same file: nothing of this is compared between runs.

    Attributes
    ----------
    size : int
        Bytes.
    mtime_ns, ctime_ns : int
        Times of the last modification and of the last change of the inode, in nanoseconds.
    inode : int
        Number of the inode.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "FileStamp":
        """Take the stamp of a file; an `InputError` where that fails."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except OSError as error:
            raise InputError(f"{path}: can't be read ({error.strerror})") from None
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def require_same(self, path: Path) -> None:
        """Raise a `ChangedInputError` if the file isn't the one that was opened."""
        try:
            now = FileStamp.of(path)
        except InputError as error:
            raise ChangedInputError(f"{error} any more; it was there when it was opened") from None
        if now.size != self.size:
            raise ChangedInputError(
                f"{path}: changed while it was scanned: {now.size} bytes, {self.size} when it was "
                "opened"
            )
        if now.mtime_ns != self.mtime_ns:
            raise ChangedInputError(
                f"{path}: changed while it was scanned: modified since it was opened"
            )
        if (now.inode, now.ctime_ns) != (self.inode, self.ctime_ns):
            raise ChangedInputError(
                f"{path}: changed while it was scanned: replaced or modified since it was opened, "
                "with the same size and time of modification"
            )
