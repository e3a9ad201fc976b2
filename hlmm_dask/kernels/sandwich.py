"""The robust covariance of a variant's two effects, from sums over samples."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def sandwich(
    a: FloatArray,
    b: FloatArray,
    c: FloatArray,
    mean: FloatArray,
    both: FloatArray,
    spread: FloatArray,
) -> dict[str, FloatArray]:
    """Sandwich standard errors and covariance of α1 and β1 at the maximum, (m,) each.

    The covariance is H⁻¹ M H⁻¹, H the observed information of (α0, α1, β0, β1) and
    M = Σ s_i s_iᵀ; with z = (1, x), Σ x = 0, r = y - μ and w = e^-η a sample's score is

        s = (w r z, ½ (w r² - 1) z).

    Let h = x - Σ w x / Σ w. At the maximum Σ w r z = 0 and Σ (w r² - 1) z = 0,
    so all of H that couples α with β is c = Σ w r x², β0 is by itself, and with

        a = Σ w h²,   b = ½ Σ w r² x²,   d = a b - c²

    the rows of H⁻¹ s for α1 and β1 are

        (b w r h - ½ c (w r² - 1) x) / d     and     (½ a (w r² - 1) x - c w r h) / d.

    Parameters
    ----------
    a, b, c : (m,) float64
        See above.
    mean, both, spread : (m,) float64
        Sums over samples of the square of w r h, of its product with ½ (w r² - 1) x, and of the
        square of that.

    Returns
    -------
    dict
        ``add_robust_se``, ``var_robust_se`` and ``add_var_cov``.
    """
    d = a * b - c * c
    add = b * b * mean - 2.0 * b * c * both + c * c * spread
    var = c * c * mean - 2.0 * a * c * both + a * a * spread
    cov = (a * b + c * c) * both - b * c * mean - a * c * spread
    return {
        "add_robust_se": np.sqrt(np.maximum(add, 0.0)) / d,
        "var_robust_se": np.sqrt(np.maximum(var, 0.0)) / d,
        "add_var_cov": cov / (d * d),
    }
