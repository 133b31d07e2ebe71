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
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import _flags, _run, _tuning, quintic_network
from experiments import _neighbour_law as neighbour_law
from experiments._kernel_presets import BOXES, KERNELS, LARGE, PRINTED, SETS, TUNED, build_flow
from experiments._manifold import FORMS, parse_manifold
from experiments._precision import in_precision
from metricflow import __version__, diagnostics, geometry, save_metric
from metricflow.flows import KernelFlow, Result, held_out_sigma

log = logging.getLogger("experiments")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    manifold: str = "fermat:3"
    kernels: tuple[str, ...] = KERNELS
    sets: tuple[str, ...] = SETS
    points: dict[str, int] = dataclasses.field(
        default_factory=lambda: {"relu": 1000, "gaussian": 2500, "delta": 1000}
    )
    test_points: int = 5000
    derivative_points: int = 300
    steps: int = 50
    seed: int = 0
    hyperparameters: dict[str, Any] = dataclasses.field(default_factory=lambda: TUNED)
    precision: str = "float64"
    stored_pairs: int = 10**8  # kernels between sets with more pairs than that are recomputed
    tune: int = 0  # evaluations of the search for each kernel and set; 0: none
    boxes: dict[str, Any] = dataclasses.field(default_factory=lambda: BOXES)
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
    # 10^10 pairs a step, in single precision and never stored; the paper divides such sets
    "large": Config(
        kernels=("gaussian",),
        sets=("test_optimal",),
        points={"gaussian": 100_000},
        hyperparameters={"gaussian": {"test_optimal": LARGE}},
        precision="float32",
        noise_levels=(),
        neighbour_sizes=(),
        network_epochs=0,
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
    keys["tune"] = jax.random.fold_in(key, 5)

    def reference() -> dict:
        points = geometry.sample_points(keys["reference"], manifold, config.reference_points)
        g = geometry.fubini_study_metric(points)
        return {
            "sigma": float(diagnostics.sigma_measure(g, points)),
            "standard_error": float(diagnostics.sigma_standard_error(g, points)),
        }

    tuned = _tuned(config, manifold, keys["tune"], record) if config.tune else {}
    if tuned:
        best = {k: {c: row["values"] for c, row in sets.items()} for k, sets in tuned.items()}
        config = dataclasses.replace(config, hyperparameters=best)
    stages: list[tuple[str, Any]] = [("reference", reference)]
    for kernel in config.kernels:
        for chosen in config.sets:
            stages.append(
                (
                    f"flow/{kernel}/{chosen}",
                    lambda k=kernel, c=chosen: _flow_stage(config, manifold, keys, k, c, record),
                )
            )
    if config.network_epochs:
        stages.append(("network", lambda: _network_stage(config, manifold, keys, record)))
    for size in config.neighbour_sizes:
        stages.append(
            (
                f"neighbours/{size}",
                lambda n=size: neighbour_law.distances(manifold, keys["law"], n),
            )
        )
    results = {
        name: record.stage(name, compute)
        for name, compute in tqdm(stages, desc="quintic_kernel", disable=None)
    }
    return _assemble(config, manifold, record, results) | {"tuned": tuned}


def draw(result: dict, folder: Path) -> None:
    """All figures from the stored numbers."""
    import matplotlib.pyplot as plt

    from metricflow import plotting

    curves = {kernel: rows for kernel, rows in result["gain_vs_distance"].items() if rows}
    if curves:
        figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
        plotting.gain_against_distance(axis, curves)
        if result.get("network"):
            rows = result["network"]["gain_vs_distance"]
            plotting.gain_against_distance(axis, {"relu_network": rows}, style="--")
        axis.set_title("Train-optimal kernels, noise on the training points")
        _run.save_figure(figure, folder / "gain_against_distance.png")

    law, fit = result["nearest_neighbour"]["one_chart"], result["nearest_neighbour_fit"]
    if fit:
        figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
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

    sets = [c for c in SETS if all(c in found for found in result["kernels"].values())]
    figure, axes = plt.subplots(
        1, len(sets), figsize=(4.5 * len(sets), 4), layout="constrained", sharey=True, squeeze=False
    )
    for axis, chosen in zip(axes[0], sets, strict=True):
        for name, found in result["kernels"].items():
            history = found[chosen]["history"]
            plotting.sigma_history(axis, history["train"], history["held_out"], name=name)
        axis.set_title(chosen.replace("_", "-"))
    _run.save_figure(figure, folder / "histories.png")

    if result["tuned"]:
        figure, axes = plt.subplots(
            1, len(sets), figsize=(4.5 * len(sets), 4), layout="constrained", squeeze=False
        )
        for axis, chosen in zip(axes[0], sets, strict=True):
            for name, found in result["tuned"].items():
                scores = [score for _, score in found[chosen]["history"]]
                plotting.search_history(axis, scores, name=name)
            axis.set_ylabel(r"$\log_{10}$ gain, each on fresh points")
            axis.set_title(chosen.replace("_", "-"))
        _run.save_figure(figure, folder / "tuning.png")


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
        train, test = _sampled(config, manifold, kernel, keys["train"], keys["test"])
        jax.block_until_ready((train, test))
    with record.timed("flow"):
        flow, state, info, held_out = _flown(config, kernel, hyperparameters, train, test)
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


def _sampled(
    config: Config, manifold: geometry.Hypersurface, kernel: str, train: jax.Array, test: jax.Array
) -> tuple[geometry.Points, geometry.Points]:
    """Training and test points of two keys."""
    sizes = (config.points[kernel], config.test_points)
    first, second = (
        in_precision(geometry.sample_points_in_chart(key, manifold, size), config.precision)
        for key, size in zip((train, test), sizes, strict=True)
    )
    return first, second


def _flown(
    config: Config,
    kernel: str,
    hyperparameters: dict[str, Any],
    train: geometry.Points,
    test: geometry.Points,
) -> tuple[KernelFlow, Any, Any, jax.Array]:
    """The flow, its last state, the infos and sigma on test points after every step."""
    flow = build_flow(hyperparameters, kernel)
    larger = max(len(train.weight), len(test.weight))
    stored = len(train.weight) * larger <= config.stored_pairs
    state = flow.init(train, dense=stored)
    watch = held_out_sigma(flow, state, test, dense=stored)
    steps = min(hyperparameters.get("steps", config.steps), config.steps)
    return flow, *flow.run(state, steps, observe=watch, throw=False)


def _tuned(
    config: Config, manifold: geometry.Hypersurface, key: jax.Array, record: _run.Record
) -> dict[str, dict[str, dict]]:
    """For each kernel and set what Bayesian optimisation chose, and all that it tried.

    Source: MF section 3.2 (fresh points at every evaluation).
    """
    found: dict[str, dict[str, dict]] = {}
    for place, (kernel, chosen) in enumerate(itertools.product(config.kernels, config.sets)):
        given = config.hyperparameters[kernel][chosen]
        box = {k: v for k, v in config.boxes[kernel][chosen].items() if k in given}

        def score(
            number: int, values: dict, k: str = kernel, c: str = chosen, p: int = place
        ) -> float:
            drawn = jax.random.fold_in(jax.random.fold_in(key, p), number)
            given = {**config.hyperparameters[k][c], **values}
            return _score(config, manifold, drawn, k, c, given)

        best = _tuning.tune(
            score,
            box,
            config.tune,
            seed=config.seed,
            record=record,
            name=f"tune/{kernel}/{chosen}",
            first=[given],
        )
        log.info("%s %s: %s, log10 gain %.2f", kernel, chosen, best.values, best.mean)
        found.setdefault(kernel, {})[chosen] = {
            "values": {**given, **best.values},
            "log10_gain": best.mean,
            "box": box,
            "finalists": best.finalists,
            "history": best.history,
        }
    return found


def _score(
    config: Config,
    manifold: geometry.Hypersurface,
    key: jax.Array,
    kernel: str,
    chosen: str,
    hyperparameters: dict[str, Any],
) -> float:
    """log10 of the gain on training or held-out points; a flow that broke down loses one."""
    train, test = _sampled(config, manifold, kernel, *jax.random.split(key))
    _, state, _, held_out = _flown(config, kernel, hyperparameters, train, test)
    if chosen == "train_optimal":
        gain = float(diagnostics.gain(state.g, train))
    else:
        done = int(state.steps)
        start = diagnostics.sigma_measure(geometry.fubini_study_metric(test), test)
        gain = float(start / held_out[done - 1]) if done else 1.0
    # the gain is infinite where sigma is zero: below rounding nothing is gained
    score = math.log10(min(gain, 1 / float(np.finfo(config.precision).eps)))
    return score - (int(state.result) != Result.SUCCESSFUL)


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
            near = _perturbed(noise, manifold, train, level, name == "projected")
            distance = geometry.nearest_neighbour(near.z, train.z).distances
            gain = diagnostics.gain(metric(near.z, near.chart), near)
            off = geometry.residual(manifold, near.z)
            row = [float(x) for x in (jnp.mean(distance), gain, jnp.max(off))]
            if np.all(np.isfinite(row)):
                rows.append(row)
    return {"distance_curves": curves}


@functools.partial(jax.jit, static_argnames="project")
def _perturbed(
    key: jax.Array,
    manifold: geometry.Hypersurface,
    train: geometry.Points,
    level: float,
    project: bool,
) -> geometry.Points:
    return geometry.perturb_points(key, manifold, train, level, project=project)


def _assemble(
    config: Config, manifold: geometry.Hypersurface, record: _run.Record, results: dict
) -> dict:
    law = {
        name: [results[f"neighbours/{n}"][name] for n in config.neighbour_sizes]
        for name in ("one_chart", "all_charts")
    }
    fits = {
        name: neighbour_law.power_law(rows, config.fit_from) for name, rows in law.items() if rows
    }
    flows = {
        kernel: {chosen: dict(results[f"flow/{kernel}/{chosen}"]) for chosen in config.sets}
        for kernel in config.kernels
    }
    curves = {
        kernel: sets["train_optimal"].pop("distance_curves")
        for kernel, sets in flows.items()
        if "train_optimal" in sets
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
        "nearest_neighbour_fit": fits.get("one_chart"),
        "nearest_neighbour_fit_all_charts": fits.get("all_charts"),
        "nearest_neighbour": law,
        "kernels": flows,
        "network": network,
        "gain_vs_distance": near["off_hypersurface"],
        "gain_vs_distance_projected": near["projected"],
        "largest_residual": {
            kernel: [[row[0], row[2]] for row in curve["off_hypersurface"]]
            for kernel, curve in curves.items()
        },
        "points_for_gain": neighbour_law.points_for_gain(
            near["off_hypersurface"], fits["one_chart"]
        )
        if fits
        else {},
        "seconds": {k: record.seconds(k) for k in ("compile", "sample", "flow", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }


def _check(config: Config) -> None:
    unknown = [k for k in config.kernels if k not in KERNELS]
    if unknown or not config.kernels:
        raise ValueError(f"--kernel: expected some of {', '.join(KERNELS)}, got {unknown}")
    for name in ("test_points", "steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1")
    if not config.tune >= 0:
        raise ValueError("--tune: expected a number of evaluations, or 0 for none")
    missing = [k for k in config.kernels if k not in config.points]
    if missing:
        raise ValueError(f"--kernel: this preset has {', '.join(config.points)}, not {missing}")
    if any(config.points[k] < 2 for k in config.kernels):
        raise ValueError("--points: expected at least 2")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="default",
        help="where to start from; hyper-parameters are those of a stored --tune, or the paper's",
    )
    parser.add_argument("--kernel", nargs="+", choices=KERNELS, help="which kernels")
    parser.add_argument("--points", type=_flags.count, help="training points, for every kernel")
    parser.add_argument("--test-points", type=_flags.count, help="held-out points")
    parser.add_argument("--steps", type=_flags.count, help="steps of the flow, at most")
    parser.add_argument("--step-size", type=_flags.amount, help="dt, for every kernel and set")
    parser.add_argument(
        "--tune",
        type=_flags.whole,
        help="evaluations of Bayesian optimisation for each kernel and set",
    )
    parser.add_argument("--seed", type=_flags.whole, help="root seed")
    parser.add_argument("--manifold", help=FORMS)


def configure(arguments: argparse.Namespace) -> Config:
    """The config that the flags describe."""
    config = PRESETS[arguments.preset]
    changes: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in ("test_points", "steps", "seed", "manifold", "tune")
        if getattr(arguments, name) is not None
    }
    if arguments.kernel:
        changes["kernels"] = tuple(dict.fromkeys(arguments.kernel))
    if arguments.points is not None:
        changes["points"] = dict.fromkeys(config.points, arguments.points)
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
