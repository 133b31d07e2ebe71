"""Fixed-kernel metric flows on the Fermat quintic: what frozen kernels learn, how far it carries.

For each kernel two sets of hyper-parameters are run, the best on training points and the best on
held-out points; a small ReLU network is the base line.  Figures: the gain in sigma against the
distance to the training set, the law of nearest neighbours, the histories of the flows.

Source: MF sections 3.1 and 3.2 (Fig. 3, Table 1), MF 3.7.
"""

import argparse
import dataclasses
import functools
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from experiments import _run, quintic_network
from experiments._manifold import FORMS, parse_manifold
from metricflow import __version__, diagnostics, geometry, kernels, save_metric
from metricflow.flows import KernelFlow, Result, held_out_sigma

KERNELS = ("relu", "gaussian", "delta")
SETS = ("train_optimal", "test_optimal")

# Found by random search over kernel and flow options with 1000 points of other seeds, scored on
# training points (train-optimal) or on held-out points (test-optimal); see docs/kernel_flows.md.
_COVARIANT = {"gradient": "covariant", "power": 2.0, "clip": 1.0, "measure": "sum"}
_NORMALISED = {"gradient": "euclidean", "clip": 1.0, "normalise_update": True}
TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "relu": {
        "train_optimal": {
            "depth": 7,
            "bias_std": 0.011,
            "step_size": 0.034,
            "power": 2.0,
            "measure": "calabi_yau",
            "kappa": "estimated",
            **_NORMALISED,
        },
        "test_optimal": {
            "depth": 3,
            "bias_std": 0.034,
            "step_size": 0.043,
            "power": 2.0,
            "measure": "mean",
            **_NORMALISED,
            "clip": None,
        },
    },
    "gaussian": {
        "train_optimal": {"width": 0.03, "step_size": 0.1, **_COVARIANT},
        "test_optimal": {
            "width": 0.42,
            "step_size": 0.035,
            "power": 3.0,
            "measure": "mean",
            **_NORMALISED,
        },
    },
    "delta": {
        "train_optimal": {"step_size": 0.1, **_COVARIANT},
        "test_optimal": {
            "step_size": 0.0114,
            "steps": 26,
            "gradient": "covariant",
            "power": 1.5,
            "measure": "calabi_yau",
            "normalise_update": True,
        },
    },
}
# Table 1 of the paper as printed, with the printed kernel exp(-d / 2 sigma) and loss |1 - eta|
_PRINTED = {"gradient": "euclidean", "power": 1.0, "clip": None, "measure": "sum"}
_TABLE_1: dict[str, dict[str, Any]] = {
    "relu": {"depth": 1, "step_size": 0.1},
    "gaussian": {"kernel": "exponential", "width": 30.0, "step_size": 0.1583},
    "delta": {"step_size": 0.3162},
}
PRINTED = {k: {chosen: {**h, **_PRINTED} for chosen in SETS} for k, h in _TABLE_1.items()}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    manifold: str = "fermat:3"
    kernels: tuple[str, ...] = KERNELS
    points: dict[str, int] = dataclasses.field(
        default_factory=lambda: {"relu": 1000, "gaussian": 2500, "delta": 1000}
    )
    test_points: int = 5000
    derivative_points: int = 300
    steps: int = 50
    seed: int = 0
    hyperparameters: dict[str, Any] = dataclasses.field(default_factory=lambda: TUNED)
    noise_levels: tuple[float, ...] = (
        1e-7,
        1e-6,
        1e-5,
        1e-4,
        1e-3,
        3e-3,
        0.01,
        0.02,
        0.05,
        0.1,
        0.2,
        0.5,
        2.0,
    )
    neighbour_sizes: tuple[int, ...] = (300, 1000, 3000, 10_000, 30_000, 100_000)
    fit_from: int = 3000
    reference_points: int = 100_000
    network_points: int = 10_000
    network_epochs: int = 50  # 0: no base line


