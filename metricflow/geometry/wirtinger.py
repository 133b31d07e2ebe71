"""Derivatives along holomorphic and antiholomorphic directions of functions that are neither."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex

Function = Callable[[Array], Array]


def holomorphic_derivative(
    function: Function, z: Complex[Array, " k"], direction: Complex[Array, " k"]
) -> Array:
    """v^i d_i f at z, with d_z = (d_x - i d_y) / 2.

    For a holomorphic f this is the complex derivative along v, for an antiholomorphic one zero.
    Linear in v.

    Args:
        function: smooth function of z in the real sense; any array may come out.
        z: the point, shape (k,).
        direction: the vector v, shape (k,).
    """
    real, imaginary = _directional(function, z, direction)
    return (real - 1j * imaginary) / 2


def antiholomorphic_derivative(
    function: Function, z: Complex[Array, " k"], direction: Complex[Array, " k"]
) -> Array:
    """conj(v^i) dbar_i f at z, with dbar_z = (d_x + i d_y) / 2.

    For a holomorphic f this is zero.  Antilinear in v.
    """
    real, imaginary = _directional(function, z, direction)
    return (real + 1j * imaginary) / 2


def _directional(function: Function, z: Array, direction: Array) -> tuple[Array, Array]:
    """Real directional derivatives along v and i v."""
    real = jax.jvp(function, (z,), (direction,))[1]
    imaginary = jax.jvp(function, (z,), (1j * direction,))[1]
    return real, imaginary


def real_derivatives(
    function: Callable[[Array], Array], z: Complex[Array, "b k"], jacobian: Complex[Array, "b n k"]
) -> Array:
    """Derivatives along the 2n real directions J_a and i J_a of a function of many points.

    Every point moves alone, along its own directions.

    Args:
        function: from points (N, k) to an array with the points first.
        z: the points.
        jacobian: J, such as the pull-back of the points of a hypersurface.

    Returns:
        Shape (2n, N, ...): first along J_1 ... J_n, then along i J_1 ... i J_n.
    """
    directions = jacobian.swapaxes(0, 1)

    def along(direction: Array) -> Array:
        return jax.jvp(function, (z,), (direction,))[1]

    return jax.lax.map(along, jnp.concatenate([directions, 1j * directions]))
