"""Errors of averages over sampled points, whose independent units are random lines."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._checks import AnyArray


def variance_over_lines(
    influence: Float[AnyArray, " b"], line: Int[AnyArray, " b"]
) -> Float[Array, ""]:
    """The variance of the sum of contributions that are independent from line to line.

    (L / (L - 1)) sum_l (sum_(x in line l) influence_x)^2 with L lines.  The contributions add up to
    zero: for the mean of N values f_x they are (f_x - mean f) / N, for other estimates the
    linearisation.

    Args:
        influence: what each point contributes, shape (N,).
        line: which line each point is from, shape (N,): any integers, as in ``points.line``.

    Returns:
        The square of the standard error; 0 from a single line, which says nothing.

    Raises:
        ValueError: shapes that do not belong together, or no points.
    """
    influence, line = jnp.asarray(influence), jnp.asarray(line)
    if influence.ndim != 1 or influence.shape != line.shape or len(line) == 0:
        raise ValueError(
            f"influence: expected one number for each of the labels in line, got shapes "
            f"{influence.shape} and {line.shape}; pass points.line of the same points"
        )
    # labels may be any integers: rejection and slicing leave gaps and large numbers
    _, label = jnp.unique(line, return_inverse=True, size=len(line))
    by_line = jax.ops.segment_sum(influence, label, len(line))
    occupied = jax.ops.segment_max(jnp.ones_like(influence), label, len(line))
    lines = jnp.sum(occupied > 0)
    return jnp.sum(by_line**2) * lines / jnp.maximum(lines - 1, 1)


def mean_over_lines(
    values: Float[AnyArray, " b"], line: Int[AnyArray, " b"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean of values at sampled points and its standard error.

    Args:
        values: one number a point, shape (N,).
        line: which line each point is from, shape (N,).

    Raises:
        ValueError: shapes that do not belong together, or no points.
    """
    values = jnp.asarray(values)
    mean = jnp.mean(values)
    return mean, jnp.sqrt(variance_over_lines((values - mean) / max(values.size, 1), line))
