"""Genotypes of a finished scan, read again: they must be those that it was fitted with."""

import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hlmm_dask.errors import ChangedInputError
from hlmm_dask.genotypes.packed import to_dosage
from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.scanning.strips import PackedBlock, genotypes_checksum
from hlmm_dask.store import ResultsStore

_comparing = threading.Lock()


@dataclass(frozen=True)
class ScannedGenotypes:
    """Genotypes of a scan; a block of them is compared with its checksum before its first use.

    Attributes
    ----------
    genotypes : PlinkGenotypes
    store : ResultsStore
        Of the scan.
    first : int
        Index in the files of the scan's first variant.
    count_a2 : bool
        Whether the effect allele is allele 2.
    """

    genotypes: PlinkGenotypes
    store: ResultsStore
    first: int
    count_a2: bool
    _same: set[int] = field(default_factory=set, compare=False, repr=False)

    def counts(self, start: int, stop: int, dtype: DTypeLike = np.float64) -> NDArray[np.floating]:
        """Read copies of the effect allele of the scan's variants start..stop-1.

        Returns
        -------
        (stop - start, n_file_samples) of dtype
            NaN where missing.

        Raises
        ------
        ChangedInputError
            As `require_same`.
        """
        self.require_same(start, stop)
        packed = self.genotypes.read_packed(self.first + start, self.first + stop)
        counts = to_dosage(packed, self.genotypes.n_samples, dtype)
        return np.asarray(2.0 - counts if self.count_a2 else counts)

    def standardised(self, index: int, samples: NDArray[np.int64]) -> NDArray[np.float32]:
        """Genotypes of some samples with mean 0 and length 1, missing ones at the mean."""
        g = self.counts(index, index + 1)[0, samples]
        g = np.nan_to_num(g - np.nanmean(g))
        return np.asarray(g / max(float(np.linalg.norm(g)), 1e-300), dtype=np.float32)

    def require_same(self, start: int, stop: int) -> None:
        """See that the blocks with the variants start..stop-1 are what was scanned.

        Raises
        ------
        ChangedInputError
            Names the files and the block, if they are not.
        """
        size = self.store.block_size
        for index in range(start // size, -(-stop // size)):
            # Threads that look at the same block wait for the one that reads it.
            with _comparing:
                if index not in self._same:
                    self._compare(index)
                    self._same.add(index)

    def _compare(self, index: int) -> None:
        block, marker = self.store.block(index), self.store.marker(index)
        low, high = self.first + block.start, self.first + block.stop
        # Of a block that is not done nothing is known.
        if marker is not None:
            found = genotypes_checksum(PackedBlock(self.genotypes, low, high))
            if found != marker["genotypes_crc32"]:
                said = genotypes_differ(self.store, index, self.first, self.genotypes)
                raise ChangedInputError(f"{said}; restore the file, or scan again")


def genotypes_differ(
    store: ResultsStore, index: int, first: int, genotypes: PlinkGenotypes | None
) -> str:
    """Say which genotypes are not those of a block; without files they are a Dataset's."""
    block = store.block(index)
    low, high = first + block.start, first + block.stop
    where = "the Dataset"
    if genotypes is not None:
        where = ", ".join(str(file.bed) for file, _, _ in genotypes.spans(low, high))
    return (
        f"{where}: genotypes differ from those that block {index} (variants {low} to {high - 1}, "
        f"from 0) of {store.path} was fitted with"
    )
