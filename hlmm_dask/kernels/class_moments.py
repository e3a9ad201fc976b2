"""Moments of a phenotype within genotype classes, and what the linear model of its mean leaves."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.packed import ClassSums
from hlmm_dask.kernels.table import within_class_squares

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ClassMoments:
    """Moments of ``m`` variants by genotype class.

    Attributes
    ----------
    counts : (3, m) float64
        Samples n_k.
    x : (3, m) float64
        Copies of allele 1, centred at the variant's mean.
    centre : (m,) float64
        Mean of y over the samples with a call.
    means : (3, m) float64
        Mean of y less ``centre`` in each class; 0 in an empty one.
    within : (3, m) float64
        Sum of squares about the class means.
    third, fourth : (3, m) float64, optional
        Sums of third and fourth powers about them.
    """

    counts: FloatArray
    x: FloatArray
    centre: FloatArray
    means: FloatArray
    within: FloatArray
    third: FloatArray | None = None
    fourth: FloatArray | None = None

    @classmethod
    def of(cls, sums: ClassSums) -> "ClassMoments":
        """Centre class sums of variants that have a call; 3rd and 4th moments where they have."""
        n_k = sums.counts
        n = n_k.sum(axis=0)
        x = np.arange(3.0)[:, None] - (n_k[1] + 2.0 * n_k[2]) / n
        # Centred at the variant's own mean, so that no digits are lost in Σy² - 2μΣy + nμ².
        centre = sums.sums.sum(axis=0) / n
        s_k = sums.sums - n_k * centre
        q_k = sums.squares - 2.0 * centre * sums.sums + n_k * centre**2
        means, within = within_class_squares(n_k, s_k, q_k)
        third = fourth = None
        if sums.cubes is not None and sums.fourths is not None:
            about = np.where(n_k > 0, means + centre, 0.0)
            third, fourth = _third_and_fourth(sums, means=about, within=within)
        return cls(n_k, x, centre, means, within, third, fourth)

    @property
    def n(self) -> FloatArray:
        """Samples with a call, (m,)."""
        return np.asarray(self.counts.sum(axis=0))

    def powers(self, away: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Σ r .. Σ r⁴ by class, r what lies about points ``away`` (3, m) below the class means."""
        assert self.third is not None
        assert self.fourth is not None
        step = away * away
        r1 = self.counts * away
        r2 = self.within + r1 * away
        r3 = self.third + away * (3.0 * self.within + self.counts * step)
        r4 = self.fourth + away * (
            4.0 * self.third + away * (6.0 * self.within + self.counts * step)
        )
        return r1, r2, r3, r4


def _third_and_fourth(
    sums: ClassSums, *, means: FloatArray, within: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Sum third and fourth powers of y about the class means; (3, m) each."""
    assert sums.cubes is not None
    assert sums.fourths is not None
    n, q, c, f, a = sums.counts, sums.squares, sums.cubes, sums.fourths, means
    square = a * a
    third = c - a * (3.0 * q - 2.0 * n * square)
    fourth = f - a * (4.0 * c - a * (6.0 * q - 3.0 * n * square))
    # A class that comes by difference has the rounding errors of the total; what no sample can
    # have is taken off (Cauchy-Schwarz).
    fourth = np.maximum(fourth, within * within / np.maximum(n, 1.0))
    limit = np.sqrt(within * fourth)
    empty = within == 0.0
    return np.where(empty, 0.0, np.clip(third, -limit, limit)), np.where(empty, 0.0, fourth)
