"""Sex of samples: from a .fam, or from a table."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.plink_tables import FAM_FIELDS
from hlmm_dask.ids import Id, ids_of, require_unique, shown_ids, with_fids
from hlmm_dask.missing import Missing
from hlmm_dask.people import iter_people
from hlmm_dask.sex_codes import EXPECTED, UNKNOWN, WORDS, sex_code, zero_or_one
from hlmm_dask.text import iter_rows, shown

SEXES = {1: "male", 2: "female"}


def sex_of_fam(path: Path) -> NDArray[np.int64]:
    """Read the fifth column of a .fam: 1 male, 2 female, 0 for unknown and all other codes.

    Raises
    ------
    InputError
        If no sample has a sex, or the codes are 0 and 1.
    """
    texts = [text for rows in iter_rows(path) for text in rows.split(6, FAM_FIELDS).strings(4)]
    return _usable(path, texts, [sex_code(text) or UNKNOWN for text in texts])


def sex_of_table(path: str, samples: pd.DataFrame, missing: Missing) -> NDArray[np.int64]:
    """Read the sex of samples from a table: from the column named sex, or the only one.

    Parameters
    ----------
    path : str
        The table.
    samples : DataFrame
        Columns ``fid`` and ``iid``: for whom.
    missing : Missing
        What means missing.

    Returns
    -------
    (n,) int64
        1 male, 2 female, 0 unknown or not in the table.

    Raises
    ------
    InputError
        If there is no such column, a code is not known, the codes are 0 and 1, or nobody has a
        sex.
    """
    ids: list[Id] = []
    numbers: list[int] = []
    texts: list[str] = []
    column, has_fid = 0, True
    for rows in iter_people(path, missing=missing, words=WORDS):
        if not ids:
            column, has_fid = _sex_column(path, rows.layout.names), rows.layout.fid is not None
        ids += rows.ids
        numbers += rows.numbers
        texts += rows.strings(column)
    require_unique(path, ids, numbers, "")
    people = ids_of(samples)
    if not has_fid:
        ids = with_fids(path, ids, [("the genotypes", people)])
    codes = _coded(path, texts, numbers, missing)
    known = dict(zip(ids, codes, strict=True))
    return _usable(path, texts, [known.get(each, UNKNOWN) for each in people])


def sex_notes(codes: NDArray[np.int64], ids: list[Id]) -> list[str]:
    """Say which sex is absent among the analysed samples, and name those of unknown sex."""
    notes = [
        f"no {name}s among the {len(ids):,} analysed samples: the sexes can't be compared"
        for code, name in SEXES.items()
        if code not in codes
    ]
    unknown = [ids[i] for i in np.flatnonzero(codes == UNKNOWN).tolist()]
    if unknown:
        notes.append(
            f"the sex of {len(unknown):,} of {len(ids):,} analysed samples is unknown "
            f"(first: {shown_ids(unknown)}); they are not in the fits of one sex"
        )
    return notes


def _sex_column(path: str, names: tuple[str, ...]) -> int:
    named = [j for j, name in enumerate(names) if name.lower() == "sex"]
    if not named and len(names) > 1:
        raise InputError(
            f"{path}: no column named sex among {', '.join(map(shown, names[:10]))}; name it in "
            "the first line"
        )
    return named[0] if named else 0


def _coded(path: str, texts: list[str], numbers: list[int], missing: Missing) -> list[int]:
    """Understand the codes of a column."""
    code_of = {text: sex_code(text, missing) for text in texts}
    for text, number in zip(texts, numbers, strict=True):
        if code_of[text] is None:
            raise InputError(f"{path}, line {number}: sex {shown(text)}, {EXPECTED}")
    return [code_of[text] or UNKNOWN for text in texts]


def _usable(path: str | Path, texts: list[str], sex: list[int]) -> NDArray[np.int64]:
    """Return ``sex``, unless the codes of the file are 0 and 1, or nobody's sex is known."""
    if problem := zero_or_one(texts):
        raise InputError(f"{path}: {problem}")
    if not any(sex):
        raise InputError(f"{path}: no sample has a sex, {EXPECTED}")
    return np.array(sex, dtype=np.int64)
