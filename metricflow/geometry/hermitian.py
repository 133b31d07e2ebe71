"""Small Hermitian matrices in bulk: real components, determinant, inverse, positivity.

The matrices are n x n with n of 1 to 4 and there are many of them, so the algebra is unrolled over
the indices: plain elementwise arithmetic that fuses on every device, where a call to LAPACK for
each matrix would dominate.
"""

import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from .._checks import AnyArray


def hermitian_pack(g: Complex[AnyArray, "*b n n"]) -> Float[Array, "*b n2"]:
    """The n^2 real components of Hermitian matrices, orthonormal for the Frobenius product.

    Order: the n diagonal entries, then sqrt(2) Re g_ab, then sqrt(2) Im g_ab, over a < b row by
    row.  sum_I pack(g)_I pack(h)_I = tr(g h).
    """
    g = jnp.asarray(g)
    rows, columns = np.triu_indices(g.shape[-1], 1)
    diagonal = jnp.diagonal(g, axis1=-2, axis2=-1).real
    upper = np.sqrt(2).astype(diagonal.dtype) * g[..., rows, columns]
    return jnp.concatenate([diagonal, upper.real, upper.imag], axis=-1)


def hermitian_unpack(components: Float[AnyArray, "*b n2"]) -> Complex[Array, "*b n n"]:
    """The Hermitian matrices with these real components: the inverse of :func:`hermitian_pack`.

    Raises:
        ValueError: the last axis is not a square number.
    """
    components = jnp.asarray(components)
    n = round(components.shape[-1] ** 0.5)
    if n * n != components.shape[-1]:
        raise ValueError(
            f"components: expected n^2 real numbers on the last axis, got shape {components.shape}"
        )
    half = np.sqrt(0.5).astype(components.dtype)
    pairs = n * (n - 1) // 2
    upper = half * (components[..., n : n + pairs] + 1j * components[..., n + pairs :])
    entries: dict[tuple[int, int], Array] = {}
    for pair, (a, b) in enumerate(itertools.combinations(range(n), 2)):
        entries[a, b], entries[b, a] = upper[..., pair], upper[..., pair].conj()
    for a in range(n):
        entries[a, a] = components[..., a].astype(upper.dtype)
    rows = [jnp.stack([entries[a, b] for b in range(n)], axis=-1) for a in range(n)]
    return jnp.stack(rows, axis=-2)


def hermitian_pivots(g: Complex[AnyArray, "*b n n"]) -> Float[Array, "*b n"]:
    """The pivots D_a of g = L D L^dagger with unit lower triangular L.

    g is positive definite if and only if every pivot is above zero; det g is their product.  A
    vanishing leading minor before the last gives a pivot that is not finite: not positive.
    """
    return jnp.stack(_factor(jnp.asarray(g))[1], axis=-1)


def hermitian_root(g: Complex[AnyArray, "*b n n"]) -> Complex[Array, "*b n n"]:
    """The lower triangular L with g = L L^dagger; NaN where g is not positive definite."""
    g = jnp.asarray(g)
    n = g.shape[-1]
    lower, pivots = _factor(g)
    scale = [jnp.sqrt(pivot).astype(g.dtype) for pivot in pivots]
    zero = jnp.zeros_like(scale[0])
    entries = [
        [scale[a] if a == b else lower[a, b] * scale[b] if b < a else zero for b in range(n)]
        for a in range(n)
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in entries], axis=-2)


def hermitian_frame(g: Complex[AnyArray, "*b n n"]) -> Complex[Array, "*b n n"]:
    """The e with e g e^dagger = 1, inverse of :func:`hermitian_root`: rows are orthonormal vectors.

    Lower triangular; NaN where g is not positive definite.
    """
    root = hermitian_root(g)
    n = root.shape[-1]
    entries: dict[tuple[int, int], Array] = {}
    for b in range(n):
        for a in range(n):
            inner = sum((root[..., a, c] * entries[c, b] for c in range(b, a)), start=0)
            entries[a, b] = ((a == b) - inner) / root[..., a, a] if a >= b else 0 * root[..., a, b]
    rows = [jnp.stack([entries[a, b] for b in range(n)], axis=-1) for a in range(n)]
    return jnp.stack(rows, axis=-2)


def hermitian_determinant(g: Complex[AnyArray, "*b n n"]) -> Float[Array, "*b"]:
    """det g, a real number, by cofactors: exact zeros and negative values included."""
    g = jnp.asarray(g)
    n = g.shape[-1]
    return _minor(g, tuple(range(n)), tuple(range(n))).real


def hermitian_inverse(g: Complex[AnyArray, "*b n n"]) -> Complex[Array, "*b n n"]:
    """g^-1 as a matrix (not transposed): sum_b g[a, b] inverse[b, c] = delta_ac."""
    g = jnp.asarray(g)
    n = g.shape[-1]
    everything = tuple(range(n))
    determinant = _minor(g, everything, everything).real
    rows = []
    for a in range(n):
        row = []
        for b in range(n):
            without_b = tuple(i for i in everything if i != b)
            without_a = tuple(i for i in everything if i != a)
            row.append((-1) ** (a + b) * _minor(g, without_b, without_a) / determinant)
        rows.append(jnp.stack(row, axis=-1))
    return jnp.stack(rows, axis=-2)


def _minor(g: Array, rows: tuple[int, ...], columns: tuple[int, ...]) -> Array:
    """The determinant of the submatrix, by expansion along its first row."""
    if not rows:
        return jnp.ones(g.shape[:-2], g.dtype)
    if len(rows) == 1:
        return g[..., rows[0], columns[0]]
    total = jnp.zeros(g.shape[:-2], g.dtype)
    for position, column in enumerate(columns):
        rest = columns[:position] + columns[position + 1 :]
        total = total + (-1) ** position * g[..., rows[0], column] * _minor(g, rows[1:], rest)
    return total


def _factor(g: Array) -> tuple[dict[tuple[int, int], Array], list[Array]]:
    """The entries of L below the diagonal and the pivots of g = L D L^dagger."""
    lower: dict[tuple[int, int], Array] = {}
    pivots: list[Array] = []
    for a in range(g.shape[-1]):
        for b in range(a):
            inner = sum(
                (lower[a, c] * pivots[c] * lower[b, c].conj() for c in range(b)),
                start=jnp.zeros_like(g[..., 0, 0]),
            )
            lower[a, b] = (g[..., a, b] - inner) / pivots[b]
        removed = sum(
            (jnp.abs(lower[a, c]) ** 2 * pivots[c] for c in range(a)),
            start=jnp.zeros_like(g[..., 0, 0].real),
        )
        pivots.append(g[..., a, a].real - removed)
    return lower, pivots
