"""Clusters by Fubini-Study distance: how good batches make them, and what a flow loses by them.

Silhouette scores of clustering in batches, of all points at once, and of a Euclidean base line, for
points of one chart and of all charts; distance matrices; the flow of a Gaussian kernel within
clusters against the same flow without.

Source: MF section 3.1 (Fig. 2), MF 3.3.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import _flags, _run
from experiments._manifold import FORMS, parse_manifold
from metricflow import __version__, clustering, diagnostics, geometry, kernels, processes
from metricflow.flows import KernelFlow, held_out_sigma

METHODS = ("batched", "full", "birch")
CHARTS = ("one_chart", "all_charts")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    manifold: str = "fermat:3"
    seeds: tuple[int, ...] = tuple(range(10))
    points: int = 1000
    clusters: int = 10
    batches: int = 5
    test_points: int = 2000
    width: float = 0.42  # of the Gaussian, best on held-out points with 1000 points
    step_size: float = 1.0
    steps: int = 50
    flow_clusters: tuple[int, ...] = (2, 5, 10, 20)


PRESETS = {
    "default": Config(),
    "smoke": Config(
        seeds=(0, 1),
        points=60,
        clusters=3,
        batches=2,
        test_points=40,
        steps=2,
        flow_clusters=(2,),
    ),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """All draws; the result as plain numbers."""
    jax.config.update("jax_enable_x64", True)
    _check(config)
    record = record or _run.Record()
    draws = [
        record.stage(f"silhouettes/{seed}", lambda s=seed: _silhouettes(config, s))  # type: ignore[misc]
        for seed in config.seeds
    ]
    flows = [
        record.stage(f"flow/{seed}", lambda s=seed: _flows(config, s))  # type: ignore[misc]
        for seed in config.seeds
    ]
    kinds = ["unclustered", *(str(count) for count in config.flow_clusters)]
    return {
        "manifold": config.manifold,
        "points": config.points,
        "clusters": config.clusters,
        "batches": config.batches,
        "seeds": list(config.seeds),
        "silhouettes": {
            charts: {
                method: _run.spread([one[charts][method] for one in draws]) for method in METHODS
            }
            for charts in CHARTS
        },
        "flow": {
            kind: {
                name: _run.spread([one[kind][name] for one in flows])
                for name in ("train_gain", "test_gain", "difference")
            }
            for kind in kinds
        },
        "heat_map": record.stage("heat_map", lambda: _heat_map(config)),
        "seconds": {k: record.seconds(k) for k in ("compile", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__},
    }


def draw(result: dict, folder: Path) -> None:
    """Distance matrices without clusters, with batched and with full clusters."""
    import matplotlib.pyplot as plt

    from metricflow import plotting

    found = result["heat_map"]
    z = np.array(found["real"]) + 1j * np.array(found["imaginary"])
    distances = np.asarray(geometry.pairwise_distance(z, z))
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.9), layout="constrained")
    titles = ("no clusters", f"{result['batches']} batches", "all points at once")
    for axis, title, labels in zip(
        axes, titles, (None, found["batched"], found["full"]), strict=True
    ):
        image = plotting.distance_matrix(axis, distances, labels)
        axis.set_title(title)
    figure.colorbar(image, ax=axes, label="Fubini-Study distance", shrink=0.9)
    _run.save_figure(figure, folder / "clusters.png")


def _silhouettes(config: Config, seed: int) -> dict:
    manifold = parse_manifold(config.manifold)
    keys = jax.random.split(jax.random.key(seed), 3)
    found: dict[str, dict] = {}
    for charts, key, sample in (
        ("one_chart", keys[0], geometry.sample_points_in_chart),
        ("all_charts", keys[1], geometry.sample_points),
    ):
        z = sample(key, manifold, config.points).z
        labels = {
            "batched": clustering.batched_clusters(keys[2], z, config.clusters, config.batches),
            "full": clustering.fubini_study_clusters(z, config.clusters),
            "birch": clustering.birch_clusters(z, config.clusters),
        }
        found[charts] = {name: clustering.silhouette(z, x) for name, x in labels.items()}
    return found


def _flows(config: Config, seed: int) -> dict:
    """A Gaussian flow within clusters and without: gains, and how far the metrics are apart."""
    manifold = parse_manifold(config.manifold)
    keys = jax.random.split(jax.random.key(seed), 3)
    train = geometry.sample_points_in_chart(keys[0], manifold, config.points)
    test = geometry.sample_points_in_chart(keys[1], manifold, config.test_points)
    start = float(diagnostics.sigma_measure(geometry.fubini_study_metric(test), test))
    gaussian = kernels.Gaussian(config.width)
    choices: dict[str, Any] = {"unclustered": gaussian}
    for count in config.flow_clusters:
        labels = clustering.fubini_study_clusters(train.z, count)
        choices[str(count)] = clustering.ClusteredKernel(gaussian, train.z, jax.numpy.array(labels))
    found: dict[str, dict] = {}
    whole = None
    for name, kernel in choices.items():
        flow = KernelFlow(kernel, step_size=config.step_size, measure="mean", clip=1.0)
        state = flow.init(train)
        state, _, seen = flow.run(state, config.steps, observe=held_out_sigma(flow, state, test))
        whole = state.g if whole is None else whole
        apart = jax.numpy.linalg.norm(state.g - whole) / jax.numpy.linalg.norm(
            whole - geometry.fubini_study_metric(train)
        )
        found[name] = {
            "train_gain": float(diagnostics.gain(state.g, train)),
            "test_gain": start / float(seen[-1]),
            "difference": float(apart),
        }
    return found


def _heat_map(config: Config) -> dict:
    """Points of one chart and their labels, for the figure."""
    manifold = parse_manifold(config.manifold)
    keys = jax.random.split(jax.random.key(config.seeds[0]), 3)
    z = geometry.sample_points_in_chart(keys[0], manifold, config.points).z
    return {
        "real": np.round(processes.on_host(z.real), 4).tolist(),
        "imaginary": np.round(processes.on_host(z.imag), 4).tolist(),
        "batched": clustering.batched_clusters(
            keys[2], z, config.clusters, config.batches
        ).tolist(),
        "full": clustering.fubini_study_clusters(z, config.clusters).tolist(),
    }


def _check(config: Config) -> None:
    if not config.seeds:
        raise ValueError("--seeds: expected at least one")
    for name in ("points", "clusters", "batches", "test_points", "steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1")
    if config.points // config.batches < config.clusters:
        raise ValueError(
            f"--batches: {config.batches} batches of {config.points} points have fewer points each "
            f"than {config.clusters} clusters"
        )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--manifold", help=FORMS)
    parser.add_argument("--seeds", nargs="+", type=_flags.whole, help="draws of the points")
    parser.add_argument("--points", type=_flags.count, help="points to be clustered")
    parser.add_argument("--clusters", type=_flags.count, help="how many clusters")
    parser.add_argument("--batches", type=_flags.count, help="how many batches")
    parser.add_argument("--steps", type=_flags.count, help="steps of the flows")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
