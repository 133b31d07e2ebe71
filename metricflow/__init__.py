"""Metric flows: d(state)/dt = -M(state) . dE(state), with M a kernel or an inverse metric.

The catalogue:

- :mod:`metricflow.geometry`: hypersurfaces, points on them, charts, Fubini-Study metric, distances,
  curvature
- :mod:`metricflow.ansatz`: ways to write a metric: spectral, algebraic, networks, kernels
- :mod:`metricflow.energies`: losses of a metric, functionals on Kaehler and on real metrics, their
  variations
- :mod:`metricflow.diagnostics`: how good a metric is
- :mod:`metricflow.kernels`: metric-NTKs of finite networks and their spectra; Gaussian,
  exponential, delta and infinite-width kernels as operators
- :mod:`metricflow.clustering`: clusters by Fubini-Study distance, kernels within clusters
- :mod:`metricflow.discretize`: quantisers, LNE metrics, penalty of the discrete Ricci flow
- :mod:`metricflow.flows`: metric flows of kernels and networks, Gauss-Newton for the Monge-Ampere
  equation, Kaehler-Ricci, Calabi and Ricci flows
- :mod:`metricflow.optim`: gradient rules for discretised networks as optax transformations:
  :func:`metricflow.lne_gradient`, :func:`metricflow.ste_gradient` and more
- :mod:`metricflow.data`: images: data sets, splits, augmentation (not imported here)
- :mod:`metricflow.devices`, :mod:`metricflow.processes`: the same programs on many devices and in
  many processes
- :func:`metricflow.register_dataclass`: kernels and families of potentials of one's own
- :func:`metricflow.save_metric`, :func:`metricflow.load_metric`: one file format for every metric
- :mod:`metricflow.records`: Calabi-Yau metrics that come with the library
- :mod:`metricflow.training`: networks trained with optax, discretised ones too, with checkpoints
  (not imported here: it takes orbax)
- :mod:`metricflow.plotting` (not imported here, needs matplotlib)
"""

from . import _jax_version as _jax_version  # first: refuses a jax that computes wrong numbers
from . import (
    ansatz,
    clustering,
    devices,
    diagnostics,
    discretize,
    energies,
    flows,
    geometry,
    kernels,
    optim,
    processes,
    records,
)
from ._pytree import register_dataclass
from ._version import __version__
from .checkpoint import load_metric, save_metric
from .optim import lne_gradient, ste_gradient

__all__ = [
    "__version__",
    "ansatz",
    "clustering",
    "devices",
    "diagnostics",
    "discretize",
    "energies",
    "flows",
    "geometry",
    "kernels",
    "lne_gradient",
    "load_metric",
    "optim",
    "processes",
    "records",
    "register_dataclass",
    "save_metric",
    "ste_gradient",
]
