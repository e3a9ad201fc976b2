"""Blocks of genotypes that are not held whole: a block of packed ones is read strip by strip."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.kernels.packed import Packed

# Few enough bytes that their memory is kept (see `hlmm_dask.scanning.fork_server`), and enough
# variants that the overhead of a call is negligible.
_STRIP_BYTES = 30 * 2**20
_STRIP_VARIANTS = 4096


@dataclass(frozen=True)
class PackedBlock:
    """A block of packed genotypes in its file.

    Attributes
    ----------
    genotypes : PlinkGenotypes
        Where it is read from.
    start, stop : int
        Its variants.
    """

    genotypes: PlinkGenotypes
    start: int
    stop: int

    def __len__(self) -> int:
        """Variants of the block."""
        return self.stop - self.start

    def strips(self) -> Iterator[Packed]:
        """Read one strip after the other, each into the memory of the one before.

        Yields
        ------
        (m, n_bytes) uint8

        Raises
        ------
        ChangedInputError
            If a file is no longer the one that was opened.
        """
        n_bytes = self.genotypes.n_bytes
        size = strip_variants(n_bytes)
        memory = np.empty((min(size, len(self)), n_bytes), dtype=np.uint8)
        for first in range(self.start, self.stop, size):
            strip = memory[: self.stop - first]
            self.genotypes.read_into(strip, first)
            yield strip


def strip_variants(n_bytes: int) -> int:
    """Variants of so many packed bytes that are read at once."""
    return max(1, min(_STRIP_VARIANTS, _STRIP_BYTES // n_bytes))


def strips(block: "PackedBlock | NDArray[Any]") -> Iterator[NDArray[Any]]:
    """Give the parts of a block, in order; a block of dosages is held whole."""
    if isinstance(block, PackedBlock):
        yield from block.strips()
    else:
        yield block


def genotypes_checksum(block: "PackedBlock | NDArray[Any]") -> str:
    """CRC-32 of a block of genotypes, packed or dosages."""
    crc = 0
    for strip in strips(block):
        crc = crc_of(strip, crc)
    return f"{crc:08x}"


def crc_of(strip: NDArray[Any], crc: int) -> int:
    """CRC-32 of what has the CRC-32 ``crc``, and then a strip."""
    return int(isal_zlib.crc32(np.ascontiguousarray(strip).data, crc))
