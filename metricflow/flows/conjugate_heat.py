"""Perelman's function f along a Ricci flow, by the conjugate heat equation backwards in time.

    df/dt = -R - Delta f + |grad f|^2

is backward-parabolic: it is solved from the last metric to the first.  The measure
m = e^-f sqrt(det g) obeys a linear equation without curvature in it, and keeps its integral to
rounding:

    dm/dt = - sqrt(det g) Delta (m / sqrt(det g))  [+ d_k (W^k m) in DeTurck's gauge]
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _checks
from .._checks import AnyArray
from ..geometry.grid_curvature import (
    check_function,
    divergence,
    grid_laplacian,
    volume_density,
)
from .result import FlowError, Result
from .ricci import RicciFlow
from .time_steps import Time


def conjugate_heat(
    flow: RicciFlow,
    metrics: Float[AnyArray, "..."],
    final: Float[AnyArray, "..."],
    dt: Time,
    *,
    throw: bool = True,
) -> Float[Array, "..."]:
    """f(t) along a flow that has been stored, from its value at the end.

    Runge-Kutta steps of order 4 backwards, each over two steps of the flow: the metric between
    them is the midpoint.

    Args:
        flow: the flow that made the metrics, for its gauge; its width must be None.
        metrics: g at times 0, dt, ..., 2 m dt, shape (2 m + 1, *grid, k, k).
        final: f at the last time, shape (*grid).
        dt: the step of the flow; 2 dt must be stable for the heat equation too.
        throw: raise :class:`FlowError` if e^-f stops being positive; otherwise f is NaN there.

    Returns:
        f at times 0, 2 dt, ..., 2 m dt, shape (m + 1, *grid).

    Raises:
        ValueError: an even number of metrics, shapes that do not fit, a flow of finite width.
        FlowError: e^-f vanished somewhere or was NaN: dt is too large for the grid.

    Source: MF 2.40
    """
    grid = flow.grid
    metrics, final = jnp.asarray(metrics), check_function("final", grid, final)
    expected = (*grid.shape, grid.dim, grid.dim)
    if metrics.shape[1:] != expected or len(metrics) < 3 or len(metrics) % 2 == 0:
        raise ValueError(
            f"metrics: expected an odd number of at least 3 metrics of shape {expected}, got shape "
            f"{metrics.shape}; store the first one and those of an even number of steps"
        )
    if flow.width is not None:
        raise ValueError(f"flow: expected a local flow, of width None, got width {flow.width!r}")
    _checks.positive_number("dt", dt)
    found = _backwards(flow, metrics, final, jnp.asarray(dt, metrics.dtype))
    if throw and not _checks.is_traced(found) and not bool(jnp.all(jnp.isfinite(found))):
        good = int(jnp.sum(jnp.all(jnp.isfinite(found), axis=tuple(range(1, found.ndim)))))
        raise FlowError(Result.NON_FINITE, good, "store the flow with a smaller dt")
    return found


def measure_velocity(
    flow: RicciFlow, g: Float[AnyArray, "..."], measure: Float[AnyArray, "..."]
) -> Float[Array, "..."]:
    """dm/dt = - sqrt(det g) Delta (m / sqrt(det g)) + d_k (W^k m) of m = e^-f sqrt(det g).

    Source: MF 2.40
    """
    grid, density = flow.grid, volume_density(g)
    velocity = -density * grid_laplacian(grid, g, measure / density)
    if flow.gauge == "deturck":
        velocity = velocity + divergence(grid, flow.vector(g) * measure[..., None])
    return grid.smooth(velocity) if flow.dealias else velocity


@jax.jit
def _backwards(flow: RicciFlow, metrics: Array, final: Array, dt: Array) -> Array:
    def one(measure: Array, three: tuple[Array, Array, Array]) -> tuple[Any, ...]:
        first, middle, last = three
        a = measure_velocity(flow, last, measure)
        b = measure_velocity(flow, middle, measure - dt * a)
        c = measure_velocity(flow, middle, measure - dt * b)
        d = measure_velocity(flow, first, measure - 2 * dt * c)
        measure = measure - dt / 3 * (a + 2 * b + 2 * c + d)
        return measure, jnp.log(volume_density(first) / measure)

    start: Any = jnp.exp(-final) * volume_density(metrics[-1])
    start = flow.grid.smooth(start) if flow.dealias else start
    # the last value is that of the smoothed measure, so that all integrals agree
    final = jnp.log(volume_density(metrics[-1]) / start)
    triples = (metrics[:-2:2], metrics[1:-1:2], metrics[2::2])
    found: Array
    _, found = jax.lax.scan(one, start, triples, reverse=True)
    return jnp.concatenate([found, final[None]])
