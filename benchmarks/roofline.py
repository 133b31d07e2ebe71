"""What share of a device's arithmetic and of its memory the main programs make use of.

Both bounds are measured in the same process: operations of a large matrix product, bytes of a copy.
Operations are counted in the program that jax compiles for processors, loops multiplied out, a
transcendental function as one; bytes are those of arguments and results, each moved once.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import _operations
from benchmarks._timing import measure
from benchmarks.growth import Affine
from metricflow import ansatz, geometry, kernels
from metricflow.flows import GaussNewton, KernelFlow

_SEARCH = "search for roots counted once"


class Bounds(NamedTuple):
    """What a device can do in one precision.

    Attributes:
        operations: in a second, of a product of square matrices.
        bytes: in a second, read and written by a copy.
    """

    operations: float
    bytes: float


def rows(points: int | None = None) -> list[dict]:
    """Pairs of ``points``, ten times as many where cost is linear; more on accelerators."""
    accelerator = jax.default_backend() != "cpu"
    points = points or (32768 if accelerator else 8192)
    found = []
    for dtype in ("float32", "float64"):
        bounds = _bounds(dtype, min(points // 2, 8192))
        programs = {
            f"Gaussian kernel sum, {points} x {points}": _kernel_sum(points, dtype),
            f"sample {10 * points} quintic points ({_SEARCH})": _sampling(10 * points, dtype),
            f"metric-NTK product, {10 * points} points": _ntk_product(10 * points, dtype),
            **{
                f"Gauss-Newton step, {factor}, {2 * points} x {points // 8}": _gauss_newton(
                    2 * points, points // 8, factor, dtype
                )
                for factor in ("qr", "cholesky")
            },
        }
        if accelerator:
            for many in (100_000, 1_000_000):
                programs[f"one step of a Gaussian flow, {many} points"] = _flow(many, dtype)
        found += [
            _row(f"{name}, {dtype}", program, arguments, bounds)
            for name, (program, arguments) in programs.items()
        ]
    return found


def _bounds(dtype: str, size: int) -> Bounds:
    x = jnp.ones((size, size), dtype)
    product = jax.jit(functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))
    copy = jax.jit(lambda x: x + 1)
    long = jnp.ones(8 * size**2, dtype)
    return Bounds(
        2 * size**3 / measure(lambda: product(x, x))["wall"],
        2 * long.nbytes / measure(lambda: copy(long))["wall"],
    )


def _row(name: str, program: Callable, arguments: tuple, bounds: Bounds) -> dict:
    compiled = jax.jit(program)
    ours = measure(lambda: compiled(*arguments))
    moved = sum(x.nbytes for x in jax.tree.leaves((arguments, compiled(*arguments))))
    operations = _operations_of(program, arguments)
    return {
        "name": name,
        "ours": ours,
        "peers": {},
        "values": {
            "operations": operations,
            "share of the arithmetic bound": operations / ours["wall"] / bounds.operations,
            "share of the memory bound": moved / ours["wall"] / bounds.bytes,
        },
    }


def _operations_of(program: Callable, arguments: tuple) -> float:
    processor = jax.devices("cpu")[0]
    with jax.default_device(processor):
        # libraries of accelerators do not show in the text of their programs
        text = jax.jit(program).lower(*jax.device_put(arguments, processor)).compile().as_text()
    return _operations.count(str(text), 1).flops


def _kernel_sum(points: int, dtype: str) -> tuple[Callable, tuple]:
    z = geometry.sample_points(jax.random.key(0), geometry.fermat(3), points, dtype=dtype).z
    apply = functools.partial(kernels.apply, kernels.Gaussian(0.4))
    return lambda z, v: apply(z, z, v), (z, jnp.ones((points, 9), dtype))


def _sampling(points: int, dtype: str) -> tuple[Callable, tuple]:
    sample = functools.partial(
        geometry.sample_points, manifold=geometry.fermat(3), n=points, dtype=dtype
    )
    return sample, (jax.random.key(0),)


def _ntk_product(points: int, dtype: str) -> tuple[Callable, tuple]:
    network = ansatz.Mlp((64, 64), "gelu", outputs=9)
    x, v = jnp.ones((points, 10), dtype), jnp.ones((points, 9), dtype)
    params = jax.tree.map(lambda p: p.astype(dtype), network.init(jax.random.key(2), x[0]))

    def product(params: Any, x: jax.Array, v: jax.Array) -> jax.Array:
        return kernels.metric_ntk_product(network, params, x, None, v)

    return product, (params, x, v)


def _gauss_newton(samples: int, parameters: int, factor: str, dtype: str) -> tuple[Callable, tuple]:
    keys = jax.random.split(jax.random.key(0))
    problem = Affine(
        jax.random.normal(keys[0], (samples, parameters), dtype),
        jax.random.normal(keys[1], (samples,), dtype),
    )
    method = GaussNewton(solver="parameters", factor=factor)
    return method.step, (method.init(jnp.zeros(parameters, dtype)), problem)


def _flow(points: int, dtype: str) -> tuple[Callable, tuple]:
    sample = geometry.sample_points_in_chart(
        jax.random.key(0), geometry.fermat(3), points, dtype=dtype
    )
    flow = KernelFlow(kernels.Gaussian(0.4), step_size=0.03, normalise_update=True)
    return lambda state: flow.step(state)[0], (flow.init(sample),)
