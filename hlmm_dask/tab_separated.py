"""Tab-separated text that R and pandas read right with their defaults.

All text tables of this program are written here. A field with a quote (double or single), ``#``, a
tab or a line end is put into double quotes, and each double quote in it is doubled (RFC 4180).
R's ``read.delim``, its ``read.table`` with a tab as the separator, and pandas' ``read_csv`` with a
tab take these quotes off. Other fields are written as they are. Numbers are the shortest text that
reads back to the same double; no value is ``NaN``.
"""

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

# R takes ' for a quote and # for a comment in read.table.
_SPECIAL = "\"'#\t\r\n"
_PATTERN = f"[{_SPECIAL}]"


def quoted(text: str) -> str:
    """Return a field as it is written."""
    if re.search(_PATTERN, text) is None:
        return text
    return '"' + text.replace('"', '""') + '"'


def line(fields: Iterable[str]) -> str:
    """Return fields as a line with its end."""
    return "\t".join(map(quoted, fields)) + "\n"


def lines_of(table: pa.Table) -> memoryview:
    """Return the rows of a table, without the names of its columns, as UTF-8 text."""
    columns = [_strings(column.combine_chunks()) for column in table.columns]
    tab, newline, nothing = (pa.scalar(text, pa.large_string()) for text in ("\t", "\n", ""))
    columns[-1] = pc.binary_join_element_wise(columns[-1], newline, nothing)
    lines = pc.binary_join_element_wise(*columns, tab)
    # The strings of an array lie end to end: its buffer is the text.
    offsets = np.frombuffer(lines.buffers()[1], np.int64)[lines.offset :]
    return memoryview(lines.buffers()[2])[offsets[0] : offsets[len(lines)]]


def text_of(frame: pd.DataFrame, *, header: bool = True) -> bytes:
    """Return a table as UTF-8 text, by default with the names of its columns in the first line."""
    first = line(map(str, frame.columns)).encode() if header else b""
    if not len(frame):
        return first
    return first + bytes(lines_of(pa.Table.from_pandas(frame, preserve_index=False)))


def _strings(column: pa.Array) -> pa.Array:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    is_text = pa.types.is_large_string(column.type) or pa.types.is_string(column.type)
    text = column.cast(pa.large_string())
    if is_text and _has_special(text):
        doubled = pc.replace_substring(text, '"', '""')
        marks = pa.scalar('"', pa.large_string()), pa.scalar("", pa.large_string())
        around = pc.binary_join_element_wise(marks[0], doubled, marks[0], marks[1])
        text = pc.if_else(pc.match_substring_regex(text, _PATTERN), around, text)
    return pc.fill_null(text, "NaN")


def _has_special(text: pa.Array) -> bool:
    """Whether any string may have a special character: a quick look at all of them at once."""
    data = text.buffers()[2]
    content = b"" if data is None else data.to_pybytes()
    return any(character.encode() in content for character in _SPECIAL)
