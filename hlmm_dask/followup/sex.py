"""Sex of samples: from a .fam, or from a table."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.plink_tables import FAM_FIELDS
from hlmm_dask.tables import read_table
from hlmm_dask.text import iter_rows

SEXES = {1: "male", 2: "female"}


def sex_of_fam(path: Path) -> NDArray[np.int64]:
    """Read the fifth column of a .fam: 1, 2, or 0 for anything else.

    Raises
    ------
    InputError
        If no sample has a sex.
    """
    codes = {"1": 1, "2": 2}
    sex = [codes.get(text, 0) for rows in iter_rows(path) for text in
           rows.split(6, FAM_FIELDS).strings(4)]  # fmt: skip
    return _some(np.array(sex, dtype=np.int64), path)


def sex_of_table(path: str, samples: pd.DataFrame, missing: str) -> NDArray[np.int64]:
    """Read FID, IID, sex: from the column named sex, or the only one.

    Parameters
    ----------
    path : str
        The table.
    samples : DataFrame
        Columns ``fid`` and ``iid``: for whom.
    missing : str
        What stands for a missing value.

    Returns
    -------
    (n,) int64
        1, 2, or 0 where not known.

    Raises
    ------
    InputError
        If there is no such column, a value is neither 1 nor 2 (nor 0), or nobody has one.
    """
    table = read_table(path, missing=(missing,))
    named = [name for name in table.names if name.lower() == "sex"]
    if not named and len(table.names) > 1:
        raise InputError(
            f"{path}: no column named sex among {', '.join(table.names[:10])}; name it in the "
            "first line"
        )
    values = np.nan_to_num(table.column(named[0] if named else 1)[1])
    bad = np.flatnonzero(~np.isin(values, (0.0, 1.0, 2.0)))
    if bad.size:
        raise InputError(
            f"{path}, line {table.line_numbers[bad[0]]}: sex {values[bad[0]]:g}, expected 1 (male) "
            "or 2 (female)"
        )
    known = dict(zip(table.ids, values.astype(int).tolist(), strict=True))
    people = zip(samples["fid"].tolist(), samples["iid"].tolist(), strict=True)
    return _some(np.array([known.get(each, 0) for each in people], dtype=np.int64), Path(path))


def _some(sex: NDArray[np.int64], path: Path) -> NDArray[np.int64]:
    if not sex.any():
        raise InputError(f"{path}: no sample has a sex, expected 1 (male) or 2 (female)")
    return sex
