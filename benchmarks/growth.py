"""How cost grows: exponents fitted to processor seconds, beside those expected."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from benchmarks._timing import measure
from metricflow import ansatz, geometry, kernels
from metricflow.flows import GaussNewton, KernelFlow
from metricflow.flows.gauss_newton import FACTORS

SIDES = ("parameters", "samples")  # of a Jacobian
STEPS = 3  # sizes, each twice the one before


def rows(points: int = 8192) -> list[dict]:
    """Sizes up to ``points`` for pairs, and others in proportion."""
    side = max(points // 4, 16)
    return [
        _growth("step of a kernel flow", "points", 2, _kernel_step, _sizes(points)),
        _growth("metric-NTK product", "points", 1, _ntk_product, _sizes(20 * points)),
        *(
            _gauss_newton_growth(factor, solver, along, side)
            for factor in FACTORS
            for solver in SIDES
            for along in SIDES
        ),
    ]


def _gauss_newton_growth(factor: str, solver: str, along: str, side: int) -> dict:
    """The other side of the Jacobian is so much longer or shorter that its powers are small."""
    short = along == solver
    fixed = 4 * side if short else max(side // 16, 4)

    def shaped(make: Callable[..., Callable[[], Any]]) -> Callable[[int], Callable[[], Any]]:
        def made(size: int) -> Callable[[], Any]:
            shape = (size, fixed) if along == "samples" else (fixed, size)
            return make(*shape, solver, factor)

        return made

    return _growth(
        f"Gauss-Newton, {factor}, {solver}' side",
        along,
        2 if short else 1,
        shaped(_gauss_newton),
        _sizes(side if short else 32 * side),
        shaped(_lapack),
    )


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
    lapack: Callable[[int], Callable[[], Any]] | None = None,
) -> dict:
    found = [measure(make(size)) for size in sizes]
    seconds = [row["cpu"] for row in found]
    growth = {
        "of": name,
        "along": along,
        "sizes": list(sizes),
        "cpu": seconds,
        "exponent": exponent(sizes, seconds),
        "expected": expected,
    }
    peers = {}
    if lapack is not None:
        # library routines become more efficient with size, which an exponent shows as well
        peer = [measure(lapack(size), repeats=3) for size in sizes]
        growth["lapack"] = exponent(sizes, [row["cpu"] for row in peer])
        peers["LAPACK"] = peer[-1] | {
            "ratio": seconds[-1] / peer[-1]["cpu"],
            "wall_ratio": found[-1]["wall"] / peer[-1]["wall"],
        }
    return {
        "name": f"{name}, {sizes[-1]} {along}",
        "ours": found[-1],
        "peers": peers,
        "growth": growth,
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


def _gauss_newton(samples: int, parameters: int, solver: str, factor: str) -> Callable[[], Any]:
    problem = _affine(samples, parameters)
    method = GaussNewton(solver=solver, factor=factor)
    state = method.init(jnp.zeros(parameters))
    step = jax.jit(method.step)
    return lambda: step(state, problem)


def _lapack(samples: int, parameters: int, solver: str, factor: str) -> Callable[[], Any]:
    """The parameters after the same step, by SciPy."""
    J, r = jax.tree.leaves(jax.tree.map(np.asarray, _affine(samples, parameters)))
    small = solver == "parameters"
    A = J if small else J.T

    def by_cholesky() -> np.ndarray:
        lower = scipy.linalg.cho_factor(A.T @ A, overwrite_a=True)
        return (
            scipy.linalg.cho_solve(lower, J.T @ r)
            if small
            else J.T @ scipy.linalg.cho_solve(lower, r)
        )

    def by_qr() -> np.ndarray:
        Q, R = scipy.linalg.qr(A, mode="economic")
        if small:
            return scipy.linalg.solve_triangular(R, Q.T @ r)
        return Q @ scipy.linalg.solve_triangular(R, r, trans=1)

    return by_cholesky if factor == "cholesky" else by_qr


def _affine(samples: int, parameters: int) -> Affine:
    keys = jax.random.split(jax.random.key(0))
    return Affine(
        jax.random.normal(keys[0], (samples, parameters)), jax.random.normal(keys[1], (samples,))
    )
