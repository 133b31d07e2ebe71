"""Meta quantisers: small networks, shared by all weights, that turn dL/dQ(w) into dL/dw.

Each weight is one input.  All are written as a correction of the straight-through gradient that
starts at zero, and see the gradient in units of its root mean square, so that nothing has to be
learned before the first useful step and the scale of the loss does not matter.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .. import _checks

Kind = Literal["fc", "multi_fc", "lstm"]
KINDS = ("fc", "multi_fc", "lstm")


class MetaQuantizer(NamedTuple):
    """Weights of a meta quantiser with h hidden units (4h rows for the gates of the LSTM).

    Attributes:
        inner: from input and, for the LSTM, hidden state, shape (rows, inputs).
        bias: shape (rows,).
        outer: shape (h,); zero at the start.
        offset: shape ().
    """

    inner: Float[Array, "r i"]
    bias: Float[Array, " r"]
    outer: Float[Array, " h"]
    offset: Float[Array, ""]


def meta_quantizer(key: Key[Array, ""], kind: Kind, hidden: int = 32) -> MetaQuantizer:
    """Initial weights, in float32.

    Raises:
        ValueError: an unknown kind, or no hidden units.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {KINDS}, got {kind!r}")
    _checks.positive_integer("hidden", hidden)
    rows, inputs = (4 * hidden, 1 + hidden) if kind == "lstm" else (hidden, 1)
    first, second = jax.random.split(key)
    return MetaQuantizer(
        jax.random.normal(first, (rows, inputs), jnp.float32) / inputs**0.5,
        jax.random.normal(second, (rows,), jnp.float32) * 0.5,
        jnp.zeros(hidden, jnp.float32),
        jnp.zeros((), jnp.float32),
    )


def initial_memory(kind: Kind, hidden: int, w: Array) -> Float[Array, "2 *s h"]:
    """Hidden and cell state of the LSTM for every weight, float32 zeros; else empty."""
    shape = (2, *w.shape, hidden) if kind == "lstm" else (2, *w.shape, 0)
    return jnp.zeros(shape, jnp.float32)


def corrected_gradient(
    kind: Kind,
    network: MetaQuantizer,
    gradient: Float[Array, "*s"],
    w: Float[Array, "*s"],
    memory: Float[Array, "2 *s h"],
) -> tuple[Float[Array, "*s"], Float[Array, "2 *s h"]]:
    """M(dL/dQ(w), w) and the memory after it, with G = dL/dQ(w) and r its root mean square.

    fc: G + r FC(G / r); multi_fc: G (1 + FC(w / mean|w|)); lstm: G + r FC(LSTM(G / r)).

    Source: Chen, Wang, Pan, *MetaQuant* (2019): FCGrad, MultiFC, LSTMFC; RF section 1
    """
    root = jnp.sqrt(jnp.mean(gradient**2))
    unit = gradient / jnp.where(root == 0, 1, root)
    if kind == "multi_fc":
        scale = jnp.mean(jnp.abs(w))
        inputs = w / jnp.where(scale == 0, 1, scale)
        return gradient * (1 + _dense(network, inputs)), memory
    if kind == "fc":
        return gradient + root * _dense(network, unit), memory
    hidden, cell = memory
    both = jnp.concatenate([unit[..., None], hidden], axis=-1)
    gates = jnp.split(both @ network.inner.T + network.bias, 4, axis=-1)
    forget, accept, show = (jax.nn.sigmoid(x) for x in gates[:3])
    cell = forget * cell + accept * jnp.tanh(gates[3])
    hidden = show * jnp.tanh(cell)
    correction = hidden @ network.outer + network.offset
    return gradient + root * correction, jnp.stack([hidden, cell])


def _dense(network: MetaQuantizer, x: Array) -> Array:
    layer = jnp.tanh(x[..., None] * network.inner[:, 0] + network.bias)
    return layer @ network.outer + network.offset
