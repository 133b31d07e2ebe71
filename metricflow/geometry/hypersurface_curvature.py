"""Curvature of the metrics of a hypersurface, at many points at once.

A metric is a callable ``metric(z, chart)`` as in :mod:`.local_coordinates`.  It is differentiated
in homogeneous coordinates, along constant tangent directions: steps along them leave the
hypersurface at second order, by holomorphic terms, which a mixed derivative does not see.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .. import _checks
from .._annotations import Count
from .._pytree import is_opaque
from .._tiles import carrying, map_tiles
from .hermitian import hermitian_determinant, hermitian_frame
from .hypersurface import Hypersurface, gradient
from .kaehler_curvature import chern_curvature, mixed_derivatives
from .local_coordinates import ChartMetric
from .sampling import Points


def riemann_on_hypersurface(
    metric: ChartMetric, points: Points, *, chunk: Count = 256
) -> Complex[Array, "b n n n n"]:
    """R_(a bbar c dbar) of a metric at every point, each in its own chart.

    The same tensor as :func:`~.kaehler_curvature.kaehler_riemann` in local coordinates.

    Args:
        metric: callable ``metric(z, chart)``.
        points: the points, in the charts to differentiate in.
        chunk: points differentiated at a time.

    Returns:
        Shape (N, n, n, n, n).

    Raises:
        ValueError: no points, a metric that is not of shape (N, n, n), or an unusable chunk.
    """
    return map_points(_riemann, metric, points, chunk)


def ricci_scalar(metric: ChartMetric, points: Points, *, chunk: Count = 64) -> Float[Array, " b"]:
    """g^(ab) R_ab with R_ab = -d_a dbar_b log det g at every point; zero for Calabi-Yau metrics.

    With vectors e_c orthonormal for g this is -sum_c d_(e_c) dbar_(e_c) log det g: 2n second
    derivatives in place of a tensor.

    Args:
        metric: a callable metric; it is differentiated twice along the hypersurface.
        points: the points, in the charts to differentiate in.
        chunk: points differentiated at a time.

    Source: MF B.3.
    """
    return map_points(_ricci_scalar, metric, points, chunk)


def volume_slope_squared(
    metric: ChartMetric, manifold: Hypersurface, points: Points, *, chunk: Count = 64
) -> Float[Array, " b"]:
    """|d ln eta|^2_g = g^(a bbar) d_a ln eta dbar_b ln eta at every point, for eta of any kappa.

    Args:
        metric: a callable metric; it is differentiated once along the hypersurface.
        manifold: the hypersurface, for |Omega|^2.
        points: the points, in the charts to differentiate in.
        chunk: points differentiated at a time.

    Source: MF B.15, MF B.18.
    """
    if is_opaque(metric):
        return _map_points(lambda _, tile: _slope((metric, manifold), tile), None, points, chunk)
    return map_points(_slope, (metric, manifold), points, chunk)


def map_points(
    function: Callable[[Any, Points], Array],
    metric: Any,
    points: Points,
    chunk: int,
) -> Array:
    """``function(metric, tile)`` of tiles of at most ``chunk`` points, results joined; compiled.

    Raises:
        ValueError: no points, or an unusable chunk.
    """
    chunk = _checks.positive_integer("chunk", chunk)
    if len(points.z) == 0:
        raise ValueError("points: expected at least one point, got none; sample some first")
    # jit takes a metric that is a pytree as an argument: a second call does not compile
    run = _map_points if is_opaque(metric) else _map_points_compiled
    return run(function, metric, points, chunk)


def curvature_of_tile(metric: ChartMetric, points: Points) -> tuple[Array, Array]:
    """g, shape (N, n, n), and R_(a bbar c dbar), shape (N, n, n, n, n), of a few points."""

    n = points.pullback.shape[-2]
    expected = (len(points.z), n, n)

    def components(z: Array) -> Array:
        g = metric(z, points.chart)
        if g.shape != expected:
            raise ValueError(
                f"metric: expected components of shape {expected} for these points, got "
                f"{g.shape}; metric(z, chart) acts on batches of points"
            )
        return g.astype(z.dtype)

    g, slope, mixed = mixed_derivatives(components, points.z, points.pullback.swapaxes(0, 1))
    return g, chern_curvature(g, slope, mixed)


def _riemann(metric: ChartMetric, points: Points) -> Array:
    return curvature_of_tile(metric, points)[1]


def _map_points(
    function: Callable[[Any, Points], Array],
    metric: Any,
    points: Points,
    chunk: int,
) -> Array:
    return map_tiles(carrying(function, metric), points, chunk)


_map_points_compiled = jax.jit(_map_points, static_argnums=(0, 3))


def _slope(pair: tuple[ChartMetric, Hypersurface], points: Points) -> Array:
    metric, manifold = pair

    def log_eta(z: Array) -> Array:
        # |Omega|^2 = 1 / |dP/dz_e|^2
        eliminated = points.chart[:, 1, None]
        slope = jnp.take_along_axis(gradient(manifold, z), eliminated, axis=-1)[:, 0]
        determinant = hermitian_determinant(metric(z, points.chart))
        return jnp.log(determinant) + jnp.log(slope.real**2 + slope.imag**2)

    def along(direction: Array) -> Array:
        return jax.jvp(log_eta, (points.z,), (direction,))[1]

    frame = hermitian_frame(metric(points.z, points.chart))
    directions = jnp.einsum("xca,xai->cxi", frame, points.pullback)
    both = jnp.concatenate([directions, 1j * directions])
    # |d_v f|^2 = (f_v^2 + f_iv^2) / 4
    return jnp.sum(jax.lax.map(along, both) ** 2, axis=0) / 4


def _ricci_scalar(metric: ChartMetric, points: Points) -> Array:
    def log_det(z: Array) -> Array:
        return jnp.log(hermitian_determinant(metric(z, points.chart)))

    def second(direction: Array) -> Array:
        def along(z: Array) -> Array:
            return jax.jvp(log_det, (z,), (direction,))[1]

        return jax.jvp(along, (points.z,), (direction,))[1]

    # rows e_c with g(e_c, e_d) = delta_cd
    frame = hermitian_frame(metric(points.z, points.chart))
    directions = jnp.einsum("xca,xai->cxi", frame, points.pullback)
    # 4 d_v dbar_v of a real function: its second derivatives along v and i v
    both = jnp.concatenate([directions, 1j * directions])
    return -jnp.sum(jax.lax.map(second, both), axis=0) / 4
