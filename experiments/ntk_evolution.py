"""The metric-NTK while a network learns the Calabi-Yau metric: how far it moves.

Evolution: the multiplicative network of the paper, its metric-NTK on fixed training and test points
after every epoch.  Widths: the same distance against the width, for gradient descent in the NTK
parameterisation with equal steps in function space, and for Adam in the standard one.

Source: MF section 3.3 (Fig. 4), MF 2.9 and MF 2.11 (the frozen limit).
"""

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _flags, _run, quintic_network
from experiments._manifold import FORMS, parse_manifold
from experiments._precision import in_precision
from metricflow import __version__, ansatz, geometry, kernels
from metricflow.processes import local, on_host
from metricflow.training import Training

PARTS = ("evolution", "widths")
# how the spectrum of a kernel is summed up, the first for Fig. 4 of the paper as printed
STATISTICS = ("block_eigenvalues", "block_singular_values", "joint")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    manifold: str = "fermat:3"
    parts: tuple[str, ...] = PARTS
    seed: int = 0  # of the points
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # of the networks, trained side by side
    fixed_points: int = 10  # from the training and from the test points each
    widths: tuple[int, ...] = (128, 128, 128)
    points: int = 100_000
    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 1e-3
    validation_points: int = 10_000
    sweep_widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    sweep_layers: int = 3
    sweep_seeds: tuple[int, ...] = (0, 1, 2)
    sweep_points: int = 10_000
    sweep_epochs: int = 20
    sweep_batch_size: int = 256
    sweep_step: float = 0.1  # of gradient descent, over the mean of Theta_II(x, x) at the start
    sweep_output_variance: float = 1e-2
    sweep_adam_rate: float = 1e-3


