"""Must the kernel be learned?  Flows of the metric-NTK of a network, frozen after every few epochs.

A network is trained on points of one chart.  After some epochs its metric-NTK is frozen and drives
a kernel flow on the same points, from Fubini-Study; at epoch 0 that is the flow of an untrained
network.  Gaussian and infinite-width ReLU kernels run under the same rules.  Two of them: gradient
steps, as in the paper, and Gauss-Newton in function space, which comes to the end of the flow.
Step size, number of steps and the parameters of the fixed kernels are chosen on validation points,
for each kernel by itself; gains are those of other test points.

Source: MF section 3.2 (importance of feature learning), section 3.3 and section 4.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _flags, _run, quintic_network
from experiments._manifold import FORMS, parse_manifold
from experiments._precision import in_precision
from metricflow import __version__, diagnostics, geometry, kernels
from metricflow.flows import KernelFlow, KernelFlowState, KernelGaussNewton
from metricflow.geometry import Points, fubini_study_metric, hermitian_unpack
from metricflow.processes import on_host

RULES = ("gradient_flow", "gauss_newton")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    manifold: str = "fermat:3"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    points: int = 5000
    validation_points: int = 2000
    test_points: int = 5000
    widths: tuple[int, ...] = (128, 128, 128)
    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 1e-3
    output_variance: float = 1e-4
    snapshots: tuple[int, ...] = (0, 1, 5, 20, 50)  # epochs
    steps: int = 100  # of the gradient flow
    step_sizes: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)  # over the mean of K(x, x)
    gauss_newton_steps: int = 20
    damping: float = 1.0
    iterations: int = 50  # of conjugate gradients, a step
    gaussian_widths: tuple[float, ...] = (0.3, 0.4, 0.5)
    relu_depths: tuple[int, ...] = (3,)
    derivative_points: int = 300
    precision: str = "float32"


PRESETS = {
    "default": Config(),
    "smoke": Config(
        manifold="fermat:1",
        seeds=(0, 1),
        points=60,
        validation_points=30,
        test_points=40,
        widths=(8,),
        epochs=2,
        batch_size=20,
        snapshots=(0, 2),
        steps=3,
        step_sizes=(0.3, 1.0),
        gauss_newton_steps=2,
        gaussian_widths=(0.4,),
        relu_depths=(1,),
        derivative_points=10,
    ),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """A network and all kernels for every seed, each on points of its own."""
    jax.config.update("jax_enable_x64", True)
    _check(config)
    record = record or _run.Record()
    runs = [
        record.stage(f"seed/{seed}", lambda s=seed: _seed(config, s, record))  # type: ignore[misc]
        for seed in config.seeds
    ]

    def over_seeds(*path: str) -> dict | None:
        found: list[Any] = [functools.reduce(lambda x, name: x[name], path, one) for one in runs]
        return _run.spread(found)

    epochs = [str(epoch) for epoch in config.snapshots]
    fixed = list(runs[0]["fixed"])
    return {
        "manifold": config.manifold,
        "points": config.points,
        "epochs": list(config.snapshots),
        "seeds": list(config.seeds),
        "network_gain": [over_seeds("network", epoch, "test_gain") for epoch in epochs],
        **{
            rule: {
                "frozen_ntk": [over_seeds("frozen_ntk", e, rule, "test_gain") for e in epochs],
                **{name: over_seeds("fixed", name, rule, "test_gain") for name in fixed},
            }
            for rule in RULES
        },
        "runs": runs,
        "seconds": {k: record.seconds(k) for k in ("compile", "train", "flows", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__},
    }


def draw(result: dict, folder: Path) -> None:
    """Test gain of the flows against the epoch at which the kernel was frozen."""
    import matplotlib.pyplot as plt

    from metricflow import plotting

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for axis, rule in zip(axes, RULES, strict=True):
        found = dict(result[rule])
        curves = {
            "network": [row["values"] for row in result["network_gain"]],
            "frozen_ntk": [row["values"] for row in found.pop("frozen_ntk")],
        }
        constant = {name: row["mean"] for name, row in found.items()}
        plotting.gain_against_epoch(axis, result["epochs"], curves, constant=constant)
        axis.set_title(rule.replace("_", " ").replace("gauss newton", "Gauss-Newton"))
    _run.save_figure(figure, folder / "learned_kernel.png")


def _seed(config: Config, seed: int, record: _run.Record) -> dict:
    manifold = parse_manifold(config.manifold)
    names = ("train", "validation", "test", "network", "order")
    keys = dict(zip(names, jax.random.split(jax.random.key(seed), len(names)), strict=True))
    train, validation, test = (
        geometry.sample_points_in_chart(keys[name], manifold, count)
        for name, count in (
            ("train", config.points),
            ("validation", config.validation_points),
            ("test", config.test_points),
        )
    )
    with record.timed("train"):
        model, snapshots = _trained(config, train, validation, keys)
    small = [in_precision(points, config.precision) for points in (train, validation, test)]
    reference = float(diagnostics.sigma_measure(fubini_study_metric(test), test))
    found: dict[str, Any] = {"network": {}, "frozen_ntk": {}, "fixed": {}}
    race = _Race(config, manifold, small)
    chart = (int(train.chart[0, 0]), int(train.chart[0, 1]))
    with record.timed("flows"):
        for epoch, parameters in snapshots.items():
            sigma = _network_sigma(model, parameters, small[2])
            found["network"][str(epoch)] = {"test_gain": reference / float(sigma)}
            kernel = kernels.FrozenNTK(model, parameters, chart)
            x = kernel.inputs(small[0].z[:500])
            diagonal = kernels.metric_ntk_diagonal(model, parameters, x)
            size = jnp.mean(jnp.einsum("xii->xi", diagonal))
            scaled = dataclasses.replace(kernel, scale=1 / size)
            found["frozen_ntk"][str(epoch)] = race.best([(f"epoch {epoch}", scaled, 1.0)])
        for name, choices in _fixed_kernels(config, small[0]).items():
            found["fixed"][name] = race.best(choices)
    return found


def _trained(
    config: Config, train: Points, validation: Points, keys: dict[str, jax.Array]
) -> tuple[Any, dict[int, Any]]:
    """The model, and its parameters after the epochs that are asked for."""
    recipe = quintic_network.Config(
        manifold=config.manifold,
        ansatz="multiplicative",
        widths=config.widths,
        output_variance=config.output_variance,
        points=config.points,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        precision=config.precision,
    )
    model, data, training, validate = quintic_network.pose(recipe, train, validation)
    parameters = quintic_network.initial_parameters(keys["network"], model, data)
    snapshots = {0: parameters} if 0 in config.snapshots else {}

    def keep(row: dict, state: Any) -> None:
        if row["epoch"] in config.snapshots:
            snapshots[row["epoch"]] = state.parameters

    training.run(
        training.init(keys["order"], parameters),
        data,
        config.epochs,
        validate=validate,
        callback=keep,
        progress=True,
    )
    return model, snapshots


def _fixed_kernels(config: Config, train: Points) -> dict[str, list[tuple[str, Any, float]]]:
    """For each family (what, kernel, mean of K(x, x))."""
    found: dict[str, list[tuple[str, Any, float]]] = {
        "gaussian": [(f"width {w}", kernels.Gaussian(w), 1.0) for w in config.gaussian_widths],
        "relu": [],
    }
    few = train.z[:200]
    for depth in config.relu_depths:
        kernel = kernels.InfiniteNetwork("relu", depth)
        size = float(jnp.mean(jnp.diagonal(kernel.matrix(few, few))))
        found["relu"].append((f"depth {depth}", kernel, size))
    return {name: choices for name, choices in found.items() if choices}


class _Race:
    """The same start, points and choice for every kernel of a seed."""

    def __init__(self, config: Config, manifold: geometry.Hypersurface, points: list[Points]):
        self.config, self.manifold = config, manifold
        self.train, validation, self.test = points
        self.seen = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), validation, self.test)
        self.reference = fubini_study_metric(self.seen)
        self.count = len(validation.weight)
        self.start = [float(diagnostics.sigma_measure(fubini_study_metric(p), p)) for p in points]

    def best(self, choices: list[tuple[str, Any, float]]) -> dict[str, dict]:
        """For both rules, the best on the validation points among kernels (what, kernel, size)."""
        found: dict[str, list[tuple[dict, Any]]] = {rule: [] for rule in RULES}
        for what, kernel, size in choices:
            stored = not hasattr(kernel, "operator")
            options = {"dense": True} if stored else {}
            flow = KernelFlow(kernel, step_size=1.0, measure="mean", clip=1.0)
            method = KernelGaussNewton(
                kernel, damping=self.config.damping, iterations=self.config.iterations
            )
            watch = jax.tree_util.Partial(
                _sigmas_after(self.count),
                flow.operator(self.seen.z, self.train.z, **options),
                self.reference,
                self.seen,
            )
            start = flow.init(self.train, **options)
            for step_size in self.config.step_sizes:
                moving = dataclasses.replace(
                    flow, step_size=jnp.asarray(step_size / size, start.coefficients.dtype)
                )
                last, _, seen = moving.run(start, self.config.steps, observe=watch, throw=False)
                row = self._row(seen, int(last.steps))
                row |= {"kernel": what, "step_size": step_size}
                found["gradient_flow"].append((row, (moving, start)))
            begin = method.init(self.train, **options)
            _, _, seen = method.run(begin, self.config.gauss_newton_steps, observe=watch)
            row = self._row(seen, self.config.gauss_newton_steps) | {"kernel": what}
            found["gauss_newton"].append((row, (method, begin)))
        best = {}
        for rule, tried in found.items():
            row, (solver, begin) = min(tried, key=lambda pair: pair[0]["validation_sigma"])
            companions = self._companions(solver, begin, row["steps"])
            best[rule] = row | {"diagnostics": companions, "tried": [one for one, _ in tried]}
        return best

    def _companions(self, solver: Any, begin: Any, steps: int) -> dict | None:
        """What belongs beside sigma, of the metric that was chosen; None at Fubini-Study."""
        if not steps:
            return None
        metric = solver.metric(self.manifold, solver.run(begin, steps)[0])
        found = diagnostics.diagnose(
            metric, self.test, derivative_points=self.config.derivative_points
        )
        return found._asdict() | {"gain": _run.finite_or_none(found.gain)}

    def _row(self, seen: tuple[jax.Array, jax.Array], good: int) -> dict:
        """The step with the best validation, the start being one of them."""
        validation = np.append(self.start[1], on_host(seen[0][:good]))
        test = np.append(self.start[2], on_host(seen[1][:good]))
        place = int(np.nanargmin(validation))
        return {
            "good_steps": good,
            "steps": place,
            "validation_sigma": float(validation[place]),
            "test_gain": self.start[2] / float(test[place]),
        }


@functools.cache
def _sigmas_after(count: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """One object for each count, so that the flows of other seeds do not compile again."""
    return functools.partial(_sigmas, count)


def _sigmas(
    count: int, operator: Any, reference: jax.Array, points: Points, state: KernelFlowState
) -> tuple[jax.Array, jax.Array]:
    """sigma at the first ``count`` points and at the rest."""
    sigma = []
    g = reference + hermitian_unpack(operator @ state.coefficients)
    for part in (slice(count), slice(count, None)):
        some, where = jax.tree.map(lambda x, part=part: x[part], (g, points))
        sigma.append(diagnostics.sigma_measure(some, where))
    return sigma[0], sigma[1]


@jax.jit
def _network_sigma(model: Any, parameters: Any, points: Points) -> jax.Array:
    inputs = model.inputs(points.z, fubini_study_metric(points))
    return diagnostics.sigma_measure(model.metric(parameters, inputs), points)


def _check(config: Config) -> None:
    for name in ("points", "validation_points", "test_points", "epochs", "steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1")
    if not config.seeds:
        raise ValueError("--seeds: expected at least one")
    wrong = [epoch for epoch in config.snapshots if not 0 <= epoch <= config.epochs]
    if wrong or not config.snapshots:
        raise ValueError(f"--snapshots: expected epochs from 0 to {config.epochs}, got {wrong}")
    if not config.step_sizes or not all(step > 0 for step in config.step_sizes):
        raise ValueError(f"--step-sizes: expected numbers above 0, got {config.step_sizes}")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--manifold", help=FORMS)
    parser.add_argument(
        "--seeds", nargs="+", type=_flags.whole, help="seeds of points and networks"
    )
    parser.add_argument(
        "--points", type=_flags.count, help="training points of networks and kernels"
    )
    parser.add_argument("--epochs", type=_flags.count, help="epochs of the networks")
    parser.add_argument(
        "--snapshots", nargs="+", type=_flags.whole, help="epochs after which to freeze"
    )
    parser.add_argument("--steps", type=_flags.count, help="steps of the kernel flows, at most")
    parser.add_argument(
        "--step-sizes", nargs="+", type=_flags.amount, help="step sizes to choose from"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
