"""Symmetries of a hypersurface, and the invariant functions of bidegree (D, D) that they leave.

A function of bidegree (D, D) is a combination of z^p zbar^q / |z|^(2D) with |p| = |q| = D.  The
Calabi-Yau metric of a symmetric hypersurface is symmetric, so its potential needs the invariant
combinations only: 216 instead of 10^7 for the Fermat quintic at D = 16.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from ..geometry import Hypersurface, phase_symmetries

Monomial = tuple[int, ...]
Orbit = tuple[tuple[Monomial, Monomial], ...]


class Symmetry(NamedTuple):
    """A group of maps of projective space that leave a hypersurface as it is.

    Attributes:
        degree: the order of the roots of unity in ``phases``.
        phases: integers k of shape (G, n+2), the maps z_j -> z_j exp(2 pi i k_j / degree).
        factors: integers c of shape (G,): P takes the factor exp(2 pi i c / degree) under each.
        permutations: integers of shape (S, n+2), the maps z -> z[permutation].
        conjugation: z -> conj(z) belongs to the group.
    """

    degree: int
    phases: np.ndarray
    factors: np.ndarray
    permutations: np.ndarray
    conjugation: bool


def symmetry_group(manifold: Hypersurface) -> Symmetry:
    """The phases, permutations and conjugation that leave P as it is, up to a factor.

    The permutations are those under which the list of coefficients is unchanged; conjugation is
    there if every coefficient is real up to a common phase.
    """
    terms = dict(zip(manifold.exponents, np.asarray(manifold.coefficients), strict=True))
    permutations = [
        order
        for order in itertools.permutations(range(manifold.ambient))
        if all(terms.get(tuple(row[j] for j in order)) == c for row, c in terms.items())
    ]
    coefficients = np.asarray(manifold.coefficients)
    turned = coefficients / coefficients[0]
    phases = phase_symmetries(manifold)
    return Symmetry(
        degree=manifold.degree,
        phases=phases,
        factors=phases @ np.array(manifold.exponents[0]) % manifold.degree,
        permutations=np.array(permutations),
        conjugation=bool(np.all(np.abs(turned.imag) <= 1e-14 * np.abs(turned))),
    )


def no_symmetry(manifold: Hypersurface) -> Symmetry:
    """The group of the identity alone."""
    identity = np.arange(manifold.ambient)[None]
    return Symmetry(manifold.degree, np.zeros_like(identity), np.zeros(1, int), identity, False)


def invariant_dimensions(symmetry: Symmetry, degree: int) -> np.ndarray:
    """How many independent real invariant functions of bidegree (D, D) X has, D = 0 ... ``degree``.

    With R_D the polynomials of degree D modulo P and chi its character, Molien's average

        dim = 1/|G| sum_g |chi(g)|^2,    and with conjugation 1/2|G| sum_g |chi(g)|^2 + chi(g gbar),

    where sum_D chi_D(g) t^D = (1 - c t^d) / det(1 - t g), P(g z) = c P(z).

    Returns:
        Integers of shape (degree + 1,); the functions of bidegree D contain those of D - 1.
    """
    total = np.zeros(degree + 1)
    # the sum over all phases only depends on the cycle type of the permutation if the set of
    # phases is mapped to itself by permutations; otherwise every permutation is its own class
    for order, count in _classes(symmetry):
        cycles = _cycles(order)
        series = _molien_series(symmetry, symmetry.phases, symmetry.factors, cycles, degree)
        part = np.sum(np.abs(series) ** 2, axis=0)
        if symmetry.conjugation:
            # g gbar = diag(k_i - k_perm(i)) perm^2
            twisted = symmetry.phases - symmetry.phases[:, order]
            zero, square = np.zeros_like(symmetry.factors), _cycles(order[order])
            square_series = _molien_series(symmetry, twisted, zero, square, degree)
            part = (part + np.sum(square_series, axis=0).real) / 2
        total += count * part
    found = total / (len(symmetry.phases) * len(symmetry.permutations))
    return np.rint(found).astype(int)


def invariant_orbits(symmetry: Symmetry, degree: int) -> list[Orbit]:
    """The orbits of the invariant pairs (p, q), |p| = |q| = ``degree``: sums of z^p zbar^q over
    an orbit are invariant and span (not independently, because of P = 0) the invariant functions.

    Without conjugation an orbit is not closed under (p, q) -> (q, p): real and imaginary part of
    its sum are both invariant.
    """
    ambient = symmetry.phases.shape[1]
    every_monomial = np.array(monomials(degree, ambient))
    # p and q must take the same phase under every map: equal characters
    blocks = np.array_split(every_monomial, 1 + len(every_monomial) * len(symmetry.phases) // 10**7)
    characters = [_marks(rows @ symmetry.phases.T % symmetry.degree) for rows in blocks]
    label = np.unique(np.concatenate(characters), return_inverse=True)[1]
    members = np.argsort(label, kind="stable")
    classes = np.split(every_monomial[members], np.flatnonzero(np.diff(label[members])) + 1)
    every = len(symmetry.permutations) == math.factorial(ambient)
    seen: set[tuple[Monomial, Monomial]] = set()
    orbits = []
    for p, own in zip(every_monomial, label, strict=True):
        if every and np.any(np.diff(p) > 0):
            continue  # p can be sorted by a permutation: its orbit has a sorted member
        for q in classes[own]:
            if (tuple(p.tolist()), tuple(q.tolist())) in seen:
                continue
            images = zip(
                p[symmetry.permutations].tolist(), q[symmetry.permutations].tolist(), strict=True
            )
            orbit = {(tuple(a), tuple(b)) for a, b in images}
            if symmetry.conjugation:
                orbit |= {(b, a) for a, b in orbit}
            seen |= orbit
            if not symmetry.conjugation:
                seen |= {(b, a) for a, b in orbit}  # the conjugate sum brings nothing new
            orbits.append(tuple(sorted(orbit)))
    return orbits


def _classes(symmetry: Symmetry) -> list[tuple[np.ndarray, int]]:
    """Permutations that give the same Molien average, with their number."""
    permutations = symmetry.permutations
    if len(permutations) < math.factorial(permutations.shape[1]):
        return [(order, 1) for order in permutations]
    found: dict[tuple[int, ...], tuple[np.ndarray, int]] = {}
    for order in permutations:
        kind = tuple(sorted(len(cycle) for cycle in _cycles(order)))
        first, count = found.get(kind, (order, 0))
        found[kind] = (first, count + 1)
    return list(found.values())


def _molien_series(
    symmetry: Symmetry,
    phases: np.ndarray,
    factors: np.ndarray,
    cycles: list[list[int]],
    degree: int,
) -> np.ndarray:
    """The coefficients of (1 - c t^d) / prod_cycles (1 - phase(cycle) t^length), for all phases."""
    turn = 2j * np.pi / symmetry.degree
    series = np.zeros((len(phases), degree + 1), complex)
    series[:, 0] = 1
    ambient = phases.shape[1]
    if ambient <= degree:
        series[:, ambient] = -np.exp(turn * factors)
    for cycle in cycles:
        phase = np.exp(turn * phases[:, cycle].sum(axis=1))
        for power in range(len(cycle), degree + 1):
            series[:, power] += phase * series[:, power - len(cycle)]
    return series


def _cycles(order: np.ndarray) -> list[list[int]]:
    left, found = set(range(len(order))), []
    while left:
        start = min(left)
        cycle, here = [], start
        while here in left:
            left.remove(here)
            cycle.append(here)
            here = int(order[here])
        found.append(cycle)
    return found


def distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of an integer matrix, and for every row which of them it is."""
    _, first, which = np.unique(_marks(rows), return_index=True, return_inverse=True)
    return rows[first], which


def _marks(rows: np.ndarray) -> np.ndarray:
    """A number for every row, the same for equal rows: sums with random weights, cheap to sort."""
    weights = np.random.default_rng(0).integers(-(2**62), 2**62, rows.shape[1])
    with np.errstate(over="ignore"):
        return rows @ weights


def monomials(degree: int, ambient: int) -> list[Monomial]:
    """All exponent vectors of a degree."""
    if ambient == 1:
        return [(degree,)]
    return [
        (first, *rest)
        for first in range(degree, -1, -1)
        for rest in monomials(degree - first, ambient - 1)
    ]
