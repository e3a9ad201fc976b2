"""Batches of scalars with gradient and Hessian in a few parameters, by the rules of calculus.

A likelihood that is put together from sums, products and a few functions is written once; its
derivatives are exact and need no code of their own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Jet:
    """Values of ``b`` scalars with their first two derivatives in ``p`` parameters.

    Attributes
    ----------
    value : (b,) float64
        Values.
    gradient : (b, p) float64
        First derivatives.
    hessian : (b, p, p) float64
        Second derivatives.
    """

    value: FloatArray
    gradient: FloatArray
    hessian: FloatArray

    @classmethod
    def parameter(cls, theta: FloatArray, index: int) -> "Jet":
        """Return one of the parameters ``theta`` (b, p) itself."""
        b, p = theta.shape
        gradient = np.zeros((b, p))
        gradient[:, index] = 1.0
        return cls(theta[:, index].copy(), gradient, np.zeros((b, p, p)))

    def __add__(self, other: "Jet | FloatArray | float") -> "Jet":
        if isinstance(other, Jet):
            return Jet(
                self.value + other.value,
                self.gradient + other.gradient,
                self.hessian + other.hessian,
            )
        return Jet(self.value + other, self.gradient, self.hessian)

    def __sub__(self, other: "Jet | FloatArray | float") -> "Jet":
        return self + other * -1.0

    def __mul__(self, other: "Jet | FloatArray | float") -> "Jet":
        if isinstance(other, Jet):
            cross = self.gradient[:, :, None] * other.gradient[:, None, :]
            return Jet(
                self.value * other.value,
                self.value[:, None] * other.gradient + other.value[:, None] * self.gradient,
                self.value[:, None, None] * other.hessian
                + other.value[:, None, None] * self.hessian
                + cross
                + cross.transpose(0, 2, 1),
            )
        factor = np.broadcast_to(other, self.value.shape)
        return Jet(
            self.value * factor,
            self.gradient * factor[:, None],
            self.hessian * factor[:, None, None],
        )

    __radd__ = __add__
    __rmul__ = __mul__

    def apply(self, value: FloatArray, first: FloatArray, second: FloatArray) -> "Jet":
        """Compose with a function, given its value and derivatives (b,) at ``self.value``."""
        outer = self.gradient[:, :, None] * self.gradient[:, None, :]
        return Jet(
            value,
            first[:, None] * self.gradient,
            first[:, None, None] * self.hessian + second[:, None, None] * outer,
        )

    def reciprocal(self) -> "Jet":
        """1 / self."""
        inverse = 1.0 / self.value
        return self.apply(inverse, -(inverse**2), 2.0 * inverse**3)
