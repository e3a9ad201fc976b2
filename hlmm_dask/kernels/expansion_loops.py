"""Compiled loops that expand the distribution of a score about the normal one.

A score is U = Σ f_i (k_i - k̄), f the samples' shares, k_i independent draws from the variant's own
genotype frequencies, x what it is in standard deviations, κ3 κ4 κ5 its standardised cumulants.

In the tails, Cornish and Fisher's normal deviate of x to the third order

    w = x - κ3 (x² - 1)/6 - κ4 (x³ - 3x)/24 + κ3² (4x³ - 7x)/36
        - κ5 (x⁴ - 6x² + 3)/120 + κ3 κ4 (11x⁴ - 42x² + 15)/144 - κ3³ (69x⁴ - 187x² + 52)/648

where the last order hardly counts; elsewhere the tail is left to the saddlepoint. In the centre,
where it is the sum of both tails that counts, Edgeworth's series (Cornish & Fisher 1938; Hall 1992,
chapter 2). The few samples that make U far from normal are taken with each of their genotypes, in
the centre and in the tails: with them U is a mixture, for which a saddlepoint does not serve.
"""

import math
from typing import Any

import numpy as np

from hlmm_dask.kernels.compiled import compiled, compiled_part

# What the third order may change of log p, and of its square root for each standard deviation, for
# the tail to be taken from it.
_THIRD, _THIRD_FAR = 0.02, 0.002
# How large x κ3 and x² κ4 may be for that.
_SKEW, _KURTOSIS = 0.6, 1.0
# Edgeworth's terms are of use below these cumulants.
_MOST_SKEW, _MOST_KURTOSIS = 0.8, 2.0
# Share of a p-value that may be known by an upper bound alone; the least one that is told.
_DOUBTFUL, _LEAST = 0.02, 1e-280
# A p-value of the centre that is so much smaller than the normal one is not believed.
_TOO_SMALL = 0.01
# Above this score of the mean, the variance has a score without the variant's effect on it.
OWN_EFFECT = 2.0
# How near a variant's sums of squares must be to those of all samples, whose cumulants are used.
_NEAR, _CALLED = 0.1, 0.9


@compiled_part(error_model="numpy")
def _deviate(x: Any, k3: Any, k4: Any, k5: Any) -> Any:  # pragma: no cover - compiled
    """Give w."""
    x2 = x * x
    x4 = x2 * x2
    return (
        x - k3 * (x2 - 1.0) / 6.0 - k4 * x * (x2 - 3.0) / 24.0
        + k3 * k3 * x * (4.0 * x2 - 7.0) / 36.0 - k5 * (x4 - 6.0 * x2 + 3.0) / 120.0
        + k3 * k4 * (11.0 * x4 - 42.0 * x2 + 15.0) / 144.0
        - k3**3 * (69.0 * x4 - 187.0 * x2 + 52.0) / 648.0
    )  # fmt: skip


@compiled_part(error_model="numpy")
def _upper(x: Any, k3: Any, k4: Any) -> Any:  # pragma: no cover - compiled
    """P(U > x) by Edgeworth's series to the second order."""
    x2 = x * x
    terms = (
        k3 * (x2 - 1.0) / 6.0 + k4 * x * (x2 - 3.0) / 24.0
        + k3 * k3 * x * (x2 * x2 - 10.0 * x2 + 15.0) / 72.0
    )  # fmt: skip
    return 0.5 * math.erfc(x * math.sqrt(0.5)) + terms * math.exp(-0.5 * x2) / math.sqrt(
        2.0 * math.pi
    )


