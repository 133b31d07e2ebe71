"""Quantised layers in Flax Linen, and existing Linen models quantised from outside.

Layers are Linen's own with another product inside, so that parameters, initialisation and every
option stay those of Linen.  The latent kernel is a parameter; its gradient is dL/dQ(w), which the
rules of :mod:`metricflow.optim` take.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .policy import (
    FULL_PRECISION,
    Policy,
    Quantization,
    Quantizer,
    quantization,
    quantized_parameters,
)
from .quantizers import straight_through

_LAYERS = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.ConvTranspose, nn.ConvLocal, nn.Einsum)


def quantized_dense(features: int, how: Quantization, **fields: Any) -> nn.Dense:
    """Linen's ``Dense`` with kernel and input quantised (RF 2)."""
    return nn.Dense(features, dot_general=_quantized(jax.lax.dot_general, how), **fields)


def quantized_conv(
    features: int, kernel_size: int | Sequence[int], how: Quantization, **fields: Any
) -> nn.Conv:
    """Linen's ``Conv`` with kernel and input quantised (RF 2); zeros of the padding stay zeros."""
    product = fields.pop("conv_general_dilated", None) or jax.lax.conv_general_dilated
    return nn.Conv(features, kernel_size, conv_general_dilated=_quantized(product, how), **fields)


class NormalizedLayer(nn.Module):
    """Quantised convolution or dense layer, batch normalisation, activation.

    Attributes:
        features: outputs.
        kernel_size: of a convolution; None for a dense layer.
        how: what is quantised.
        strides: of a convolution.
        activation: after the normalisation; None for the identity.
    """

    features: int
    kernel_size: tuple[int, ...] | None = None
    how: Quantization = FULL_PRECISION
    strides: int = 1
    activation: Callable[[Array], Array] | None = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "n *s c"], *, train: bool) -> Float[Array, "n *t f"]:
        """The layer; in training the statistics are those of the batch."""
        layer: nn.Module
        if self.kernel_size is None:
            layer = quantized_dense(self.features, self.how, use_bias=False, name="dense")
        else:
            layer = quantized_conv(
                self.features,
                self.kernel_size,
                self.how,
                strides=self.strides,
                use_bias=False,
                name="conv",
            )
        y = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(layer(x))
        return y if self.activation is None else self.activation(y)


@contextlib.contextmanager
def quantized_activations(policy: Policy) -> Iterator[None]:
    """Inside, every Linen layer with a kernel gets its input quantised as the policy says."""

    def intercept(
        call: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], context: Any
    ) -> Any:
        if context.method_name == "__call__" and isinstance(context.module, _LAYERS) and args:
            activations = quantization(policy, "/".join(context.module.path)).activations
            if activations is not None:
                args = (activations(args[0]), *args[1:])
        return call(*args, **options)

    with nn.intercept_methods(intercept):
        yield


def quantized_apply(apply: Callable[..., Any], policy: Policy) -> Callable[..., Any]:
    """The ``apply`` of an existing Linen model, with kernels and inputs of its layers quantised.

    Example: ``quantized_apply(model.apply, uniform_policy(weight_quantizer(1)))(variables, x)``.
    """

    def quantized(variables: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        params = quantized_parameters(variables["params"], policy)
        with quantized_activations(policy):
            return apply({**variables, "params": params}, *args, **options)

    return quantized


def convolution_by_patches(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **options: Any,
) -> Array:
    """``jax.lax.conv_general_dilated`` of images as one matrix product of shifted slices.

    On processors, XLA's own convolution is many times slower inside loops and under vmap over
    kernels.  Takes k^2 times the memory of the input.  Anything but plain convolutions of images
    goes to XLA.
    """
    plain = all(set(d or (1,)) == {1} for d in (lhs_dilation, rhs_dilation))
    if lhs.ndim != 4 or not plain or feature_group_count != 1:
        return jax.lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            **options,
        )
    height, width, inputs, outputs = rhs.shape
    down, across = window_strides
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(lhs.shape[1:3], (height, width), window_strides, padding)
    padded = jnp.pad(lhs, ((0, 0), *map(tuple, padding), (0, 0)))
    rows = (padded.shape[1] - height) // down + 1
    columns = (padded.shape[2] - width) // across + 1
    patches = jnp.concatenate(
        [
            padded[
                :, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * across + 1 : across
            ]
            for i in range(height)
            for j in range(width)
        ],
        axis=-1,
    )
    kernel = rhs.reshape(height * width * inputs, outputs)
    return jax.lax.dot_general(
        patches, kernel, (((3,), (0,)), ((), ())), precision=options.get("precision")
    )


def _quantized(product: Callable[..., Array], how: Quantization) -> Callable[..., Array]:
    weights: Quantizer | None = how.weights and straight_through(how.weights)

    def quantized_product(x: Array, kernel: Array, *args: Any, **options: Any) -> Array:
        x = x if how.activations is None else how.activations(x)
        return product(x, kernel if weights is None else weights(kernel), *args, **options)

    return quantized_product