PRESETS = {
    "default": Config(),
    "smoke": Config(
        manifold="fermat:1",
        seeds=(0, 1),
        fixed_points=3,
        widths=(8,),
        points=120,
        epochs=2,
        batch_size=20,
        validation_points=60,
        sweep_widths=(8, 16),
        sweep_layers=1,
        sweep_seeds=(0, 1),
        sweep_points=100,
        sweep_epochs=2,
        sweep_batch_size=20,
    ),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """Both parts; the result as plain numbers."""
    jax.config.update("jax_enable_x64", True)
    _check(config)
    record = record or _run.Record()
    result: dict[str, Any] = {"manifold": config.manifold}
    if "evolution" in config.parts:
        result["evolution"] = record.stage("evolution", lambda: _evolution(config))
    if "widths" in config.parts:
        rows: dict[str, list] = {"gradient_descent": [], "adam": []}
        for optimiser, width in itertools.product(rows, config.sweep_widths):
            rows[optimiser].append(
                record.stage(
                    f"widths/{optimiser}/{width}",
                    lambda o=optimiser, w=width: _width(config, o, w),  # type: ignore[misc]
                )
            )
        result["widths"] = {k: {"rows": v, "power": _power(v)} for k, v in rows.items()}
    result["seconds"] = {k: record.seconds(k) for k in ("compile", "total")}
    result["versions"] = {"metricflow": __version__, "jax": jax.__version__}
    return result


def draw(result: dict, folder: Path) -> None:
    """Fig. 4 of the paper, the same for the joint spectrum, and the drift against the width."""
    import matplotlib.pyplot as plt

    from metricflow import plotting

    if not result.keys() & {"evolution", "widths"}:
        raise ValueError("neither an evolution nor widths")
    if "evolution" in result:
        found = result["evolution"]
        figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
        spectra = found["spectra"]["block_eigenvalues"]
        last = found["epochs"][-1]
        plotting.spectrum_histogram(
            axes[0], {"epoch 0": spectra["first"], f"epoch {last}": spectra["last"]}
        )
        axes[0].set_xlabel(r"Re $\lambda$ of the blocks $(I, J)$, train $\times$ test")
        plotting.drift_history(
            axes[1],
            found["epochs"],
            {name: found["drift"][name]["relative"] for name in STATISTICS},
            floors={name: found["between_seeds"][name]["relative"] for name in STATISTICS},
        )
        _run.save_figure(figure, folder / "ntk_evolution.png")
    if "widths" in result:
        figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
        for name, part in result["widths"].items():
            plotting.drift_against_width(
                axis,
                [row["width"] for row in part["rows"]],
                [row["drift"]["values"] for row in part["rows"]],
                label=name,
                power=part["power"]["drift_of_wide"]["power"],
                fitted=part["power"]["drift_of_wide"]["widths"],
            )
        _run.save_figure(figure, folder / "ntk_widths.png")


def _evolution(config: Config) -> dict:
    """All seeds train on the same points, so that their kernels can be compared."""
    recipe = dataclasses.replace(
        quintic_network.PRESETS["multiplicative"],
        manifold=config.manifold,
        widths=config.widths,
        points=config.points,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
    )
    train, test = _points(config, config.points, config.validation_points)
    model, data, training, validate = quintic_network.pose(recipe, train, test)
    fixed = _fixed(config, train, test)
    kernel = _kernels(model, model.prepare(fixed))
    orders, parameters = _initial(config.seeds, model, data)
    seen = [kernel(parameters)]
    _, history = training.run(
        training.init(orders, parameters),
        data,
        config.epochs,
        validate=validate,
        callback=lambda _, state: seen.append(kernel(state.parameters)),
        progress=True,
    )
    spectra = [_spectra(theta, config.fixed_points) for theta in seen]
    losses = [on_host(jax.vmap(validate)(parameters)["loss"]).tolist()]
    losses += [row["validation"]["loss"] for row in history]
    joint = jnp.stack([jnp.asarray(s["joint"]) for s in spectra])
    before = seen[0]
    return {
        "epochs": list(range(len(seen))),
        "seeds": list(config.seeds),
        "validation_loss": losses,
        "drift": {name: _drift([s[name] for s in spectra]) for name in STATISTICS},
        "between_seeds": {name: _between_seeds([s[name] for s in spectra]) for name in STATISTICS},
        "imaginary_share": [s["imaginary_share"].tolist() for s in spectra],
        "relative_change": [_relative_change(before, theta) for theta in seen],
        "alignment": [
            on_host(jax.vmap(kernels.kernel_alignment)(before, theta)).tolist() for theta in seen
        ],
        "effective_rank": on_host(jax.vmap(jax.vmap(kernels.effective_rank))(joint)).tolist(),
        "mean_eigenvalue": [np.mean(s["joint"], axis=1).tolist() for s in spectra],
        # of the first seed
        "spectra": {
            name: {"first": _short(spectra[0][name][0]), "last": _short(spectra[-1][name][0])}
            for name in STATISTICS
        },
    }


def _drift(spectra: list[np.ndarray]) -> dict:
    """W_1 of every epoch to epoch 0 for every seed, as it is and over the mean size at epoch 0."""
    moved = [_distances(spectra[0], later) for later in spectra]
    size = np.mean(np.abs(spectra[0]), axis=1)
    return {
        "raw": [row.tolist() for row in moved],
        "relative": [(row / size).tolist() for row in moved],
    }


def _between_seeds(spectra: list[np.ndarray]) -> dict:
    """W_1 of all pairs of seeds at epoch 0, and the drift in units of its spread."""
    first = spectra[0]
    pairs = itertools.combinations(range(len(first)), 2)
    apart = [float(_distances(first[[i]], first[[j]])[0]) for i, j in pairs]
    found: dict[str, Any] = {
        "raw": apart,
        "relative": [x / float(np.mean(np.abs(first))) for x in apart],
    }
    if len(apart) > 1:
        deviation = float(np.std(apart, ddof=1))
        drift = float(np.mean(_distances(first, spectra[-1])))
        found |= {
            "mean": float(np.mean(apart)),
            "std": deviation,
            "drift_over_std": drift / deviation,
        }
    return found


def _width(config: Config, optimiser: str, width: int) -> dict:
    """How far the kernel of the network itself moves, for one width, all seeds at once."""
    descent = optimiser == "gradient_descent"
    train, test = _points(config, config.sweep_points, config.validation_points)
    recipe = quintic_network.Config(
        manifold=config.manifold,
        ansatz="multiplicative",
        widths=(width,) * config.sweep_layers,
        parameterisation="ntk" if descent else "standard",
        output_variance=config.sweep_output_variance,
        bias_std=0.1,
        points=config.sweep_points,
        epochs=config.sweep_epochs,
        batch_size=config.sweep_batch_size,
    )
    model, data, training, validate = quintic_network.pose(recipe, train, test)
    inputs = in_precision(model.prepare(_fixed(config, train, test)).inputs, recipe.precision)
    kernel = _kernels(model.network, inputs)
    orders, parameters = _initial(config.sweep_seeds, model, data)
    before = kernel(parameters)
    size = jnp.mean(jnp.einsum("saaii->sai", before))
    # lower for a larger kernel: the metric moves as far in a step whatever the width
    rule = (
        optax.sgd(config.sweep_step / float(size))
        if descent
        else optax.adam(config.sweep_adam_rate)
    )
    training = Training(training.loss, rule, config.sweep_batch_size)
    state, history = training.run(
        training.init(orders, parameters), data, config.sweep_epochs, validate=validate
    )
    after = kernel(state.parameters)
    first, last = (_spectra(theta, config.fixed_points)["joint"] for theta in (before, after))
    drift = _distances(first, last) / np.mean(first, axis=1)
    return {
        "width": width,
        "weights": sum(leaf[0].size for leaf in jax.tree.leaves(parameters)),
        "kernel_at_start": float(size),
        "loss_at_start": on_host(jax.vmap(validate)(parameters)["loss"]).tolist(),
        "loss": history[-1]["validation"]["loss"],
        "drift": _run.spread(drift.tolist()),
        "relative_change": _run.spread(_relative_change(before, after)),
        "alignment": _run.spread(
            on_host(jax.vmap(kernels.kernel_alignment)(before, after)).tolist()
        ),
    }


def _points(config: Config, train: int, test: int) -> tuple[geometry.Points, geometry.Points]:
    manifold = parse_manifold(config.manifold)
    keys = jax.random.split(jax.random.key(config.seed), 2)
    return (
        geometry.sample_points(keys[0], manifold, train),
        geometry.sample_points(keys[1], manifold, test),
    )


def _fixed(config: Config, train: geometry.Points, test: geometry.Points) -> geometry.Points:
    """The first training points, then the first test points, one of each line: independent."""
    step = parse_manifold(config.manifold).degree
    count = config.fixed_points * step
    return jax.tree.map(lambda a, b: jnp.concatenate([a[:count:step], b[:count:step]]), train, test)


def _initial(seeds: Sequence[int], model: Any, data: Any) -> tuple[jax.Array, Any]:
    """Keys of the order of the points, and parameters, of all seeds."""
    first = jax.tree.map(lambda leaf: leaf[0], data.inputs)
    keys = jax.vmap(lambda k: jax.random.split(k, 2))(
        jnp.stack([jax.random.key(seed) for seed in seeds])
    )
    make = jax.vmap(lambda key: ansatz.initial_parameters(key, model.network, first))
    return keys[:, 1], make(keys[:, 0])


def _kernels(apply_fn: Any, x: Any) -> Any:
    """Parameters of all seeds -> their kernels on fixed points, (S, N, N, c, c), in float64."""
    x = in_precision(local(x), "float64")

    @jax.jit
    def found(parameters: Any) -> jax.Array:
        wide = in_precision(parameters, "float64")
        return jax.vmap(lambda p: kernels.metric_ntk(apply_fn, p, x))(wide)

    return found


def _spectra(theta: jax.Array, count: int) -> dict[str, np.ndarray]:
    """The statistics of the kernels of all seeds; rows are training, columns test points."""
    across = theta[:, :count, count:]
    eigenvalues = jax.vmap(kernels.block_eigenvalues)(across)
    singular = jax.vmap(kernels.block_singular_values)(across)
    seeds = len(theta)
    return {
        "block_eigenvalues": on_host(eigenvalues.real).reshape(seeds, -1),
        "block_singular_values": on_host(singular).reshape(seeds, -1),
        "joint": on_host(jax.vmap(kernels.joint_spectrum)(theta)),
        "imaginary_share": on_host(jax.vmap(kernels.imaginary_share)(eigenvalues)),
    }


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """W_1 of the spectra of every seed."""
    return on_host(jax.vmap(kernels.wasserstein_distance)(jnp.array(first), jnp.array(second)))


def _relative_change(before: jax.Array, after: jax.Array) -> list[float]:
    """|Theta - Theta_0| / |Theta_0| of every seed, Frobenius."""
    axes = tuple(range(1, before.ndim))
    norm = jnp.sqrt(jnp.sum((after - before) ** 2, axes) / jnp.sum(before**2, axes))
    return on_host(norm).tolist()


def _power(rows: list[dict]) -> dict:
    """Powers of the width, over all widths and over the wider half of them."""
    wide = rows[len(rows) // 2 :] if len(rows) > 3 else rows
    return {
        f"{name}{suffix}": _fitted(some, name)
        for name in ("drift", "relative_change")
        for suffix, some in (("", rows), ("_of_wide", wide))
    }


def _fitted(rows: list[dict], name: str) -> dict:
    """Least squares of the logarithm against log(width), with its standard error."""
    x = np.log([row["width"] for row in rows for _ in row[name]["values"]])
    y = np.log([value for row in rows for value in row[name]["values"]])
    slope, offset = np.polyfit(x, y, 1)
    rest = y - slope * x - offset
    error = math.sqrt(np.sum(rest**2) / max(len(x) - 2, 1) / np.sum((x - x.mean()) ** 2))
    widths = sorted({row["width"] for row in rows})
    return {"power": float(slope), "standard_error": error, "widths": widths}


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in np.sort(values)]


def _check(config: Config) -> None:
    unknown = [part for part in config.parts if part not in PARTS]
    if unknown or not config.parts:
        raise ValueError(f"--parts: expected some of {', '.join(PARTS)}, got {unknown}")
    for name in ("fixed_points", "points", "epochs", "batch_size", "sweep_points", "sweep_epochs"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1")
    if not config.seeds or not config.sweep_seeds:
        raise ValueError("--seeds: expected at least one")
    if "widths" in config.parts and len(set(config.sweep_widths)) < 2:
        raise ValueError("--sweep-widths: a power law needs at least two widths")
    enough = config.fixed_points * parse_manifold(config.manifold).degree
    for name in ("points", "sweep_points", "validation_points"):
        if getattr(config, name) < enough:
            raise ValueError(
                f"--fixed-points: {config.fixed_points} lines need {enough} points, "
                f"--{name.replace('_', '-')} are {getattr(config, name)}"
            )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="which parts")
    parser.add_argument("--manifold", help=FORMS)
    parser.add_argument("--seed", type=_flags.whole, help="of the points")
    parser.add_argument("--seeds", nargs="+", type=_flags.whole, help="of the networks")
    parser.add_argument("--points", type=_flags.count, help="training points of the evolution")
    parser.add_argument("--epochs", type=_flags.count, help="epochs of the evolution")
    parser.add_argument(
        "--fixed-points", type=_flags.count, help="training and test points of the kernel"
    )
    parser.add_argument("--sweep-widths", nargs="+", type=_flags.count, help="widths of the sweep")
    parser.add_argument(
        "--sweep-seeds", nargs="+", type=_flags.whole, help="networks of every width"
    )
    parser.add_argument("--sweep-points", type=_flags.count, help="training points of the sweep")
    parser.add_argument("--sweep-epochs", type=_flags.count, help="epochs of the sweep")
    parser.add_argument(
        "--sweep-step", type=_flags.amount, help="step in function space of the sweep"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
