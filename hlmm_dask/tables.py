"""Tables of numbers of people: phenotypes, covariates, random effects."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.ids import Id, require_unique, with_fids
from hlmm_dask.missing import INFINITE, MISSING_WORDS, NAN, NUMBER, Missing, MissingLike
from hlmm_dask.people import Layout, PeopleRows, file_notes, iter_people
from hlmm_dask.text import shown

Columns = str | int | Sequence[str | int]
_POSITION = re.compile("[0-9]{1,9}")
_SPAN = re.compile("([0-9]{1,9})-([0-9]{1,9})")
_NAME = "name:"
_DECIMAL_COMMA = re.compile(rb"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")
_WORD = re.compile(rb"[A-Za-z_\x80-\xff].*", re.DOTALL)
# Sums of squares stay finite.
_LARGEST = 1e150


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
    has_fid : bool
        Whether the file has FIDs; without, people are matched by IID alone.
    """

    path: Path
    ids: list[Id]
    names: tuple[str, ...]
    values: NDArray[np.float64]
    line_numbers: NDArray[np.int64]
    notes: tuple[str, ...] = ()
    has_fid: bool = True

    def column(self, selector: str | int) -> tuple[str, NDArray[np.float64]]:
        """Choose one column by position or name; see `choose_columns`.

        Returns
        -------
        name : str
        values : (n_rows,) float64

        Raises
        ------
        InputError
            If there is no such column, or the selector chooses several.
        """
        index, *others = choose_columns(self.path, self.names, selector)
        if others:
            raise InputError(
                f"{self.path}: {shown(str(selector))} chooses {1 + len(others)} columns, "
                "expected one"
            )
        return self.names[index], self.values[:, index]

    def matched_to(self, *references: tuple[str, Iterable[Id]]) -> "Table":
        """Return the table with FIDs, found by IID in the references if the file has none."""
        if self.has_fid:
            return self
        return replace(self, ids=with_fids(self.path, self.ids, references), has_fid=True)


def by_name(name: str) -> str:
    """Return the selector of the column with a name, which may be a number."""
    return f"{_NAME}{name}"


def choose_columns(
    path: str | os.PathLike[str], names: Sequence[str], columns: Columns
) -> list[int]:
    """Find columns of a table.

    Parameters
    ----------
    path : path
        The file, for messages.
    names : sequence of str
        Names of its columns after the IDs.
    columns : int, str or sequence of these
        A position from 1, a name, ``all``, or several with commas as in ``age,3,5-8``. A number
        is a position; ``name:3`` is the column whose name is 3.

    Returns
    -------
    list of int
        Index of each column, each once, in the order given.

    Raises
    ------
    InputError
        If there are no such columns; the message names all of them.
    """
    index = {name: i for i, name in enumerate(names)}
    chosen: list[int] = []
    wrong: list[str] = []

    def position(number: int) -> None:
        if 1 <= number <= len(names):
            chosen.append(number - 1)
        else:
            wrong.append(str(number))

    def named(text: str) -> bool:
        # Without the prefix a number is a position.
        number = text == "all" or _POSITION.fullmatch(text) or _SPAN.fullmatch(text)
        name = text.removeprefix(_NAME) if number or text not in index else text
        if name not in index or (number and name == text):
            return False
        chosen.append(index[name])
        return True

    for item in [columns] if isinstance(columns, str | int) else columns:
        if isinstance(item, int):
            position(item)
        elif item == "all":
            chosen += range(len(names))
        # As a whole: names may have commas.
        elif not named(item):
            for part in map(str.strip, item.split(",")):
                span = _SPAN.fullmatch(part)
                if _POSITION.fullmatch(part):
                    position(int(part))
                elif span and int(span[1]) > int(span[2]):
                    raise InputError(
                        f"{os.fspath(path)}: no columns {part}, expected the smaller number first"
                    )
                elif span:
                    for number in range(int(span[1]), min(int(span[2]), len(names) + 1) + 1):
                        position(number)
                elif not named(part):
                    wrong.append(part)
    if wrong or not chosen:
        _refuse_columns(path, names, wrong)
    return list(dict.fromkeys(chosen))


def _refuse_columns(
    path: str | os.PathLike[str], names: Sequence[str], wrong: Sequence[str]
) -> None:
    listed = ", ".join(f"{i} {shown(n)}" for i, n in enumerate(names[:20], 1))
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    lacking = ", ".join(map(shown, dict.fromkeys(wrong)))
    same = next((text for text in wrong if text in names), None)
    hint = "" if same is None else f"; a number is a position, {by_name(same)} is a name"
    raise InputError(
        f"{os.fspath(path)}: no column {lacking or 'is chosen'}, expected one of "
        f"{listed}{more}{hint}"
    )


