"""The law of nearest neighbours, and how many points a gain would take by it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from metricflow import geometry


def distances(manifold: geometry.Hypersurface, key: jax.Array, size: int) -> dict:
    """Smallest, mean and largest nearest-neighbour distance among ``size`` points."""
    one = geometry.sample_points_in_chart(jax.random.fold_in(key, size), manifold, size)
    every = geometry.sample_points(jax.random.fold_in(key, size), manifold, size)
    found = {}
    for name, points in (("one_chart", one), ("all_charts", every)):
        # the search in float32 takes half the time; its error, 1e-7 in |<z, z'>|^2, is far below
        # the distances, which are computed in float64 for the pairs found
        pairs = geometry.nearest_neighbour(points.z.astype(jnp.complex64)).indices
        distance = geometry.fubini_study_distance(points.z, points.z[pairs])
        found[name] = {
            "points": size,
            "minimum": float(jnp.min(distance)),
            "mean": float(jnp.mean(distance)),
            "maximum": float(jnp.max(distance)),
        }
    return found


def power_law(rows: list[dict], fit_from: int) -> dict:
    """Least squares of log mean = log a + b log N over N >= fit_from."""
    used = [row for row in rows if row["points"] >= fit_from]
    exponent, prefactor = np.polyfit(
        np.log([row["points"] for row in used]), np.log([row["mean"] for row in used]), 1
    )
    return {"prefactor": float(np.exp(prefactor)), "exponent": float(exponent), "n_min": fit_from}


def points_for_gain(curves: dict[str, list[list[float]]], fit: dict) -> dict:
    """Training points that a test gain would take, were all test points as near as the curve says.

    Source: MF section 3.2 (after 3.7).
    """
    found: dict[str, dict[str, dict | None]] = {}
    for kernel, rows in curves.items():
        found[kernel] = {}
        for gain in (5.0, 100.0, 1e6):
            distance = _distance_for_gain(rows, gain)
            if distance is None:
                found[kernel][f"{gain:g}"] = None
                continue
            points = (distance / fit["prefactor"]) ** (1 / fit["exponent"])
            found[kernel][f"{gain:g}"] = {"distance": distance, "points": points}
    return found


def _distance_for_gain(rows: list[list[float]], gain: float) -> float | None:
    """Where the curve last falls through a gain, by interpolation of the logarithms."""
    for (d1, g1), (d2, g2) in reversed(list(itertools.pairwise(rows))):
        if g1 >= gain >= g2 > 0 and g1 > g2:
            part = (np.log(g1) - np.log(gain)) / (np.log(g1) - np.log(g2))
            return float(np.exp(np.log(d1) + part * (np.log(d2) - np.log(d1))))
    return None
