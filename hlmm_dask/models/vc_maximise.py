"""Maximisers of a likelihood of variance components: steps that never lower it, none below zero."""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from scipy import linalg

from hlmm_dask.arguments import choice, number, whole_number
from hlmm_dask.models.vc_effects import FloatArray

if TYPE_CHECKING:
    from hlmm_dask.models.variance_components import VarianceComponents, VCState

Maximiser = Literal["average", "fisher", "newton", "em", "grid"]
Status = Literal["converged", "iteration_limit", "no_ascent"]

_SCORING_STEPS = 3
# Scoring may overshoot time and again where data and expectation differ, EM creeps.
_LIMITS = {"fisher": 1000, "em": 20_000}
_HALVINGS = 40
# A rise below this share of the log-likelihood drowns in its rounding.
_ROUNDING = 1e-13
_GRID_POINTS = 7
_GRID_PRECISION = 1e-6


@dataclass(frozen=True)
class Iteration:
    """One line of the trace.

    Attributes
    ----------
    number : int
        0 is the start.
    loglik : float
        Log-likelihood after it.
    components : (c,) float64
        Components after it.
    length : float
        Share of the maximiser's step that was taken.
    """

    number: int
    loglik: float
    components: FloatArray
    length: float


@dataclass(frozen=True)
class Maximum:
    """Outcome of :func:`maximise`.

    Attributes
    ----------
    state : VCState
        The model at the estimates.
    loglik : float
        Its log-likelihood.
    maximiser : str
        How it was found.
    status : {"converged", "iteration_limit", "no_ascent"}
        Why the iteration ended; ``no_ascent``: no part of the step raised the likelihood.
    trace : tuple of Iteration
        The way there.
    """

    state: "VCState"
    loglik: float
    maximiser: Maximiser
    status: Status
    trace: tuple[Iteration, ...]


def maximise(
    model: "VarianceComponents",
    start: FloatArray,
    maximiser: Maximiser,
    *,
    reml: bool,
    max_iterations: int | None,
    tolerance: float,
    verbose: bool,
) -> Maximum:
    """Maximise the log-likelihood over the components, from ``start`` on.

    Options are those of ``VarianceComponents.fit``.
    """
    maximiser = choice("maximiser", maximiser, get_args(Maximiser))
    tolerance = number("tolerance", tolerance, above=0.0)
    limit = _LIMITS.get(maximiser, 100)
    if max_iterations is not None:
        limit = whole_number("max_iterations", max_iterations, least=0)
    state = model.state(start)
    if state is None or not np.all(np.isfinite(start)):
        raise ValueError(
            f"start {start}: components must be finite and not negative, and their covariance "
            "positive definite"
        )
    trace: list[Iteration] = []

    def note(state: "VCState", loglik: float, length: float) -> None:
        trace.append(Iteration(len(trace), loglik, state.components, length))
        if verbose:
            listed = " ".join(f"{value:.6g}" for value in state.components)
            print(f"{len(trace) - 1:5d} {loglik:.8f} {listed}", file=sys.stderr)

    search = _zoom if maximiser == "grid" else _climb
    state, status = search(model, state, maximiser, reml, limit, tolerance, note)
    return Maximum(state, model.loglik_of(state, reml=reml), maximiser, status, tuple(trace))


Note = Callable[["VCState", float, float], None]


def _climb(
    model: "VarianceComponents",
    state: "VCState",
    maximiser: Maximiser,
    reml: bool,
    limit: int,
    tolerance: float,
    note: Note,
) -> tuple["VCState", Status]:
    loglik = model.loglik_of(state, reml=reml)
    note(state, loglik, 0.0)
    for iteration in range(limit + 1):
        v = state.components
        score = model.score(state, reml=reml)
        # What is left to go is measured in the same way for every maximiser.
        average = _direction(v, score, model.information(state, "average", reml=reml))
        left = np.max(np.abs(np.maximum(v + average, 0.0) - v)) / v.sum()
        if left <= tolerance:
            return state, "converged"
        if iteration == limit:
            break
        step = average
        if maximiser in ("fisher", "newton"):
            step = _scored(model, state, score, reml, maximiser == "newton", iteration)
        elif maximiser == "em":
            state, loglik = _drop(model, state, loglik, average, reml)
            if state.components is not v:
                note(state, loglik, 1.0)
                continue
            sizes = np.array([min(e.n_effects, model.n_samples) for e in model.effects])
            # EM can't move a component off zero.
            step = np.where(v > 0, 2.0 * v**2 * score / sizes, average)
        found = _ascend(model, state, loglik, step, score, reml)
        if found is None:
            return state, "no_ascent"
        state, loglik, length = found
        note(state, loglik, length)
    return state, "iteration_limit"


