"""How a spectral basis is found: which products are independent, what makes them orthonormal.

Degree by degree on the host (Arnoldi's method with several generators): products of the generators
with functions of lower degree first, new generators where these are too few.  The basis stays well
conditioned at any degree; the monomials themselves reach a condition number of 10^16 at D = 20.
"""

import jax
import numpy as np
import scipy.linalg

from .. import _checks, processes
from ..geometry import Hypersurface, Points
from .invariant_functions import SpectralBasis
from .orbit_sums import OrbitSums, joined_sums, no_sums, orbit_sums, orbit_values, selected_sums
from .symmetry import Symmetry, invariant_dimensions, invariant_orbits, symmetry_group

_INDEPENDENT = 1e-4  # part of a normalised product outside all others that makes it a new function
_IMAGES = 64  # points at which the rounding of a function is measured
_NOISE = 0.1  # rounding that a function of mean square one may have
_AS_GOOD = 0.3  # part of the best independence that a shorter orbit must have
_GENERATOR_DEGREE = 4  # times n + 2: no generator of any group tried has a higher degree


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
