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

from hlmm_dask.kernels.covariate_null import CovariateModel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_CHUNK_SAMPLES = 1024
# Beyond this ratio of successive steps the null's Hessian is no good guide.
_SLOWEST_RATE = 0.2
# The ratio of two steps may be small by chance: the remaining error is taken to be
# at least this share of the last step.
_FASTEST_RATE = 0.02
_MAX_EVALUATIONS = 7
# First steps that change a log variance by more than this are not tried.
_LONGEST_STEP = 1.0


@dataclass(frozen=True)
class ChordFit:
    """Fits of ``b`` variants.

    Attributes
    ----------
    converged : (b,) bool
        Where not, the other attributes are meaningless.
    add, var : (b,) float64
        Effects on mean and log variance.
    value : (b,) float64
        -2ℓ without n log 2π.
    information : (b, c+1, c+1) float64
        XᵀD⁻¹X with the variant as the last column.
    n_evaluations : (b,) int64
        Passes over the samples, without the first, which all variants take, and the last.
    """

    converged: NDArray[np.bool_]
    add: FloatArray
    var: FloatArray
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
    mask : (b, n) float64, optional
        1 where called, 0 where missing; absent if none is missing.
    """

    def __init__(self, model: CovariateModel, g: FloatArray, mask: FloatArray | None) -> None:
        self.model, self.g, self.mask = model, g, mask
        self.c, self.v = model.X.shape[1], model.V.shape[1]
        b, c, v = len(g), self.c, self.v
        x_pairs, v_pairs = np.tril_indices(c), np.tril_indices(v)
        linear = np.zeros((b, 3 * c + 3 * v + 3))
        squares = np.zeros((b, 4))
        masked_x, masked_v = np.zeros((b, len(x_pairs[0]))), np.zeros((b, len(v_pairs[0])))
        lost = np.zeros((b, c + 2 * v))
        for part in self._parts():
            X, V, r = model.X[part], model.V[part], model.residual[part, None]
            w = model.weight[part, None]
            wr, one = w * r, np.ones_like(r)
            z = wr * r
            gp = g[:, part]
            blocks = [X, w * X, wr * X, wr, z, one, z * V]
            if not model.same_design:
                blocks += [V, wr * V]
            product = gp @ np.concatenate(blocks, axis=1)
            linear[:, : product.shape[1]] += product
            squares += (gp * gp) @ np.concatenate([w, wr, z, one], axis=1)
            if mask is not None:
                called = mask[:, part]
                lost += (1.0 - called) @ np.concatenate([wr * X, (1.0 - z) * V, V], axis=1)
                masked_x += called @ (X[:, x_pairs[0]] * X[:, x_pairs[1]])
                if not model.same_design:
                    masked_v += called @ (V[:, v_pairs[0]] * V[:, v_pairs[1]])
        ends = np.cumsum([c, c, c, 1, 1, 1, v, v, v])
        gx, wx, wrx, wr_, z_, one_, zv, gv, wrv = np.split(linear, ends[:-1], axis=1)
        if model.same_design:
            gv, wrv, masked_v = gx, wrx, masked_x
        if mask is None:
            masked_x[:], masked_v[:] = model.gram_x[x_pairs], model.gram_v[v_pairs]
        gg_w, gg_wr, gg_z, gg = squares.T
        self.gram_x = _bordered(masked_x, gx, gg)
        self.gram_v = _bordered(masked_v, gv, gg)
        self.sum_g = one_[:, 0]
        self.sum_v = model.V.sum(axis=0) - lost[:, c + v :]
        self.gradient = np.empty((b, c + v + 2))
        self.gradient[:, :c] = model.gradient[:c] + 2.0 * lost[:, :c]
        self.gradient[:, c : c + v] = model.gradient[c:] - lost[:, c : c + v]
        self.gradient[:, -2] = -2.0 * wr_[:, 0]
        self.gradient[:, -1] = self.sum_g - z_[:, 0]
        # The variant's two rows of the Hessian.
        self.rows = np.empty((b, 2, c + v))
        self.rows[:, 0, :c] = 2.0 * wx
        self.rows[:, 0, c:] = 2.0 * wrv
        self.rows[:, 1, :c] = 2.0 * wrx
        self.rows[:, 1, c:] = zv
        self.corner = np.empty((b, 3))
        self.corner[:] = np.stack([2.0 * gg_w, 2.0 * gg_wr, gg_z], axis=1)
        # The covariates' block for the samples that are called, nearly.
        self.share = np.ones(b) if mask is None else mask.mean(axis=1)

    def _parts(self) -> Iterator[slice]:
        n = len(self.model.y)
        return (slice(i, min(i + _CHUNK_SAMPLES, n)) for i in range(0, n, _CHUNK_SAMPLES))

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
                # The gradient's own rounding error ends the descent at about 1e-9.
                good = (rate < _SLOWEST_RATE) | (new_length < 0.01 * tolerance)
                error = new_length * np.maximum(rate, _FASTEST_RATE)
                done = good & (error < tolerance)
                at = active[done]
                theta[at] += new_step[done]
                value[at] = new_value[done] - new_length[done] ** 2
                converged[at] = np.isfinite(value[at])
                keep = good & ~done
                active, gradient, step = active[keep], new_gradient[keep], new_step[keep]
                length = new_length[keep]
                steps = [each[keep] for each in steps]
                changes = [each[keep] for each in changes]
        information = np.full((b, c + 1, c + 1), np.nan)
        if converged.any():
            information[converged] = self.information(theta[converged], rows[converged])
        return ChordFit(converged, theta[:, -2], theta[:, -1], value, information, n_evaluations)

    def evaluate(self, theta: FloatArray, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """-2ℓ (k,) and its gradient (k, p) in (α, β, α_g, β_g), α less the null's."""
        model, c, v, k = self.model, self.c, self.v, len(rows)
        every = k == len(self.g)
        alpha, beta = -theta[:, :c], -theta[:, c : c + v]
        both = np.concatenate([beta, alpha]) if model.same_design else None
        alpha_g, beta_g = theta[:, -2, None], theta[:, -1, None]
        sums_x, sums_v = np.zeros((k, c)), np.zeros((k, v))
        sum_z, sum_wrg, sum_zg = np.zeros(k), np.zeros(k), np.zeros(k)
        memory, spare = np.empty(2 * k * _CHUNK_SAMPLES), np.empty(k * _CHUNK_SAMPLES)
        for part in self._parts():
            s = part.stop - part.start
            X, V = model.X[part], model.V[part]
            g = self.g[:, part] if every else self.g[rows, part]
            stacked = memory[: 2 * k * s].reshape(2 * k, s)
            upper, lower, t = stacked[:k], stacked[k:], spare[: k * s].reshape(k, s)
            if both is not None:
                np.matmul(both, X.T, out=stacked)
            else:
                np.matmul(beta, V.T, out=upper)
                np.matmul(alpha, X.T, out=lower)
            # upper: -η, w, wr; lower: r, z.
            upper -= np.multiply(g, beta_g, out=t)
            np.exp(upper, out=upper)
            if self.mask is not None:
                upper *= self.mask[:, part] if every else self.mask[rows, part]
            lower -= np.multiply(g, alpha_g, out=t)
            lower += model.residual[part]
            upper *= lower
            lower *= upper
            if both is not None:
                sums = stacked @ X
                sums_x += sums[:k]
                sums_v += sums[k:]
            else:
                sums_x += upper @ X
                sums_v += lower @ V
            sum_z += lower.sum(axis=1)
            sum_wrg += np.einsum("bs,bs->b", upper, g)
            sum_zg += np.einsum("bs,bs->b", lower, g)
        sum_v, sum_g = self.sum_v, self.sum_g[rows]
        sum_v = sum_v[rows] if sum_v.ndim == 2 else sum_v
        gradient = np.empty((k, c + v + 2))
        gradient[:, :c] = -2.0 * sums_x
        gradient[:, c : c + v] = sum_v - sums_v
        gradient[:, -2] = -2.0 * sum_wrg
        gradient[:, -1] = sum_g - sum_zg
        value = sum_z + beta_g[:, 0] * sum_g - (beta * sum_v).sum(axis=1)
        return value, gradient

    def information(self, theta: FloatArray, rows: IntArray) -> FloatArray:
        """XᵀD⁻¹X with the variant as the last column, (k, c+1, c+1)."""
        model, c, v, k = self.model, self.c, self.v, len(rows)
        every = k == len(self.g)
        beta, beta_g = -theta[:, c : c + v], theta[:, -1, None]
        i, j = np.tril_indices(c)
        pairs, rows_g, corner = np.zeros((k, len(i))), np.zeros((k, c)), np.zeros(k)
        memory, spare = np.empty(k * _CHUNK_SAMPLES), np.empty(k * _CHUNK_SAMPLES)
        for part in self._parts():
            s = part.stop - part.start
            X, V = model.X[part], model.V[part]
            g = self.g[:, part] if every else self.g[rows, part]
            w, t = memory[: k * s].reshape(k, s), spare[: k * s].reshape(k, s)
            np.matmul(beta, V.T, out=w)
            w -= np.multiply(g, beta_g, out=t)
            np.exp(w, out=w)
            if self.mask is not None:
                w *= self.mask[:, part] if every else self.mask[rows, part]
            pairs += w @ (X[:, i] * X[:, j])
            w *= g
            rows_g += w @ X
            corner += np.einsum("bs,bs->b", w, g)
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
