"""How the arrays of a results store lie on disk."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from numcodecs.zstd import Zstd
from zarr.codecs import ZstdCodec

from hlmm_dask.durable import replacing
from hlmm_dask.errors import StoreError

FORMAT = "hlmm-dask results 2"
METADATA = ("variant_id", "variant_contig", "variant_position", "variant_allele")
# Variants in one chunk of the metadata: few files, and memory that is bounded.
_METADATA_ROWS = 65_536
_KEYS: dict[str, Any] = {"name": "default", "separator": "."}
_ZSTD = Zstd(level=1, checksum=True)


@dataclass(frozen=True)
class Block:
    """A range of variants that is computed and written as one."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """Shape of a store: rows, rows a block, names of the columns."""

    n_variants: int
    block_size: int
    columns: tuple[str, ...]


def build(
    path: Path,
    layout: Layout,
    *,
    variants: Iterable[pd.DataFrame],
    attrs: Mapping[str, Any],
    count_a2: bool,
) -> None:
    """Make a store's files that never change, and no results.

    Parameters
    ----------
    path : Path
        Folder to be made.
    layout : Layout
        Shape of the store.
    variants, attrs, count_a2
        See `ResultsStore.create`.
    """
    _lay_out(path, layout, attrs=attrs, count_a2=count_a2)
    _write_variants(path, layout, variants, count_a2=count_a2)
    with warnings.catch_warnings():
        # Not yet in the specification of format 3, and without it xarray warns on opening.
        warnings.simplefilter("ignore", category=UserWarning)
        zarr.consolidate_metadata(path)


def _lay_out(path: Path, layout: Layout, *, attrs: Mapping[str, Any], count_a2: bool) -> None:
    """Make the group and its empty arrays."""
    # Whole blocks, so that a Dataset can give all variables the chunks of the results.
    rows = -(-min(_METADATA_ROWS, layout.n_variants) // layout.block_size) * layout.block_size
    codecs = [ZstdCodec(level=1, checksum=True)]
    about = {
        "coordinates": " ".join(METADATA),
        "effect_allele": "A2" if count_a2 else "A1",
        "block_size": layout.block_size,
        "source": FORMAT,
    }
    group = zarr.open_group(path, mode="w-", zarr_format=3, attributes=about | dict(attrs))
    group.create_array(
        "results",
        shape=(layout.n_variants, len(layout.columns)),
        chunks=(layout.block_size, len(layout.columns)),
        dtype="float64",
        fill_value=float("nan"),
        compressors=codecs,
        dimension_names=("variants", "column"),
        chunk_key_encoding=_KEYS,
    )
    names = group.create_array(
        "column",
        shape=(len(layout.columns),),
        chunks=(len(layout.columns),),
        dtype=str,
        compressors=codecs,
        dimension_names=("column",),
    )
    names[:] = np.array(layout.columns, dtype=np.dtypes.StringDType())
    docs = {
        "variant_id": "identifier in the genotype file",
        "variant_contig": "chromosome",
        "variant_position": "position on the chromosome",
        "variant_allele": "other allele, effect allele (effects are per copy of it)",
    }
    for name in METADATA:
        wide = name == "variant_allele"
        group.create_array(
            name,
            shape=(layout.n_variants, 2) if wide else (layout.n_variants,),
            chunks=(rows, 2) if wide else (rows,),
            dtype="int64" if name == "variant_position" else str,
            compressors=codecs,
            dimension_names=("variants", "alleles") if wide else ("variants",),
            chunk_key_encoding=_KEYS,
            attributes={"long_name": docs[name]},
        )


def _write_variants(
    path: Path, layout: Layout, variants: Iterable[pd.DataFrame], *, count_a2: bool
) -> None:
    """Write the variants' metadata chunk by chunk."""
    group = zarr.open_group(path, mode="r+")
    arrays = {name: array_of(group, name) for name in METADATA}
    order = ["allele1", "allele2"] if count_a2 else ["allele2", "allele1"]
    start = 0
    for table in _regroup(variants, arrays["variant_id"].chunks[0]):
        stop = start + len(table)
        if stop > layout.n_variants:
            break
        arrays["variant_id"][start:stop] = _strings(table["variant_id"])
        arrays["variant_contig"][start:stop] = _strings(table["contig"])
        arrays["variant_position"][start:stop] = table["position"].to_numpy(dtype=np.int64)
        alleles = np.stack([_strings(table[column]) for column in order], axis=1)
        arrays["variant_allele"][start:stop] = alleles
        start = stop
    else:
        stop = start
    if stop != layout.n_variants:
        more = "more than " if stop > layout.n_variants else ""
        raise StoreError(
            f"the variant tables hold {more}{min(stop, layout.n_variants)} variants, "
            f"expected {layout.n_variants}"
        )


def _regroup(tables: Iterable[pd.DataFrame], size: int) -> Iterator[pd.DataFrame]:
    """Cut and join tables so that each has ``size`` rows, the last perhaps fewer."""
    held: list[pd.DataFrame] = []
    n_held = 0
    for table in tables:
        begin = 0
        while n_held + len(table) - begin >= size:
            end = begin + size - n_held
            yield pd.concat([*held, table.iloc[begin:end]], ignore_index=True)
            held, n_held, begin = [], 0, end
        if begin < len(table):
            held.append(table.iloc[begin:])
            n_held += len(table) - begin
    if held:
        yield pd.concat(held, ignore_index=True)


def _strings(column: "pd.Series[Any]") -> npt.NDArray[Any]:
    return np.asarray(column.astype(object)).astype(np.dtypes.StringDType())


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return an array of a group."""
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def write_chunk(path: Path, index: int, block_size: int, values: npt.NDArray[np.float64]) -> None:
    """Write one chunk of the results to disk past Zarr, which takes ten times as long for it.

    The bytes are those that Zarr writes.

    Parameters
    ----------
    path : Path
        The store.
    index, block_size : int
        The block, and rows of a whole one.
    values : (n_rows, n_columns) float64
        Results; the last block may have fewer rows than others.
    """
    if len(values) < block_size:
        none = np.full((block_size - len(values), values.shape[1]), np.nan)
        values = np.concatenate([values, none])
    with replacing(path / "results" / f"c.{index}.0") as file:
        file.write(_ZSTD.encode(np.ascontiguousarray(values, dtype="<f8")))


def read_chunk(path: Path, index: int, n_columns: int) -> npt.NDArray[np.float64] | None:
    """Read one chunk of the results past Zarr, which takes three times as long for it.

    Parameters
    ----------
    path : Path
        The store.
    index, n_columns : int
        The block, and columns of the results.

    Returns
    -------
    (block_size, n_columns) float64, or None
        The last block with rows that are none behind it; None where nothing was written.

    Raises
    ------
    RuntimeError, ValueError
        If it is damaged.
    """
    try:
        packed = (path / "results" / f"c.{index}.0").read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return None
    return np.frombuffer(_ZSTD.decode(packed), dtype="<f8").reshape(-1, n_columns)
