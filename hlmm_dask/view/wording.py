"""Numbers in words."""

import html
from typing import Any

import numpy as np

from hlmm_dask.printable import printable


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


def decimals(value: float, digits: int = 3) -> str:
    """Return a number with so many decimals, a dash for none."""
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def estimate(value: float, se: float) -> str:
    """Return an estimate to the digits that its standard error has: 0.055 (0.036)."""
    if not (np.isfinite(value) and se > 0.0):
        return "–"
    decimals = min(8, max(0, 1 - int(np.floor(np.log10(se)))))
    return f"{value:.{decimals}f} ({se:.{decimals}f})".replace("-", "−")


def short_id(name: str, most: int = 32) -> str:
    """Return a variant's name, printable and cut: some hold alleles of thousands of bases."""
    name = printable(name[: 2 * most])
    return name if len(name) <= most else f"{name[: most - 1]}…"


def escape(text: str) -> str:
    """Return text for a page: printable, and without characters that HTML gives a meaning."""
    return html.escape(printable(text))


def caption(text: str) -> str:
    """Return text for a picture: printable, and its dollar signs are no formulas."""
    return printable(text).replace("$", r"\$")


def flat(value: Any) -> str:
    """Return an option's value in words."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else f"{value:,}" if type(value) is int else str(value)
