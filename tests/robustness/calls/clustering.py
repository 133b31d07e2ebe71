"""Calls of metricflow.clustering."""

from collections.abc import Callable

import jax.numpy as jnp

from metricflow import clustering as C  # noqa: N812
from metricflow import kernels
from tests.robustness.calls.call import Call, call, complex_numbers, numbers


def operator() -> C.BlockOperator:
    z = complex_numbers(1, 6, 3)
    kernel = C.ClusteredKernel(kernels.Gaussian(0.5), z, jnp.array([0, 0, 1, 1, 1, 0]))
    return kernel.operator(z, z, chunk=4)


CALLS: dict[str, Callable[[], Call]] = {
    # its blocks are found on the host, before
    "BlockOperator": lambda: call(lambda one, v: one @ v, operator(), numbers(1, 6, 2)),
}

NOT_APPLICABLE = {
    "ClusteredKernel": "record",
    "ClusteredKernel.assigned": "host",
    "ClusteredKernel.operator": "host",
    "batched_clusters": "host",
    "birch_clusters": "host",
    "fubini_study_clusters": "host",
    "silhouette": "host",
}
