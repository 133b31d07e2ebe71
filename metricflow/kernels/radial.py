"""Kernels that depend on the Fubini-Study distance d only."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .. import _checks
from .._pytree import register_dataclass
from ..geometry.distances import arc_squared, pairwise_cosine_squared, pairwise_sine_cosine

Scalar = Float[Array, ""] | float


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Gaussian:
    """K = exp(-d^2 / (2 width^2)), a Gaussian in the distance.

    MF 3.6 calls its kernel Gaussian but prints exp(-d / (2 sigma)); that one is
    :class:`Exponential`.

    Attributes:
        width: standard deviation in units of distance (a projective line has length pi/2).

    Raises:
        ValueError: width not above zero.

    Source: MF 3.6.
    """

    width: Scalar

    def __post_init__(self) -> None:
        """Check the width."""
        _check_width(self.width)

    def log_matrix(
        self, z1: Complex[Array, "b1 k"], z2: Complex[Array, "b2 k"]
    ) -> Float[Array, "b1 b2"]:
        """log K for all pairs; d^2 carries a rounding error of a few eps."""
        cosine2 = pairwise_cosine_squared(z1, z2)
        sine2 = 1 - cosine2
        # rounding below zero is cut off, for K <= 1, but not its derivatives: d^2 is smooth there
        sine2 = sine2 + jax.lax.stop_gradient(jnp.maximum(sine2, 0) - sine2)
        return -arc_squared(sine2, cosine2) / (2 * self.width**2)

    def matrix(
        self, z1: Complex[Array, "b1 k"], z2: Complex[Array, "b2 k"]
    ) -> Float[Array, "b1 b2"]:
        """K for all pairs."""
        return jnp.exp(self.log_matrix(z1, z2))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Exponential:
    """K = exp(-d / (2 width)), the formula that the paper prints under the name Gaussian.

    It has a cusp at d = 0: not differentiable where a point meets a centre.

    Attributes:
        width: in units of distance.

    Raises:
        ValueError: width not above zero.

    Source: MF 3.6 (as printed).
    """

    width: Scalar

    def __post_init__(self) -> None:
        """Check the width."""
        _check_width(self.width)

    def log_matrix(
        self, z1: Complex[Array, "b1 k"], z2: Complex[Array, "b2 k"]
    ) -> Float[Array, "b1 b2"]:
        """log K for all pairs, with distances accurate to rounding near zero."""
        squared = arc_squared(*pairwise_sine_cosine(z1, z2))
        positive = squared > 0
        distance = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)
        return -distance / (2 * self.width)

    def matrix(
        self, z1: Complex[Array, "b1 k"], z2: Complex[Array, "b2 k"]
    ) -> Float[Array, "b1 b2"]:
        """K for all pairs."""
        return jnp.exp(self.log_matrix(z1, z2))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Delta:
    """K(x, x_b) = 1 if x_b is the centre nearest to x, else 0.

    The semi-local kernel of the paper: a point takes over the update of its nearest centre.  It is
    the limit of the row-normalised :class:`Gaussian` for width -> 0, and locally constant in x.

    Source: MF section 3.2.
    """


def _check_width(width: object) -> None:
    # a shape or an axis may stand in for the number where a tree describes another
    if isinstance(width, int | float | jax.Array) and not _checks.is_traced(width):
        _checks.positive_number("width", width)
