"""What share of a device's arithmetic and of its memory the main programs make use of.

Both bounds are measured in the same process: operations of a large matrix product, bytes of a copy.
Operations are counted in the program that jax compiles for processors, loops multiplied out, a
transcendental function as one; bytes are those of arguments and results, each moved once.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import _operations, _programs
from benchmarks._timing import measure
from metricflow.flows.gauss_newton import FACTORS

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
            f"Gaussian kernel sum, {points} x {points}": _programs.kernel_sum(points, dtype),
            f"sample {10 * points} quintic points ({_SEARCH})": _programs.sampling(
                10 * points, dtype
            ),
            f"metric-NTK product, {10 * points} points": _programs.ntk_product(10 * points, dtype),
        }
        for factor in FACTORS:
            samples, parameters = 2 * points, points // 8
            name = f"Gauss-Newton step, {factor}, {samples} x {parameters}"
            programs[name] = _programs.gauss_newton(
                samples, parameters, "parameters", factor, dtype
            )
        if accelerator:
            for many in (100_000, 1_000_000):
                name = f"one step of a Gaussian flow, {many} points"
                programs[name] = _programs.kernel_step(many, dtype)
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
    arrays = jax.tree.leaves((arguments, jax.eval_shape(program, *arguments)))
    moved = sum(x.size * x.dtype.itemsize for x in arrays)
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
