"""Scalars with their derivatives."""

import numpy as np

from hlmm_dask.kernels.jet import Jet


def function(theta: np.ndarray) -> Jet:
    x, y = Jet.parameter(theta, 0), Jet.parameter(theta, 1)
    e = np.exp(x.value)
    return x.apply(e, e, e) * y * y * 2.0 + (x - y * 3.0).reciprocal() - 4.0 + x * theta[:, 1]


def test_derivatives_of_sums_products_and_functions() -> None:
    theta = np.array([[0.3, 1.2], [-0.7, 0.4]])
    x, y = theta.T
    found = function(theta)
    d = x - 3 * y
    np.testing.assert_allclose(found.value, 2 * np.exp(x) * y**2 + 1 / d - 4 + x * y)
    first = 2 * np.exp(x) * y**2 - 1 / d**2 + y
    second = 4 * np.exp(x) * y + 3 / d**2
    np.testing.assert_allclose(found.gradient, np.stack([first, second], axis=1))
    xx = 2 * np.exp(x) * y**2 + 2 / d**3
    xy = 4 * np.exp(x) * y - 6 / d**3
    yy = 4 * np.exp(x) + 18 / d**3
    np.testing.assert_allclose(found.hessian[:, 0, 0], xx)
    np.testing.assert_allclose(found.hessian[:, 0, 1], xy)
    np.testing.assert_allclose(found.hessian[:, 1, 0], xy)
    np.testing.assert_allclose(found.hessian[:, 1, 1], yy)
