"""How well fixed kernels predict metrics: components, frames and invariants; time and ensembles.

Three tasks, the same points for every kernel:

- flow: the metric that Gauss-Newton in the function space of a kernel finds from the volume form
  alone, the end of its flow.  Kernels are chosen on held-out points with fewer training points.
- volume: log eta of Fubini-Study, a known function, interpolated, and the conformal metric that
  follows.  Not a prediction of the metric: its Kaehler defect says what it is worth.
- supervised: the components of an accurate Calabi-Yau metric, learned from its values at points:
  the error over the time of the flow, and what the ensemble of infinite networks says of it.

Source: MF section 3.2, MF 2.12 (the remark after it).
"""

import argparse
import dataclasses
import functools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import _flags, _run
from experiments._manifold import FORMS, parse_manifold
from experiments._precision import in_precision
from metricflow import __version__, ansatz, diagnostics, geometry, kernels, records
from metricflow._pytree import register_dataclass
from metricflow.ansatz.global_metric import GlobalMetric
from metricflow.flows import KernelFlow, KernelGaussNewton
from metricflow.geometry import Points, fubini_study_metric, hermitian_unpack

log = logging.getLogger("experiments")

FAMILIES = ("gaussian", "relu", "sum", "root_frame", "invariant", "invariant_product")
MEASURES = (
    "test_gain",
    "test_gain_unweighted",
    "train_gain",
    "kaehler_defect",
    "chart_mismatch",
    "volume_ratio",
    "min_eigenvalue",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    manifold: str = "fermat:3"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    families: tuple[str, ...] = FAMILIES
    points: int = 10_000
    choose_points: int = 2000  # of them, when kernels are compared
    validation_points: int = 1000
    test_points: int = 5000
    derivative_points: int = 200
    widths: tuple[float, ...] = (0.3, 0.4, 0.5)  # of Gaussians in the Fubini-Study distance
    invariant_widths: tuple[float, ...] = (5.0, 10.0, 20.0)  # in standard deviations
    depths: tuple[int, ...] = (1, 3)
    degree: int = 5  # of the invariant functions
    damping: float = 1e-3
    iterations: int = 30
    steps: int = 8
    volume_points: int = 3000
    supervised_points: int = 1000
    times: tuple[float, ...] = tuple(10.0**k for k in range(-3, 7))
    precision: str = "float64"  # of the flows; regression is always in float64


PRESETS = {
    "default": Config(),
    # sets of one size, so that every program is compiled once
    "smoke": Config(
        seeds=(0, 1),
        families=("gaussian", "invariant"),
        points=100,
        choose_points=100,
        validation_points=100,
        test_points=100,
        derivative_points=10,
        widths=(0.5,),
        invariant_widths=(5.0, 10.0),
        steps=3,
        volume_points=100,
        supervised_points=100,
        times=(0.1, 10.0),
    ),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """All tasks for every seed; means and spreads over seeds.

    Raises:
        ValueError: settings that make no sense.
    """
    jax.config.update("jax_enable_x64", True)
    record = record or _run.Record()
    manifold = parse_manifold(config.manifold)
    _check(config)
    stages: list[tuple[str, Any]] = []
    for family in config.families:
        for seed in config.seeds:
            stages.append(
                (f"flow/{family}/{seed}", functools.partial(_flow_stage, family=family, seed=seed))
            )
    for seed in config.seeds:
        stages.append((f"volume/{seed}", functools.partial(_volume_stage, seed=seed)))
    accurate = _accurate_metric(config.manifold)
    if accurate is not None:
        for seed in config.seeds:
            stages.append(
                (
                    f"supervised/{seed}",
                    functools.partial(_supervised_stage, seed=seed, accurate=accurate),
                )
            )
    results = {
        name: record.stage(name, functools.partial(compute, config, manifold))
        for name, compute in tqdm(stages, desc="kernel_regression", disable=None)
    }
    return _assemble(config, record, results)


def draw(result: dict, folder: Path) -> None:
    """Test gains of all kernels; the error of supervised regression over time."""
    import matplotlib.pyplot as plt

    from metricflow import plotting

    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    rows = {name.replace("_", " "): row["test_gain"] for name, row in result["flow"].items()}
    order = sorted(rows, key=lambda name: rows[name]["mean"])
    plotting.gain_bars(axis, {name: rows[name] for name in order})
    axis.axvline(5, color="black", lw=0.8, ls="--", label="the paper's ceiling")
    axis.legend(frameon=False)
    _run.save_figure(figure, folder / "kernel_regression.png")
    if result["supervised"]:
        figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
        found = result["supervised"]
        for kernel, rows in found["kernels"].items():
            plotting.regression_history(axis, found["times"], rows, name=kernel)
        _run.save_figure(figure, folder / "regression_over_time.png")


def _keys(seed: int) -> dict[str, jax.Array]:
    names = ("train", "validation", "test")
    return dict(zip(names, jax.random.split(jax.random.key(seed), len(names)), strict=True))


def candidates(
    config: Config, manifold: geometry.Hypersurface, family: str, points: Points
) -> list[tuple[str, Any]]:
    """The kernels of a family, each with what it is called."""
    gaussians = [(f"width {w}", kernels.Gaussian(w)) for w in config.widths]
    if family == "gaussian":
        return gaussians
    if family == "relu":
        return [(f"depth {d}", kernels.InfiniteNetwork("relu", d)) for d in config.depths]
    if family == "sum":
        relu = kernels.InfiniteNetwork("relu", 1)
        few = points.z[:200]
        size = float(jnp.mean(jnp.diagonal(relu.matrix(few, few))))
        return [
            (f"{what}, ReLU", kernels.Sum((gaussian, relu), (1.0, 1 / size)))
            for what, gaussian in gaussians
        ]
    if family == "root_frame":
        chart = (int(points.chart[0, 0]), int(points.chart[0, 1]))
        frame: Any = kernels.RootFrame(manifold, chart)
        return [(what, kernels.TensorKernel(k, frame)) for what, k in gaussians]
    basis = invariant_functions(config, manifold)
    frame = kernels.hessian_frame(manifold, basis, in_precision(points, "float64"))
    frame = in_precision(frame, config.precision)
    radial = [(f"width {w}", kernels.SquaredExponential(w)) for w in config.invariant_widths]
    if family == "invariant":
        return [(what, kernels.TensorKernel(k, frame)) for what, k in radial]
    erf = kernels.InfiniteNetwork("erf", 1, statistic="nngp")
    return [
        (f"{what}, erf", kernels.TensorKernel(kernels.Product((k, erf)), frame))
        for what, k in radial
    ]


def invariant_functions(config: Config, manifold: geometry.Hypersurface) -> ansatz.SpectralBasis:
    """The invariant functions of low degree; all of degree 1 where there is no symmetry.

    The same for every seed: they are made of the equation alone, up to their normalisation.
    """
    few = geometry.sample_points(jax.random.key(0), manifold, 2000)
    symmetry = ansatz.symmetry_group(manifold)
    if ansatz.invariant_dimensions(symmetry, config.degree)[-1] < 2:
        return ansatz.projective_features(manifold, few)
    return ansatz.spectral_basis(manifold, config.degree, few, symmetry=symmetry)


def _flow_stage(config: Config, manifold: geometry.Hypersurface, family: str, seed: int) -> dict:
    """The kernel that is best on validation points with few training points, then with all."""
    keys = _keys(seed)
    sizes = {
        "train": config.points,
        "validation": config.validation_points,
        "test": config.test_points,
    }
    exact = {k: geometry.sample_points_in_chart(keys[k], manifold, n) for k, n in sizes.items()}
    train, validation, test = (in_precision(exact[k], config.precision) for k in sizes)
    few = jax.tree.map(lambda leaf: leaf[: config.choose_points], train)
    tried: list[dict[str, Any]] = []
    choices = candidates(config, manifold, family, train)
    for what, kernel in choices:
        sigma = _solve(config, kernel, few, validation)[1]
        tried.append({"kernel": what, "validation_sigma": float(np.nanmin(sigma))})
    place = int(np.argmin([row["validation_sigma"] for row in tried]))
    what, kernel = choices[place]
    method, sigma, begin = _solve(config, kernel, train, validation)
    steps = int(np.nanargmin(sigma)) + 1
    last, _, _ = method.run(begin, steps)
    metric = method.metric(manifold, last)
    found = diagnostics.diagnose(metric, test, derivative_points=config.derivative_points)
    return {
        "kernel": what,
        "tried": tried,
        "steps": steps,
        "train_gain": float(diagnostics.gain(last.flow.g, train)),
        "test_gain": float(found.gain),
        "test_gain_unweighted": float(found.gain_unweighted),
        **{k: v for k, v in found._asdict().items() if k not in ("gain", "gain_unweighted")},
    }


def _solve(
    config: Config, kernel: Any, train: Points, held_out: Points
) -> tuple[KernelGaussNewton, np.ndarray, Any]:
    """The method, sigma on held-out points after every step, and the start."""
    method = KernelGaussNewton(kernel, damping=config.damping, iterations=config.iterations)
    begin = method.init(train, dense=True)
    operator = KernelFlow(kernel).operator(held_out.z, train.z, dense=True)
    watch = jax.tree_util.Partial(_sigma, operator, fubini_study_metric(held_out), held_out)
    _, _, seen = method.run(begin, config.steps, observe=watch)
    return method, np.asarray(seen), begin


def _sigma(operator: Any, reference: jax.Array, points: Points, flow: Any) -> jax.Array:
    return diagnostics.sigma_measure(
        reference + hermitian_unpack(operator @ flow.coefficients), points
    )


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ConformalMetric(GlobalMetric):
    """g = g_FS exp(-f / n), with f a prediction of log eta: eta is one wherever f is right."""

    manifold: geometry.Hypersurface
    basis: ansatz.SpectralBasis
    fit: kernels.KernelFit

    def at(self, points: Points) -> jax.Array:
        """g at points in their charts."""
        predicted = self.fit(_invariants(self.basis, points))[:, 0]
        factor = jnp.exp(-predicted / self.manifold.dim)
        return fubini_study_metric(points) * factor[:, None, None]


@jax.jit
def _invariants(basis: ansatz.SpectralBasis, points: Points) -> jax.Array:
    return ansatz.feature_jets(basis, points)[..., 0]


def _volume_stage(config: Config, manifold: geometry.Hypersurface, seed: int) -> dict:
    """log eta of Fubini-Study interpolated on invariants, and the conformal metric."""
    keys = _keys(seed)
    train = geometry.sample_points(keys["train"], manifold, config.volume_points)
    test = geometry.sample_points(keys["test"], manifold, config.test_points)
    basis = invariant_functions(config, manifold)
    kappa = diagnostics.kappa_estimate(fubini_study_metric(train), train)
    y, truth = _log_eta(train, kappa), _log_eta(test, kappa)
    x = _invariants(basis, train)
    rows = []
    for width in config.invariant_widths:
        kernel = kernels.SquaredExponential(width)
        residuals = kernels.leave_one_out(kernel, x, y[:, None])
        rows.append({"width": width, "leave_one_out": float(jnp.sqrt(jnp.mean(residuals**2)))})
    width = min(rows, key=lambda row: row["leave_one_out"])["width"]
    fit = kernels.kernel_regression(kernels.SquaredExponential(width), x, y[:, None])
    error = fit(_invariants(basis, test))[:, 0] - truth
    metric = ConformalMetric(manifold, basis, fit)
    found = diagnostics.diagnose(metric, test, derivative_points=config.derivative_points)
    return {
        "kernel": f"width {width}",
        "tried": rows,
        "error": float(jnp.sqrt(jnp.mean(error**2))),
        "deviation": float(jnp.std(truth)),
        "train_gain": float(diagnostics.gain(metric(train.z, train.chart), train)),
        "test_gain": float(found.gain),
        "test_gain_unweighted": float(found.gain_unweighted),
        **{k: v for k, v in found._asdict().items() if k not in ("gain", "gain_unweighted")},
    }


def _log_eta(points: Points, kappa: jax.Array) -> jax.Array:
    """log of det g_FS / (kappa |Omega|^2)."""
    g = fubini_study_metric(points)
    return jnp.log(geometry.hermitian_determinant(g) / points.omega2 / kappa)


def _accurate_metric(manifold: str) -> Any:
    """A stored Calabi-Yau metric of this manifold, or None."""
    name = {"fermat:2": "fermat_quartic", "fermat:3": "fermat_quintic"}.get(manifold)
    return None if name is None else records.calabi_yau_metric(name)


def _supervised_stage(
    config: Config, manifold: geometry.Hypersurface, seed: int, accurate: Any
) -> dict:
    """Errors of regression of the components of g_CY - g_FS, over time, with its ensemble."""
    keys = _keys(seed)
    train, test = (
        geometry.sample_points_in_chart(keys[k], manifold, config.supervised_points)
        for k in ("train", "test")
    )
    targets = [
        geometry.hermitian_pack(accurate(p.z, p.chart) - fubini_study_metric(p))
        for p in (train, test)
    ]
    scale = float(jnp.std(targets[0]))
    y, truth = (t / scale for t in targets)
    found: dict[str, dict] = {}
    for name in ("relu", "erf", "gelu"):
        ntk, nngp = (kernels.InfiniteNetwork(name, 3, statistic=s) for s in ("ntk", "nngp"))
        few = train.z[:200]
        size = float(jnp.mean(jnp.diagonal(ntk.matrix(few, few))))
        # the same clock for all: times in units of one over the size of the kernel
        times = np.array(config.times) / size
        means = kernels.regression_trajectory(ntk, train.z, y, test.z, times)
        errors = jnp.sqrt(jnp.mean((means - truth) ** 2, axis=(1, 2)))
        deviations, scores = [], []
        for i, t in enumerate(times):
            predicted = kernels.ensemble_prediction(ntk, nngp, train.z, y, test.z, time=float(t))
            deviation = predicted.standard_deviation[:, None]
            deviations.append(float(jnp.sqrt(jnp.mean(deviation**2))))
            scores.append(float(jnp.sqrt(jnp.mean(((means[i] - truth) / deviation) ** 2))))
        found[name] = {
            "error": errors.tolist(),
            "deviation": deviations,
            "error_over_deviation": scores,
        }
    gaussian = kernels.Gaussian(config.widths[0])
    means = kernels.regression_trajectory(gaussian, train.z, y, test.z, np.array(config.times))
    found["gaussian"] = {"error": jnp.sqrt(jnp.mean((means - truth) ** 2, axis=(1, 2))).tolist()}
    return {"scale": scale, "size": float(jnp.sqrt(jnp.mean(truth**2))), "kernels": found}


def _assemble(config: Config, record: _run.Record, results: dict) -> dict:
    flow = {
        family: _summary([results[f"flow/{family}/{seed}"] for seed in config.seeds])
        for family in config.families
    }
    volume_rows = [results[f"volume/{seed}"] for seed in config.seeds]
    volume = _summary(volume_rows) | {
        k: _run.spread([row[k] for row in volume_rows]) for k in ("error", "deviation")
    }
    supervised: dict[str, Any] = {}
    names = [f"supervised/{seed}" for seed in config.seeds]
    if all(name in results for name in names):
        rows = [results[name] for name in names]
        supervised = {
            "times": list(config.times),
            "points": config.supervised_points,
            "size": _run.spread([row["size"] for row in rows]),
            "kernels": {
                kernel: {
                    what: np.mean([row["kernels"][kernel][what] for row in rows], axis=0).tolist()
                    for what in rows[0]["kernels"][kernel]
                }
                for kernel in rows[0]["kernels"]
            },
        }
    return {
        "manifold": config.manifold,
        "seeds": list(config.seeds),
        "points": config.points,
        "flow": flow,
        "volume": volume,
        "supervised": supervised,
        "seconds": {k: record.seconds(k) for k in ("compile", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }


def _summary(rows: list[dict]) -> dict:
    return {
        **{k: _run.spread([row[k] for row in rows]) for k in MEASURES},
        "kernels": [row["kernel"] for row in rows],
        "tried": rows[0]["tried"],
    }


def _check(config: Config) -> None:
    unknown = [k for k in config.families if k not in FAMILIES]
    if unknown or not config.families:
        raise ValueError(f"--families: expected some of {', '.join(FAMILIES)}, got {unknown}")
    if not config.seeds:
        raise ValueError("--seeds: expected at least one")
    for name in ("points", "validation_points", "test_points", "steps", "supervised_points"):
        if getattr(config, name) < 2:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 2")
    if not 2 <= config.choose_points <= config.points:
        raise ValueError(f"--choose-points: expected 2 to {config.points} (--points)")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--manifold", help=FORMS)
    parser.add_argument("--seeds", nargs="+", type=_flags.whole, help="seeds of all points")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, help="which kernels")
    parser.add_argument("--points", type=_flags.count, help="training points of the flows")
    parser.add_argument(
        "--choose-points", type=_flags.count, help="of them, when kernels are compared"
    )
    parser.add_argument("--test-points", type=_flags.count, help="held-out points")
    parser.add_argument("--steps", type=_flags.count, help="Gauss-Newton steps")
    parser.add_argument("--precision", choices=("float32", "float64"), help="of the flows")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
