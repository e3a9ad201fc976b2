"""Where the variants of a scan come from."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.foreign_dataset import canonical, variants_of
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.null_input import (
    Genotypes,
    genotyped_samples,
    is_dataset,
    samples_digest,
)

if TYPE_CHECKING:
    import xarray as xr

    from hlmm_dask.scanning.lmm import AnyNull

_VARIANTS_A_PIECE = 100_000


@dataclass(frozen=True)
class Source:
    """The variants of a scan.

    Attributes
    ----------
    genotypes : PlinkGenotypes or Dataset
        Where they are read from.
    start, stop : int
        Range of the variants.
    """

    genotypes: "PlinkGenotypes | xr.Dataset"
    start: int
    stop: int

    @property
    def n_variants(self) -> int:
        """Variants of the scan."""
        return self.stop - self.start

    @property
    def n_samples(self) -> int:
        """Samples of the genotypes."""
        if isinstance(self.genotypes, PlinkGenotypes):
            return self.genotypes.n_samples
        return int(self.genotypes.sizes["samples"])

    @property
    def files(self) -> tuple[tuple[str, int], ...]:
        """Files that workers read, with their sizes in bytes; empty for a Dataset."""
        if isinstance(self.genotypes, PlinkGenotypes):
            return self.genotypes.bed_sizes
        return ()

    @cached_property
    def samples_sha256(self) -> str:
        """SHA-256 of the IDs of all samples in their order."""
        return samples_digest(genotyped_samples(self.genotypes)[0])

    def variants(self) -> Iterator[pd.DataFrame]:
        """Give the variants in pieces; allele1 is the counted one."""
        if isinstance(self.genotypes, PlinkGenotypes):
            yield from self.genotypes.iter_variants(self.start, self.stop)
            return
        for first in range(self.start, self.stop, _VARIANTS_A_PIECE):
            yield variants_of(self.genotypes, first, min(first + _VARIANTS_A_PIECE, self.stop))

    def effect_allele(self, count_a2: bool) -> str:
        """Say which of PLINK's alleles, A1 or A2, the effects are per copy of."""
        counts_a1 = True
        if not isinstance(self.genotypes, PlinkGenotypes):
            counts_a1 = bool(self.genotypes.attrs.get("count_a1", True))
        return "A1" if counts_a1 != count_a2 else "A2"

    def identity(self) -> dict[str, Any]:
        """Say what decides the genotypes."""
        if isinstance(self.genotypes, PlinkGenotypes):
            return self.genotypes.identity()
        total = hashlib.sha256()
        for piece in self.variants():
            total.update(pd.util.hash_pandas_object(piece, index=False).to_numpy().data)
        return {"n_variants": self.n_variants, "variants_sha256": total.hexdigest()}


def open_source(genotypes: Genotypes, config: ScanConfig) -> Source:
    """Open what is to be scanned and check the range.

    Raises
    ------
    InputError
        If files can't be used or the range is not in them.
    """
    if is_dataset(genotypes):
        dataset = canonical(genotypes)
        opened: PlinkGenotypes | xr.Dataset = dataset
        n_variants = int(dataset.sizes["variants"])
    else:
        opened = genotypes if isinstance(genotypes, PlinkGenotypes) else open_plink(genotypes)
        n_variants = opened.n_variants
    stop = n_variants if config.stop is None else config.stop
    if not 0 <= config.start < stop <= n_variants:
        raise InputError(
            f"range {config.start} {stop}: expected 0 <= START < END <= {n_variants}, "
            "the number of variants"
        )
    return Source(opened, config.start, stop)


def check_samples(source: Source, null: "AnyNull") -> None:
    """Refuse a null model of other people: its phenotype would meet the wrong genotypes."""
    if source.n_samples != null.n_file_samples:
        raise InputError(
            f"the null model was fitted for genotypes of {null.n_file_samples} samples, these "
            f"have {source.n_samples}; call fit_null with the genotypes that are scanned"
        )
    if source.samples_sha256 != null.file_samples_sha256:
        _, name = genotyped_samples(source.genotypes)
        raise InputError(
            f"{name}: the null model was fitted for genotypes of other samples, or of the same in "
            "another order; call fit_null with the genotypes that are scanned"
        )
