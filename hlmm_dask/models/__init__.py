"""Models: numpy and scipy only, one model at a time."""

from hlmm_dask.models.hlm import HLM, HLMFit
from hlmm_dask.models.hlmm import HLMM, HLMMFit, simulate

__all__ = ["HLM", "HLMM", "HLMFit", "HLMMFit", "simulate"]
