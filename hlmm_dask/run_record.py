"""The record that a scan leaves of itself, OUTPREFIX.run.json, as other commands read it."""

import json
from pathlib import Path
from typing import Any

from hlmm_dask.errors import InputError


def read_runs(outprefix: str) -> list[dict[str, Any]]:
    """Read the runs of a scan, the last one last; none where there is no record.

    Parameters
    ----------
    outprefix : str
        OUTPREFIX.run.json is looked for, or, for one of several phenotypes, that of the OUTPREFIX
        before its name.

    Raises
    ------
    InputError
        If a file of that name is no such record.
    """
    name = Path(outprefix).name
    while name:
        path = Path(outprefix).with_name(f"{name}.run.json")
        try:
            return list(json.loads(path.read_bytes())["runs"])
        except FileNotFoundError:
            name = name.rpartition(".")[0]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: not the record of a run ({error!r}); move it away, or restore it"
            ) from error
    return []
