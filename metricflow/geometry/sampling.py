"""Points on a hypersurface: drawn from the Fubini-Study measure, given, perturbed, projected."""

import functools
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int, Key

from .. import _checks, devices, processes
from .._annotations import CHART, with_checked_fields
from .._checks import AnyArray
from .charts import (
    Chart,
    best_chart,
    chart_coordinates,
    holomorphic_volume,
    home_chart,
    permute_to_chart,
    pullback,
)
from .hypersurface import Hypersurface, gradient, polynomial, residual
from .roots import polynomial_roots


@with_checked_fields
class Points(NamedTuple):
    """Points of a hypersurface with everything that diagnostics and flows need, each in its chart.

    Attributes:
        z: homogeneous coordinates with z_s = 1, shape (N, n+2).
        chart: (scaled index, eliminated index), shape (N, 2).
        weight: w = |Omega|^2 / det g_FS, shape (N,): the Calabi-Yau measure over the law of the
            sample.  One constant factor is free.
        omega2: |Omega|^2 in the chart, shape (N,).
        pullback: d z_i / d x^a, shape (N, n, n+2).
        line: which random line a point came from, shape (N,); the n+2 points of a line are
            correlated, lines are independent.
    """

    z: Complex[Array, "b k"]
    chart: Int[Array, "b 2"]
    weight: Float[Array, " b"]
    omega2: Float[Array, " b"]
    pullback: Complex[Array, "b n k"]
    line: Int[Array, " b"]


def sample_points(
    key: Key[Array, ""], manifold: Hypersurface, n: int, *, dtype: object = None
) -> Points:
    """Draw n points that follow the Fubini-Study measure det g_FS / Vol, each in its best chart.

    A random line through two uniform points of the sphere in C^(n+2) meets the hypersurface in
    n + 2 points; lines are drawn until there are enough points.  One compiled program, roots
    included.  Integrals: int f dmu_CY is proportional to sum w f.

    Args:
        key: a jax random key.
        manifold: the hypersurface.
        n: how many points.
        dtype: float32 or float64; the default follows jax's x64 switch.

    Raises:
        ValueError: n below 1, an unusable dtype.
        FloatingPointError: a root search broke down (a hypersurface that is not smooth).

    Source: MF section 3.1 (the Shiffman-Zelditch sample).
    """
    n = _checks.positive_integer("n", n)
    points = _sample(key, manifold, n, _checks.real_dtype(dtype))
    _refuse_broken(points)
    return points


def sample_points_in_chart(
    key: Key[Array, ""],
    manifold: Hypersurface,
    n: int,
    *,
    chart: Chart | None = None,
    method: str | None = None,
    dtype: object = None,
) -> Points:
    """Draw n points of the Fubini-Study measure that all have the same best chart.

    Args:
        key: a jax random key.
        manifold: the hypersurface.
        n: how many points.
        chart: (scaled, eliminated); the default is :func:`home_chart`.
        method: ``"permute"`` moves every point into the chart by a permutation of its coordinates
            (symmetric hypersurfaces only, no point is lost), ``"reject"`` keeps the points that
            are there, one in (n+2)(n+1).  The same law either way.  Default: permute if possible.
        dtype: float32 or float64; the default follows jax's x64 switch.

    Raises:
        ValueError: an unknown method or chart, or permuting without the symmetry.

    Source: MF section 3.1 (after 3.3; permuting in place of rejection).
    """
    n = _checks.positive_integer("n", n)
    chart = home_chart(manifold) if chart is None else chart
    _check_chart(manifold, chart)
    method = method or ("permute" if manifold.symmetric else "reject")
    if method == "permute":
        if not manifold.symmetric:
            raise ValueError(
                "method: 'permute' needs a hypersurface that every permutation of the coordinates "
                "leaves invariant; use method='reject'"
            )
        points = _permuted(_sample(key, manifold, n, _checks.real_dtype(dtype)), manifold, chart)
        _refuse_broken(points)
        return points
    if method != "reject":
        raise ValueError(f"method: expected 'permute' or 'reject', got {method!r}")
    return _rejected(key, manifold, n, chart, dtype)


