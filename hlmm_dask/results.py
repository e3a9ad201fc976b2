"""Results as a Dataset."""

import os
from itertools import chain

import numpy as np
import xarray as xr

from hlmm_dask.layout import METADATA
from hlmm_dask.placement import read_manifest
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
        results of a finished block are gone.
    """
    store = ResultsStore.open(path)
    store.require_intact()
    store.require_chunks()
    dataset = xr.open_zarr(store.path, consolidated=True)
    own = LMM_COLUMNS if store.columns == LMM_NAMES else RESULT_COLUMNS
    tests = chain.from_iterable(TEST_COLUMNS.values())
    about = {column.name: column for column in (*own, *DISPERSION_COLUMNS, *tests)}
    results = dataset["results"]
    unit = phenotype_unit(read_manifest(store.path)["fingerprint"])
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
    # Their chunks on disk are larger.
    chunks = {"variants": store.block_size}
    coords = {name: dataset[name].variable.chunk(chunks) for name in METADATA}
    attrs = dataset.attrs | {"complete": int(store.is_finished)}
    return xr.Dataset(variables, coords=coords, attrs=attrs)
