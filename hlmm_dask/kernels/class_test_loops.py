"""Compiled passes over the samples: medians of genotype classes, and deviations from a centre."""

from typing import Any

import numpy as np

from hlmm_dask.kernels.compiled import compiled


@compiled()
def medians(codes: Any, y: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Write the median of y (n,) in each class of codes (m, n) to (m, 3), 0 in an empty one."""
    m, n = codes.shape
    members = np.empty((3, n))
    for j in range(m):
        count = np.zeros(3, np.int64)
        for i in range(n):
            k = codes[j, i]
            if k >= 0:
                members[k, count[k]] = y[i]
                count[k] += 1
        for k in range(3):
            out[j, k] = np.median(members[k, : count[k]]) if count[k] else 0.0


@compiled()
def deviations(codes: Any, y: Any, centre: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Sum |y - centre| and its square by class.

    Codes (m, n), y (n,) and centre (m, 3) to out (m, 3, 2).
    """
    m, n = codes.shape
    out[:] = 0.0
    for j in range(m):
        for i in range(n):
            k = codes[j, i]
            if k >= 0:
                away = abs(y[i] - centre[j, k])
                out[j, k, 0] += away
                out[j, k, 1] += away * away
