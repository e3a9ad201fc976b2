"""PLINK genotypes as a lazy xarray Dataset with the names of VCF Zarr."""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from bed_reader import open_bed as open_bed_file
from dask.array import map_blocks
from numpy.typing import DTypeLike, NDArray

from hlmm_dask.arguments import flag, whole_number
from hlmm_dask.genotypes.paths import Paths
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink


def open_bed(genofile: Paths, *, chunk_variants: int = 1000, count_a1: bool = True) -> xr.Dataset:
    """Open PLINK files as a Dataset; genotypes and variants are read when they are computed.

    Dosages are read through bed-reader, which is given the counts of samples and variants and so
    never reads a .fam or .bim. The Dataset can be computed by threads, processes or a cluster
    that sees the files.

    Parameters
    ----------
    genofile : path or sequence of paths
        As for `open_plink`.
    chunk_variants : int
        Variants in a chunk; samples are never split.
    count_a1 : bool
        Count allele 1 (column 5 of the .bim), PLINK's A1; if False allele 2.

    Returns
    -------
    Dataset
        Dimensions ``variants``, ``samples``, ``alleles``:

        - ``call_dosage`` (variants, samples) float32: copies of the counted allele, NaN missing
        - ``variant_id``, ``variant_contig`` (variants) object: strings
        - ``variant_position`` (variants) int64
        - ``variant_allele`` (variants, alleles) object: other allele, counted allele
        - ``sample_id``, ``sample_family_id`` (samples) object: IID, FID

        Attributes: ``source`` (paths of the .bed files), ``count_a1`` (0 or 1).

    Raises
    ------
    InputError
        As `open_plink`.
    """
    whole_number("chunk_variants", chunk_variants, least=1)
    flag("count_a1", count_a1)
    plink = open_plink(genofile)
    full, rest = divmod(plink.n_variants, chunk_variants)
    rows = (chunk_variants,) * full + ((rest,) if rest else ())

    def lazy(
        read: Callable[..., Any], option: str | bool, dtype: DTypeLike, *other: tuple[int, ...]
    ) -> Any:
        # With meta, dask doesn't call the reader while it builds the graph.
        meta = np.empty((0,) * (1 + len(other)), dtype=dtype)
        make: Any = map_blocks
        return make(
            read, plink, option, chunk_variants, chunks=(rows, *other), dtype=meta.dtype, meta=meta
        )

    samples = plink.samples
    return xr.Dataset(
        {
            "call_dosage": (
                ("variants", "samples"),
                lazy(_read_dosage, count_a1, np.float32, (plink.n_samples,)),
                {"long_name": "copies of the second allele of variant_allele"},
            ),
            "variant_id": ("variants", lazy(_read_column, "variant_id", object)),
            "variant_contig": ("variants", lazy(_read_column, "contig", object)),
            "variant_position": ("variants", lazy(_read_column, "position", np.int64)),
            "variant_allele": (
                ("variants", "alleles"),
                lazy(_read_alleles, count_a1, object, (2,)),
            ),
            "sample_id": ("samples", samples["iid"].to_numpy(dtype=object)),
            "sample_family_id": ("samples", samples["fid"].to_numpy(dtype=object)),
        },
        attrs={"source": [str(path) for path in plink.paths], "count_a1": int(count_a1)},
    )


def _range(plink: PlinkGenotypes, block: int, chunk_variants: int) -> tuple[int, int]:
    start = block * chunk_variants
    return start, min(start + chunk_variants, plink.n_variants)


def _read_column(
    plink: PlinkGenotypes, column: str, chunk_variants: int, *, block_id: tuple[int, ...]
) -> NDArray[np.generic]:
    start, stop = _range(plink, block_id[0], chunk_variants)
    dtype = np.dtype(np.int64 if column == "position" else object)
    parts = [table[column].to_numpy(dtype=dtype) for table in plink.iter_variants(start, stop)]
    return np.concatenate(parts)


def _read_alleles(
    plink: PlinkGenotypes, count_a1: bool, chunk_variants: int, *, block_id: tuple[int, ...]
) -> NDArray[np.object_]:
    start, stop = _range(plink, block_id[0], chunk_variants)
    columns = ["allele2", "allele1"] if count_a1 else ["allele1", "allele2"]
    parts = [table[columns].to_numpy(dtype=object) for table in plink.iter_variants(start, stop)]
    return np.concatenate(parts)


def _read_dosage(
    plink: PlinkGenotypes, count_a1: bool, chunk_variants: int, *, block_id: tuple[int, ...]
) -> NDArray[np.float32]:
    start, stop = _range(plink, block_id[0], chunk_variants)
    dosage = np.empty((stop - start, plink.n_samples), dtype=np.float32)
    row = 0
    for file, low, high in plink.spans(start, stop):
        file.require_unchanged()
        try:
            # The counts keep bed-reader from parsing the .fam and .bim by its own, other rules.
            with open_bed_file(
                file.bed,
                iid_count=plink.n_samples,
                sid_count=file.n_variants,
                count_A1=count_a1,
                num_threads=1,
            ) as bed:
                block = bed.read(np.s_[:, low:high], dtype="float32", order="F")
        finally:
            # Also what bed-reader complains about may come from the change.
            file.require_unchanged()
        dosage[row : row + high - low] = block.T
        row += high - low
    return dosage
