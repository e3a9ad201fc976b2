"""Compiled loop of permutations: who falls into the small genotype classes."""

from typing import Any

from hlmm_dask.kernels.compiled import compiled


@compiled()
def permuted_sums(
    values: Any, uniform: Any, n_first: int, out: Any
) -> None:  # pragma: no cover - compiled
    """Sum values and squares of samples drawn without replacement, anew for each permutation.

    Only the head of a permutation is made (Fisher and Yates): the rest is one class, whose sum
    comes by difference. Every order from which a draw begins gives the same distribution.

    Parameters
    ----------
    values : (n,) float64
        Shuffled in place.
    uniform : (m, k) float64
        Random numbers in [0, 1).
    n_first : int
        Of the k samples drawn, how many are in the first class.
    out : (m, 2, 2) float64
        Filled with sums over the first class and over the other k - n_first samples; of the
        values, then of their squares, along the last axis.
    """
    n, k = len(values), uniform.shape[1]
    for b in range(len(uniform)):
        out[b] = 0.0
        for i in range(k):
            j = i + int(uniform[b, i] * (n - i))
            values[i], values[j] = values[j], values[i]
            part = 0 if i < n_first else 1
            out[b, part, 0] += values[i]
            out[b, part, 1] += values[i] * values[i]
