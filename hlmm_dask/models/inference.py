"""P-values on the -log10 scale, right far beyond the smallest double."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

_LN10 = float(np.log(10.0))


def neg_log10_p_normal(t: ArrayLike) -> NDArray[np.float64]:
    """Two-sided -log10 p of a standard normal statistic, equally of t² as chi-square with 1 df.

    p = 2 Φ(-|t|), from the logarithm of the tail, so that it does not become infinite
    where p is smaller than the smallest double.

    Parameters
    ----------
    t : array_like
        Statistics, any shape.

    Returns
    -------
    float64, same shape
        -log10 p; NaN where ``t`` is NaN.
    """
    log_p = np.log(2.0) + special.log_ndtr(-np.abs(np.asarray(t, dtype=np.float64)))
    return np.asarray(np.maximum(-log_p, 0.0) / _LN10, dtype=np.float64)


def neg_log10_p_t(t: ArrayLike, df: ArrayLike) -> NDArray[np.float64]:
    """Two-sided -log10 p of Student's t, equally of t² as F with 1 and ``df`` degrees of freedom.

    p = I_x(df/2, 1/2) at x = df / (df + t²), the incomplete beta function; where it is smaller
    than the smallest double, its logarithm comes from the continued fraction (DLMF 8.17.22).

    Parameters
    ----------
    t : array_like
        Statistics, any shape.
    df : array_like
        Degrees of freedom, one or as many as statistics.

    Returns
    -------
    float64, same shape
        -log10 p; NaN where ``t`` is NaN.
    """
    t = np.asarray(t, dtype=np.float64)
    df = np.broadcast_to(np.asarray(df, dtype=np.float64), t.shape)
    a, b = 0.5 * df, 0.5
    x = df / (df + t * t)
    p = np.asarray(special.betainc(a, b, x))
    with np.errstate(divide="ignore"):
        out = np.asarray(-np.log(p))
    far = p < 1e-290
    if np.any(far):
        x, a = x[far], a[far]
        fraction = np.ones_like(x)
        for k in range(30, 0, -1):
            fraction = 1.0 - (a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1)) / fraction
            fraction = 1.0 + k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k)) / fraction
        fraction = 1.0 - (a + b) * x / (a + 1.0) / fraction
        out[far] = (
            np.log(a) + special.betaln(a, b) - a * np.log(x) - b * np.log1p(-x) + np.log(fraction)
        )
    return np.asarray(out / _LN10, dtype=np.float64)


def neg_log10_p_chi2_2df(chi2: ArrayLike) -> NDArray[np.float64]:
    """-log10 p of a chi-square statistic with 2 degrees of freedom, p = exp(-chi2 / 2).

    Parameters
    ----------
    chi2 : array_like
        Statistics, any shape.

    Returns
    -------
    float64, same shape
        -log10 p; NaN where ``chi2`` is NaN.
    """
    return np.asarray(np.asarray(chi2, dtype=np.float64) / (2.0 * _LN10))


def neg_log10_p_tails(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """-log10 of Φ(-r) added up over the tails of a test.

    Parameters
    ----------
    r : (m, k) float64
        Normal quantiles of the tails, infinite where there is none.

    Returns
    -------
    (m,) float64
        NaN where one of them is.
    """
    log_tail = special.log_ndtr(-r)
    total = log_tail[:, 0]
    with np.errstate(invalid="ignore"):
        for other in log_tail.T[1:]:
            total = np.logaddexp(total, other)
    return np.asarray(np.maximum(-total, 0.0) / _LN10)


def normal_quantile(neg_log10_p: ArrayLike) -> NDArray[np.float64]:
    """Absolute value of the standard normal statistic with a two-sided -log10 p; any shape."""
    log_tail = -_LN10 * np.asarray(neg_log10_p, dtype=np.float64) - np.log(2.0)
    return np.asarray(np.maximum(-special.ndtri_exp(log_tail), 0.0))


def genomic_control_lambda(neg_log10_p: ArrayLike, df: int = 1) -> float:
    """Genomic control λ: the chi-square of the median p over the median of chi-square.

    Parameters
    ----------
    neg_log10_p : array_like
        -log10 p of a test; NaN are left out.
    df : int
        Degrees of freedom of the test.

    Returns
    -------
    float
        λ_GC, NaN without a p-value (Devlin & Roeder 1999).
    """
    values = np.asarray(neg_log10_p, dtype=np.float64).ravel()
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan")
    p = 10.0 ** -float(np.median(values))
    return float(special.chdtri(df, p) / special.chdtri(df, 0.5))
