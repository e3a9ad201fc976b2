"""Relationship matrices of a scan, each decomposed once for all phenotypes of the same samples."""

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hlmm_dask.errors import InputError
from hlmm_dask.models.lmm_rotation import Rotation, rotation_of_kinship
from hlmm_dask.relationship.kinship import FloatArray, Id, Kinship
from hlmm_dask.scanning.kinship import RelationshipParts

# Matrices of n x n doubles that a decomposition has in memory at the most.
DECOMPOSITION_MATRICES = 6


@dataclass(frozen=True)
class Rotated:
    """Eigenvectors of a matrix, in a file.

    Attributes
    ----------
    rotation : Rotation
        Eigenvalues, and eigenvectors mapped from the file.
    diagonal : float
        Mean of the matrix' diagonal.
    """

    rotation: Rotation
    diagonal: float


@dataclass(frozen=True)
class Relationships:
    """A relationship matrix, or the parts of one of which chromosomes can be left out.

    Attributes
    ----------
    matrices : Kinship or RelationshipParts
        For all samples of the scan, and maybe others.
    identity : mapping
        What decides them (JSON values).
    folder : Path
        Where eigenvectors are kept.
    """

    matrices: Kinship | RelationshipParts
    identity: Mapping[str, Any]
    folder: Path
    _kept: dict[tuple[bytes, str | None], Rotated] = field(
        default_factory=dict, compare=False, repr=False
    )

    @classmethod
    def of(cls, matrices: Kinship | RelationshipParts) -> "Relationships":
        """Keep eigenvectors in a temporary folder that goes with the object."""
        folder = tempfile.mkdtemp(prefix="hlmm_dask_")
        found = cls(matrices, identity_of(matrices), Path(folder))
        # The maps of the files stay valid when the files are gone.
        weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
        return found

    @property
    def chromosomes(self) -> tuple[str, ...]:
        """Chromosomes that can be left out."""
        return () if isinstance(self.matrices, Kinship) else self.matrices.chromosomes

    def rotated(self, ids: Sequence[Id], without: str | None = None) -> Rotated:
        """Eigenvectors of the centred matrix of some people.

        Rows and columns have mean zero over these people, as in GEMMA: with an intercept in the
        model that changes no restricted likelihood and no effect.

        Parameters
        ----------
        ids : sequence of (str, str)
            FID and IID, in order.
        without : str, optional
            Chromosome to be left out.

        Raises
        ------
        InputError
            If someone is not in the matrix, or it is none of relationships.
        """
        key = hashlib.sha256(repr(list(ids)).encode()).digest(), without
        if key not in self._kept:
            self._kept[key] = self._decomposed(ids, without, len(self._kept))
        return self._kept[key]

    def _decomposed(self, ids: Sequence[Id], without: str | None, number: int) -> Rotated:
        K = _centred(self._matrix(without).select(ids))
        trace = float(np.trace(K))
        if not trace > 0.0:
            raise InputError(
                f"{self.source}: no relationships vary among the {len(ids)} analysed samples"
            )
        try:
            rotation = rotation_of_kinship(K)
        except ValueError as error:
            raise InputError(f"{self.source}: no relationship matrix: {error}") from error
        del K
        path = self.folder / f"vectors{number}.npy"
        np.save(path, rotation.vectors)
        values, vectors = rotation.values.copy(), np.load(path, mmap_mode="r")
        kept = Rotation(values, vectors, rotation.notes)
        return Rotated(kept, float(values.sum()) / len(ids))

    def _matrix(self, without: str | None) -> Kinship:
        if isinstance(self.matrices, Kinship):
            return self.matrices
        return self.matrices.whole() if without is None else self.matrices.without(without)

    @property
    def notes(self) -> tuple[str, ...]:
        """Variants that were left out of the matrix."""
        return self.matrices.notes

    @property
    def source(self) -> str:
        """Names the matrix."""
        return self.matrices.source


def identity_of(matrices: Kinship | RelationshipParts) -> dict[str, Any]:
    """Return what tells one matrix from another: its values, or how many variants each part has."""
    if isinstance(matrices, Kinship):
        digest = hashlib.sha256(repr(matrices.ids).encode())
        digest.update(np.ascontiguousarray(matrices.matrix).data)
        return {"kinship_sha256": digest.hexdigest()}
    counts = zip(matrices.chromosomes, matrices.n_variants.tolist(), strict=True)
    return {
        "kinship_variants": dict(counts),
        "kinship_samples_sha256": hashlib.sha256(repr(matrices.ids).encode()).hexdigest(),
    }


def _centred(K: FloatArray) -> FloatArray:
    K -= K.mean(axis=0)
    K -= K.mean(axis=1)[:, None]
    # Of rounding alone; eigenvectors of a matrix that is not symmetric would not be orthogonal.
    K += K.T.copy()
    K *= 0.5
    return K
