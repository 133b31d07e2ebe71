"""Metric flows: d(state)/dt = -M(state) . dE(state), with M a kernel or an inverse metric.

The catalogue:

- :mod:`metricflow.geometry`: hypersurfaces, points on them, charts, Fubini-Study metric, distances
- :mod:`metricflow.ansatz`: Kaehler potentials: spectral, algebraic, networks, kernels
- :mod:`metricflow.energies`: pointwise losses of a metric and their variations
- :mod:`metricflow.diagnostics`: how good a metric is
- :mod:`metricflow.kernels`: Gaussian, exponential, delta and infinite-width kernels as operators
- :mod:`metricflow.flows`: metric flows of a kernel, Gauss-Newton for the Monge-Ampere equation
- :func:`metricflow.save_metric`, :func:`metricflow.load_metric`: one file format for every metric
- :mod:`metricflow.records`: Calabi-Yau metrics that come with the library
- :mod:`metricflow.plotting` (not imported here, needs matplotlib)
"""

from . import _jax_version as _jax_version  # first: refuses a jax that computes wrong numbers
from . import (
    ansatz,
    diagnostics,
    energies,
    flows,
    geometry,
    kernels,
    records,
)
from ._version import __version__
from .checkpoint import load_metric, save_metric

__all__ = [
    "__version__",
    "ansatz",
    "diagnostics",
    "energies",
    "flows",
    "geometry",
    "kernels",
    "load_metric",
    "records",
    "save_metric",
]
