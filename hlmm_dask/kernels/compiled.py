"""Compilation of the loops that array operations are too slow for.

Numba keeps machine code in a folder: ``$NUMBA_CACHE_DIR``, else ``__pycache__`` beside the source,
else one in the user's home. A folder that is full, read-only or damaged costs time, never a scan.
"""

import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from numba import njit

_HOME = "set NUMBA_CACHE_DIR to a folder that can be written"


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a loop at its first call, without the interpreter lock, and keep its machine code.

    If that code can't be read or written, the loop is compiled for this process alone, and one
    `RuntimeWarning` says why. Other loops can't call it: see `compiled_part`.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        alone = cache(lambda: compiled_part(**options)(function))

        @cache
        def kept() -> Any:
            try:
                return njit(nogil=True, cache=True, **options)(function)
            except RuntimeError:
                _warn(f"no folder for compiled code can be written; {_HOME}")
            except Exception as error:
                # The folder is made and tried here.
                _warn(f"compiled code can't be kept ({_reason(error)}); make room, or {_HOME}")
            return alone()

        @wraps(function)
        def call(*arguments: Any) -> Any:
            loop = kept()
            known = len(loop.signatures)
            try:
                return loop(*arguments)
            except Exception as error:
                if loop is alone():
                    raise
                # An error of the loop itself comes again, and is raised then.
                saved = len(loop.signatures) > known
                result = (loop if saved else alone())(*arguments)
                _warn(_unkept(loop, error) if saved else _unread(loop, error))
                return result

        return call

    return decorate


def compiled_part(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that loops call: its machine code becomes a part of theirs."""
    decorator: Callable[[Callable[..., Any]], Any] = njit(nogil=True, **options)
    return decorator


def _unread(loop: Any, error: Exception) -> str:
    return (
        f"{loop.stats.cache_path}: compiled code can't be read ({_reason(error)}) and is compiled "
        f"again by each process; delete the *.nbi and *.nbc files there, or {_HOME}"
    )


def _unkept(loop: Any, error: Exception) -> str:
    return (
        f"{loop.stats.cache_path}: compiled code can't be kept ({_reason(error)}) and is compiled "
        f"again by each process; make room there, or {_HOME}"
    )


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "it is damaged"


@cache
def _warn(text: str) -> None:
    """Say it once in this process."""
    warnings.warn(text, RuntimeWarning, stacklevel=4)
