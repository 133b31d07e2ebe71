"""Gradient rules as functions of leaves: what all of them check, and how they walk the tree."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array


def paired_leaves(
    name: str, updates: optax.Updates, params: optax.Params | None
) -> tuple[list[Array], list[Array], Any]:
    """The leaves of updates and of params side by side, and the structure of updates.

    ``None`` and the nodes that optax.masked leaves behind hold no leaves.

    Raises:
        ValueError: no params, another structure or shape than the updates, or leaves that are not
            real floating point.
    """
    if params is None:
        raise ValueError(
            f"{name}: needs the latent weights; call update(updates, state, params), "
            "where updates is dL/dQ(params)"
        )
    leaves, structure = jax.tree_util.tree_flatten_with_path(updates)
    paths = [jax.tree_util.keystr(path) for path, _ in leaves]
    gradients = [jnp.asarray(leaf) for _, leaf in leaves]
    found = jax.tree.structure(params)
    if found != structure:  # type: ignore[operator]
        raise ValueError(
            f"{name}: updates and params have different trees (a mask that fits only one of them?);"
            f" got {structure} and {found}"
        )
    weights = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    for path, gradient, weight in zip(paths, gradients, weights, strict=True):
        if gradient.shape != weight.shape:
            raise ValueError(
                f"{name}: at {path or 'the root'} updates have shape {gradient.shape} "
                f"and params {weight.shape}"
            )
        check_real(name, path, gradient, weight)
    return gradients, weights, structure


def check_real(name: str, path: str, *arrays: Array) -> None:
    """Raise ValueError for a leaf that has no real derivative."""
    for array in arrays:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"{name}: expected real floating point leaves, got {array.dtype} at "
                f"{path or 'the root'}; leave it out with optax.masked or optax.partition"
            )


def check_real_tree(name: str, params: optax.Params) -> None:
    """The same for a whole tree."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        check_real(name, jax.tree_util.keystr(path), jnp.asarray(leaf))


def working_dtype(*arrays: Array) -> Any:
    """At least float32: sums over thousands of bfloat16 numbers lose all digits."""
    return jnp.result_type(jnp.float32, *(array.dtype for array in arrays))


def map_leaves(
    name: str,
    function: Callable[..., Sequence[Array]],
    updates: optax.Updates,
    params: optax.Params | None,
    *rest: Any,
    outputs: int = 1,
) -> tuple[Any, ...]:
    """``function(gradient, weight, *others)`` leaf by leaf, in the working dtype.

    Returns a tree for each of the ``outputs`` arrays of the function; the first has the dtypes of
    the updates.
    """
    gradients, weights, structure = paired_leaves(name, updates, params)
    others = [structure.flatten_up_to(tree) for tree in rest]
    found: list[list[Array]] = [[] for _ in range(outputs)]
    for gradient, weight, *more in zip(gradients, weights, *others, strict=True):
        dtype = working_dtype(gradient, weight)
        first, *tail = function(gradient.astype(dtype), weight.astype(dtype), *more)
        for column, array in zip(found, (first.astype(gradient.dtype), *tail), strict=True):
            column.append(array)
    return tuple(structure.unflatten(column) for column in found)
