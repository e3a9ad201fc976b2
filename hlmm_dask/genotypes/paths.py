"""Which .bed files an argument means: one, several, or a pattern for the chromosomes."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from hlmm_dask.errors import InputError

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_LABEL_ORDER = {"X": 0, "Y": 1, "XY": 2, "MT": 3, "M": 3}


def expand_paths(genofile: Paths) -> list[Path]:
    """Paths of the .bed files that `genofile` means, in their order; see `open_plink`."""
    given = [genofile] if isinstance(genofile, str | os.PathLike) else list(genofile)
    if not given:
        raise InputError("no genotype file given, expected a .bed, several, or a pattern with @")
    beds: list[Path] = []
    for item in given:
        name = os.fspath(item)
        if not name.endswith(".bed"):
            name += ".bed"
        beds += [Path(name)] if "@" not in name or os.path.exists(name) else _match_pattern(name)
    for i, bed in enumerate(beds):
        if bed in beds[:i]:
            raise InputError(f"{bed}: given twice, expected each genotype file once")
    return beds


def _match_pattern(pattern: str) -> list[Path]:
    head, *rest = pattern.split("@")
    # Further @ stand for the same chromosome.
    expression = re.escape(head) + r"(\w+)" + r"\1".join(re.escape(part) for part in rest)
    found: list[tuple[tuple[int, int, str], Path]] = []
    for name in glob.glob(glob.escape(pattern).replace("@", "*")):
        if match := re.fullmatch(expression, name):
            found.append((_label_key(match[1]), Path(name)))
    if not found:
        raise InputError(
            f"{pattern}: no file matches, expected a .bed a chromosome with its name in place of @"
        )
    return [path for _, path in sorted(found)]


def _label_key(label: str) -> tuple[int, int, str]:
    bare = label.upper().removeprefix("CHR")
    if bare.isdecimal():
        return 0, int(bare), label
    if bare in _LABEL_ORDER:
        return 1, _LABEL_ORDER[bare], label
    return 2, 0, label
