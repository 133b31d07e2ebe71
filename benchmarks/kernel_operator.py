"""Gaussian kernel sums over point sets and nearest neighbours, against NumPy and a k-d tree."""

import resource

import jax
import jax.numpy as jnp
import numpy as np
import scipy.spatial

from benchmarks._timing import compare
from metricflow import geometry, kernels
from metricflow.flows import KernelFlow

POINTS = 8000
LARGE = 100_000


def rows(points: int = POINTS) -> list[dict]:
    manifold = geometry.fermat(3)
    sample = geometry.sample_points_in_chart(jax.random.key(0), manifold, points)
    v = jax.random.normal(jax.random.key(1), (points, 9))
    found = []
    for real, complex_ in (("float64", "complex128"), ("float32", "complex64")):
        z, u = jnp.asarray(sample.z, complex_), v.astype(real)
        z_numpy, u_numpy = np.asarray(z), np.asarray(u)
        found.append(
            compare(
                f"Gaussian kernel sum, {points} x {points}, 9 channels, {real}",
                lambda z=z, u=u: kernels.apply(kernels.Gaussian(0.4), z, z, u),  # type: ignore[misc]
                {"NumPy, same tiles": lambda z=z_numpy, u=u_numpy: _numpy_apply(0.4, z, u)},  # type: ignore[misc]
            )
        )
        found.append(
            compare(
                f"nearest neighbour within {points} points, {real}",
                lambda z=z: geometry.nearest_neighbour(z),  # type: ignore[misc]
                {"k-d tree of z z^dagger": lambda z=z_numpy: _tree(z)},  # type: ignore[misc]
            )
        )
    return [*found, _large_row(LARGE if points == POINTS else points)]


def _large_row(points: int) -> dict:
    """A whole step of a flow in single precision, its kernel never stored, and its memory."""
    sample = geometry.sample_points_in_chart(jax.random.key(0), geometry.fermat(3), points)
    sample = jax.tree.map(_single, sample)
    flow = KernelFlow(kernels.Gaussian(0.4), step_size=0.03, normalise_update=True)
    state = jax.block_until_ready(flow.init(sample))
    step = jax.jit(lambda state: flow.step(state)[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row = compare(f"one step of a Gaussian flow, {points} points, float32", lambda: step(state), {})
    above = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return row | {"values": {"MB above what the process had taken before": above // 1024}}


def _single(x: jax.Array) -> jax.Array:
    narrow = {"float64": "float32", "complex128": "complex64"}
    return jnp.asarray(x, narrow.get(str(x.dtype), x.dtype))


def _numpy_apply(width: float, z: np.ndarray, v: np.ndarray, chunk: int = 1024) -> np.ndarray:
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    total = np.zeros_like(v)
    for i in range(0, len(z), chunk):
        for j in range(0, len(z), chunk):
            cosine = np.abs(unit[i : i + chunk].conj() @ unit[j : j + chunk].T)
            distance = np.arccos(np.minimum(cosine, 1))
            total[i : i + chunk] += np.exp(-(distance**2) / (2 * width**2)) @ v[j : j + chunk]
    return total


def _tree(z: np.ndarray) -> np.ndarray:
    """Nearest neighbours by the chord |z z^dagger - w w^dagger|, which grows with the distance."""
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    projector = unit[:, :, None] * unit[:, None, :].conj()
    embedded = np.asarray(geometry.hermitian_pack(projector))
    return scipy.spatial.KDTree(embedded).query(embedded, k=2)[1][:, 1]
