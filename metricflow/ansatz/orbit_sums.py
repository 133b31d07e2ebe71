"""Invariant functions as sums over orbits of monomials: their values, and their jets.

The leaves of a spectral basis.  Jacobi polynomials of |z_i|^2 / |z|^2 stand for powers, whose sums
are nearly dependent.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._checks import AnyArray
from ..geometry import Points
from .jets import (
    holomorphic_monomials,
    multiply_jets,
    norm_jets,
    norm_power_jets,
    pack_jet,
)
from .symmetry import Orbit, distinct_rows

_VANISHING = 1e-10  # an orbit sum this small beside its terms is zero: they cancel
_ENTRIES = 2 * 10**7  # monomials times points held at a time


class OrbitSums(NamedTuple):
    """Functions sum_t Re(c_t z^r_t zbar^s_t) / |z|^(2|r_t|) prod_i P_(m_ti)(u_i).

    With u_i = |z_i|^2 / |z|^2.  One for each orbit of pairs (p, q): m_i = min(p_i, q_i),
    r = p - m, s = q - m, and the Jacobi polynomial P_m of degree m in place of u_i^m.  They span
    the same functions as the sums of z^p zbar^q, which are nearly dependent.

    Attributes:
        monomials: the distinct exponent vectors among r and s, shape (x, n+2).
        radials: the distinct vectors (m, |r|), shape (y, n+3).
        left, right, radial: rows of ``monomials`` for r and s and of ``radials`` for (m, |r|), for
            every term, shape (t,).
        owner: the function a term belongs to, increasing, shape (t,).
        imaginary: c = -i instead of 1, shape (t,).
    """

    monomials: Int[AnyArray, "x k"]
    radials: Int[AnyArray, "y e"]
    left: Int[AnyArray, " t"]
    right: Int[AnyArray, " t"]
    radial: Int[AnyArray, " t"]
    owner: Int[AnyArray, " t"]
    imaginary: Int[AnyArray, " t"]

    @property
    def powers(self) -> tuple[int, int]:
        """The largest exponents: of a monomial, and m."""
        rows = (self.monomials, np.asarray(self.radials)[:, :-1])
        return tuple(int(np.max(x, initial=0)) for x in rows)  # type: ignore[return-value]


def no_sums(ambient: int) -> OrbitSums:
    """No function at all, of this number of coordinates."""
    none = np.zeros(0, int)
    monomials, radials = (np.zeros((0, k), int) for k in (ambient, ambient + 1))
    return OrbitSums(monomials, radials, none, none, none, none, none)


def joined_sums(first: OrbitSums, second: OrbitSums, functions: int) -> OrbitSums:
    """Two lists of orbit sums as one; the first has ``functions``."""
    rows = len(first.monomials)
    moved = second._replace(
        left=second.left + rows,
        right=second.right + rows,
        radial=second.radial + len(first.radials),
        owner=second.owner + functions,
    )
    return OrbitSums(*(np.concatenate(pair) for pair in zip(first, moved, strict=True)))


def orbit_sums(orbits: list[Orbit], conjugation: bool) -> OrbitSums:
    """All orbit sums; without conjugation also the imaginary part of each that has one."""
    labelled = [(orbit, 0) for orbit in orbits]
    if not conjugation:
        labelled += [(o, 1) for o in orbits if {(q, p) for p, q in o} != set(o)]
    lengths = [len(orbit) for orbit, _ in labelled]
    pairs = np.array([pair for orbit, _ in labelled for pair in orbit])  # (t, 2, n+2)
    m = pairs.min(axis=1)
    rest = pairs - m[:, None]
    monomials, index = distinct_rows(rest.reshape(-1, m.shape[1]))
    radials, radial = distinct_rows(np.column_stack([m, rest[:, 0].sum(axis=1)]))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    imaginary = np.repeat([kind for _, kind in labelled], lengths)
    left, right = index.reshape(-1, 2).T
    return OrbitSums(monomials, radials, left, right, radial, owner, imaginary)


def selected_sums(sums: OrbitSums, owners: np.ndarray) -> OrbitSums:
    """The orbit sums with these numbers, renumbered from zero, with the rows they need."""
    keep = np.isin(sums.owner, owners)
    used, index = np.unique(np.stack([sums.left[keep], sums.right[keep]]), return_inverse=True)
    shapes, radial = np.unique(sums.radial[keep], return_inverse=True)
    owner = np.searchsorted(owners, sums.owner[keep])
    (left, right), monomials = index.reshape(2, -1), sums.monomials[used]
    radials, imaginary = sums.radials[shapes], sums.imaginary[keep]
    return OrbitSums(monomials, radials, left, right, radial, owner, imaginary)


def orbit_values(sums: OrbitSums, z: np.ndarray) -> np.ndarray:
    """The orbit sums at points with |z| = 1, shape (orbits, N), on the host.

    Some vanish, as sum_i P_1(u_i) = 0 does; their rounding must not pass for a function.
    """
    if len(sums.owner) == 0:
        return np.zeros((0, len(z)))
    rows = len(sums.monomials) + len(sums.radials)
    tiles = np.array_split(z, 1 + rows * len(z) // _ENTRIES)
    total, size = (
        np.concatenate(part, axis=1)
        for part in zip(*(_values_and_sizes(sums, tile) for tile in tiles), strict=True)
    )
    vanishes = np.abs(total).max(axis=1) <= _VANISHING * size.max(axis=1)
    return np.where(vanishes[:, None], 0, total)


def _values_and_sizes(sums: OrbitSums, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The orbit sums, and the same with the absolute values of their terms."""
    top, most = sums.powers
    power = z[None] ** np.arange(top + 1)[:, None, None]
    s = _product([power[row, :, i] for i, row in enumerate(sums.monomials.T)])
    x = 2 * np.abs(z) ** 2 - 1
    jacobi = [np.zeros(z.shape), np.ones(z.shape)]
    for a, b, c in _jacobi_recursion(most, z.shape[1] - 2):
        jacobi.append((a * x + b) * jacobi[-1] - c * jacobi[-2])
    table = np.stack(jacobi[1:])
    radial = _product([table[row, :, i] for i, row in enumerate(sums.radials.T[:-1])])
    starts = np.flatnonzero(np.diff(sums.owner, prepend=-1))
    found = []
    for start, end in zip(starts, [*starts[1:], len(sums.owner)], strict=True):
        rows = slice(start, end)
        left, right = s[sums.left[rows]], s[sums.right[rows]]
        if sums.imaginary[start]:
            angular = left.imag * right.real - left.real * right.imag
        else:
            angular = left.real * right.real + left.imag * right.imag
        terms = angular * radial[sums.radial[rows]]
        found.append((terms.sum(axis=0), np.abs(terms).sum(axis=0)))
    values, sizes = (np.stack(part) for part in zip(*found, strict=True))
    return values, sizes


