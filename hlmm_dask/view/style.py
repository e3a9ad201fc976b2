"""Colours of pictures, light and dark; told apart by the colour blind, and by lightness alone."""

from dataclasses import dataclass
from typing import Literal, get_args

from hlmm_dask.arguments import choice

Style = Literal["light", "dark"]


@dataclass(frozen=True)
class Theme:
    """Colours of a picture.

    Attributes
    ----------
    surface, text, muted, grid : str
        Background; words; what stands back; lines of the grid.
    chromosomes : (str, str)
        Of odd and even chromosomes.
    accent : str
        What is significant.
    line : str
        A fitted line.
    classes : tuple of str
        Of frequency classes, rare to common, and of genotypes.
    """

    surface: str
    text: str
    muted: str
    grid: str
    chromosomes: tuple[str, str]
    accent: str
    line: str
    classes: tuple[str, ...]


# Blue, vermillion and green are Okabe and Ito's.
LIGHT = Theme(
    surface="#ffffff", text="#1b1f24", muted="#5b636d", grid="#e4e7eb",
    chromosomes=("#2c5d8f", "#8aa9c9"), accent="#D55E00", line="#007a5a",
    classes=("#D55E00", "#CC79A7", "#56B4E9", "#0072B2"),
)  # fmt: skip
DARK = Theme(
    surface="#16191d", text="#e8eaed", muted="#9aa3ad", grid="#2c3138",
    chromosomes=("#86b6e6", "#4a739c"), accent="#E69F00", line="#2fbf95",
    classes=("#E69F00", "#d98fb9", "#2f86c6", "#8fd0f5"),
)  # fmt: skip


def theme(style: Style) -> Theme:
    """Return the colours of a style."""
    return DARK if choice("style", style, get_args(Style)) == "dark" else LIGHT
