"""Invariant functions of bidegree (D, D), orthonormal, as a recursion of products.

Each is a product of an invariant generator, a sum of monomials over an orbit, with a function of
lower degree, made orthogonal to the ones before it.  So a function costs one product of jets and
one row of a matrix product, however many monomials its orbit has.  How the products are found is
in ``spectral_recursion.py``.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import devices
from .._annotations import Count
from .._checks import AnyArray
from .._pytree import register_dataclass
from .._tiles import carrying, fill_tiles
from ..geometry import Points
from .jets import constant_jet, hessian_components, jet_size, multiply_jets
from .orbit_sums import OrbitSums, orbit_jets, selected_sums

_BLOCK = 32  # functions computed at a time


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SpectralBasis:
    """Invariant functions f_1 ... f_M on a hypersurface, nested by degree; f_0 = 1 is implied.

    raw_k = norm_k f_k + sum_(j<k) mixing_kj f_j, where raw_k is the orbit sum number leaf_k if that
    is not negative, else the product f_factor f_parent: the recursion of Arnoldi, which makes the
    functions orthonormal on a sample.  Built by :func:`spectral_basis`.

    Attributes:
        levels: (D, number of functions of this degree), in increasing order.
        dim: n.
        leaves: the number of orbit sums.
        powers: the largest exponents in them, see :class:`OrbitSums`.
        generators: the orbit sums that the recursion starts from.
        factor, parent, leaf: how raw functions are made, shape (M,).
        norm: what is left of a raw function outside the functions before it, shape (M,).
        mixing: its components along them, shape (M, M), lower triangular; column 0 is the
            constant function.  In single precision after :func:`compact_metric`.
    """

    levels: tuple[tuple[int, int], ...] = dataclasses.field(metadata={"static": True})
    dim: int = dataclasses.field(metadata={"static": True})
    leaves: int = dataclasses.field(metadata={"static": True})
    powers: tuple[int, int] = dataclasses.field(metadata={"static": True})
    generators: OrbitSums
    factor: Int[AnyArray, " m"]
    parent: Int[AnyArray, " m"]
    leaf: Int[AnyArray, " m"]
    norm: Float[AnyArray, " m"]
    mixing: Float[AnyArray, "m m"]

    @property
    def ambient(self) -> int:
        """The number n + 2 of homogeneous coordinates."""
        return self.dim + 2

    @property
    def degree(self) -> int:
        """The largest D."""
        return self.levels[-1][0]

    @property
    def size(self) -> int:
        """The number M of functions."""
        return sum(count for _, count in self.levels)

    def truncated(self, degree: int) -> "SpectralBasis":
        """The functions of at most this degree, which are the first of this basis."""
        levels = tuple(level for level in self.levels if level[0] <= degree)
        m = sum(count for _, count in levels)
        leaves = int(np.max(np.asarray(self.leaf)[:m])) + 1
        arrays = (self.factor[:m], self.parent[:m], self.leaf[:m], self.norm[:m])
        host = jax.tree.map(np.asarray, self.generators)
        generators = selected_sums(host, np.arange(leaves))
        shape = (levels, self.dim, leaves, generators.powers)
        return SpectralBasis(*shape, generators, *arrays, self.mixing[:m, :m])


def basis_jets(basis: SpectralBasis, points: Points) -> Float[Array, "m c b"]:
    """The jets of all functions at points: shape (M, 1 + 2n + n^2, N).  Not tiled."""
    dtype, count = points.weight.dtype, len(points.weight)
    sums = orbit_jets(basis.generators, basis.leaves, basis.powers, points)
    starts, order = _blocks(basis.levels)
    factor, parent, leaf = (jnp.asarray(x)[order] for x in (basis.factor, basis.parent, basis.leaf))
    real = jnp.asarray(order >= 0)
    norm = jnp.where(real, jnp.asarray(basis.norm, dtype)[order], 1)
    mixing = jnp.where(real[..., None], jnp.asarray(basis.mixing, dtype)[order], 0)
    # the part of the mixing inside a block makes a small triangular system
    columns = np.minimum(starts[:, None] + np.arange(_BLOCK), basis.size - 1)
    inside = jnp.tril(jnp.take_along_axis(mixing, jnp.asarray(columns)[:, None, :], axis=2), -1)
    solve = jnp.linalg.inv(inside + norm[..., None] * jnp.eye(_BLOCK, dtype=dtype))
    before = jnp.arange(basis.size) < jnp.asarray(starts)[:, None, None]
    # a column for every row there is, so that the rows enter the product as they lie
    padding = ((0, 0), (0, 0), (0, 1 + _BLOCK))
    mixing = jnp.pad(jnp.where(before, mixing, 0), padding)
    one = constant_jet(basis.dim, count, dtype)[None]
    rest = jnp.zeros((basis.size + _BLOCK, jet_size(basis.dim), count), dtype)
    # the barrier keeps the compiler from storing the start of the recursion in the program
    rows = jnp.concatenate(jax.lax.optimization_barrier((one, rest)))

    def add_block(rows: Array, block: tuple[Array, ...]) -> tuple[Array, None]:
        start, factor, parent, leaf, solve, mixing = block
        product = multiply_jets(rows[factor], rows[parent], basis.dim)
        raw = jnp.where(leaf[:, None, None] < 0, product, sums[leaf])
        known = rows.reshape(len(rows), -1)
        new = (solve @ (raw.reshape(_BLOCK, -1) - mixing @ known)).reshape(raw.shape)
        # the rows that fill up a block are zero, and the next block overwrites them
        return jax.lax.dynamic_update_slice_in_dim(rows, new, start, axis=0), None

    blocks = (jnp.asarray(starts), factor, parent, leaf, solve, mixing)
    rows, _ = jax.lax.scan(add_block, rows, blocks)
    return rows[1 : basis.size + 1]


def basis_hessians(
    basis: SpectralBasis, points: Points, *, chunk: Count = 512
) -> Float[Array, "m h b"]:
    """The n^2 real components of d_a dbar_b f_k at points: shape (M, n^2, N), tile by tile.

    The components are those of :func:`metricflow.ansatz.jets.hessian_components`.  One program for
    tiles of ``chunk`` points serves any number of points; call it outside of ``jit``.
    """
    if devices.sharing() > 1:
        return _divided_hessians(basis, points, chunk)
    count = len(points.weight)
    found = jnp.zeros((basis.size, basis.dim**2, count), points.weight.dtype)
    for start in range(0, count, chunk):
        # the last tile is filled up with its last point
        index = np.minimum(np.arange(start, start + chunk), count - 1)
        tile = _tile_hessians(basis, jax.tree.map(lambda x, i=index: jnp.asarray(x)[i], points))
        found = _write_tile(found, tile[..., : count - start], start)
    return found


@functools.partial(jax.jit, static_argnames="chunk")
def _divided_hessians(basis: SpectralBasis, points: Points, chunk: int) -> Array:
    return fill_tiles(carrying(_tile_hessians, basis), points, chunk, axis=2)


@jax.jit
def _tile_hessians(basis: SpectralBasis, tile: Points) -> Array:
    return hessian_components(basis_jets(basis, tile), basis.dim)


@functools.partial(jax.jit, donate_argnums=0)
def _write_tile(found: Array, tile: Array, start: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(found, tile, start, axis=2)


def _blocks(levels: tuple[tuple[int, int], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of functions of one degree: the row each starts at, its functions, -1 to fill up."""
    starts, order, before = [], [], 0
    for _, count in levels:
        for first in range(before, before + count, _BLOCK):
            block = np.full(_BLOCK, -1)
            block[: min(_BLOCK, before + count - first)] = np.arange(
                first, min(first + _BLOCK, before + count)
            )
            starts.append(first + 1)
            order.append(block)
        before += count
    return np.array(starts), np.array(order)
