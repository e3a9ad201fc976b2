"""How the variants are cut into blocks: by the time a block takes, and by a worker's memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.kernels.block_model import Kernel, choose_kernel
from hlmm_dask.layout import LARGEST_BLOCK
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.lmm import AnyNull, LMMNullModel
from hlmm_dask.scanning.lmm_memory import lmm_seconds
from hlmm_dask.scanning.memory import (
    Footprint,
    largest_block,
    largest_n,
    usable_bytes,
    worker_bytes,
)
from hlmm_dask.scanning.null_input import NullInput
from hlmm_dask.scanning.resources import Resources

# Variants a block at the most; a block is one task, one chunk and one marker.
_LARGEST = 16_384
# Enough blocks for progress and for an even load, and few enough for the scheduler.
_BLOCKS = 48
# Read in strips: not memory but an even load on many cores sets the bound, a third of a second.
_PACKED_BYTES = 256 * 2**20
# Shortest and longest that a block should take, from the rates of one core.
_SHORTEST, _SECONDS = 0.1, 20.0
# Of each of several phenotypes: a block costs some milliseconds whatever its size.
_SHORTEST_EACH = 0.025
_SECONDS_PER_VARIANT = 4e-6
_SECONDS_PER_SAMPLE_HLM = 3e-10
_SECONDS_PER_SAMPLE_COVARIATES = 3e-8
_RANDOM_EFFECT_RATE = 1.5e11
# Products with G of the linear method, and the share of variants that are then fitted exactly.
_LINEAR_RATE = 5e9
_SHARE_EXACT = 0.02


def choose_block_size(
    n_variants: int,
    n_samples: int,
    *,
    n_random: int = 0,
    n_covariates: int = 0,
    kernel: Kernel = "exact",
    n_phenotypes: int = 1,
) -> int:
    """Variants a block, from the data alone.

    Parameters
    ----------
    n_variants : int
        Variants of the scan.
    n_samples : int
        Samples in the genotype file.
    n_random : int
        Random effects.
    n_covariates : int
        Covariates that stay in every model.
    kernel : str
        How random effects are fitted, see :func:`hlmm_dask.kernels.block_model.choose_kernel`.
    n_phenotypes : int
        Phenotypes for which a block is fitted.

    Returns
    -------
    int
        Between 1 and ``n_variants``.
    """
    per_variant = _SECONDS_PER_VARIANT + _SECONDS_PER_SAMPLE_HLM * n_samples
    if n_covariates:
        per_variant += _SECONDS_PER_SAMPLE_COVARIATES * n_samples
    # Gram matrices of the carriers, then a few factorisations.
    exact = (n_samples * n_random**2 + 60.0 * n_random**3) / _RANDOM_EFFECT_RATE
    linear = n_samples * n_random / _LINEAR_RATE
    if kernel == "linear":
        per_variant += linear
    elif kernel == "auto":
        per_variant += linear + _SHARE_EXACT * exact
    else:
        per_variant += exact
    return _size(n_variants, n_samples, per_variant, n_phenotypes)


def _size(n_variants: int, n_samples: int, seconds: float, n_phenotypes: int) -> int:
    """Variants a block of which each takes so many seconds for each phenotype."""
    per_variant = n_phenotypes * seconds
    shortest = max(_SHORTEST, _SHORTEST_EACH * n_phenotypes)
    size = min(
        _LARGEST,
        max(int(shortest / per_variant), -(-n_variants // _BLOCKS)),
        max(1, int(_SECONDS / per_variant)),
        max(1, _PACKED_BYTES // ((n_samples + 3) // 4)),
    )
    return max(1, min(size, n_variants))


def check_block_size(size: int | None) -> None:
    """Raise an `InputError` for a number of variants that can't be a block's."""
    if size is not None and not 1 <= size <= LARGEST_BLOCK:
        raise InputError(f"block size {size}: expected 1 to {LARGEST_BLOCK}")


@dataclass(frozen=True)
class Plan:
    """Blocks of a scan, and the memory that they take.

    Attributes
    ----------
    n_variants, block_size : int
        Variants of the scan and of a block.
    resources : Resources
        Workers, their threads and memory.
    needed_bytes : int
        What a worker needs at the most.
    largest_n : int or None
        Most samples with which the scan would keep to the limit, blocks of one variant allowed;
        None without a limit.
    """

    n_variants: int
    block_size: int
    resources: Resources
    needed_bytes: int
    largest_n: int | None

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.n_variants // self.block_size)


def plan_blocks(
    phenotypes: Sequence[Footprint],
    n_variants: int,
    resources: Resources,
    *,
    given: int | None = None,
    kept: int | None = None,
) -> Plan:
    """Choose the block size, or check the one that is given.

    Parameters
    ----------
    phenotypes : sequence of Footprint
        What each phenotype takes.
    n_variants : int
        Variants of the scan.
    resources : Resources
        The workers.
    given, kept : int, optional
        Block size that the user asks for, or that of the store of a resumed run.

    Raises
    ------
    InputError
        If a worker's memory does not suffice for such a block, or for any.
    """
    limit, threads = resources.memory_limit, resources.threads
    size = kept or given or min(_preferred(at, n_variants, len(phenotypes)) for at in phenotypes)
    size = min(size, n_variants)
    most = largest_block(phenotypes, limit, at_most=size, threads=threads)
    if most < size and (kept or given or not most):
        needed = worker_bytes(phenotypes, size if most else 1, threads)
        raise InputError(_refusal(phenotypes, resources, needed, size, most, resumed=bool(kept)))
    size = min(size, most)
    return Plan(
        n_variants,
        size,
        resources,
        worker_bytes(phenotypes, size, threads),
        None if limit is None else largest_n(phenotypes, limit, 1, threads),
    )


def footprint(null: AnyNull, config: ScanConfig, *, dosages: bool = False) -> Footprint:
    """Sizes of a null model and of what its kernel makes."""
    if isinstance(null, LMMNullModel):
        return lmm_footprint(null, config, null.X.shape[1], dosages=dosages)
    model = null.model
    c, v = model.X.shape[1], model.V.shape[1]
    return Footprint(
        n_file_samples=null.n_file_samples,
        n_samples=null.n_samples,
        kernel=choose_kernel(
            null.n_samples, null.n_random, intercepts=c == v == 1, method=config.method
        ),
        n_random=null.n_random,
        raw_bytes=8 if model.design is None else model.design.raw.itemsize,
        n_mean=c,
        n_variance=v,
        engine=config.engine,
        leaves_out=config.leaves_out,
        dosages=dosages,
    )


def lmm_footprint(
    null: LMMNullModel | NullInput, config: ScanConfig, n_mean: int, *, dosages: bool = False
) -> Footprint:
    """Sizes for the homoskedastic mixed model, fitted or not, with so many covariates."""
    return Footprint(
        n_file_samples=null.n_file_samples,
        n_samples=null.aligned.n_samples if isinstance(null, NullInput) else null.n_samples,
        kernel="lmm-fixed" if config.h2 == "null" else "lmm-refit",
        n_mean=n_mean,
        leaves_out=config.loco,
        dosages=dosages,
    )


def expected_footprint(null: NullInput, config: ScanConfig, *, lmm: bool = False) -> Footprint:
    """Sizes before the null model is fitted, the least that they can be if all columns vary."""
    aligned = null.aligned
    if lmm:
        return lmm_footprint(null, config, 1 + len(aligned.mean_names))
    c, v = (1, 1)
    if null.fit_covariates:
        c, v = 1 + len(aligned.mean_names), 1 + len(aligned.variance_names)
    return Footprint(
        n_file_samples=null.n_file_samples,
        n_samples=aligned.n_samples,
        kernel=choose_kernel(
            aligned.n_samples, null.n_columns, intercepts=c == v == 1, method=config.method
        ),
        n_random=null.n_columns,
        raw_bytes=4 if isinstance(null.random, PlinkGenotypes) else 8,
        n_mean=c,
        n_variance=v,
        engine=config.engine,
        leaves_out=config.leaves_out,
    )


def _preferred(at: Footprint, n_variants: int, n_phenotypes: int) -> int:
    if at.kernel == "lmm-refit" or at.kernel == "lmm-fixed":
        seconds = lmm_seconds(at.kernel, at.n_samples)
        return _size(n_variants, at.n_file_samples, seconds, n_phenotypes)
    return choose_block_size(
        n_variants,
        at.n_file_samples,
        n_random=at.n_random,
        n_covariates=at.n_mean + at.n_variance - 2,
        kernel=at.kernel,
        n_phenotypes=n_phenotypes,
    )


def _refusal(
    phenotypes: Sequence[Footprint],
    resources: Resources,
    needed: int,
    size: int,
    most: int,
    *,
    resumed: bool,
) -> str:
    at = max(phenotypes, key=lambda each: each.n_random)
    usable = usable_bytes(resources.memory_limit)
    what = f"blocks of {size:,} variants" if most else "even blocks of one variant"
    remedies = ["more memory for each worker (--memory-limit, fewer --workers)"]
    if resources.threads > 1:
        remedies.append("fewer --threads-per-worker")
    if most:
        remedies.append("--overwrite" if resumed else f"--block-size {most}")
    elif len(phenotypes) > 1:
        remedies.append("fewer phenotypes at a time")
    elif at.n_random:
        remedies.append("fewer random effects")
    random = f" and {at.n_random:,} random effects" if at.n_random else ""
    return (
        f"memory: {what} of {at.n_file_samples:,} samples{random} need {needed:,} bytes a worker, "
        f"{usable:,} of its limit of {resources.memory_limit:,} can be used; "
        f"give {', or '.join(remedies)}"
    )
