"""Neural networks, in Flax Linen.  The rest of the library only sees apply_fn(parameters, x)."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Key

from .. import _checks

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jax.numpy.tanh,
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "sin": jax.numpy.sin,
}


class Mlp(nn.Module):
    """A perceptron from features to one number: dense layers, an activation between them."""

    widths: tuple[int, ...]
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x: Float[Array, " f"]) -> Float[Array, ""]:
        """The value at one point."""
        for layer, width in enumerate(self.widths):
            # features of mean square one have long tails: a gentle first layer keeps the second
            # derivatives of the potential small, random biases make it curved at all
            spread = 0.02 if layer == 0 else 1.0
            dense = nn.Dense(
                width,
                param_dtype=x.dtype,
                kernel_init=nn.initializers.variance_scaling(spread, "fan_in", "normal"),
                bias_init=nn.initializers.normal(1.0),
            )
            x = ACTIVATIONS[self.activation](dense(x))
        # no bias: the additive constant of a potential moves no metric; small weights at the
        # start: the flow begins at Fubini-Study, inside the Kaehler cone
        small = nn.initializers.variance_scaling(1e-12, "fan_in", "normal")
        return nn.Dense(1, param_dtype=x.dtype, use_bias=False, kernel_init=small)(x)[0]


def mlp(widths: Sequence[int], activation: str = "tanh") -> Mlp:
    """A perceptron with these hidden widths.

    Raises:
        ValueError: an unknown activation, a width below 1, no layer.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {sorted(ACTIVATIONS)}, got {activation!r}")
    if not widths:
        raise ValueError("widths: expected at least one hidden layer")
    return Mlp(tuple(_checks.positive_integer("widths", w) for w in widths), activation)


def initial_parameters(key: Key[Array, ""], network: nn.Module, features: Array) -> Any:
    """Random parameters of a network for features of this shape."""
    return network.init(key, features)
