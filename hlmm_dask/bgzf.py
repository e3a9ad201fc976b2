"""Blocked gzip (BGZF): gzip for every reader, and seekable for tabix.

A file is a row of small gzip members, each of which names its length in an extra field, and an
empty one that marks the end.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from isal import isal_zlib

# What fits a block also when it can't be compressed: a block's length has 16 bits.
BLOCK_BYTES = 65_280
END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_HEADER = bytes.fromhex("1f8b08040000000000ff060042430200")
_FIXED = 12  # bytes of a gzip header before its extra field
_LEVEL = 1


def compress(text: bytes | memoryview) -> bytes:
    """Return a text as blocks, without the mark of the end."""
    view = memoryview(text)
    return b"".join(
        _block(view[cut : cut + BLOCK_BYTES]) for cut in range(0, len(view), BLOCK_BYTES)
    )


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """Read blocks, packed as they are, up to the end of a file.

    Raises
    ------
    ValueError
        If something else follows, or a block is cut short.
    """
    while fixed := file.read(_FIXED):
        if len(fixed) < _FIXED or fixed[:4] != _HEADER[:4]:
            raise ValueError("not a BGZF block")
        extra = file.read(int.from_bytes(fixed[10:12], "little"))
        rest = _block_length(extra) - _FIXED - len(extra)
        block = fixed + extra + file.read(max(0, rest))
        if rest < 0 or len(block) != _FIXED + len(extra) + rest:
            raise ValueError("a BGZF block is cut short")
        yield block


def is_bgzf(path: str | os.PathLike[str]) -> bool:
    """Whether a file starts with a BGZF block."""
    with Path(path).open("rb") as file:
        try:
            return next(blocks(file), None) is not None
        except ValueError:
            return False


def has_end(path: str | os.PathLike[str]) -> bool:
    """Whether the mark of the end is there: without it, blocks may be missing."""
    with Path(path).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(END)))
        return file.read() == END


def _block(piece: memoryview) -> bytes:
    body = isal_zlib.compress(piece, _LEVEL, -zlib.MAX_WBITS)
    length = struct.pack("<H", len(_HEADER) + 2 + len(body) + 8 - 1)
    tail = struct.pack("<II", isal_zlib.crc32(piece), len(piece))
    return b"".join((_HEADER, length, body, tail))


def _block_length(extra: bytes) -> int:
    """Find the length of a block, in bytes, among the fields of its header."""
    at = 0
    while at + 4 <= len(extra):
        size = int.from_bytes(extra[at + 2 : at + 4], "little")
        if extra[at : at + 2] == b"BC" and size == 2 and at + 6 <= len(extra):
            return int.from_bytes(extra[at + 4 : at + 6], "little") + 1
        at += 4 + size
    raise ValueError("not a BGZF block")
