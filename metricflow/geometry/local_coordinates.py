"""Metrics of a hypersurface as functions of its local coordinates.

A metric of a hypersurface is a callable ``metric(z, chart)`` that gives g[a, b], shape (..., n, n),
at homogeneous coordinates z (..., n+2).
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
from jaxtyping import Array, Complex, Int

from .. import _checks
from .._annotations import CHART
from .._checks import AnyArray
from .charts import Chart, chart_coordinates
from .hypersurface import Hypersurface, gradient, polynomial
from .kaehler_curvature import HermitianMetric

ChartMetric = Callable[[Any, Any], Array]


def local_point(
    manifold: Hypersurface,
    z: Complex[AnyArray, " k"],
    chart: Annotated[Int[AnyArray, "2"], CHART] | Chart,
    *,
    steps: int = 3,
) -> Callable[[Array], Array]:
    """The function x -> z(x) from local coordinates near z to homogeneous ones: z_s = 1, P = 0.

    z_e comes from Newton's method that starts at the root z_e of the given point.  m steps give
    the Taylor coefficients at that point exactly up to order 2^m - 1, so all derivatives there up
    to the seventh are right by default; away from it, the value of z(x) is as good as the steps.

    Args:
        manifold: the hypersurface.
        z: one point on it, shape (n+2,), in any scaling.
        chart: (scaled index, eliminated index).
        steps: steps of Newton's method.

    Returns:
        A function from x (n,), the coordinates other than z_s and z_e in increasing order, to
        homogeneous coordinates (n+2,).

    Raises:
        ValueError: z is not one point of this projective space.
    """
    steps = _checks.positive_integer("steps", steps)
    z, chart, local = _at_point(manifold, z, chart)
    start = z[chart[1]]

    def point(x: Array) -> Array:
        w = z.at[local].set(x).at[chart[1]].set(start)
        for _ in range(steps):
            step = polynomial(manifold, w) / gradient(manifold, w)[chart[1]]
            w = w.at[chart[1]].add(-step)
        return w

    return point


def local_metric(
    metric: ChartMetric,
    manifold: Hypersurface,
    z: Complex[AnyArray, " k"],
    chart: Annotated[Int[AnyArray, "2"], CHART] | Chart,
) -> tuple[HermitianMetric, Complex[Array, " n"]]:
    """A metric of a hypersurface as a function of local coordinates near z, and z in them.

    Args:
        metric: callable ``metric(z, chart)``.
        manifold: the hypersurface.
        z: one point on it, shape (n+2,), in any scaling.
        chart: (scaled index, eliminated index), the chart of the local coordinates.

    Returns:
        The function x -> g(z(x), chart) of one point, right with its derivatives up to the seventh
        at the given point, and the coordinates x of that point, shape (n,).

    Raises:
        ValueError: z is not one point of this projective space.
    """
    z, chart, local = _at_point(manifold, z, chart)
    point = local_point(manifold, z, chart)
    return lambda x: metric(point(x), chart), z[local]


def _at_point(
    manifold: Hypersurface, z: AnyArray, chart: AnyArray | Chart
) -> tuple[Array, Array, Array]:
    """z with z_s = 1, the chart as an array, and the indices of the local coordinates."""
    z = _checks.homogeneous_coordinates("z", z, manifold.ambient)
    if z.ndim != 1:
        raise ValueError(
            f"z: expected one point, shape ({manifold.ambient},), got shape {z.shape}; use "
            "jax.vmap for many points"
        )
    chart = jnp.asarray(chart)
    index = jnp.arange(manifold.ambient)
    taken = (index == chart[0]) | (index == chart[1])
    local = jnp.argsort(taken, stable=True)[: manifold.dim]
    return chart_coordinates(z, chart), chart, local
