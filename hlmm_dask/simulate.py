"""Simulated genotypes and a trait with a mean-variance relation, for the tutorial and tests.

The trait follows the gamma model of Young, Wauthier and Donnelly (Nature Genetics 2018): every
variant has an effect on the mean of a gamma distributed trait, and so, because the variance of a
gamma follows its mean, on the variance; one variant changes the dispersion as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv, ndtr, ndtri
from scipy.stats import gamma, rankdata

from hlmm_dask.errors import InputError

BLOCK_BYTES = 32 << 20

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class SimulatedGenotypes:
    """A PLINK file set that was written.

    Attributes
    ----------
    bed : Path
        The .bed file; .bim and .fam lie beside it.
    n_samples, n_variants : int
        Counts.
    allele_frequency : (n_variants,) float64
        Frequency of allele 1 that the genotypes were drawn with.
    """

    bed: Path
    n_samples: int
    n_variants: int
    allele_frequency: _Array


@dataclass(frozen=True)
class GammaTrait:
    """A gamma distributed trait and what it was made of.

    Attributes
    ----------
    value : (n_samples,) float64
        The trait, mean 1, in the order of the .fam file.
    mean : (n_samples,) float64
        Expected value of each sample, 1 + its genetic effects.
    dispersion : (n_samples,) float64
        Variance over squared mean of each sample.
    effects : tuple of (n_variants,) float64
        For each genotype file, effect on the mean of one copy of allele 1.
    heritability : float
        Share of Var(value) that comes from Var(mean), in expectation.
    coupling : float
        Slope of the variants' variance effects on their additive effects that is expected
        after an inverse-normal transform (see `expected_coupling`).
    """

    value: _Array
    mean: _Array
    dispersion: _Array
    effects: tuple[_Array, ...]
    heritability: float
    coupling: float


def simulate_genotypes(
    path: str | Path,
    *,
    n_samples: int,
    n_variants: int,
    seed: int,
    missing_rate: float = 0.0,
    maf_range: tuple[float, float] = (0.05, 0.5),
) -> SimulatedGenotypes:
    """Write independent variants in Hardy-Weinberg proportions as .bed, .bim and .fam.

    Allele frequencies are uniform in `maf_range`. Blocks of variants are drawn, packed and
    written one after the other, so memory does not grow with the number of variants.

    Parameters
    ----------
    path : str or Path
        The .bed file, or its path without the ending.
    n_samples, n_variants : int
        Counts, at least 1.
    seed : int
        The same seed gives the same bytes.
    missing_rate : float
        Probability that a call is missing, in [0, 1).
    maf_range : (float, float)
        Bounds of the minor allele frequency, within (0, 0.5].

    Returns
    -------
    SimulatedGenotypes

    Raises
    ------
    InputError
        If a count, rate or range is out of bounds.
    """
    low, high = maf_range
    if n_samples < 1 or n_variants < 1:
        raise InputError(
            f"cannot simulate {n_samples} samples x {n_variants} variants: give at least 1 of each"
        )
    if not 0.0 <= missing_rate < 1.0:
        raise InputError(f"missing_rate is {missing_rate}: give a probability in [0, 1)")
    if not 0.0 < low <= high <= 0.5:
        raise InputError(f"maf_range is {low} to {high}: give 0 < low <= high <= 0.5")
    bed = Path(path)
    bed = bed if bed.suffix == ".bed" else bed.with_name(bed.name + ".bed")
    rng = np.random.default_rng(seed)
    frequency = rng.uniform(low, high, n_variants)

    def blocks() -> Iterator[NDArray[np.int8]]:
        # A draw of 16 bits below 2^16 p: allele frequencies are exact to 2^-17.
        bound = np.round(frequency * 65536.0).astype(np.uint32)
        step = max(1, BLOCK_BYTES // (4 * n_samples))
        for start in range(0, n_variants, step):
            p = bound[start : start + step, None]
            shape = (p.shape[0], n_samples)
            counts = (rng.integers(0, 65536, shape, dtype=np.uint16) < p).astype(np.int8)
            counts += rng.integers(0, 65536, shape, dtype=np.uint16) < p
            if missing_rate:
                counts[rng.random(shape, dtype=np.float32) < missing_rate] = -1
            yield counts

    _write_plink(bed, blocks(), n_samples=n_samples, n_variants=n_variants, prefix=bed.stem)
    return SimulatedGenotypes(
        bed=bed, n_samples=n_samples, n_variants=n_variants, allele_frequency=frequency
    )


def gamma_phenotype(
    beds: Sequence[str | Path],
    *,
    seed: int,
    heritability: float = 0.1,
    shape: float = 4.0,
    dispersion_effect: float = 0.15,
) -> GammaTrait:
    """Simulate a gamma trait from genotypes, with a dispersion effect of the first variant.

    Sample i has mean mu_i and dispersion phi_i::

        mu_i  = 1 + sum_j b_j (x_ij - mean_j),      b_j sd_j ~ N(0, 1), rescaled together
        phi_i = exp(d (x_i1 - mean_1)) / shape,     d = dispersion_effect
        y_i  ~ Gamma(shape 1 / phi_i, scale mu_i phi_i)

    so E y_i = mu_i and Var y_i = phi_i mu_i². The effects are scaled such that
    Var(mu) / (Var(mu) + mean(phi mu²)) is `heritability` in these samples. x_ij counts allele
    1; a missing call has the variant's mean. Genotypes are read block by block.

    Parameters
    ----------
    beds : sequence of path
        .bed files of the same samples; x_1 is the first variant of the first file.
    seed : int
        Seed of effects and trait.
    heritability : float
        Of the untransformed trait, in (0, 1).
    shape : float
        Shape of the gamma at the mean genotype; 1 / shape is its squared coefficient of
        variation.
    dispersion_effect : float
        d, log variance per copy of allele 1 of the first variant.

    Returns
    -------
    GammaTrait

    Raises
    ------
    InputError
        If the files disagree in the number of samples, a variant set does not vary, or the
        heritability would need means below zero.
    """
    if not beds:
        raise InputError("no genotype file given: a trait needs at least one .bed")
    if not (0.0 < heritability < 1.0 and shape > 0.0):
        raise InputError(
            f"heritability {heritability}, shape {shape}: give one in (0, 1) and one above 0"
        )
    rng = np.random.default_rng(seed)
    paths = [Path(bed) for bed in beds]
    n_samples = _count_lines(paths[0].with_suffix(".fam"))
    score = np.zeros(n_samples)
    first: _Array | None = None
    effects = []
    for path in paths:
        if (found := _count_lines(path.with_suffix(".fam"))) != n_samples:
            raise InputError(
                f"{path.with_suffix('.fam')}: {found} samples, expected {n_samples} as in "
                f"{paths[0].with_suffix('.fam')}; simulate both with the same n_samples"
            )
        parts = []
        for block in _read_bed_blocks(path, n_samples=n_samples):
            centred = _centred(block)
            sd = centred.std(axis=1, dtype=np.float64)
            b = rng.standard_normal(sd.size) * np.where(sd > 0, 1.0 / np.where(sd > 0, sd, 1.0), 0)
            score += b.astype(np.float32) @ centred
            parts.append(b)
            if first is None:
                first = centred[0].astype(np.float64)
        effects.append(np.concatenate(parts))
    score -= score.mean()
    unit = float(score.std())
    if first is None or unit == 0.0:
        raise InputError(f"{paths[0]}: no variant varies between the samples; simulate more")

    u = score / unit
    multiplier = np.exp(dispersion_effect * first)
    sigma = _genetic_sd(u, multiplier, heritability=heritability, shape=shape)
    mean = 1.0 + sigma * u
    if mean.min() <= 0.0:
        raise InputError(
            f"heritability {heritability} with shape {shape} gives {int((mean <= 0).sum())} "
            "samples a mean below 0; lower the heritability or raise the shape"
        )
    phi = multiplier / shape
    return GammaTrait(
        value=rng.standard_gamma(1.0 / phi) * (phi * mean),
        mean=mean,
        dispersion=phi,
        effects=tuple(b * (sigma / unit) for b in effects),
        heritability=heritability,
        coupling=expected_coupling(shape),
    )


def expected_coupling(shape: float) -> float:
    """Slope of log-variance effects on mean effects that an inverse-normal transform leaves.

    Let F and f be distribution and density of the gamma with mean mu, and u = Phi^-1(F(z)) the
    transform. Around mu, with du unweighted::

        d E u / d log mu = integral z f(z) du,   d log Var u / d log mu = integral 2 u z f(z) du

    and the slope is the second over the first. To first order in the effects; it is near
    2 / (3 sqrt(shape)), what Wilson and Hilferty's cube root leaves.

    Parameters
    ----------
    shape : float
        Shape of the gamma.

    Returns
    -------
    float
        Log variance per standard deviation of the transformed trait.
    """
    # Trapezoids are spectrally accurate for an integrand that vanishes at both ends.
    u = np.linspace(-8.0, 8.0, 4001)
    z = gammaincinv(shape, ndtr(u))
    mass = z * gamma.pdf(z, shape)
    return float(2.0 * (u * mass).sum() / mass.sum())


def inverse_normal_transform(y: ArrayLike) -> _Array:
    """Replace values by Normal quantiles of their ranks, Phi^-1((rank - 1/2) / n).

    Parameters
    ----------
    y : (n,) array_like
        Values; ties share their mean rank. NaN stays NaN and is not counted in n.

    Returns
    -------
    (n,) float64
    """
    values = np.asarray(y, dtype=np.float64)
    out = np.full(values.shape, np.nan)
    kept = ~np.isnan(values)
    out[kept] = ndtri((rankdata(values[kept]) - 0.5) / max(1, int(kept.sum())))
    return out


def write_phenotype(path: str | Path, fam: str | Path, y: ArrayLike) -> None:
    """Write FID, IID and value of every sample of a .fam file; NaN is written as NA.

    Parameters
    ----------
    path : str or Path
        File to write, tab separated, no header.
    fam : str or Path
        The .fam file, in whose order `y` is.
    y : (n_samples,) array_like
        Phenotype.

    Raises
    ------
    InputError
        If `y` and the .fam file differ in length.
    """
    values = np.asarray(y, dtype=np.float64)
    if (n := _count_lines(Path(fam))) != values.size:
        raise InputError(f"{fam}: {n} samples, but {values.size} values; give one for each")
    with open(fam) as source, open(path, "w") as target:
        for line, value in zip(source, values, strict=True):
            fid, iid = line.split()[:2]
            target.write(f"{fid}\t{iid}\t{'NA' if np.isnan(value) else f'{value:.10g}'}\n")


def _genetic_sd(u: _Array, multiplier: _Array, *, heritability: float, shape: float) -> float:
    """Solve s² = heritability (s² + mean(m (1 + s u)²) / shape) for s > 0."""
    share = heritability / shape
    a = 1.0 - heritability - share * float(np.mean(multiplier * u * u))
    b = -2.0 * share * float(np.mean(multiplier * u))
    c = -share * float(np.mean(multiplier))
    if a <= 0.0:
        raise InputError(
            f"heritability {heritability} can't be reached with shape {shape}, because the "
            "variance grows with the mean; lower the heritability or raise the shape"
        )
    return float((-b + np.sqrt(b * b - 4.0 * a * c)) / (2.0 * a))


def _centred(block: NDArray[np.int8]) -> NDArray[np.float32]:
    """Subtract each variant's mean; missing calls are at the mean."""
    called = block >= 0
    n = np.maximum(called.sum(axis=1), 1)
    mean = np.where(called, block, 0).sum(axis=1, dtype=np.int64) / n
    return np.where(called, block - mean.astype(np.float32)[:, None], np.float32(0))


