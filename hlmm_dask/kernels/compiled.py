"""Compilation of the loops that array operations are too slow for."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """Compile a loop without the interpreter lock, and keep the machine code where it can be.

    Where no folder can be written, it is compiled anew in each process.
    """

    def decorate(function: Callable[..., None]) -> Any:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:
            return njit(nogil=True, **options)(function)

    return decorate