def points_at(
    manifold: Hypersurface,
    z: Complex[AnyArray, "b k"],
    *,
    chart: Annotated[Int[AnyArray, "b 2"], CHART] | Chart | None = None,
    line: Int[AnyArray, " b"] | None = None,
    check: bool = True,
) -> Points:
    """:class:`Points` at given homogeneous coordinates (any scaling).

    Args:
        manifold: the hypersurface.
        z: shape (N, n+2).
        chart: the charts to use; the best ones by default.
        line: labels of correlated groups; each point its own by default.
        check: refuse points that are not on the hypersurface, |P| / |z|^d > sqrt(eps) sum |c|.

    Raises:
        ValueError: wrong shape or dtype, no points, NaN, z = 0, points off the hypersurface.
    """
    z = _checks.homogeneous_coordinates("z", z, manifold.ambient)
    if z.ndim != 2:
        raise ValueError(f"z: expected shape (N, {manifold.ambient}), got {z.shape}")
    _checks.finite("z", z)
    if not _checks.is_traced(z) and bool(jnp.any(jnp.all(z == 0, axis=-1))):
        raise ValueError("z: the zero vector is no point of projective space")
    if check and not _checks.is_traced(z, manifold.coefficients):
        off = residual(manifold, z)
        allowed = float(
            jnp.finfo(z.dtype).eps ** 0.5 * np.sum(np.abs(np.asarray(manifold.coefficients)))
        )
        bad = int(jnp.sum(off > allowed))
        if bad:
            raise ValueError(
                f"z: {bad} of {len(z)} points are off the hypersurface, |P|/|z|^d up to "
                f"{float(off.max()):.1e} (allowed {allowed:.0e}); project them with "
                "project_to_hypersurface or pass check=False"
            )
    chart = best_chart(manifold, z) if chart is None else jnp.asarray(chart)
    chart = jnp.broadcast_to(chart, (len(z), 2))
    line = jnp.arange(len(z)) if line is None else jnp.asarray(line)
    return _points(manifold, z, chart, line)


def project_to_hypersurface(
    manifold: Hypersurface, z: Complex[AnyArray, "*b k"], *, steps: int = 8
) -> Complex[Array, "*b k"]:
    """Move z onto P = 0 by Newton steps of least length, z <- z - P conj(dP) / |dP|^2."""
    z = jnp.asarray(z)
    for _ in range(steps):
        slope = gradient(manifold, z)
        value = polynomial(manifold, z) / jnp.sum(jnp.abs(slope) ** 2, axis=-1)
        z = z - value[..., None] * slope.conj()
    return z


