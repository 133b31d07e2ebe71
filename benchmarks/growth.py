"""How cost grows: exponents fitted to processor seconds, beside those expected."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import measure
from metricflow import ansatz, geometry, kernels
from metricflow.flows import GaussNewton, KernelFlow

STEPS = 3  # sizes, each twice the one before


def rows(points: int = 8192) -> list[dict]:
    """Sizes up to ``points`` for pairs, and others in proportion."""
    side = max(points // 4, 16)
    return [
        _growth("step of a kernel flow", "points", 2, _kernel_step, _sizes(points)),
        _growth("metric-NTK product", "points", 1, _ntk_product, _sizes(20 * points)),
        _growth(
            "Gauss-Newton, parameters' side",
            "samples",
            1,
            lambda n: _gauss_newton(n, side // 4, "parameters"),
            _sizes(8 * side),
        ),
        _growth(
            "Gauss-Newton, parameters' side",
            "parameters",
            2,
            lambda p: _gauss_newton(4 * side, p, "parameters"),
            _sizes(side),
        ),
        _growth(
            "Gauss-Newton, samples' side",
            "samples",
            2,
            lambda n: _gauss_newton(n, 4 * side, "samples"),
            _sizes(side),
        ),
        _growth(
            "Gauss-Newton, samples' side",
            "parameters",
            1,
            lambda p: _gauss_newton(side // 4, p, "samples"),
            _sizes(8 * side),
        ),
    ]


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log seconds against log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def _sizes(largest: int) -> list[int]:
    return [largest // 2**k for k in reversed(range(STEPS))]


def _growth(
    name: str,
    along: str,
    expected: float,
    make: Callable[[int], Callable[[], Any]],
    sizes: Sequence[int],
) -> dict:
    found = [measure(make(size)) for size in sizes]
    seconds = [row["cpu"] for row in found]
    return {
        "name": f"{name}, {sizes[-1]} {along}",
        "ours": found[-1],
        "peers": {},
        "growth": {
            "of": name,
            "along": along,
            "sizes": list(sizes),
            "cpu": seconds,
            "exponent": exponent(sizes, seconds),
            "expected": expected,
        },
    }


def _kernel_step(points: int) -> Callable[[], Any]:
    sample = geometry.sample_points_in_chart(jax.random.key(0), geometry.fermat(3), points)
    flow = KernelFlow(kernels.Gaussian(0.4), step_size=0.03, normalise_update=True)
    state = flow.init(sample)
    step = jax.jit(lambda state: flow.step(state)[0])
    return lambda: step(state)


def _ntk_product(points: int) -> Callable[[], Any]:
    network = ansatz.Mlp((64, 64), "gelu", outputs=9)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (points, 10), "float32")
    v = jax.random.normal(keys[1], (points, 9), "float32")
    params = network.init(keys[2], x[0])
    return lambda: kernels.metric_ntk_product(network, params, x, None, v)


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


def _gauss_newton(samples: int, parameters: int, solver: str) -> Callable[[], Any]:
    keys = jax.random.split(jax.random.key(0))
    problem = Affine(
        jax.random.normal(keys[0], (samples, parameters)), jax.random.normal(keys[1], (samples,))
    )
    method = GaussNewton(solver=solver)
    state = method.init(jnp.zeros(parameters))
    step = jax.jit(method.step)
    return lambda: step(state, problem)