def _product(factors: list[np.ndarray]) -> np.ndarray:
    return functools.reduce(np.multiply, factors)


def orbit_jets(
    sums: OrbitSums, orbits: int, powers: tuple[int, int], points: Points
) -> Float[Array, "f c b"]:
    """The jets of orbit sums.

    With s_p = z^p holomorphic, Re(c s_p conj(s_q)) has the derivatives of the two factors.
    """
    dim = points.pullback.shape[-2]
    s, ds = holomorphic_monomials(jnp.asarray(sums.monomials), powers[0], points)
    unit = jnp.where(jnp.asarray(sums.imaginary)[:, None] == 1, -1j, 1).astype(s.dtype)
    left, right = jnp.asarray(sums.left), jnp.asarray(sums.right)
    p, q, dp, dq = unit * s[left], s[right], unit[..., None] * ds[left], ds[right]
    # Re(x) = (x + conj(x)) / 2, and conj swaps the roles of p and q
    first = (dp * q.conj()[:, None] + p.conj()[:, None] * dq) / 2
    cross = dp[:, :, None] * dq.conj()[:, None, :]
    angular = pack_jet((p * q.conj()).real, first, (cross + cross.conj().swapaxes(1, 2)) / 2)
    radial = _radial_jets(jnp.asarray(sums.radials), powers[1], points)
    terms = multiply_jets(angular, radial[jnp.asarray(sums.radial)], dim)
    member = (jnp.asarray(sums.owner) == jnp.arange(orbits)[:, None]).astype(terms.dtype)
    return (member @ terms.reshape(len(terms), -1)).reshape(orbits, *terms.shape[1:])


