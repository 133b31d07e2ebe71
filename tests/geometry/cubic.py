"""Integrals over the Fermat cubic by quadrature, by hand and without the library."""

from collections.abc import Callable

import numpy as np


def integrate(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """The integral of f(det g_FS, |Omega|^2) d^2x over the curve 1 + x^3 + y^3 = 0.

    With s = |x|^2 and t = |y|^2, by hand from d dbar log(1 + |x|^2 + |y|^2) and dy/dx = -x^2/y^2:
    |Omega|^2 = 1 / 9 t^2 and det g = (1 + s^2 + t^2) / (t^2 (1 + s + t)^2).

    The part with |x| <= 1 and |y| <= 1 is a third of the curve (permutations), it has three sheets,
    and in each the sector 0 <= arg x <= pi/3 is a sixth (phases and conjugation).  There
    |1 + x^3| <= 1 means arg x >= arccos(-|x|^3 / 2) / 3.  The integrand grows like |1 + x|^(-4/3)
    at x = -1, that is at arg x = pi/3: cubic substitutions make it smooth.
    """
    nodes, weights = np.polynomial.legendre.leggauss(120)
    u, w = (nodes + 1) / 2, weights / 2
    radius, radius_weight = (1 - u**3)[:, None], (3 * u**2 * w)[:, None]
    low = np.arccos(-(radius**3) / 2) / 3
    angle = np.pi / 3 - (np.pi / 3 - low) * u**3
    angle_weight = (np.pi / 3 - low) * 3 * u**2 * w
    x = radius * np.exp(1j * angle)
    s, t = radius**2, np.abs(1 + x**3) ** (2 / 3)
    omega2 = 1 / (9 * t**2)
    density = (1 + s**2 + t**2) / (t**2 * (1 + s + t) ** 2)
    values = function(density, omega2) * radius * radius_weight * angle_weight
    return 3 * 3 * 6 * float(np.sum(values))
