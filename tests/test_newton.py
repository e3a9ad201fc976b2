"""Newton's method on batches, where it can go wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hlmm_dask.models.newton import Convergence, Evaluate, minimise, solve_positive_definite

FloatArray = NDArray[np.float64]
Parts = tuple[FloatArray, FloatArray, FloatArray]


def quadratic(matrix: FloatArray, centre: FloatArray) -> Evaluate:
    def evaluate(x: FloatArray, rows: NDArray[np.int64]) -> Parts:
        d = x - centre
        gradient = d @ matrix
        return 0.5 * np.sum(d * gradient, axis=1), gradient, np.tile(matrix, (len(x), 1, 1))

    return evaluate


def double_well(x: FloatArray, rows: NDArray[np.int64]) -> Parts:
    """(a² - 1)² + b², minima at (±1, 0), saddle point at 0."""
    a, b = x.T
    hessian = np.zeros((len(x), 2, 2))
    hessian[:, 0, 0], hessian[:, 1, 1] = 12 * a**2 - 4, 2
    return (a**2 - 1) ** 2 + b**2, np.stack([4 * a * (a**2 - 1), 2 * b], axis=1), hessian


def log_cosh(x: FloatArray, rows: NDArray[np.int64]) -> Parts:
    """Undamped Newton steps diverge from |x| > 1.1."""
    tanh = np.tanh(x)
    return np.logaddexp(x, -x)[:, 0], tanh, (1.0 - tanh**2)[:, :, None]


def test_quadratic_takes_one_step() -> None:
    matrix = np.array([[4.0, 1.0], [1.0, 3.0]])
    centre = np.array([2.0, -1.0])
    result = minimise(quadratic(matrix, centre), np.array([[10.0, 10.0], [0.0, 0.0]]))
    assert result.converged.all()
    np.testing.assert_allclose(result.x, np.tile(centre, (2, 1)), rtol=1e-14)
    np.testing.assert_allclose(result.value, 0.0, atol=1e-12)
    assert (result.n_iterations == 2).all()


@pytest.mark.parametrize("a", [0.01, -0.3, 0.57, 3.0])
def test_indefinite_start_reaches_the_minimum(a: float) -> None:
    result = minimise(double_well, np.array([[a, 1.0]]))
    assert result.converged.all()
    np.testing.assert_allclose(result.x, [[np.sign(a), 0.0]], atol=1e-9)


def test_saddle_point_is_not_convergence() -> None:
    result = minimise(double_well, np.array([[0.0, 1.0]]))
    assert result.convergence[0] == Convergence.SADDLE_POINT
    assert not result.converged[0]


def test_line_search_damps() -> None:
    result = minimise(log_cosh, np.array([[2.0], [-5.0], [0.3]]))
    assert result.converged.all()
    np.testing.assert_allclose(result.x, 0.0, atol=1e-10)


def test_iteration_limit_is_not_convergence() -> None:
    start = np.array([[2.0]])
    result = minimise(log_cosh, start, max_iterations=1)
    assert result.convergence[0] == Convergence.ITERATION_LIMIT
    assert minimise(log_cosh, start, max_iterations=0).x[0] == 2.0


def test_unbounded_function_does_not_converge() -> None:
    def slope(x: FloatArray, rows: NDArray[np.int64]) -> Parts:
        return -x[:, 0], -np.ones_like(x), np.zeros((len(x), 1, 1))

    result = minimise(slope, np.zeros((1, 1)))
    assert not result.converged[0]
    assert result.x[0, 0] > 1.0


@pytest.mark.parametrize("limited", [False, True])
def test_first_length_brings_long_steps_back(limited: bool) -> None:
    """f = -x with next to no curvature, which can't be evaluated beyond 40."""

    def evaluate(x: FloatArray, rows: NDArray[np.int64]) -> Parts:
        value = np.where(x[:, 0] > 40.0, np.inf, -x[:, 0])
        return value, -np.ones_like(x), np.full((len(x), 1, 1), 1e-16)

    result = minimise(
        evaluate,
        np.zeros((1, 1)),
        first_length=(lambda step, _: 5.0 / np.abs(step[:, 0])) if limited else None,
    )
    assert not result.converged[0]
    assert (result.x[0, 0] > 35.0) == limited


def test_point_that_can_not_be_evaluated() -> None:
    def evaluate(x: FloatArray, rows: NDArray[np.int64]) -> Parts:
        """-log(x) + x, defined for x > 0."""
        value = np.where(x[:, 0] > 0, x[:, 0] - np.log(np.abs(x[:, 0])), np.nan)
        return value, 1.0 - 1.0 / x, (1.0 / x**2)[:, :, None]

    result = minimise(evaluate, np.array([[5.0], [0.1], [-1.0]]))
    assert list(result.convergence[:2]) == [Convergence.CONVERGED] * 2
    np.testing.assert_allclose(result.x[:2], 1.0, rtol=1e-9)
    assert result.convergence[2] == Convergence.NOT_FINITE


