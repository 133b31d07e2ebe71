"""Convex functions F of the volume ratio eta, in the form that vanishes with its slope at eta = 1.

The total volume int eta mu_CY is fixed in a Kaehler class, so that a constant and a multiple of eta
in F change nothing of int F(eta) mu_CY but a constant.  Taken away they make the energy zero for
the Calabi-Yau metric and nowhere else.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Elementwise = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class ConvexFunction:
    """F(eta) - F(1) - F'(1) (eta - 1) for a convex F, with its first two derivatives.

    Attributes:
        function: F, elementwise on arrays of numbers above zero.  It is part of compiled programs:
            use one function again rather than making it anew.

    Source: MF B.12.
    """

    function: Elementwise

    def check(self) -> None:
        """Look at F'' in a few places.

        Raises:
            ValueError: it is not strictly convex there.
        """
        with jax.ensure_compile_time_eval():
            curvature = self.curvature(jnp.array([0.25, 0.5, 1.0, 2.0, 4.0]))
            convex = bool(jnp.all(curvature > 0))
        if not convex:
            raise ValueError(
                "function: expected a strictly convex function of eta > 0, got second derivatives "
                f"{[round(float(c), 4) for c in curvature]} at 1/4, 1/2, 1, 2, 4"
            )

    def value(self, eta: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """F in normal form, at least zero."""
        one = jnp.ones_like(eta)
        at_one, slope = jax.jvp(self.function, (one,), (one,))
        return self.function(eta) - at_one - slope * (eta - 1)

    def slope(self, eta: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """F'(eta) - F'(1)."""
        one = jnp.ones_like(eta)
        return self._derivative(eta) - self._derivative(one)

    def curvature(self, eta: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """F''(eta)."""
        return jax.jvp(self._derivative, (eta,), (jnp.ones_like(eta),))[1]

    def _derivative(self, eta: Array) -> Array:
        return jax.jvp(self.function, (eta,), (jnp.ones_like(eta),))[1]


def entropy(eta: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """eta ln eta: on a Calabi-Yau manifold the Mabuchi energy.  F' = ln eta in normal form."""
    return eta * jnp.log(eta)


def square(eta: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """(eta - 1)^2, with F' = 2 (eta - 1).

    Source: MF B.14.
    """
    return (eta - 1) ** 2


def hellinger(eta: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """(1 - eta^(1/2))^2, with F' = 1 - eta^(-1/2): the right side of the two-derivative flow."""
    return (1 - jnp.sqrt(eta)) ** 2


ENTROPY = ConvexFunction(entropy)
SQUARE = ConvexFunction(square)
HELLINGER = ConvexFunction(hellinger)
