"""Perelman's functional of a real metric and a function f on a periodic grid.

    F(g, f) = int (R + |grad f|^2) e^-f dV

Along a Ricci flow with f solved backwards in time (:func:`metricflow.flows.conjugate_heat`) it
rises at the rate 2 int |Ric + Hess f|^2 e^-f dV.  With the measure e^-f dV held fixed its gradient
is -(Ric + Hess f), but the flow along that gradient is ill-posed, see
:func:`fixed_measure_velocity`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import AnyArray
from ..geometry.grid_curvature import (
    check_function,
    check_tensor,
    grid_hessian,
    grid_ricci,
    grid_scalar,
    squared_gradient,
    tensor_norm,
    volume_density,
)
from ..geometry.periodic_grid import PeriodicGrid

Field = Float[AnyArray, "..."]


def perelman_functional(grid: PeriodicGrid, g: Field, f: Field) -> Float[Array, ""]:
    """F(g, f) = int (R + |grad f|^2) e^-f dV.

    Args:
        grid: the grid.
        g: the metric, shape (*grid, k, k).
        f: the function, shape (*grid); e^-f dV is not normalised.

    Raises:
        ValueError: g or f does not stand on this grid.

    Source: MF 2.41
    """
    g, f = check_tensor("g", grid, g), check_function("f", grid, f)
    density = grid_scalar(grid, g) + squared_gradient(grid, g, f)
    return grid.integral(density * _measure(g, f))


def perelman_rate(grid: PeriodicGrid, g: Field, f: Field) -> Float[Array, ""]:
    """dF/dt = 2 int |Ric + Hess f|^2 e^-f dV along a Ricci flow with f solved backwards.

    Raises:
        ValueError: g or f does not stand on this grid.

    Source: MF 2.40, MF 2.41
    """
    g, f = check_tensor("g", grid, g), check_function("f", grid, f)
    return 2 * grid.integral(tensor_norm(g, perelman_variation(grid, g, f)) ** 2 * _measure(g, f))


def weighted_volume(grid: PeriodicGrid, g: Field, f: Field) -> Float[Array, ""]:
    """int e^-f dV, which the flow of f keeps.

    Raises:
        ValueError: g or f does not stand on this grid.

    Source: MF 2.41
    """
    return grid.integral(_measure(check_tensor("g", grid, g), check_function("f", grid, f)))


def perelman_variation(grid: PeriodicGrid, g: Field, f: Field) -> Float[Array, "..."]:
    """-(Ric + Hess f)_ij, the gradient of F in g at fixed measure, shape (*grid, i, j).

        dF = int g^ik g^jl v_ij h_kl e^-f dV  for dg = h, df = g^ij h_ij / 2

    Half of the velocity that the paper equates with it.

    Raises:
        ValueError: g or f does not stand on this grid.

    Source: MF 2.40
    """
    return -(grid_ricci(grid, g) + grid_hessian(grid, g, f))


def fixed_measure_velocity(grid: PeriodicGrid, g: Field, measure: Field) -> Float[Array, "..."]:
    """-2 (Ric + Hess f)_ij with f = log(sqrt(det g) / m), the measure m d^k x = e^-f dV held fixed.

    The velocity that raises F fastest, and no flow: forwards in time it is ill-posed.  At a flat
    metric and constant m a longitudinal mode h_ij = k_i k_j cos(k.x) grows as e^(+|k|^2 t) and a
    transverse traceless one decays as e^(-|k|^2 t).  Convolved with a Gaussian of width s, the
    growth |k|^2 e^(-s^2 |k|^2 / 2) is at most 2 / (e s^2).

    Args:
        grid: the grid.
        g: the metric, shape (*grid, k, k).
        measure: m, shape (*grid), above zero.

    Raises:
        ValueError: g or the measure does not stand on this grid.

    Source: MF 2.40, MF 2.42
    """
    g, measure = check_tensor("g", grid, g), check_function("measure", grid, measure)
    return 2 * perelman_variation(grid, g, jnp.log(volume_density(g) / measure))


def _measure(g: Array, f: Array) -> Array:
    return jnp.exp(-f) * volume_density(g)
