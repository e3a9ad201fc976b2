"""Heteroskedastic linear (mixed) models for whole genomes, on Dask."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlmm_dask import plot as plot  # not in __all__: it needs matplotlib
    from hlmm_dask.errors import InputError, ScanCancelled, ScanError, StoreError
    from hlmm_dask.export import read_models_table
    from hlmm_dask.followup.loci import loci
    from hlmm_dask.genotypes.dataset import open_bed
    from hlmm_dask.in_memory import variant_tests
    from hlmm_dask.models.hlm import HLM
    from hlmm_dask.models.hlmm import HLMM, simulate
    from hlmm_dask.models.lmm import LinearMixedModel
    from hlmm_dask.models.variance_components import VarianceComponents
    from hlmm_dask.models.vc_effects import RandomEffect
    from hlmm_dask.relationship.files import read_kinship
    from hlmm_dask.relationship.pedigree import read_pedigree
    from hlmm_dask.results import open_results
    from hlmm_dask.scanning.background import Run
    from hlmm_dask.scanning.kinship import relationship_matrix
    from hlmm_dask.scanning.lmm import LMMNullModel, fit_lmm_null
    from hlmm_dask.scanning.null import NullModel
    from hlmm_dask.scanning.null_input import fit_null
    from hlmm_dask.scanning.scan import scan
    from hlmm_dask.view.widget import dashboard as dashboard  # neither: it needs anywidget

__all__ = [
    "HLM",
    "HLMM",
    "InputError",
    "LMMNullModel",
    "LinearMixedModel",
    "NullModel",
    "RandomEffect",
    "Run",
    "ScanCancelled",
    "ScanError",
    "StoreError",
    "VarianceComponents",
    "fit_lmm_null",
    "fit_null",
    "loci",
    "open_bed",
    "open_results",
    "read_kinship",
    "read_models_table",
    "read_pedigree",
    "relationship_matrix",
    "scan",
    "simulate",
    "variant_tests",
]

# Imported when first used: a worker needs a part of the package, and starts sooner.
_HOME = {
    "HLM": "models.hlm",
    "HLMM": "models.hlmm",
    "InputError": "errors",
    "LMMNullModel": "scanning.lmm",
    "LinearMixedModel": "models.lmm",
    "NullModel": "scanning.null",
    "RandomEffect": "models.vc_effects",
    "VarianceComponents": "models.variance_components",
    "Run": "scanning.background",
    "ScanCancelled": "errors",
    "ScanError": "errors",
    "StoreError": "errors",
    "dashboard": "view.widget",
    "fit_lmm_null": "scanning.lmm",
    "fit_null": "scanning.null_input",
    "loci": "followup.loci",
    "open_bed": "genotypes.dataset",
    "open_results": "results",
    "read_kinship": "relationship.files",
    "read_models_table": "export",
    "read_pedigree": "relationship.pedigree",
    "relationship_matrix": "scanning.kinship",
    "scan": "scanning.scan",
    "simulate": "models.hlmm",
    "variant_tests": "in_memory",
}


def __getattr__(name: str) -> Any:
    if name == "plot":
        return import_module("hlmm_dask.plot")
    if name == "__version__":
        return import_module("importlib.metadata").version("hlmm-dask")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
