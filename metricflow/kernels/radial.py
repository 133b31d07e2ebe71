"""Kernels that depend on a distance only.

The Fubini-Study distance d between points of projective space, or that of vectors.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Num

from .. import _checks
from .._pytree import register_dataclass
from .._rounding import cut_below_zero, safe_sqrt
from ..ansatz import real_coordinates
from ..geometry.distances import arc_squared, pairwise_cosine_squared, pairwise_sine_cosine

Scalar = Float[Array, ""] | float


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Gaussian:
    """K = exp(-d^2 / (2 width^2)), a Gaussian in the distance.

    MF 3.6 calls its kernel Gaussian but prints exp(-d / (2 sigma)); that one is
    :class:`Exponential`.  No Gaussian of a geodesic distance is positive definite for all widths:
    on 300 points of the quintic this one is up to .5, with a least eigenvalue of -.15 at .7.

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
        sine2 = cut_below_zero(1 - cosine2)  # for K <= 1
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
        return -safe_sqrt(arc_squared(*pairwise_sine_cosine(z1, z2))) / (2 * self.width)

    def matrix(
        self, z1: Complex[Array, "b1 k"], z2: Complex[Array, "b2 k"]
    ) -> Float[Array, "b1 b2"]:
        """K for all pairs."""
        return jnp.exp(self.log_matrix(z1, z2))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class SquaredExponential:
    """K = exp(-|u - u'|^2 / (2 width^2)) between real vectors, such as invariant features.

    Complex points are taken as they are scaled, |z - z'|^2: use :class:`Gaussian` for points of
    projective space.

    Attributes:
        width: standard deviation, in the units of the vectors.

    Raises:
        ValueError: width not above zero.

    Source: MF 2.35 (without its constant)
    """

    width: Scalar

    reads_vectors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the width."""
        _check_width(self.width)

    def log_matrix(self, z1: Num[Array, "b1 k"], z2: Num[Array, "b2 k"]) -> Float[Array, "b1 b2"]:
        """log K for all pairs; |u - u'|^2 carries a rounding error of a few eps |u|^2."""
        u1, u2 = (real_coordinates(z) if jnp.iscomplexobj(z) else z for z in (z1, z2))
        # distances do not change if both sets move, and the products are smaller near the middle
        middle = jax.lax.stop_gradient(jnp.mean(u2, axis=0))
        u1, u2 = u1 - middle, u2 - middle
        inner = jnp.matmul(u1, u2.T, precision=jax.lax.Precision.HIGHEST)
        squared = jnp.sum(u1**2, axis=1)[:, None] + jnp.sum(u2**2, axis=1) - 2 * inner
        return -cut_below_zero(squared) / (2 * self.width**2)

    def matrix(self, z1: Num[Array, "b1 k"], z2: Num[Array, "b2 k"]) -> Float[Array, "b1 b2"]:
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
