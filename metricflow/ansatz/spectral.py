"""Spectral potentials: phi = sum_k c_k f_k over the invariant functions of bidegree (D, D).

The functions are built degree by degree as products of a few invariant generators with functions
of lower degree, each made orthogonal to the ones before it.  So a function costs one
product of jets and one row of a matrix product, however many monomials its orbit has, and the
basis stays well conditioned at any degree (the monomials themselves reach a condition number of
10^16 at D = 20).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Complex, Float, Int

from .. import _checks, devices, processes
from .._checks import AnyArray
from .._pytree import register_dataclass
from .._tiles import carrying, fill_tiles, map_tiles
from ..geometry import Hypersurface, Points, fubini_study_metric, points_at
from .global_metric import GlobalMetric
from .jets import (
    components_to_hermitian,
    constant_jet,
    hessian_components,
    jet_size,
    multiply_jets,
)
from .orbit_sums import (
    OrbitSums,
    joined_sums,
    no_sums,
    orbit_jets,
    orbit_sums,
    orbit_values,
    selected_sums,
)
from .symmetry import (
    Symmetry,
    invariant_dimensions,
    invariant_orbits,
    symmetry_group,
)

_INDEPENDENT = 1e-4  # part of a normalised product outside all others that makes it a new function
_IMAGES = 64  # points at which the rounding of a function is measured
_NOISE = 0.1  # rounding that a function of mean square one may have
_TILE = 256  # points evaluated at a time
_BLOCK = 32  # functions computed at a time
_AS_GOOD = 0.3  # part of the best independence that a shorter orbit must have
_GENERATOR_DEGREE = 4  # times n + 2: no generator of any group tried has a higher degree


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


def spectral_basis(
    manifold: Hypersurface,
    degree: int,
    points: Points,
    *,
    symmetry: Symmetry | None = None,
    start: SpectralBasis | None = None,
) -> SpectralBasis:
    """The independent invariant functions of bidegree up to (D, D) on a hypersurface.

    Their number is known beforehand (:func:`invariant_dimensions`), so that dependent products,
    there because of P = 0 and of relations among invariants, are recognised without a threshold.
    The recursion amplifies rounding, three to five times a degree; from about D = 22 on a few
    functions of which nothing but rounding would be left are dropped.

    Args:
        manifold: the hypersurface.
        degree: D.
        points: points of it, at least 3/2 of the number of functions; which ones only decides
            which of many equivalent bases comes out.
        symmetry: the group; by default the one :func:`symmetry_group` finds.
        start: a basis of lower degree for the same manifold and group, to go on from.

    Raises:
        ValueError: a degree below 1, too few points, no invariant function up to this degree.
    """
    degree = _checks.positive_integer("degree", degree)
    symmetry = symmetry_group(manifold) if symmetry is None else symmetry
    dimensions = invariant_dimensions(symmetry, degree)
    if dimensions[-1] < 2:
        raise ValueError(f"degree: no invariant function but the constant up to D = {degree}")
    if 2 * len(points.weight) < 3 * dimensions[-1]:
        raise ValueError(
            f"points: {dimensions[-1]} functions need at least {3 * dimensions[-1] // 2 + 1} "
            f"points to be told apart, got {len(points.weight)}"
        )
    z = processes.on_host(points.z).astype(np.complex128)
    builder = _Builder(z / np.linalg.norm(z, axis=1, keepdims=True), start, manifold.dim)
    for d in range(builder.degree + 1, degree + 1):
        builder.add_level(d, int(dimensions[d]), symmetry)
    return builder.basis()


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
    basis: SpectralBasis, points: Points, *, chunk: int = 512
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


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SpectralMetric(GlobalMetric):
    """g = g_FS + d dbar phi with phi = sum_k c_k f_k: Kaehler and chart-free by construction.

    Attributes:
        manifold: the hypersurface.
        basis: the functions f_k.
        coefficients: c, shape (M,).
    """

    manifold: Hypersurface
    basis: SpectralBasis
    coefficients: Float[AnyArray, " m"]

    def at(self, points: Points) -> Array:
        """g at points in their charts, shape (N, n, n)."""
        dim = self.manifold.dim

        def correction(metric: SpectralMetric, tile: Points) -> Array:
            components = hessian_components(basis_jets(metric.basis, tile), dim)
            total = jnp.einsum("k,khx->hx", jnp.asarray(metric.coefficients), components)
            return components_to_hermitian(total, dim)

        return fubini_study_metric(points) + map_tiles(carrying(correction, self), points, _TILE)

    def potential(self, z: Complex[AnyArray, "*b k"]) -> Float[Array, "*b"]:
        """phi at z, a function on the hypersurface."""
        flat = jnp.asarray(z).reshape(-1, self.manifold.ambient)
        points = points_at(self.manifold, flat, check=False)
        values = basis_jets(self.basis, points)[:, 0]
        return (jnp.asarray(self.coefficients) @ values).reshape(jnp.shape(z)[:-1])


def compact_metric(metric: SpectralMetric, points: Points) -> SpectralMetric:
    """The same metric with the mixing of its basis in single precision: a file half as large.

    Whatever part of earlier functions a recursion takes away, the functions span the same space:
    rounding the mixing costs some orthogonality, and new coefficients make up for it.

    Args:
        metric: a fitted metric.
        points: points of its hypersurface, at least 3/2 of the number of functions.

    Raises:
        ValueError: too few points, or functions that are no longer independent.
    """
    size, count = metric.basis.size, len(points.weight)
    if 2 * count < 3 * size:
        raise ValueError(f"points: expected at least {3 * size // 2 + 1}, got {count}")
    mixing = np.asarray(metric.basis.mixing).astype(np.float32)
    basis = dataclasses.replace(metric.basis, mixing=mixing)
    before, after = (processes.on_host(_values(b, points)) for b in (metric.basis, basis))
    columns = np.concatenate([np.ones((1, count)), after]).T
    found, _, rank, _ = np.linalg.lstsq(columns, np.asarray(metric.coefficients) @ before)
    if rank <= size:
        raise ValueError(f"points: {size + 1} functions have rank {rank} after rounding")
    return dataclasses.replace(metric, basis=basis, coefficients=found[1:])


@jax.jit
def _values(basis: SpectralBasis, points: Points) -> Array:
    return basis_jets(basis, points)[:, 0]


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


class _Builder:
    """Adds levels to a basis, with the values of all functions at the sample on the host."""

    def __init__(self, z: np.ndarray, start: SpectralBasis | None, dim: int):
        self.z, self.dim = z, dim
        self.levels: list[tuple[int, int]] = []
        self.parts: list[tuple[np.ndarray, ...]] = []  # factor, parent, leaf, norm, mixing
        # the functions at the sample, the constant first, and at some of its points once more in
        # other homogeneous coordinates: what differs is rounding
        self.values = np.ones((1, len(z)))
        self.image = z[:_IMAGES] * np.exp(1j)
        self.image_values = np.ones((1, len(self.image)))
        self.row_degree = np.zeros(1, int)
        self.generators: list[tuple[int, int]] = []  # (row, degree)
        self.sums = no_sums(z.shape[1])
        self.degree = 0
        if start is not None:
            known = jax.tree.map(np.asarray, start)
            self.sums, first = known.generators, 0
            for degree, count in known.levels:
                rows = slice(first, first + count)
                self._append(
                    degree,
                    known.factor[rows],
                    known.parent[rows],
                    known.leaf[rows],
                    known.norm[rows].astype(float),
                    known.mixing[rows].astype(float),
                )
                first += count
            self.degree = start.degree

    def basis(self) -> SpectralBasis:
        size = len(self.values) - 1
        mixing = np.zeros((size, size))
        first = 0
        for *_, part in self.parts:
            columns = min(part.shape[1], size)
            mixing[first : first + len(part), :columns] = part[:, :columns]
            first += len(part)
        factor, parent, leaf, norm = (
            np.concatenate([part[i] for part in self.parts]) for i in range(4)
        )
        shape = (tuple(self.levels), self.dim, len(self.generators), self.sums.powers)
        return SpectralBasis(*shape, self.sums, factor, parent, leaf, norm, mixing)

    def add_level(self, degree: int, dimension: int, symmetry: Symmetry) -> None:
        """Functions of a degree until there are ``dimension``, the constant included."""
        self.degree = degree
        needed = dimension - len(self.values)
        if needed <= 0:
            return
        span, triangle = np.linalg.qr(self.values.T)
        factor, parent = products = self._products(degree)
        raw = self.values[factor] * self.values[parent]
        chosen = _independent(raw, needed, span)
        (factor, parent), kept = products[:, chosen], raw[chosen]
        leaf = np.full(len(chosen), -1)
        if len(chosen) < needed:
            whole = np.concatenate([span, _orthonormal(kept, span)], axis=1)
            leaves = self._new_generators(degree, needed - len(chosen), symmetry, whole)
            kept = np.concatenate([kept, leaves])
            none = np.zeros(len(leaves), int)
            factor, parent = np.concatenate([factor, none]), np.concatenate([parent, none])
            first = len(self.generators)
            leaf = np.concatenate([leaf, np.arange(first, first + len(leaves))])
        while len(kept):
            recursion = (factor, parent, leaf, *_arnoldi(kept, span, triangle))
            sound = self._sound(*recursion)
            if np.all(sound):
                self._append(degree, *recursion)
                return
            factor, parent, leaf, kept = (x[sound] for x in (factor, parent, leaf, kept))

    def _sound(self, *recursion: np.ndarray) -> np.ndarray:
        """Which new functions are the same in other coordinates: of others all is rounding.

        Orbit sums are kept: they are exact, only what is taken away from them is not.
        """
        leaf = recursion[2]
        values = _next_values(self.sums, self.z[:_IMAGES], self.values[:, :_IMAGES], *recursion)
        image = _next_values(self.sums, self.image, self.image_values, *recursion)
        return (np.abs(values - image).max(axis=1) < _NOISE) | (leaf >= 0)

    def _new_generators(
        self, degree: int, missing: int, symmetry: Symmetry, span: np.ndarray
    ) -> np.ndarray:
        """The values of orbit sums that the products miss.

        The sums of short orbits are cheap, but may lie so close to known functions that rounding
        drowns what is new in them: of all orbits the shortest that do about as well as any.
        """
        if degree > _GENERATOR_DEGREE * self.z.shape[1]:
            return self.values[:0]
        few = min(len(self.z), 2 * span.shape[1] + 100)  # points enough to tell them apart
        span = np.linalg.qr(span[:few])[0]
        orbits = sorted(invariant_orbits(symmetry, degree), key=len)
        sums = orbit_sums(orbits, symmetry.conjugation)
        values = orbit_values(sums, self.z[:few])
        lengths = np.bincount(sums.owner)
        best = _newness(values, missing, span)
        for length in sorted(set(lengths.tolist())):
            short = np.flatnonzero(lengths <= length)
            if len(short) < missing:
                continue
            if _newness(values[short], missing, span) >= _AS_GOOD * best:
                break
        owners = np.sort(short[_independent(values[short], missing, span)])
        chosen = selected_sums(sums, owners)
        self.sums = joined_sums(self.sums, chosen, len(self.generators))
        return orbit_values(chosen, self.z)

    def _products(self, degree: int) -> np.ndarray:
        """Rows (generator, function of complementary degree): shape (2, C)."""
        pairs = [
            np.stack([np.full(len(parents), row), parents])
            for row, own in self.generators
            if len(parents := np.flatnonzero(self.row_degree == degree - own)) and own < degree
        ]
        return np.concatenate([np.zeros((2, 0), int), *pairs], axis=1)

    def _append(
        self,
        degree: int,
        factor: np.ndarray,
        parent: np.ndarray,
        leaf: np.ndarray,
        norm: np.ndarray,
        mixing: np.ndarray,
    ) -> None:
        before, new = len(self.values), len(norm)
        recursion = (factor, parent, leaf, norm, mixing)
        values = _next_values(self.sums, self.z, self.values, *recursion)
        image = _next_values(self.sums, self.image, self.image_values, *recursion)
        self.values = np.concatenate([self.values, values])
        self.image_values = np.concatenate([self.image_values, image])
        self.levels.append((degree, new))
        self.parts.append((factor, parent, leaf, norm, mixing))
        self.row_degree = np.concatenate([self.row_degree, np.full(new, degree)])
        self.generators += [(before + int(row), degree) for row in np.flatnonzero(leaf >= 0)]


def _next_values(
    sums: OrbitSums,
    z: np.ndarray,
    known: np.ndarray,
    factor: np.ndarray,
    parent: np.ndarray,
    leaf: np.ndarray,
    norm: np.ndarray,
    mixing: np.ndarray,
) -> np.ndarray:
    """The functions that follow the known ones in the recursion, at points with |z| = 1."""
    raw = known[factor] * known[parent]
    is_leaf = leaf >= 0
    if np.any(is_leaf):
        raw[is_leaf] = orbit_values(selected_sums(sums, leaf[is_leaf]), z)
    before, new = len(known), len(norm)
    inside = np.tril(mixing[:, before : before + new], -1)
    inside = np.pad(inside, ((0, 0), (0, new - inside.shape[1]))) + np.diag(norm)
    return scipy.linalg.solve_triangular(inside, raw - mixing[:, :before] @ known, lower=True)


def _independent(rows: np.ndarray, count: int, span: np.ndarray) -> np.ndarray:
    """The indices of at most ``count`` rows, the most independent of ``span`` first."""
    order, size = _pivots(rows, span)
    return order[size > _INDEPENDENT][:count]


def _newness(rows: np.ndarray, count: int, span: np.ndarray) -> float:
    """The part outside everything else of the last of the ``count`` most independent rows."""
    _, size = _pivots(rows, span)
    return float(size[count - 1]) if len(size) >= count else 0.0


def _pivots(rows: np.ndarray, span: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows by decreasing part outside of ``span`` and of the rows before, and these parts."""
    if len(rows) == 0:
        return np.zeros(0, int), np.zeros(0)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    outside = rows / np.where(length > 0, length, 1)
    for _ in range(2):  # twice is enough
        outside = outside - (outside @ span) @ span.T
    if rows.shape[1] > 2 * len(rows):  # a sketch keeps the geometry and is faster to factor
        sketch = np.random.default_rng(0).normal(size=(rows.shape[1], 2 * len(rows)))
        outside = outside @ (sketch / sketch.shape[1] ** 0.5)
    triangle, order = scipy.linalg.qr(outside.T, mode="r", pivoting=True, check_finite=False)
    size = np.abs(np.diagonal(triangle))
    return order[: len(size)], size


def _arnoldi(
    raw: np.ndarray, span: np.ndarray, triangle: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """norm and mixing that make raw functions orthonormal, to all before and to each other.

    The functions before are the rows of (span @ triangle)^T; the mean square is to be one.
    """
    along = np.zeros((len(raw), span.shape[1]))
    outside = raw
    for _ in range(2):
        part = outside @ span
        along, outside = along + part, outside - part @ span.T
    before = scipy.linalg.solve_triangular(triangle, along.T).T
    inside = np.linalg.qr(outside.T)[1].T / raw.shape[1] ** 0.5
    sign = np.where(np.diagonal(inside) < 0, -1, 1)
    inside = inside * sign
    return np.diagonal(inside).copy(), np.concatenate([before, np.tril(inside, -1)], axis=1)


def _orthonormal(rows: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span what rows have outside ``span``."""
    columns = rows.T / np.linalg.norm(rows, axis=1)
    if columns.shape[1] == 0:
        return columns
    for _ in range(2):
        columns = columns - span @ (span.T @ columns)
        columns = np.linalg.qr(columns)[0]
    return columns
