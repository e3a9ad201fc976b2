"""The genome along one line: chromosomes in their order, positions side by side."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]

# Known chromosomes come first, in this order; PLINK's numbers 23 to 26 are X, Y, XY and MT.
_SEX = {"x": 23, "y": 24, "xy": 25, "par": 25, "m": 26, "mt": 26}


@dataclass(frozen=True)
class Contig:
    """A chromosome: name, smallest and largest position, number of variants."""

    name: str
    first: int
    last: int
    n_variants: int


@dataclass
class Contigs:
    """Chromosomes as they come: number, range of positions, first variant."""

    names: list[str] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)
    ranges: list[list[int]] = field(default_factory=list)  # lowest, highest, count, first index

    def add(
        self,
        index: npt.NDArray[np.int64],
        contig: npt.NDArray[Any],
        position: npt.NDArray[np.integer[Any]],
    ) -> npt.NDArray[np.int32]:
        """Take the variants of a block; return the code of each one's chromosome."""
        codes = np.empty(len(contig), dtype=np.int32)
        for start, stop in _runs(contig):
            name = str(contig[start])
            if name not in self.codes:
                self.codes[name] = len(self.names)
                self.names.append(name)
                self.ranges.append([np.iinfo(np.int64).max, 0, 0, np.iinfo(np.int64).max])
            code = self.codes[name]
            low, high, n, first = self.ranges[code]
            here = position[start:stop]
            self.ranges[code] = [
                min(low, int(here.min())),
                max(high, int(here.max())),
                n + stop - start,
                min(first, int(index[start])),
            ]
            codes[start:stop] = code
        return codes

    def ordered(self) -> tuple[Contig, ...]:
        """1 to 22, X, Y, XY, MT first; others as in the file."""

        def rank(code: int) -> tuple[int, int]:
            known = chromosome_number(self.names[code])
            return (1, self.ranges[code][3]) if known is None else (0, known)

        return tuple(
            Contig(self.names[c], *self.ranges[c][:3])
            for c in sorted(range(len(self.names)), key=rank)
        )


def short(name: str) -> str:
    """Return a chromosome's name as it stands at an axis: 1 for chr1."""
    return name[3:] if name[:3].lower() == "chr" and len(name) > 3 else name


def chromosome_number(name: str) -> int | None:
    """Return the place of a chromosome in the genome, None if its name is not known."""
    short = name.lower().removeprefix("chr")
    number = int(short) if short.isdecimal() else _SEX.get(short, 0)
    return number or None


def _runs(contig: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    if not len(contig):
        return
    edges = np.flatnonzero(contig[1:] != contig[:-1]) + 1
    bounds = [0, *edges.tolist(), len(contig)]
    yield from itertools.pairwise(bounds)


@dataclass(frozen=True)
class Axis:
    """The genome along one line, chromosome after chromosome with small gaps.

    Attributes
    ----------
    names : tuple of str
        Chromosomes in order.
    starts, stops : (n,) float64
        Where each begins and ends, in base pairs from the left.
    offsets : (n,) float64
        What is added to a position on it.
    """

    names: tuple[str, ...]
    starts: _Floats
    stops: _Floats
    offsets: _Floats

    @classmethod
    def of(cls, contigs: tuple[Contig, ...]) -> "Axis":
        """Lay the chromosomes side by side."""
        lengths = np.array([c.last - c.first for c in contigs], dtype=np.float64)
        gap = 0.006 * max(float(lengths.sum()), 1.0) if len(contigs) > 1 else 0.0
        starts = np.concatenate([[0.0], np.cumsum(lengths + gap)])[: len(contigs)]
        offsets = starts - np.array([c.first for c in contigs], dtype=np.float64)
        return cls(tuple(c.name for c in contigs), starts, starts + lengths, offsets)

    def code(self, contig: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return the number of each variant's chromosome along the axis."""
        codes = {name: i for i, name in enumerate(self.names)}
        return np.fromiter((codes[name] for name in contig), np.int64, len(contig))

    def x(self, contig: npt.NDArray[Any], position: npt.NDArray[Any]) -> _Floats:
        """Place of variants along the axis."""
        return np.asarray(self.offsets[self.code(contig)] + position, dtype=np.float64)
