"""Dataclasses as pytrees."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

import jax
from jax.tree_util import GetAttrKey

Cls = TypeVar("Cls", bound=type)


def register_dataclass(cls: Cls) -> Cls:
    """Make a dataclass a pytree: fields are leaves unless marked ``metadata={"static": True}``.

    Two classes never have equal tree structures, as they can with the function of this name in
    jax, which compares fields only: there, two kernels with the same fields may share compiled
    code.  Rebuilding a tree does not run ``__post_init__``: its leaves may be placeholders.
    """
    fields = dataclasses.fields(cls)
    static = tuple(f.name for f in fields if f.metadata.get("static", False))
    leaves = tuple(f.name for f in fields if f.name not in static)

    def flatten(tree: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(tree, k) for k in leaves), tuple(getattr(tree, k) for k in static)

    def flatten_with_keys(tree: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children, options = flatten(tree)
        return tuple((GetAttrKey(k), v) for k, v in zip(leaves, children, strict=True)), options

    def unflatten(options: tuple[Any, ...], children: Iterable[Any]) -> Any:
        tree: Any = object.__new__(cls)
        for name, value in zip((*leaves, *static), (*children, *options), strict=True):
            object.__setattr__(tree, name, value)  # the class may be frozen
        return tree

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def is_opaque(value: Any) -> bool:
    """True for what is no pytree, such as a function: jit cannot take it as an argument."""
    return any(leaf is value for leaf in jax.tree.leaves(value))
