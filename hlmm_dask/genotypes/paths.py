"""Which .bed files an argument means: one, several, or a pattern for the chromosomes."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.contigs import plain_contig
from hlmm_dask.genotypes.other_formats import require_bed, require_file
from hlmm_dask.text import shown

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

# Numbers with or without a leading zero, and PLINK's names.
_LABEL = r"0?[1-9]|1[0-9]|2[0-6]|X|Y|XY|PAR1|PAR2|MT|M"
_NAMES = {"23": "X", "24": "Y", "25": "XY", "26": "MT", "M": "MT"}
# In the order of PLINK's numbers; the pseudo-autosomal regions are 25 there.
_ORDER = [*map(str, range(1, 23)), "X", "Y", "XY", "PAR1", "PAR2", "MT"]
# The pseudo-autosomal regions may stand under the name of their chromosome, or under PLINK's.
_WITHIN = {
    "X": {"X", "XY", "PAR1", "PAR2"},
    "XY": {"XY", "PAR1", "PAR2"},
    "PAR1": {"PAR1", "XY"},
    "PAR2": {"PAR2", "XY"},
}
_SHOWN = 6


@dataclass(frozen=True)
class BedPath:
    """A .bed, and the chromosome that its name says.

    Attributes
    ----------
    path : Path
        The file.
    label : str
        What the file's name has in place of ``@``; empty where no pattern was given.
    """

    path: Path
    label: str = ""

    def require_contigs(self, bim: Path, contigs: Iterable[str]) -> None:
        """Raise an `InputError` if the variants are on another chromosome than the name says."""
        if not self.label:
            return
        name = _chromosome(self.label)
        allowed = _WITHIN.get(name, {name})
        for contig in contigs:
            if _chromosome(contig) not in allowed:
                raise InputError(
                    f"{bim}: variants on chromosome {shown(contig)}, expected {self.label} as in "
                    "the file's name; move the file away, or name the files instead of giving a "
                    "pattern with @"
                )


def expand_paths(genofile: Paths) -> tuple[list[BedPath], list[str]]:
    """Paths of the .bed files that `genofile` means, in their order, and notes on the choice.

    See `open_plink`.
    """
    given: list[Any] = [genofile]
    if isinstance(genofile, Iterable) and not isinstance(genofile, str):
        given = list(genofile)
    for item in given:
        if not isinstance(item, str | os.PathLike):
            raise InputError(
                f"genotypes are given as {type(item).__name__}, expected a path, several, or a "
                "Dataset as from open_bed"
            )
    if not given:
        raise InputError("no genotype file given, expected a .bed, several, or a pattern with @")
    beds: list[BedPath] = []
    notes: list[str] = []
    for item in given:
        name = os.fspath(item)
        if not name.endswith(".bed"):
            if not os.path.exists(f"{name}.bed"):
                require_bed(name)
            name += ".bed"
        if "@" in os.path.basename(name) and not os.path.exists(name):
            found, said = _match_pattern(name)
            beds += found
            notes += said
        else:
            require_file(name)
            beds.append(BedPath(Path(name)))
    paths = [bed.path for bed in beds]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise InputError(f"{path}: given twice, expected each genotype file once")
    return beds, notes


def _match_pattern(pattern: str) -> tuple[list[BedPath], list[str]]:
    """Files whose names have a chromosome's label in place of @; the folder's name is literal."""
    folder, base = os.path.split(pattern)
    head, *rest = base.split("@")
    # Further @ stand for the same chromosome.
    tail = r"\1".join(map(re.escape, rest))
    label = re.compile(f"{re.escape(head)}((?i:{_LABEL})){tail}")
    similar = re.compile(f"{re.escape(head)}.*{'.*'.join(map(re.escape, rest))}", re.DOTALL)
    try:
        names = sorted(os.listdir(folder or "."))
    except OSError as error:
        raise InputError(f"{pattern}: {folder}: can't be read ({error.strerror})") from None
    found: dict[str, BedPath] = {}
    others: list[str] = []
    for name in names:
        match = label.fullmatch(name)
        if match is None:
            others += [name] if similar.fullmatch(name) else []
            continue
        chromosome = _chromosome(match[1])
        if chromosome in found:
            raise InputError(
                f"{pattern}: {found[chromosome].path.name} and {name} are both of chromosome "
                f"{chromosome}; move one away, or name the files instead of giving a pattern"
            )
        found[chromosome] = BedPath(Path(folder, name), match[1])
    passed = ""
    if others:
        passed = f"{_listed(others)}: no chromosome (1-26, X, Y, XY, PAR1, PAR2, MT) in place of @"
    if not found:
        raise InputError(
            f"{pattern}: no file matches, expected a .bed a chromosome with its name in place of @"
            + (f"; {passed}" if passed else "")
        )
    beds = [found[chromosome] for chromosome in sorted(found, key=_ORDER.index)]
    notes = [f"{pattern}: {_listed([bed.path.name for bed in beds])}"]
    return beds, notes + ([f"{pattern}: not taken: {passed}"] if passed else [])


def _listed(names: list[str]) -> str:
    """Names in short, with their number."""
    some = names if len(names) <= _SHOWN else [*names[: _SHOWN - 2], "...", names[-1]]
    return f"{len(names)} file{'' if len(names) == 1 else 's'} ({', '.join(some)})"


def _chromosome(label: str) -> str:
    """Name of a human chromosome, one for all of its spellings."""
    name = plain_contig(label).upper()
    return _NAMES.get(name, name)
