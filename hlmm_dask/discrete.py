"""Phenotypes with few values, or one that many samples share: what their tests can mean."""

import numpy as np
from numpy.typing import NDArray

# Different values that still are few, and the share of the samples with one that is large.
_FEW, _SHARED, _NEARLY_ALL = 10, 0.2, 0.95
# With so few samples values repeat, or don't, by chance.
_LEAST, _LEAST_BINARY = 20, 5
# Below this standard deviation, as a share of the mean, rounding takes digits of the values.
_DIGITS = 1e-6


def cautions_of(what: str, y: NDArray[np.float64]) -> tuple[str, ...]:
    """Say what the values of a phenotype mean for the tests of mean and variance.

    Parameters
    ----------
    what : str
        How messages name the phenotype.
    y : (n,) float64
        Values of the analysed samples, without missing ones.

    Returns
    -------
    tuple of str
        Nothing for a phenotype of many values. A transform keeps equal values equal, so that what
        is said here holds on each scale, and with covariates.
    """
    values, counts = np.unique(y, return_counts=True)
    if len(values) < 2 or len(y) < (_LEAST if len(values) > 2 else _LEAST_BINARY):
        return ()
    most = int(counts.argmax())
    share = float(counts[most]) / len(y)
    shared = f"{counts[most]:,} of {len(y):,} samples have the value {values[most]:g}"
    if len(values) == 2:
        fewer = int(counts.min())
        samples = f"{fewer:,} samples" if fewer > 1 else "one sample"
        return (
            f"{what} is binary ({shared}): its variance is a function of its mean, so an effect on "
            "the variance is no evidence of its own; an effect on the mean is a difference in "
            f"proportions, and with {samples} of the rarer value its p-value is unreliable "
            "for rare variants: compare with logistic regression",
        )
    said: list[str] = []
    if float(np.std(y)) < _DIGITS * abs(float(np.mean(y))):
        said.append(
            f"{what} is nearly constant (mean {np.mean(y):.10g}, standard deviation "
            f"{np.std(y):.3g}): rounding may have taken most digits of its variation; subtract a "
            "constant from the unrounded values"
        )
    if len(values) <= _FEW:
        said.append(
            f"{what} has only {len(values)} different values: its variance depends on its mean, so "
            "an effect on the variance may only reflect one on the mean, and p-values of rare "
            "variants are unreliable"
        )
    if share >= _NEARLY_ALL or (share >= _SHARED and len(values) > _FEW):
        kind = "is nearly constant" if share >= _NEARLY_ALL else "has one frequent value"
        said.append(
            f"{what} {kind} ({shared}): an effect on the share of these samples changes mean and "
            "variance together, so an effect on the variance is no evidence of its own; no "
            "transform separates equal values"
        )
    return tuple(said)
