"""Fast fits of variants whose effects are small: quasi-Newton steps with the null's Hessian.

At the null model everything that concerns covariates alone is the same for all variants; the
variant's row of the Hessian comes from one matrix product for a block of variants. A variant of
small effect changes that Hessian little, so steps with it converge linearly and fast; the
secants of the steps (BFGS) make it faster. Each evaluation is exact, thus the optimum is, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.covariate_loops import Engine, multiply_scores, weigh, weigh_dosages
from hlmm_dask.kernels.covariate_null import CovariateModel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_CHUNK_SAMPLES = 1024
# Beyond this ratio of successive steps the null's Hessian is no good guide.
_SLOWEST_RATE = 0.2
# The ratio of two steps may be small by chance: the remaining error is taken to be the last step
# times the largest ratio seen, or this.
_FASTEST_RATE = 0.02
# Nearer to the maximum than this (in standard errors) it need not be.
_CLOSE = 0.1
_MAX_EVALUATIONS = 10
# First steps that change a log variance by more than this are not tried.
_LONGEST_STEP = 1.0


@dataclass(frozen=True)
class ChordFit:
    """Fits of ``b`` variants.

    Attributes
    ----------
    converged : (b,) bool
        Where not, the other attributes are meaningless.
    theta : (b, c + v + 2) float64
        (α, β, α_g, β_g), α less the null's.
    value : (b,) float64
        -2ℓ without n log 2π.
    information : (b, c+1, c+1) float64
        XᵀD⁻¹X with the variant as the last column.
    n_evaluations : (b,) int64
        Passes over the samples, without the first, which all variants take, and the last.
    """

    converged: NDArray[np.bool_]
    theta: FloatArray
    value: FloatArray
    information: FloatArray
    n_evaluations: IntArray


class ChordBatch:
    """Sums over samples for a batch of variants.

    Parameters
    ----------
    model : CovariateModel
        Phenotype, covariates, null model.
    g : (b, n) float64
        Centred dosages, 0 where missing.
    mask : (b, n) bool, optional
        Whether called; absent if all are.
    engine : {"numba", "numpy"}
        How the elementwise passes are made.
    """

    def __init__(
        self,
        model: CovariateModel,
        g: FloatArray,
        mask: NDArray[np.bool_] | None,
        *,
        engine: Engine = "numba",
    ) -> None:
        self.model, self.g, self.mask, self.engine = model, g, mask, engine
        self.c, self.v = model.X.shape[1], model.V.shape[1]
        b, c, v = len(g), self.c, self.v
        linear, squares = np.zeros((b, 3 * c + 3 * v + 3)), np.zeros((b, 4))
        x_size, v_size = c * (c + 1) // 2, v * (v + 1) // 2
        called = np.zeros((b, x_size + v_size + c + 2 * v))
        sizes = (linear.shape[1], called.shape[1], b)
        memories = [np.empty(size * _CHUNK_SAMPLES) for size in sizes]
        for part in self._parts():
            X, V = _rows(model.X[part]), _rows(model.V[part])
            w, r = model.weight[part], model.residual[part]
            design, factors, block = (_room(memory, part) for memory in memories)
            wr = w * r
            z = wr * r
            one = np.ones_like(r)
            single = np.stack([wr, z, one, w])
            blocks = [(X, one), (X, w), (X, wr), (V, z), (single[:3], one)]
            if not model.same_design:
                blocks += [(V, one), (V, wr)]
            k = _stack(blocks, design)
            gp = g[:, part]
            linear[:, :k] += (design[:k] @ gp.T).T
            squares += np.multiply(gp, gp, out=block) @ single.T
            if mask is not None:
                k = _stack([(X, wr), (V, one - z), (V, one)], factors)
                k += _pairs(X, factors[k:])
                if not model.same_design:
                    k += _pairs(V, factors[k:])
                np.copyto(block, mask[:, part])
                called[:, :k] += (factors[:k] @ block.T).T
        ends = np.cumsum([c, c, c, v, 1, 1, 1, v])
        gx, wx, wrx, zv, wr_, z_, one_, gv, wrv = np.split(linear, ends, axis=1)
        ends = np.cumsum([c, v, v, x_size])
        masked_wrx, masked_v, sum_v, masked_xx, masked_vv = np.split(called, ends, axis=1)
        if model.same_design:
            gv, wrv, masked_vv = gx, wrx, masked_xx
        if mask is None:
            sum_v[:] = model.V.sum(axis=0)
            masked_xx[:] = model.gram_x[np.tril_indices(c)]
            masked_vv[:] = model.gram_v[np.tril_indices(v)]
        gg_wr, gg_z, gg, gg_w = squares.T
        self.gram_x, self.gram_v = _bordered(masked_xx, gx, gg), _bordered(masked_vv, gv, gg)
        self.sum_g, self.sum_v = one_[:, 0], sum_v
        self.gradient = np.empty((b, c + v + 2))
        if mask is None:
            self.gradient[:, : c + v] = model.gradient
        else:
            self.gradient[:, :c] = -2.0 * masked_wrx
            self.gradient[:, c : c + v] = masked_v
        self.gradient[:, -2] = -2.0 * wr_[:, 0]
        self.gradient[:, -1] = self.sum_g - z_[:, 0]
        # The variant's two rows of the Hessian.
        self.rows = np.empty((b, 2, c + v))
        self.rows[:, 0, :c] = 2.0 * wx
        self.rows[:, 0, c:] = 2.0 * wrv
        self.rows[:, 1, :c] = 2.0 * wrx
        self.rows[:, 1, c:] = zv
        self.corner = np.stack([2.0 * gg_w, 2.0 * gg_wr, gg_z], axis=1)
        # The covariates' block for the samples that are called, nearly.
        self.share = np.ones(b) if mask is None else mask.mean(axis=1)

    def _parts(self) -> Iterator[slice]:
        n = len(self.model.y)
        return (slice(i, min(i + _CHUNK_SAMPLES, n)) for i in range(0, n, _CHUNK_SAMPLES))

    def _chunks(self, k: int) -> Iterator[tuple[slice, FloatArray]]:
        """Each chunk's samples, and memory for them (2k, s)."""
        memory = np.empty(2 * k * _CHUNK_SAMPLES)
        for part in self._parts():
            yield part, _room(memory, part)

    def fit(self, rows: IntArray, *, tolerance: float) -> ChordFit:
        """Fit the variants ``rows`` (k,); in the result they are 0 to k - 1."""
        b, c, v = len(rows), self.c, self.v
        theta = np.zeros((b, c + v + 2))
        theta[:, c : c + v] = self.model.beta
        value = np.full(b, np.nan)
        n_evaluations = np.zeros(b, dtype=np.int64)
        converged = np.zeros(b, dtype=bool)
        solver = _NullSolver(self, rows)
        gradient = self.gradient[rows]
        with np.errstate(all="ignore"):
            step = -solver.solve(gradient)
            length = _length(gradient, step)
            span = np.ptp(self.g[rows], axis=1)
            active = np.flatnonzero(solver.definite & (np.abs(step[:, -1]) * span < _LONGEST_STEP))
            gradient, step, length = gradient[active], step[active], length[active]
            slowest = np.full(len(active), _FASTEST_RATE)
            steps: list[FloatArray] = []
            changes: list[FloatArray] = []
            for _ in range(_MAX_EVALUATIONS):
                if not active.size:
                    break
                theta[active] += step
                new_value, new_gradient = self.evaluate(theta[active], rows[active])
                n_evaluations[active] += 1
                steps.append(step)
                changes.append(new_gradient - gradient)
                new_step = -_bfgs(solver, active, new_gradient, steps, changes)
                new_length = _length(new_gradient, new_step)
                rate = new_length / length
                good = (rate < _SLOWEST_RATE) | (new_length < _CLOSE)
                slowest = np.maximum(slowest, rate)
                error = new_length * slowest
                done = good & (error < tolerance)
                at = active[done]
                theta[at] += new_step[done]
                value[at] = new_value[done] - new_length[done] ** 2
                converged[at] = np.isfinite(value[at])
                keep = good & ~done
                active, gradient, step = active[keep], new_gradient[keep], new_step[keep]
                length, slowest = new_length[keep], slowest[keep]
                steps = [each[keep] for each in steps]
                changes = [each[keep] for each in changes]
        information = np.full((b, c + 1, c + 1), np.nan)
        if converged.any():
            information[converged] = self.information(theta[converged], rows[converged])
        return ChordFit(converged, theta, value, information, n_evaluations)

    def evaluate(self, theta: FloatArray, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """-2ℓ (k,) and its gradient (k, p) in (α, β, α_g, β_g), α less the null's."""
        model, c, v, k = self.model, self.c, self.v, len(rows)
        beta = -theta[:, c : c + v]
        beta_g = theta[:, -1]
        sums_x, sums_v, sums = np.zeros((k, c)), np.zeros((k, v)), np.zeros((k, 3))
        for part, stacked in self._weighed(theta, rows, sums):
            X, V = model.X[part], model.V[part]
            if model.same_design:
                products = stacked @ X
                sums_x += products[:k]
                sums_v += products[k:]
            else:
                sums_x += stacked[:k] @ X
                sums_v += stacked[k:] @ V
        sum_v, sum_g = self.sum_v[rows], self.sum_g[rows]
        gradient = np.empty((k, c + v + 2))
        gradient[:, :c] = -2.0 * sums_x
        gradient[:, c : c + v] = sum_v - sums_v
        gradient[:, -2] = -2.0 * sums[:, 1]
        gradient[:, -1] = sum_g - sums[:, 2]
        value = sums[:, 0] + beta_g * sum_g - (beta * sum_v).sum(axis=1)
        return value, gradient

    def _weighed(
        self, theta: FloatArray, rows: IntArray, sums: FloatArray
    ) -> Iterator[tuple[slice, FloatArray]]:
        """Each chunk's samples, and w r and w r² (2k, s); sums as ``weigh`` adds them."""
        model, c, v, k = self.model, self.c, self.v, len(rows)
        alpha, beta = -theta[:, :c], -theta[:, c : c + v]
        alpha_g, beta_g = theta[:, -2].copy(), theta[:, -1].copy()
        both = np.concatenate([beta, alpha]) if model.same_design else None
        for part, stacked in self._chunks(k):
            if both is not None:
                np.matmul(both, model.X[part].T, out=stacked)
            else:
                np.matmul(beta, model.V[part].T, out=stacked[:k])
                np.matmul(alpha, model.X[part].T, out=stacked[k:])
            weigh(
                stacked,
                self.g,
                self.mask,
                rows,
                part.start,
                model.residual[part],
                alpha_g,
                beta_g,
                sums,
                engine=self.engine,
            )
            yield part, stacked

    def score_products(
        self, theta: FloatArray, rows: IntArray, mean: FloatArray, spread: FloatArray
    ) -> FloatArray:
        """Sum squares and products of two combinations of the samples' scores.

        Parameters
        ----------
        theta : (k, c + v + 2) float64
            (α, β, α_g, β_g), α less the null's.
        rows : (k,) int64
            The variants.
        mean, spread : (k, c + 1), (k, v + 1) float64
            a and b; the last element of each belongs to the variant.

        Returns
        -------
        (k, 3) float64
            Σ s², Σ t², Σ s t with s = w r (X, g) a and t = (w r² - 1) (V, g) b.
        """
        model, k = self.model, len(rows)
        out, unused = np.zeros((k, 3)), np.zeros((k, 3))
        ends = np.stack([mean[:, -1], spread[:, -1]], axis=1)
        memory = np.empty(2 * k * _CHUNK_SAMPLES)
        for part, stacked in self._weighed(theta, rows, unused):
            directions = _room(memory, part)
            np.matmul(mean[:, :-1], model.X[part].T, out=directions[:k])
            np.matmul(spread[:, :-1], model.V[part].T, out=directions[k:])
            multiply_scores(
                stacked, directions, self.g, self.mask, rows, part.start, ends, out,
                engine=self.engine,
            )  # fmt: skip
        return out

    def information(self, theta: FloatArray, rows: IntArray) -> FloatArray:
        """XᵀD⁻¹X with the variant as the last column, (k, c+1, c+1)."""
        model, c, v, k = self.model, self.c, self.v, len(rows)
        beta, beta_g = -theta[:, c : c + v], theta[:, -1].copy()
        pairs, rows_g, corner = np.zeros((k, c * (c + 1) // 2)), np.zeros((k, c)), np.zeros(k)
        memory = np.empty(pairs.shape[1] * _CHUNK_SAMPLES)
        for part, stacked in self._chunks(k):
            X = model.X[part]
            np.matmul(beta, model.V[part].T, out=stacked[:k])
            weigh_dosages(
                stacked, self.g, self.mask, rows, part.start, beta_g, corner, engine=self.engine
            )
            products = _room(memory, part)
            _pairs(_rows(X), products)
            pairs += (products @ stacked[:k].T).T
            rows_g += stacked[k:] @ X
        return _bordered(pairs, rows_g, corner)


class _NullSolver:
    """Solves with the Hessian at the null: a shared block, bordered by the variant's two rows."""

    def __init__(self, batch: ChordBatch, rows: IntArray) -> None:
        inverse = batch.model.inverse
        if inverse is None:
            inverse = np.full((batch.c + batch.v,) * 2, np.nan)
        self.inverse, self.share = inverse, batch.share[rows, None]
        self.border = batch.rows[rows]
        # Border times inverse; then the 2 x 2 complement, inverted by hand.
        self.solved = (self.border @ inverse) / self.share[:, :, None]
        taken = np.einsum("bik,bjk->bij", self.solved, self.border)
        aa, ab, bb = batch.corner[rows].T - np.stack(
            [taken[:, 0, 0], taken[:, 0, 1], taken[:, 1, 1]]
        )
        with np.errstate(all="ignore"):
            determinant = aa * bb - ab * ab
            self.definite = (aa > 0.0) & (determinant > 1e-9 * aa * bb)
            self.small = np.stack([bb, -ab, -ab, aa], axis=1).reshape(-1, 2, 2)
            self.small /= determinant[:, None, None]

    def solve(self, rhs: FloatArray, active: IntArray | None = None) -> FloatArray:
        """Solutions (k, p) for the variants ``active`` (k,)."""
        at = slice(None) if active is None else active
        shared = rhs[:, :-2]
        lower = rhs[:, -2:] - np.einsum("bik,bk->bi", self.solved[at], shared)
        last = np.einsum("bij,bj->bi", self.small[at], lower)
        first = (shared @ self.inverse) / self.share[at]
        first -= np.einsum("bik,bi->bk", self.solved[at], last)
        return np.concatenate([first, last], axis=1)


def _bfgs(
    solver: _NullSolver,
    active: IntArray,
    gradient: FloatArray,
    steps: list[FloatArray],
    changes: list[FloatArray],
) -> FloatArray:
    """Inverse Hessian times gradient (k, p), the null's Hessian corrected by the secants."""
    q = gradient.copy()
    weights = []
    for s, d in zip(reversed(steps), reversed(changes), strict=True):
        a = (s * q).sum(axis=1) / (s * d).sum(axis=1)
        q -= a[:, None] * d
        weights.append(a)
    q = solver.solve(q, active)
    for s, d, a in zip(steps, changes, reversed(weights), strict=True):
        q += s * (a - (d * q).sum(axis=1) / (s * d).sum(axis=1))[:, None]
    return q


def _length(gradient: FloatArray, step: FloatArray) -> FloatArray:
    """Length of each step (k,) in standard errors; NaN where it leads uphill."""
    return np.asarray(np.sqrt(-0.5 * np.einsum("bi,bi->b", gradient, step)))


def _rows(design: FloatArray) -> FloatArray:
    """Columns of a chunk of a design as contiguous rows: elementwise products run along them."""
    return np.ascontiguousarray(design.T)


def _room(memory: FloatArray, part: slice) -> FloatArray:
    """Rows for a chunk of samples in memory that is used again: new pages cost more than sums."""
    s = part.stop - part.start
    return memory[: len(memory) // _CHUNK_SAMPLES * s].reshape(-1, s)


def _stack(blocks: list[tuple[FloatArray, FloatArray]], out: FloatArray) -> int:
    """Fill ``out`` with the rows (k, s) of each block times its factor (s,); return how many."""
    start = 0
    for rows, factor in blocks:
        np.multiply(rows, factor, out=out[start : start + len(rows)])
        start += len(rows)
    return start


def _pairs(rows: FloatArray, out: FloatArray) -> int:
    """Products of all pairs of rows (k, s), in the order of a lower triangle; return how many."""
    k = len(rows)
    for i in range(k):
        start = i * (i + 1) // 2
        np.multiply(rows[: i + 1], rows[i], out=out[start : start + i + 1])
    return k * (k + 1) // 2


def _bordered(pairs: FloatArray, row: FloatArray, corner: FloatArray) -> FloatArray:
    """Symmetric matrices (b, k+1, k+1) of lower triangles (b, k(k+1)/2), last rows and corners."""
    b, k = row.shape
    out = np.empty((b, k + 1, k + 1))
    i, j = np.tril_indices(k)
    out[:, i, j] = pairs
    out[:, j, i] = pairs
    out[:, k, :k] = row
    out[:, :k, k] = row
    out[:, k, k] = corner
    return out
