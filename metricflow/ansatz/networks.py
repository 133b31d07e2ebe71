"""Neural networks, in Flax Linen.  The rest of the library only sees apply_fn(parameters, x).

One-point functions: features or coordinates in, one number (a potential) or several (components of
a metric) out.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .. import _checks

Activation = Callable[[Array], Array]

# a potential needs two derivatives that do not vanish
SMOOTH: dict[str, Activation] = {
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "sin": jnp.sin,
    "erf": jax.scipy.special.erf,
}
ACTIVATIONS: dict[str, Activation] = {**SMOOTH, "relu": jax.nn.relu}
PARAMETERISATIONS = ("standard", "ntk")


class Layer(nn.Module):
    """y = x W + b with W_ij of variance v / (number of inputs) and b_j of standard deviation s.

    In the NTK parameterisation the parameters are standard normal and the factors sqrt(v / inputs)
    and s stand in front of them: the same function at the start, other steps.
    """

    width: int
    variance: float = 1.0
    bias_std: float = 0.0
    bias: bool = True
    parameterisation: str = "standard"

    @nn.compact
    def __call__(self, x: Float[Array, " f"]) -> Float[Array, " w"]:
        """y at one point."""
        ntk = self.parameterisation == "ntk"
        one = nn.initializers.normal(1.0)
        scale = math.sqrt(self.variance / x.shape[-1])
        spread = nn.initializers.variance_scaling(self.variance, "fan_in", "normal")
        kernel = self.param("kernel", one if ntk else spread, (x.shape[-1], self.width), x.dtype)
        y = x @ (scale * kernel if ntk else kernel)
        if not self.bias:
            return y
        start = one if ntk else nn.initializers.normal(self.bias_std)
        offset = self.param("bias", start, (self.width,), x.dtype)
        return y + (self.bias_std * offset if ntk else offset)


class Mlp(nn.Module):
    """A perceptron: dense layers with an activation between them.

    Attributes:
        widths: of the hidden layers.
        activation: a name in ``ACTIVATIONS``, or any function of one array.
        outputs: how many numbers come out; None for a potential, one number without a bias (the
            additive constant of a potential moves no metric).
        parameterisation: ``"standard"`` or ``"ntk"``, see :class:`Layer`.
        input_variance, hidden_variance, output_variance: v of the layers.
        bias_std: standard deviation of the biases.
    """

    widths: tuple[int, ...]
    activation: str | Activation = "tanh"
    outputs: int | None = None
    parameterisation: str = "standard"
    input_variance: float = 1.0
    hidden_variance: float = 1.0
    output_variance: float = 1.0
    bias_std: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.activation, str):
            _checks.one_of("activation", self.activation, ACTIVATIONS)
        _checks.one_of("parameterisation", self.parameterisation, PARAMETERISATIONS)
        super().__post_init__()

    def setup(self) -> None:
        """The layers, under the names that Flax gives to dense layers."""
        self.dense = [
            Layer(*shape, parameterisation=self.parameterisation, name=f"Dense_{place}")
            for place, shape in enumerate(self._shapes())
        ]

    def __call__(self, x: Float[Array, " f"]) -> Float[Array, "..."]:
        """The value at one point."""
        for layer in self.dense[:-1]:
            x = self.function(layer(x))
        y = self.dense[-1](x)
        return y[0] if self.outputs is None else y

    @property
    def layered(self) -> bool:
        """Whether what is known of perceptrons holds: no subclass, and an activation by name.

        A function that comes from outside may mix neurons.
        """
        return type(self) is Mlp and isinstance(self.activation, str)

    @property
    def function(self) -> Activation:
        """The activation."""
        return ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation

    def layers(self, parameters: Any) -> list[tuple[Array, Array | None]]:
        """W and b of every layer as they act, the output layer last."""
        found = []
        for place, (_, variance, bias_std, has_bias) in enumerate(self._shapes()):
            tree = parameters["params"][f"Dense_{place}"]
            kernel, bias = tree["kernel"], tree["bias"] if has_bias else None
            if self.parameterisation == "ntk":
                kernel = math.sqrt(variance / len(kernel)) * kernel
                bias = None if bias is None else bias_std * bias
            found.append((kernel, bias))
        return found

    def tangent_scales(self, inputs: int, place: int) -> tuple[float, float]:
        """By how much a unit of weight or bias of a layer moves what comes out of it.

        Args:
            inputs: of the layer.
            place: of the layer, 0 the first.
        """
        _, variance, bias_std, has_bias = self._shapes()[place]
        if self.parameterisation == "ntk":
            return math.sqrt(variance / inputs), bias_std if has_bias else 0.0
        return 1.0, 1.0 if has_bias else 0.0

    def _shapes(self) -> list[tuple[int, float, float, bool]]:
        """Width, variance, spread of the biases and whether there are any, layer by layer."""
        variances = [self.input_variance, *[self.hidden_variance] * (len(self.widths) - 1)]
        hidden = [(w, v, self.bias_std, True) for w, v in zip(self.widths, variances, strict=True)]
        last = (self.outputs or 1, self.output_variance, self.bias_std, self.outputs is not None)
        return [*hidden, last]


class IndependentNetworks(nn.Module):
    """A network of its own for each of several numbers: its tangent kernel mixes no components.

    Attributes:
        network: of one output, the same architecture for all.
        count: how many.

    Source: MF 2.19, MF 2.20.
    """

    network: nn.Module
    count: int

    @nn.compact
    def __call__(self, x: Float[Array, " f"]) -> Float[Array, " c"]:
        """The values at one point."""
        together = nn.vmap(
            lambda module, y: module(y),
            in_axes=None,
            axis_size=self.count,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        return together(self.network, x)


class CosineNetwork(nn.Module):
    """phi_c(x) = A N^(-1/2) sum_i a_ic cos(w_i . x + b_i), whose kernel in a is a Gaussian.

    a ~ N(0, 1), w ~ N(0, s^2 / d), b uniform on (-pi, pi).  As N grows, the kernel of the output
    weights tends to A^2 / 2 exp(-s^2 |x - x'|^2 / 2d), whose integral over R^d is 1 for
    A = sqrt(2) (s^2 / 2 pi d)^(d/4); the constant in the paper does not do that, and its sum over
    inputs stands outside the cosine.

    Attributes:
        width: N.
        weight_std: s; the width of the Gaussian is sqrt(d) / s.
        outputs: how many numbers come out; None for one.
        normalised: A as above; otherwise A = sqrt(2), kernel one on the diagonal.

    Source: MF 2.32, MF 2.36, MF 2.37.
    """

    width: int
    weight_std: float = 1.0
    outputs: int | None = None
    normalised: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, " f"]) -> Float[Array, "..."]:
        """The value at one point."""
        inputs = x.shape[-1]
        spread = self.weight_std / math.sqrt(inputs)
        w = self.param("frequency", nn.initializers.normal(spread), (inputs, self.width), x.dtype)
        b = self.param("phase", _uniform_phase, (self.width,), x.dtype)
        a = self.param(
            "amplitude", nn.initializers.normal(1.0), (self.width, self.outputs or 1), x.dtype
        )
        scale = math.sqrt(2 / self.width)
        if self.normalised:
            scale *= (self.weight_std**2 / (2 * math.pi * inputs)) ** (inputs / 4)
        y = scale * (jnp.cos(x @ w + b) @ a)
        return y[0] if self.outputs is None else y


def mlp(
    widths: Sequence[int],
    activation: str | Activation = "tanh",
    *,
    input_variance: float = 0.02,
    hidden_variance: float = 1.0,
    output_variance: float = 1e-12,
    bias_std: float = 1.0,
) -> Mlp:
    """A perceptron for a potential, of features of mean square one.

    The features have long tails: a gentle first layer keeps the second derivatives of the
    potential small, random biases make it curved at all.  Small output weights let a flow begin at
    Fubini-Study, inside the Kaehler cone.

    Args:
        widths: of the hidden layers.
        activation: a name in ``SMOOTH``, or any smooth function.
        input_variance, hidden_variance, output_variance: of the layers, see :class:`Layer`.
        bias_std: standard deviation of the biases.

    Raises:
        ValueError: an unknown activation or one with a kink (its second derivative is no
            function), a width below 1, no layer.
    """
    if isinstance(activation, str) and activation not in SMOOTH:
        raise ValueError(f"activation: expected one of {sorted(SMOOTH)}, got {activation!r}")
    return Mlp(
        _hidden(widths),
        activation,
        input_variance=input_variance,
        hidden_variance=hidden_variance,
        output_variance=output_variance,
        bias_std=bias_std,
    )


def component_mlp(
    dim: int,
    widths: Sequence[int],
    activation: str | Activation = "gelu",
    *,
    parameterisation: str = "standard",
    independent: bool = False,
    output_variance: float = 1e-4,
    bias_std: float = 0.0,
) -> Mlp | IndependentNetworks:
    """A perceptron for the n^2 real components of a Hermitian matrix.

    Args:
        dim: n.
        widths: of the hidden layers.
        activation: a name in ``ACTIVATIONS`` or any function.
        parameterisation: ``"standard"`` or ``"ntk"``.
        independent: one network for each component (MF 2.19).
        output_variance: of the last layer; small, so that the metric starts near its reference.
        bias_std: standard deviation of the biases.

    Raises:
        ValueError: an unknown activation or parameterisation, a width below 1, no layer.
    """
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {sorted(ACTIVATIONS)}, got {activation!r}")
    if parameterisation not in PARAMETERISATIONS:
        raise ValueError(
            f"parameterisation: expected one of {PARAMETERISATIONS}, got {parameterisation!r}"
        )
    components = _checks.positive_integer("dim", dim) ** 2
    perceptron = Mlp(
        _hidden(widths),
        activation,
        outputs=None if independent else components,
        parameterisation=parameterisation,
        hidden_variance=2.0,
        output_variance=output_variance,
        bias_std=bias_std,
    )
    return IndependentNetworks(perceptron, components) if independent else perceptron


def initial_parameters(key: Key[Array, ""], network: nn.Module, features: Array) -> Any:
    """Random parameters of a network for features of this shape and dtype."""
    return network.init(key, features)


def _hidden(widths: Sequence[int]) -> tuple[int, ...]:
    if not widths:
        raise ValueError("widths: expected at least one hidden layer")
    return tuple(_checks.positive_integer("widths", w) for w in widths)


def _uniform_phase(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.uniform(key, shape, dtype, -jnp.pi, jnp.pi)
