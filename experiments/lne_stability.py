"""Both LNE metrics under Ricci-DeTurck flow: whether they are where the flow ends, as RF claims.

The Hessian of the LNE potential, diag(sech^2 tau x_i), and the printed delta - t t^T, on a torus:
tanh(tau x) is continued as tanh(tau sin x), the same metric to third order at 0.

Source: RF 15, RF 20, RF Theorem 15.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _flags, _run
from experiments._tori import check_tori, perturbation, styles, thinned, tori, torus_label
from metricflow import __version__, discretize, geometry
from metricflow.flows import RicciFlow, RicciFlowState, uniform_equivalence
from metricflow.geometry import PeriodicGrid
from metricflow.geometry import grid_curvature as gc

METRICS = ("hessian", "printed")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    dims: tuple[int, ...] = (2, 3)
    plane: int = 31  # points on an axis of T^2
    space: int = 15  # of T^3
    tau: float = 0.5
    time: float = 12.0
    step: float = 0.02
    size: float = 0.05  # largest entry of a perturbation
    seed: int = 0


PRESETS = {
    "default": Config(),
    "smoke": Config(dims=(2,), plane=13, space=7, time=6.0, step=0.05),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """Both metrics on every torus; the result as plain numbers."""
    jax.config.update("jax_enable_x64", True)
    _check(config)
    record = record or _run.Record()
    found: dict = {
        torus: {
            name: record.stage(
                f"{torus}/{name}", functools.partial(_one_metric, config, grid, name)
            )
            for name in METRICS
        }
        for torus, grid in tori(config.dims, config.plane, config.space).items()
    }
    return found | {
        "tau": config.tau,
        "time": config.time,
        "ricci_at_origin_over_minus_n_minus_1_tau2": record.stage(
            "origin", functools.partial(_ricci_at_origin, config.tau)
        ),
        "seconds": {k: record.seconds(k) for k in ("compile", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__},
    }


def draw(result: dict, folder: Path) -> None:
    """How far the metrics go, their curvature, and what becomes of perturbations."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
    for name, colour in zip(METRICS, ("C0", "C3"), strict=True):
        for space, style in styles(result):
            curves, label = result[space][name]["curves"], f"{name}, {torus_label(space)}"
            own = curves["perturbed_to_start"]
            axes[0].plot(curves["time"], curves["to_start"], style, color=colour, label=label)
            shown = np.maximum(curves["curvature"], 1e-14)
            axes[1].semilogy(curves["time"], shown, style, color=colour, label=label)
            axes[2].semilogy(curves["time"], own, style, color=colour, label=label)
    titles = ("flat background", "largest |Ric|", "background: the LNE metric itself")
    labels = ("distance to the start", "|Ric|", "distance of a perturbed metric to it")
    for axis, title, label in zip(axes, titles, labels, strict=True):
        axis.set(xlabel="t", title=title, ylabel=label)
    axes[2].legend(fontsize=8)
    _run.save_figure(figure, folder / "lne_metrics.png")


def _ricci_at_origin(tau: float) -> dict[str, list[float]]:
    """Ric(0) over -(n - 1) tau^2 g, n = 2 ... 5."""
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for n in (2, 3, 4, 5):
        for name, metric in zip(
            METRICS, (_hessian_metric, discretize.dense_rank_one_metric), strict=True
        ):
            at = functools.partial(geometry.ricci, functools.partial(metric, tau=tau))
            share = jax.jit(at)(jnp.zeros(n)) / (-(n - 1) * tau**2)
            found[name].append(float(jnp.trace(share) / n))
    return found


