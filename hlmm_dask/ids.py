"""People as (FID, IID): always text, unique in a file."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hlmm_dask.errors import InputError
from hlmm_dask.text import shown

if TYPE_CHECKING:
    import pandas as pd

Id = tuple[str, str]
# What PLINK 2 takes for the FID where a file has none.
NO_FID = "0"
# As R writes 100000 and other round numbers.
_SCIENTIFIC = re.compile(r"[0-9](\.[0-9]+)?e\+?[0-9]{1,2}")


def ids_of(samples: "pd.DataFrame") -> list[Id]:
    """Give ``fid`` and ``iid`` of each row."""
    return list(zip(samples["fid"].tolist(), samples["iid"].tolist(), strict=True))


def shown_ids(ids: Sequence[tuple[str, str]], limit: int = 5) -> str:
    """List the first few (FID, IID) for a message."""
    some = ", ".join(f"{shown(fid)} {shown(iid)}" for fid, iid in ids[:limit])
    return some + (", ..." if len(ids) > limit else "")


def require_unique(
    path: str | os.PathLike[str], ids: Sequence[tuple[str, str]], numbers: Sequence[int], what: str
) -> None:
    """Raise an InputError that names the first of the (FID, IID) that come twice.

    Parameters
    ----------
    path : path
        The file.
    ids : sequence of (str, str)
        FID and IID of each row.
    numbers : sequence of int
        Line number of each row.
    what : str
        What stands before the ID in the message.
    """
    if len(set(ids)) == len(ids):
        return
    first: dict[tuple[str, str], int] = {}
    again = [
        (key, number)
        for key, number in zip(ids, numbers, strict=True)
        if first.setdefault(key, number) != number
    ]
    (fid, iid), number = again[0]
    repeated = list(dict.fromkeys(key for key, _ in again))
    more = f"; {len(repeated)} IDs are repeated: {shown_ids(repeated)}" if len(repeated) > 1 else ""
    raise InputError(
        f"{os.fspath(path)}, line {number}: {what}FID {shown(fid)} IID {shown(iid)} is also on "
        f"line {first[fid, iid]}{more}; (FID, IID) must be unique"
    )


def with_fids(
    path: str | os.PathLike[str],
    ids: Sequence[Id],
    references: Sequence[tuple[str, Iterable[Id]]],
) -> list[Id]:
    """Give people of a file without FIDs the FIDs that they have elsewhere, by their IIDs.

    Parameters
    ----------
    path : path
        The file.
    ids : sequence of (str, str)
        Its people; the FIDs are not used.
    references : sequence of (str, iterable of (str, str))
        Files with FIDs, each with its name; the first that has an IID decides.

    Returns
    -------
    list of (str, str)
        Who is in none of the references keeps the FID ``0``.

    Raises
    ------
    InputError
        If an IID belongs to several people of a reference.
    """
    found: dict[str, str] = {}
    wanted = {iid for _, iid in ids}
    for name, people in references:
        here: dict[str, str] = {}
        for fid, iid in people:
            if iid not in wanted or iid in found:
                continue
            if here.setdefault(iid, fid) != fid:
                raise InputError(
                    f"{os.fspath(path)}: no FID column, but IID {shown(iid)} belongs to several "
                    f"people of {name} (FID {shown(here[iid])} and {shown(fid)}); add a column FID"
                )
        found |= here
    return [(found.get(iid, NO_FID), iid) for _, iid in ids]


def id_hints(ids: Sequence[Id], others: Sequence[Id]) -> list[str]:
    """Say why people may not be found in another file.

    Parameters
    ----------
    ids : sequence of (str, str)
        Those who are not found.
    others : sequence of (str, str)
        All people of the other file.

    Returns
    -------
    list of str
        Likely reasons, each with the number of people whom it concerns.
    """
    there = set(others)
    iids = {iid for iid, count in Counter(iid for _, iid in others).items() if count == 1}
    hints: list[str] = []
    if count := sum(iid in iids for _, iid in ids):
        hints.append(f"{count} would match by IID alone: make the FIDs the same")
    if count := sum((iid, fid) in there for fid, iid in ids):
        hints.append(f"{count} would match with FID and IID exchanged")
    bare = {tuple(part.lstrip("0") for part in key) for key in others}
    if count := sum(tuple(part.lstrip("0") for part in key) in bare for key in ids):
        hints.append(f"{count} would match without leading zeros: IDs are text, '01' is not '1'")
    plain = {tuple(part.strip("\"'") for part in key) for key in others}
    if count := sum(tuple(part.strip("\"'") for part in key) in plain for key in ids):
        hints.append(f"{count} would match without quotes: take them out of the IDs")
    for some, rest in ((ids, iids), (others, {iid for _, iid in ids})):
        rounded = [iid for _, iid in some if _SCIENTIFIC.fullmatch(iid)]
        if rounded := [iid for iid in rounded if f"{float(iid):.0f}" in rest]:
            hints.append(
                f"{shown(rounded[0])} is R's way to write {float(rounded[0]):.0f}: write IDs as "
                "text (R: options(scipen = 100), or format(id, scientific = FALSE))"
            )
    return hints
