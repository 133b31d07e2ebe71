"""Calabi-Yau hypersurfaces: smooth zero sets of degree n + 2 in P^(n+1), any dimension n."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Key
from numpy.typing import ArrayLike

from .._checks import AnyArray
from .._pytree import register_dataclass

_UNROLLED = 16  # monomials above which P is summed in a loop
_SINGULAR = 1e-7  # |dP| / |z|^(d-1) below which a point counts as a singular point


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Hypersurface:
    """The zero set of P(z) = sum_m c_m prod_i z_i^(e_mi) in P^(n+1), of degree n + 2.

    Build one with :func:`hypersurface`, :func:`fermat` or :func:`dwork`, which check it.  It is a
    pytree whose one leaf is the array of coefficients: a jitted function of a hypersurface does
    not compile again when the moduli change.

    Attributes:
        exponents: the M exponent vectors e_m, each of n + 2 integers that add up to n + 2.
        coefficients: the M complex numbers c_m.
        symmetric: P is invariant under every permutation of the coordinates.
    """

    exponents: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})
    coefficients: Complex[AnyArray, " m"]
    symmetric: bool = dataclasses.field(metadata={"static": True})

    @property
    def ambient(self) -> int:
        """The number n + 2 of homogeneous coordinates."""
        return len(self.exponents[0])

    @property
    def degree(self) -> int:
        """The degree n + 2 of P."""
        return self.ambient

    @property
    def dim(self) -> int:
        """The complex dimension n."""
        return self.ambient - 2

    def __repr__(self) -> str:
        return (
            f"Hypersurface(dim={self.dim}, monomials={len(self.exponents)}, "
            f"symmetric={self.symmetric})"
        )


def hypersurface(
    exponents: Sequence[Sequence[int]] | np.ndarray, coefficients: ArrayLike
) -> Hypersurface:
    """The hypersurface sum_m c_m prod_i z_i^(e_mi) = 0.

    Args:
        exponents: M rows of n + 2 non-negative integers, each row adding up to n + 2.
        coefficients: M complex numbers, none of them zero.

    Raises:
        ValueError: rows of different length or wrong degree, repeated rows, coefficients that do
            not fit, or a hypersurface on which a singular point is found (64 Newton searches for
            dP = 0 from random starts: what they find is singular, what they miss may be too).
    """
    rows = [tuple(int(e) for e in row) for row in exponents]
    values = np.asarray(coefficients, np.complex128)
    if not rows or any(len(row) != len(rows[0]) for row in rows) or len(rows[0]) < 3:
        raise ValueError(
            "exponents: expected M >= 1 rows of n + 2 >= 3 integers, "
            f"got rows of lengths {sorted({len(row) for row in rows})}"
        )
    ambient = len(rows[0])
    if any(min(row) < 0 or sum(row) != ambient for row in rows):
        raise ValueError(
            f"exponents: a Calabi-Yau hypersurface in P^{ambient - 1} has degree {ambient}; "
            f"got rows that add up to {sorted({sum(row) for row in rows})}"
        )
    if len(set(rows)) != len(rows):
        raise ValueError("exponents: every monomial may appear once; add up its coefficients")
    if values.shape != (len(rows),) or not np.all(np.isfinite(values)) or np.any(values == 0):
        raise ValueError(
            f"coefficients: expected {len(rows)} finite non-zero numbers, one for each monomial, "
            f"got shape {values.shape}"
        )
    found = Hypersurface(tuple(rows), values, _is_symmetric(dict(zip(rows, values, strict=True))))
    point = _singular_point(found)
    if point is not None:
        raise ValueError(
            "hypersurface: P and all its derivatives vanish at "
            f"z = {np.array2string(point, precision=3)}: it is singular there, change a coefficient"
        )
    return found


def fermat(dim: int) -> Hypersurface:
    """The Fermat hypersurface sum_i z_i^(n+2) = 0 of complex dimension n = ``dim``.

    n = 1 is the cubic (a flat torus), n = 2 the quartic K3, n = 3 the quintic.  It is invariant
    under every permutation and under z_i -> z_i exp(2 pi i k_i / (n+2)).

    Source: MF 3.1 (the quintic).
    """
    if dim < 1:
        raise ValueError(f"dim: expected a complex dimension of at least 1, got {dim}")
    return hypersurface((dim + 2) * np.eye(dim + 2, dtype=int), np.ones(dim + 2))


def dwork(dim: int, psi: complex | float) -> Hypersurface:
    """The Dwork family sum_i z_i^d - d psi prod_i z_i = 0 with d = ``dim`` + 2.

    Invariant under every permutation and under the phases exp(2 pi i k_i / d) with sum k_i = 0
    mod d.

    Raises:
        ValueError: psi^d = 1, where the hypersurface has nodes; psi not finite.
    """
    degree = dim + 2
    if dim < 1:
        raise ValueError(f"dim: expected a complex dimension of at least 1, got {dim}")
    if not np.isfinite(psi):
        raise ValueError(f"psi: expected a finite complex number, got {psi}")
    if abs(complex(psi) ** degree - 1) < 1e-9:
        raise ValueError(
            f"psi: the Dwork hypersurface of dimension {dim} is singular where psi^{degree} = 1, "
            f"got psi = {psi}"
        )
    if psi == 0:
        return fermat(dim)
    exponents = np.vstack([degree * np.eye(degree, dtype=int), np.ones((1, degree), int)])
    return hypersurface(exponents, np.append(np.ones(degree), -degree * psi))


def random_hypersurface(key: Key[Array, ""], dim: int) -> Hypersurface:
    """All monomials of degree n + 2 with independent complex Gaussian coefficients: no symmetry.

    The variance of c_m is the multinomial coefficient of its monomial, which makes the law
    invariant under every rotation of C^(n+2): no coordinates are special.
    """
    if dim < 1:
        raise ValueError(f"dim: expected a complex dimension of at least 1, got {dim}")
    degree = dim + 2
    exponents = [
        row for row in itertools.product(range(degree + 1), repeat=degree) if sum(row) == degree
    ]
    size = np.sqrt(
        [math.factorial(degree) / math.prod(map(math.factorial, row)) for row in exponents]
    )
    real, imaginary = np.asarray(jax.random.normal(key, (2, len(exponents))), np.float64)
    return hypersurface(exponents, size * (real + 1j * imaginary))


def polynomial(manifold: Hypersurface, z: Complex[AnyArray, "*b k"]) -> Complex[Array, "*b"]:
    """P(z) for homogeneous coordinates z[..., i] of shape (..., n+2)."""
    return _value_and_gradient(manifold, jnp.asarray(z))[0]


def gradient(manifold: Hypersurface, z: Complex[AnyArray, "*b k"]) -> Complex[Array, "*b k"]:
    """dP/dz_i at z, the holomorphic derivatives, of shape (..., n+2)."""
    return _value_and_gradient(manifold, jnp.asarray(z))[1]


def residual(manifold: Hypersurface, z: Complex[AnyArray, "*b k"]) -> Array:
    """|P(z)| / |z|^d, the scale-free distance in value from the hypersurface, of shape (...)."""
    norm = jnp.linalg.norm(jnp.asarray(z), axis=-1)
    return jnp.abs(polynomial(manifold, z)) / norm**manifold.degree


def phase_symmetries(manifold: Hypersurface) -> np.ndarray:
    """The phases z_j -> z_j exp(2 pi i k_j / d) under which P is invariant up to a factor.

    Returns:
        Integers k of shape (G, n+2) with 0 <= k_j < d and k_0 = 0 (an overall phase is no
        symmetry, it does not move the points): d^(n+1) rows for Fermat, d^n for Dwork.
    """
    degree = manifold.degree
    phases = np.array(list(itertools.product(range(degree), repeat=manifold.ambient - 1)))
    phases = np.concatenate([np.zeros((len(phases), 1), int), phases], axis=1)
    characters = phases @ np.array(manifold.exponents).T % degree
    return phases[np.all(characters == characters[:, :1], axis=1)]


def fubini_study_volume(manifold: Hypersurface) -> float:
    """Vol(g_FS) = integral of det g_FS over X = d pi^n / n!, for g_FS = d dbar log|z|^2."""
    return manifold.degree * math.pi**manifold.dim / math.factorial(manifold.dim)


def _value_and_gradient(manifold: Hypersurface, z: Array) -> tuple[Array, Array]:
    """P and dP by the closed forms; what a caller does not use is not computed."""
    if len(manifold.exponents) > _UNROLLED:
        return _scanned(manifold, z)
    parts = [z[..., i] for i in range(manifold.ambient)]
    coefficients = jnp.asarray(manifold.coefficients).astype(z.dtype)
    value, slopes = jnp.zeros_like(parts[0]), [jnp.zeros_like(parts[0]) for _ in parts]
    for row, coefficient in zip(manifold.exponents, coefficients, strict=True):
        powers = [part**e for part, e in zip(parts, row, strict=True)]
        present = [i for i, e in enumerate(row) if e]
        value = value + math.prod((powers[i] for i in present), start=coefficient)
        for i in present:
            others = math.prod((powers[j] for j in present if j != i), start=coefficient)
            lowered = row[i] * parts[i] ** (row[i] - 1) if row[i] > 1 else 1
            slopes[i] = slopes[i] + others * lowered
    return value, jnp.stack(slopes, axis=-1)


def _scanned(manifold: Hypersurface, z: Array) -> tuple[Array, Array]:
    """The same monomial by monomial in a loop, which compiles fast however many there are."""
    powers = [jnp.ones_like(z)]
    for _ in range(manifold.degree):
        powers.append(powers[-1] * z)
    table = jnp.stack(powers)
    ambient = manifold.ambient

    def add(carry: tuple[Array, Array], term: tuple[Array, Array]) -> tuple[Any, ...]:
        value, slope = carry
        row, coefficient = term
        factor = [table[row[i], ..., i] for i in range(ambient)]
        lowered = [row[i] * table[jnp.maximum(row[i] - 1, 0), ..., i] for i in range(ambient)]
        value = value + math.prod(factor, start=coefficient)
        parts = [
            math.prod((factor[j] for j in range(ambient) if j != i), start=coefficient * lowered[i])
            for i in range(ambient)
        ]
        return (value, slope + jnp.stack(parts, axis=-1)), None

    terms = (
        jnp.array(manifold.exponents),
        jnp.asarray(manifold.coefficients).astype(z.dtype),
    )
    return jax.lax.scan(add, (jnp.zeros_like(z[..., 0]), jnp.zeros_like(z)), terms)[0]


def _is_symmetric(terms: dict[tuple[int, ...], complex]) -> bool:
    """Invariance under the transpositions of neighbours, which generate all permutations."""
    ambient = len(next(iter(terms)))
    for i in range(ambient - 1):
        order = list(range(ambient))
        order[i], order[i + 1] = order[i + 1], order[i]
        if any(terms.get(tuple(row[j] for j in order)) != c for row, c in terms.items()):
            return False
    return True


def _singular_point(manifold: Hypersurface) -> np.ndarray | None:
    """A common zero of the derivatives on the unit sphere, or None if 64 searches find none."""
    ambient = manifold.ambient
    exponents = np.array(manifold.exponents)
    coefficients = np.asarray(manifold.coefficients)
    coefficients = coefficients / np.abs(coefficients).max()
    unit = np.eye(ambient, dtype=int)

    def derivative(z: np.ndarray, order: np.ndarray) -> np.ndarray:
        falling = math.prod(
            exponents[:, i] - lower for i in range(ambient) for lower in range(order[i])
        )
        kept = np.flatnonzero(falling * np.ones(len(exponents)))
        powers = z[:, None, :] ** (exponents[kept] - order)
        return np.prod(powers, axis=2) @ (coefficients * falling)[kept]

    rng = np.random.default_rng(0)
    z = rng.normal(size=(64, ambient)) + 1j * rng.normal(size=(64, ambient))
    for _ in range(25):
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
        slope = np.stack([derivative(z, unit[i]) for i in range(ambient)], axis=1)
        small = np.linalg.norm(slope, axis=1)
        if small.min() < _SINGULAR:
            return z[small.argmin()]
        hessian = np.zeros((64, ambient, ambient), complex)
        for i, j in itertools.combinations_with_replacement(range(ambient), 2):
            hessian[:, i, j] = hessian[:, j, i] = derivative(z, unit[i] + unit[j])
        # Hess z = (d-1) dP, so the free Newton step only rescales z: take the best step across z
        across = np.eye(ambient) - z[:, :, None] * z.conj()[:, None, :]
        step = np.linalg.pinv(hessian @ across, rcond=1e-10) @ slope[..., None]
        step = step[..., 0] * np.minimum(1, 0.5 / (np.linalg.norm(step, axis=1) + 1e-30))
        z = z - step
    return None
