"""Results as a Dataset."""

import os
from itertools import chain
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from hlmm_dask.errors import StoreError
from hlmm_dask.layout import METADATA, METADATA_DOC
from hlmm_dask.schema import (
    DISPERSION_COLUMNS,
    LMM_COLUMNS,
    LMM_NAMES,
    NOT_COMPUTED,
    RESULT_COLUMNS,
    STATUS_DOC,
    TEST_COLUMNS,
    Status,
    phenotype_unit,
)
from hlmm_dask.store import ResultsStore


def open_results(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a results store as a Dataset with one lazy variable for each column.

    Parameters
    ----------
    path : path
        OUTPREFIX.zarr.

    Returns
    -------
    Dataset
        Dimension ``variants``; coordinates ``variant_id``, ``variant_contig``,
        ``variant_position``, ``variant_allele`` (other allele, effect allele); ``status`` is
        int8, -1 where nothing is computed yet.

    Raises
    ------
    StoreError
        If there is no results store, what it says of itself and the variants is damaged, or
        results of a finished block are gone. Values are read when they are computed: what is
        damaged is found then.
    """
    store = ResultsStore.open(path)
    store.require_intact()
    store.require_chunks()
    # Of this opening: what is computed later must not be mixed with what was there before.
    token = uuid4().hex
    own = LMM_COLUMNS if store.columns == LMM_NAMES else RESULT_COLUMNS
    tests = chain.from_iterable(TEST_COLUMNS.values())
    about = {column.name: column for column in (*own, *DISPERSION_COLUMNS, *tests)}
    results = xr.DataArray(
        da.map_blocks(
            _read_results,
            store,
            store.made,
            chunks=(_chunks(store.n_variants, store.block_size), (len(store.columns),)),
            dtype=np.float64,
            meta=np.empty((0, 0)),
            name=f"results-{token}",
        ),
        dims=("variants", "column"),
    )
    unit = phenotype_unit(store.fingerprint)
    variables: dict[str, xr.DataArray] = {}
    for i, name in enumerate(store.columns):
        variable = results.isel(column=i, drop=True)
        variable.attrs = {}
        if name in about:
            unit_here = about[name].unit.replace("phenotype", unit)
            variable.attrs = {"units": unit_here, "long_name": about[name].doc}
        if name == "status":
            variable = variable.fillna(NOT_COMPUTED).astype(np.int8, keep_attrs=True)
            variable.attrs |= {
                "flag_values": [NOT_COMPUTED, *(status.value for status in Status)],
                "flag_meanings": " ".join(["not_computed", *(s.label for s in Status)]),
                "flag_docs": ["not computed yet", *(STATUS_DOC[s] for s in Status)],
            }
        variables[name] = variable
    coords = {name: _names(store, name, token) for name in METADATA}
    attrs = store.attrs()
    attrs.pop("coordinates", None)
    return xr.Dataset(variables, coords=coords, attrs=attrs | {"complete": int(store.is_finished)})


def _read_results(
    store: ResultsStore, made: int, *, block_id: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    values = store.read_block(block_id[0])
    _require_same(store, made)
    return values


def _require_same(store: ResultsStore, made: int) -> None:
    if store.made != made:
        raise StoreError(
            f"{store.path}: replaced by another scan since it was opened; open it again"
        )


def _names(store: ResultsStore, name: str, token: str) -> xr.Variable:
    more = (2,) if name == "variant_allele" else ()
    dtype = np.dtype(np.int64) if name == "variant_position" else np.dtypes.StringDType()
    array = da.map_blocks(
        _read_names,
        store,
        store.made,
        name,
        chunks=(_chunks(store.n_variants, store.names_rows), *((n,) for n in more)),
        dtype=dtype,
        meta=np.empty((0,) * (1 + len(more)), dtype=dtype),
        name=f"{name}-{token}",
    )
    # Chunks of names are larger than blocks on disk.
    array = array.rechunk((_chunks(store.n_variants, store.block_size), *more))
    dims = ("variants", "alleles")[: array.ndim]
    return xr.Variable(dims, array, {"long_name": METADATA_DOC[name]})


def _read_names(
    store: ResultsStore, made: int, name: str, *, block_id: tuple[int, ...]
) -> npt.NDArray[Any]:
    start = block_id[0] * store.names_rows
    names = store.read_names(name, start, min(start + store.names_rows, store.n_variants))
    _require_same(store, made)
    return names if name == "variant_position" else names.astype(np.dtypes.StringDType())


def _chunks(n_variants: int, size: int) -> tuple[int, ...]:
    full, rest = divmod(n_variants, size)
    return (size,) * full + ((rest,) if rest else ())
