"""Flows of Kaehler potentials on the quintic: implicit steps against explicit ones, to one end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import compare
from metricflow import ansatz, geometry
from metricflow.flows import POTENTIAL_FLOWS, KaehlerFlow, spectral_tangents

DEGREE = 10
STEPS = 80


def rows(points: int = 3000) -> list[dict]:
    quintic = geometry.fermat(3)
    sample = geometry.sample_points(jax.random.key(0), quintic, points)
    basis = ansatz.spectral_basis(quintic, DEGREE if points >= 1000 else 4, sample)
    family = spectral_tangents(basis, sample)
    start = jnp.zeros(basis.size)
    found = []
    for name in ("kaehler_ricci", "calabi"):
        implicit = KaehlerFlow(*POTENTIAL_FLOWS[name], halvings=0)
        explicit = KaehlerFlow(*POTENTIAL_FLOWS[name], method="rk4", halvings=0)
        rates = np.asarray(implicit.rates(family, start))
        end = 1 / rates[0]  # one unit of the slowest rate
        growing = np.geomspace(0.1 / rates[-1], 1, STEPS)
        # at three quarters of the limit of stability, which moves with the metric
        count = int(np.ceil(end * rates[-1] / (0.75 * 2.78)))
        ours, peer = (
            functools.partial(flow.run, flow.init(start), family, jnp.asarray(sizes))
            for flow, sizes in (
                (implicit, growing * end / growing.sum()),
                (explicit, np.full(count, end / count)),
            )
        )
        reached, expected = (run()[0].parameters for run in (ours, peer))
        difference = jnp.linalg.norm(reached - expected) / jnp.linalg.norm(expected)
        values = {
            "relative difference of the ends": float(difference),
            "stiffness (ratio of rates)": float(rates[-1] / rates[0]),
        }
        row = compare(
            f"{name} flow, {basis.size} functions, {points} points, {STEPS} implicit steps",
            ours,
            {f"rk4, {count} steps": peer},
        )
        found.append(row | {"values": values})
    return found
