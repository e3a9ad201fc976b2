"""What the null model's random effects predict, to be taken off before a variant is refitted."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.genotypes.contigs import plain_contig
from hlmm_dask.scanning.null import NullModel

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class RandomPart:
    """Predictions of the random effects (BLUP) under a null model, without some of its columns.

    Attributes
    ----------
    G : (n, l) float64
        Design of the random effects.
    gram : (l, l) float64
        GᵀD⁻¹G.
    right : (l,) float64
        GᵀD⁻¹(y - Xα̂).
    h2 : float
        Variance of the random effects, together.
    contig, position
        Of the columns; None where not known.
    """

    G: FloatArray
    gram: FloatArray
    right: FloatArray
    h2: float
    contig: NDArray[np.object_] | None
    position: NDArray[np.int64] | None

    @classmethod
    def of(cls, null: NullModel, like: "RandomPart | None" = None) -> "RandomPart | None":
        """Return that of a null model, None without random effects.

        Parameters
        ----------
        null : NullModel
        like : RandomPart, optional
            Of another phenotype of the same samples, whose design is shared.
        """
        model = null.model
        if model.design is None:
            return None
        G = model.design.matrix() if like is None else like.G
        weighted = G * np.exp(-(model.V @ model.beta))[:, None]
        return cls(
            G, weighted.T @ G, weighted.T @ (model.y - model.X @ model.alpha), model.h2,
            null.random_contig, null.random_position,
        )  # fmt: skip

    def predicted(self, contig: str, position: int, window: float | None) -> FloatArray:
        """Return Gû, (n,), without the columns near a variant.

        Parameters
        ----------
        contig, position
            Of the variant.
        window : float or None
            Base pairs within which columns are left out, infinite for the whole chromosome; None
            to keep all.
        """
        keep = np.ones(len(self.right), dtype=bool)
        if window is not None and self.contig is not None and self.position is not None:
            same = np.array([plain_contig(str(c)) == plain_contig(contig) for c in self.contig])
            keep = ~(same & (np.abs(self.position - position) <= window))
        if not keep.any():
            return np.zeros(len(self.G))
        inner = self.gram[np.ix_(keep, keep)] + np.eye(int(keep.sum())) / self.h2
        return np.asarray(self.G[:, keep] @ np.linalg.solve(inner, self.right[keep]))
