"""What stands for a missing value in tables of people, and numbers that may stand for it."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

NUMBER = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
NAN = re.compile(rb"[+-]?nan", re.IGNORECASE)
INFINITE = re.compile(rb"[+-]?inf(inity)?", re.IGNORECASE)
# Other programs' missing values, in lower case: no numbers, no names of columns.
MISSING_WORDS = frozenset(
    {b"-", b"--", b"?", b"n/a", b"#n/a", b"n.a.", b"<na>", b"nat", b"null", b"none", b"nil",
     b"miss", b"missing", b"unknown"}
)  # fmt: skip
# NaN in any case belongs to these.
_ALWAYS = frozenset({b"", b".", b"NA", b"Na", b"nA", b"na"})
# Numbers by which SPSS, SAS and questionnaires mark a missing value.
_CODES = (-99.0, -999.0, -9999.0, -99999.0, 99.0, 999.0, 9999.0, 99999.0, -77.0, -88.0)
_FREQUENT = 0.01


@dataclass(frozen=True)
class Missing:
    """The fields that mean missing.

    Attributes
    ----------
    tokens : frozenset of bytes
        Fields compared as text: NA, the empty field, ``.`` and those of the user.
    numbers : tuple of float
        Those of the user that are numbers; they are compared as numbers, too.
    """

    tokens: frozenset[bytes] = _ALWAYS
    numbers: tuple[float, ...] = ()

    @classmethod
    def of(cls, given: "MissingLike") -> "Missing":
        """Add the user's tokens: a list, or text with commas as on the command line."""
        if isinstance(given, Missing):
            return given
        items = [given] if isinstance(given, str) else given
        # An argument that is no UTF-8 can stand for a token of a Latin-1 file.
        tokens = {os.fsencode(part.strip()) for item in items for part in item.split(",")}
        numbers = tuple(float(token) for token in sorted(tokens) if NUMBER.fullmatch(token))
        return cls(_ALWAYS | tokens, numbers)

    def means(self, token: bytes) -> bool:
        """Whether a field means missing."""
        if token in self.tokens or NAN.fullmatch(token):
            return True
        return bool(self.numbers and NUMBER.fullmatch(token)) and float(token) in self.numbers


MissingLike: TypeAlias = str | Sequence[str] | Missing


def minus_nine_note(what: str, values: NDArray[np.float64]) -> str | None:
    """Warn of -9 in a covariate that may mean missing.

    Parameters
    ----------
    what : str
        How the message names the column.
    values : (n,) float64
        Its values.

    Returns
    -------
    str or None
        A warning if -9 comes more than once, makes at least 1 % of the values and is not the
        only value.
    """
    n_values = int(np.count_nonzero(~np.isnan(values)))
    count = int(np.count_nonzero(values == -9))
    if count < 2 or count == n_values or count < _FREQUENT * n_values:
        return None
    return (
        f"{what}: {count} of {n_values} values are -9, taken as a number; if it means missing, "
        "give --missing-char -9"
    )


def code_note(what: str, values: NDArray[np.float64]) -> str | None:
    """Warn of numbers such as -999 that may mean missing.

    Parameters
    ----------
    what : str
        How the message names the column.
    values : (n,) float64
        Its values.

    Returns
    -------
    str or None
        A warning that names each code which lies outside the other values by more than their
        range, or is negative and makes at least 1 % of the values.
    """
    known = values[~np.isnan(values)]
    others = known[~np.isin(known, _CODES)]
    if not len(others) or len(others) == len(known):
        return None
    low, high = float(others.min()), float(others.max())
    found: list[str] = []
    counted: list[str] = []
    for code in _CODES:
        count = int(np.count_nonzero(known == code))
        far = code < low - (high - low) or code > high + (high - low)
        frequent = code < 0 and count > 1 and count >= _FREQUENT * len(known)
        if count and (far or frequent):
            found.append(f"--missing-char {code:.0f}")
            counted.append(f"{count} {'is' if count == 1 else 'are'} {code:.0f}")
    if not found:
        return None
    return (
        f"{what}: of {len(known)} values {', '.join(counted)}, taken as numbers; if they mean "
        f"missing, give {' '.join(found)}"
    )
