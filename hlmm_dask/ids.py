"""People as (FID, IID): always text, unique in a file."""

import os
from collections.abc import Sequence

from hlmm_dask.errors import InputError
from hlmm_dask.text import shown


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
