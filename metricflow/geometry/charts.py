"""Coordinate charts of a hypersurface: z_s = 1, z_e eliminated by P = 0, n coordinates left.

Every function works on one point or on any batch of points: leading axes are shared.
"""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from .._annotations import CHART
from .._checks import AnyArray
from .._jit import jit
from .hypersurface import Hypersurface, gradient

Chart = Annotated[tuple[int, int], CHART]
Charts = Annotated[Int[AnyArray, "*b 2"], CHART] | Chart


def home_chart(manifold: Hypersurface) -> Chart:
    """The chart (0, n+1) that single-chart work uses: z_0 = 1, z_(n+1) eliminated."""
    return (0, manifold.ambient - 1)


@jit()
def best_chart(manifold: Hypersurface, z: Complex[AnyArray, "*b k"]) -> Int[Array, "*b 2"]:
    """The chart in which numbers are best behaved at z.

    Scaled is the coordinate of largest modulus; eliminated is, among the others, the one with the
    largest |dP/dz_e|, that is the smallest |Omega|^2.

    Returns:
        (s, e) of shape (..., 2).

    Source: MF section 3.1 (after 3.3).
    """
    z = jnp.asarray(z)
    scaled = jnp.argmax(jnp.abs(z), axis=-1)
    slope = jnp.abs(gradient(manifold, z))
    is_scaled = jnp.arange(manifold.ambient) == scaled[..., None]
    eliminated = jnp.argmax(jnp.where(is_scaled, -1, slope), axis=-1)
    return jnp.stack([scaled, eliminated], axis=-1)


def neighbour_chart(
    manifold: Hypersurface, z: Complex[AnyArray, "*b k"], chart: Charts
) -> Int[Array, "*b 2"]:
    """The chart that a point would enter first: the largest other coordinate scaled.

    Eliminated is, as in :func:`best_chart`, the coordinate of steepest slope among the others.
    """
    z = jnp.asarray(z)
    chart, index = _broadcast(chart, z), jnp.arange(manifold.ambient)
    size, slope = jnp.abs(z), jnp.abs(gradient(manifold, z))
    scaled = jnp.argmax(jnp.where(index == chart[..., :1], -1, size), axis=-1)
    eliminated = jnp.argmax(jnp.where(index == scaled[..., None], -1, slope), axis=-1)
    return jnp.stack([scaled, eliminated], axis=-1)


def chart_coordinates(z: Complex[AnyArray, "*b k"], chart: Charts) -> Complex[Array, "*b k"]:
    """The same points with homogeneous coordinates scaled so that z_s = 1 exactly."""
    z, chart = jnp.asarray(z), _broadcast(chart, z)
    scaled = jnp.take_along_axis(z, chart[..., :1], axis=-1)
    is_scaled = jnp.arange(z.shape[-1]) == chart[..., :1]
    return jnp.where(is_scaled, jnp.ones_like(z), z / scaled)


def permute_to_chart(
    z: Complex[AnyArray, "*b k"], chart: Charts, home: Chart
) -> Complex[Array, "*b k"]:
    """Permute the coordinates so that ``chart`` becomes ``home``; the others keep their order.

    On a symmetric hypersurface this is a symmetry: the permuted points follow the same law, and the
    n local coordinates are the same numbers in the same order, so metric components carry over.

    Source: MF section 3.1 (instead of rejecting the points of all other charts).
    """
    z, chart = jnp.asarray(z), _broadcast(chart, z)
    ambient = z.shape[-1]
    local = iter(range(ambient - 2))
    places = _local_indices(chart, ambient)
    order = []
    for i in range(ambient):
        role = home.index(i) if i in home else None
        order.append(places[..., next(local)] if role is None else chart[..., role])
    return jnp.take_along_axis(z, jnp.stack(order, axis=-1), axis=-1)


def pullback(
    manifold: Hypersurface, z: Complex[AnyArray, "*b k"], chart: Charts
) -> Complex[Array, "*b n k"]:
    """J[a, i] = d z_i / d x^a at z with z_s = 1; dz_e/dx^a = -(dP/dx^a) / (dP/dz_e).

    Returns:
        Shape (..., n, n+2): the identity on the local coordinates, zero on s, the slope on e.
    """
    z, chart = jnp.asarray(z), _broadcast(chart, jnp.asarray(z))
    slope = gradient(manifold, z)
    local = _local_indices(chart, manifold.ambient)
    index = jnp.arange(manifold.ambient)
    kept = jnp.take_along_axis(slope, local, axis=-1)
    eliminated = jnp.take_along_axis(slope, chart[..., 1:], axis=-1)
    on_local = (local[..., :, None] == index).astype(z.dtype)
    on_eliminated = (chart[..., 1:] == index).astype(z.dtype)
    return on_local - (kept / eliminated)[..., :, None] * on_eliminated[..., None, :]


def holomorphic_volume(
    manifold: Hypersurface, z: Complex[AnyArray, "*b k"], chart: Charts
) -> Float[Array, "*b"]:
    """|Omega|^2 = 1 / |dP/dz_e|^2 at z with z_s = 1."""
    z, chart = jnp.asarray(z), _broadcast(chart, jnp.asarray(z))
    eliminated = jnp.take_along_axis(gradient(manifold, z), chart[..., 1:], axis=-1)[..., 0]
    return 1 / (eliminated.real**2 + eliminated.imag**2)


def transition(
    manifold: Hypersurface,
    z: Complex[AnyArray, "*b k"],
    old: Charts,
    new: Charts,
) -> Complex[Array, "*b n n"]:
    """T[a, c] = d x_old^c / d x_new^a at z, so that g_new = T g_old T^dagger.

    Args:
        z: homogeneous coordinates in any scaling.
        old: the chart one has the components in.
        new: the chart one wants them in.
    """
    z = jnp.asarray(z)
    old, new = _broadcast(old, z), _broadcast(new, z)
    z = chart_coordinates(z, new)
    jacobian = pullback(manifold, z, new)
    scaled = jnp.take_along_axis(z, old[..., :1], axis=-1)
    local = _local_indices(old, manifold.ambient)
    moved = jnp.take_along_axis(jacobian, local[..., None, :], axis=-1)
    drift = jnp.take_along_axis(jacobian, old[..., None, :1], axis=-1)
    kept = jnp.take_along_axis(z, local, axis=-1)
    return (moved * scaled[..., None] - kept[..., None, :] * drift) / scaled[..., None] ** 2


def _local_indices(chart: Array, ambient: int) -> Array:
    """The coordinates that are neither scaled nor eliminated, in increasing order: (..., n)."""
    low, high = jnp.min(chart, axis=-1), jnp.max(chart, axis=-1)
    index = jnp.arange(ambient - 2) + jnp.zeros_like(chart[..., :1])
    index = index + (index >= low[..., None])
    return index + (index >= high[..., None])


def _broadcast(chart: AnyArray | Chart, z: Array) -> Array:
    """One chart for every point of a batch."""
    chart = jnp.asarray(chart)
    return jnp.broadcast_to(chart, (*z.shape[:-1], 2))
