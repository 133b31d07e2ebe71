"""Every diagnostic of a saved metric, on fresh points of its hypersurface."""

import argparse
import sys
from collections.abc import Sequence

import jax

from experiments import _flags
from experiments._manifold import STORED, stored_metric
from metricflow import diagnostics, geometry


def evaluate(path: str, points: int, seed: int, derivative_points: int) -> diagnostics.Diagnostics:
    """The diagnostics of the metric in a file on ``points`` fresh points.

    A metric that lives in one chart without permutation symmetry is evaluated in that chart.
    """
    jax.config.update("jax_enable_x64", True)
    metric = stored_metric(path)
    key = jax.random.key(seed)
    if metric.manifold.symmetric:
        sample = geometry.sample_points(key, metric.manifold, points)
    else:
        home = getattr(metric, "home", None)
        sample = geometry.sample_points_in_chart(key, metric.manifold, points, chart=home)
    return diagnostics.diagnose(metric, sample, derivative_points=derivative_points)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = _flags.Parser("python -m experiments.evaluate_metric", str(__doc__))
    parser.add_argument("file", help="a metric: " + STORED)
    parser.add_argument("--points", type=_flags.count, default=10_000, help="fresh points")
    parser.add_argument(
        "--derivative-points", type=_flags.whole, default=1000, help="for derivatives"
    )
    parser.add_argument("--seed", type=_flags.whole, default=12345, help="seed of the points")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = argparse.Namespace(debug=False)
    try:
        parser.parse_args(argv, arguments)
        found = evaluate(
            arguments.file, arguments.points, arguments.seed, arguments.derivative_points
        )
    except Exception as error:
        if arguments.debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | OSError) else 1
    for name, value in found._asdict().items():
        if name != "notes":
            note = found.notes.get(name)
            print(f"{name:22s} {f'- ({note})' if value is None else f'{value:.6g}'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
