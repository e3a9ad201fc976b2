"""How much memory a worker needs: arithmetic on sizes, checked against measured processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hlmm_dask.kernels.block import unpacked_variants
from hlmm_dask.kernels.block_model import Kernel
from hlmm_dask.kernels.packed import Engine
from hlmm_dask.scanning.lmm_memory import lmm_block_bytes, lmm_model_bytes
from hlmm_dask.scanning.strips import strip_variants

# A worker before its first block: interpreter, libraries, compiled loops, connections.
BASE_BYTES = 340 * 10**6
# Dask stops giving work to a worker above this share of its limit.
USABLE_SHARE = 0.8

# Memory that is freed is kept, in pieces that don't always fit what comes next.
_KEPT = 1.15
# Whatever the block: buffers of libraries, memory that was freed in pieces.
_SLACK = 8 * 10**6
# Class sums, Newton's method on them; results of a block, twice in parts and whole, and compressed.
_BYTES_PER_VARIANT = 4_000
_RESULT_BYTES = 1_200
# Sets of left-out columns that a process keeps, and what making one more takes.
_SETS_KEPT, _MATRICES_TO_MAKE = 4, 8


@dataclass(frozen=True)
class Footprint:
    """What decides the memory that fitting one phenotype takes.

    Attributes
    ----------
    n_file_samples, n_samples : int
        Samples of the genotypes, and those analysed (n).
    kernel : {"sums", "covariates", "exact", "linear", "auto", "dense", "lmm-refit", "lmm-fixed"}
        How variants are fitted; ``auto`` is linear and exact.
    n_random : int
        Random effects (l).
    raw_bytes : int
        Bytes of one value of G as it is kept: 4 for genotypes without missing calls, else 8.
    n_mean, n_variance : int
        Columns of the designs of mean and log variance in every model, the intercept among them.
    engine : {"numba", "numpy"}
        How class sums are computed.
    leaves_out : bool
        Whether columns of G, or chromosomes of K, are left out for some variants.
    dosages : bool
        Whether genotypes are dosages of a Dataset, not packed.
    """

    n_file_samples: int
    n_samples: int
    kernel: Kernel = "sums"
    n_random: int = 0
    raw_bytes: int = 8
    n_mean: int = 1
    n_variance: int = 1
    engine: Engine = "numba"
    leaves_out: bool = False
    dosages: bool = False

    @property
    def n_bytes(self) -> int:
        """Packed bytes of a variant."""
        return (self.n_file_samples + 3) // 4


def model_bytes(at: Footprint) -> int:
    """Bytes of the null model, which a process holds once for all of its threads."""
    n, l_ = at.n_samples, at.n_random
    if at.kernel == "lmm-refit" or at.kernel == "lmm-fixed":
        return lmm_model_bytes(at.kernel, n, at.n_mean, per_chromosome=at.leaves_out)
    # Phenotype in planes and its mask; index, phenotype, and two more of its length.
    total = 33 * at.n_bytes + 40 * n + 8 * n * (at.n_mean + at.n_variance)
    if at.kernel != "sums" or at.dosages or at.leaves_out:
        # Residuals, weights and a basis of the covariates for the scores, twice while made.
        total += 24 * n + 24 * n * (at.n_mean + at.n_variance + 1)
    if l_:
        total += n * l_ * at.raw_bytes + 8 * l_**2
    if at.kernel in ("linear", "auto"):
        total += 40 * n + 8 * l_**2
    if at.leaves_out:
        total += _SETS_KEPT * (16 * l_**2 + 56 * n) + _MATRICES_TO_MAKE * 8 * l_**2
    return total


def block_bytes(at: Footprint, n_variants: int) -> int:
    """Bytes that fitting a block of so many variants takes, for each thread."""
    results = _RESULT_BYTES * n_variants
    if not at.dosages:
        n_variants = min(n_variants, strip_variants(at.n_bytes))
    return int(_KEPT * (results + _strip_bytes(at, n_variants)))


def _strip_bytes(at: Footprint, n_variants: int) -> int:
    """Bytes that fitting so many variants at once takes."""
    per_variant = at.n_bytes + _BYTES_PER_VARIANT
    if at.engine == "numpy":
        per_variant += 13 * at.n_bytes
    if at.dosages:
        # The block, its copies in double precision and as whole numbers, masks.
        per_variant += 44 * at.n_file_samples
    total = _SLACK + n_variants * per_variant
    # Residuals of one variant in five forms, and the genotypes of those in the tails.
    total += 40 * at.n_samples + n_variants * at.n_bytes // 4
    if at.kernel == "sums" and not at.dosages:
        return total + max(at.n_samples, min(4_000_000, n_variants * at.n_samples // 8))
    # Genotypes, centred and projected, and whether called, of some variants at a time.
    total += 28 * max(at.n_samples, min(1_000_000, n_variants * at.n_samples))
    if at.kernel == "sums":
        return total
    if at.kernel == "lmm-refit" or at.kernel == "lmm-fixed":
        return total + lmm_block_bytes(at.kernel, at.n_samples, at.n_mean, n_variants)
    part = unpacked_variants(n_variants, at.n_samples, at.n_random)
    total += part * (at.n_samples + at.n_bytes)
    if at.kernel == "covariates":
        return total + _covariate_bytes(at, part)
    if at.kernel == "dense":
        return total + _dense_bytes(at, part)
    exact, linear = _exact_bytes(at, part), _linear_bytes(at, part)
    return total + {"exact": exact, "linear": linear, "auto": max(exact, linear)}[at.kernel]


def _covariate_bytes(at: Footprint, part: int) -> int:
    """Dosages, centred dosages and those of variants that take Newton's method; chunks."""
    n, c, v = at.n_samples, at.n_mean, at.n_variance
    batch = min(part, 64)
    pairs = c * (c + 1) // 2 + v * (v + 1) // 2
    chunks = 1024 * 8 * (4 * (c + v) + pairs + 3 * batch)
    newton = 2048 * 8 * (2 * pairs + 2 * c * v + 16 * batch)
    matrices = 8 * 8 * batch * (c + v + 2) ** 2
    return 8 * part * n + max(8 * part * n, 18 * batch * n) + chunks + newton + matrices


