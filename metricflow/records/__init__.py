"""Calabi-Yau metrics that come with the library: fitted once, ready to evaluate anywhere.

    metric = records.calabi_yau_metric("fermat_quintic")
    g = metric(z)                                        # g[a, b] in the chart metric.chart(z)
    ricci = diagnostics.ricci_scalar(metric, points)     # and every other derivative

How each was made, and how accurate it is, stands in its provenance.
"""

from pathlib import Path
from typing import Any

from .._front_door import guard
from ..ansatz import SpectralMetric
from ..checkpoint import load_metric, read_provenance

__all__ = ["calabi_yau_metric", "names", "provenance"]

_FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The names of all stored metrics."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.npz")))


def calabi_yau_metric(name: str) -> SpectralMetric:
    """A stored metric: callable, with its hypersurface as ``metric.manifold``.

    Raises:
        ValueError: no such name, or jax runs in single precision.
    """
    return load_metric(_path(name))


def provenance(name: str) -> dict[str, Any]:
    """The command that made a metric, and its diagnostics on fresh points."""
    return read_provenance(_path(name))


def _path(name: str) -> Path:
    if name not in names():
        raise ValueError(f"name: expected one of {list(names())}, got {name!r}")
    return _FOLDER / f"{name}.npz"


guard(globals())
