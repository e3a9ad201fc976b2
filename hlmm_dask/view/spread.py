"""The phenotype by genotype of one variant: what an effect on mean and variance looks like."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.packed import to_dosage
from hlmm_dask.genotypes.paths import Paths
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink

if TYPE_CHECKING:
    from hlmm_dask.scanning.null import NullModel


@dataclass(frozen=True)
class GenotypeClass:
    """The phenotype of the samples with one genotype.

    Attributes
    ----------
    copies : int
        Of the effect allele.
    values : (n,) float64
        Phenotype, ascending.
    """

    copies: int
    values: NDArray[np.float64]

    @property
    def n(self) -> int:
        """Samples."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean."""
        return float(self.values.mean())

    @property
    def sd(self) -> float:
        """Standard deviation (n - 1), NaN for a single sample."""
        return float(self.values.std(ddof=1)) if self.n > 1 else float("nan")

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The 5, 25, 50, 75 and 95% points."""
        return tuple(float(q) for q in np.quantile(self.values, (0.05, 0.25, 0.5, 0.75, 0.95)))

    def density(self, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Estimate the density on an even grid by a Gaussian kernel (Silverman's width)."""
        step = float(grid[1] - grid[0])
        spread = self.sd if self.n > 1 and self.sd > 0 else step
        width = max(0.9 * spread * self.n**-0.2, step)
        edges = np.append(grid - step / 2, grid[-1] + step / 2)
        counts = np.histogram(self.values, bins=edges)[0]
        reach = int(np.ceil(4 * width / step))
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / width) ** 2)
        smooth = np.convolve(counts, kernel / kernel.sum())[reach : reach + len(grid)]
        return np.asarray(smooth / max(self.n * step, 1e-300))


def by_genotype(counts: ArrayLike, phenotype: ArrayLike) -> list[GenotypeClass]:
    """Split a phenotype by genotype; classes without a sample are left out.

    Parameters
    ----------
    counts : (n,) array_like
        Copies of the effect allele: 0, 1, 2 (rounded); negative or NaN where missing.
    phenotype : (n,) array_like
        Values; NaN where missing.
    """
    g = np.asarray(counts, dtype=np.float64)
    y = np.asarray(phenotype, dtype=np.float64)
    if g.shape != y.shape or g.ndim != 1:
        raise InputError(
            f"genotypes {g.shape} and phenotype {y.shape}: expected one value a sample for both"
        )
    called = np.isfinite(g) & (g >= 0.0) & np.isfinite(y)
    copies = np.where(called, np.rint(np.nan_to_num(g)), -1)
    classes = [GenotypeClass(k, np.sort(y[copies == k])) for k in (0, 1, 2)]
    return [each for each in classes if each.n]


def genotype_counts(
    genotypes: "Paths | PlinkGenotypes | NDArray[np.generic]", variant: str | int, *, count_a2: bool
) -> tuple[NDArray[np.float64], str]:
    """Return copies of the effect allele of one variant (NaN where missing), and its name.

    Raises
    ------
    InputError
        If the variant is not in the file.
    """
    if isinstance(genotypes, np.ndarray):
        return genotypes.astype(np.float64), "" if variant == 0 else str(variant)
    plink = genotypes if isinstance(genotypes, PlinkGenotypes) else open_plink(genotypes)
    name = str(variant)
    if isinstance(variant, str):
        index = _find(plink, variant)
    else:
        index = variant
        name = str(next(plink.iter_variants(index, index + 1))["variant_id"].iloc[0])
    counts = to_dosage(plink.read_packed(index, index + 1), plink.n_samples, np.float64)[0]
    return 2.0 - counts if count_a2 else counts, name


def _find(plink: PlinkGenotypes, variant: str) -> int:
    for piece in plink.iter_variants():
        found = piece.index[piece["variant_id"] == variant]
        if len(found):
            return int(found[0])
    raise InputError(f"{plink.paths[0]}: no variant '{variant}' in its .bim; check the ID")


def of_null(counts: NDArray[np.float64], null: "NullModel") -> list[GenotypeClass]:
    """Split what the covariates leave of the phenotype by genotype; see `phenotype_scale`.

    Parameters
    ----------
    counts : (n_file_samples,) float64
        Copies of the effect allele of all samples of the file, NaN where missing.
    null : NullModel
        Of these samples.
    """
    return by_genotype(counts[null.sample_index], adjusted_phenotype(null))


def adjusted_phenotype(null: "NullModel") -> NDArray[np.float64]:
    """Return (y - Xα̂)/exp(½Vβ̂), in standard deviations; random effects are part of it still."""
    model = null.model
    if not null.fit_covariates:
        return model.y
    left = (model.y - model.X @ model.alpha) * np.exp(-0.5 * (model.V @ model.beta))
    # With random effects V̂ is the residual variance alone.
    return np.asarray(left / np.sqrt(np.mean(left**2)))


def phenotype_scale(null: "NullModel", *, mixed: bool | None = None) -> str:
    """Say what is drawn by genotype: a phenotype, what was taken off, and the unit.

    Parameters
    ----------
    null : NullModel
    mixed : bool, optional
        Whether variants were fitted with random effects; by default, if the null model has any.
    """
    covariates = {*null.mean_effects.names, *null.variance_effects.names} - {"Intercept"}
    name = null.phenotype_name
    what = f"Phenotype {name}" if name.isdecimal() else name
    mixed = null.n_random > 0 if mixed is None else mixed
    left = ", random effects not removed" if mixed else ""
    return f"{what} adjusted for covariates (SD{left})" if covariates else f"{what} (SD{left})"
