"""Calls of metricflow.diagnostics."""

from collections.abc import Callable

import jax

from metricflow import diagnostics as D  # noqa: N812
from metricflow import geometry
from tests.robustness.calls.call import Call, call, hermitian, like
from tests.robustness.calls.samples import (
    component_model,
    component_parameters,
    metric_values,
    points,
    spectral,
    surface,
)


def of_values(function: Callable, **skip: object) -> Callable[[], Call]:
    """A measure of values of a metric at points."""
    return lambda: call(
        lambda g, here: function(hermitian(g), here), metric_values(), points(), **skip
    )  # type: ignore[arg-type]


def of_metric(function: Callable, metric: Callable, **skip: object) -> Callable[[], Call]:
    """A measure of a metric; the charts of the points stay."""

    def moved(z: jax.Array) -> jax.Array:
        here = geometry.points_at(surface(), z, chart=points().chart, check=False)
        return function(like(metric(), z), here)

    return lambda: call(moved, points().z, **skip)  # type: ignore[arg-type]


def component() -> object:
    return component_model().bind(component_parameters())


CALLS: dict[str, Callable[[], Call]] = {
    "kappa_estimate": of_values(D.kappa_estimate),
    "eta": of_values(D.eta),
    "sigma_measure": of_values(D.sigma_measure),
    "sigma_standard_error": of_values(D.sigma_standard_error, rough=5),
    "gain": of_values(D.gain),
    "volume_ratio": of_values(D.volume_ratio),
    "volume_ratio_standard_error": of_values(D.volume_ratio_standard_error, rough=5),
    "relative_eigenvalues": of_values(D.relative_eigenvalues),
    "min_eigenvalue": of_values(D.min_eigenvalue),
    "positive_fraction": of_values(D.positive_fraction, grad="step"),
    "kaehler_defect": of_metric(D.kaehler_defect, component),
    "chart_mismatch": of_metric(D.chart_mismatch, component),
    "mean_abs_ricci": of_metric(D.mean_abs_ricci, spectral, rough=50),
}

NOT_APPLICABLE = {
    "Diagnostics": "record",
    "Metric": "protocol",
    "Metric.chart": "protocol",
    "diagnose": "host",
}
