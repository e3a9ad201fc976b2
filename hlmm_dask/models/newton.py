"""Damped Newton's method for a whole batch of small problems at once.

A model of one variant and a kernel over a block of variants use the same loop: a batch of
``b`` independent problems with ``p`` parameters each. A problem that converges leaves the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.arguments import number, whole_number

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Evaluate = Callable[[FloatArray, IntArray], tuple[FloatArray, FloatArray, FloatArray]]

FirstLength = Callable[[FloatArray, IntArray], FloatArray]

# A step is taken without asking whether the value falls when the fall it predicts
# drowns in the value's own rounding error.
_ROUNDING = 1e-12
_SUFFICIENT_DECREASE = 1e-4


class Convergence(IntEnum):
    """Why the iteration ended for a problem."""

    CONVERGED = 0
    ITERATION_LIMIT = 1
    LINE_SEARCH_FAILED = 2
    SADDLE_POINT = 3
    NOT_FINITE = 4


@dataclass(frozen=True)
class NewtonResult:
    """Outcome of :func:`minimise` for a batch of ``b`` problems with ``p`` parameters.

    Attributes
    ----------
    x : (b, p) float64
        Parameters at the minimum.
    value : (b,) float64
        Value of the function.
    gradient : (b, p) float64
        Gradient at the last evaluated point, one (negligible) Newton step before ``x``.
    hessian : (b, p, p) float64
        Hessian at that point.
    n_iterations : (b,) int64
        Evaluations of the function.
    convergence : (b,) int64
        A :class:`Convergence` code.
    """

    x: FloatArray
    value: FloatArray
    gradient: FloatArray
    hessian: FloatArray
    n_iterations: IntArray
    convergence: IntArray

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Whether each problem converged, (b,)."""
        return np.asarray(self.convergence == Convergence.CONVERGED)