def _exact_bytes(at: Footprint, part: int) -> int:
    """Count the indicators of the classes and the Gram matrices of a batch of variants."""
    n, l_ = at.n_samples, at.n_random
    batch = min(part, 64, max(1, 400_000 // l_**2))
    return 28 * batch * n + 24 * n + 8 * (16 * batch + 5) * l_**2 + 1024 * 8 * l_


def _linear_bytes(at: Footprint, part: int) -> int:
    """Count a chunk of samples, and a few vectors of length l for each variant."""
    chunk = min(at.n_samples, 512)
    samples = part * chunk * (4 * at.raw_bytes + 40) + 8 * chunk * at.n_random
    return samples + 170 * part * at.n_random


def _dense_bytes(at: Footprint, part: int) -> int:
    """G in double precision, and the arrays of its size that one fit makes."""
    n = at.n_samples
    return 17 * part * n + 8 * n * (8 * at.n_random + 6 * (at.n_mean + at.n_variance + 2))


def worker_bytes(phenotypes: Sequence[Footprint], n_variants: int, threads: int = 1) -> int:
    """Bytes that a worker needs at the most.

    Parameters
    ----------
    phenotypes : sequence of Footprint
        One for each phenotype: their null models are held together, strips are fitted in turn.
    n_variants : int
        Variants a block.
    threads : int
        Blocks that are fitted at the same time.
    """
    models = sum(model_bytes(at) for at in phenotypes)
    block = max(block_bytes(at, n_variants) for at in phenotypes)
    # Results of the others wait for the block's last strip.
    block += (len(phenotypes) - 1) * _RESULT_BYTES * n_variants
    return BASE_BYTES + models + threads * block


def usable_bytes(limit: int | None) -> int | None:
    """Bytes of a worker's memory limit that a scan may use; None without a limit."""
    return None if limit is None else int(USABLE_SHARE * limit)


def largest_block(
    phenotypes: Sequence[Footprint], limit: int | None, *, at_most: int, threads: int = 1
) -> int:
    """Most variants a block, up to ``at_most``, with which a worker keeps to its memory limit.

    Returns
    -------
    int
        0 where not even a block of one variant fits.
    """
    usable = usable_bytes(limit)
    if usable is None:
        return at_most
    return _last(lambda m: worker_bytes(phenotypes, m, threads) <= usable, at_most)


def largest_n(
    phenotypes: Sequence[Footprint], limit: int, n_variants: int, threads: int = 1
) -> int:
    """Most samples, all analysed, that fit a worker's limit with everything else as it is."""

    def fits(n: int) -> bool:
        grown = [replace(at, n_file_samples=n, n_samples=n) for at in phenotypes]
        return worker_bytes(grown, n_variants, threads) <= USABLE_SHARE * limit

    return _last(fits, 10**9)


def _last(fits: Callable[[int], bool], high: int) -> int:
    """Largest number from 0 to ``high`` that fits, where smaller ones do if it does."""
    if fits(high):
        return high
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
