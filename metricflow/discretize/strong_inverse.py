"""The strong approximation of the inverse of an LNE metric: a small network that learns it.

Kept for comparison.  The exact inverse costs O(n) (:mod:`metricflow.discretize.lne`); a network on
the n (n + 1) / 2 entries of the metric, fitted anew for every metric, can only come close to it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from .. import _checks
from .._checks import AnyArray

LARGEST = 64
"""Largest n: the network has of the order of n^2 inputs and outputs."""


def strong_inverse(
    key: Key[Array, ""],
    g: Float[AnyArray, "n n"],
    *,
    steps: int = 500,
    width: int = 64,
    learning_rate: float = 3e-3,
) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
    """A symmetric G with g G close to the identity, and |I - g G|_F at the end.

    A perceptron with one hidden layer takes the entries of g, lower triangle and diagonal, to the
    entries of G - I, and is fitted to this one metric by Adam on |I - g G|^2.

    Raises:
        ValueError: g not a square symmetric matrix of at most :data:`LARGEST` rows.

    Source: RF 24 (and Fig. 4)
    """
    g = jnp.asarray(g)
    if g.ndim != 2 or g.shape[0] != g.shape[1]:
        raise ValueError(f"g: expected a matrix of shape (n, n), got shape {g.shape}")
    n = g.shape[0]
    if n > LARGEST:
        raise ValueError(
            f"g: expected at most {LARGEST} rows for the strong approximation, got {n}; "
            "use the exact inverse, which costs O(n)"
        )
    _checks.positive_integer("steps", steps)
    _checks.positive_integer("width", width)
    _checks.finite("g", g)
    if not _checks.is_traced(g) and not jnp.allclose(g, g.T):
        raise ValueError("g: expected a symmetric matrix; a metric is one")
    rows, columns = np.tril_indices(n)
    identity = jnp.eye(n, dtype=g.dtype)
    entries = (g - identity)[rows, columns]
    entries = entries / jnp.maximum(jnp.linalg.norm(entries), jnp.finfo(g.dtype).tiny)
    first, second = jax.random.split(key)
    outer = 0.1 / math.sqrt(width)  # starts near the identity
    network = {
        "first": jax.random.normal(first, (width, entries.size), g.dtype),
        "bias": jnp.zeros(width, g.dtype),
        "second": jax.random.normal(second, (entries.size, width), g.dtype) * outer,
    }

    def inverse(network: dict[str, Array]) -> Array:
        hidden = jnp.tanh(network["first"] @ entries + network["bias"])
        lower = jnp.zeros_like(g).at[rows, columns].set(network["second"] @ hidden)
        return identity + lower + jnp.tril(lower, -1).T

    def loss(network: dict[str, Array]) -> Array:
        return jnp.sum((identity - g @ inverse(network)) ** 2)

    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    optimizer = optax.adam(schedule)

    def step(carry: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], None]:
        network, state = carry
        updates, state = optimizer.update(jax.grad(loss)(network), state)
        return (optax.apply_updates(network, updates), state), None

    (network, _), _ = jax.lax.scan(step, (network, optimizer.init(network)), length=steps)
    found = inverse(network)
    return found, jnp.linalg.norm(identity - g @ found)
