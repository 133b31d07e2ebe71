"""The Fermat hypersurface sampled without lines, roots or anything else of the library.

Chart (0, n+1) of the Fermat hypersurface is |x_i| <= |y| <= 1 by hand, for z = (1, x, y): 1 is
the largest coordinate, and |dP/dy| = d |y|^(d-1) the largest slope.  All integrands are bounded
there, so uniform points x of the polydisc integrate them with an honest standard error.  Symmetry
makes the other (n+2)(n+1) - 1 charts and d - 1 sheets copies of this one.
"""

from typing import NamedTuple

import numpy as np


class Cell(NamedTuple):
    """det g_FS and |Omega|^2 at uniform points of the polydisc; zero outside of the chart."""

    density: np.ndarray
    omega2: np.ndarray
    measure: float  # all charts and sheets, times the volume of the polydisc


def sample(rng: np.random.Generator, dim: int, count: int) -> Cell:
    degree = dim + 2
    x = np.sqrt(rng.random((count, dim))) * np.exp(2j * np.pi * rng.random((count, dim)))
    y = (-(1 + np.sum(x**degree, axis=1)) + 0j) ** (1 / degree)
    inside = (np.abs(y) <= 1) & (np.abs(y) >= np.abs(x).max(axis=1))
    x, y = x[inside], y[inside]
    # K = log(1 + |x|^2 + |y|^2), dK/dx_a = (xbar_a + ybar y_a) / N with y_a = dy/dx_a
    slope = -((x / y[:, None]) ** (degree - 1))
    size = 1 + np.sum(np.abs(x) ** 2, axis=1) + np.abs(y) ** 2
    first = x.conj() + y.conj()[:, None] * slope
    second = np.eye(dim) + slope[:, :, None] * slope[:, None, :].conj()
    g = second / size[:, None, None] - first[:, :, None] * first[:, None, :].conj() / (
        size[:, None, None] ** 2
    )
    density, omega2 = np.zeros(count), np.zeros(count)
    density[inside] = np.linalg.det(g).real
    omega2[inside] = 1 / (degree**2 * np.abs(y) ** (2 * (degree - 1)))
    return Cell(density, omega2, (dim + 2) * (dim + 1) * degree * np.pi**dim)
