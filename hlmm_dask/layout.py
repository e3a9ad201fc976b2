"""How the arrays of a results store lie on disk."""

import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from zarr.codecs import ZstdCodec

from hlmm_dask.errors import StoreError
from hlmm_dask.json_files import AT_LEAST_1, read_json

FORMAT = "hlmm-dask results 2"
METADATA = ("variant_id", "variant_contig", "variant_position", "variant_allele")
# Variants in one chunk of the metadata: few files, and memory that is bounded.
_METADATA_ROWS = 65_536
METADATA_DOC = {
    "variant_id": "identifier in the genotype file",
    "variant_contig": "chromosome",
    "variant_position": "position on the chromosome",
    "variant_allele": "other allele, effect allele (effects are per copy of it)",
}
_KEYS: dict[str, Any] = {"name": "default", "separator": "."}
# What is read of a store at a time stays below 1 GiB, whatever its files say.
LARGEST_BLOCK = 1 << 20
MOST_COLUMNS = 128
_GROUP = {
    "zarr_format": range(3, 4),
    "node_type": frozenset({"group"}),
    "attributes": {str: object},
}
_ARRAY = {
    "zarr_format": range(3, 4),
    "node_type": frozenset({"array"}),
    "shape": [AT_LEAST_1],
    "data_type": frozenset({"float64", "int64", "string"}),
    "chunk_grid": {
        "name": frozenset({"regular"}),
        "configuration": {"chunk_shape": [AT_LEAST_1]},
    },
    "chunk_key_encoding": {
        "name": frozenset({"default"}),
        "configuration": {"separator": frozenset({".", "/"})},
    },
    "codecs": [
        {"name": frozenset({"bytes", "vlen-utf8", "zstd"}), "configuration?": {str: object}}
    ],
}


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


def names_rows(layout: Layout) -> int:
    """Variants in one chunk of the metadata."""
    # Whole blocks, so that a Dataset can give all variables the chunks of the results.
    return -(-min(_METADATA_ROWS, layout.n_variants) // layout.block_size) * layout.block_size


def check_arrays(path: Path, layout: Layout) -> None:
    """Compare what Zarr's files say of a store's arrays with what this program writes.

    The arrays are read past Zarr, by the codecs of this module alone; a store that names others
    was made or changed by another program.

    Parameters
    ----------
    path : Path
        The store.
    layout : Layout
        As in its manifest.

    Raises
    ------
    StoreError
        If a file is missing, damaged, or names another format, codec or shape.
    """
    _read_about(path / "zarr.json", _GROUP)
    n, width, rows = layout.n_variants, len(layout.columns), names_rows(layout)
    expected = {"results": ([n, width], [layout.block_size, width], "float64")}
    for name in METADATA:
        more = [2] if name == "variant_allele" else []
        kind = "int64" if name == "variant_position" else "string"
        expected[name] = ([n, *more], [rows, *more], kind)
    for name, (shape, chunks, kind) in expected.items():
        about = _read_about(path / name / "zarr.json", _ARRAY)
        found = (about["shape"], about["chunk_grid"]["configuration"]["chunk_shape"])
        first = "vlen-utf8" if kind == "string" else "bytes"
        codecs = [codec["name"] for codec in about["codecs"]]
        if (
            (*found, about["data_type"]) != (shape, chunks, kind)
            or codecs != [first, "zstd"]
            or about.get("storage_transformers")
        ):
            raise _changed(
                path / name / "zarr.json", "other shape, type or codecs than the store's"
            )
    # An array without a file is all empty, which those of one variant never are all.
    if max(len(os.listdir(path / name)) - 1 for name in METADATA) < -(-n // rows):
        raise _changed(path / METADATA[0], f"fewer variants than the {n} of its manifest")


def read_attrs(path: Path, shape: Any) -> dict[str, Any]:
    """Return the attributes of a store's group, which must have a shape (see `check_shape`)."""
    about: dict[str, Any] = _read_about(path / "zarr.json", _GROUP | {"attributes": shape})
    return dict(about["attributes"])


def _read_about(path: Path, shape: Any) -> Any:
    try:
        return read_json(path, shape)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"{path}: missing, so this is no results store in Zarr format 3 as this program writes "
            "it; run the scan again with --resume, which repairs it"
        ) from None
    except ValueError as error:
        raise _changed(path, str(error)) from None


def _changed(path: Path, why: str) -> StoreError:
    return StoreError(
        f"{path}: damaged, or not as this program writes it ({why}); run the scan again with "
        "--resume, which repairs it"
    )


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
        zarr.consolidate_metadata(path, zarr_format=3)


def copy_built(
    path: Path,
    layout: Layout,
    other: Path,
    names: Iterable[str],
    *,
    attrs: Mapping[str, Any],
    count_a2: bool,
) -> None:
    """Make the files that `build` makes, to the byte, from those of another store.

    Parameters
    ----------
    path, layout, attrs, count_a2
        As for `build`.
    other : Path
        A store of the same layout and variants.
    names : iterable of str
        Its files that never change.
    """
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(other / name, path / name)
    root = path / "zarr.json"
    group = json.loads(root.read_bytes())
    group["attributes"] = _about(layout, attrs, count_a2=count_a2)
    root.write_text(json.dumps(group, indent=2))


def _about(layout: Layout, attrs: Mapping[str, Any], *, count_a2: bool) -> dict[str, Any]:
    """Attributes of the group."""
    return {
        "coordinates": " ".join(METADATA),
        "effect_allele": "A2" if count_a2 else "A1",
        "block_size": layout.block_size,
        "source": FORMAT,
        **attrs,
    }


def _lay_out(path: Path, layout: Layout, *, attrs: Mapping[str, Any], count_a2: bool) -> None:
    """Make the group and its empty arrays."""
    rows = names_rows(layout)
    codecs = [ZstdCodec(level=1, checksum=True)]
    about = _about(layout, attrs, count_a2=count_a2)
    group = zarr.open_group(path, mode="w-", zarr_format=3, attributes=about)
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
            attributes={"long_name": METADATA_DOC[name]},
        )


def _write_variants(
    path: Path, layout: Layout, variants: Iterable[pd.DataFrame], *, count_a2: bool
) -> None:
    """Write the variants' metadata chunk by chunk."""
    group = zarr.open_group(path, mode="r+", zarr_format=3)
    arrays = {name: _array_of(group, name) for name in METADATA}
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


def _array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return an array of a group."""
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array
