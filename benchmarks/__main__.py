"""``python -m benchmarks``: all benchmarks, a table on the terminal and a JSON file."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks import (
    discretized_training,
    gradient_rules,
    infinite_networks,
    kernel_operator,
    metric_ntk,
    network_training,
    potential_flows,
    record_metric,
    sampling,
)
from metricflow import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks.json"))
    parser.add_argument("--small", action="store_true", help="small sizes, to see that it runs")
    arguments = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    modules = {
        sampling: 1000,
        kernel_operator: 500,
        infinite_networks: 100,
        metric_ntk: 100,
        potential_flows: 100,
        record_metric: 8,
        network_training: 500,
        gradient_rules: 4,
        discretized_training: 8,
    }
    rows = [
        row
        for module, size in modules.items()
        for row in (module.rows(size) if arguments.small else module.rows())
    ]
    for row in rows:
        ours = row["ours"]
        print(f"{row['name']}\n  ours {ours['cpu']:.3f} cpu s, {ours['wall']:.3f} wall s", end="")
        print(
            f" ({ours['wall_min']:.3f} ... {ours['wall_max']:.3f}), first {ours['first_call']:.2f}"
        )
        for peer, found in row["peers"].items():
            print(
                f"  {peer}: {found['cpu']:.3f} cpu s; ours / peer {found['ratio']:.2f}, "
                f"wall {found['wall_ratio']:.2f}"
            )
        for name, values in row.get("values", {}).items():
            print(f"  {name}: {values}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        "metricflow": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "devices": [d.device_kind for d in jax.devices()],
    }
    content = {"environment": environment, "rows": rows}
    arguments.out.write_text(json.dumps(content, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
