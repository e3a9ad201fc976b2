"""Score tests for the models in which genotype classes are not enough: covariates, random effects.

With u = Σ⁻¹r and P = Σ⁻¹ of the null model and D its residual variances, e = D u is what random
effects leave of the residuals r, and a sample's shares in the scores are

    mean: u_i,    variance: v_i = D_i (u_i² - P_ii) = e_i²/D_i - c_i,  c_i = 1 - h2 G_iᵀΛ⁻¹G_i / D_i

c = 1 without random effects. The genotype is the residual of its regression on the covariates. In
v_i the variant's own effect on the mean, by weighted least squares, is taken off e. Everything else
is as in `hlmm_dask.kernels.score`: scores are studentised as for independent genotypes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.score import SPA_THRESHOLD, Scores, expanded, score_columns
from hlmm_dask.kernels.score_moments import ScoreMoments

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_CHUNK_SAMPLES = 4096
# Doubles of genotypes at once.
_BATCH_DOUBLES = 1_000_000
# Samples with the largest shares, which keep their genotypes; cells for the others, by the share in
# the variance and, within it, by that in the mean.
_N_OUTLIERS, _N_CELLS = 96, (64, 16)


@dataclass(frozen=True)
class ScoreNull:
    """What the scores take from the null model.

    Attributes
    ----------
    e : (n,) float64
        Residuals.
    weight : (n,) float64
        1/D.
    c : (n,) float64
        Expectation of e²/D.
    basis : (n, p) float64
        Orthonormal basis of the covariates, the intercept among them.
    outlier : (t,) int64
        Samples with the largest shares in the scores.
    cells : (3, k) float64
        Means of u and v in cells of the other samples, and how many there are in each.
    moments : ScoreMoments
        Of u and v.
    """

    e: FloatArray
    weight: FloatArray
    c: FloatArray
    basis: FloatArray
    outlier: IntArray
    cells: FloatArray
    moments: ScoreMoments

    @classmethod
    def build(cls, model: DenseModel) -> "ScoreNull":
        """Compute once what all variants share."""
        n = len(model.y)
        e = model.y - model.X @ model.alpha
        weight = np.exp(-(model.V @ model.beta))
        c = np.ones(n)
        if model.design is not None:
            # In chunks of samples: a product of G with itself and one with each factor.
            l_ = model.design.n_random
            parts = [slice(i, i + _CHUNK_SAMPLES) for i in range(0, n, _CHUNK_SAMPLES)]
            capacity, product = np.eye(l_), np.zeros(l_)
            for part in parts:
                rows = model.design.matrix(part)
                weighted = rows * weight[part, None]
                capacity += model.h2 * (rows.T @ weighted)
                product += e[part] @ weighted
            inverse = np.linalg.inv(capacity)
            blup = model.h2 * (inverse @ product)
            for part in parts:
                rows = model.design.matrix(part)
                leverage = np.einsum("ij,ij->i", rows @ inverse, rows)
                e[part] -= rows @ blup
                c[part] -= model.h2 * weight[part] * leverage
        columns = [model.X[:, :1] * 0.0 + 1.0, model.X, model.V]
        basis, values, _ = np.linalg.svd(_unit(np.hstack(columns)), full_matrices=False)
        basis = np.ascontiguousarray(basis[:, values > 1e-8 * values[0]])
        u, v = weight * e, weight * e * e - c
        extreme = np.maximum(np.abs(u) / u.std(), np.abs(v) / v.std())
        outlier = np.argsort(-extreme, kind="stable")[: min(_N_OUTLIERS, n // 4)]
        cells = _cells(np.delete(u, outlier), np.delete(v, outlier))
        moments = ScoreMoments.of(u - u.mean(), v - v.mean())
        return cls(e, weight, c, basis, outlier, cells, moments)


def general_columns(
    null: ScoreNull,
    dosage: NDArray[np.floating] | NDArray[np.int8],
    *,
    threshold: float = SPA_THRESHOLD,
) -> dict[str, FloatArray]:
    """Columns of the results by name for dosages (m, n) of allele 1, NaN or -1 where missing."""
    from hlmm_dask.kernels import score_null_loops

    n = dosage.shape[1]
    size = max(1, _BATCH_DOUBLES // n)
    parts = []
    size = min(size, max(len(dosage), 1))
    # Memory that is made anew costs as much as a pass over it.
    all_g, all_called = np.empty((size, n)), np.empty((size, n), dtype=np.int8)
    for i in range(0, len(dosage), size):
        part = dosage[i : i + size]
        m = len(part)
        g, called, about, at = all_g[:m], all_called[:m], np.empty((m, 5)), np.empty((m, 15))
        score_null_loops.centre(part, g, called, about)
        if null.basis.shape[1] > 1:
            g -= (g @ null.basis) @ null.basis.T
            if (about[:, 0] < n).any():
                g *= called
        score_null_loops.scores(g, called, null.e, null.weight, null.c, at)
        q = _frequencies(about)
        scores = Scores(at[:, 7], at[:, 8], at[:, 13], at[:, 11], at, q)
        kept = called[:, null.moments.kept_at] > 0
        tails, wanted = expanded(scores, kept, null.moments, threshold)
        rows = np.flatnonzero(wanted.any(axis=1))
        if rows.size:
            found = tails[rows]
            score_null_loops.tails(
                g[rows], called[rows], null.e, null.weight, null.c, null.outlier, null.cells,
                at[rows], q[rows], wanted[rows], found,
            )  # fmt: skip
            tails[rows] = found
        parts.append(score_columns(scores, tails))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _frequencies(about: FloatArray) -> FloatArray:
    """Frequencies of the genotypes from the lowest that occurs, (m, 3); of dosages, binomial."""
    n, p = about[:, :1], about[:, 1:2] / 2.0
    counts = about[:, 2:]
    binomial = np.hstack([(1.0 - p) ** 2, 2.0 * p * (1.0 - p), p * p])
    q = np.where(counts.sum(axis=1, keepdims=True) == n, counts / n, binomial)
    lowest = (q > 0).argmax(axis=1)
    index = lowest[:, None] + np.arange(3)
    return np.where(index > 2, 0.0, np.take_along_axis(q, np.minimum(index, 2), axis=1))


def _cells(u: FloatArray, v: FloatArray) -> FloatArray:
    """Means of u and v and numbers of samples in cells of about equal numbers, (3, k)."""
    n = len(u)
    order = np.argsort(v, kind="stable")
    means = []
    for outer in np.array_split(order, min(n, _N_CELLS[0])):
        inner = outer[np.argsort(u[outer], kind="stable")]
        for cell in np.array_split(inner, min(len(inner), _N_CELLS[1])):
            means.append((u[cell].mean(), v[cell].mean(), float(len(cell))))
    return np.ascontiguousarray(np.array(means).T)


def _unit(columns: FloatArray) -> FloatArray:
    """Columns of length one, those of zeros as they are."""
    length = np.sqrt((columns * columns).sum(axis=0))
    return np.asarray(columns / np.where(length > 0.0, length, 1.0))
