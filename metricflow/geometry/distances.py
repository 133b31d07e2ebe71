"""Fubini-Study distances between points of projective space, and nearest neighbours by them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from .. import _checks
from .._annotations import Count
from .._checks import AnyArray
from .._rounding import safe_sqrt
from .._tiles import fold_pairs

# d^2 = v Q(v) with v = 1 - cos d: arccos(c)^2 is analytic on [0, 1], its singularity lies at
# c = -1, so interpolation of Q at Chebyshev nodes converges by a factor 5.8 with every degree.
# Coefficients of 1, v, v^2, ...; relative error of Q 7e-9 (float32) and 6e-17 (float64), before
# rounding.
_ARC_FLOAT32 = (
    2.00000001,
    0.333331783,
    0.0889296587,
    0.0281639479,
    0.0121661136,
    -0.00158102544,
    0.00983447684,
    -0.00629063367,
    0.00284675249,
)
_ARC_FLOAT64 = (
    2.00000000000000007,
    0.333333333333282039,
    0.088888888895023971,
    0.0285714282811463065,
    0.0101587373928922944,
    0.00384789424102496392,
    0.00152338622608912828,
    0.000613900233948731618,
    0.000299118629425964773,
    -0.0000366063804331945738,
    0.000467359427779405914,
    -0.000885889173858637302,
    0.00150261733899766894,
    -0.00185654695015163336,
    0.00172967262748795075,
    -0.00116047283471937129,
    0.000536246552245765314,
    -0.000152662008039595388,
    0.0000206944401976899313,
)


class NearestNeighbour(NamedTuple):
    """Which point of the second set is nearest, and how far away it is, each (N1,)."""

    indices: Int[Array, " b"]
    distances: Float[Array, " b"]


def fubini_study_distance(
    z1: Complex[AnyArray, "*b1 k"], z2: Complex[AnyArray, "*b2 k"], *, threshold: float = 0.0
) -> Float[Array, "*b"]:
    """d = arccos(|<z1, z2>| / |z1| |z2|), elementwise with broadcasting over leading axes.

    Evaluated as atan2(|z2 - z1 <z1, z2>|, |<z1, z2>|) on unit vectors, whose absolute error is
    about eps even for points that nearly coincide, where arccos(1 - eps) = sqrt(2 eps).

    Args:
        z1: homogeneous coordinates, shape (..., n+2), any scaling.
        z2: the same.
        threshold: distances below it are set to zero (the paper's remedy for that square root).

    Returns:
        Distances in [0, pi/2]; a line has length pi/2 from end to end.  The derivative at d = 0 is
        zero.  Use :func:`squared_distance` where smoothness at zero is needed.

    Raises:
        ValueError: not complex, coordinates of different number, empty.

    Source: MF 3.2, MF 3.4.
    """
    distance = safe_sqrt(squared_distance(z1, z2))
    return jnp.where(distance < threshold, 0, distance)


def squared_distance(
    z1: Complex[AnyArray, "*b1 k"], z2: Complex[AnyArray, "*b2 k"]
) -> Float[Array, "*b"]:
    """d^2, smooth in both points where they coincide; not smooth at the cut locus d = pi/2."""
    z1 = _checks.homogeneous_coordinates("z1", z1)
    z2 = _checks.homogeneous_coordinates("z2", z2, z1.shape[-1])
    u, v = _unit(z1), _unit(z2)
    inner = jnp.sum(u.conj() * v, axis=-1, keepdims=True)
    across = v - u * inner
    return arc_squared(_squared_norm(across), _squared_norm(inner))


def pairwise_distance(
    z1: Complex[AnyArray, "b1 k"], z2: Complex[AnyArray, "b2 k"]
) -> Float[Array, "b1 b2"]:
    """All N1 x N2 distances, to the same accuracy as :func:`fubini_study_distance`.

    The matrix is dense: for large sets use :func:`nearest_neighbour` or a kernel operator.
    """
    z1 = _checks.homogeneous_coordinates("z1", z1)
    z2 = _checks.homogeneous_coordinates("z2", z2, z1.shape[-1])
    if z1.ndim != 2 or z2.ndim != 2:
        raise ValueError(f"z1, z2: expected shape (N, n+2), got {z1.shape} and {z2.shape}")
    return jnp.sqrt(arc_squared(*pairwise_sine_cosine(z1, z2)))


def nearest_neighbour(
    z1: Complex[AnyArray, "b1 k"],
    z2: Complex[AnyArray, "b2 k"] | None = None,
    *,
    chunk: Count = 1024,
) -> NearestNeighbour:
    """For each point of z1 the nearest point of z2, or of z1 itself other than the point.

    Streams over tiles of ``chunk`` x ``chunk`` pairs: memory is of order chunk^2 whatever the
    sizes.  The search compares |<z1, z2>|^2; the distance of the winner is then computed
    accurately.  In float32 candidates closer than about 1e-3 may be confused with each other.

    Args:
        z1: shape (N1, n+2).
        z2: shape (N2, n+2); None searches z1 without the point itself (N1 >= 2).
        chunk: points in a tile.
    """
    z1 = _checks.homogeneous_coordinates("z1", z1)
    own = z2 is None
    z2 = z1 if z2 is None else _checks.homogeneous_coordinates("z2", z2, z1.shape[-1])
    if z1.ndim != 2 or z2.ndim != 2:
        raise ValueError(f"z1, z2: expected shape (N, n+2), got {z1.shape} and {z2.shape}")
    if own and len(z1) < 2:
        raise ValueError("z1: a nearest neighbour within one set needs at least two points")
    chunk = _checks.positive_integer("chunk", chunk)
    index = _nearest(z1, z2, own, chunk)
    return NearestNeighbour(index, fubini_study_distance(z1, z2[index]))


def arc_squared(sine2: Array, cosine2: Array) -> Array:
    """d^2 from sin^2 d and cos^2 d, accurate and smooth at d = 0.

    A polynomial in 1 - cos d = sin^2 d / (1 + cos d): the compiler's own arc cosine goes number by
    number on CPUs and takes ten times as long.  Relative error 3e-7 in float32, 5e-16 in float64.
    """
    cosine = jnp.sqrt(jnp.maximum(cosine2, jnp.finfo(cosine2).tiny))
    versine = sine2 / (1 + cosine)
    table = _ARC_FLOAT64 if versine.dtype == jnp.float64 else _ARC_FLOAT32
    coefficients = jnp.asarray(table[::-1], versine.dtype)
    return versine * jnp.polyval(coefficients, versine, unroll=len(table))


def pairwise_sine_cosine(z1: Array, z2: Array) -> tuple[Array, Array]:
    """sin^2 and cos^2 of all N1 x N2 distances, both without cancellation.

    Lagrange's identity: |u|^2 |v|^2 - |<u, v>|^2 = sum_(i<j) |u_i v_j - u_j v_i|^2.
    """
    u, v = _unit(z1)[:, None], _unit(z2)[None]
    ambient = z1.shape[-1]
    inner = sum(u[..., i].conj() * v[..., i] for i in range(ambient))
    wedges = sum(
        _square(u[..., i] * v[..., j] - u[..., j] * v[..., i])
        for i in range(ambient)
        for j in range(i + 1, ambient)
    )
    return jnp.asarray(wedges), _square(jnp.asarray(inner))


def pairwise_cosine_squared(z1: Array, z2: Array) -> Array:
    """cos^2 of all N1 x N2 distances by two real matrix products; absolute error about eps."""
    u, v = _unit(z1), _unit(z2)
    rows = jnp.concatenate([u.real, u.imag], axis=-1)
    real = jnp.concatenate([v.real, v.imag], axis=-1)
    imaginary = jnp.concatenate([v.imag, -v.real], axis=-1)
    exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return exact(rows, real.T) ** 2 + exact(rows, imaginary.T) ** 2


@functools.partial(jax.jit, static_argnums=(2, 3))
def _nearest(z1: Array, z2: Array, own: bool, chunk: int) -> Array:
    labels = jnp.arange(max(len(z1), len(z2)))

    def start(row: tuple[Array, Array]) -> tuple[Array, Array]:
        label, z = row
        return jnp.full(len(z), -1.0, z.real.dtype), jnp.zeros(len(z), label.dtype)

    def add(
        best: tuple[Array, Array],
        row: tuple[Array, Array],
        column: tuple[Array, Array],
        there: Array,
    ) -> tuple[Array, Array]:
        (label, z), (candidate, w) = row, column
        cosine2 = jnp.where(there, pairwise_cosine_squared(z, w), -1.0)
        if own:
            cosine2 = jnp.where(label[:, None] == candidate, -1.0, cosine2)
        value = jnp.max(cosine2, axis=1)
        # the first column that attains the maximum: two plain reductions beat one argmax
        columns = len(candidate)
        place = jnp.min(jnp.where(cosine2 == value[:, None], jnp.arange(columns), columns), axis=1)
        index = candidate[jnp.minimum(place, columns - 1)]
        # of equals the first in the list, in whatever order the tiles come
        better = (value > best[0]) | ((value == best[0]) & (index < best[1]))
        return jnp.where(better, value, best[0]), jnp.where(better, index, best[1])

    rows, columns = (labels[: len(z1)], z1), (labels[: len(z2)], z2)
    return fold_pairs(start, add, lambda best: best[1], rows, columns, chunk)


def _unit(z: Array) -> Array:
    return z / jnp.sqrt(_squared_norm(z))[..., None]


def _squared_norm(z: Array) -> Array:
    return jnp.sum(_square(z), axis=-1)


def _square(z: Array) -> Array:
    return z.real**2 + z.imag**2
