"""How a results store lies on disk, and how an empty one is made: aside, then renamed."""

import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from zarr.codecs import ZstdCodec

from hlmm_dask.durable import sync, write_json
from hlmm_dask.errors import InputError, StoreError
from hlmm_dask.lock import refuse_if_held

FORMAT = "hlmm-dask results 1"
RUN_FOLDER = ".run"
LOCK_FILE = "lock.json"
METADATA = ("variant_id", "variant_contig", "variant_position", "variant_allele")
# Variants in one chunk of the metadata: few files, and memory that is bounded.
_METADATA_ROWS = 65_536
_KEYS: dict[str, Any] = {"name": "default", "separator": "."}


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


def make_store(
    target: Path,
    layout: Layout,
    *,
    variants: Iterable[pd.DataFrame],
    fingerprint: Mapping[str, Any],
    attrs: Mapping[str, Any],
    count_a2: bool,
    overwrite: bool,
) -> None:
    """Make an empty store aside and move it to its place; see `ResultsStore.create`."""
    if layout.n_variants < 1 or layout.block_size < 1:
        raise StoreError(f"{target}: needs at least one variant and a block size of at least 1")
    if len(set(layout.columns)) != len(layout.columns):
        raise StoreError(f"{target}: column names are not unique")
    check_place(target, overwrite=overwrite)
    aside = target.with_name(f".{target.name}.{uuid4().hex}.partial")
    try:
        _lay_out(aside, layout, attrs=attrs, count_a2=count_a2)
        _write_variants(aside, layout, variants, count_a2=count_a2)
        with warnings.catch_warnings():
            # Not yet in the specification of format 3, and without it xarray warns on opening.
            warnings.simplefilter("ignore", category=UserWarning)
            zarr.consolidate_metadata(aside)
        (aside / RUN_FOLDER / "blocks").mkdir(parents=True)
        manifest = {
            "format": FORMAT,
            "n_variants": layout.n_variants,
            "block_size": layout.block_size,
            "columns": list(layout.columns),
            "fingerprint": dict(fingerprint),
        }
        write_json(aside / RUN_FOLDER / "manifest.json", manifest)
        _move_in(aside, target, overwrite=overwrite)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def check_place(target: Path, *, overwrite: bool) -> None:
    """Refuse a place where no store can or may be made."""
    parent = target.parent
    if not parent.is_dir():
        raise InputError(f"{parent}: folder does not exist; make it or give another OUTPREFIX")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{parent}: folder can't be written; give another OUTPREFIX")
    if not target.exists():
        return
    if read_manifest(target) is None:
        raise StoreError(
            f"{target}: exists and is not a results store; move it away or give another OUTPREFIX"
        )
    if not overwrite:
        raise StoreError(f"{target}: exists; give --resume to go on with it or --overwrite")
    refuse_if_held(target / RUN_FOLDER / LOCK_FILE)


def read_manifest(target: Path) -> dict[str, Any] | None:
    """Return the manifest of a results store, None if the folder is not recognisably one."""
    try:
        manifest = json.loads((target / RUN_FOLDER / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return None
    keys = {"format", "n_variants", "block_size", "columns", "fingerprint"}
    if not isinstance(manifest, dict) or not keys <= manifest.keys():
        return None
    return manifest if str(manifest["format"]).startswith("hlmm-dask results") else None


def _move_in(aside: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a whole store to its place, and remove the one that it replaces."""
    check_place(target, overwrite=overwrite)
    old = None
    if target.exists():
        old = target.with_name(f".{target.name}.{uuid4().hex}.old")
        target.rename(old)
    try:
        aside.rename(target)
    except OSError as error:
        raise StoreError(f"{target}: exists; another run made it at the same time") from error
    sync(target.parent)
    if old is not None:
        shutil.rmtree(old)


def _lay_out(path: Path, layout: Layout, *, attrs: Mapping[str, Any], count_a2: bool) -> None:
    """Make the group and its empty arrays."""
    # Whole blocks, so that a Dataset can give all variables the chunks of the results.
    rows = -(-_METADATA_ROWS // layout.block_size) * layout.block_size
    codecs = [ZstdCodec(level=1, checksum=True)]
    about = {
        "coordinates": " ".join(METADATA),
        "effect_allele": "A2" if count_a2 else "A1",
        "block_size": layout.block_size,
        "source": FORMAT,
    }
    group = zarr.open_group(path, mode="w-", zarr_format=3, attributes=dict(attrs) | about)
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
