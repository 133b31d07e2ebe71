"""A valid small call of a public function, and which transformations of jax apply to it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Call(NamedTuple):
    """``function(*arguments)``, all arguments trees of arrays in double precision.

    Attributes:
        skip: check -> reason in a word, for what does not apply: ``jit``, ``vmap``, ``grad``,
            ``dtype`` (dtypes follow the input), ``hidden`` (so do those inside), ``single`` (values
            agree with double precision).  What has ``hidden: "single"`` works in single precision
            inside, and its roundings are of that size.
            ``grad: "loop"`` means forward derivatives only.
        rough: factor on the tolerance of single precision, for what is badly conditioned.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    skip: dict[str, str]
    rough: float


def call(function: Callable[..., Any], *arguments: Any, rough: float = 1.0, **skip: str) -> Call:
    arguments = jax.tree.map(jnp.asarray, arguments)
    return Call(function, arguments, skip, rough)


def numbers(seed: int, *shape: int, scale: float = 1.0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale)


def complex_numbers(seed: int, *shape: int, scale: float = 1.0) -> jax.Array:
    return numbers(seed, *shape, scale=scale) + 1j * numbers(seed + 1000, *shape, scale=scale)


def symmetric(a: jax.Array) -> jax.Array:
    return (a + a.swapaxes(-2, -1)) / 2


def hermitian(a: jax.Array) -> jax.Array:
    return (a + a.swapaxes(-2, -1).conj()) / 2


def on_hermitian(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a matrix as one of any matrix: derivatives along Hermitian ones."""
    return lambda g, *rest: function(hermitian(g), *rest)


def on_symmetric(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda g, *rest: function(symmetric(g), *rest)


def like(tree: Any, x: jax.Array) -> Any:
    """In the precision of x."""
    dtypes = {"f": x.real.dtype, "c": jnp.result_type(x.real.dtype, 1j)}
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf).astype(
            dtypes.get(jnp.asarray(leaf).dtype.kind, jnp.asarray(leaf).dtype)
        ),
        tree,
    )
