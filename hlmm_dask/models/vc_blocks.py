"""A covariance Σ σ²_i V_i that falls into blocks, as families do: solves, determinant, traces.

Samples belong to the same block where any V_i connects them. Blocks of equal size are kept and
computed together; one large block is the general dense case.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse.csgraph import connected_components

from hlmm_dask.models.vc_effects import FloatArray, Matrix, RandomEffect

IntArray = NDArray[np.int64]

# Up to this size many blocks in one call beat LAPACK's own speed on each.
_SMALL = 48


@dataclass(frozen=True)
class BlockGroup:
    """``b`` blocks of ``k`` samples each.

    Attributes
    ----------
    index : (b, k) int64
        The samples of each block.
    V : tuple of (b, k, k) float64 or None
        Each component's covariance within the blocks; None is the identity.
    """

    index: IntArray
    V: tuple[FloatArray | None, ...]

    def sigma(self, components: FloatArray) -> FloatArray:
        """Σ σ²_i V_i, (b, k, k)."""
        b, k = self.index.shape
        out = np.zeros((b, k, k))
        diagonal = np.arange(k)
        for value, V in zip(components, self.V, strict=True):
            if V is None:
                out[:, diagonal, diagonal] += value
            elif value:
                out += value * V
        return out

    def covariance(self, component: int) -> FloatArray:
        """V_i, (b, k, k)."""
        V = self.V[component]
        return np.eye(self.index.shape[1])[None] if V is None else V


def block_groups(effects: Sequence[RandomEffect], n_samples: int) -> tuple[BlockGroup, ...]:
    """Find the blocks of all effects' covariances together."""
    blocks: dict[tuple[int, int], list[IntArray]] = {}
    for number, samples in enumerate(_connected(effects, n_samples)):
        k = len(samples)
        # A large block is a group of its own.
        blocks.setdefault((k, 0 if k <= _SMALL else number), []).append(samples)
    groups = []
    for same_size in blocks.values():
        index = np.stack(same_size)
        parts = tuple(None if e.V is None else _within(e.V, index) for e in effects)
        groups.append(BlockGroup(index, parts))
    return tuple(groups)


def _connected(effects: Sequence[RandomEffect], n_samples: int) -> list[IntArray]:
    pattern: Any = sparse.csr_array((n_samples, n_samples), dtype=np.int8)
    for effect in effects:
        if effect.V is None:
            continue
        V: Any = effect.V
        if not sparse.issparse(V) and np.all(V[0] != 0):
            return [np.arange(n_samples)]
        pattern = pattern + sparse.csr_array(V != 0, dtype=np.int8)
    _, label = connected_components(pattern, directed=False)
    order = np.argsort(label, kind="stable").astype(np.int64)
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1)


def _within(V: Matrix, index: IntArray) -> FloatArray:
    if not sparse.issparse(V):
        return np.asarray(V[index[:, :, None], index[:, None, :]])
    return np.stack([V[rows][:, rows].toarray() for rows in index])


class Factored:
    """Cholesky factors of the blocks of one covariance.

    Parameters
    ----------
    groups : sequence of BlockGroup
        The blocks.
    components : (c,) float64
        Variances σ²_i.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the covariance is not positive definite.
    """

    def __init__(self, groups: Sequence[BlockGroup], components: FloatArray) -> None:
        self._parts = [
            (group, (_Small if group.index.shape[1] <= _SMALL else _Large)(group, components))
            for group in groups
        ]
        self.logdet = float(sum(part.logdet for _, part in self._parts))

    def solve(self, rhs: FloatArray) -> FloatArray:
        """Σ⁻¹ ``rhs`` (n, r)."""
        out = np.empty(rhs.shape)
        for group, part in self._parts:
            out[group.index] = part.solve(rhs[group.index])
        return out

    def traces(self) -> FloatArray:
        """tr(Σ⁻¹ V_i), (c,)."""
        return np.sum([part.traces() for _, part in self._parts], axis=0)  # type: ignore[no-any-return]  # a stub

    def trace_products(self) -> FloatArray:
        """tr(Σ⁻¹ V_i Σ⁻¹ V_j), (c, c)."""
        return np.sum([part.trace_products() for _, part in self._parts], axis=0)  # type: ignore[no-any-return]  # a stub


class _Small:
    """Many small blocks at once."""

    def __init__(self, group: BlockGroup, components: FloatArray) -> None:
        self._group = group
        self._sigma = group.sigma(components)
        lower = np.linalg.cholesky(self._sigma)
        self.logdet = 2.0 * float(np.log(np.diagonal(lower, axis1=1, axis2=2)).sum())

    def solve(self, rhs: FloatArray) -> FloatArray:
        return np.asarray(np.linalg.solve(self._sigma, rhs), dtype=np.float64)

    def _solved(self) -> list[FloatArray]:
        c = len(self._group.V)
        shape = self._sigma.shape
        rhs = [np.broadcast_to(self._group.covariance(i), shape) for i in range(c)]
        return np.split(np.linalg.solve(self._sigma, np.concatenate(rhs, axis=2)), c, axis=2)

    def traces(self) -> FloatArray:
        return np.array([np.trace(W, axis1=1, axis2=2).sum() for W in self._solved()])

    def trace_products(self) -> FloatArray:
        return _products(self._solved())


class _Large:
    """One large block."""

    def __init__(self, group: BlockGroup, components: FloatArray) -> None:
        self._group = group
        sigma = group.sigma(components)[0]
        # The transpose is the same matrix, in the order that LAPACK can overwrite.
        self._lower = linalg.cholesky(sigma.T, lower=True, overwrite_a=True, check_finite=False)
        self.logdet = 2.0 * float(np.log(np.diagonal(self._lower)).sum())

    def solve(self, rhs: FloatArray) -> FloatArray:
        solution = linalg.cho_solve((self._lower, True), rhs[0], check_finite=False)
        return np.asarray(solution)[None]

    def traces(self) -> FloatArray:
        # Every element of the inverse counts here; for one trace a solve costs three times this.
        lower, info = linalg.lapack.dpotri(self._lower, lower=1)
        assert info == 0
        diagonal = np.diagonal(lower)
        out = np.empty(len(self._group.V))
        for i, V in enumerate(self._group.V):
            if V is None:
                out[i] = diagonal.sum()
            else:
                # The factor has zeros above the diagonal, and so has what took its place.
                out[i] = 2.0 * np.einsum("ij,ij->", lower, V[0].T) - diagonal @ np.diagonal(V[0])
        return out

    def trace_products(self) -> FloatArray:
        c = len(self._group.V)
        return _products([self.solve(self._group.covariance(i)) for i in range(c)])


def _products(solved: list[FloatArray]) -> FloatArray:
    """tr(W_i W_j) summed over the blocks, (c, c)."""
    c = len(solved)
    out = np.empty((c, c))
    for i in range(c):
        for j in range(i + 1):
            out[i, j] = out[j, i] = np.einsum("bkl,blk->", solved[i], solved[j])
    return out