def _one_metric(config: Config, grid: PeriodicGrid, name: str) -> dict:
    dim = grid.dim
    metric: Callable = _hessian_metric if name == "hessian" else discretize.dense_rank_one_metric
    waves = jnp.sin(grid.points()).reshape(-1, dim)
    g = jax.vmap(lambda w: metric(w, config.tau))(waves).reshape(*grid.shape, dim, dim)
    flow = RicciFlow(grid, "deturck", method="rosenbrock", diffusivity=1.3)
    dt = config.step
    steps = round(config.time / dt)
    start = flow.init(g)
    end, _, (to_start, spread, curvature) = flow.run(
        start, steps, dt, observe=jax.tree_util.Partial(_distances, grid, start.g)
    )
    limit = grid.mean(end.g)
    # the same with the LNE metric itself as the background of the gauge, as in the theorem
    own = dataclasses.replace(flow, background=start.g)
    stayed, _, _ = own.run(own.init(g), steps, dt)
    perturbed = g + config.size * perturbation(grid, config.seed)
    returned, _, (distance, _, _) = own.run(
        own.init(perturbed), steps, dt, observe=jax.tree_util.Partial(_distances, grid, start.g)
    )
    # the flow may end at another metric of the family: rates are of the distance to where it ends
    _, _, (remaining, _, _) = own.run(
        own.init(perturbed), steps, dt, observe=jax.tree_util.Partial(_distances, grid, returned.g)
    )
    # well before the end, which stands for the limit
    early, middle = steps // 4, steps // 2
    rate = np.log(float(remaining[early] / remaining[middle])) / (dt * (middle - early))
    lengths = [float(2 * np.pi * jnp.mean(jnp.sqrt(g[..., 0, 0])))]
    return {
        "speed_hamilton": float(jnp.max(gc.tensor_norm(g, RicciFlow(grid).velocity(g)))),
        "speed_deturck": float(jnp.max(gc.tensor_norm(g, flow.velocity(g)))),
        "ricci_at_origin": np.asarray(gc.grid_ricci(grid, g)[(0,) * dim]).tolist(),
        "volume": [float(grid.integral(gc.volume_density(x))) for x in (start.g, end.g)],
        "limit": np.asarray(limit).tolist(),
        "limit_of_a_flat_one": float((lengths[0] / (2 * np.pi)) ** 2),
        "spread_at_end": float(spread[-1]),
        "start_to_limit": float(to_start[-1]),
        "own_background": {
            "moved": float(jnp.max(uniform_equivalence(start.g, stayed.g))),
            "perturbed": float(jnp.max(uniform_equivalence(start.g, own.init(perturbed).g))),
            "distance_at_end": float(distance[-1]),
            "rate": float(rate),
            "slowest_eigenvalue": float((2 * np.pi / lengths[0]) ** 2),
        },
        "curves": {
            "time": thinned(dt * np.arange(1, steps + 1)),
            "to_start": thinned(to_start),
            "to_constant": thinned(spread),
            "curvature": thinned(curvature),
            "perturbed_to_start": thinned(distance),
        },
    }


def _distances(grid: PeriodicGrid, start: jax.Array, state: RicciFlowState) -> tuple:
    """Largest log of eigenvalues against the start and against the own mean; largest |Ric|_g."""
    mean = jnp.broadcast_to(grid.mean(state.g), state.g.shape)
    return (
        jnp.max(uniform_equivalence(start, state.g)),
        jnp.max(uniform_equivalence(mean, state.g)),
        jnp.max(gc.tensor_norm(state.g, gc.grid_ricci(grid, state.g))),
    )


def _hessian_metric(w: jax.Array, tau: float) -> jax.Array:
    return jnp.diag(discretize.hessian_metric(w, tau))


def _check(config: Config) -> None:
    check_tori(config.dims, config.plane, config.space)
    if not 0 < config.tau < 0.65:
        raise ValueError(
            "--tau: expected a number between 0 and 0.65; beyond, the printed metric is not "
            "positive on T^3"
        )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--dims", nargs="+", type=int, choices=(2, 3), help="of the tori")
    parser.add_argument("--plane", type=_flags.count, help="points an axis on T^2, odd")
    parser.add_argument("--space", type=_flags.count, help="points an axis on T^3, odd")
    parser.add_argument("--tau", type=_flags.amount, help="of the LNE metrics")
    parser.add_argument("--seed", type=_flags.whole, help="root seed")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