def _scored(
    model: "VarianceComponents",
    state: "VCState",
    score: FloatArray,
    reml: bool,
    newton: bool,
    number: int,
) -> FloatArray:
    """Step of Fisher scoring, or Newton's where it is one that climbs."""
    expected = model.information(state, "expected", reml=reml)
    if newton and number >= _SCORING_STEPS:
        observed = 2.0 * model.information(state, "average") - expected
        active = (state.components > 0) | (score > 0)
        if np.linalg.eigvalsh(observed[np.ix_(active, active)])[0] > 0:
            return _direction(state.components, score, observed)
    return _direction(state.components, score, expected)


def _direction(v: FloatArray, score: FloatArray, information: FloatArray) -> FloatArray:
    """Newton step of the components that may move: none at zero goes below it."""
    free = (v > 0) | (score > 0)
    while True:
        step = np.zeros(len(v))
        if free.any():
            step[free] = _solve(information[np.ix_(free, free)], score[free])
        stuck = free & (v == 0) & (step < 0)
        if not stuck.any():
            return step
        free &= ~stuck


def _solve(information: FloatArray, score: FloatArray) -> FloatArray:
    scale = 1.0 / np.sqrt(np.maximum(np.diagonal(information), 1e-300))
    scaled = information * np.outer(scale, scale)
    try:
        factor = linalg.cho_factor(scaled)
    except linalg.LinAlgError:
        value, vectors = np.linalg.eigh(scaled)
        rotated = vectors.T @ (score * scale) / np.maximum(np.abs(value), 1e-10)
        return np.asarray(scale * (vectors @ rotated))
    return np.asarray(scale * linalg.cho_solve(factor, score * scale))


def _ascend(
    model: "VarianceComponents",
    state: "VCState",
    loglik: float,
    step: FloatArray,
    score: FloatArray,
    reml: bool,
) -> tuple["VCState", float, float] | None:
    """Take the step, or half of it, or a quarter, ..., so that the log-likelihood doesn't fall."""
    slack = _ROUNDING * (1.0 + abs(loglik))
    length = 1.0
    for _ in range(_HALVINGS):
        moved = np.maximum(state.components + length * step, 0.0)
        new = model.state(moved) if moved.any() else None
        if new is not None:
            value = model.loglik_of(new, reml=reml)
            if value >= loglik:
                return new, value, length
            if value >= loglik - slack and abs(score @ (moved - state.components)) <= slack:
                return new, value, length
        length *= 0.5
    return None


def _drop(
    model: "VarianceComponents",
    state: "VCState",
    loglik: float,
    average: FloatArray,
    reml: bool,
) -> tuple["VCState", float]:
    """Set to zero what average information would, if the likelihood rises: EM only comes close."""
    v = state.components
    zeroed = (v > 0) & (v + average <= 0)
    if zeroed.any() and not zeroed.all():
        new = model.state(np.where(zeroed, 0.0, v))
        if new is not None and (value := model.loglik_of(new, reml=reml)) >= loglik:
            return new, value
    return state, loglik


def _zoom(
    model: "VarianceComponents",
    state: "VCState",
    maximiser: Maximiser,
    reml: bool,
    limit: int,
    tolerance: float,
    note: Note,
) -> tuple["VCState", Status]:
    """Best of a grid over the proportions, then of finer ones about it; the total is profiled."""
    n, p = model.X.shape
    c = model.n_components
    freedom = n - p if reml else n

    def at(proportions: FloatArray) -> tuple[float, FloatArray]:
        shape = model.state(proportions)
        if shape is None:
            return -np.inf, proportions
        total = shape.ypy / freedom
        # Scaled by t, Σ gains n log t and XᵀΣ⁻¹X loses p log t.
        value = model.loglik_of(shape, reml=reml)
        return value + 0.5 * (shape.ypy - freedom - freedom * np.log(total)), total * proportions

    centre = state.components / state.components.sum()
    found, (best, components) = state, at(centre)
    note(state, model.loglik_of(state, reml=reml), 0.0)
    half = 0.5
    middle = np.full(c - 1, 0.5)
    for _ in range(limit):
        ticks = np.linspace(-half, half, _GRID_POINTS)
        chosen = centre
        for offset in itertools.product(ticks, repeat=c - 1):
            first = np.clip(middle + offset, 0.0, 1.0)
            if first.sum() <= 1.0 + 1e-15:
                candidate = np.append(first, max(0.0, 1.0 - first.sum()))
                value, scaled = at(candidate)
                if value > best:
                    best, components, chosen = value, scaled, candidate
        inside = np.all(np.abs(chosen[:-1] - middle) < half * (1.0 - 1e-9))
        centre, middle = chosen, chosen[:-1]
        found = model.state(components) or found
        note(found, best, half)
        if inside or half < 0.5**60:
            half *= 0.5
        if half <= max(tolerance, _GRID_PRECISION):
            return found, "converged"
    return found, "iteration_limit"
