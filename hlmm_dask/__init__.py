"""Heteroskedastic linear (mixed) models for whole genomes, on Dask."""

from hlmm_dask.errors import InputError, ScanError, StoreError
from hlmm_dask.export import read_models_table
from hlmm_dask.genotypes.dataset import open_bed
from hlmm_dask.models.hlm import HLM
from hlmm_dask.models.hlmm import HLMM, simulate
from hlmm_dask.scan.null import NullModel, fit_null
from hlmm_dask.scan.run import scan
from hlmm_dask.store import open_results

__all__ = [
    "HLM",
    "HLMM",
    "InputError",
    "NullModel",
    "ScanError",
    "StoreError",
    "fit_null",
    "open_bed",
    "open_results",
    "read_models_table",
    "scan",
    "simulate",
]
