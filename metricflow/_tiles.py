"""Work on many points, or on their pairs, in tiles, so that intermediate results stay small.

Where a mesh is in use (:mod:`metricflow.devices`) each device has tiles of its own rows.  Functions
that need arrays besides the tile get them by :func:`carrying`: jax cannot index arrays of a mesh
that the program of one device closes over.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from . import devices
from .devices import AXIS, filled_up


def carrying(function: Callable[..., Any], *values: Any) -> Partial:
    """``function(*values, tile)`` as a function of the tile that has the arrays in values with it.

    What is no array in them, such as a function, becomes part of the program.
    """
    leaves, structure = jax.tree.flatten(values)
    numbers = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    rest = [None if number else leaf for leaf, number in zip(leaves, numbers, strict=True)]

    def call(arrays: list[Any], *tile: Any) -> Any:
        found = iter(arrays)
        both = [next(found) if number else leaf for leaf, number in zip(rest, numbers, strict=True)]
        return function(*jax.tree.unflatten(structure, both), *tile)

    return Partial(call, [leaf for leaf, number in zip(leaves, numbers, strict=True) if number])


def map_tiles(function: Callable[[Any], Any], tree: Any, chunk: int) -> Any:
    """``function`` of tiles of at most ``chunk`` rows of the arrays in a tree, results joined.

    All tiles are full, so that one program serves them: the last row fills up the last tile.
    """

    def own(tree: Any, function: Partial) -> Any:
        count = _rows(tree)
        found = jax.lax.map(function, _tiles(tree, count, chunk))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)

    return devices.by_rows(own, tree, whole=(_partial(function),))


def fill_tiles(
    function: Callable[[Any], jax.Array], tree: Any, chunk: int, axis: int = 0
) -> jax.Array:
    """Like :func:`map_tiles` for one large result: it is written in place and never copied.

    The rows of the result are along ``axis``.

    The last tile begins early enough to be full, and repeats some rows of the one before.
    """

    def own(tree: Any, function: Partial) -> jax.Array:
        count = _rows(tree)
        size = min(chunk, count)
        if size == count:
            return function(tree)

        def tile(start: jax.Array) -> jax.Array:
            def rows(leaf: jax.Array) -> jax.Array:
                return jax.lax.dynamic_slice_in_dim(leaf, start, size)

            return function(jax.tree.map(rows, tree))

        shape = jax.eval_shape(tile, jnp.zeros((), int))
        sizes = list(shape.shape)
        sizes[axis] = count
        whole = jnp.zeros(sizes, shape.dtype)

        def add(place: Any, whole: jax.Array) -> jax.Array:
            start = jnp.minimum(place * size, count - size)
            return jax.lax.dynamic_update_slice_in_dim(whole, tile(start), start, axis)

        return jax.lax.fori_loop(0, -(-count // size), add, whole)

    return devices.by_rows(own, tree, whole=(_partial(function),), out_axis=axis)


def sum_tiles(function: Callable[..., Any], trees: tuple[Any, ...], chunk: int) -> Any:
    """The sum of ``function(*tile)`` over tiles of at most ``chunk`` rows of the arrays in trees.

    The rows that fill no tile are a smaller one.
    """

    def own(trees: tuple[Any, ...], function: Partial) -> Any:
        count = _rows(trees)
        size = min(chunk, count)
        whole = count // size * size
        tiles = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), trees)
        shape = jax.eval_shape(function, *jax.tree.map(lambda x: x[0], tiles))
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)

        def add(total: Any, tile: tuple[Any, ...]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, function(*tile)), None

        total, _ = jax.lax.scan(add, start, tiles)
        if whole < count:
            total, _ = add(total, jax.tree.map(lambda x: x[whole:], trees))
        return total

    return devices.summed(own, trees, whole=(_partial(function),))


def fold_pairs(
    start: Callable[[Any], Any],
    add: Callable[[Any, Any, Any, jax.Array], Any],
    finish: Callable[[Any], Any],
    rows: Any,
    columns: Any,
    chunk: int,
) -> Any:
    """For each row a fold over all columns, in chunk x chunk tiles: memory of order N1 + N2.

    With several devices each has its rows for good, and the columns go round: nobody ever holds
    more than its part of them.

    Args:
        start: tile of rows -> what the fold begins with.
        add: (so far, tile of rows, tile of columns, which of them there are) -> so far; a tile of
            columns is filled up with copies of the last one.
        finish: what a fold ended with -> results with a row for each of the tile.
        rows: a tree of arrays with N1 rows.
        columns: a tree of arrays with N2 rows.
        chunk: points in a tile.
    """
    adding, count2 = _partial(add), _rows(columns)
    share = devices.sharing()
    each = -(-count2 // share)
    columns = jax.tree.map(lambda x: filled_up(x, each * share), columns)
    present = jnp.arange(each * share) < count2
    number, size = _number_and_size(each, chunk)

    def cut(columns: Any, present: jax.Array) -> tuple[Any, jax.Array]:
        there = jnp.pad(present, (0, number * size - each)).reshape(number, size)
        return _tiles(columns, each, chunk), there

    def over(add: Partial, total: Any, row: Any, tiles: tuple[Any, ...]) -> Any:
        return jax.lax.scan(lambda total, tile: (add(total, row, *tile), None), total, tiles)[0]

    if share == 1:
        tiles = cut(columns, present)

        def alone(rows: Any) -> Any:
            return finish(over(adding, start(rows), rows, tiles))

        return map_tiles(alone, rows, chunk)

    def own(rows: Any, columns: Any, present: jax.Array, adding: Partial) -> Any:
        count1 = _rows(rows)
        row_tiles = _tiles(rows, count1, chunk)
        ring = [(k, (k + 1) % share) for k in range(share)]

        def turn(_: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            totals, columns, present = carry
            tiles = cut(columns, present)
            totals = jax.lax.map(
                lambda pair: over(adding, pair[0], pair[1], tiles), (totals, row_tiles)
            )
            return totals, *jax.lax.ppermute((columns, present), AXIS, ring)

        begin = (jax.lax.map(start, row_tiles), columns, present)
        # after as many turns the columns are back with their owners
        totals, *_ = jax.lax.fori_loop(0, share, turn, begin)
        found = jax.lax.map(finish, totals)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count1], found)

    # rows and columns are divided by one call, so they are brought to multiples of the devices
    count1 = _rows(rows)
    total = -(-count1 // share) * share
    rows = jax.tree.map(lambda x: filled_up(x, total), rows)
    found = devices.on_each(own, rows, columns, present, whole=(adding,))
    return jax.tree.map(lambda x: x[:count1] if total > count1 else x, found)


def _partial(function: Callable[..., Any]) -> Partial:
    return function if isinstance(function, Partial) else Partial(function)


def _rows(tree: Any) -> int:
    return len(jax.tree.leaves(tree)[0])


def _number_and_size(count: int, chunk: int) -> tuple[int, int]:
    """How many tiles of at most ``chunk`` rows there are, and how large they are if even."""
    number = -(-count // chunk)
    return number, -(-count // number)


def _tiles(tree: Any, count: int, chunk: int) -> Any:
    """Tiles of one size, the last one filled up with its last row."""
    number, size = _number_and_size(count, chunk)
    return jax.tree.map(
        lambda x: filled_up(x, number * size).reshape(number, size, *jnp.shape(x)[1:]), tree
    )
