"""Turn the metric of a record run into a small file for ``metricflow.records``."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import _flags
from metricflow import ansatz, diagnostics, geometry, load_metric, save_metric


def store(run: Path, rung: int, target: Path, *, points: int = 20_000) -> dict:
    """Compact the metric of one rung, measure it again on fresh points, and save it.

    Args:
        run: the folder of a ``record_metric`` run.
        rung: which of its checkpoints.
        target: the new file.
        points: fresh points of the measurement.

    Returns:
        What is stored as provenance.
    """
    jax.config.update("jax_enable_x64", True)
    metric = load_metric(run / "checkpoints" / f"metric-{rung}.npz")
    key = jax.random.key(2026)
    sample = geometry.sample_points(key, metric.manifold, 3 * metric.basis.size + 300)
    small = ansatz.compact_metric(metric, sample)
    fresh = geometry.sample_points(jax.random.fold_in(key, 1), metric.manifold, points)
    found = diagnostics.diagnose(small, fresh, derivative_points=400, curvature_points=200)
    g = small(fresh.z, fresh.chart)
    measured = {k: v for k, v in found._asdict().items() if isinstance(v, float)}
    result = json.loads((run / "result.json").read_text())
    row = next(row for row in result["rungs"] if row["size"] == rung)
    provenance = {
        **{k: result[k] for k in ("command", "manifold", "method", "seed", "versions")},
        "degree": rung,
        "functions": small.basis.size,
        "seconds": row["seconds"],
        "test_points": points,
        **measured,
        "kappa": float(diagnostics.kappa_estimate(g, fresh)),
        "largest_change_by_rounding": float(
            np.max(np.abs(g[:500] - metric(fresh.z[:500], fresh.chart[:500])))
        ),
    }
    save_metric(target, small, provenance=provenance)
    return provenance


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = _flags.Parser("python -m experiments.store_record", str(__doc__))
    parser.add_argument("run", type=Path, help="folder of a record_metric run")
    parser.add_argument("rung", type=_flags.whole, help="which of its rungs")
    parser.add_argument("target", type=Path, help="the file to write, such as quintic.npz")
    try:
        arguments = parser.parse_args(argv)
        found = store(arguments.run, arguments.rung, arguments.target)
    except (OSError, ValueError, StopIteration) as error:
        print(f"error: {error or 'no such rung'}", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
