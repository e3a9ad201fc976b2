"""Text for terminals, logs and pages: control characters in it are escaped.

IDs, names of columns and chromosomes, and the texts of errors come from files. A terminal obeys
escape sequences in them, and characters that change the direction of text hide others.
"""

import re
import sys
from typing import TextIO
from unicodedata import category

# A longer word is an ID, or alleles; paths are longer.
_LONGEST = 120


def printable(text: str) -> str:
    r"""Return text with escapes such as ``\x1b`` for control and invisible characters.

    These are the Unicode categories "Other" (control, format, surrogates, unassigned) and the
    separators of lines and paragraphs; spaces of any kind stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or category(c) == "Zs" else _escaped(c) for c in text)


def say(text: str, *, stream: TextIO | None = None, whole: bool = False) -> None:
    """Print one line, printable and with long words cut.

    Parameters
    ----------
    text : str
        The line; ends of lines in it become spaces.
    stream : TextIO, optional
        Where to; standard error by default.
    whole : bool
        Keep long words, as of a command.
    """
    print(line_of(text, whole=whole), file=sys.stderr if stream is None else stream)


def line_of(text: str, *, whole: bool = False) -> str:
    """Return the line that `say` prints."""
    line = printable(" ".join(text.splitlines()))
    return line if whole else re.sub(r"\S{121,}", _cut, line)


def _cut(word: re.Match[str]) -> str:
    # A name in a path has 255 bytes at most.
    is_path = "/" in word[0] and max(map(len, word[0].split("/"))) < 256
    return word[0] if is_path else f"{word[0][: _LONGEST - 1]}…"


def _escaped(character: str) -> str:
    code = ord(character)
    if character == "\t":
        return r"\t"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
