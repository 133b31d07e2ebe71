"""The Euler number of a hypersurface from the curvature of any metric on it."""

import functools
import itertools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from .._annotations import Count
from .fubini_study import fubini_study_metric
from .hermitian import hermitian_determinant
from .hypersurface_curvature import curvature_of_tile, map_points
from .local_coordinates import ChartMetric
from .monte_carlo import mean_over_lines
from .sampling import Points


class EulerNumber(NamedTuple):
    """An estimate of the Euler number, with random lines as the independent units."""

    value: Float[Array, ""]
    standard_error: Float[Array, ""]


def euler_number(metric: ChartMetric, points: Points, *, chunk: Count = 256) -> EulerNumber:
    """The Euler number by Chern-Gauss-Bonnet: the mean of :func:`euler_density` over the points.

    -200 for every smooth quintic, 24 for the quartic, 0 for the cubic, whatever the metric.  A
    check of a metric and of its curvature at once.

    Args:
        metric: callable ``metric(z, chart)`` that gives g[a, b]; Kaehler or only Hermitian.
        points: points that follow the Fubini-Study measure, as :func:`sample_points` draws them.
        chunk: points differentiated at a time.

    Returns:
        The value and its standard error.

    Raises:
        ValueError: no points, a metric that is not of shape (N, n, n), or an unusable chunk.
    """
    return EulerNumber(*mean_over_lines(euler_density(metric, points, chunk=chunk), points.line))


def euler_density(metric: ChartMetric, points: Points, *, chunk: Count = 256) -> Float[Array, " b"]:
    """The top Chern form c_n = (i / 2 pi)^n det Theta over the law det g_FS / Vol of the sample.

    Theta^a_b = R^a_(b c dbar) dx^c dxbar^d is the curvature form.  With :func:`top_form` F,
    c_n = pi^-n F(R) / det g d^(2n)x, and Vol = (n+2) pi^n / n!; so the density is
    ((n+2) / n!) F(R) / (det g det g_FS), a number that no choice of chart changes.

    Args:
        metric: callable ``metric(z, chart)`` that gives g[a, b].
        points: the points, in the charts to differentiate in.
        chunk: points differentiated at a time.

    Returns:
        Shape (N,); its mean over points of the Fubini-Study measure is the Euler number.

    Raises:
        ValueError: no points, a metric that is not of shape (N, n, n), or an unusable chunk.
    """
    return map_points(_euler_density, metric, points, chunk)


def top_form(riemann: Complex[Array, "*b n n n n"]) -> Float[Array, "*b"]:
    """The sum over permutations sgn(s) sgn(p) sgn(q) prod_a R_(a sbar(a) p(a) qbar(a)).

    By expansion along the index a, as a determinant is expanded along a row: minors of size m are
    labelled by three sets of m columns and made from those of size m - 1, so that n = 3 takes 243
    products of two numbers instead of 432, and n = 4 takes 3520 instead of 41472.
    """
    n = riemann.shape[-1]
    # points last: every term is then arithmetic on whole rows of memory
    rows = jnp.moveaxis(riemann.reshape(-1, n, n**3), 0, -1)
    minors = rows[0]
    for size in range(2, n + 1):
        entry, minor, sign = _expansion(n, size)
        terms = (
            sign[k] * rows[size - 1][entry[:, k]] * minors[minor[:, k]] for k in range(len(sign))
        )
        minors = functools.reduce(jnp.add, terms)
    return minors[0].real.reshape(riemann.shape[:-4])


def _euler_density(metric: ChartMetric, points: Points) -> Array:
    g, riemann = curvature_of_tile(metric, points)
    n = g.shape[-1]
    # R^a_b has one inverse metric more than R_(a bbar): the determinant takes it out at once
    lowered = top_form(riemann) / hermitian_determinant(g)
    reference = hermitian_determinant(fubini_study_metric(points))
    return (n + 2) / math.factorial(n) * lowered / reference


@functools.cache
def _expansion(n: int, size: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Where entries and smaller minors are, shapes (minors, size^3), and signs (size^3,).

    A minor is labelled by three sets of columns, each set by its number among all of its size.
    """
    sets = list(itertools.combinations(range(n), size))
    smaller = {s: i for i, s in enumerate(itertools.combinations(range(n), size - 1))}
    column = np.array(sets)
    rest = np.array([[smaller[s[:k] + s[k + 1 :]] for k in range(size)] for s in sets])
    three, among = range(3), (n, n, n)
    entry = [_outer(column, axis) for axis in three]
    minor = [_outer(rest, axis) for axis in three]
    # the last of ``size`` rows is expanded, in each of the three indices
    steps = np.sum(np.indices((size,) * 3), axis=0).reshape(-1)
    sign = (1 - 2 * ((size - 1 + steps) % 2)).tolist()  # plain numbers keep the dtype of others
    shape = (len(sets) ** 3, size**3)
    return (
        np.ravel_multi_index(np.broadcast_arrays(*entry), among).reshape(shape),
        np.ravel_multi_index(np.broadcast_arrays(*minor), (len(smaller),) * 3).reshape(shape),
        sign,
    )


def _outer(table: np.ndarray, axis: int) -> np.ndarray:
    """A table over (set, position) as a factor of a product of three such."""
    shape = [1] * 6
    shape[axis], shape[3 + axis] = table.shape
    return table.reshape(shape)
