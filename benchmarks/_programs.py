"""The programs that several benchmarks look at: a function, and arguments that are arrays.

Under a mesh the arguments are divided among its devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metricflow import ansatz, devices, geometry, kernels
from metricflow.flows import GaussNewton, KernelFlow

Program = tuple[Callable, tuple]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Affine:
    """A theta - b, with its Jacobian at hand."""

    matrix: jax.Array
    target: jax.Array

    def residuals(self, theta: jax.Array) -> jax.Array:
        """r(theta)."""
        return self.matrix @ theta - self.target

    def jacobian(self, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        """r and dr/dtheta."""
        return self.residuals(theta), self.matrix


def sampling(points: int, dtype: str = "float64") -> Program:
    """Points of the quintic."""
    quintic = geometry.fermat(3)
    return (
        lambda key: geometry.sample_points(key, quintic, points, dtype=dtype),
        (jax.random.key(0),),
    )


def kernel_sum(points: int, dtype: str) -> Program:
    """Nine channels through a Gaussian kernel among the points."""
    z = geometry.sample_points(jax.random.key(0), geometry.fermat(3), points, dtype=dtype).z
    return lambda z, v: kernels.apply(kernels.Gaussian(0.4), z, z, v), (
        z,
        jnp.ones((points, 9), dtype),
    )


def kernel_step(points: int, dtype: str = "float64", chunk: int = 1024) -> Program:
    """A step of the flow of a Gaussian kernel, in tiles."""
    sample = geometry.sample_points_in_chart(
        jax.random.key(0), geometry.fermat(3), points, dtype=dtype
    )
    flow = KernelFlow(kernels.Gaussian(0.4), step_size=0.03, normalise_update=True)
    return lambda state: flow.step(state)[0], (flow.init(sample, chunk=chunk),)


def ntk_product(points: int, dtype: str = "float32", chunk: int = 1024) -> Program:
    """The metric-NTK of a GELU network 2 x 64 with nine outputs, on values."""
    network = ansatz.Mlp((64, 64), "gelu", outputs=9)
    keys = jax.random.split(jax.random.key(0), 3)
    x, v = devices.divide(
        (
            jax.random.normal(keys[0], (points, 10), dtype),
            jax.random.normal(keys[1], (points, 9), dtype),
        )
    )
    params = jax.tree.map(lambda p: p.astype(dtype), network.init(keys[2], x[0]))

    def product(params: Any, x: jax.Array, v: jax.Array) -> jax.Array:
        return kernels.metric_ntk_product(network, params, x, None, v, chunk=chunk)

    return product, (params, x, v)


def affine(samples: int, parameters: int, dtype: str = "float64") -> Affine:
    """A random linear problem."""
    keys = jax.random.split(jax.random.key(0))
    return devices.divide(
        Affine(
            jax.random.normal(keys[0], (samples, parameters), dtype),
            jax.random.normal(keys[1], (samples,), dtype),
        )
    )


def gauss_newton(
    samples: int,
    parameters: int,
    solver: str,
    factor: str,
    dtype: str = "float64",
    damping: float = 0.0,
) -> Program:
    """A Gauss-Newton step from zero on :func:`affine`."""
    method = GaussNewton(solver=solver, factor=factor, damping=damping)
    start = method.init(jnp.zeros(parameters, dtype))
    return method.step, (start, affine(samples, parameters, dtype))