def _count_lines(path: Path) -> int:
    with open(path) as lines:
        return sum(1 for line in lines if line.strip())


# PLINK 1 files: code 00 = two copies of allele 1, 10 = one, 11 = none, 01 = missing; the first
# sample of a byte in its lowest bits.
_MAGIC = b"\x6c\x1b\x01"
_CODE = np.array([3, 2, 0, 1], dtype=np.uint8)  # by count, missing = -1 last
_COUNT = np.array([2, -1, 1, 0], dtype=np.int8)  # by code
_BYTE_COUNTS = _COUNT[(np.arange(256)[:, None] >> np.array([0, 2, 4, 6])) & 3]


def _write_plink(
    bed: Path,
    blocks: Iterator[NDArray[np.int8]],
    *,
    n_samples: int,
    n_variants: int,
    prefix: str,
) -> None:
    width = -(-n_samples // 4)
    with open(bed, "wb") as out:
        out.write(_MAGIC)
        for counts in blocks:
            code = np.zeros((counts.shape[0], 4 * width), dtype=np.uint8)
            code[:, :n_samples] = _CODE[counts]
            packed = code[:, 0::4] | code[:, 1::4] << 2 | code[:, 2::4] << 4 | code[:, 3::4] << 6
            out.write(packed.tobytes())
    with open(bed.with_suffix(".bim"), "w") as out:
        for j in range(n_variants):
            out.write(f"1\t{prefix}{j}\t0\t{1000 * (j + 1)}\tA\tG\n")
    with open(bed.with_suffix(".fam"), "w") as out:
        for i in range(n_samples):
            out.write(f"f{i}\ti{i}\t0\t0\t{1 + i % 2}\t-9\n")


def _read_bed_blocks(bed: Path, *, n_samples: int) -> Iterator[NDArray[np.int8]]:
    width = -(-n_samples // 4)
    step = max(1, BLOCK_BYTES // (4 * n_samples))
    with open(bed, "rb") as source:
        if source.read(3) != _MAGIC:
            raise InputError(f"{bed}: not a variant-major .bed; convert it with plink --make-bed")
        while packed := source.read(width * step):
            rows = np.frombuffer(packed, dtype=np.uint8).reshape(-1, width)
            yield _BYTE_COUNTS[rows].reshape(rows.shape[0], -1)[:, :n_samples]
