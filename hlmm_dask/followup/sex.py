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
from hlmm_dask.text import iter_rows, shown

SEXES = {1: "male", 2: "female"}
_UNKNOWN = 0
_CODES = {
    "1": 1, "m": 1, "male": 1, "2": 2, "f": 2, "female": 2, "0": _UNKNOWN, "-9": _UNKNOWN,
    "u": _UNKNOWN, "unknown": _UNKNOWN,
}  # fmt: skip
_EXPECTED = "expected 1 or M (male), 2 or F (female), 0 or NA (unknown)"


def sex_of_fam(path: Path) -> NDArray[np.int64]:
    """Read the fifth column of a .fam: 1 male, 2 female, 0 for unknown and all other codes.

    Raises
    ------
    InputError
        If no sample has a sex, or the codes are 0 and 1.
    """
    texts = [text for rows in iter_rows(path) for text in rows.split(6, FAM_FIELDS).strings(4)]
    codes = [_CODES.get(text.lower(), _UNKNOWN) for text in texts]
    return _usable(path, texts, codes, codes)


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
    for rows in iter_people(path, missing=missing):
        if not ids:
            column, has_fid = _sex_column(path, rows.layout.names), rows.layout.fid is not None
        ids += rows.ids
        numbers += rows.numbers
        texts += [token.decode(errors="backslashreplace") for token in rows.column(column)]
    require_unique(path, ids, numbers, "")
    people = ids_of(samples)
    if not has_fid:
        ids = with_fids(path, ids, [("the genotypes", people)])
    codes = _coded(path, texts, numbers, missing)
    known = dict(zip(ids, codes, strict=True))
    return _usable(path, texts, codes, [known.get(each, _UNKNOWN) for each in people])


def unknown_sex_note(codes: NDArray[np.int64], ids: list[Id]) -> str | None:
    """Count and name those of unknown sex among the analysed samples; None if there are none."""
    unknown = [ids[i] for i in np.flatnonzero(codes == _UNKNOWN).tolist()]
    if not unknown:
        return None
    return (
        f"the sex of {len(unknown):,} of {len(ids):,} analysed samples is unknown "
        f"(first: {shown_ids(unknown)}); they are not in the fits of one sex"
    )


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
    code_of: dict[str, int] = {}
    for text, number in zip(texts, numbers, strict=True):
        if text in code_of:
            continue
        if missing.means(text.encode()):
            code_of[text] = _UNKNOWN
            continue
        # R and pandas may write numbers as 1.0.
        code = _CODES.get(text.lower().removesuffix(".0"))
        if code is None:
            raise InputError(f"{path}, line {number}: sex {shown(text)}, {_EXPECTED}")
        code_of[text] = code
    return [code_of[text] for text in texts]


def _usable(
    path: str | Path, texts: list[str], codes: list[int], sex: list[int]
) -> NDArray[np.int64]:
    """Return ``sex``, unless the codes of the file are 0 and 1, or nobody's sex is known."""
    zero = sum(text.startswith("0") for text in texts)
    one = codes.count(1)
    if zero and one and 2 not in codes:
        raise InputError(
            f"{path}: sex is 0 for {zero} people, 1 for {one} and 2 for none, {_EXPECTED}; recode "
            "it, or write NA in place of 0 if all others are male"
        )
    if not any(sex):
        raise InputError(f"{path}: no sample has a sex, {_EXPECTED}")
    return np.array(sex, dtype=np.int64)