def _radial_jets(rows: Int[Array, "y e"], top: int, points: Points) -> Float[Array, "y c b"]:
    """The jets of |z|^(-2d) prod_i P_(m_i)(u_i) for rows (m, d)."""
    dim = points.pullback.shape[-2]

    def times(product: Array, factor: tuple[Array, Array]) -> tuple[Array, None]:
        table, m = factor
        return multiply_jets(product, table[m], dim), None

    # a loop where the operations repeat: derivatives of this are compiled too
    factors = (_jacobi_jets(top, points).swapaxes(0, 1), rows[:, :-1].T)
    return jax.lax.scan(times, norm_power_jets(-rows[:, -1], points), factors)[0]


def _jacobi_jets(top: int, points: Points) -> Float[Array, "m k c b"]:
    """The jets of P_m(u_i) for m = 0 ... ``top``, by the chain rule."""
    z, jacobian = jnp.asarray(points.z).T, jnp.moveaxis(jnp.asarray(points.pullback), 0, -1)
    norm, log_slope, log_hessian = norm_jets(points)
    u = (z.real**2 + z.imag**2) * jnp.exp(-norm)
    # d log u_i = dz_i / z_i - d log|z|^2, written so that z_i = 0 does no harm
    moved = jnp.moveaxis(jacobian, 1, 0) * (z.conj() * jnp.exp(-norm))[:, None]  # (k, n, N)
    slope = moved - u[:, None] * log_slope
    flat = jnp.einsum("aix,bix->iabx", jacobian, jacobian.conj()) * jnp.exp(-norm)
    cross = moved[:, :, None] * log_slope.conj()
    bent = log_slope[:, None] * log_slope.conj() - log_hessian
    hessian = flat - cross - cross.conj().swapaxes(1, 2) + u[:, None, None] * bent
    square = slope[:, :, None] * slope.conj()[:, None, :]
    # P, P' and P'' by recursion; in x = 2u - 1
    x, zero = 2 * u - 1, jnp.zeros_like(u)
    table = [(zero, zero, zero), (zero + 1, zero, zero)]
    for a, b, c in _jacobi_recursion(top, log_slope.shape[0]).tolist():
        (v0, v1, v2), (w0, w1, w2) = table[-1], table[-2]
        line = a * x + b
        table.append(
            (line * v0 - c * w0, line * v1 + a * v0 - c * w1, line * v2 + 2 * a * v1 - c * w2)
        )
    value, first, second = (jnp.stack(column) for column in zip(*table[1:], strict=True))
    first, second = 2 * first, 4 * second
    curvature = first[:, :, None, None] * hessian + second[:, :, None, None] * square
    return pack_jet(value, first[:, :, None] * slope, curvature)


def _jacobi_recursion(top: int, dim: int) -> np.ndarray:
    """(a, b, c) of P_m = (a x + b) P_(m-1) - c P_(m-2), m = 1 ... ``top``: shape (top, 3).

    The Jacobi family (n, 0) in x = 2u - 1, orthogonal for (1 - u)^n du: the law of u_i for
    points of P^(n+1).
    """
    steps = [((dim + 2) / 2, dim / 2, 0.0)]
    for m in range(2, top + 1):
        c = 2 * m + dim
        scale = 2 * m * (m + dim) * (c - 2)
        steps.append(
            (
                (c - 1) * c * (c - 2) / scale,
                (c - 1) * dim**2 / scale,
                2 * (m + dim - 1) * (m - 1) * c / scale,
            )
        )
    return np.array(steps[:top]).reshape(-1, 3)
