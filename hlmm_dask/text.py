"""Rows of white-space separated text files, read in chunks with their line numbers.

One reader for .fam, .bim, phenotype and covariate files, so that they all take the same text:
tabs, spaces or both, LF or CRLF, a byte order mark, blank lines, no final newline. Fields stay
bytes until they are needed: only ASCII white space separates, and a byte that is no UTF-8 can be
reported with its line. What is no such text at all (UTF-16, compressed, binary, CR line ends) is
refused with the command that converts it.
"""

import csv
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hlmm_dask.errors import InputError

BOM = b"\xef\xbb\xbf"
# A field in double quotes, or one without white space.
_FIELD = re.compile(rb'"(?:[^"\\]|\\.|"")*"(?=\s|$)|\S+')
# Stands between lines where they are split.
_END = b" \0 "
# No more digits than int64 has: Python refuses to read thousands.
_INTEGER = re.compile(rb"[+-]?0*[0-9]{1,19}")
_SHORTENED = re.compile(rb"[0-9](\.[0-9]+)?[eE]\+?[0-9]{1,2}")
# UTF-32 goes before UTF-16, whose mark it starts with.
_OTHER_FORMATS = {
    b"\xff\xfe\x00\x00": ("UTF-32 text", "convert it, for example with `iconv -f utf-32 -t utf-8`"),
    b"\x00\x00\xfe\xff": ("UTF-32 text", "convert it, for example with `iconv -f utf-32 -t utf-8`"),
    b"\xff\xfe": ("UTF-16 text", "convert it, for example with `iconv -f utf-16 -t utf-8`"),
    b"\xfe\xff": ("UTF-16 text", "convert it, for example with `iconv -f utf-16 -t utf-8`"),
    b"\x1f\x8b": ("gzip-compressed", "decompress it, for example with `gunzip`"),
    b"\x28\xb5\x2f\xfd": ("zstd-compressed", "decompress it, for example with `unzstd`"),
    b"PK\x03\x04": ("a zip archive or a spreadsheet", "save it as plain text"),
}


@dataclass(frozen=True)
class Lines:
    """Consecutive lines that are not blank.

    Attributes
    ----------
    path : Path
        The file.
    numbers : list of int
        1-based number of each line; blank lines count.
    lines : list of bytes
        The lines.
    end : (int, int)
        Byte offset after the last line, and the number of the next.
    """

    path: Path
    numbers: list[int]
    lines: list[bytes]
    end: tuple[int, int]

    def __len__(self) -> int:
        return len(self.lines)

    def split(self, n_fields: int, what: str) -> "Fields":
        """Split into fields; `what` says what is expected.

        Raises
        ------
        InputError
            At the first line that has not exactly `n_fields` fields.
        """
        # One flat list: a list for each line keeps the garbage collector busy. No line has a NUL.
        tokens = _END.join([*self.lines, b""]).split()
        ends = tokens[n_fields :: n_fields + 1]
        if len(tokens) == (n_fields + 1) * len(self) and ends.count(_END.strip()) == len(self):
            return Fields(self.path, self.numbers, n_fields, tokens)
        found = [len(line.split()) for line in self.lines]
        at = next(i for i, n in enumerate(found) if n != n_fields)
        raise InputError(
            f"{self.path}, line {self.numbers[at]}: {found[at]} fields, "
            f"expected {n_fields} ({what})"
        )


@dataclass(frozen=True)
class Fields:
    """Lines of equal length, split.

    Attributes
    ----------
    path : Path
        The file.
    numbers : list of int
        1-based line number of each row.
    n_fields : int
        Fields in a row.
    tokens : list of bytes
        All fields, row by row, each with a NUL behind it.
    """

    path: Path
    numbers: list[int]
    n_fields: int
    tokens: list[bytes]

    def column(self, index: int) -> list[bytes]:
        """Field `index` of every row."""
        return self.tokens[index :: self.n_fields + 1]

    def strings(self, index: int) -> list[str]:
        """Field `index` of every row as text.

        Raises
        ------
        InputError
            If a field is not UTF-8; the message names the line.
        """
        tokens = self.column(index)
        try:
            # No field has a line end.
            return b"\n".join(tokens).decode().split("\n") if tokens else []
        except UnicodeDecodeError:
            pairs = zip(self.numbers, tokens, strict=True)
            return [decode(token, self.path, number) for number, token in pairs]

    def integers(self, index: int, name: str) -> NDArray[np.int64]:
        """Field `index` of every row as int64; `name` stands in the message of an error."""
        tokens = self.column(index)
        try:
            values: NDArray[np.int64] = pa.array(tokens, pa.string()).cast(pa.int64()).to_numpy()
            # Arrow takes hexadecimal numbers.
            if b"x" not in b"".join(tokens).lower():
                return values
        except pa.ArrowInvalid:
            pass
        result = np.empty(len(tokens), dtype=np.int64)
        for i, token in enumerate(tokens):
            value = int(token) if _INTEGER.fullmatch(token) else None
            if value is None or not -(2**63) <= value < 2**63:
                raise InputError(
                    f"{self.path}, line {self.numbers[i]}: {name} {shown(token)} is not an integer"
                    f"{_in_full(token)}"
                )
            result[i] = value
        return result


def _in_full(token: bytes) -> str:
    """Say how to write a number that R has shortened, as 3e+04; else nothing."""
    if not _SHORTENED.fullmatch(token):
        return ""
    return f"; write it in full, {float(token):.0f} (in R: options(scipen = 100))"


