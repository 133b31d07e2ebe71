"""Euler numbers of Calabi-Yau hypersurfaces by Chern-Gauss-Bonnet, with error bars.

The curvature of any metric integrates to a number that depends on neither the metric nor the
complex structure: a check of curvature, charts, sampling law and weights at once.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _flags, _run
from experiments._manifold import FORMS, parse_manifold
from metricflow import __version__, geometry


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    manifolds: tuple[str, ...] = ("fermat:1", "fermat:2", "fermat:3")
    points: int = 1_000_000
    batch: int = 100_000
    seed: int = 0


PRESETS = {
    "default": Config(),
    "smoke": Config(manifolds=("fermat:1", "fermat:2"), points=2000, batch=1000),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """The Euler number of each hypersurface from the Fubini-Study metric, with its history."""
    jax.config.update("jax_enable_x64", True)
    if not 0 < config.batch <= config.points:
        raise ValueError(f"--points: expected at least {config.batch}, got {config.points}")
    record = record or _run.Record()
    return {
        "rows": [
            record.stage(name, lambda m=name: _euler_stage(config, m))  # type: ignore[misc]
            for name in config.manifolds
        ],
        "points": config.points,
        "seed": config.seed,
        "seconds": {k: record.seconds(k) for k in ("compile", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }


def exact_euler_number(degree: int) -> int:
    """Of a smooth hypersurface of this degree in P^(degree - 1).

    The coefficient of h^n in d (1 + h)^d / (1 + d h): ((1 - d)^d - 1) / d + d.
    """
    return ((1 - degree) ** degree - 1) // degree + degree


def draw(result: dict, folder: Path) -> None:
    """The estimate against the number of points, in units of its last standard error."""
    import matplotlib.pyplot as plt

    rows = result["rows"]
    figure, axes = plt.subplots(
        1, len(rows), figsize=(3 * len(rows), 3), layout="constrained", squeeze=False
    )
    for axis, row in zip(axes[0], rows, strict=True):
        points, value, error = np.array(row["history"], float).T
        axis.errorbar(points, value, error, fmt="o-", ms=3, capsize=2, color="#0072b2")
        axis.axhline(row["exact"], color="0.5", lw=0.8)
        axis.set_xscale("log")
        axis.set_xlabel("points")
        axis.set_title(f"{row['manifold']}: {row['exact']}")
    axes[0, 0].set_ylabel("Euler number")
    _run.save_figure(figure, folder / "euler_numbers.png")


def _euler_stage(config: Config, name: str) -> dict:
    manifold = parse_manifold(name)
    metric = geometry.FubiniStudyMetric(manifold)
    key = jax.random.key(config.seed)
    densities, lines = [], []
    for batch in range(config.points // config.batch):
        points = geometry.sample_points(jax.random.fold_in(key, batch), manifold, config.batch)
        densities.append(geometry.euler_density(metric, points))
        lines.append(points.line + batch * config.batch)
    density, line = jnp.concatenate(densities), jnp.concatenate(lines)
    sizes = [n for n in (1000, 3000, 10_000, 30_000, 100_000, 300_000) if n < len(density)]
    history = []
    for size in (*sizes, len(density)):
        mean, spread = geometry.mean_over_lines(density[:size], line[:size])
        history.append([size, float(mean), float(spread)])
    exact = exact_euler_number(manifold.degree)
    _, value, error = history[-1]
    return {
        "manifold": name,
        "exact": exact,
        "value": value,
        "standard_error": error,
        "deviation_in_standard_errors": (value - exact) / error,
        "history": history,
    }


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--manifolds", nargs="+", help=FORMS)
    parser.add_argument("--points", type=_flags.count, help="points on each")
    parser.add_argument("--seed", type=_flags.whole, help="seed of the points")


def configure(arguments: argparse.Namespace) -> Config:
    """The config that the flags describe."""
    config = PRESETS[arguments.preset]
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name in ("manifolds", "points", "seed") and value is not None
    }
    if "points" in changes:
        changes["batch"] = min(config.batch, max(changes["points"], 1))
    return dataclasses.replace(config, **changes)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