def solve_positive_definite(
    matrix: FloatArray, rhs: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Solve a batch of small symmetric systems by Cholesky factorisation.

    The loop runs over the columns, each step over the whole batch; a batch of thousands of
    2 x 2 to 20 x 20 systems costs a few array operations.

    Parameters
    ----------
    matrix : (b, p, p) float64
        Symmetric matrices; only the lower triangle is read.
    rhs : (b, p) float64
        Right-hand sides.

    Returns
    -------
    solution : (b, p) float64
        Solutions; meaningless where not positive definite.
    positive_definite : (b,) bool
        Whether every pivot was positive (relative to the diagonal: above 1e-13).
    """
    b, p = rhs.shape
    assert matrix.shape == (b, p, p)
    lower = np.empty((p, p, b))
    ok = np.ones(b, dtype=bool)
    z = np.empty((p, b))
    for j in range(p):
        row = lower[j, :j]
        pivot = matrix[:, j, j] - np.sum(row * row, axis=0)
        good = pivot > 1e-13 * np.abs(matrix[:, j, j])
        ok &= good
        root = np.sqrt(np.where(good, pivot, 1.0))
        lower[j, j] = root
        for i in range(j + 1, p):
            lower[i, j] = (matrix[:, i, j] - np.sum(lower[i, :j] * row, axis=0)) / root
        z[j] = (rhs[:, j] - np.sum(row * z[:j], axis=0)) / root
    for j in range(p - 1, -1, -1):
        z[j] = (z[j] - np.sum(lower[j + 1 :, j] * z[j + 1 :], axis=0)) / lower[j, j]
    return z.T.copy(), ok


def _modified_step(hessian: FloatArray, gradient: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Newton step with the Hessian's eigenvalues made positive (after scaling to unit diagonal).

    Returns the steps (b, p) and the decrease (b,) that the modified quadratic model predicts.
    """
    diagonal = np.abs(np.diagonal(hessian, axis1=1, axis2=2))
    scale = 1.0 / np.sqrt(np.maximum(diagonal, 1e-300))
    scaled = hessian * scale[:, :, None] * scale[:, None, :]
    eigenvalues, vectors = np.linalg.eigh(scaled)
    eigenvalues = np.maximum(np.abs(eigenvalues), 1e-6)
    rotated = np.einsum("bij,bi->bj", vectors, gradient * scale)
    step = -np.einsum("bij,bj->bi", vectors, rotated / eigenvalues) * scale
    predicted: FloatArray = 0.5 * np.sum(rotated**2 / eigenvalues, axis=1)
    return step, predicted


def _step(
    hessian: FloatArray, gradient: FloatArray, room: FloatArray | None
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Minimise the quadratic model, the last parameter kept above its bound.

    ``room`` (b,) is the (non-positive) distance from the last parameter to its lower bound.
    Returns step (b, p), predicted decrease (b,), and whether the Hessian that matters was
    positive definite.
    """
    solution, definite = solve_positive_definite(hessian, gradient)
    step = -solution
    predicted = -0.5 * np.einsum("bi,bi->b", gradient, step)
    bad = ~definite
    if bad.any():
        step[bad], predicted[bad] = _modified_step(hessian[bad], gradient[bad])
    if room is None:
        return step, predicted, definite
    crosses = np.flatnonzero(step[:, -1] < room)
    if crosses.size:
        # With one bounded parameter the constrained minimum has it on the bound
        # and the others at the minimum given that.
        last = room[crosses]
        coupling = hessian[crosses, :-1, -1]
        inner = gradient[crosses, :-1] + coupling * last[:, None]
        inner_hessian = hessian[crosses, :-1, :-1]
        solution, definite_inner = solve_positive_definite(inner_hessian, inner)
        others = -solution
        bad = ~definite_inner
        if bad.any():
            others[bad], _ = _modified_step(inner_hessian[bad], inner[bad])
        bounded = np.concatenate([others, last[:, None]], axis=1)
        step[crosses] = bounded
        curvature = np.einsum("bi,bij,bj->b", bounded, hessian[crosses], bounded)
        slope = np.einsum("bi,bi->b", gradient[crosses], bounded)
        predicted[crosses] = np.where(
            definite_inner & (slope < 0), -(slope + 0.5 * curvature), np.abs(slope)
        )
        definite[crosses] = definite_inner
    return step, predicted, definite


def minimise(
    evaluate: Evaluate,
    start: FloatArray,
    *,
    lower_bound_of_last: float | None = None,
    runs_away: Callable[[FloatArray, IntArray], NDArray[np.bool_]] | None = None,
    first_length: FirstLength | None = None,
    tolerance: float = 1e-7,
    max_iterations: int = 60,
    max_halvings: int = 30,
) -> NewtonResult:
    """Minimise a batch of functions f = -2 log-likelihood by Newton's method with a line search.

    Converged means that the decrease of f which the quadratic model still predicts,
    g'H⁻¹g/2 = ‖x - x*‖² in units of the standard error, is below ``tolerance**2``. That
    last step is taken too, which leaves an error of the order of its square.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(x, rows)`` with ``x`` (k, p) and ``rows`` (k,), the indices of the problems
        in the batch, returns values (k,), gradients (k, p) and Hessians (k, p, p). Values that
        are not finite mean that a point can't be evaluated; the step is then shortened.
    start : (b, p) float64
        Start values.
    lower_bound_of_last : float, optional
        Lower bound of the last parameter.
    first_length : callable, optional
        ``first_length(step, rows)``, (k, p) and (k,) to (k,): the share of each Newton step with
        which the line search begins if it is below 1. Where f flattens out towards infinity
        steps are too long by many powers of ten, and halving alone does not bring them back.
    runs_away : callable, optional
        ``runs_away(x, rows)`` says which problems to give up, (k,) bool; they count as having
        reached the iteration limit.
    tolerance : float
        Distance to the optimum at which to stop, in standard errors.
    max_iterations : int
        Newton steps at the most.
    max_halvings : int
        Halvings of a step at the most.

    Returns
    -------
    NewtonResult
        One row per problem, with the reason why its iteration ended.
    """
    tolerance = number("tolerance", tolerance, above=0.0)
    whole_number("max_iterations", max_iterations, least=0)
    x = np.array(start, dtype=np.float64)
    b = len(x)
    rows = np.arange(b)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        value, gradient, hessian = evaluate(x, rows)
        convergence = np.full(b, int(Convergence.ITERATION_LIMIT), dtype=np.int64)
        n_iterations = np.ones(b, dtype=np.int64)
        finite = _finite(value, gradient, hessian)
        convergence[~finite] = Convergence.NOT_FINITE
        active = np.flatnonzero(finite)

        for _ in range(max_iterations):
            if not active.size:
                break
            room = None
            if lower_bound_of_last is not None:
                room = lower_bound_of_last - x[active, -1]
            step, predicted, definite = _step(hessian[active], gradient[active], room)
            close = predicted <= tolerance**2
            done = active[close]
            if done.size:
                x[done] += step[close]
                if lower_bound_of_last is not None:
                    x[done, -1] = np.maximum(x[done, -1], lower_bound_of_last)
                value[done] -= predicted[close]
                convergence[done] = np.where(
                    definite[close], Convergence.CONVERGED, Convergence.SADDLE_POINT
                )
                keep = ~close
                active, step, predicted = active[keep], step[keep], predicted[keep]
                if not active.size:
                    break

            length = np.ones(active.size)
            if first_length is not None:
                length = np.fmin(length, first_length(step, active))
            searching = np.arange(active.size)
            accepted = np.zeros(active.size, dtype=bool)
            for _ in range(max_halvings):
                index = active[searching]
                trial = x[index] + length[searching, None] * step[searching]
                if lower_bound_of_last is not None:
                    trial[:, -1] = np.maximum(trial[:, -1], lower_bound_of_last)
                new_value, new_gradient, new_hessian = evaluate(trial, index)
                n_iterations[index] += 1
                slack = _ROUNDING * (1.0 + np.abs(value[index]))
                target = value[index] - _SUFFICIENT_DECREASE * (
                    length[searching] * predicted[searching]
                )
                good = (new_value <= target + slack) & _finite(new_value, new_gradient, new_hessian)
                taken = index[good]
                x[taken] = trial[good]
                value[taken] = new_value[good]
                gradient[taken] = new_gradient[good]
                hessian[taken] = new_hessian[good]
                accepted[searching[good]] = True
                searching = searching[~good]
                if not searching.size:
                    break
                length[searching] *= 0.5
            convergence[active[~accepted]] = Convergence.LINE_SEARCH_FAILED
            active = active[accepted]
            if runs_away is not None and active.size:
                active = active[~runs_away(x[active], active)]

    return NewtonResult(x, value, gradient, hessian, n_iterations, convergence)


def _finite(value: FloatArray, gradient: FloatArray, hessian: FloatArray) -> NDArray[np.bool_]:
    flat = hessian.reshape(len(value), -1)
    # A sum is finite only if every term is, and costs one pass.
    return np.asarray(np.isfinite(value + gradient.sum(axis=1) + flat.sum(axis=1)))
