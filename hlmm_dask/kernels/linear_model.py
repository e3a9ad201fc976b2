"""What the linear HLMM keeps of the null model: everything in the eigenbasis of GᵀG."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from hlmm_dask.kernels.hlmm import RandomEffectModel

FloatArray = NDArray[np.float64]

# Where :meth:`LinearModel.only` takes its short way: share of columns left out, and change of t
# relative to it; what the expansion of a leverage in t lacks is the fourth power of that.
_FEW_LEFT_OUT = 0.25
_NEAR = 0.3
_CHUNK_SAMPLES = 4096


@dataclass(frozen=True)
class LinearModel:
    """What all variants share, in the basis of the eigenvectors of GᵀG.

    Attributes
    ----------
    base : RandomEffectModel
        Phenotype, design and null model.
    eigenvalues : (l,) float64
        S.
    rotation : (l, l) float64
        Scale of the columns times the eigenvectors: rotates products with their raw values.
    blup : (l,) float64
        û.
    residual : (n,) float64
        e = y - α̂ - Gû.
    leverage : (n,) float64
        G_iᵀ Λ⁻¹ G_i at the null model.
    slopes : (3, n) float64
        Its Taylor coefficients in t = h2 exp(-β) beyond the first.
    Ge, G1 : (l,) float64
        Gᵀe and Gᵀ1.
    """

    base: RandomEffectModel
    eigenvalues: FloatArray
    rotation: FloatArray
    blup: FloatArray
    residual: FloatArray
    leverage: FloatArray
    slopes: FloatArray
    Ge: FloatArray
    G1: FloatArray

    @classmethod
    def build(cls, base: RandomEffectModel) -> "LinearModel":
        """Diagonalise GᵀG and compute the null model's BLUP, residual and leverages."""
        eigenvalues, vectors, blup = _null_blup(base)
        spread = 1.0 + base.h2 * np.exp(-base.beta) * eigenvalues
        taylor = np.stack([(-eigenvalues) ** k / spread ** (k + 1) for k in range(4)], axis=1)
        n = len(base.y)
        residual, leverages = np.empty(n), np.empty((4, n))
        for i in range(0, n, _CHUNK_SAMPLES):
            part = slice(i, i + _CHUNK_SAMPLES)
            rows = base.design.matrix(part) @ vectors
            residual[part] = base.y[part] - base.alpha - rows @ blup
            leverages[:, part] = ((rows * rows) @ taylor).T
        return cls._of(base, eigenvalues, vectors, blup, residual, leverages[0], leverages[1:])

    @classmethod
    def _of(
        cls,
        base: RandomEffectModel,
        eigenvalues: FloatArray,
        vectors: FloatArray,
        blup: FloatArray,
        residual: FloatArray,
        leverage: FloatArray,
        slopes: FloatArray,
    ) -> "LinearModel":
        Gy, G1 = base.products @ vectors
        return cls(
            base=base,
            eigenvalues=eigenvalues,
            rotation=base.design.scale[:, None] * vectors,
            blup=blup,
            residual=residual,
            leverage=leverage,
            slopes=slopes,
            Ge=Gy - base.alpha * G1 - eigenvalues * blup,
            G1=G1,
        )

    def only(self, base: RandomEffectModel, columns: NDArray[np.int64]) -> "LinearModel":
        """Keep these columns of G (k,), with the null model ``base`` of them.

        The inverse of a part of Λ is the part of the inverse, less a term of the rank of what is
        left out: with few columns left out leverages take n l operations for each of them instead
        of the n l² of :meth:`build`.
        """
        l_, k = self.base.n_random, len(columns)
        scale = l_ / k
        t0 = self.base.h2 * np.exp(-self.base.beta)
        t = scale * base.h2 * np.exp(-base.beta)
        if l_ - k > _FEW_LEFT_OUT * l_ or abs(t - t0) > _NEAR * t0:
            return LinearModel.build(base)
        design, whole = base.design, self.base.design
        eigenvalues, vectors, blup = _null_blup(base)

        # Columns of Λ⁻¹ at t that are left out, and Q such that Λ⁻¹ - QᵀQ is that of the others.
        axes = self.rotation / whole.scale[:, None]
        removed = np.delete(np.arange(l_), columns)
        inverse = axes @ (axes[removed] / (1.0 + t * self.eigenvalues)).T
        chol = np.linalg.cholesky(inverse[removed])
        Q = linalg.solve_triangular(chol, inverse.T, lower=True)
        mean = vectors @ blup * design.scale
        rotate = np.vstack([design.in_raw(mean[None]), whole.in_raw(Q * whole.scale)])
        offset = np.append(mean @ design.centre, (Q * whole.scale) @ whole.centre)

        n = len(base.y)
        residual, leverage = np.empty(n), self.leverage.copy()
        for order, slope in enumerate(self.slopes, 1):
            leverage += (t - t0) ** order * slope
        for i in range(0, n, _CHUNK_SAMPLES):
            part = slice(i, i + _CHUNK_SAMPLES)
            rows = whole.raw[part].astype(np.float64, copy=False) @ rotate.T - offset
            residual[part] = base.y[part] - base.alpha - rows[:, 0]
            leverage[part] -= np.einsum("ij,ij->i", rows[:, 1:], rows[:, 1:])
        leverage *= scale
        return self._of(base, eigenvalues, vectors, blup, residual, leverage, np.empty((0, n)))


def _null_blup(base: RandomEffectModel) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Eigenvalues (l,) and eigenvectors (l, l) of GᵀG, and the null model's BLUP in their basis."""
    eigenvalues, vectors = np.linalg.eigh(base.gram)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    t = base.h2 * np.exp(-base.beta)
    Gy, G1 = base.products @ vectors
    return eigenvalues, vectors, t * (Gy - base.alpha * G1) / (1.0 + t * eigenvalues)
