"""Flows of Kaehler potentials: Kaehler-Ricci, Calabi, ultra-local, two-derivative; local limits.

On flat tori and on hypersurfaces every flow starts at random potentials or at Fubini-Study; its
own energy, sigma and the Ricci curvature are recorded against flow time.  Then: the Kaehler-Ricci
flow in a spectral basis, on kernel sections and in a network; the local limit of kernels of finite
width; the orders of the time steps; and the printed two-derivative energy, which rises.

Source: MF sections 2.3, 2.4 and appendix B.
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

from experiments import _flags, _run
from experiments._manifold import FORMS, parse_manifold
from metricflow import __version__, ansatz, diagnostics, energies, geometry
from metricflow.flows import (
    POTENTIAL_FLOWS,
    KaehlerFlow,
    LinearTangents,
    NetworkTangents,
    Result,
    TorusKaehlerFlow,
    spectral_tangents,
)

# how each family is stepped: the tangent functions of networks are far from independent
DAMPING = {"spectral": 1e-12, "kernel": 1e-8, "network": 1e-2}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    manifolds: tuple[str, ...] = ("fermat:2", "fermat:3")
    seeds: tuple[int, ...] = (0, 1, 2)
    grids: tuple[tuple[int, ...], ...] = ((45, 45), (11, 11, 11, 11))
    torus_time: tuple[float, float] = (1e-3, 4.0)  # first and last step
    time: tuple[float, float] = (1e-6, 0.2)
    records: int = 20
    steps: int = 8  # between two records
    degree: int = 10
    points: int = 4000
    test_points: int = 4000
    curvature_points: int = 200
    feature_degree: int = 4  # of the functions that kernels and networks see
    centres: int = 200
    width: float = 8.0  # of the kernel, in units of the features
    network: tuple[int, ...] = (12, 12)
    network_points: int = 4000
    kernel_widths: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)


PRESETS = {
    "default": Config(),
    "smoke": Config(
        manifolds=("fermat:1",),
        seeds=(0,),
        grids=((15, 15),),
        records=6,
        steps=2,
        degree=4,
        points=60,
        test_points=60,
        curvature_points=20,
        centres=10,
        network=(3,),
        network_points=60,
        kernel_widths=(0.1, 0.2),
    ),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """All flows; the result as plain numbers."""
    jax.config.update("jax_enable_x64", True)
    _check(config)
    record = record or _run.Record()
    flows: dict[str, dict[str, list[dict]]] = {}
    for grid in config.grids:
        place = f"torus:{len(grid) // 2}"
        compute = functools.partial(_torus, config, grid)
        flows[place] = _all_flows(config, record, place, compute)
    for text in config.manifolds:
        compute = functools.partial(_hypersurface, config, text)
        flows[text] = _all_flows(config, record, text, compute)
    representations = {
        text: record.stage(
            f"representations/{text}", functools.partial(_representations, config, text)
        )
        for text in config.manifolds
    }
    return {
        "seeds": list(config.seeds),
        "flows": flows,
        "summary": _summary(flows),
        "representations": representations,
        "local_limit": record.stage("local_limit", lambda: _local_limit(config)),
        "orders": record.stage("orders", _orders),
        "printed_energy": record.stage("printed_energy", _printed_energy),
        "seconds": record.seconds("total"),
        "version": __version__,
    }


def _all_flows(
    config: Config, record: _run.Record, place: str, compute: Callable[[str, int], dict]
) -> dict[str, list[dict]]:
    """Every flow from every start: name -> runs."""
    return {
        name: [
            record.stage(f"{place}/{name}/{seed}", functools.partial(compute, name, seed))
            for seed in config.seeds
        ]
        for name in POTENTIAL_FLOWS
    }


def draw(result: dict, folder: Path) -> None:
    """The flows against flow time, the local limit with the representations."""
    import matplotlib.pyplot as plt

    from metricflow import plotting

    rows = result["flows"]
    figure, axes = plt.subplots(
        len(rows), 3, figsize=(10, 2.5 * len(rows)), layout="constrained", squeeze=False
    )
    for row, (place, flows) in zip(axes, rows.items(), strict=True):
        for axis, key in zip(row, ("energy", "sigma", "mean_abs_ricci"), strict=True):
            plotting.flow_histories(axis, {name: runs[0] for name, runs in flows.items()}, key)
        row[0].set_title(_title(place), loc="left", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("flow time")
    axes[0, 0].legend(frameon=False, fontsize=7)
    _run.save_figure(figure, folder / "kaehler_flows.png")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    plotting.local_limit(left, result["local_limit"]["widths"], result["local_limit"]["errors"])
    place, found = next(reversed(result["representations"].items()))
    plotting.flow_histories(right, found["kinds"], "energy")
    right.set_xlabel("flow time")
    right.set_title(f"Kähler-Ricci flow, {_title(place)}", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    _run.save_figure(figure, folder / "local_limit.png")


def _title(place: str) -> str:
    names = {
        "torus:1": "flat torus, n = 1",
        "torus:2": "flat torus, n = 2",
        "fermat:1": "Fermat cubic",
        "fermat:2": "Fermat quartic (K3)",
        "fermat:3": "Fermat quintic",
    }
    return names.get(place, place)


def _step_sizes(config: Config, ends: tuple[float, float]) -> np.ndarray:
    """Geometric steps, shape (records, steps)."""
    sizes = np.geomspace(*ends, config.records * config.steps)
    return sizes.reshape(config.records, config.steps)


def _torus(config: Config, shape: tuple[int, ...], name: str, seed: int) -> dict:
    function, inner_product = POTENTIAL_FLOWS[name]
    torus = geometry.KaehlerTorus(geometry.PeriodicGrid(shape))
    flow = TorusKaehlerFlow(torus, function, inner_product)
    modes, size = (2, 0.2) if torus.dim == 1 else (1, 0.1)
    state = flow.init(size * torus.grid.random_field(jax.random.key(seed), modes))
    rows = [
        {"time": 0.0, "energy": float(flow.info(state).energy)}
        | _floats(_seen_on_torus(torus, state.potential))
    ]
    energy = [rows[0]["energy"]]
    for sizes in _step_sizes(config, config.torus_time):
        state, info = flow.run(state, jnp.asarray(sizes))
        energy += info.energy.tolist()
        row = {"time": float(state.time), "energy": energy[-1]}
        rows.append(row | _floats(_seen_on_torus(torus, state.potential)))
    return _columns(rows) | {"result": "SUCCESSFUL", "largest_rise": _largest_rise(energy)}


@jax.jit
def _seen_on_torus(torus: geometry.KaehlerTorus, potential: jax.Array) -> dict[str, jax.Array]:
    """What is recorded of a potential: one program for all flows."""
    g = torus.metric(potential)
    eta, scalar = torus.volume_ratio(g), torus.ricci_scalar(g)
    slope = torus.slope_squared(g, jnp.log(eta))
    weight = jnp.ones_like(eta)
    return {
        "sigma": torus.grid.mean(jnp.abs(1 - eta)),
        # volume one for mu_CY, as the weights say
        "mean_abs_ricci": torus.grid.mean(jnp.abs(scalar)),
        "calabi_energy": energies.calabi_energy(scalar, eta, weight),
        "two_derivative_energy": energies.two_derivative_energy(slope, weight),
        "min_eigenvalue": jnp.min(jnp.linalg.eigvalsh(g)),
    }


def _hypersurface(config: Config, text: str, name: str, seed: int) -> dict:
    function, inner_product = POTENTIAL_FLOWS[name]
    manifold = parse_manifold(text)
    keys = jax.random.split(jax.random.key(seed), 2)
    points = geometry.sample_points(keys[0], manifold, config.points)
    test = geometry.sample_points(keys[1], manifold, config.test_points)
    few = jax.tree.map(lambda leaf: leaf[: config.curvature_points], test)
    basis = ansatz.spectral_basis(manifold, config.degree, points)
    family, held_out = spectral_tangents(basis, points), spectral_tangents(basis, test)
    flow = KaehlerFlow(function, inner_product, halvings=0)
    state = flow.init(jnp.zeros(basis.size))

    def seen(coefficients: jax.Array) -> dict[str, float]:
        metric = ansatz.SpectralMetric(manifold, basis, coefficients)
        g = held_out.metric(coefficients)
        eta = diagnostics.eta(metric(few.z, few.chart), few)
        scalar = geometry.ricci_scalar(metric, few)
        slope = geometry.volume_slope_squared(metric, manifold, few)
        volume = geometry.fubini_study_volume(manifold)
        mean = jnp.sum(few.weight * jnp.abs(scalar)) / jnp.sum(few.weight)
        return _floats(
            {
                "sigma": diagnostics.sigma_measure(g, test),
                "mean_abs_ricci": volume ** (1 / manifold.dim) * mean,
                "calabi_energy": energies.calabi_energy(scalar, eta, few.weight),
                "two_derivative_energy": energies.two_derivative_energy(slope, few.weight),
                "min_eigenvalue": diagnostics.min_eigenvalue(g, test),
            }
        )

    rows = [{"time": 0.0, "energy": float(flow.energy(family, state.parameters))}]
    rows[0] |= seen(state.parameters)
    energy = [rows[0]["energy"]]
    for sizes in _step_sizes(config, config.time):
        state, info = flow.run(state, family, jnp.asarray(sizes), throw=False)
        energy += info.energy.tolist()
        row = {"time": float(state.time), "energy": energy[-1]}
        rows.append(row | seen(state.parameters))
        if int(state.result) != Result.SUCCESSFUL:
            break
    metric = ansatz.SpectralMetric(manifold, basis, state.parameters)
    found = diagnostics.diagnose(metric, test, derivative_points=config.curvature_points)
    return _columns(rows) | {
        "result": Result(int(state.result)).name,
        "largest_rise": _largest_rise(energy),
        "functions": basis.size,
        "train_sigma": float(info.sigma[-1]),
        "kaehler_defect": found.kaehler_defect,
        "chart_mismatch": found.chart_mismatch,
        "volume_ratio": found.volume_ratio,
        "slowest_rates": flow.rates(family, state.parameters)[:3].tolist(),
    }


def _representations(config: Config, text: str) -> dict:
    """The Kaehler-Ricci flow of three families on the same points, with the same steps."""
    manifold = parse_manifold(text)
    keys = jax.random.split(jax.random.key(config.seeds[0]), 3)
    points = geometry.sample_points(keys[0], manifold, config.network_points)
    test = geometry.sample_points(keys[1], manifold, config.test_points)
    features = ansatz.spectral_basis(manifold, config.feature_degree, points)
    here, there = (ansatz.feature_jets(features, x) for x in (points, test))
    basis = ansatz.spectral_basis(manifold, config.degree, points)
    centres = here[: config.centres, :, 0]
    perceptron = ansatz.mlp(config.network)
    sections = [
        LinearTangents(x, ansatz.kernel_jets(y, centres, config.width, manifold.dim))
        for x, y in ((points, here), (test, there))
    ]
    families: dict[str, tuple[Any, Any, Any]] = {
        "spectral": (
            spectral_tangents(basis, points),
            spectral_tangents(basis, test),
            jnp.zeros(basis.size),
        ),
        "kernel": (sections[0], sections[1], jnp.zeros(len(centres))),
        "network": (
            NetworkTangents(points, here, perceptron),
            NetworkTangents(test, there, perceptron),
            ansatz.initial_parameters(keys[2], perceptron, here[0, :, 0]),
        ),
    }
    sizes = jnp.asarray(_step_sizes(config, config.time).ravel())
    found = {}
    for kind, (family, held_out, start) in families.items():
        method = "implicit_euler" if kind == "network" else "rosenbrock"
        flow = KaehlerFlow(damping=DAMPING[kind], method=method)
        energy = float(flow.energy(family, start))
        state, info = flow.run(flow.init(start), family, sizes, throw=False)
        g = held_out.metric(state.parameters)
        found[kind] = {
            "time": [0.0, *info.time.tolist()],
            "energy": [energy, *info.energy.tolist()],
            "result": Result(int(state.result)).name,
            "largest_rise": _largest_rise([energy, *info.energy.tolist()]),
            "train_sigma": float(info.sigma[-1]),
            "sigma": float(diagnostics.sigma_measure(g, test)),
            "min_eigenvalue": float(diagnostics.min_eigenvalue(g, test)),
            "parameters": len(jax.flatten_util.ravel_pytree(start)[0]),
        }
    return {"points": config.network_points, "kinds": found}


def _local_limit(config: Config) -> dict:
    """The distance between the flows of kernels of finite width and the local ones."""
    torus = geometry.KaehlerTorus(geometry.PeriodicGrid(config.grids[0]))
    phi = 0.2 * torus.grid.random_field(jax.random.key(config.seeds[0]), 2)
    choices = {**POTENTIAL_FLOWS, "calabi_yau": (energies.ENTROPY, "calabi_yau")}
    errors, orders, falls = {}, {}, {}
    for name, (function, inner_product) in choices.items():
        ends, monotone = [], True
        for width in (0.0, *config.kernel_widths):
            flow = TorusKaehlerFlow(torus, function, inner_product, width=jnp.asarray(width))
            state, info = flow.run(flow.init(phi), jnp.full(100, 2e-3))
            ends.append(state.potential)
            monotone &= bool(jnp.all(jnp.diff(info.energy) < 0))
        far = [float(jnp.sqrt(torus.grid.mean((end - ends[0]) ** 2))) for end in ends[1:]]
        errors[name] = far
        orders[name] = _slope(config.kernel_widths[:2], far[:2])
        falls[name] = monotone
    widths = list(config.kernel_widths)
    return {"widths": widths, "errors": errors, "orders": orders, "energy_falls": falls}


def _orders() -> dict:
    """The order of each method on a smooth flow, from three step sizes against a fourth."""
    torus = geometry.KaehlerTorus(geometry.PeriodicGrid((9, 9)))
    phi = 0.3 * torus.grid.random_field(jax.random.key(1), 1)
    found: dict[str, dict[str, float]] = {}
    for name, (function, inner_product) in POTENTIAL_FLOWS.items():
        found[name] = {}
        for method, count in (("rosenbrock", 50), ("rk4", 10)):
            slow = method == "rk4" and inner_product == "dirichlet"
            flow = TorusKaehlerFlow(torus, function, inner_product, method=method)
            ends = []
            for parts in (1, 2, 4, 16):
                state = flow.init(phi)
                for _ in range(parts):
                    size = (1.0 if slow else 0.1) / count / parts
                    state, _ = flow.run(state, jnp.full(count, size))
                ends.append(state.potential)
            errors = [float(jnp.max(jnp.abs(end - ends[-1]))) for end in ends[:-1]]
            found[name][method] = _slope((4, 2, 1), errors)
    return found


def _printed_energy() -> dict:
    """MF B.15 with and without the logarithm, along the two-derivative flow, for large eta."""
    torus = geometry.KaehlerTorus(geometry.PeriodicGrid((81, 3), (1.0, 1.0)))
    x = torus.grid.points()[..., 0]
    strengths = [0.25, 0.5, 1.0, 2.0, 3.0]
    rates: dict[str, list[float]] = {"printed": [], "logarithm": []}
    for strength in strengths:
        eta = jnp.exp(strength * jnp.cos(2 * jnp.pi * x))
        eta = eta / torus.grid.mean(eta)
        phi = torus.grid.multiply(
            eta - 1, lambda s: jnp.where(s > 0, -4 / jnp.where(s > 0, s, 1), 0)
        )
        for name in rates:

            def energy(phi: jax.Array, name: str = name) -> jax.Array:
                g = torus.metric(phi)
                eta = torus.volume_ratio(g)
                field = eta if name == "printed" else jnp.log(eta)
                return torus.grid.mean(torus.slope_squared(g, field))

            value, slope = jax.jvp(energy, (phi,), (1 - eta**-0.5,))
            rates[name].append(float(slope / value))
    return {"strengths": strengths, "relative_rates": rates}


def _summary(flows: dict) -> dict:
    """Over seeds: how flows ended, whether an energy ever rose, and the ends of those that ran."""

    def over_seeds(runs: list[dict]) -> dict:
        whole = [one for one in runs if one["result"] == "SUCCESSFUL"]
        ends = {
            key: _run.spread([one[key][-1] for one in whole]) if whole else None
            for key in ("energy", "sigma", "mean_abs_ricci")
        }
        rise = max(one["largest_rise"] for one in runs)
        return {"successful": len(whole), "runs": len(runs), "largest_rise": rise, **ends}

    return {
        place: {name: over_seeds(runs) for name, runs in found.items()}
        for place, found in flows.items()
    }


def _largest_rise(energy: Sequence[float]) -> float:
    """The largest increase between two steps over the first value; negative if it always fell."""
    return float(np.max(np.diff(energy)) / energy[0])


def _slope(sizes: Sequence[float], errors: Sequence[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def _floats(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _columns(rows: list[dict[str, float]]) -> dict[str, Any]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _check(config: Config) -> None:
    if not config.seeds:
        raise ValueError("--seeds: expected at least one")
    for name in ("records", "steps", "degree", "points", "test_points", "centres"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1")
    for text in config.manifolds:
        parse_manifold(text)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--manifolds", nargs="+", help=FORMS)
    parser.add_argument(
        "--seeds", nargs="+", type=_flags.whole, help="random starts and draws of points"
    )
    parser.add_argument("--degree", type=_flags.count, help="of the spectral basis")
    parser.add_argument("--points", type=_flags.count, help="points of a flow on a hypersurface")
    parser.add_argument("--records", type=_flags.count, help="flow times that are recorded")
    parser.add_argument("--steps", type=_flags.count, help="steps between two records")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
