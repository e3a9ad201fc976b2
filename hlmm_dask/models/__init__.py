"""Models: numpy and scipy only, one model at a time."""

from hlmm_dask.models.hlm import HLM, HLMFit
from hlmm_dask.models.hlmm import HLMM, HLMMFit, simulate
from hlmm_dask.models.lmm import LinearMixedModel, LinearMixedModelFit
from hlmm_dask.models.lmm_alternatives import Alternatives
from hlmm_dask.models.lmm_heritability import (
    HeritabilityFit,
    fit_heritability,
    fit_phenotypes,
    profile_loglik,
)
from hlmm_dask.models.lmm_rotation import Rotation, rotation_of_effects, rotation_of_kinship

__all__ = [
    "HLM",
    "HLMM",
    "Alternatives",
    "HLMFit",
    "HLMMFit",
    "HeritabilityFit",
    "LinearMixedModel",
    "LinearMixedModelFit",
    "Rotation",
    "fit_heritability",
    "fit_phenotypes",
    "profile_loglik",
    "rotation_of_effects",
    "rotation_of_kinship",
    "simulate",
]
