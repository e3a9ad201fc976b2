"""Rows of white-space separated text files, read in chunks with their line numbers.

One reader for .fam, .bim, phenotype and covariate files, so that they all take the same text:
tabs, spaces or both, LF or CRLF, a byte order mark, blank lines, no final newline. Fields stay
bytes until they are needed: only ASCII white space separates, and a byte that is no UTF-8 can be
reported with its line.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hlmm_dask.errors import InputError

BOM = b"\xef\xbb\xbf"
_INTEGER = re.compile(rb"[+-]?[0-9]+")


@dataclass(frozen=True)
class Rows:
    """Consecutive lines that are not blank.

    Attributes
    ----------
    path : Path
        The file.
    numbers : list of int
        1-based line number of each row; blank lines count.
    fields : list of list of bytes
        The fields of each row, of any number.
    """

    path: Path
    numbers: list[int]
    fields: list[list[bytes]]

    def column(self, index: int) -> list[bytes]:
        """Field `index` of every row."""
        return [fields[index] for fields in self.fields]

    def strings(self, index: int) -> list[str]:
        """Field `index` of every row as text.

        Raises
        ------
        InputError
            If a field is not UTF-8; the message names the line.
        """
        try:
            return [fields[index].decode() for fields in self.fields]
        except UnicodeDecodeError:
            pass
        return [
            decode(fields[index], self.path, number)
            for number, fields in zip(self.numbers, self.fields, strict=True)
        ]

    def integers(self, index: int, name: str) -> NDArray[np.int64]:
        """Field `index` of every row as int64; `name` stands in the message of an error."""
        tokens = self.column(index)
        try:
            values: NDArray[np.int64] = pa.array(tokens, pa.string()).cast(pa.int64()).to_numpy()
            return values
        except pa.ArrowInvalid:
            pass
        result = np.empty(len(tokens), dtype=np.int64)
        for i, token in enumerate(tokens):
            value = int(token) if _INTEGER.fullmatch(token) else None
            if value is None or not -(2**63) <= value < 2**63:
                raise InputError(
                    f"{self.path}, line {self.numbers[i]}: {name} {shown(token)} is not an integer"
                )
            result[i] = value
        return result

    def require_fields(self, n_fields: int, what: str) -> None:
        """Raise an InputError at the first row that has not exactly `n_fields` fields."""
        for number, fields in zip(self.numbers, self.fields, strict=True):
            if len(fields) != n_fields:
                raise InputError(
                    f"{self.path}, line {number}: {len(fields)} fields, expected {n_fields} ({what})"
                )


def decode(token: bytes, path: str | os.PathLike[str], number: int) -> str:
    """Text of a field; an InputError that names the line where it is not UTF-8."""
    try:
        return token.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: {shown(token)} is not UTF-8 text (byte 0x{token[error.start]:02x}); "
            "convert the file, for example with `iconv -f latin1 -t utf-8`"
        ) from None


def shown(token: bytes | str) -> str:
    """A field as it stands in a message: quoted, on one line, at most 40 characters."""
    text = token.decode(errors="backslashreplace") if isinstance(token, bytes) else token
    return repr(text if len(text) <= 40 else text[:37] + "...")


def shown_ids(ids: Sequence[tuple[str, str]], limit: int = 5) -> str:
    """The first few (FID, IID) as they stand in a message."""
    some = ", ".join(f"{shown(fid)} {shown(iid)}" for fid, iid in ids[:limit])
    return some + (", ..." if len(ids) > limit else "")


def open_binary(path: str | os.PathLike[str], *, buffering: int = -1) -> BinaryIO:
    """Open a file for reading; an InputError where that fails."""
    try:
        return open(path, "rb", buffering=buffering)  # type: ignore[return-value]
    except FileNotFoundError:
        raise InputError(f"{os.fspath(path)}: no such file") from None
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: can't be read ({error.strerror})") from None


def iter_lines(stream: BinaryIO, first_number: int = 1) -> Iterator[tuple[int, bytes]]:
    """Line number and bytes of the lines that are not blank, without a byte order mark."""
    for number, raw in enumerate(stream, first_number):
        line = raw[3:] if number == 1 and raw.startswith(BOM) else raw
        if line.strip():
            yield number, line


def iter_rows(
    path: str | os.PathLike[str],
    *,
    chunk_rows: int = 50_000,
    offset: int = 0,
    first_number: int = 1,
    skip: int = 0,
    limit: int | None = None,
) -> Iterator[Rows]:
    """Read a file in chunks of exactly `chunk_rows` rows, the last one excepted.

    Parameters
    ----------
    path : path
        The file.
    chunk_rows : int
        Rows in a chunk; blank lines are no rows.
    offset, first_number : int
        Byte at which to start (the start of a line) and the number of that line.
    skip, limit : int
        Rows left out at the start, and most rows to read after them.

    Raises
    ------
    InputError
        If the file can't be opened.
    """
    with open_binary(path) as stream:
        stream.seek(offset)
        lines = islice(
            iter_lines(stream, first_number), skip, None if limit is None else skip + limit
        )
        while chunk := list(islice(lines, chunk_rows)):
            yield Rows(Path(path), [n for n, _ in chunk], [line.split() for _, line in chunk])


def count_lines(path: str | os.PathLike[str]) -> int:
    """Count the lines that are not blank, with or without a final newline."""
    with open_binary(path) as stream:
        return sum(1 for _ in iter_lines(stream))