def test_batch_of_mixed_outcomes_is_each_alone() -> None:
    start = np.array([[0.5, 1.0], [0.0, 0.0], [-2.0, 3.0], [np.nan, 0.0], [1.0, 0.0]])
    together = minimise(double_well, start)
    for i, row in enumerate(start):
        alone = minimise(double_well, row[None])
        np.testing.assert_array_equal(together.x[i], alone.x[0])
        assert together.convergence[i] == alone.convergence[0]
        assert together.n_iterations[i] == alone.n_iterations[0]
    assert list(together.convergence) == [
        Convergence.CONVERGED,
        Convergence.SADDLE_POINT,
        Convergence.CONVERGED,
        Convergence.NOT_FINITE,
        Convergence.CONVERGED,
    ]


def test_rows_name_the_problems() -> None:
    """Each problem keeps its own index when others have left the batch."""
    centres = np.array([0.0, 3.0, -2.0, 8.0])

    def evaluate(x: FloatArray, rows: NDArray[np.int64]) -> Parts:
        value, gradient, hessian = log_cosh(x - centres[rows, None], rows)
        return value, gradient, hessian

    result = minimise(evaluate, np.array([[0.0], [0.5], [-2.1], [7.0]]))
    assert result.converged.all()
    np.testing.assert_allclose(result.x[:, 0], centres, atol=1e-9)


MATRIX = np.array([[4.0, 1.5], [1.5, 3.0]])


@pytest.mark.parametrize(
    ("centre", "start", "active"),
    [
        ((2.0, 3.0), (0.0, 1.0), False),
        ((2.0, -3.0), (0.0, 1.0), True),
        ((2.0, -3.0), (5.0, 0.5), True),  # starts on the bound
        ((2.0, 3.0), (5.0, 0.5), False),
        ((2.0, 0.5), (5.0, 4.0), True),  # minimum on the bound itself
    ],
)
def test_lower_bound(centre: tuple[float, float], start: tuple[float, float], active: bool) -> None:
    bound = 0.5
    at = np.array(centre)
    result = minimise(quadratic(MATRIX, at), np.array([start]), lower_bound_of_last=bound)
    expected = at.copy()
    if active:
        # The first parameter's minimum with the second on the bound.
        expected = np.array([at[0] - MATRIX[0, 1] / MATRIX[0, 0] * (bound - at[1]), bound])
    assert result.converged.all()
    np.testing.assert_allclose(result.x[0], expected, rtol=1e-12, atol=1e-12)
    assert result.x[0, 1] >= bound


def test_bound_is_left_again() -> None:
    """The first step goes to the bound, the minimum is inside."""

    def evaluate(x: FloatArray, rows: NDArray[np.int64]) -> Parts:
        value, gradient, hessian = log_cosh(x - 0.4, rows)
        return value, gradient, hessian

    result = minimise(evaluate, np.array([[2.5]]), lower_bound_of_last=0.0)
    assert result.converged.all()
    assert result.x[0, 0] == pytest.approx(0.4, abs=1e-9)


def test_indefinite_with_bound() -> None:
    def evaluate(x: FloatArray, rows: NDArray[np.int64]) -> Parts:
        value, gradient, hessian = double_well(x[:, ::-1], rows)
        return value, gradient[:, ::-1], hessian[:, ::-1, ::-1]

    result = minimise(evaluate, np.array([[1.0, 0.1], [1.0, 3.0]]), lower_bound_of_last=0.0)
    assert result.converged.all()
    np.testing.assert_allclose(result.x, [[0.0, 1.0], [0.0, 1.0]], atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 10_000))
def test_solve_positive_definite_is_numpys(p: int, b: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((b, p + 2, p))
    matrix = half.transpose(0, 2, 1) @ half + 0.1 * np.eye(p)
    scale = 10.0 ** rng.integers(-8, 9, (b, p))
    matrix = matrix * scale[:, :, None] * scale[:, None, :]
    rhs = rng.standard_normal((b, p)) * scale
    solution, definite = solve_positive_definite(np.tril(matrix), rhs)
    assert definite.all()
    residual = (matrix @ solution[:, :, None])[:, :, 0] - rhs
    np.testing.assert_allclose(residual / scale, 0.0, atol=1e-9)


@pytest.mark.parametrize(
    "matrix",
    [
        [[1.0, 2.0], [2.0, 1.0]],
        [[0.0, 0.0], [0.0, 1.0]],
        [[-1.0, 0.0], [0.0, 1.0]],
        [[1.0, 1.0], [1.0, 1.0]],
        [[np.nan, 0.0], [0.0, 1.0]],
    ],
)
def test_solve_says_what_is_not_positive_definite(matrix: list[list[float]]) -> None:
    both = np.array([matrix, [[2.0, 1.0], [1.0, 2.0]]])
    solution, definite = solve_positive_definite(both, np.array([[1.0, 0.0], [3.0, 3.0]]))
    assert list(definite) == [False, True]
    np.testing.assert_allclose(solution[1], [1.0, 1.0])