def read_table(
    path: str | os.PathLike[str],
    *,
    columns: Columns = "all",
    missing: MissingLike = (),
) -> Table:
    """Read a table of FID, IID and values; see `people` for the forms that are understood.

    Parameters
    ----------
    path : path
        The file.
    columns : int, str or sequence of these
        Which columns to read, see `choose_columns`; the others may hold text.
    missing : str or sequence of str
        Fields that mean missing besides NA, NaN (in any case), ``.`` and the empty field; a
        number among them is compared as a number, too.

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
    tokens = Missing.of(missing)
    ids: list[Id] = []
    blocks: list[NDArray[np.float64]] = []
    numbers: list[int] = []
    layout: Layout | None = None
    chosen: list[int] = []
    for rows in iter_people(path, missing=tokens):
        if layout is None:
            layout = rows.layout
            chosen = choose_columns(path, layout.names, columns)
        ids += rows.ids
        numbers += rows.numbers
        blocks.append(_values(rows, chosen, tokens))
    if layout is None:
        raise InputError(
            f"{os.fspath(path)}: empty, or a header but no rows; expected lines of FID IID value"
        )
    require_unique(path, ids, numbers, "")
    return Table(
        path=Path(path),
        ids=ids,
        names=tuple(layout.names[j] for j in chosen),
        values=np.concatenate(blocks),
        line_numbers=np.array(numbers, dtype=np.int64),
        notes=tuple(file_notes(layout, len(ids))),
        has_fid=layout.fid is not None,
    )


def read_column(
    path: str | os.PathLike[str],
    column: str | int,
    *,
    missing: MissingLike = (),
) -> Table:
    """Read one column of a table; as `read_table`.

    Raises
    ------
    InputError
        Also if ``column`` chooses several.
    """
    return of_one_column(read_table(path, columns=column, missing=missing), column)


def of_one_column(table: Table, column: str | int) -> Table:
    """Return the table; an `InputError` if ``column`` has chosen several."""
    if len(table.names) > 1:
        listed = ", ".join(map(shown, table.names[:10]))
        raise InputError(
            f"{table.path}: {shown(str(column))} chooses {len(table.names)} columns, expected one "
            f"of {listed}"
        )
    return table


def _values(rows: PeopleRows, chosen: list[int], missing: Missing) -> NDArray[np.float64]:
    block = np.empty((len(rows.ids), len(chosen)))
    wrong: dict[str, InputError] = {}
    for k, j in enumerate(chosen):
        name = rows.layout.names[j]
        try:
            block[:, k] = _numbers(rows, j, name, missing)
        except InputError as error:
            wrong[name] = error
    if wrong:
        first, *others = wrong
        listed = ", ".join(map(shown, others[:20])) + (", ..." if len(others) > 20 else "")
        more = f"; nor can these columns be used: {listed}" if others else ""
        raise InputError(f"{wrong[first]}{more}")
    return block


def _numbers(rows: PeopleRows, index: int, name: str, missing: Missing) -> NDArray[np.float64]:
    tokens = rows.column(index)
    try:
        text = pa.array(tokens, pa.string())
        absent = pc.is_in(text, value_set=pa.array(sorted(missing.tokens), pa.string()))
        kept = pc.if_else(absent, pa.scalar(None, pa.string()), text)
        values = np.array(kept.cast(pa.float64()).to_numpy(zero_copy_only=False))
        # Arrow takes more for NaN than we do: "nan(1)".
        unnamed = np.isnan(values) & ~absent.to_numpy(zero_copy_only=False)
        if not all(NAN.fullmatch(tokens[i]) for i in np.flatnonzero(unnamed)):
            raise pa.ArrowInvalid
    except pa.ArrowInvalid:
        # Also where a number is written as arrow doesn't read it: "+1".
        values = np.empty(len(tokens))
        for i, token in enumerate(tokens):
            if missing.means(token):
                values[i] = np.nan
            elif NUMBER.fullmatch(token) or INFINITE.fullmatch(token):
                values[i] = float(token)
            else:
                raise InputError(f"{_place(rows, i, name)}: {_no_number(token)}") from None
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        i = int(infinite[0])
        raise InputError(
            f"{_place(rows, i, name)}: {shown(tokens[i])} is "
            "infinite, expected a finite number or a missing token (NA)"
        )
    for number in missing.numbers:
        values[values == number] = np.nan
    large = np.flatnonzero(np.abs(values) > _LARGEST)
    if len(large):
        i = int(large[0])
        raise InputError(
            f"{_place(rows, i, name)}: {shown(tokens[i])} is too "
            f"large to square, expected at most {_LARGEST:g}; change the unit"
        )
    return values


def _place(rows: PeopleRows, row: int, name: str) -> str:
    return f"{rows.layout.path}, line {rows.numbers[row]}, column {shown(name)}"


def _no_number(token: bytes) -> str:
    """Say what a field is that is neither a number nor missing, and what to do."""
    found = f"{shown(token)} is not a number"
    if _DECIMAL_COMMA.fullmatch(token):
        return f"{found} but has a decimal comma; write numbers with a decimal point"
    if _WORD.fullmatch(token) and token.lower() not in MISSING_WORDS:
        return (
            f"{found} but text: a category, no missing value; code categories by columns of 0 and "
            "1, or choose other columns"
        )
    return f"{found}; if it means missing, give --missing-char {shown(token)}"
