"""Numbers in words."""

from typing import Any

import numpy as np


def p_value(neg_log10: float) -> str:
    """Return a p-value in words, right far below the smallest double: 3.2e-410."""
    if not np.isfinite(neg_log10):
        return "–"
    if neg_log10 < 3.0:
        return f"{10.0**-neg_log10:.3g}"
    exponent = int(np.ceil(neg_log10))
    mantissa = f"{10.0 ** (exponent - neg_log10):.1f}"
    return f"1.0e-{exponent - 1}" if mantissa == "10.0" else f"{mantissa}e-{exponent}"


def number(value: float, digits: int = 3, *, minus: str = "−") -> str:
    """Return a number with some digits, a dash for none."""
    return f"{value:#.{digits}g}".rstrip(".").replace("-", minus) if np.isfinite(value) else "–"


def flat(value: Any) -> str:
    """Return an option's value in words."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else f"{value:,}" if type(value) is int else str(value)
