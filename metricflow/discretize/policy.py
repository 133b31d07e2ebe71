"""Which layers of a network are quantised, and how: patterns of paths, the first match decides.

The path of a layer is that of its parameters without the last name: of
``stage1_block0/conv1/kernel`` it is ``stage1_block0/conv1``.  Parameters called ``kernel`` are
quantised; biases, gains and statistics never are.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Array

from .quantizers import quantize, straight_through, unsigned

Quantizer = Callable[[Array], Array]

KERNEL = "kernel"
ENDS = ("stem", "head")
"""The first and the last layer, as the models of :mod:`metricflow.discretize` name them."""


@dataclasses.dataclass(frozen=True)
class Quantization:
    """What happens to one layer.

    Attributes:
        weights: of its kernel; None leaves it as it is.
        activations: of its input; None leaves it as it is.
    """

    weights: Quantizer | None = None
    activations: Quantizer | None = None


FULL_PRECISION = Quantization()

Policy = Sequence[tuple[str, Quantization]]
"""Pairs (regular expression, what happens to the layers in whose path it is found)."""


def quantization(policy: Policy, path: str) -> Quantization:
    """What the policy says of the layer at ``path``; full precision if nothing matches."""
    for pattern, found in policy:
        if re.search(pattern, path):
            return found
    return FULL_PRECISION


def uniform_policy(
    weights: Quantizer | None = None,
    activations: Quantizer | None = None,
    *,
    full_precision: Sequence[str] = ENDS,
) -> Policy:
    """One quantisation for all layers but some.

    Args:
        weights, activations: of all other layers.
        full_precision: names of layers (whole path components) that stay as they are; () for none.
    """
    kept = [(rf"(^|/){re.escape(name)}(/|$)", FULL_PRECISION) for name in full_precision]
    return (*kept, ("", Quantization(weights, activations)))


def weight_quantizer(bits: int, *, scale: str = "channel") -> Quantizer:
    """Q^k of kernels (inputs first, outputs last).

    Args:
        bits: of every weight.
        scale: mean|w| / mean|Q(w)| of every output ("channel"), of the kernel ("array"), or
            "none": levels in [-1, 1], as the paper has them.

    Raises:
        ValueError: another scale; bits out of range, when it is called.

    Source: RF 33, RF 34
    """
    if scale not in ("none", "array", "channel"):
        raise ValueError(f"scale: expected 'none', 'array' or 'channel', got {scale!r}")
    axis = -1 if scale == "channel" else None
    return lambda w: quantize(w, bits, scaled=scale != "none", axis=axis)


def activation_quantizer(bits: int, *, grid: str = "signed") -> Quantizer:
    """Q^k of the inputs of a layer times their scale, with the derivative of the identity.

    The paper's Q^k lies in [-1, 1].  Without a scale every layer would multiply the gradient by
    the size of its input, which the identity does not know of: that of MobileNet has norm 1e19.
    A batch normalisation after the layer hides the difference from what is predicted.

    Args:
        bits: of every activation.
        grid: "signed": the paper's levels, both signs, times mean|x| / mean|Q^k(x)|;
            "unsigned": from 0 to the largest value, for what comes out of a ReLU.

    Both take the scale from the array they get: what is predicted depends, a little, on the batch.

    Raises:
        ValueError: another grid; bits out of range, when it is called.

    Source: RF 2, RF 33, RF 34; Algorithm 1, line 5
    """
    if grid == "signed":
        return straight_through(lambda x: quantize(x, bits, scaled=True))
    if grid == "unsigned":
        return straight_through(lambda x: _unsigned(x, bits))
    raise ValueError(f"grid: expected 'signed' or 'unsigned', got {grid!r}")


def split_kernels(
    params: Mapping[str, Any], policy: Policy
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(latent, rest): quantised kernels and all other parameters, each by path.

    The inverse is :func:`joined`.

    Raises:
        ValueError: no kernel is quantised.
    """
    latent: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for path, leaf in paths(params).items():
        layer, _, name = path.rpartition("/")
        chosen = name == KERNEL and quantization(policy, layer).weights is not None
        (latent if chosen else rest)[path] = leaf
    if not latent:
        known = sorted(p.rpartition("/")[0] for p in paths(params) if p.endswith(KERNEL))
        raise ValueError(
            f"policy: quantises no kernel; layers with one are {', '.join(known) or 'none'}"
        )
    return latent, rest


def quantized_parameters(params: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """The parameters with their kernels quantised by the policy, derivative of the identity.

    For a network that is used, or trained with the straight-through estimator; the other gradient
    rules are in :mod:`metricflow.optim`.
    """

    def at(path: str, leaf: Array) -> Array:
        layer, _, name = path.rpartition("/")
        weights = quantization(policy, layer).weights if name == KERNEL else None
        return leaf if weights is None else straight_through(weights)(leaf)

    return joined({path: at(path, leaf) for path, leaf in paths(params).items()})


def paths(params: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of nested dictionaries by their path, names joined with "/"."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{path}": leaf for path, leaf in paths(value).items()}
        else:
            found[name] = value
    return found


def joined(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries from leaves by path."""
    tree: dict[str, Any] = {}
    for part in parts:
        for path, leaf in part.items():
            *parents, name = path.split("/")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = leaf
    return tree


def _unsigned(x: Array, bits: int) -> Array:
    # a scale of its own for every array: the grid of `unsigned` starts at a maximum of one
    top = x.max()
    scale = (top + (top <= 0)).astype(x.dtype)
    return unsigned(x / scale, bits) * scale
