"""What the homoskedastic mixed model takes: memory of a process, time of a variant."""

from typing import Literal

from hlmm_dask.kernels.lmm import CHUNK

LMMKernel = Literal["lmm-refit", "lmm-fixed"]

# Plans that a process keeps where each chromosome has its own, and chromosomes.
_PLANS_KEPT, _CHROMOSOMES = 4, 24
# Values of λ at which sums are taken, for all variants and then near the best.
_GRID_POINTS, _NEAR_POINTS = 25, 17
_PART_GENOTYPES = 2**22
# Matrices of the size of the unpacked genotypes that a test makes.
_MATRICES = {"lmm-refit": 9, "lmm-fixed": 6}
# Multiplications a second of one core.
_RATE = 2e10


def lmm_model_bytes(kernel: LMMKernel, n: int, c: int, *, per_chromosome: bool) -> int:
    """Bytes of the published model with its arrays.

    Parameters
    ----------
    kernel : str
        Whether λ is refitted or kept.
    n, c : int
        Analysed samples, and covariates with the intercept.
    per_chromosome : bool
        Whether each chromosome has a matrix of its own.
    """
    opened = 8 * n * n + 8 * n * _GRID_POINTS * (2 + c)
    published = 8 * n * (3 * c + 5)
    return (
        (_PLANS_KEPT * opened + _CHROMOSOMES * published)
        if per_chromosome
        else (opened + published)
    )


def lmm_block_bytes(kernel: LMMKernel, n: int, c: int, n_variants: int) -> int:
    """Bytes that testing a block takes, for each thread, besides its packed genotypes."""
    part = min(n_variants, CHUNK, max(1, _PART_GENOTYPES // n))
    total = 8 * part * n * _MATRICES[kernel]
    if kernel == "lmm-refit":
        total += 8 * (n + part) * _NEAR_POINTS * (2 + c) + 24 * part * _GRID_POINTS * (2 + c)
    return total


def lmm_seconds(kernel: LMMKernel, n: int) -> float:
    """Seconds of one core that a variant takes, about."""
    return n * n / _RATE / (1 if kernel == "lmm-refit" else 2)
