"""Work on many points in tiles, so that intermediate results stay small."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def map_tiles(function: Callable[[Any], Any], tree: Any, chunk: int) -> Any:
    """``function`` of tiles of at most ``chunk`` rows of the arrays in a tree, results joined.

    All tiles are full, so that one program serves them: the last row fills up the last tile.
    """
    count = len(jax.tree.leaves(tree)[0])
    chunk = min(chunk, count)
    tiles = -(-count // chunk)
    index = jnp.minimum(jnp.arange(tiles * chunk), count - 1).reshape(tiles, chunk)
    found = jax.lax.map(function, jax.tree.map(lambda x: jnp.asarray(x)[index], tree))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)


def fill_tiles(function: Callable[[Any], jax.Array], tree: Any, chunk: int) -> jax.Array:
    """Like :func:`map_tiles` for one large result: it is written in place and never copied.

    The last tile begins early enough to be full, and repeats some rows of the one before.
    """
    count = len(jax.tree.leaves(tree)[0])
    chunk = min(chunk, count)
    if chunk == count:
        return function(tree)

    def tile(start: jax.Array) -> jax.Array:
        def rows(leaf: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(leaf, start, chunk)

        return function(jax.tree.map(rows, tree))

    shape = jax.eval_shape(tile, jnp.zeros((), int))
    whole = jnp.zeros((count, *shape.shape[1:]), shape.dtype)

    def add(place: Any, whole: jax.Array) -> jax.Array:
        start = jnp.minimum(place * chunk, count - chunk)
        return jax.lax.dynamic_update_slice_in_dim(whole, tile(start), start, 0)

    return jax.lax.fori_loop(0, -(-count // chunk), add, whole)
