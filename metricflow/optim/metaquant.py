"""Gradient rules with a network that learns, while training, what dL/dw should be."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from .. import _checks
from ..discretize.meta_quantizer import (
    KINDS,
    Kind,
    MetaQuantizer,
    corrected_gradient,
    initial_memory,
    meta_quantizer,
)
from ..discretize.surrogates import dorefa
from ._leaves import check_real_tree, map_leaves

NAME = "metaquant_gradient"


class MetaQuantState(NamedTuple):
    """The meta quantiser, its optimiser, and what it was asked last.

    Attributes:
        count: number of updates so far.
        network: the meta quantiser, one for all leaves.
        adam: state of the optimiser of the meta quantiser.
        gradient, params, memory: inputs of the last update and the LSTM's memory before it.
        next_memory: the memory after it.
    """

    count: Array  # type: ignore[assignment]
    network: MetaQuantizer
    adam: Any
    gradient: optax.Params
    params: optax.Params
    memory: optax.Params
    next_memory: optax.Params


def metaquant_gradient(
    key: Key[Array, ""],
    kind: Kind = "multi_fc",
    *,
    hidden: int = 32,
    learning_rate: float | Array = 1e-3,
) -> optax.GradientTransformation:
    """dL/dw = M(dL/dQ, w) (1 - tanh^2 w) / max|tanh w|, with a network M that is trained along.

    After a step w -> w - rate M(G, w) ..., the next gradient G' says how the loss depends on where
    the step led: d(loss)/d(meta) = -rate G' . d(step)/d(meta).  Adam on it, which does not feel the
    rate, moves the network once in every update.  Optimisers between this and the weights
    (momentum) are not differentiated through.

    Args:
        key: draws the initial network.
        kind: "fc" (FCGrad: sees the gradient), "multi_fc" (MultiFC: a factor that sees the weight)
            or "lstm" (remembers the gradients of every weight).
        hidden: hidden units; the LSTM stores 2 ``hidden`` numbers for every weight.
        learning_rate: of Adam on the meta quantiser.

    Raises:
        ValueError: an unknown kind, hidden below 1, a rate not above 0; in ``init`` and ``update``
            leaves that are not real or do not fit, and missing params.

    Source: Chen, Wang, Pan, *MetaQuant* (2019); RF section 1
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {KINDS}, got {kind!r}")
    _checks.positive_integer("hidden", hidden)
    _checks.positive_number("learning_rate", learning_rate)
    # the scale of the loss shall not matter; eps_root keeps the derivative of the root finite
    adam = optax.scale_by_adam(eps=1e-16, eps_root=1e-36)

    def init(params: optax.Params) -> MetaQuantState:
        check_real_tree(NAME, params)
        network = meta_quantizer(key, kind, hidden)

        # buffers of their own for every part of the state, so that it can be donated
        def zeros() -> optax.Params:
            return jax.tree.map(jnp.zeros_like, params)

        def memory() -> optax.Params:
            return jax.tree.map(lambda w: initial_memory(kind, hidden, jnp.asarray(w)), params)

        count = jnp.zeros((), jnp.int32)
        return MetaQuantState(
            count, network, adam.init(network), zeros(), zeros(), memory(), memory()
        )

    def update(
        updates: optax.Updates, state: MetaQuantState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MetaQuantState]:
        def change_of_loss(network: MetaQuantizer) -> Array:
            def of_leaf(
                g: Array, _: Array, old: Array, at: Array, memory: Array
            ) -> tuple[Any, ...]:
                old, at = old.astype(g.dtype), at.astype(g.dtype)
                moved, _ = corrected_gradient(kind, network, old, at, memory)
                return g, -jnp.sum(g * moved * dorefa(at))

            before = (state.gradient, state.params, state.memory)
            _, parts = map_leaves(NAME, of_leaf, updates, params, *before, outputs=2)
            return sum(jax.tree.leaves(parts), jnp.zeros(()))

        slope = jax.grad(change_of_loss)(state.network)
        known = state.count > 0  # before the first step there is nothing to judge
        direction, moved_adam = adam.update(slope, state.adam)
        rate = jnp.where(known, learning_rate, 0)
        network = jax.tree.map(
            lambda x, d: (x - rate * d).astype(x.dtype), state.network, direction
        )
        keep = jax.tree.map(lambda new, old: jnp.where(known, new, old), moved_adam, state.adam)

        def of_leaf(g: Array, w: Array, memory: Array) -> tuple[Array, Array]:
            found, after = corrected_gradient(kind, network, g, w, memory)
            return found * dorefa(w), after.astype(jnp.float32)

        scaled, after = map_leaves(NAME, of_leaf, updates, params, state.next_memory, outputs=2)
        stored = jax.tree.map(jnp.asarray, params)
        count = optax.safe_increment(state.count)
        asked = jax.tree.map(lambda g, w: jnp.asarray(g, w.dtype), updates, stored)
        return scaled, MetaQuantState(count, network, keep, asked, stored, state.next_memory, after)

    return optax.GradientTransformation(init, update)
