"""Simulated genotypes and a trait with a mean-variance relation, for the tutorial and tests.

The trait follows the gamma model of Young, Wauthier and Donnelly (Nature Genetics 2018): every
variant has an effect on the mean of a gamma distributed trait, and so, because the variance of a
gamma follows its mean, on the variance; one variant changes the dispersion as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainc, gammaincc, ndtri, roots_hermitenorm
from scipy.stats import rankdata

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.packed import decode
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.genotypes.plink_tables import read_fam
from hlmm_dask.genotypes.plink_write import write_plink

BLOCK_BYTES = 32 << 20
MIN_MEAN = 0.05

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
        Variance over mean of each sample.
    effects : tuple of (n_variants,) float64
        For each genotype file, effect on the mean of one copy of allele 1.
    heritability : float
        Share of Var(value) that comes from Var(mean), in expectation.
    shape : float
        Shape of the gamma at mean 1.
    """

    value: _Array
    mean: _Array
    dispersion: _Array
    effects: tuple[_Array, ...]
    heritability: float
    shape: float


@dataclass(frozen=True)
class TransformedEffects:
    """What an inverse-normal transform makes of small effects on a gamma trait.

    Attributes
    ----------
    mean : float
        Effect on the transformed mean (SD) per unit of effect on the trait's mean.
    coupling : float
        Log-variance effect of a variant per unit of its transformed mean effect.
    dispersion : float
        Dispersion effect, what `coupling` leaves of the log-variance effect, per unit of effect
        on the log dispersion of the trait.
    genetic : float
        Variance of the transformed trait that comes from the captured genetic effects.
    """

    mean: float
    coupling: float
    dispersion: float
    genetic: float


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

    row = np.arange(n_variants)
    variants = pd.DataFrame(
        {
            "contig": "1",
            "variant_id": [f"{bed.stem}{j}" for j in row],
            "position": 1000 * (row + 1),
            "allele1": "A",
            "allele2": "G",
        }
    )
    samples = pd.DataFrame(
        {
            "fid": [f"f{i}" for i in range(n_samples)],
            "iid": [f"i{i}" for i in range(n_samples)],
        }
    )
    write_plink(bed, blocks(), samples, variants)
    return SimulatedGenotypes(
        bed=bed, n_samples=n_samples, n_variants=n_variants, allele_frequency=frequency
    )


def gamma_phenotype(
    beds: Sequence[str | Path],
    *,
    seed: int,
    heritability: float = 0.1,
    shape: float = 2.0,
    dispersion_effect: float = 0.15,
) -> GammaTrait:
    """Simulate a gamma trait from genotypes, with a dispersion effect of the first variant.

    Sample i has mean mu_i and dispersion phi_i, the scale of its gamma::

        mu_i  = 1 + sum_j b_j (x_ij - mean_j),      b_j sd_j ~ N(0, 1), rescaled together
        phi_i = exp(d (x_i1 - mean_1)) / shape,     d = dispersion_effect
        y_i  ~ Gamma(shape mu_i / phi_i, scale phi_i)

    so E y_i = mu_i and Var y_i = phi_i mu_i. The effects are scaled such that
    Var(mu) / (Var(mu) + mean(phi mu)) is `heritability` in these samples. A mean below 0.05, four
    standard deviations out with the defaults, is set to 0.05. x_ij counts allele 1; a missing
    call has the variant's mean. Genotypes are read block by block.

    Parameters
    ----------
    beds : sequence of path
        .bed files of the same samples; x_1 is the first variant of the first file.
    seed : int
        Seed of effects and trait.
    heritability : float
        Of the untransformed trait, in (0, 1).
    shape : float
        Shape of the gamma at mean 1 and the mean genotype: mean² / variance.
    dispersion_effect : float
        d, log variance per copy of allele 1 of the first variant.

    Returns
    -------
    GammaTrait

    Raises
    ------
    InputError
        If a genotype file is bad, the files disagree in the number of samples, no variant varies,
        or one sample in a thousand would have a mean below 0.05.
    """
    if not beds:
        raise InputError("no genotype file given: a trait needs at least one .bed")
    if not (0.0 < heritability < 1.0 and shape > 0.0):
        raise InputError(
            f"heritability {heritability}, shape {shape}: give one in (0, 1) and one above 0"
        )
    rng = np.random.default_rng(seed)
    files = [open_plink(bed) for bed in beds]
    n_samples = files[0].n_samples
    score = np.zeros(n_samples)
    first: _Array | None = None
    effects = []
    for bed, file in zip(beds, files, strict=True):
        if file.n_samples != n_samples:
            raise InputError(
                f"{bed}: {file.n_samples} samples, expected {n_samples} as in {beds[0]}; "
                "simulate both with the same n_samples"
            )
        parts = []
        for block in _blocks(file):
            centred = _centred(block)
            sd = centred.std(axis=1, dtype=np.float64)
            b = np.divide(rng.standard_normal(sd.size), sd, out=np.zeros(sd.size), where=sd > 0)
            score += b.astype(np.float32) @ centred
            parts.append(b)
            if first is None:
                first = centred[0].astype(np.float64)
        effects.append(np.concatenate(parts))
    score -= score.mean()
    unit = float(score.std())
    if first is None or unit == 0.0:
        raise InputError(f"{beds[0]}: no variant varies between the samples; simulate more")

    u = score / unit
    phi = np.exp(dispersion_effect * first) / shape
    sigma = _genetic_sd(u, phi, heritability=heritability)
    mean = 1.0 + sigma * u
    if (low := int((mean < MIN_MEAN).sum())) > n_samples / 1000:
        raise InputError(
            f"heritability {heritability} with shape {shape} gives {low} of {n_samples} samples "
            f"a mean below {MIN_MEAN}; lower the heritability or raise the shape"
        )
    mean = np.maximum(mean, MIN_MEAN)
    return GammaTrait(
        value=rng.standard_gamma(mean / phi) * phi,
        mean=mean,
        dispersion=phi,
        effects=tuple(b * (sigma / unit) for b in effects),
        heritability=heritability,
        shape=shape,
    )


