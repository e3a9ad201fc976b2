"""JSON from files that others may have changed, compared with the shape that is expected.

A shape is a type (``float`` takes whole numbers too), ``None``, a set of allowed values, a range of
whole numbers, a `Within` for numbers, a tuple of alternatives, ``[shape]`` for a list,
``{str: shape}`` for any keys, or ``{"key": shape, "optional?": shape}``, with other keys allowed;
``object`` is anything.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Within:
    """Shape of a number from ``low`` to ``high``."""

    low: float
    high: float


COUNT = range(1 << 48)
AT_LEAST_1 = range(1, 1 << 48)
SECONDS = Within(0.0, 1e12)
SCALAR = (None, bool, float, str)
_LONGEST = 60


def read_json(path: Path, shape: Any) -> Any:
    """Read a JSON file.

    Raises
    ------
    ValueError
        If it is no JSON, or has another shape; says where and what was expected.
    OSError
        If it can't be read.
    """
    value = parse(file_bytes(path))
    check_shape(value, shape)
    return value


def file_bytes(path: Path) -> bytes:
    """Read a file; a ValueError if it is none, but a pipe or device that may have no end."""
    # Without O_NONBLOCK the opening of a pipe waits for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        return file.read()


def parse(content: bytes | str) -> Any:
    """Parse JSON; a ValueError if it is damaged, or nested too deep."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deep") from None


def check_shape(value: Any, shape: Any, where: str = "") -> None:
    """Raise a ValueError that says where a JSON value has another shape."""
    if isinstance(shape, tuple):
        if not any(_fits(value, each) for each in shape):
            raise _unexpected(value, shape, where)
    elif isinstance(shape, list):
        _require(isinstance(value, list), value, shape, where)
        for i, each in enumerate(value):
            check_shape(each, shape[0], f"{where}[{i}]")
    elif isinstance(shape, Mapping):
        _require(isinstance(value, dict), value, shape, where)
        for key, part in shape.items():
            if key is str:
                for name, each in value.items():
                    check_shape(each, part, f"{where}.{name:.{_LONGEST}}")
                continue
            name, optional = key.removesuffix("?"), key.endswith("?")
            if name in value:
                check_shape(value[name], part, f"{where}.{name}")
            elif not optional:
                raise ValueError(f"{where.lstrip('.') or 'it'} has no '{name}'")
    else:
        _require(_is(value, shape), value, shape, where)


def _fits(value: Any, shape: Any) -> bool:
    try:
        check_shape(value, shape)
    except ValueError:
        return False
    return True


def _is(value: Any, shape: Any) -> bool:
    if shape is object:
        return True
    if shape is None:
        return value is None
    if isinstance(shape, range):
        return type(value) is int and value in shape
    if isinstance(shape, frozenset):
        return isinstance(value, str) and value in shape
    if isinstance(shape, Within):
        return type(value) in (int, float) and shape.low <= value <= shape.high
    if type(value) is int and shape in (int, float):
        return abs(value) < 1 << 63
    return type(value) is shape


def _require(fits: bool, value: Any, shape: Any, where: str) -> None:
    if not fits:
        raise _unexpected(value, shape, where)


def _unexpected(value: Any, shape: Any, where: str) -> ValueError:
    found = type(value).__name__ if isinstance(value, list | dict) else f"{value!r:.{_LONGEST}}"
    return ValueError(f"{where.lstrip('.') or 'it'} is {found}, expected {_named(shape)}")


def _named(shape: Any) -> str:
    if isinstance(shape, tuple):
        return " or ".join(_named(each) for each in shape)
    if isinstance(shape, range):
        most = f" to {shape.stop - 1}" if shape.stop < COUNT.stop else ""
        return f"a whole number from {shape.start}{most}"
    if isinstance(shape, Within):
        return f"a number from {shape.low:g} to {shape.high:g}"
    if isinstance(shape, frozenset):
        return " or ".join(sorted(shape))
    if isinstance(shape, list | Mapping):
        return "a list" if isinstance(shape, list) else "an object"
    if shape is None:
        return "null"
    kinds = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return kinds[shape]
