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

import jax

from benchmarks import _operations, _programs
from metricflow import devices

COUNTS = (1, 2, 4, 8)


def rows(points: int = 1000, parameters: int = 128, counts: Sequence[int] = COUNTS) -> list[dict]:
    """Operations and bytes sent of one device, for ``points`` points a device."""
    cases = {
        "sampling": lambda n: _programs.sampling(n, "float32"),
        "step of a kernel flow": lambda n: _programs.kernel_step(n, "float32", points),
        "metric-NTK product": lambda n: _programs.ntk_product(n, "float32", points),
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


def _gauss_newton(samples: int, parameters: int, factor: str) -> _programs.Program:
    return _programs.gauss_newton(samples, parameters, "parameters", factor, "float32", 1e-6)


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