PRESETS = {
    "default": Config(),
    "smoke": Config(
        points=dict.fromkeys(KERNELS, 100),
        test_points=200,
        derivative_points=20,
        steps=5,
        noise_levels=(1e-3, 0.1),
        neighbour_sizes=(100, 300, 1000),
        fit_from=100,
        reference_points=1000,
        network_points=200,
        network_epochs=2,
    ),
    "paper": Config(
        hyperparameters=PRINTED, points={"relu": 2500, "gaussian": 2500, "delta": 1000}
    ),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """All stages; the result as plain numbers.

    Args:
        config: what to compute.
        record: where finished stages are kept; in memory only by default.

    Raises:
        ValueError: settings that make no sense.
    """
    jax.config.update("jax_enable_x64", True)
    record = record or _run.Record()
    manifold = parse_manifold(config.manifold)
    _check(config)
    key = jax.random.key(config.seed)
    keys = dict(
        zip(("train", "test", "noise", "law", "reference"), jax.random.split(key, 5), strict=True)
    )

    def reference() -> dict:
        points = geometry.sample_points(keys["reference"], manifold, config.reference_points)
        g = geometry.fubini_study_metric(points)
        return {
            "sigma": float(diagnostics.sigma_measure(g, points)),
            "standard_error": float(diagnostics.sigma_standard_error(g, points)),
        }

    stages: list[tuple[str, Any]] = [("reference", reference)]
    for kernel in config.kernels:
        for chosen in SETS:
            stages.append(
                (
                    f"flow/{kernel}/{chosen}",
                    lambda k=kernel, c=chosen: _flow_stage(config, manifold, keys, k, c, record),
                )
            )
    if config.network_epochs:
        stages.append(("network", lambda: _network_stage(config, manifold, keys, record)))
    for size in config.neighbour_sizes:
        stages.append((f"neighbours/{size}", lambda n=size: _law_stage(manifold, keys["law"], n)))
    results = {
        name: record.stage(name, compute)
        for name, compute in tqdm(stages, desc="quintic_kernel", disable=None)
    }
    return _assemble(config, manifold, record, results)


def draw(result: dict, folder: Path) -> None:
    """All figures from the stored numbers."""
    import matplotlib.pyplot as plt

    from metricflow import plotting

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    plotting.gain_against_distance(axis, result["gain_vs_distance"])
    if result.get("network"):
        rows = result["network"]["gain_vs_distance"]
        plotting.gain_against_distance(axis, {"relu_network": rows}, style="--")
    axis.set_title("Train-optimal kernels, noise on the training points")
    _run.save_figure(figure, folder / "gain_against_distance.png")

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    law, fit = result["nearest_neighbour"]["one_chart"], result["nearest_neighbour_fit"]
    sizes = [row["points"] for row in law]
    plotting.nearest_neighbour_distances(
        axis,
        sizes,
        *[[row[k] for row in law] for k in ("minimum", "mean", "maximum")],
        prefactor=fit["prefactor"],
        exponent=fit["exponent"],
        fitted=[size >= fit["n_min"] for size in sizes],
    )
    _run.save_figure(figure, folder / "nearest_neighbours.png")

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
    for axis, chosen in zip(axes, SETS, strict=True):
        for name, sets in result["kernels"].items():
            history = sets[chosen]["history"]
            plotting.sigma_history(axis, history["train"], history["held_out"], name=name)
        axis.set_title(chosen.replace("_", "-"))
    _run.save_figure(figure, folder / "histories.png")


def build_flow(hyperparameters: dict[str, Any], kernel: str) -> KernelFlow:
    """The flow that a set of hyper-parameters describes; ``steps`` is not part of it."""
    options = dict(hyperparameters)
    options.pop("steps", None)
    name = options.pop("kernel", kernel)
    if name == "relu":
        parts = {k: options.pop(k) for k in ("depth", "weight_std", "bias_std") if k in options}
        return KernelFlow(kernels.ReluNTK(**parts), **options)
    if name == "delta":
        return KernelFlow(kernels.Delta(), **options)
    radial = {"gaussian": kernels.Gaussian, "exponential": kernels.Exponential}[name]
    return KernelFlow(radial(options.pop("width")), **options)


def _flow_stage(
    config: Config,
    manifold: geometry.Hypersurface,
    keys: dict[str, jax.Array],
    kernel: str,
    chosen: str,
    record: _run.Record,
) -> dict:
    """One flow: histories, diagnostics on held-out points, gain against distance."""
    hyperparameters = config.hyperparameters[kernel][chosen]
    with record.timed("sample"):
        train = geometry.sample_points_in_chart(keys["train"], manifold, config.points[kernel])
        test = geometry.sample_points_in_chart(keys["test"], manifold, config.test_points)
        jax.block_until_ready((train, test))
    flow = build_flow(hyperparameters, kernel)
    with record.timed("flow"):
        state = flow.init(train, dense=True)
        watch = held_out_sigma(flow, state, test, dense=True)
        steps = min(hyperparameters.get("steps", config.steps), config.steps)
        state, info, held_out = flow.run(state, steps, observe=watch, throw=False)
        jax.block_until_ready(state)
    metric = flow.metric(manifold, state)
    found = diagnostics.diagnose(metric, test, derivative_points=config.derivative_points)
    path = record.file(f"metrics/{kernel}-{chosen}.npz")
    if path is not None:
        save_metric(path, metric, provenance={"kernel": kernel, "hyperparameters": hyperparameters})
    done = int(state.steps)
    start = float(diagnostics.sigma_measure(geometry.fubini_study_metric(test), test))
    history = {
        "train": [
            *np.asarray(info.sigma[:done]).tolist(),
            float(diagnostics.sigma_measure(state.g, train)),
        ],
        "held_out": [start, *np.asarray(held_out[:done]).tolist()],
    }
    curves = {}
    if chosen == "train_optimal":
        curves = _distance_curves(config, manifold, keys["noise"], metric, train)
    return {
        "train_gain": _run.finite_or_none(diagnostics.gain(state.g, train)),
        "test_gain": _run.finite_or_none(found.gain),
        "test_gain_unweighted": _run.finite_or_none(found.gain_unweighted),
        "hyperparameters": hyperparameters,
        "points": config.points[kernel],
        "steps": done,
        "outcome": Result(int(state.result)).name,
        **{k: v for k, v in found._asdict().items() if k not in ("gain", "gain_unweighted")},
        "history": history,
        **curves,
    }


def _network_stage(
    config: Config,
    manifold: geometry.Hypersurface,
    keys: dict[str, jax.Array],
    record: _run.Record,
) -> dict:
    """The base line: a ReLU network of three layers of 64, on the test points and on the curve."""
    settings = dataclasses.replace(
        quintic_network.PRESETS["relu"],
        manifold=config.manifold,
        points=config.network_points,
        validation_points=min(config.network_points, 2000),
        epochs=config.network_epochs,
    )
    with record.timed("network"):
        fitted = quintic_network.fit(settings, manifold, config.seed, record)
    test = geometry.sample_points_in_chart(keys["test"], manifold, config.test_points)
    found = diagnostics.diagnose(fitted.metric, test, derivative_points=config.derivative_points)
    # around the points of a kernel, which for the network are points like any others
    near = geometry.sample_points_in_chart(
        keys["train"], manifold, config.points[config.kernels[0]]
    )
    curves = _distance_curves(config, manifold, keys["noise"], fitted.metric, near)
    return {
        "points": config.network_points,
        "epochs": config.network_epochs,
        "test_gain": _run.finite_or_none(found.gain),
        "loss_gain": fitted.before["loss"] / fitted.final["loss"],
        **{k: v for k, v in found._asdict().items() if k != "gain"},
        **curves,
    }


def _distance_curves(
    config: Config,
    manifold: geometry.Hypersurface,
    key: jax.Array,
    metric: diagnostics.Metric,
    train: geometry.Points,
) -> dict:
    """(distance, gain, largest residual) for noise on the training points, on and off X."""
    curves: dict[str, list[list[float]]] = {"off_hypersurface": [], "projected": []}
    for i, level in enumerate(config.noise_levels):
        for name, rows in curves.items():
            noise = jax.random.fold_in(key, i)
            found = _near_training_points(
                noise, manifold, metric, train, level, name == "projected"
            )
            row = [float(x) for x in found]
            if np.all(np.isfinite(row)):
                rows.append(row)
    return {"distance_curves": curves}


@jax.jit
def _near_training_points(
    key: jax.Array,
    manifold: geometry.Hypersurface,
    metric: diagnostics.Metric,
    train: geometry.Points,
    level: float,
    project: bool | jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean distance to the training set, gain, and largest |P| / |z|^d of perturbed points."""
    off, on = (
        geometry.perturb_points(key, manifold, train, level, project=p) for p in (False, True)
    )
    near = jax.tree.map(functools.partial(jnp.where, project), on, off)
    distance = geometry.nearest_neighbour(near.z, train.z).distances
    gain = diagnostics.gain(metric(near.z, near.chart), near)
    return jnp.mean(distance), gain, jnp.max(geometry.residual(manifold, near.z))


def _law_stage(manifold: geometry.Hypersurface, key: jax.Array, size: int) -> dict:
    """Smallest, mean and largest nearest-neighbour distance among ``size`` points."""
    one = geometry.sample_points_in_chart(jax.random.fold_in(key, size), manifold, size)
    every = geometry.sample_points(jax.random.fold_in(key, size), manifold, size)
    found = {}
    for name, points in (("one_chart", one), ("all_charts", every)):
        # the search in float32 takes half the time; its error, 1e-7 in |<z, z'>|^2, is far below
        # the distances, which are computed in float64 for the pairs found
        pairs = geometry.nearest_neighbour(points.z.astype(jnp.complex64)).indices
        distance = geometry.fubini_study_distance(points.z, points.z[pairs])
        found[name] = {
            "points": size,
            "minimum": float(jnp.min(distance)),
            "mean": float(jnp.mean(distance)),
            "maximum": float(jnp.max(distance)),
        }
    return found


def _assemble(
    config: Config, manifold: geometry.Hypersurface, record: _run.Record, results: dict
) -> dict:
    law = {
        name: [results[f"neighbours/{n}"][name] for n in config.neighbour_sizes]
        for name in ("one_chart", "all_charts")
    }
    fits = {name: _power_law(rows, config.fit_from) for name, rows in law.items()}
    flows = {
        kernel: {chosen: dict(results[f"flow/{kernel}/{chosen}"]) for chosen in SETS}
        for kernel in config.kernels
    }
    curves = {
        kernel: sets["train_optimal"].pop("distance_curves") for kernel, sets in flows.items()
    }
    near = {
        name: {kernel: [row[:2] for row in curve[name]] for kernel, curve in curves.items()}
        for name in ("off_hypersurface", "projected")
    }
    reference = results["reference"]
    network = dict(results["network"]) if "network" in results else None
    if network is not None:
        network["gain_vs_distance"] = [
            row[:2] for row in network.pop("distance_curves")["off_hypersurface"]
        ]
    return {
        "manifold": config.manifold,
        "seed": config.seed,
        "sigma_fubini_study": reference["sigma"],
        "sigma_fubini_study_standard_error": reference["standard_error"],
        "nearest_neighbour_fit": fits["one_chart"],
        "nearest_neighbour_fit_all_charts": fits["all_charts"],
        "nearest_neighbour": law,
        "kernels": flows,
        "network": network,
        "gain_vs_distance": near["off_hypersurface"],
        "gain_vs_distance_projected": near["projected"],
        "largest_residual": {
            kernel: [[row[0], row[2]] for row in curve["off_hypersurface"]]
            for kernel, curve in curves.items()
        },
        "points_for_gain": _extrapolations(near["off_hypersurface"], fits["one_chart"]),
        "seconds": {k: record.seconds(k) for k in ("compile", "sample", "flow", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }


def _power_law(rows: list[dict], fit_from: int) -> dict:
    """Least squares of log mean = log a + b log N over N >= fit_from."""
    used = [row for row in rows if row["points"] >= fit_from]
    exponent, prefactor = np.polyfit(
        np.log([row["points"] for row in used]), np.log([row["mean"] for row in used]), 1
    )
    return {"prefactor": float(np.exp(prefactor)), "exponent": float(exponent), "n_min": fit_from}


def _extrapolations(curves: dict[str, list[list[float]]], fit: dict) -> dict:
    """Training points that a test gain would take, were all test points as near as the curve says.

    Source: MF section 3.2 (after 3.7).
    """
    found: dict[str, dict[str, dict | None]] = {}
    for kernel, rows in curves.items():
        found[kernel] = {}
        for gain in (5.0, 100.0, 1e6):
            distance = _distance_for_gain(rows, gain)
            if distance is None:
                found[kernel][f"{gain:g}"] = None
                continue
            points = (distance / fit["prefactor"]) ** (1 / fit["exponent"])
            found[kernel][f"{gain:g}"] = {"distance": distance, "points": points}
    return found


def _distance_for_gain(rows: list[list[float]], gain: float) -> float | None:
    """Where the curve last falls through a gain, by interpolation of the logarithms."""
    for (d1, g1), (d2, g2) in reversed(list(itertools.pairwise(rows))):
        if g1 >= gain >= g2 > 0 and g1 > g2:
            part = (np.log(g1) - np.log(gain)) / (np.log(g1) - np.log(g2))
            return float(np.exp(np.log(d1) + part * (np.log(d2) - np.log(d1))))
    return None


def _check(config: Config) -> None:
    unknown = [k for k in config.kernels if k not in KERNELS]
    if unknown or not config.kernels:
        raise ValueError(f"--kernel: expected some of {', '.join(KERNELS)}, got {unknown}")
    for name in ("test_points", "steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1")
    if any(config.points[k] < 2 for k in config.kernels):
        raise ValueError("--points: expected at least 2")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--kernel", nargs="+", choices=KERNELS, help="which kernels")
    parser.add_argument("--points", type=int, help="training points, for every kernel")
    parser.add_argument("--test-points", type=int, help="held-out points")
    parser.add_argument("--steps", type=int, help="steps of the flow, at most")
    parser.add_argument("--step-size", type=float, help="dt, for every kernel and set")
    parser.add_argument("--seed", type=int, help="root seed")
    parser.add_argument("--manifold", help=FORMS)


def configure(arguments: argparse.Namespace) -> Config:
    """The config that the flags describe."""
    config = PRESETS[arguments.preset]
    changes: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in ("test_points", "steps", "seed", "manifold")
        if getattr(arguments, name) is not None
    }
    if arguments.kernel:
        changes["kernels"] = tuple(dict.fromkeys(arguments.kernel))
    if arguments.points is not None:
        changes["points"] = dict.fromkeys(KERNELS, arguments.points)
    if arguments.step_size is not None:
        changes["hyperparameters"] = {
            kernel: {c: {**h, "step_size": arguments.step_size} for c, h in sets.items()}
            for kernel, sets in config.hyperparameters.items()
        }
    return dataclasses.replace(config, **changes)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
