"""``python -m benchmarks.weak_scaling``: what one of 1, 2, 4, 8 devices does, counted.

The points of a device stay the same, their number grows with the devices.  Programs are compiled,
not run: operations and bytes sent are read off them (:mod:`benchmarks._operations`).
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import _operations
from benchmarks.growth import Affine
from metricflow import ansatz, devices, geometry, kernels
from metricflow.flows import GaussNewton, KernelFlow

COUNTS = (1, 2, 4, 8)


def rows(points: int = 1000, parameters: int = 128, counts: Sequence[int] = COUNTS) -> list[dict]:
    """Operations and bytes sent of one device, for ``points`` points a device."""
    cases = {
        "sampling": lambda n: _sampling(n),
        "step of a kernel flow": lambda n: _kernel_step(n, points),
        "metric-NTK product": lambda n: _ntk_product(n, points),
        "Gauss-Newton step, QR": lambda n: _gauss_newton(n, parameters, "qr"),
        "Gauss-Newton step, Cholesky": lambda n: _gauss_newton(n, parameters, "cholesky"),
    }
    return [
        {"name": name, "by_devices": [_counted(case, points, count) for count in counts]}
        for name, case in cases.items()
    ]


def _counted(case: Callable, points: int, count: int) -> dict:
    with jax.set_mesh(devices.mesh(count)):
        function, arguments = case(points * count)
        text = str(jax.jit(function).lower(*arguments).compile().as_text())
    return {"devices": count, "points": points * count} | _operations.count(text, count)._asdict()


def _sampling(points: int) -> tuple[Callable, tuple]:
    quintic = geometry.fermat(3)
    return lambda key: geometry.sample_points(key, quintic, points), (jax.random.key(0),)


def _kernel_step(points: int, chunk: int) -> tuple[Callable, tuple]:
    sample = geometry.sample_points_in_chart(
        jax.random.key(0), geometry.fermat(3), points, dtype=jnp.float32
    )
    flow = KernelFlow(kernels.Gaussian(0.4), step_size=0.03, normalise_update=True)
    return lambda state: flow.step(state)[0], (flow.init(sample, chunk=chunk),)


def _ntk_product(points: int, chunk: int) -> tuple[Callable, tuple]:
    network = ansatz.Mlp((64, 64), "gelu", outputs=9)
    x, v = devices.divide((jnp.ones((points, 10)), jnp.ones((points, 9))))
    params = network.init(jax.random.key(2), x[0])

    def product(params: Any, x: jax.Array, v: jax.Array) -> jax.Array:
        return kernels.metric_ntk_product(network, params, x, None, v, chunk=chunk)

    return product, (params, x, v)


def _gauss_newton(points: int, parameters: int, factor: str) -> tuple[Callable, tuple]:
    problem = devices.divide(Affine(jnp.ones((points, parameters)), jnp.ones(points)))
    method = GaussNewton(factor=factor, solver="parameters", damping=1e-6)
    return method.step, (method.init(jnp.zeros(parameters)), problem)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weak_scaling", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--points", type=int, default=1000, help="of a device")
    parser.add_argument("--parameters", type=int, default=128, help="of Gauss-Newton")
    parser.add_argument("--out", type=Path, default=Path("results/weak_scaling.json"))
    arguments = parser.parse_args(argv)
    jax.config.update("jax_num_cpu_devices", max(COUNTS))
    os.environ.setdefault("NPROC", str(4 * max(COUNTS)))
    found = rows(arguments.points, arguments.parameters)
    for row in found:
        print(row["name"])
        for part in row["by_devices"]:
            print(
                f"  {part['devices']} devices, {part['points']} points: {part['flops']:.4g} "
                f"operations, {part['sent']:.4g} bytes sent, {part['open_loops']} open loops"
            )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "points": arguments.points,
        "parameters": arguments.parameters,
        "jax": jax.__version__,
        "rows": found,
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
