"""The script that starts workers; each worker process runs it again to know its functions."""

import hashlib
import os
import sys
from pathlib import Path
from types import ModuleType

from hlmm_dask.errors import InputError
from hlmm_dask.scanning.machine import private_folder

_GUARD = (
    "the script that started this scan runs again in each worker process; put its calls under "
    "'if __name__ == \"__main__\":'"
)


def check_main_script() -> None:
    """Check that worker processes can run the main script; call it before a process is started.

    In a worker process it ends the second run of a script without a ``__main__`` guard, and leaves
    a mark for `refuse_unguarded`.

    Raises
    ------
    InputError
        If the script was read from standard input.
    """
    again = sys.modules.get("__mp_main__")
    main = sys.modules["__main__"]
    # While it runs in a worker process, multiprocessing has not made it the main module yet. In
    # other processes the first name is another one of the main module that Python has started.
    if again is not None and again.__name__ == "__mp_main__" and again is not main:
        _mark_of(again).touch()
        raise SystemExit(1)
    path = getattr(main, "__file__", None)
    if path is not None and getattr(main, "__spec__", None) is None and not os.path.exists(path):
        raise InputError(
            f"{path}: worker processes can't read the script that starts this scan; save it as a "
            "file and run that"
        )
    _mark_of(main).unlink(missing_ok=True)


def refuse_unguarded() -> None:
    """Raise an `InputError` if a worker process found that the script has no guard."""
    mark = _mark_of(sys.modules["__main__"])
    if mark.exists():
        mark.unlink()
        raise InputError(_GUARD)


def _mark_of(script: ModuleType) -> Path:
    digest = hashlib.sha256(os.fsencode(getattr(script, "__file__", None) or ""))
    return Path(private_folder(), f"unguarded-{digest.hexdigest()[:16]}")
