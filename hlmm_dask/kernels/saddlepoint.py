"""Tails of a score whose genotypes are random and whose residuals are fixed, by saddlepoint.

U = Σ f_i (k_i - k̄), the k_i independent draws from the variant's own genotype frequencies q,
f the samples' shares in the score (residuals for the mean, squared ones for the variance).
With M(x) = Σ_k q_k e^{kx} the cumulants are those of K(t) = Σ_i log M(t f_i) - t k̄ Σ f_i. A tail is
Φ(-r*), r* = w + log(v/w)/w (Barndorff-Nielsen's form of Lugannani and Rice), with t such that
K'(t) = u, w² = 2 (t u - K(t)) and v = t K''(t)^½: r* keeps its digits however small p is.
"""

from typing import Any

import numpy as np

from hlmm_dask.kernels.compiled import compiled, compiled_part

# The machine code of loops in other modules that call these is kept by their own modules' time of
# change alone: touch `score_loops` and `score_null_loops` after a change here.

# Steps to the root; it takes four or five.
_STEPS = 60


@compiled_part(error_model="numpy")
def _sums(
    f: Any, weight: Any, size: Any, q: Any, top: Any, t: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Write K'(t) and K''(t) to out[:2]; K'(t) less its last term, -k̄ Σ weight f."""
    q0, q1, q2 = q[0], q[1], q[2]
    first = second = 0.0
    for i in range(size):
        x = t * f[i]
        # Of the two ends of the genotypes the likelier one is taken out: nothing overflows.
        if x <= 0.0:
            y = np.exp(x)
            a, b, c = q0, q1 * y, q2 * y * y
        else:
            y = np.exp(-x)
            if top == 2:
                a, b, c = q0 * y * y, q1 * y, q2
            else:
                a, b, c = q0 * y, q1, 0.0
        inverse = 1.0 / (a + b + c)
        mean = (b + 2.0 * c) * inverse
        share = weight[i] * f[i]
        first += share * mean
        second += share * f[i] * ((b + 4.0 * c) * inverse - mean * mean)
    out[0] = first
    out[1] = second


@compiled_part(error_model="numpy")
def _cumulant(
    f: Any, weight: Any, size: Any, q: Any, top: Any, t: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Write Σ weight log M(t f) to out[0]."""
    q0, q1, q2 = q[0], q[1], q[2]
    total = 0.0
    for i in range(size):
        x = t * f[i]
        if x <= 0.0:
            y = np.exp(x)
            total += weight[i] * np.log(q0 + q1 * y + q2 * y * y)
        else:
            y = np.exp(-x)
            if top == 2:
                total += weight[i] * (2.0 * x + np.log(q2 + q1 * y + q0 * y * y))
            else:
                total += weight[i] * (x + np.log(q1 + q0 * y))
    out[0] = total


@compiled_part(error_model="numpy")
def _tail(
    f: Any, weight: Any, size: Any, q: Any, u: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Write r* of P(U ≥ u) to out[0], u in standard deviations of U and above zero.

    Parameters
    ----------
    f, weight : (size,) float64
        Shares of the samples in the score, and how many samples each of them stands for.
    q : (3,) float64
        Frequencies of the genotypes 0, 1, 2, the first of them above zero.
    u : float
        The score in units of its standard deviation.
    out : (3,) float64
        The first is infinite where U can't be as large as u, and NaN where nothing converged.
    """
    mean = q[1] + 2.0 * q[2]
    variance = q[1] + 4.0 * q[2] - mean * mean
    third = q[1] * (1.0 - mean) ** 3 + q[2] * (2.0 - mean) ** 3 - q[0] * mean**3
    top = 2 if q[2] > 0.0 else 1
    total = squares = cubes = 0.0
    for i in range(size):
        part = weight[i] * f[i]
        total += part
        part *= f[i]
        squares += part
        cubes += part * f[i]
    scale = np.sqrt(variance * squares)
    target = u * scale
    skew = third * cubes / scale**3
    # The root of the cumulants' first two terms.
    inside = 1.0 + 2.0 * skew * u
    t = 2.0 * u / (1.0 + np.sqrt(max(inside, 0.25))) / scale
    low, high = 0.0, np.inf
    out[0] = np.nan
    for _ in range(_STEPS):
        _sums(f, weight, size, q, top, t, out)
        missing = target - (out[0] - mean * total)
        curvature = out[1]
        out[0] = np.nan
        if curvature * t * t < 1e-12:
            # All samples have the genotype that makes U largest.
            if missing > 0.0:
                out[0] = np.inf
                return
            high = t
            t = 0.5 * (low + high)
            continue
        step = missing / curvature
        if step * step * curvature < 1e-10:
            _cumulant(f, weight, size, q, top, t, out)
            # The maximum of t u - K(t) to the third order of what is missing.
            square = 2.0 * (t * target - (out[0] - t * mean * total)) + step * missing
            w = np.sqrt(max(square, 0.0))
            v = (t + step) * np.sqrt(curvature)
            out[0] = w + np.log(v / w) / w if w > 1e-3 else w
            return
        if missing > 0.0:
            low = t
        else:
            high = t
        t += step
        if not low < t < high:
            t = 0.5 * (low + high) if high < np.inf else 4.0 * low
        elif high == np.inf and t > 4.0 * low:
            t = 4.0 * low


@compiled_part(error_model="numpy")
def _both_tails(
    f: Any, weight: Any, size: Any, q: Any, u: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Do what ``both_tails`` says, as a part of other loops."""
    _tail(f, weight, size, q, abs(u), out)
    upper = out[0]
    for i in range(size):
        f[i] = -f[i]
    _tail(f, weight, size, q, abs(u), out)
    for i in range(size):
        f[i] = -f[i]
    out[1] = out[0]
    out[0] = upper


@compiled(error_model="numpy")
def both_tails(
    f: Any, weight: Any, size: Any, q: Any, u: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Write r* of P(U ≥ |u|) and of P(U ≤ -|u|) to out[:2] (3,); f keeps its values."""
    _both_tails(f, weight, size, q, u, out)


@compiled_part(error_model="numpy")
def score_tails(
    u: Any, v0: Any, v: Any, weight: Any, size: Any, q: Any, at: Any, wanted: Any, f: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Tails of the scores of one variant.

    Parameters
    ----------
    u, v0, v, weight : (size,) float64
        Shares in the score of the mean, in that of the variance, in the latter after the variant's
        own effect on the mean, and how many samples each stands for.
    q : (3,) float64
        Frequencies of the genotypes, from the lowest that occurs.
    at : (14,) float64
        From the seventh on: scores of the mean and, by v, of the variance, coefficients of u and v0
        in the joint score, that score, the coefficient of u in the part of it that the mean has
        none in, and the score of the variance by v0.
    wanted : (5,) bool
        Which of them: mean, variance by v0 and by v, joint, and that part.
    f : (size,) float64
        Overwritten.
    out : (9,) float64
        r* of upper and lower tail of the mean, of the variance by v0 and by v, the joint score's,
        and both of that part.
    """
    found = np.empty(3)
    if wanted[0]:
        _both_tails(u, weight, size, q, at[7], found)
        out[0], out[1] = found[0], found[1]
    if wanted[1]:
        _both_tails(v0, weight, size, q, at[13], found)
        out[2], out[3] = found[0], found[1]
    if wanted[2]:
        _both_tails(v, weight, size, q, at[8], found)
        out[4], out[5] = found[0], found[1]
    if wanted[3]:
        for i in range(size):
            f[i] = at[9] * u[i] + at[10] * v0[i]
        _tail(f, weight, size, q, at[11], found)
        out[6] = found[0]
    if wanted[4]:
        for i in range(size):
            f[i] = at[12] * u[i] + at[10] * v0[i]
        _both_tails(f, weight, size, q, np.sqrt(at[11] * at[11] - at[7] * at[7]), found)
        out[7], out[8] = found[0], found[1]
