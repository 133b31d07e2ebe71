"""How far fixed kernels generalise: test gain on fresh points by kernel and number of points.

The flows run with the test-optimal hyper-parameters of ``quintic_kernel``, which were chosen on
other seeds; every seed draws new training and new test points.

Source: MF section 3.2 (the claim that no fixed kernel gains more than about 5 on test points).
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments import _flags, _run
from experiments._kernel_presets import KERNELS, TUNED, build_flow
from experiments._manifold import FORMS, parse_manifold
from metricflow import __version__, diagnostics, geometry
from metricflow.flows import Result, held_out_sigma


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    manifold: str = "fermat:3"
    kernels: tuple[str, ...] = KERNELS
    points: tuple[int, ...] = (1000, 10_000)
    seeds: tuple[int, ...] = (100, 101, 102, 103, 104)
    test_points: int = 5000
    derivative_points: int = 200
    steps: int = 50
    hyperparameters: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {k: sets["test_optimal"] for k, sets in TUNED.items()}
    )


PRESETS = {
    "default": Config(),
    "smoke": Config(points=(50, 100), seeds=(0, 1), test_points=100, derivative_points=10, steps=5),
}
MEASURES = ("test_gain", "test_gain_unweighted", "train_gain", "kaehler_defect", "chart_mismatch")


def run(config: Config, record: _run.Record | None = None) -> dict:
    """One flow for each kernel, number of points and seed; means and spreads over seeds."""
    jax.config.update("jax_enable_x64", True)
    record = record or _run.Record()
    manifold = parse_manifold(config.manifold)
    cases = [(k, n, s) for n in config.points for k in config.kernels for s in config.seeds]
    results = {}
    for kernel, points, seed in tqdm(cases, desc="kernel_generalisation", disable=None):
        results[kernel, points, seed] = record.stage(
            f"{kernel}/{points}/{seed}",
            lambda k=kernel, n=points, s=seed: _flow_stage(config, manifold, k, n, s),  # type: ignore[misc]
        )
    table = [
        {
            "kernel": kernel,
            "points": points,
            **{
                m: _run.spread([results[kernel, points, s][m] for s in config.seeds])
                for m in MEASURES
            },
            "outcomes": sorted({results[kernel, points, s]["outcome"] for s in config.seeds}),
        }
        for points in config.points
        for kernel in config.kernels
    ]
    return {
        "manifold": config.manifold,
        "seeds": list(config.seeds),
        "table": table,
        "hyperparameters": config.hyperparameters,
        "seconds": {k: record.seconds(k) for k in ("compile", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }


def draw(result: dict, folder: Path) -> None:
    """Test gain against the number of training points, mean and spread over seeds."""
    import matplotlib.pyplot as plt

    from metricflow.plotting.curves import COLOURS, LABELS

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for kernel in dict.fromkeys(row["kernel"] for row in result["table"]):
        rows = [row for row in result["table"] if row["kernel"] == kernel]
        axis.errorbar(
            [row["points"] for row in rows],
            [row["test_gain"]["mean"] for row in rows],
            [row["test_gain"]["std"] for row in rows],
            fmt="o-",
            capsize=3,
            color=COLOURS[kernel],
            label=LABELS[kernel],
        )
    axis.axhline(5, color="0.6", lw=0.8, ls="--", label="the paper's ceiling")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("training points")
    axis.set_ylabel(r"test gain in $\sigma$")
    axis.legend(frameon=False)
    _run.save_figure(figure, folder / "test_gain.png")


def _flow_stage(
    config: Config, manifold: geometry.Hypersurface, kernel: str, points: int, seed: int
) -> dict:
    train_key, test_key = jax.random.split(jax.random.key(seed))
    train = geometry.sample_points_in_chart(train_key, manifold, points)
    test = geometry.sample_points_in_chart(test_key, manifold, config.test_points)
    hyperparameters = config.hyperparameters[kernel]
    flow = build_flow(hyperparameters, kernel)
    state = flow.init(train, dense=True)
    watch = held_out_sigma(flow, state, test, dense=True)
    steps = min(hyperparameters.get("steps", config.steps), config.steps)
    state, _, _ = flow.run(state, steps, observe=watch, throw=False)
    found = diagnostics.diagnose(
        flow.metric(manifold, state), test, derivative_points=config.derivative_points
    )
    return {
        "train_gain": float(diagnostics.gain(state.g, train)),
        "test_gain": found.gain,
        "test_gain_unweighted": found.gain_unweighted,
        "outcome": Result(int(state.result)).name,
        "steps": int(state.steps),
        **{k: v for k, v in found._asdict().items() if k not in ("gain", "gain_unweighted")},
    }


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--kernel", nargs="+", choices=KERNELS, help="which kernels")
    parser.add_argument("--points", nargs="+", type=_flags.count, help="numbers of training points")
    parser.add_argument("--seeds", nargs="+", type=_flags.whole, help="seeds to average over")
    parser.add_argument("--manifold", help=FORMS)


def configure(arguments: argparse.Namespace) -> Config:
    """The config that the flags describe."""
    changes: dict[str, Any] = {
        field: tuple(dict.fromkeys(given))
        for field, given in (
            ("kernels", arguments.kernel),
            ("points", arguments.points),
            ("seeds", arguments.seeds),
        )
        if given
    }
    if arguments.manifold:
        changes["manifold"] = arguments.manifold
    config = dataclasses.replace(PRESETS[arguments.preset], **changes)
    if min(config.points) < 2:
        raise ValueError(f"--points: expected at least 2, got {min(config.points)}")
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
