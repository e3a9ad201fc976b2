"""Tables of people as Python gives them: paths, tables that are read, DataFrames and Series."""

import math
import os
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.foreign_dataset import texts
from hlmm_dask.ids import NO_FID, require_unique
from hlmm_dask.missing import NUMBER, Missing, MissingLike
from hlmm_dask.tables import Columns, Table, choose_columns, of_one_column, read_table
from hlmm_dask.text import shown

if TYPE_CHECKING:
    _Series: TypeAlias = pd.Series[Any]
else:
    _Series = pd.Series
TableSource: TypeAlias = str | os.PathLike[str] | Table | pd.DataFrame | _Series

_FID = ("fid", "#fid", "sample_family_id")
_IID = ("iid", "#iid", "sample_id")
_PATH = Path("the DataFrame")
# Sums of squares stay finite.
_LARGEST = 1e150


def as_table(source: TableSource, *, missing: MissingLike = (), columns: Columns = "all") -> Table:
    """Read a table, or take it from memory.

    Parameters
    ----------
    source : path, Table, DataFrame or Series
        A DataFrame has columns FID and IID, IID alone, or both as its index; a Series has them as
        its index. Without FIDs people are matched by IID.
    missing : str or sequence of str
        As for `read_table`.
    columns : int, str or sequence of these
        Columns that are taken of a file or a DataFrame; a Table is returned as it is.

    Raises
    ------
    InputError
        If it can't be read, has no IDs, or its values are no numbers.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, pd.Series):
        source = source.to_frame("1" if source.name is None else source.name)
    if isinstance(source, pd.DataFrame):
        return _of_frame(source, Missing.of(missing), columns)
    if isinstance(source, str | os.PathLike):
        return read_table(source, columns=columns, missing=missing)
    raise InputError(
        f"a table is given as {type(source).__name__}, expected a path, or a DataFrame or Series "
        "with the people's IDs (columns or index FID, IID)"
    )


def one_column(source: TableSource, column: str | int, *, missing: MissingLike = ()) -> Table:
    """Read one column of what `as_table` takes.

    Raises
    ------
    InputError
        As `as_table`; also if ``column`` chooses several.
    """
    return of_one_column(as_table(source, missing=missing, columns=column), column)


def _of_frame(frame: pd.DataFrame, missing: Missing, columns: Columns) -> Table:
    fid, iid, rest = _ids(frame)
    ids = [(NO_FID if fid is None else fid[i], iid[i]) for i in range(len(iid))]
    if not ids:
        raise InputError(f"{_PATH}: no rows, expected one a person")
    rows = np.arange(1, len(ids) + 1)
    require_unique(_PATH, ids, rows.tolist(), "")
    names = [str(rest.columns[i]) for i in range(rest.shape[1])]
    if not names:
        raise InputError(f"{_PATH}: no column besides the IDs, expected a value for each person")
    chosen = choose_columns(_PATH, names, columns)
    values = np.empty((len(ids), len(chosen)))
    for k, j in enumerate(chosen):
        values[:, k] = _numbers(rest.iloc[:, j], names[j], iid, missing)
    for number in missing.numbers:
        values[values == number] = np.nan
    return Table(_PATH, ids, tuple(names[j] for j in chosen), values, rows, has_fid=fid is not None)


def _ids(
    frame: pd.DataFrame,
) -> tuple[NDArray[np.object_] | None, NDArray[np.object_], pd.DataFrame]:
    """FIDs, if there are any, IIDs, and the columns with values."""
    fid, iid = (
        next((i for i, name in enumerate(frame.columns) if _is(name, known)), None)
        for known in (_FID, _IID)
    )
    if iid is not None:
        rest = frame.drop(columns=[frame.columns[i] for i in (fid, iid) if i is not None])
        columns = [None if i is None else frame.iloc[:, i].to_numpy() for i in (fid, iid)]
        return _texts(columns[0], "FID"), _required(columns[1]), rest
    index = frame.index
    levels = [index.get_level_values(i) for i in range(index.nlevels)]
    first = levels[0]
    if fid is None and index.nlevels == 2:
        if _is(index.names[0], _IID) and _is(index.names[1], _FID):
            levels.reverse()
        return _texts(levels[0].to_numpy(), "FID"), _required(levels[1].to_numpy()), frame
    named = _is(index.name, _IID) or pd.api.types.is_string_dtype(first.dtype)
    if fid is None and index.nlevels == 1 and (named or first.dtype == object):
        return None, _required(first.to_numpy()), frame
    raise InputError(
        f"{_PATH}: no column or index with the people's IDs (it has columns "
        f"{', '.join(shown(str(name)) for name in frame.columns[:5])}); expected columns FID and "
        "IID, or an index of them"
    )


def _is(name: Hashable, known: tuple[str, ...]) -> bool:
    return isinstance(name, str) and name.lower() in known


def _texts(values: NDArray[Any] | None, what: str) -> NDArray[np.object_] | None:
    return None if values is None else texts(values, f"{_PATH}, {what}")


def _required(values: NDArray[Any] | None) -> NDArray[np.object_]:
    assert values is not None
    return texts(values, f"{_PATH}, IID")


def _numbers(
    column: "pd.Series[Any]", name: str, iid: NDArray[np.object_], missing: Missing
) -> NDArray[np.float64]:
    where = f"{_PATH}, column {shown(name)}"
    if pd.api.types.is_numeric_dtype(column.dtype) and column.dtype.kind != "c":
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        items = [_number(value, where, missing) for value in column.tolist()]
        values = np.array(items, dtype=np.float64)
    large = np.abs(np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)) > _LARGEST
    if large.any():
        at = int(large.argmax())
        raise InputError(
            f"{where}: {values[at]:g} of {shown(iid[at])}, expected a finite number up to "
            f"{_LARGEST:g}, or NaN where missing"
        )
    return values


def _number(value: object, where: str, missing: Missing) -> float:
    """Take a number, also one that is written as text; NaN where missing."""
    token = str(value).strip()
    if value is None or value is pd.NA or missing.means(token.encode()):
        return math.nan
    if isinstance(value, int | float | np.number) or NUMBER.fullmatch(token.encode()):
        return float(token)
    raise InputError(
        f"{where}: {shown(token)} is not a number; code categories by columns of 0 and 1, or "
        "choose other columns"
    )
