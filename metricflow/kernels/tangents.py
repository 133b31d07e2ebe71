"""Tangents of a network at points: how its outputs move with its parameters.

They are kept as pairs of factors (a_l, s_l), one for every layer of a perceptron or for every leaf
of any other tree of parameters, such that the tangent kernel is

    Theta(x, x')_IJ = sum_l (a_l(x) . a_l(x')) (s_l(x)_I . s_l(x')_J).

For the weights of a layer a_l is what enters it and s_l,I is the derivative of output I by what
comes out, before the activation: a row of the Jacobian is their tensor product, which is never
formed.  For a leaf of a tree a_l = 1 and s_l is the Jacobian itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _checks
from ..ansatz import ComponentModel, Mlp, one_point

Preconditioner = Callable[[Any], Any]


class Factor(NamedTuple):
    """One term of the tangent kernel.

    Attributes:
        activation: a(x), shape (N, h); None stands for the number 1.
        sensitivity: s(x), shape (N, c, k); (1, c, k) where it is the same at all points.
    """

    activation: Float[Array, "b h"] | None
    sensitivity: Float[Array, "s c k"]


def tangents(
    apply_fn: Any,
    params: Any,
    x: Any,
    preconditioner: Preconditioner | None = None,
    *,
    whole: bool = False,
) -> list[Factor]:
    """The factors at N points, layer by layer where ``apply_fn`` is a perceptron.

    Args:
        apply_fn: see :func:`metricflow.kernels.metric_ntk`.
        params: its parameters.
        x: a tree of arrays with the points first.
        preconditioner: G^-1, applied to every row of the Jacobian.
        whole: form the Jacobian even of a perceptron: what meets preconditioned rows.
    """
    if preconditioner is None and not whole:
        if isinstance(apply_fn, ComponentModel):
            change = apply_fn.component_map(x)
            inner = tangents(apply_fn.network, params, x.inputs)
            outputs = inner[0].sensitivity.shape[1]
            if outputs != change.shape[1]:
                raise ValueError(
                    f"network: expected {change.shape[1]} components at each point, got {outputs}; "
                    "make it with ansatz.component_mlp"
                )
            return [Factor(a, change @ s) for a, s in inner]
        network = perceptron(apply_fn)
        real = all(jnp.isrealobj(leaf) for leaf in jax.tree.leaves((params, x)))
        if network is not None and real and jnp.ndim(x) == 2:
            return _layered(network, params, x)
    return _by_leaves(one_point(apply_fn), params, x, preconditioner)


def perceptron(apply_fn: Any) -> Mlp | None:
    """The perceptron that a module or its bound ``apply`` is, or None."""
    owner = getattr(apply_fn, "__self__", apply_fn)
    known = apply_fn is owner or getattr(apply_fn, "__name__", "") == "apply"
    return owner if known and isinstance(owner, Mlp) and owner.layered else None


def direction(cotangent: Any) -> Any:
    """The direction of steepest ascent that jax's gradient means: its conjugate, if complex."""
    return jax.tree.map(jnp.conj, cotangent)


def check_parameters(params: Any) -> Any:
    """The tree as jax arrays after checking that it can be differentiated."""
    params = jax.tree.map(jnp.asarray, params)
    if not jax.tree.leaves(params):
        raise ValueError("params: expected at least one array, got an empty tree")
    for path, leaf in jax.tree.leaves_with_path(params):
        name = f"params{jax.tree_util.keystr(path)}"
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ValueError(
                f"{name}: expected real or complex numbers to differentiate by, got {leaf.dtype}; "
                "bind what is no parameter in apply_fn"
            )
        _checks.finite(name, leaf)
    return params


def _layered(network: Mlp, params: Any, x: Array) -> list[Factor]:
    """Activations go forward, sensitivities go back."""
    layers = network.layers(params)
    inputs = len(layers[0][0])
    if x.shape[1] != inputs:
        raise ValueError(f"x: the network reads {inputs} numbers at each point, got {x.shape[1]}")
    entering, rises = [x], []
    for kernel, bias in layers[:-1]:
        before = entering[-1] @ kernel
        before = before if bias is None else before + bias
        after, rise = jax.jvp(network.function, (before,), (jnp.ones_like(before),))
        entering.append(after)
        rises.append(rise)
    outputs = layers[-1][0].shape[1]
    sensitivity = jnp.eye(outputs, dtype=entering[-1].dtype)[None]
    found = []
    for place in range(len(layers) - 1, -1, -1):
        weight, bias_scale = network.tangent_scales(layers[place][0].shape[0], place)
        a = weight * entering[place]
        if bias_scale:
            a = jnp.concatenate([a, jnp.full((len(x), 1), bias_scale, a.dtype)], axis=1)
        found.append(Factor(a, sensitivity))
        if place:
            back = jnp.einsum("xck,jk->xcj", sensitivity, layers[place][0])
            sensitivity = back * rises[place - 1][:, None]
    return found


def _by_leaves(
    apply: Callable[[Any, Any], Array], params: Any, x: Any, preconditioner: Preconditioner | None
) -> list[Factor]:
    """The Jacobian, a factor for every leaf; complex parameters count as pairs of real ones."""

    def rows(row: Any) -> Any:
        value, pull_back = jax.vjp(lambda p: apply(p, row), params)
        unit = jnp.eye(len(value), dtype=value.dtype)
        jacobian = jax.vmap(lambda e: direction(pull_back(e)[0]))(unit)
        return jacobian if preconditioner is None else jax.vmap(preconditioner)(jacobian)

    return [Factor(None, _real(leaf)) for leaf in jax.tree.leaves(jax.vmap(rows)(x))]


def _real(leaf: Array) -> Array:
    flat = leaf.reshape(*leaf.shape[:2], -1)
    if jnp.issubdtype(flat.dtype, jnp.complexfloating):
        flat = jnp.concatenate([flat.real, flat.imag], axis=-1)
    return flat
