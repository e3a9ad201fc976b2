"""Phenotype and covariate tables: FID, IID, values, separated by white space."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.ids import require_unique
from hlmm_dask.text import (
    Fields,
    Lines,
    decode,
    iter_rows,
    layout_notes,
    open_text,
    shown,
)

# Other programs' missing values: in a first line they are no names of columns.
_NO_NAMES = {b".", b"-", b"?", b"n/a", b"null", b"none"}
_NUMBER = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_COLUMN = re.compile("[0-9]{1,9}")
_SPAN = re.compile("([0-9]{1,9})-([0-9]{1,9})")
_NAN = re.compile(rb"[+-]?nan", re.IGNORECASE)
_INFINITE = re.compile(rb"[+-]?inf(inity)?", re.IGNORECASE)
_CHUNK_BYTES = 16_000_000
# Sums of squares stay finite.
_LARGEST = 1e150
_MINUS_NINE_SHARE = 0.01


@dataclass(frozen=True)
class Table:
    """Values of people, in the order of the file.

    Attributes
    ----------
    path : Path
        The file.
    ids : list of (str, str)
        FID and IID of each row.
    names : tuple of str
        Names of the columns: from the header, else ``"1"``, ``"2"``, ...
    values : (n_rows, n_columns) float64
        Values; NaN where missing.
    line_numbers : (n_rows,) int64
        1-based line of each row in the file.
    notes : tuple of str
        What was found and taken care of while reading.
    """

    path: Path
    ids: list[tuple[str, str]]
    names: tuple[str, ...]
    values: NDArray[np.float64]
    line_numbers: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def select(self, text: str) -> list[str]:
        """Choose columns: a name, ``all``, or names and 1-based numbers as in ``1,3,5-8``.

        Returns
        -------
        list of str
            Names of the columns, each once, in the order given.

        Raises
        ------
        InputError
            If there is no such column.
        """
        if text in self.names:
            return [text]
        if text == "all":
            return list(self.names)
        chosen: list[str] = []
        for item in text.split(","):
            span = _SPAN.fullmatch(item.strip())
            if item not in self.names and span:
                first, last = int(span[1]), int(span[2])
                if first > last:
                    raise InputError(
                        f"{self.path}: no columns {first}-{last}, expected the smaller number first"
                    )
                chosen += [self.column(i)[0] for i in range(first, last + 1)]
            else:
                chosen.append(self.column(item.strip())[0])
        return list(dict.fromkeys(chosen))

    def only(self, text: str) -> "Table":
        """Return the table with the columns that `select` chooses."""
        names = self.select(text)
        at = [self.names.index(name) for name in names]
        return replace(self, names=tuple(names), values=self.values[:, at])

    def column(self, selector: str | int) -> tuple[str, NDArray[np.float64]]:
        """Choose a column.

        Parameters
        ----------
        selector : str or int
            Name, or 1-based number among the value columns. Text that is no name but a number
            is a number.

        Returns
        -------
        name : str
        values : (n_rows,) float64

        Raises
        ------
        InputError
            If there is no such column.
        """
        index = None
        if isinstance(selector, str) and selector in self.names:
            index = self.names.index(selector)
        elif isinstance(selector, int) or _COLUMN.fullmatch(selector):
            index = int(selector) - 1
        if index is None or not 0 <= index < len(self.names):
            listed = ", ".join(f"{i} {shown(n)}" for i, n in enumerate(self.names[:20], 1))
            more = f" and {len(self.names) - 20} more" if len(self.names) > 20 else ""
            raise InputError(
                f"{self.path}: no column {shown(str(selector))}, expected one of {listed}{more}"
            )
        return self.names[index], self.values[:, index]


def read_table(path: str | os.PathLike[str], *, missing: Sequence[str] = ("NA",)) -> Table:
    """Read a table of FID, IID and values.

    Fields are separated by tabs, spaces or both. The first line is a header if it starts with
    FID IID (in any case, ``#FID`` too) or if none of its value fields is a number or missing.

    Parameters
    ----------
    path : path
        The file.
    missing : sequence of str
        Tokens that mean missing; a number among them is compared as a number, too. ``NaN`` (in
        any case, signed or not) is always missing.

    Returns
    -------
    Table

    Raises
    ------
    InputError
        If the file is empty, has no value column, rows of different length, a token that is
        neither a number nor missing, a value that is infinite or above 1e150, or a (FID, IID)
        twice.
    """
    path = Path(path)
    tokens = _MissingTokens.of(missing)
    names: tuple[str, ...] | None = None
    ids: list[tuple[str, str]] = []
    blocks: list[NDArray[np.float64]] = []
    numbers: list[int] = []
    notes: list[str] = []
    with open_text(path) as stream:
        width = len(stream.readline())
    # Tables of random effects are wide, and fields take ten times their text while they are read.
    for lines in iter_rows(path, chunk_rows=max(1, min(50_000, _CHUNK_BYTES // (width + 1)))):
        if names is None:
            names, has_header = _header(lines, tokens)
            if has_header:
                listed = ", ".join(shown(name) for name in names[:5])
                more = ", ..." if len(names) > 5 else ""
                notes.append(f"{path}: line {lines.numbers[0]} is a header, columns {listed}{more}")
                lines = replace(lines, numbers=lines.numbers[1:], lines=lines.lines[1:])
        rows = lines.split(
            2 + len(names),
            "as in the first line; write a missing token such as NA for a value that is missing",
        )
        ids += zip(rows.strings(0), rows.strings(1), strict=True)
        numbers += rows.numbers
        block = np.empty((len(lines), len(names)))
        for j, name in enumerate(names):
            block[:, j] = _numbers(rows, j + 2, name, tokens)
        blocks.append(block)
    if names is None or not ids:
        found = "empty" if names is None else "a header but no rows"
        raise InputError(f"{path}: {found}, expected lines of FID IID value ...")
    require_unique(path, ids, numbers, "")
    return Table(
        path=path,
        ids=ids,
        names=names,
        values=np.concatenate(blocks),
        line_numbers=np.array(numbers, dtype=np.int64),
        notes=(*notes, *layout_notes(path, len(ids) + len(notes))),
    )


def minus_nine_note(name: str, values: NDArray[np.float64]) -> str | None:
    """Warn of -9 that may stand for missing.

    Parameters
    ----------
    name : str
        How the message names the column.
    values : (n,) float64
        Its values.

    Returns
    -------
    str or None
        A warning if -9 comes more than once, makes at least 1 % of the values and is not the
        only value.
    """
    n_values = int(np.count_nonzero(~np.isnan(values)))
    count = int(np.count_nonzero(values == -9))
    if count < 2 or count == n_values or count < _MINUS_NINE_SHARE * n_values:
        return None
    return (
        f"{name}: {count} of {n_values} values are -9, taken as a number; if it means missing, "
        "name it as the missing token (--missing_char -9)"
    )


@dataclass(frozen=True)
class _MissingTokens:
    """The tokens that mean missing, and the numbers that they are."""

    tokens: frozenset[bytes]
    numbers: tuple[float, ...]

    @classmethod
    def of(cls, missing: Sequence[str]) -> "_MissingTokens":
        given = (missing,) if isinstance(missing, str) else missing
        # An argument that is no UTF-8 can stand for a token of a Latin-1 file.
        tokens = frozenset(os.fsencode(token) for token in given)
        numbers = tuple(float(token) for token in tokens if _NUMBER.fullmatch(token))
        return cls(tokens | {b'""'}, numbers)


def _header(lines: Lines, missing: _MissingTokens) -> tuple[tuple[str, ...], bool]:
    """Names of the columns, and whether the first row is a header."""
    first, number = lines.lines[0].split(), lines.numbers[0]
    if len(first) < 3:
        raise InputError(
            f"{lines.path}, line {number}: {len(first)} fields, expected at least 3 (FID IID value)"
        )
    cells = first[2:]
    is_header = first[0].lstrip(b"#").lower() == b"fid" and first[1].lower() == b"iid"
    is_header = is_header or not any(
        cell in missing.tokens
        or _NAN.fullmatch(cell)
        or cell.lower() in _NO_NAMES
        or _NUMBER.fullmatch(cell)
        or _INFINITE.fullmatch(cell)
        for cell in cells
    )
    if not is_header:
        return tuple(str(i) for i in range(1, len(cells) + 1)), False
    names = tuple(decode(cell, lines.path, number) for cell in cells)
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{lines.path}, line {number}: column name {shown(name)} comes {count} times; "
            "names must be unique"
        )
    return names, True


def _numbers(rows: Fields, index: int, name: str, missing: _MissingTokens) -> NDArray[np.float64]:
    tokens = rows.column(index)
    try:
        text = pa.array(tokens, pa.string())
        absent = pc.is_in(text, value_set=pa.array(sorted(missing.tokens), pa.string()))
        kept = pc.if_else(absent, pa.scalar(None, pa.string()), text)
        values = np.array(kept.cast(pa.float64()).to_numpy(zero_copy_only=False))
        # Arrow takes more for NaN than we do: "nan(1)".
        unnamed = np.isnan(values) & ~absent.to_numpy(zero_copy_only=False)
        if not all(_NAN.fullmatch(tokens[i]) for i in np.flatnonzero(unnamed)):
            raise pa.ArrowInvalid
    except pa.ArrowInvalid:
        # Also where a number is written as arrow doesn't read it: "+1".
        values = np.empty(len(tokens))
        for i, token in enumerate(tokens):
            if token in missing.tokens or _NAN.fullmatch(token):
                values[i] = np.nan
            elif _NUMBER.fullmatch(token) or _INFINITE.fullmatch(token):
                values[i] = float(token)
            else:
                raise InputError(
                    f"{rows.path}, line {rows.numbers[i]}, column {shown(name)}: {shown(token)} "
                    "is not a number; if it means missing, name it as the missing token"
                ) from None
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        i = int(infinite[0])
        raise InputError(
            f"{rows.path}, line {rows.numbers[i]}, column {shown(name)}: {shown(tokens[i])} is "
            "infinite, expected a finite number or a missing token (NA)"
        )
    for number in missing.numbers:
        values[values == number] = np.nan
    large = np.flatnonzero(np.abs(values) > _LARGEST)
    if len(large):
        i = int(large[0])
        raise InputError(
            f"{rows.path}, line {rows.numbers[i]}, column {shown(name)}: {shown(tokens[i])} is too "
            f"large to square, expected at most {_LARGEST:g}; change the unit"
        )
    return values