def perturb_points(
    key: Key[Array, ""],
    manifold: Hypersurface,
    points: Points,
    scale: float | Array,
    *,
    project: bool = False,
) -> Points:
    """Points near given ones: complex Gaussian noise on every coordinate, in the same charts.

    Each z_i gets noise of standard deviation ``scale`` in its real and imaginary part.  The result
    is off the hypersurface by about |dP| ``scale`` (:func:`residual` tells) unless ``project``,
    which brings it back by Newton's method.

    Source: MF section 3.2 (Fig. 3, left).
    """
    shape = points.z.shape
    noise = jax.random.normal(key, (2, *shape), points.weight.dtype)
    z = points.z + jnp.asarray(scale, noise.dtype) * (noise[0] + 1j * noise[1])
    if project:
        z = project_to_hypersurface(manifold, z)
    return _points(manifold, z, points.chart, points.line)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _sample(key: Array, manifold: Hypersurface, n: int, dtype: np.dtype) -> Points:
    degree, ambient = manifold.degree, manifold.ambient
    lines = -(-n // degree)
    real = devices.divide(jax.random.normal(key, (2, 2, ambient, lines), dtype), axis=3)
    z = devices.by_rows(functools.partial(_on_lines, manifold), real, axis=3)
    z = z.reshape(lines * degree, ambient)[:n]
    line = jnp.arange(lines * degree)[:n] // degree
    return devices.divide(_points(manifold, z, best_chart(manifold, z), line))


def _on_lines(manifold: Hypersurface, real: Array) -> Array:
    """The points on random lines given by normal numbers (2, 2, n+2, L), line by line."""
    first, second = real[:, 0] + 1j * real[:, 1]
    first = first / jnp.linalg.norm(first, axis=0)
    # an orthonormal frame of the line: the roots are then of order one
    second = second - first * jnp.sum(first.conj() * second, axis=0)
    second = second / jnp.linalg.norm(second, axis=0)
    z = _meet(manifold, first, second)  # (ambient, degree, lines)
    z = jnp.moveaxis(z, 0, -1).swapaxes(0, 1)  # (lines, degree, ambient)
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    return project_to_hypersurface(manifold, z, steps=2)


def _meet(manifold: Hypersurface, first: Array, second: Array) -> Array:
    """The points where the lines first + t second meet the hypersurface: (ambient, d, lines).

    The coefficients of P along a line come from its values at the (d+1)-th roots of unity by a
    discrete Fourier transform, which is unitary: no accuracy is lost.
    """
    nodes = np.arange(manifold.degree + 1)
    phase = np.exp(2j * np.pi * nodes / len(nodes)).astype(first.dtype)
    along = first[:, None] + phase[:, None] * second[:, None]
    values = polynomial(manifold, jnp.moveaxis(along, 0, -1))
    transform = np.exp(-2j * np.pi * np.outer(nodes, nodes) / len(nodes)) / len(nodes)
    roots = polynomial_roots(jnp.asarray(transform, first.dtype) @ values)
    return first[:, None] + roots * second[:, None]


def _points(manifold: Hypersurface, z: Array, chart: Array, line: Array) -> Points:
    z = chart_coordinates(z, chart)
    norm = jnp.sum(z.real**2 + z.imag**2, axis=-1)
    slope = gradient(manifold, z)
    # |Omega|^2 / det g_FS, in which the chart drops out
    weight = norm ** (manifold.dim + 1) / jnp.sum(slope.real**2 + slope.imag**2, axis=-1)
    return Points(
        z=z,
        chart=chart,
        weight=weight,
        omega2=holomorphic_volume(manifold, z, chart),
        pullback=pullback(manifold, z, chart),
        line=line,
    )


@functools.partial(jax.jit, static_argnums=2)
def _permuted(points: Points, manifold: Hypersurface, chart: Chart) -> Points:
    z = permute_to_chart(points.z, points.chart, chart)
    return _points(
        manifold, z, jnp.broadcast_to(jnp.asarray(chart), points.chart.shape), points.line
    )


def _rejected(key: Array, manifold: Hypersurface, n: int, chart: Chart, dtype: object) -> Points:
    kept: list[Points] = []
    found, offset, batch = 0, 0, max(1000, 2 * n)
    for draw in range(1000 * manifold.ambient**2):
        sample = sample_points(jax.random.fold_in(key, draw), manifold, batch, dtype=dtype)
        inside = np.flatnonzero(
            np.all(processes.on_host(sample.chart) == np.asarray(chart), axis=1)
        )
        sample = sample._replace(line=sample.line + offset)
        kept.append(jax.tree.map(lambda x, rows=inside: x[rows], sample))
        found, offset = found + len(inside), offset + batch
        if found >= n:
            return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:n], *kept)
    raise ValueError(f"chart: found {found} points in chart {chart} of the {n} asked for")


def _check_chart(manifold: Hypersurface, chart: Chart) -> None:
    allowed = range(manifold.ambient)
    if len(chart) != 2 or chart[0] == chart[1] or any(i not in allowed for i in chart):
        raise ValueError(
            "chart: expected two different indices (scaled, eliminated) from "
            f"0 ... {manifold.ambient - 1}, got {chart}"
        )


def _refuse_broken(points: Points) -> None:
    if not _checks.is_traced(points):
        bad = int(jnp.sum(~jnp.isfinite(points.weight)))
        if bad:
            raise FloatingPointError(
                f"sample_points: {bad} of {len(points.weight)} points are not finite: the root "
                "search broke down; is the hypersurface smooth?"
            )