def expected_effects(
    shape: float, *, heritability: float, captured: float = 0.0
) -> TransformedEffects:
    """Say what small effects on the gamma trait become in an inverse-normal transformed one.

    With F the distribution of the trait, a gamma whose mean is Normal between samples, and
    u = Phi^-1(F(y)) the transformed value, a change of F by dF changes E u by the integral
    of -dF over u, and E u² by that of -2 u dF. Where the model has random effects that capture
    the part `captured` of the genetic variance, the variance is that given their value.
    Everything to first order in the effects.

    Parameters
    ----------
    shape : float
        Shape of the gamma at mean 1.
    heritability : float
        Of the untransformed trait, in (0, 1).
    captured : float
        Share of the genetic variance that random effects of the model stand for, in [0, 1].

    Returns
    -------
    TransformedEffects
    """
    nodes, weights = roots_hermitenorm(15)
    weights = weights / weights.sum()
    sigma = np.sqrt(heritability / ((1.0 - heritability) * shape))
    seen = sigma * np.sqrt(captured) * nodes
    unseen = sigma * np.sqrt(1.0 - captured) * nodes
    y = np.geomspace(1e-7, 60.0, 2000)

    def tails(at: float, *, phi: float = 1.0 / shape) -> tuple[_Array, _Array]:
        """Distribution function and its complement, given the captured effects."""
        k = np.maximum(1.0 + at + unseen, 1e-3) / phi
        grid = y[None, :] / phi
        return weights @ gammainc(k[:, None], grid), weights @ gammaincc(k[:, None], grid)

    given = [tails(a) for a in seen]
    below = sum(w * f for w, (f, _) in zip(weights, given, strict=True))
    above = sum(w * q for w, (_, q) in zip(weights, given, strict=True))
    u = np.where(below < 0.5, ndtri(below), -ndtri(above))
    kept = np.abs(u) < 8.0
    u = u[kept]
    step = 1e-4
    d_mean, d_var = np.zeros(2), np.zeros(2)  # by the trait's mean, by log phi
    genetic = 0.0
    for a, w, (f, q) in zip(seen, weights, given, strict=True):
        centre = float(np.trapezoid(np.where(u < 0.0, -f[kept], q[kept]), u))
        genetic += w * centre**2
        shifted = (
            (tails(a + step), tails(a - step)),
            (tails(a, phi=np.exp(step) / shape), tails(a, phi=np.exp(-step) / shape)),
        )
        for i, (up, down) in enumerate(shifted):
            d_f = (up[0] - down[0])[kept] / (2.0 * step)
            first = -np.trapezoid(d_f, u)
            d_mean[i] += w * first
            d_var[i] += w * (-np.trapezoid(2.0 * u * d_f, u) - 2.0 * centre * first)
    d_log_var = d_var / (1.0 - genetic)
    coupling = d_log_var[0] / d_mean[0]
    return TransformedEffects(
        mean=float(d_mean[0]),
        coupling=float(coupling),
        dispersion=float(d_log_var[1] - coupling * d_mean[1]),
        genetic=float(genetic),
    )


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
    people = read_fam(Path(fam))
    if len(people) != values.size:
        raise InputError(
            f"{fam}: {len(people)} samples, but {values.size} values; give one for each"
        )
    with open(path, "w", encoding="utf-8") as target:
        for fid, iid, value in zip(people["fid"], people["iid"], values, strict=True):
            target.write(f"{fid}\t{iid}\t{'NA' if np.isnan(value) else f'{value:.10g}'}\n")


def _genetic_sd(u: _Array, phi: _Array, *, heritability: float) -> float:
    """Solve s² = heritability (s² + mean(phi (1 + s u))) for s > 0."""
    a = 1.0 - heritability
    b = -heritability * float(np.mean(phi * u))
    c = -heritability * float(np.mean(phi))
    return float((-b + np.sqrt(b * b - 4.0 * a * c)) / (2.0 * a))


def _centred(block: NDArray[np.int8]) -> NDArray[np.float32]:
    """Subtract each variant's mean; missing calls are at the mean."""
    called = block >= 0
    n = np.maximum(called.sum(axis=1), 1)
    mean = np.where(called, block, 0).sum(axis=1, dtype=np.int64) / n
    return np.where(called, block - mean.astype(np.float32)[:, None], np.float32(0))


def _blocks(genotypes: PlinkGenotypes) -> Iterator[NDArray[np.int8]]:
    step = max(1, BLOCK_BYTES // (4 * genotypes.n_samples))
    for start in range(0, genotypes.n_variants, step):
        packed = genotypes.read_packed(start, min(start + step, genotypes.n_variants))
        yield decode(packed, genotypes.n_samples)
