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
