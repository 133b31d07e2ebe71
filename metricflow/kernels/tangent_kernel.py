"""The metric-NTK of a finite network: dense, its diagonal, chosen components, or only products.

    Theta_IJ(x, x') = sum_theta dg_I(x)/dtheta dg_J(x')/dtheta

with I, J the real components of the metric.  It drives the flow of the metric while the network
learns (MF 2.8), and changes with its parameters.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _checks
from .._annotations import Count
from .._checks import AnyArray
from .._pytree import is_opaque, register_dataclass
from .._tiles import carrying, fill_tiles, map_tiles, sum_tiles
from ..ansatz import one_point
from .tangents import (
    Factor,
    Preconditioner,
    check_parameters,
    direction,
    tangents,
)

# rows of a tile: small enough for the products of a tile to stay in the cache of a core
_ROWS = 50
# numbers that the tangents of a tile may hold
_TANGENTS = 2**25
_EXACT = jax.lax.Precision.HIGHEST


def metric_ntk(
    apply_fn: Any,
    params: Any,
    x1: Any,
    x2: Any = None,
    *,
    preconditioner: Preconditioner | None = None,
    chunk: Count | None = None,
) -> Float[Array, "b1 b2 c c"]:
    """Theta[a, b, I, J] = sum_theta dg_I(x1_a)/dtheta dg_J(x2_b)/dtheta, dense.

    With a preconditioner it is J G^-1 J^T, what gradient descent with steps -G^-1 dE does to the
    metric: the identity gives the ordinary kernel, the inverse of an LNE metric an LNE-NTK, the
    pseudo-inverse of J^T J on a batch the projector of Gauss-Newton.

    Args:
        apply_fn: one of

            - a network ``(params, x) -> (c,)`` of one point, or of one number; a Flax module or its
              ``apply``.  An :class:`metricflow.ansatz.Mlp` goes layer by layer, which is much
              faster than any way that forms Jacobians;
            - a model of :mod:`metricflow.ansatz`: then I, J are the components of the metric itself
              and x1, x2 come from ``model.prepare(points)``.

        params: a tree of arrays, real or complex (a complex number counts as two real ones).
        x1: N1 points, an array or a tree of arrays with the points first.
        x2: N2 points; x1 by default.
        preconditioner: G^-1, a symmetric linear map from trees like ``params`` to such trees.  Give
            a ``jax.tree_util.Partial`` if it holds arrays that change: other functions compile
            again whenever they are made again.
        chunk: points of x2 whose tangents are in memory at once, by default as many as fit into
            some 10^7 numbers.

    Raises:
        ValueError: outputs that are complex or not a vector, trees of points that do not fit,
            parameters that are not numbers to differentiate by, NaN in either.

    Source: MF 2.7
    """
    x1, x2 = check_points("x1", x1), None if x2 is None else check_points("x2", x2, x1)
    params = check_parameters(params)
    chunk = None if chunk is None else _checks.positive_integer("chunk", chunk)
    return _dense(static(apply_fn), params, x1, x2, static(preconditioner), chunk)


def metric_ntk_diagonal(
    apply_fn: Any,
    params: Any,
    x: Any,
    *,
    preconditioner: Preconditioner | None = None,
) -> Float[Array, "b c c"]:
    """Theta[a, I, J] = Theta_IJ(x_a, x_a): the blocks on the diagonal.

    Arguments and errors as for :func:`metric_ntk`.

    Source: MF 2.7
    """
    x, params = check_points("x", x), check_parameters(params)
    return _diagonal(static(apply_fn), params, x, static(preconditioner))


def metric_ntk_components(
    apply_fn: Any,
    params: Any,
    x1: Any,
    x2: Any = None,
    *,
    pairs: Sequence[tuple[int, int]],
    preconditioner: Preconditioner | None = None,
    chunk: Count | None = None,
) -> Float[Array, "b1 b2 p"]:
    """Theta[a, b, p] = Theta_IJ(x1_a, x2_b) with (I, J) = pairs[p]: chosen components only.

    Arguments and errors as for :func:`metric_ntk`; pairs out of range are a ValueError.

    Source: MF 2.7
    """
    x1, x2 = check_points("x1", x1), None if x2 is None else check_points("x2", x2, x1)
    params = check_parameters(params)
    outputs = output_count(apply_fn, params, x1)
    chunk = None if chunk is None else _checks.positive_integer("chunk", chunk)
    chosen = tuple((i, j) for i, j in pairs)
    if not chosen or not all(k in range(outputs) for pair in chosen for k in pair):
        raise ValueError(
            f"pairs: expected pairs (I, J) of components 0 to {outputs - 1}, got {list(pairs)}"
        )
    return _components(static(apply_fn), params, x1, x2, static(preconditioner), chosen, chunk)


def metric_ntk_product(
    apply_fn: Any,
    params: Any,
    x1: Any,
    x2: Any,
    v: Float[AnyArray, "b2 c"],
    *,
    preconditioner: Preconditioner | None = None,
    chunk: Count = 1024,
) -> Float[Array, "b1 c"]:
    """sum_b,J Theta_IJ(x1_a, x2_b) v_bJ = J(x1) G^-1 J(x2)^T v, the kernel never formed.

    One backward pass at x2 and one forward pass at x1, in tiles: the price of two gradients and
    the memory of one tile, whatever N1 and N2 are.

    Args:
        apply_fn, params, x1, x2, preconditioner: see :func:`metric_ntk`; None for x2 is x1.
        v: a row for each point of x2, shape (N2, c).
        chunk: points in a tile.

    Raises:
        ValueError: as for :func:`metric_ntk`, and a v that does not fit.

    Source: MF 2.7, MF 2.8 (its right-hand side)
    """
    x1 = check_points("x1", x1)
    x2 = x1 if x2 is None else check_points("x2", x2, x1)
    params, v = check_parameters(params), jnp.asarray(v)
    _check_rows(apply_fn, params, x2, v)
    chunk = _checks.positive_integer("chunk", chunk)
    return _product(static(apply_fn), params, x1, x2, v, static(preconditioner), chunk)


def pulled_back(
    apply_fn: Any, params: Any, x: Any, v: Float[AnyArray, "b c"], *, chunk: Count = 1024
) -> Any:
    """J(x)^T v = sum_b,I v_bI dg_I(x_b)/dtheta, a tree like ``params``, in tiles.

    Arguments and errors as for :func:`metric_ntk_product`, of which it is the first half.

    Source: MF 2.2
    """
    x, params, v = check_points("x", x), check_parameters(params), jnp.asarray(v)
    _check_rows(apply_fn, params, x, v)
    return _pulled_back(static(apply_fn), params, x, v, _checks.positive_integer("chunk", chunk))


def static(function: Any) -> Any:
    """A function as a tree: a model or a Partial with its arrays, any other as a constant."""
    return _Static(function) if is_opaque(function) else function


def row_count(x: Any) -> int:
    """N of a tree of arrays with the points first."""
    return len(jax.tree.leaves(x)[0])


def output_count(apply_fn: Any, params: Any, x: Any) -> int:
    """c, how many numbers come out at a point."""
    row = jax.eval_shape(lambda tree: jax.tree.map(lambda leaf: leaf[0], tree), x)
    return jax.eval_shape(one_point(apply_fn), params, row).shape[0]


def check_points(name: str, x: Any, like: Any = None) -> Any:
    """A tree of points as jax arrays, after checking that its arrays belong together."""
    x = jax.tree.map(jnp.asarray, x)
    leaves = jax.tree.leaves(x)
    shapes = [leaf.shape for leaf in leaves]
    if not leaves or any(len(s) < 1 for s in shapes) or len({s[0] for s in shapes}) != 1:
        raise ValueError(
            f"{name}: expected an array or a tree of arrays with the points first, got {shapes}"
        )
    if shapes[0][0] == 0:
        raise ValueError(f"{name}: expected at least one point, got none")
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            _checks.finite(name, leaf)
    if like is not None:
        others = [leaf.shape for leaf in jax.tree.leaves(like)]
        alike = jax.tree.structure(x) == jax.tree.structure(like)  # type: ignore[operator]
        if not alike or [s[1:] for s in shapes] != [s[1:] for s in others]:
            raise ValueError(f"{name}: expected points like x1, {others}, got {shapes}")
    return x


def _check_rows(apply_fn: Any, params: Any, x: Any, v: Array) -> None:
    expected = (row_count(x), output_count(apply_fn, params, x))
    if v.shape != expected or not jnp.issubdtype(v.dtype, jnp.floating):
        raise ValueError(
            f"v: expected real numbers of shape {expected}, a row for each point, got {v.dtype} "
            f"of shape {v.shape}"
        )


@register_dataclass
@dataclasses.dataclass(frozen=True)
class _Static:
    """A function that is part of the compiled program."""

    function: Any = dataclasses.field(metadata={"static": True})


def unwrapped(tree: Any) -> Any:
    """The function behind :func:`static`."""
    return tree.function if isinstance(tree, _Static) else tree


@functools.partial(jax.jit, static_argnames="chunk")
def _dense(
    apply_fn: Any, params: Any, x1: Any, x2: Any, preconditioner: Any, chunk: int | None
) -> Array:
    return _tiled(apply_fn, params, x1, x2, preconditioner, chunk, _gram)


@functools.partial(jax.jit, static_argnames=("pairs", "chunk"))
def _components(
    apply_fn: Any,
    params: Any,
    x1: Any,
    x2: Any,
    preconditioner: Any,
    pairs: tuple[tuple[int, int], ...],
    chunk: int | None,
) -> Array:
    first, second = (list(axis) for axis in zip(*pairs, strict=True))

    def gram(left: list[Factor], right: list[Factor]) -> Array:
        total: Any = 0
        for (a, s), (b, t) in zip(left, right, strict=True):
            s, t = s[:, jnp.array(first)], t[:, jnp.array(second)]
            term = jnp.einsum("xpk,ypk->xyp", s, t, precision=_EXACT)
            total = total + (term if a is None else _inner(a, b)[:, :, None] * term)
        return total

    return _tiled(apply_fn, params, x1, x2, preconditioner, chunk, gram)


def _tiled(
    apply_fn: Any,
    params: Any,
    x1: Any,
    x2: Any,
    preconditioner: Any,
    chunk: int | None,
    gram: Any,
) -> Array:
    """gram(tangents at x1, tangents at x2), in tiles of both; (N1, N2, ...)."""
    apply_fn, preconditioner = unwrapped(apply_fn), unwrapped(preconditioner)
    x2 = x1 if x2 is None else x2

    def right(apply_fn: Any, params: Any, x: Any) -> list[Factor]:
        return tangents(apply_fn, params, x, whole=preconditioner is not None)

    if chunk is None:
        chunk = _points_at_once(functools.partial(right, apply_fn, params), x2)
    fits = row_count(x2) <= chunk
    kept = right(apply_fn, params, x2) if fits else x2

    def rows(apply_fn: Any, params: Any, preconditioner: Any, kept: Any, x: Any) -> Array:
        left = tangents(apply_fn, params, x, preconditioner)
        if fits:
            return gram(left, kept)

        def columns(apply_fn: Any, params: Any, left: list[Factor], y: Any) -> Array:
            return jnp.moveaxis(gram(left, right(apply_fn, params, y)), 1, 0)

        found = map_tiles(carrying(columns, apply_fn, params, left), kept, chunk)
        return jnp.moveaxis(found, 0, 1)

    function = carrying(rows, apply_fn, params, preconditioner, kept)
    return fill_tiles(function, x1, min(_ROWS, chunk))


@jax.jit
def _diagonal(apply_fn: Any, params: Any, x: Any, preconditioner: Any) -> Array:
    apply_fn, preconditioner = unwrapped(apply_fn), unwrapped(preconditioner)

    def blocks(apply_fn: Any, params: Any, preconditioner: Any, x: Any) -> Array:
        left = tangents(apply_fn, params, x, preconditioner)
        right = left
        if preconditioner is not None:
            right = tangents(apply_fn, params, x, whole=True)
        total: Any = 0
        for (a, s), (_, t) in zip(left, right, strict=True):
            term = jnp.einsum("xik,xjk->xij", s, t, precision=_EXACT)
            total = total + (term if a is None else jnp.sum(a**2, axis=1)[:, None, None] * term)
        return total

    few = min(_points_at_once(lambda y: tangents(apply_fn, params, y, preconditioner), x), 1024)
    return map_tiles(carrying(blocks, apply_fn, params, preconditioner), x, few)


@functools.partial(jax.jit, static_argnames="chunk")
def _product(
    apply_fn: Any, params: Any, x1: Any, x2: Any, v: Array, preconditioner: Any, chunk: int
) -> Array:
    gradient = _pulled_back(apply_fn, params, x2, v, chunk)
    preconditioner = unwrapped(preconditioner)
    step = gradient if preconditioner is None else preconditioner(gradient)

    def forward(apply_fn: Any, params: Any, step: Any, x: Any) -> Array:
        def outputs(p: Any) -> Array:
            return jax.vmap(one_point(apply_fn), in_axes=(None, 0))(p, x)

        return jax.jvp(outputs, (params,), (step,))[1]

    return map_tiles(carrying(forward, unwrapped(apply_fn), params, step), x1, chunk)


@functools.partial(jax.jit, static_argnames="chunk")
def _pulled_back(apply_fn: Any, params: Any, x: Any, v: Array, chunk: int) -> Any:
    """J(x)^T v, summed over tiles."""

    def pull(apply_fn: Any, params: Any, x: Any, v: Array) -> Any:
        apply = jax.vmap(one_point(apply_fn), in_axes=(None, 0))
        value, pull_back = jax.vjp(lambda p: apply(p, x), params)
        return direction(pull_back(v.astype(value.dtype))[0])

    return sum_tiles(carrying(pull, unwrapped(apply_fn), params), (x, v), chunk)


def _gram(left: list[Factor], right: list[Factor]) -> Array:
    """Theta of shape (N1, N2, c, c) from the tangents of N1 and N2 points."""
    total: Any = 0
    for (a, s), (b, t) in zip(left, right, strict=True):
        # one large matrix product; the axes go to their places once, at the end
        flat, other = s.reshape(-1, s.shape[2]), t.reshape(-1, t.shape[2])
        term = jnp.matmul(flat, other.T, precision=_EXACT)
        term = term.reshape(*s.shape[:2], *t.shape[:2])
        total = total + (term if a is None else _inner(a, b)[:, None, :, None] * term)
    return total.transpose(0, 2, 1, 3)


def _inner(a: Array, b: Array | None) -> Array:
    return jnp.einsum("xk,yk->xy", a, b, precision=_EXACT)


def _points_at_once(factors: Any, x: Any) -> int:
    """How many points have tangents of at most _TANGENTS numbers."""
    one = jax.eval_shape(lambda tree: factors(jax.tree.map(lambda leaf: leaf[:1], tree)), x)
    return max(1, _TANGENTS // sum(leaf.size for leaf in jax.tree.leaves(one)))
