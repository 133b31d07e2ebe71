"""What experiments with metrics on flat tori share: grids, perturbations, curves for figures."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metricflow.geometry import PeriodicGrid

_CURVE = 60  # numbers kept of a curve


def tori(dims: Sequence[int], plane: int, space: int) -> dict[str, PeriodicGrid]:
    """Grids of T^2 and T^3 with so many points on an axis, by the names T2 and T3."""
    counts = {2: plane, 3: space}
    return {f"T{dim}": PeriodicGrid((counts[dim],) * dim) for dim in dims}


def check_tori(dims: Sequence[int], plane: int, space: int) -> None:
    """Raise ValueError for flags that describe no such grids."""
    if not dims or not set(dims) <= {2, 3}:
        raise ValueError("--dims: expected 2, 3 or both")
    for name, count in (("plane", plane), ("space", space)):
        if count < 7 or count % 2 == 0:
            raise ValueError(f"--{name}: expected an odd number of at least 7")


def perturbation(grid: PeriodicGrid, seed: int) -> jax.Array:
    """A random tensor of wave numbers up to one, its largest entry 1."""
    h = grid.random_field(jax.random.key(seed), 1, entries=(grid.dim, grid.dim))
    h = h + h.swapaxes(-2, -1)
    return h / jnp.max(jnp.abs(h))


def thinned(values: Any) -> list[float]:
    """At most 60 numbers of a curve, the ends included."""
    values = np.asarray(values)
    index = np.unique(np.linspace(0, len(values) - 1, _CURVE).round().astype(int))
    return [float(f"{x:.7g}") for x in values[index]]


def styles(found: dict) -> list[tuple[str, str]]:
    """The tori in a result, each with its line style."""
    return [(name, style) for name, style in (("T2", "-"), ("T3", "--")) if name in found]


def torus_label(name: str) -> str:
    """T2 as it is written in a figure."""
    return f"$T^{name[1]}$"