def cells(line: bytes, separator: bytes | None) -> list[bytes]:
    """Split a line into its fields, without quotes."""
    if separator is None:
        if b'"' not in line:
            return line.split()
        return [_unquoted(token) for token in _FIELD.findall(line)]
    line = line.strip(b"\r\n")
    if b'"' not in line:
        return [cell.strip() for cell in line.split(separator)]
    # Latin-1 keeps every byte.
    text, mark = line.decode("latin-1"), separator.decode()
    try:
        row = next(csv.reader([text], delimiter=mark, skipinitialspace=True))
    except csv.Error:
        # A quoted field of more than 128 kB.
        row = text.split(mark)
    return [cell.strip().encode("latin-1") for cell in row]


def _unquoted(token: bytes) -> bytes:
    if len(token) < 2 or not token.startswith(b'"') or not token.endswith(b'"'):
        return token
    return token[1:-1].replace(b'""', b'"').replace(b'\\"', b'"')


def decode(token: bytes, path: str | os.PathLike[str], number: int) -> str:
    """Text of a field; an InputError that names the line where it is not UTF-8."""
    try:
        return token.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: {shown(token)} is not UTF-8 text "
            f"(byte 0x{token[error.start]:02x}); "
            "convert the file, for example with `iconv -f latin1 -t utf-8`"
        ) from None


def shown(token: bytes | str) -> str:
    """Quote a field for a message, on one line, at most 40 characters."""
    text = token.decode(errors="backslashreplace") if isinstance(token, bytes) else token
    return repr(text if len(text) <= 40 else text[:37] + "...")


def open_binary(path: str | os.PathLike[str], *, buffering: int = -1) -> BinaryIO:
    """Open a file for reading; an InputError where that fails."""
    name = os.fspath(path)
    try:
        # A pipe would be empty when it is read again, or wait for ever for a writer.
        if not stat.S_ISREG(os.stat(name).st_mode):
            raise InputError(f"{name}: can't be read (no regular file); expected a file")
        return open(name, "rb", buffering=buffering)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except OSError as error:
        raise InputError(f"{name}: can't be read ({error.strerror})") from None


def open_text(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a text file for reading; an InputError also where it is of another format."""
    with open_binary(path) as stream:
        try:
            start = stream.read(4)
        except OSError as error:
            raise InputError(f"{os.fspath(path)}: can't be read ({error.strerror})") from None
    for mark, (found, remedy) in _OTHER_FORMATS.items():
        if start.startswith(mark):
            raise InputError(f"{os.fspath(path)}: {found}, expected UTF-8 text; {remedy}")
    return open_binary(path)


def _require_text(path: Path, numbers: list[int], lines: list[bytes]) -> None:
    """Refuse NUL bytes, and CR as line end: each would silently make other rows."""
    text = b"".join(lines)
    if b"\0" not in text and b"\r" not in text:
        return
    for number, line in zip(numbers, lines, strict=True):
        if b"\0" in line:
            raise InputError(
                f"{path}, line {number}: a NUL byte, expected UTF-8 text; the file is binary, "
                "damaged or UTF-16 (convert that with `iconv -f utf-16 -t utf-8`)"
            )
        if b"\r" in line.strip():
            raise InputError(
                f"{path}, line {number}: a CR within the line, expected LF or CRLF line ends; "
                "convert the file, for example with `tr '\\r' '\\n'`"
            )


def iter_rows(
    path: str | os.PathLike[str],
    *,
    chunk_rows: int = 50_000,
    offset: int = 0,
    first_number: int = 1,
    skip: int = 0,
    limit: int | None = None,
) -> Iterator[Lines]:
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
        If the file can't be opened or is no text with LF or CRLF line ends.
    """
    with open_text(path) as stream:
        stream.seek(offset)
        number = first_number
        if skip:
            number = _take(stream, number, skip)[2]
        remaining = chunk_rows if limit is None else limit
        while remaining:
            numbers, lines, number = _take(stream, number, min(chunk_rows, remaining))
            if not lines:
                return
            _require_text(Path(path), numbers, lines)
            yield Lines(Path(path), numbers, lines, (stream.tell(), number))
            if limit is not None:
                remaining -= len(lines)


def _take(stream: BinaryIO, number: int, count: int) -> tuple[list[int], list[bytes], int]:
    """Read up to `count` lines that are not blank, from line `number` on; and the next number."""
    numbers: list[int] = []
    lines: list[bytes] = []
    while len(lines) < count and (found := list(islice(stream, count - len(lines)))):
        if number == 1:
            found[0] = found[0].removeprefix(BOM)
        if all(map(bytes.strip, found)):
            lines += found
            numbers += range(number, number + len(found))
        else:
            at = [i for i, line in enumerate(found, number) if line.strip()]
            lines += [found[i - number] for i in at]
            numbers += at
        number += len(found)
    return numbers, lines, number


def layout_notes(path: str | os.PathLike[str], n_rows: int) -> list[str]:
    """Say what is unusual in the layout of a file that is read all the same.

    Parameters
    ----------
    path : path
        The file, not empty.
    n_rows : int
        Its lines that are not blank.

    Returns
    -------
    list of str
        One note, or none.
    """
    found: list[str] = []
    with open_binary(path) as stream:
        start = stream.readline()
        stream.seek(0)
        n_lines, end = 0, b""
        while block := stream.read(1 << 20):
            n_lines += block.count(b"\n")
            end = block[-1:]
    if start.startswith(BOM):
        found.append("a byte order mark")
    if start.endswith(b"\r\n"):
        found.append("CRLF line ends")
    if n_lines + (end != b"\n") > n_rows:
        found.append("blank lines")
    if end != b"\n":
        found.append("no final newline")
    return [f"{os.fspath(path)}: read with {', '.join(found)}"] if found else []
