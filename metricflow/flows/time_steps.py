"""Steps in time of d(state)/dt = v(state), for states that are trees of arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _checks

_GAMMA = 1 + 0.5**0.5  # makes the method L-stable

Time = float | Float[Array, ""]


def checked_step_sizes(step_sizes: Float[Array, " s"]) -> Float[Array, " s"]:
    """The step sizes as an array.

    Raises:
        ValueError: none, or not all finite and above zero.
    """
    step_sizes = jnp.asarray(step_sizes, float)
    if step_sizes.ndim != 1 or not len(step_sizes):
        raise ValueError(
            f"step_sizes: expected a vector of at least one, got shape {step_sizes.shape}; for "
            "instance jnp.full(100, 0.01)"
        )
    _checks.positive_number("step_sizes", step_sizes)
    return step_sizes


def runge_kutta_step(
    velocity: Callable[[Any], Any], state: Any, dt: Time, *, first: Any = None
) -> Any:
    """One step of the classical Runge-Kutta method of order 4.

    Stable on the negative real axis for |dt lambda| < 2.78: dt < 2.78 / k^2 for the heat equation
    with wave numbers up to k.

    Args:
        velocity: v.
        state: u.
        dt: the step.
        first: v(u), if it is known.

    Raises:
        ValueError: a state with NaN or infinity.
    """
    _checks.finite_tree("state", state)
    k1 = velocity(state) if first is None else first
    k2 = velocity(_add(state, dt / 2, k1))
    k3 = velocity(_add(state, dt / 2, k2))
    k4 = velocity(_add(state, dt, k3))
    return jax.tree.map(
        lambda s, a, b, c, d: s + dt / 6 * (a + 2 * b + 2 * c + d), state, k1, k2, k3, k4
    )


def implicit_euler_step(
    velocity: Callable[[Any], Any],
    solve: Callable[[Any, Any], Any],
    state: Any,
    dt: Time,
    *,
    first: Any = None,
) -> Any:
    """One step of the linearly implicit method of order 1: u <- u + (1 - dt A)^-1 dt v(u).

    For A = dv/du it is L-stable, and Newton's method for v(u) = 0 as dt goes to infinity.

    Args:
        velocity: v.
        solve: (right side, c) -> u with (1 - c A) u = right side.
        state: u.
        dt: the step.
        first: v(u), if it is known.

    Raises:
        ValueError: a state with NaN or infinity.
    """
    _checks.finite_tree("state", state)
    first = velocity(state) if first is None else first
    return _add(state, 1, solve(jax.tree.map(lambda v: dt * v, first), dt))


def rosenbrock_step(
    velocity: Callable[[Any], Any],
    solve: Callable[[Any, Any], Any],
    state: Any,
    dt: Time,
    *,
    first: Any = None,
) -> Any:
    """One step of the linearly implicit method of order 2, whatever the approximate Jacobian is.

        (1 - gamma dt A) k1 = dt v(u),  (1 - gamma dt A) k2 = dt v(u + k1) - 2 k1,
        u <- u + (3 k1 + k2) / 2,       gamma = 1 + 1 / sqrt(2)

    The order does not depend on A; a good A, close to dv/du where that is large, makes the step
    stable for any dt (L-stable for A = dv/du).  Verwer, Spee, Blom and Hundsdorfer (SIAM J. Sci.
    Comput. 20, 1999) call it ROS2.

    Args:
        velocity: v.
        solve: (right side, c) -> u with (1 - c A) u = right side.
        state: u.
        dt: the step.
        first: v(u), if it is known.

    Raises:
        ValueError: a state with NaN or infinity.
    """
    _checks.finite_tree("state", state)
    c = _GAMMA * dt
    first = velocity(state) if first is None else first
    k1 = solve(jax.tree.map(lambda v: dt * v, first), c)
    moved = velocity(_add(state, 1, k1))
    k2 = solve(jax.tree.map(lambda v, k: dt * v - 2 * k, moved, k1), c)
    return jax.tree.map(lambda s, a, b: s + 1.5 * a + 0.5 * b, state, k1, k2)


def _add(state: Any, factor: Any, change: Any) -> Any:
    return jax.tree.map(lambda s, c: s + factor * c, state, change)
