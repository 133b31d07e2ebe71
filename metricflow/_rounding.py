"""Numbers that cannot be negative but for rounding."""

import jax
import jax.numpy as jnp


def cut_below_zero(x: jax.Array) -> jax.Array:
    """max(x, 0) with the derivatives of x: for what is smooth where it touches zero."""
    return x + jax.lax.stop_gradient(jnp.maximum(x, 0) - x)


def safe_sqrt(x: jax.Array) -> jax.Array:
    """sqrt(x), with value and derivative zero where x is not above zero."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)
