"""Compilation of the loops that array operations are too slow for.

Numba keeps machine code in a folder: ``$NUMBA_CACHE_DIR``, else ``__pycache__`` beside the source,
else one in the user's home. A folder that is full, read-only or damaged costs time, never a scan.
"""

import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import numpy as np
from numba import njit

_HOME = "set NUMBA_CACHE_DIR to a folder that can be written"


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a loop at its first call, without the interpreter lock, and keep its machine code.

    If that code can't be read or written, the loop is compiled for this process alone, and one
    `RuntimeWarning` says why. Other loops can't call it: see `compiled_part`.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        alone = cache(lambda: compiled_part(**options)(function))
        # By the types of the arguments.
        ready: dict[tuple[Any, ...], Any] = {}

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

        def prepare(arguments: tuple[Any, ...]) -> Any:
            """Load or compile the loop for arguments of these types, before it changes any."""
            loop = kept()
            signature = tuple(map(loop.typeof_pyval, arguments))
            try:
                loop.compile(signature)
            except Exception as error:
                # A damaged file raises whatever the unpickler meets in it.
                if signature in loop.overloads:
                    _warn(_unkept(loop, error))
                    return loop
                reason = _reason(error)
            else:
                if _is_of(loop.overloads.get(signature), function):
                    return loop
                reason = "it is of another function"
            # An error of the loop itself is raised here.
            alone().compile(signature)
            _warn(_unread(loop, reason))
            return alone()

        @wraps(function)
        def call(*arguments: Any) -> Any:
            types = tuple(map(_type_of, arguments))
            loop = ready.get(types)
            if loop is None:
                loop = ready[types] = prepare(arguments)
            return loop(*arguments)

        return call

    return decorate


def compiled_part(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that loops call: its machine code becomes a part of theirs."""
    decorator: Callable[[Callable[..., Any]], Any] = njit(nogil=True, **options)
    return decorator


def _type_of(argument: Any) -> Any:
    """Return what numba's type of an argument depends on, in less time."""
    if isinstance(argument, np.ndarray):
        return argument.dtype, argument.ndim, argument.flags.num
    return type(argument)


def _is_of(code: Any, function: Callable[..., Any]) -> bool:
    """Whether loaded code is of a function; None: it has other types of arguments.

    A process may write a file of code between two steps of another one.
    """
    if code is None:
        return False
    # Numba's name of a module that was not imported in the usual way.
    modules = (function.__module__, "<dynamic>")
    return code.fndesc.qualname == function.__qualname__ and code.fndesc.modname in modules


def _unread(loop: Any, reason: str) -> str:
    return (
        f"{loop.stats.cache_path}: compiled code can't be read ({reason}) and is compiled "
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
