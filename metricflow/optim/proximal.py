"""Rules that act after the step: wrappers of an optimiser that draw weights to quantised ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array

from .. import _checks
from ..discretize.quantizers import binary
from ._leaves import check_real_tree, map_leaves, paired_leaves
from .surrogates import Schedule

NAME = "proximal_quantization"


class ProximalState(NamedTuple):
    """The number of updates so far and the state of the wrapped optimiser."""

    count: Array  # type: ignore[assignment]
    inner: optax.OptState


def proximal_quantization(
    optimizer: optax.GradientTransformation,
    strength: Schedule,
    *,
    quantizer: Callable[[Array], Array] = binary,
) -> optax.GradientTransformationExtraArgs:
    """After every step of ``optimizer`` each weight moves towards Q(w), by at most ``strength``.

    w <- prox(w + step), prox(v) = Q(v) + sign(v - Q(v)) max(|v - Q(v)| - strength, 0):
    the proximal map of strength times the distance to the nearest quantised value.  In training
    the loss sees w itself; where the strength has grown beyond the steps, w is Q(w).

    Args:
        optimizer: any optax transformation that gives a step.
        strength: a number or a function of the number of updates, per update (a learning rate
            belongs into it).
        quantizer: w -> Q(w), nearest value; with :func:`metricflow.discretize.binary` levels +-1.

    Raises:
        ValueError: a negative strength; in ``init`` and ``update`` leaves that are not real or do
            not fit, and missing params.

    Source: Bai, Wang, Liberty, *ProxQuant* (2018), for binary weights
    """
    if not callable(strength) and not _checks.is_traced(strength) and not strength >= 0:
        raise ValueError(f"strength: expected a number of at least 0, got {strength!r}")
    inner = optax.with_extra_args_support(optimizer)

    def init(params: optax.Params) -> ProximalState:
        check_real_tree(NAME, params)
        return ProximalState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(
        updates: optax.Updates,
        state: ProximalState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ProximalState]:
        now = strength(state.count) if callable(strength) else strength
        # checked before the optimiser, which would fail with a message of its own
        paired_leaves(NAME, updates, params)
        updates, after = inner.update(updates, state.inner, params, **extra)

        def of_leaf(step: Array, w: Array) -> tuple[Array]:
            moved = w + step
            target = quantizer(moved)
            rest = moved - target
            shrunk = jnp.sign(rest) * jnp.maximum(jnp.abs(rest) - jnp.asarray(now, w.dtype), 0)
            return (target + shrunk - w,)

        (updates,) = map_leaves(NAME, of_leaf, updates, params)
        return updates, ProximalState(optax.safe_increment(state.count), after)

    return optax.GradientTransformationExtraArgs(init, update)
