"""``python -m benchmarks``: how fast everything is, against a bound or a peer in the same process.

Results are a table on the terminal, a JSON file, and figures beside it.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks import (
    _report,
    discretized_training,
    gradient_rules,
    growth,
    import_time,
    infinite_networks,
    kernel_operator,
    metric_ntk,
    network_training,
    potential_flows,
    record_metric,
    roofline,
    sampling,
)
from metricflow import __version__

# name -> module and the size that shows whether it runs
BENCHMARKS = {
    "import_time": (import_time, 1),
    "sampling": (sampling, 1000),
    "kernel_operator": (kernel_operator, 500),
    "infinite_networks": (infinite_networks, 100),
    "metric_ntk": (metric_ntk, 100),
    "potential_flows": (potential_flows, 100),
    "record_metric": (record_metric, 8),
    "network_training": (network_training, 500),
    "gradient_rules": (gradient_rules, 4),
    "discretized_training": (discretized_training, 8),
    "growth": (growth, 64),
    "roofline": (roofline, 64),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks.json"))
    parser.add_argument("--small", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="JSON file of an earlier run")
    arguments = parser.parse_args(argv)
    try:
        unknown = [name for name in arguments.names if name not in BENCHMARKS]
        if unknown:
            raise ValueError(f"names: expected some of {', '.join(BENCHMARKS)}, got {unknown}")
        old = None if arguments.compare is None else _report.read(arguments.compare)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    jax.config.update("jax_enable_x64", True)
    content: dict = {"environment": _environment(), "rows": []}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or BENCHMARKS:
        module, small = BENCHMARKS[name]
        rows = module.rows(small) if arguments.small else module.rows()
        print("\n".join(_report.lines(rows)), flush=True)
        content["rows"] += rows
        # what was measured stays if a later benchmark fails
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")
    _report.draw(content, arguments.out.with_suffix(".png"))
    if old is not None:
        print(f"\nprocessor seconds over those in {arguments.compare}:")
        print("\n".join(_report.comparison(content, old)))
    return 0


def _environment() -> dict:
    return {
        "metricflow": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "devices": [d.device_kind for d in jax.devices()],
    }


if __name__ == "__main__":
    sys.exit(main())
