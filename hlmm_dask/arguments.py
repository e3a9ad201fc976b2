"""Checks of arguments: one way for every function and every dataclass of options."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TypeVar

import numpy as np

from hlmm_dask.errors import InputError

_T = TypeVar("_T", bound=str)


def choice(name: str, value: object, allowed: Sequence[_T]) -> _T:
    """Return the allowed value that ``value`` names, in upper or lower case.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        What was given.
    allowed : sequence of str
        The allowed values, such as ``get_args`` of a ``Literal``.

    Raises
    ------
    InputError
        If it is none of them, or no text.
    """
    for each in allowed:
        if isinstance(value, str) and value.lower() == each.lower():
            return each
    *others, last = allowed
    listed = f"{', '.join(others)} or {last}" if others else last
    raise InputError(f"{name} {value!r}: expected {listed}")


def flag(name: str, value: object) -> bool:
    """Return a Boolean; refuse everything else, as text such as ``"no"`` would count as true."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise InputError(f"{name} {value!r}: expected True or False")


def number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
    infinite: bool = False,
    expected: str | None = None,
) -> float:
    """Return a number within bounds as a float.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        What was given; Booleans and text are refused.
    above, below : float
        Strict bounds.
    least, most : float
        Bounds that the value may equal.
    infinite : bool
        Whether infinity is allowed.
    expected : str, optional
        What the message says is expected, instead of the bounds.

    Raises
    ------
    InputError
        If it is no number, NaN, infinite, or outside the bounds.
    """
    value = _plain(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        found = float(value)
        inside = least <= found <= most and (found > above or math.isinf(above))
        inside = inside and (found < below or math.isinf(below))
        if inside and (infinite or math.isfinite(found)):
            return found
    if expected is None:
        limits = {"above": above, "at least": least, "below": below, "at most": most}
        said = [f"{word} {limit:g}" for word, limit in limits.items() if not math.isinf(limit)]
        expected = f"a number {' and '.join(said)}".rstrip()
    raise InputError(f"{name} {_shown(value)}: expected {expected}")


def whole_number(name: str, value: object, *, least: int) -> int:
    """Return an integer of at least ``least``; Booleans and text are refused."""
    value = _plain(value)
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least:
        return int(value)
    raise InputError(f"{name} {_shown(value)}: expected a whole number of at least {least}")


def bounds(
    name: str, value: object, *, least: float = -math.inf, most: float = math.inf
) -> tuple[float, float]:
    """Return two finite numbers, the lower bound first, each within [least, most]."""
    value = _plain(value)
    if isinstance(value, list | tuple) and len(value) == 2:
        low, high = (number(name, each, least=least, most=most) for each in value)
        if low < high:
            return low, high
    within = "" if math.isinf(least) else f" within [{least:g}, {most:g}]"
    raise InputError(f"{name} {_shown(value)}: expected two numbers (lower, upper){within}")


def check_filters(min_maf: object, max_missing: object) -> None:
    """Raise an `InputError` unless variants can be chosen by these bounds."""
    number("--min-maf", min_maf, least=0.0, below=0.5)
    expected = "a percentage above 0, up to 100"
    number("--max-missing", max_missing, above=0.0, most=100.0, expected=expected)


def _plain(value: object) -> object:
    """Turn an array into a number or a list; Booleans in it stay no numbers."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def _shown(value: object) -> str:
    if isinstance(value, Real) and not isinstance(value, bool | Integral):
        return f"{float(value):g}"
    return repr(value)
