"""Calls of metricflow.records: files, and the metrics in them."""

from collections.abc import Callable

import jax

from metricflow import geometry, records
from tests.robustness.calls.call import Call, call, like


def quartic() -> Call:
    metric = records.calabi_yau_metric("fermat_quartic")
    points = geometry.sample_points(jax.random.key(0), metric.manifold, 4)
    return call(lambda z: like(metric, z)(z, points.chart), points.z, rough=5)


CALLS: dict[str, Callable[[], Call]] = {"calabi_yau_metric": quartic}

NOT_APPLICABLE = {"names": "file", "provenance": "file"}
