"""Rows of text files about people: who they are, and the fields that follow.

One reader for phenotypes, covariates, sexes, exposures, random effects, lists of samples and .id
files. It finds separator, header and ID columns, and the quotes and row names that R writes.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hlmm_dask.errors import InputError
from hlmm_dask.ids import NO_FID, Id, require_unique
from hlmm_dask.missing import INFINITE, MISSING_WORDS, NUMBER, Missing
from hlmm_dask.text import Fields, Lines, cells, decode, iter_rows, layout_notes, open_text, shown

_CHUNK_BYTES = 16_000_000
# Names of columns with IDs, as other programs write them.
_ID_NAME = re.compile(
    rb"#?(([a-z]|fam(ily)?|ind(iv(idual)?)?|person|sample|subject|participant)?[._]?e?id"
    rb"|individual|person|sample|subject|participant|member|name)"
)
# A measurement rather than an ID.
_MEASURED = re.compile(r"[+-]?[0-9]*\.[0-9]{2,}([eE][+-]?[0-9]+)?|-[0-9.]+")


@dataclass(frozen=True)
class Layout:
    """How the lines of a file are to be read.

    Attributes
    ----------
    path : Path
        The file.
    separator : bytes or None
        Tab, comma or semicolon; None for white space.
    n_fields : int
        Fields in a line.
    fid : int or None
        Index of the field with the FID; None where the file has none.
    iid : int
        Index of the field with the IID.
    first : int
        Index of the first field after the IDs.
    names : tuple of str
        Names of these fields: from the header, else ``"1"``, ``"2"``, ...
    header : int or None
        Line number of the header.
    named : bool
        Whether it names the ID columns.
    row_names : bool
        Whether each line starts with a row name of R, which the header has not.
    """

    path: Path
    separator: bytes | None
    n_fields: int
    fid: int | None
    iid: int
    first: int
    names: tuple[str, ...]
    header: int | None
    named: bool
    row_names: bool = False

    def notes(self) -> list[str]:
        """Say what was found in the first line."""
        notes: list[str] = []
        if self.header is not None and self.names:
            listed = ", ".join(shown(name) for name in self.names[:5])
            more = ", ..." if len(self.names) > 5 else ""
            taken = "" if self.named else "; its first two are taken as FID and IID"
            notes.append(
                f"{self.path}: line {self.header} is a header, columns {listed}{more}{taken}"
            )
        if self.row_names:
            notes.append(f"{self.path}: the row names of R at the start of each line are left out")
        if self.fid is None:
            notes.append(f"{self.path}: no FID column, people are matched by IID alone")
        return notes


@dataclass(frozen=True)
class PeopleRows:
    """Some rows of a file.

    Attributes
    ----------
    layout : Layout
        How they were read.
    ids : list of (str, str)
        FID and IID of each row; the FID is ``0`` where the file has none.
    fields : Fields
        All of their fields.
    """

    layout: Layout
    ids: list[Id]
    fields: Fields

    @property
    def numbers(self) -> list[int]:
        """Line number of each row."""
        return self.fields.numbers

    def column(self, index: int) -> list[bytes]:
        """Field `index` after the IDs of every row."""
        return self.fields.column(self.layout.first + index)

    def strings(self, index: int) -> list[str]:
        """Return the same as text; an InputError where it is not UTF-8."""
        return self.fields.strings(self.layout.first + index)


@dataclass(frozen=True)
class IdList:
    """People listed in a file.

    Attributes
    ----------
    path : Path
        The file.
    ids : list of (str, str)
        FID and IID; the FID is ``0`` where the file has none.
    has_fid : bool
        Whether the file has FIDs.
    """

    path: Path
    ids: list[Id]
    has_fid: bool


def read_ids(path: str | os.PathLike[str]) -> IdList:
    """Read a list of people: FID and IID, or one column of IIDs; further columns are not read.

    Raises
    ------
    InputError
        If the file is empty, or a person comes twice.
    """
    ids: list[Id] = []
    numbers: list[int] = []
    has_fid = True
    for rows in iter_people(path, values=False):
        ids += rows.ids
        numbers += rows.numbers
        has_fid = rows.layout.fid is not None
    require_unique(path, ids, numbers, "")
    if not ids:
        raise InputError(f"{os.fspath(path)}: empty, expected a line FID IID for each person")
    return IdList(Path(path), ids, has_fid)


def iter_people(
    path: str | os.PathLike[str],
    *,
    missing: Missing | None = None,
    words: Collection[bytes] = (),
    values: bool = True,
) -> Iterator[PeopleRows]:
    """Read the rows of a file in chunks.

    Parameters
    ----------
    path : path
        The file. Its fields are separated by white space, tabs, commas or semicolons. The first
        line is a header if it starts with FID IID, #FID IID, #IID or IID (any case, an SID may
        follow), or if none of the fields after the first two is a number or missing.
    missing : Missing, optional
        Fields that mean missing.
    words : collection of bytes
        Other fields, in lower case, that are values, so no names of columns.
    values : bool
        Whether fields are expected after the IDs.

    Yields
    ------
    PeopleRows

    Raises
    ------
    InputError
        If there are no ID columns, lines have different numbers of fields, an ID is empty, or the
        header line comes again.
    """
    path = Path(path)
    with open_text(path) as stream:
        width = len(stream.readline())
    layout: Layout | None = None
    header: bytes | None = None
    # Tables of random effects are wide, and fields take ten times their text while they are read.
    for lines in iter_rows(path, chunk_rows=max(2, min(50_000, _CHUNK_BYTES // (width + 1)))):
        if layout is None:
            known = {*MISSING_WORDS, *words}
            layout = _layout(lines, missing or Missing(), known, values=values)
            if layout.header is not None:
                header = lines.lines[0]
                lines = replace(lines, numbers=lines.numbers[1:], lines=lines.lines[1:])
        if lines.lines:
            _refuse_header(lines, layout, header)
            yield _rows(lines, layout)


def file_notes(layout: Layout, n_rows: int) -> list[str]:
    """Say what was found in a file of `n_rows` people."""
    n_lines = n_rows + (layout.header is not None)
    return [*layout.notes(), *layout_notes(layout.path, n_lines)]


def named_ids(first: list[bytes]) -> dict[bytes, int]:
    """Give the places of ``fid``, ``iid`` and ``sid`` in a header; nothing where it is none."""
    # R with col.names = NA, R's write.csv and pandas: the header of the row names is empty.
    start = 1 if not first[0] and len(first) > 1 else 0
    places: dict[bytes, int] = {}
    for j, cell in enumerate(first[start:], start):
        name = cell.lower()
        name = name.lstrip(b"#") if j == start else name
        if name not in (b"fid", b"iid", b"sid") or name in places:
            break
        places[name] = j
    return places if b"iid" in places else {}


def _separator(lines: list[bytes], least: int) -> bytes | None:
    """Find what separates the fields; at least so many are expected."""
    first = lines[0]
    words = first.split()
    if b"\t" in first and words:
        # Runs of tabs, or tabs and spaces, may be one separator: if all lines then agree.
        if _plain_tabs(b"".join(lines)):
            return b"\t"
        mixed = len({len(cells(line, None)) for line in lines}) == 1
        alike = len({line.count(b"\t") for line in lines}) == 1
        return b"\t" if alike and not mixed else None
    for mark in (b";", b","):
        if mark not in first:
            continue
        if named_ids(cells(first, mark)):
            return mark
        if len(words) < least or all(word.endswith(mark) for word in words[:-1]):
            return mark
    return None


def _layout(lines: Lines, missing: Missing, words: Collection[bytes], *, values: bool) -> Layout:
    path, number = lines.path, lines.numbers[0]
    separator = _separator(lines.lines, 3 if values else 2)
    first = cells(lines.lines[0], separator)
    n_fields, row_names = len(first), False
    places = named_ids(first)
    if places:
        start = 1 + max(places.values())
        if len(lines) > 1 and len(cells(lines.lines[1], separator)) == n_fields + 1:
            _require_row_names(lines, separator, n_fields)
            row_names = True
        header = True
    else:
        places = {b"iid": 0} if n_fields == 1 else {b"fid": 0, b"iid": 1}
        start = len(places)
        header = (
            values and n_fields > 2 and not any(_is_value(c, missing, words) for c in first[2:])
        )
        if header and {b"iid", b"#iid"} & {cell.lower() for cell in first}:
            raise InputError(
                f"{path}, line {number}: the columns FID and IID are not the first of the header; "
                "put them first"
            )
        if values and n_fields > 2:
            _refuse_id_names(path, number, first, header=header)
    if values and n_fields <= start:
        raise InputError(
            f"{path}, line {number}: {n_fields} fields, expected at least 3 (FID IID value), or a "
            "first line `#IID NAME` where people have no FID"
        )
    cut = first[start:]
    names = tuple(str(i) for i in range(1, len(cut) + 1))
    if header and values:
        names = tuple(decode(c, path, number) or i for i, c in zip(names, cut, strict=True))
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise InputError(
                f"{path}, line {number}: column name {shown(name)} comes {count} times; "
                "names must be unique"
            )
    fid = places.get(b"fid")
    return Layout(
        path=path,
        separator=separator,
        n_fields=n_fields + row_names,
        fid=None if fid is None else fid + row_names,
        iid=places[b"iid"] + row_names,
        first=start + row_names,
        names=names,
        header=number if header else None,
        named=header and bool(named_ids(first)),
        row_names=row_names,
    )


def _is_value(cell: bytes, missing: Missing, words: Collection[bytes]) -> bool:
    return (
        missing.means(cell)
        or cell.lower() in words
        # Also with a decimal comma: refused later, as a number.
        or bool(NUMBER.fullmatch(cell.replace(b",", b".")) or INFINITE.fullmatch(cell))
    )


def _refuse_id_names(path: Path, number: int, first: list[bytes], *, header: bool) -> None:
    """Refuse a first line that names one ID column, or IDs and numbers, without FID or IID."""
    one, two = (bool(_ID_NAME.fullmatch(cell.lower())) for cell in first[:2])
    if two == header or not (one or two):
        return
    found = " ".join(shown(cell) for cell in first[:3])
    raise InputError(
        f"{path}, line {number}: {found} looks like a header; name its ID columns FID IID, or "
        "#IID where people have no FID"
    )


def _require_row_names(lines: Lines, separator: bytes | None, n_fields: int) -> None:
    """Refuse lines with one field more than the header, unless that is a row name."""
    rows = lines.lines[1:]
    quoted = all(row.lstrip().startswith(b'"') for row in rows)
    counted = all(
        cells(row, separator)[0] == str(i).encode() for i, row in enumerate(rows[:100], 1)
    )
    if not (quoted or counted):
        raise InputError(
            f"{lines.path}, line {lines.numbers[1]}: {n_fields + 1} fields, but {n_fields} names "
            "in the header; name all columns (row names of R: write.table(..., row.names = FALSE))"
        )


def _rows(lines: Lines, layout: Layout) -> PeopleRows:
    fields = _split(lines, layout)
    iids = fields.strings(layout.iid)
    fids = [NO_FID] * len(iids) if layout.fid is None else fields.strings(layout.fid)
    for column in (fids, iids):
        if "" in column:
            number = lines.numbers[column.index("")]
            raise InputError(f"{layout.path}, line {number}: an empty ID, expected FID and IID")
    if not layout.named and layout.names:
        _refuse_measured(layout, iids, lines.numbers)
    return PeopleRows(layout, list(zip(fids, iids, strict=True)), fields)


def _refuse_header(lines: Lines, layout: Layout, header: bytes | None) -> None:
    """Refuse a header in the middle: of tables that were joined."""
    if header not in lines.lines and b"iid" not in b"".join(lines.lines).lower():
        return
    for number, line in zip(lines.numbers, lines.lines, strict=True):
        named = b"iid" in line.lower() and named_ids(cells(line, layout.separator))
        if line == header or named:
            raise InputError(
                f"{layout.path}, line {number}: a header line in the middle of the file; it was "
                "joined from several tables: remove the line, if their columns are the same"
            )


def _refuse_measured(layout: Layout, iids: list[str], numbers: list[int]) -> None:
    """Refuse measurements in the place of the IID, if no header says that they are IDs."""
    at = [i for i, iid in enumerate(iids) if _MEASURED.fullmatch(iid)]
    if 2 * len(at) <= len(iids):
        return
    raise InputError(
        f"{layout.path}, line {numbers[at[0]]}: {shown(iids[at[0]])} stands where the IID is "
        "expected; name the ID columns in the first line: FID IID NAME, or #IID NAME without FIDs"
    )


def _split(lines: Lines, layout: Layout) -> Fields:
    n, separator = layout.n_fields, layout.separator
    what = "as in the first line; write a missing token such as NA for a value that is missing"
    text = b"".join(lines.lines)
    simple = b'"' not in text and (separator is None or (separator == b"\t" and _plain_tabs(text)))
    if simple:
        return lines.split(n, what)
    tokens: list[bytes] = []
    for number, line in zip(lines.numbers, lines.lines, strict=True):
        found = cells(line, separator)
        if len(found) != n and separator == b"\t":
            found = cells(line, None)
        if len(found) != n:
            raise InputError(
                f"{layout.path}, line {number}: {len(found)} fields, expected {n} ({what})"
            )
        tokens += [*found, b"\0"]
    return Fields(layout.path, lines.numbers, n, tokens)


def _plain_tabs(text: bytes) -> bool:
    """Whether tabs alone separate the fields, and none is empty."""
    gaps = any(gap in text for gap in (b" ", b"\t\t", b"\t\n", b"\t\r", b"\n\t"))
    return not gaps and text.strip(b"\t") == text