@compiled_part(error_model="numpy")
def _powers(rest: Any, a: Any, b: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Write Σ f .. Σ f⁵ of the samples that are not kept to out (5,), f = a u + b v."""
    for order in range(1, 6):
        if b == 0.0:
            out[order - 1] = a**order * rest[order, 0]
        elif a == 0.0:
            out[order - 1] = b**order * rest[0, order]
        else:
            # The binomial's terms, from a^order on.
            term, total = a**order, 0.0
            for i in range(order, -1, -1):
                total += term * rest[i, order - i]
                term *= b / a * i / (order - i + 1.0)
            out[order - 1] = total


@compiled_part(error_model="numpy")
def _about_mean(raw: Any, n: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Write Σ (f - f̄)² .. Σ (f - f̄)⁵ of n samples to out (4,), from Σ f .. Σ f⁵."""
    s1, s2, s3, s4, s5 = raw[0], raw[1], raw[2], raw[3], raw[4]
    m = s1 / n
    out[0] = s2 - m * s1
    out[1] = s3 - m * (3.0 * s2 - 2.0 * m * s1)
    out[2] = s4 - m * (4.0 * s3 - m * (6.0 * s2 - 3.0 * m * s1))
    out[3] = s5 - m * (5.0 * s4 - m * (10.0 * s3 - m * (10.0 * s2 - 4.0 * m * s1)))


@compiled_part(error_model="numpy")
def _furthest(x: Any, k3: Any, k4: Any, k5: Any) -> Any:  # pragma: no cover - compiled
    """Give x, or the lower point up to which w serves."""
    if abs(k3) > 0.0:
        x = min(x, _SKEW / abs(k3))
    if abs(k4) > 0.0:
        x = min(x, math.sqrt(_KURTOSIS / abs(k4)))
    # What is highest in x: the terms have roots.
    third = abs(k5 / 120.0 - 11.0 * k3 * k4 / 144.0 + 69.0 * k3**3 / 648.0)
    if third > 0.0:
        x = min(x, max((_THIRD / third) ** 0.2, (_THIRD_FAR / third) ** (1.0 / 3.0)))
    return x


@compiled_part(error_model="numpy")
def _both_tails(
    x: Any, squares: Any, f: Any, n_kept: Any, share: Any, about: Any, q: Any, of_g: Any,
    centre: Any,
) -> Any:  # pragma: no cover - compiled  # fmt: skip
    """P(|U| ≥ |x|) from each genotype of the kept samples, NaN where the expansion fails.

    ``squares`` is Σ (f - f̄)² of all samples. Shares f (n_kept,) of the kept samples and the sums
    (4,) of powers of the other ones are about the mean of the latter: as Σ (k_i - k̄) = 0, U is the
    same.
    ``centre`` tells whether the others have Edgeworth's series or w.
    """
    mean, variance = of_g[0], of_g[1]
    sd = math.sqrt(variance * share * about[0])
    u = abs(x) * math.sqrt(variance * squares)
    k3 = of_g[2] * share * about[1] / sd**3
    k4 = of_g[3] * share * about[2] / sd**4
    k5 = of_g[4] * share * about[3] / sd**5
    if centre and (abs(k3) > _MOST_SKEW or abs(k4) > _MOST_KURTOSIS):
        k3 = k4 = 0.0
    p = doubtful = 0.0
    for choice in range(3**n_kept):
        chance, shift, digits = 1.0, 0.0, choice
        for k in range(n_kept):
            copies = digits % 3
            digits //= 3
            chance *= q[copies]
            shift += f[k] * (copies - mean)
        if chance == 0.0:
            continue
        for sign in (1.0, -1.0):
            y = (u - sign * shift) / sd
            if centre:
                p += chance * _upper(y, sign * k3, k4)
                continue
            side = sign if y >= 0.0 else -sign
            far = _furthest(abs(y), k3, k4, k5)
            tail = 0.5 * math.erfc(_deviate(far, side * k3, k4, side * k5) * math.sqrt(0.5))
            if far < abs(y):
                # It falls half as fast from there as a normal one: an upper bound.
                tail *= math.exp(-0.5 * far * (abs(y) - far))
                doubtful += chance * tail
            p += chance * (tail if y >= 0.0 else 1.0 - tail)
    # A series may fail, and then says nothing.
    return min(p, 1.0) if p > _LEAST and doubtful <= _DOUBTFUL * p else np.nan


@compiled(error_model="numpy")
def expand(
    at: Any, q: Any, n: Any, rest: Any, kept: Any, called: Any, most: Any, wanted: Any, out: Any,
) -> None:  # pragma: no cover - compiled  # fmt: skip
    """Expand the scores of variants.

    Parameters
    ----------
    at : (m, 14) or (m, 15) float64
        Samples with a call (3), sums of squares of v after the variant's own effect (5) and of u
        (6); from the seventh on as for `hlmm_dask.kernels.saddlepoint.score_tails`.
    q : (m, 3) float64
        Frequencies of the genotypes, from the lowest that occurs.
    n, rest, kept
        Of a `ScoreMoments`.
    called : (m, k) bool
        Whether the kept samples have a call.
    most : float
        Scores up to this are in the centre.
    wanted : (m, 5) bool
        Which tails, see `score_tails`; made false where they were found.
    out : (m, 13) float64
        Filled: r* as by `score_tails`; -log10 p of mean, v0, v, and of the joint score's part that
        the mean has none in, in the centre. That of v, which changes with the genotypes, is as if
        it were v0.
    """
    n_kept = kept.shape[1]
    raw, about, sums, of_g, f = np.empty(5), np.empty(4), np.empty(4), np.empty(5), np.empty(n_kept)
    # Of two degrees of freedom what has the p-value of ``most``.
    most_joint = math.sqrt(-2.0 * math.log(math.erfc(most * math.sqrt(0.5))))
    for j in range(at.shape[0]):
        q1, q2 = q[j, 1], q[j, 2]
        mean = q1 + 2.0 * q2
        d0, d1, d2 = -mean, 1.0 - mean, 2.0 - mean
        p0, p1, p2 = q[j, 0] * d0 * d0, q1 * d1 * d1, q2 * d2 * d2
        variance = p0 + p1 + p2
        third = p0 * d0 + p1 * d1 + p2 * d2
        of_g[0], of_g[1], of_g[2] = mean, variance, third
        of_g[3] = p0 * d0 * d0 + p1 * d1 * d1 + p2 * d2 * d2 - 3.0 * variance * variance
        of_g[4] = p0 * d0**3 + p1 * d1**3 + p2 * d2**3 - 10.0 * third * variance
        n_called = 0
        for k in range(n_kept):
            n_called += called[j, k]
        share = (at[j, 3] - n_called) / (n - n_kept)
        for kind in range(5):
            # Mean, v0, v, joint, and the part of it that the mean has none in.
            if kind == 0:
                a, b, x = 1.0, 0.0, at[j, 7]
            elif kind == 1:
                a, b, x = 0.0, 1.0, at[j, 13]
            elif kind == 2:
                a, b, x = 0.0, 1.0, at[j, 8]
            elif kind == 3:
                a, b, x = at[j, 9], at[j, 10], at[j, 11]
            else:
                a, b = at[j, 12], at[j, 10]
                x = math.sqrt(max(at[j, 11] * at[j, 11] - at[j, 7] * at[j, 7], 0.0))
            x = abs(x)
            if kind == 4:
                centre = at[j, 11] <= most_joint and b != 0.0
            else:
                centre = x <= most and (kind < 2 or (kind == 2 and abs(at[j, 7]) > OWN_EFFECT))
            if not (centre or wanted[j, kind]):
                continue
            _powers(rest, a, b, raw)
            size, total = 0, share * raw[0]
            for order in range(4):
                sums[order] = share * raw[order + 1]
            for k in range(n_kept):
                if called[j, k]:
                    own = a * kept[0, k] + b * kept[1, k]
                    f[size] = own - raw[0] / (n - n_kept)
                    total += own
                    size += 1
                    for order in range(4):
                        sums[order] += own ** (order + 2)
            own = at[j, 5] if kind == 2 else at[j, 6]
            near = kind not in (0, 2) or abs(own / sums[0] - 1.0) < _NEAR
            if centre or (near and kind < 3 and n_called and share > _CALLED):
                _about_mean(raw, n - n_kept, about)
                # Scores are in standard deviations about the mean of the samples with a call.
                squares = sums[0] - total * total / at[j, 3]
                p = _both_tails(x, squares, f, size, share, about, q[j], of_g, centre)
                if not centre:
                    wanted[j, kind] = not p > 0.0
                elif p < _TOO_SMALL * math.erfc(x * math.sqrt(0.5)):
                    p = np.nan
                out[j, 9 + min(kind, 3)] = -math.log10(p)
                continue
            if not near:
                continue
            sd = math.sqrt(variance * sums[0])
            k3 = of_g[2] * sums[1] / sd**3
            k4 = of_g[3] * sums[2] / sd**4
            k5 = of_g[4] * sums[3] / sd**5
            if share > _CALLED and x <= _furthest(x, k3, k4, k5):
                # The joint score has one tail alone.
                column = 2 * kind if kind < 4 else 7
                out[j, column] = _deviate(x, k3, k4, k5)
                if kind != 3:
                    out[j, column + 1] = _deviate(x, -k3, k4, -k5)
                wanted[j, kind] = False
