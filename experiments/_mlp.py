"""A perceptron whose weight matrices are given from outside: latent, quantised or anything else.

All layers are alike: product with the weights, batch normalisation with gain and bias (or, without
it, division by the root of the fan-in), ReLU except at the end.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

EPSILON = 1e-5


class Network(NamedTuple):
    """Latent weight matrices (fan-in, fan-out), and gain and bias of layers, never quantised."""

    latent: tuple[Array, ...]
    rest: tuple[tuple[Array, Array], ...]


def network(key: Array, widths: tuple[int, ...]) -> Network:
    """He's initial weights."""
    keys = jax.random.split(key, len(widths) - 1)
    shapes = list(itertools.pairwise(widths))
    latent = tuple(
        jax.random.normal(k, shape) * (2 / shape[0]) ** 0.5
        for k, shape in zip(keys, shapes, strict=True)
    )
    return Network(latent, tuple((jnp.ones(b), jnp.zeros(b)) for _, b in shapes))


def logits(
    weights: tuple[Array, ...],
    rest: Any,
    images: Array,
    *,
    batch_norm: bool = True,
    reference: Array | None = None,
) -> Array:
    """Outputs of shape (N, classes).

    Batch normalisation takes its means and variances from ``images``, or from ``reference``, a
    batch that is sent along.
    """
    last = len(weights) - 1
    first = 0 if reference is None else len(reference)
    x = images if reference is None else jnp.concatenate([reference, images])
    for i, (w, (gain, bias)) in enumerate(zip(weights, rest, strict=True)):
        x = x @ w
        if batch_norm:
            known = x[: first or len(x)]
            x = (x - jnp.mean(known, axis=0)) / jnp.sqrt(jnp.var(known, axis=0) + EPSILON)
        else:
            x = x / w.shape[0] ** 0.5
        x = x * gain + bias
        x = jax.nn.relu(x) if i < last else x
    return x[first:]


def cross_entropy(outputs: Array, labels: Array) -> Array:
    """Mean over the images."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))


def accuracy(outputs: Array, labels: Array) -> Array:
    """Share of the images whose largest output is the right one."""
    return jnp.mean(jnp.argmax(outputs, axis=-1) == labels)
