"""The most accurate Calabi-Yau metric that a number of seconds allows, on any hypersurface.

A method is a ladder of models.  Each rung starts from the one before, is fitted by Gauss-Newton to
the Monge-Ampere equation, and is measured on held-out points; the budget decides how far up it
goes.  Seconds are wall seconds since the start of the process: imports, compilation, sampling,
derivative tensors and the measuring itself are in them, only the last evaluation is not.

Source: MF B.11 (the measure); the methods are described in docs/record_metrics.md.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _run
from experiments._manifold import FORMS, parse_manifold
from metricflow import __version__, ansatz, diagnostics, geometry, load_metric, save_metric
from metricflow.flows import AlgebraicPotential, GaussNewton, LinearPotential, NetworkPotential

METHODS = ("auto", "spectral", "algebraic", "network", "kernel")
_FEW_FUNCTIONS = 0.2  # of all functions at D = 4 are invariant: where symmetry pays
_OPERATIONS_PER_SECOND = 2e10  # assumed until rungs are large enough to measure
_MEMORY = 7e9  # bytes that derivative tensors or section jets may take


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run (how far it gets also depends on the machine).

    Attributes:
        manifold: see ``--manifold``.
        method: see ``--method``.
        seconds: the budget.
        seed: root seed.
        validation_points: held-out points after every rung.
        test_points: points of the final evaluation.
        derivative_points: of them for the Kaehler defect and the chart mismatch.
        curvature_points: of them for the Ricci measure.
        rungs: stop after so many, 0 for no limit.
    """

    manifold: str = "fermat:3"
    method: str = "auto"
    seconds: float = 60.0
    seed: int = 0
    validation_points: int = 2000
    test_points: int = 50_000
    derivative_points: int = 400
    curvature_points: int = 200
    rungs: int = 0


PRESETS = {
    "default": Config(),
    "smoke": Config(
        manifold="fermat:2",
        seconds=600,
        validation_points=300,
        test_points=500,
        derivative_points=40,
        curvature_points=10,
        rungs=1,
    ),
}


class Ladder(Protocol):
    """A family of models of growing size."""

    stride: int  # how many rungs up it may jump

    def sizes(self) -> list[int]:
        """The rungs, in increasing order."""
        ...

    def work(self, size: int) -> float:
        """About how many floating point operations a rung takes."""
        ...

    def fit(self, size: int, metric: Any) -> tuple[Any, dict]:
        """The model of a rung, from the metric of the rung before (None at first)."""
        ...


class SpectralLadder:
    """phi linear in the invariant functions of bidegree (D, D); a rung is D."""

    stride = 3

    def __init__(self, manifold: geometry.Hypersurface, key: jax.Array, seconds: float):
        self.manifold = manifold
        self.symmetry = ansatz.symmetry_group(manifold)
        self.dimensions = ansatz.invariant_dimensions(self.symmetry, 40)
        last = max(self.sizes())
        self.pool = geometry.sample_points(key, manifold, self._points(last))

    def _points(self, degree: int) -> int:
        return 4 * int(self.dimensions[degree]) + 300

    def sizes(self) -> list[int]:
        components = self.manifold.dim**2
        fits = [
            d
            for d in range(2, 41, 2)
            if 8 * components * self._points(d) * self.dimensions[d] < _MEMORY
        ]
        return [d for d in fits if self.dimensions[d] > self.dimensions[d - 1] and d >= 8]

    def work(self, size: int) -> float:
        m = float(self.dimensions[size])
        # jets of all functions once, a QR factorisation a step
        return self._points(size) * m**2 * (2 * (1 + self.manifold.dim) ** 2 + 20)

    def fit(self, size: int, metric: Any) -> tuple[Any, dict]:
        points = jax.tree.map(lambda x: x[: self._points(size)], self.pool)
        start = metric.basis if metric is not None else None
        basis = ansatz.spectral_basis(
            self.manifold, size, points, symmetry=self.symmetry, start=start
        )
        known = np.zeros(0) if metric is None else np.asarray(metric.coefficients)
        coefficients = jnp.asarray(np.pad(known, (0, basis.size - len(known))))
        problem = LinearPotential(points, ansatz.basis_hessians(basis, points))
        method = GaussNewton()
        steps = 8 if metric is None else 2  # the rung below is deep in the quadratic regime
        state, infos = method.run(method.init(coefficients), problem, steps, tolerance=1e-3)
        found = ansatz.SpectralMetric(self.manifold, basis, state.parameters)
        return found, _fit_record(basis.size, points, infos)


class AlgebraicLadder:
    """K = (1/k) log s^dagger H s in single precision; a rung is k."""

    stride = 1

    def __init__(self, manifold: geometry.Hypersurface, key: jax.Array, seconds: float):
        self.manifold, self.key = manifold, key

    def sizes(self) -> list[int]:
        row = 4 * 2 * (1 + self.manifold.dim)
        counts = {k: ansatz.section_count(self.manifold, k) for k in range(1, 9)}
        return [k for k, s in counts.items() if row * s * self._points(k) < _MEMORY]

    def _points(self, k: int) -> int:
        return int(2.5 * ansatz.section_count(self.manifold, k) ** 2) + 500

    def work(self, size: int) -> float:
        s = float(ansatz.section_count(self.manifold, size))
        # some 200 products with the Jacobian, forward or backward
        return 200 * self._points(size) * 8 * s**2 * (1 + self.manifold.dim)

    def fit(self, size: int, metric: Any) -> tuple[Any, dict]:
        points = geometry.sample_points(self.key, self.manifold, self._points(size))
        sections = ansatz.section_basis(self.manifold, size, points)
        if metric is None:
            start = ansatz.fubini_study_form(self.manifold, sections, points)
        else:
            start = ansatz.raised_form(metric, sections, points)
        single = jax.tree.map(_single, points)
        jets = ansatz.section_jets(jax.tree.map(_single, sections), single)
        problem = AlgebraicPotential(single, jets, size)
        method = GaussNewton(solver="iterative", iterations=60, tolerance=0.02, damping=1e-7)
        state, infos = method.run(method.init(_single(start)), problem, 6, tolerance=0.1)
        parameters = jnp.asarray(state.parameters, points.weight.dtype)
        found = ansatz.AlgebraicMetric(self.manifold, sections, parameters)
        return found, _fit_record(parameters.size, points, infos)


class NetworkLadder:
    """phi a perceptron of invariant features, by Levenberg-Marquardt; a rung is more steps."""

    stride = 1
    steps = 8

    def __init__(self, manifold: geometry.Hypersurface, key: jax.Array, seconds: float):
        self.manifold, self.key = manifold, key
        width, count = (24, 3000) if seconds < 200 else (48, 10_000)
        self.widths = (width, width)
        self.points = geometry.sample_points(key, manifold, count)
        self.basis = ansatz.spectral_basis(manifold, _feature_degree(manifold), self.points)
        self.features = ansatz.feature_jets(self.basis, self.points)
        self.network = ansatz.mlp(self.widths)
        self.damping = 1e-5

    def sizes(self) -> list[int]:
        return list(range(1, 1000))

    def work(self, size: int) -> float:
        return 1e9

    def fit(self, size: int, metric: Any) -> tuple[Any, dict]:
        if metric is None:
            key = jax.random.fold_in(self.key, 1)
            parameters = ansatz.initial_parameters(key, self.network, self.features[0, :, 0])
        else:
            parameters = metric.parameters
        problem = NetworkPotential(self.points, self.features, self.network)
        method = GaussNewton(damping=1e-5, adaptive=True, factor="cholesky")
        state = method.init(parameters)._replace(damping=jnp.asarray(self.damping))
        state, infos = method.run(state, problem, self.steps)
        self.damping = float(state.damping)
        found = ansatz.NetworkMetric(
            self.manifold, self.basis, self.widths, self.network.activation, state.parameters
        )
        count = sum(x.size for x in jax.tree.leaves(parameters))
        return found, {**_fit_record(count, self.points, infos), "damping": self.damping}


class KernelLadder:
    """phi a sum of Gaussians of fixed width at centres; a rung is the number of centres."""

    stride = 2
    width = 50.0

    def __init__(self, manifold: geometry.Hypersurface, key: jax.Array, seconds: float):
        self.manifold = manifold
        self.points = geometry.sample_points(key, manifold, self._points(max(self.sizes())))
        self.basis = ansatz.spectral_basis(manifold, _feature_degree(manifold), self.points)

    def _points(self, centres: int) -> int:
        return 4 * centres

    def sizes(self) -> list[int]:
        components = self.manifold.dim**2
        sizes = [125, 250, 500, 1000, 1500, 2000, 3000, 4000]
        return [m for m in sizes if 8 * components * m * self._points(m) < _MEMORY]

    def work(self, size: int) -> float:
        return 20.0 * self._points(size) * size**2

    def fit(self, size: int, metric: Any) -> tuple[Any, dict]:
        points = jax.tree.map(lambda x: x[: self._points(size)], self.points)
        features = ansatz.feature_jets(self.basis, points)
        centres = features[:size, :, 0]
        hessians = ansatz.kernel_hessians(features, centres, self.width, self.manifold.dim)
        known = np.zeros(0) if metric is None else np.asarray(metric.coefficients)
        coefficients = jnp.asarray(np.pad(known, (0, size - len(known))))
        method = GaussNewton(damping=1e-20)
        problem = LinearPotential(points, hessians)
        state, infos = method.run(method.init(coefficients), problem, 8, tolerance=1e-2)
        found = ansatz.KernelPotentialMetric(
            self.manifold, self.basis, self.width, centres, state.parameters
        )
        return found, _fit_record(size, points, infos)


LADDERS: dict[str, type] = {
    "spectral": SpectralLadder,
    "algebraic": AlgebraicLadder,
    "network": NetworkLadder,
    "kernel": KernelLadder,
}


def run(config: Config, record: _run.Record) -> dict:
    """Climb the ladder until the budget ends, then evaluate on fresh points."""
    jax.config.update("jax_enable_x64", True)
    _check(config)
    manifold = parse_manifold(config.manifold)
    method = _chosen(config.method, manifold)
    key = jax.random.key(config.seed)
    train, held_out, test = (jax.random.fold_in(key, i) for i in range(3))
    ladder: Ladder = LADDERS[method](manifold, train, config.seconds)
    validation = geometry.sample_points(held_out, manifold, config.validation_points)
    metric, rows = _climb(config, record, ladder, validation, method)
    final = record.stage("evaluation", lambda: _evaluate(config, manifold, metric, test))
    return {
        "manifold": config.manifold,
        "method": method,
        "seed": config.seed,
        "budget": config.seconds,
        **final,
        "history": [[row["seconds"], row["sigma"]] for row in rows],
        "rungs": rows,
        "seconds": {k: record.seconds(k) for k in ("compile", "fit", "validate")},
        "versions": {"metricflow": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }


def _climb(
    config: Config, record: _run.Record, ladder: Ladder, validation: geometry.Points, method: str
) -> tuple[Any, list[dict]]:
    metric: Any = None
    rows: list[dict] = []
    before = 0.0  # seconds of earlier processes of an interrupted run
    began = process_seconds()
    for name, stage in record.stages.items():
        if name.startswith("rung/"):
            rows.append(stage["result"])
    if rows:
        before = rows[-1]["seconds"] - began
        metric = load_metric(_checkpoint(record, rows[-1]["size"]))
        if method == "network":
            ladder.damping = rows[-1]["damping"]  # type: ignore[attr-defined]

    def now() -> float:
        return process_seconds() + before

    while (size := _next_rung(config, ladder, rows, now())) is not None:

        def rung(size: int = size, metric: Any = metric) -> dict:
            start = now()
            with record.timed("fit"):
                found, facts = ladder.fit(size, metric)
            with record.timed("validate"):
                g = found(validation.z, validation.chart)
                sigma = float(diagnostics.sigma_measure(g, validation))
            end = now()
            if not np.isfinite(sigma):
                raise FloatingPointError(f"rung {size}: sigma is not finite on held-out points")
            path = _checkpoint(record, size)
            if path is not None:
                save_metric(path, found)
            rung.metric = found  # type: ignore[attr-defined]
            return {"size": size, "seconds": end, "cost": end - start, "sigma": sigma, **facts}

        rows.append(record.stage(f"rung/{size}", rung))
        metric = rung.metric  # type: ignore[attr-defined]
        _run.log.info(
            "%s %d: sigma %.2e after %.0f s",
            method,
            size,
            rows[-1]["sigma"],
            rows[-1]["seconds"],
        )
    if not rows:
        raise ValueError(
            f"--seconds {config.seconds}: over before the first rung; allow at least 30"
        )
    best = min(rows, key=lambda row: row["sigma"])
    if best is not rows[-1] and (path := _checkpoint(record, best["size"])) is not None:
        metric = load_metric(path)
    return metric, rows


def _next_rung(config: Config, ladder: Ladder, rows: list[dict], now: float) -> int | None:
    """The rung whose predicted cost is at most 40 % of what is left, else the next one if it fits.

    The cost of a rung is predicted as compilation, taken constant, and work in proportion.
    """
    if config.rungs and len(rows) >= config.rungs:
        return None
    if not rows:
        return ladder.sizes()[0] if now < config.seconds else None
    last = rows[-1]
    above = [size for size in ladder.sizes() if size > last["size"]]
    left = config.seconds - now

    def cost(size: int) -> float:
        fixed = min(row["cost"] for row in rows)
        least = ladder.work(last["size"]) / _OPERATIONS_PER_SECOND
        ratio = ladder.work(size) / ladder.work(last["size"])
        return fixed + max(last["cost"] - fixed, least) * ratio

    if not above or cost(above[0]) > 0.95 * left:
        return None
    return max(
        [size for size in above[: ladder.stride] if cost(size) < 0.4 * left], default=above[0]
    )


def _evaluate(config: Config, manifold: geometry.Hypersurface, metric: Any, key: jax.Array) -> dict:
    points = geometry.sample_points(key, manifold, config.test_points)
    found = diagnostics.diagnose(
        metric,
        points,
        derivative_points=config.derivative_points,
        curvature_points=config.curvature_points,
    )
    g = metric(points.z, points.chart)
    relative = np.asarray(
        geometry.hermitian_determinant(g)
        / geometry.hermitian_determinant(geometry.fubini_study_metric(points))
    )
    gap = jnp.abs(1 - diagnostics.eta(g, points))
    return {
        **{k: v for k, v in found._asdict().items() if k not in ("gain", "gain_unweighted")},
        "gain": _run.finite_or_none(found.gain),
        "volume_ratio_standard_error": float(np.std(relative) / len(relative) ** 0.5),
        "largest_gap": float(jnp.max(gap)),
        "kappa": float(diagnostics.kappa_estimate(g, points)),
    }


def _fit_record(parameters: int, points: geometry.Points, infos: list) -> dict:
    return {
        "parameters": int(parameters),
        "points": len(points.weight),
        "steps": len(infos),
        "training_rms": float(infos[-1].loss) ** 0.5,
    }


def _checkpoint(record: _run.Record, size: int) -> Any:
    return record.file(f"checkpoints/metric-{size}.npz")


def _chosen(method: str, manifold: geometry.Hypersurface) -> str:
    """``auto``: the spectral ladder where symmetry leaves few functions, else the algebraic one."""
    if method != "auto":
        return method
    invariant = ansatz.invariant_dimensions(ansatz.symmetry_group(manifold), 4)[-1]
    every = ansatz.invariant_dimensions(ansatz.no_symmetry(manifold), 4)[-1]
    return "spectral" if invariant < _FEW_FUNCTIONS * every else "algebraic"


def _feature_degree(manifold: geometry.Hypersurface) -> int:
    """The lowest D with more invariant functions than twice the real dimension, plus two."""
    dimensions = ansatz.invariant_dimensions(ansatz.symmetry_group(manifold), 40)
    enough = np.flatnonzero(dimensions > 4 * manifold.dim + 1)
    return int(enough[0])


def _single(x: Any) -> Any:
    """Floating point arrays in single precision."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return x.astype(jnp.complex64)
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


def process_seconds() -> float:
    """Wall seconds since this process began (since this module was imported, where unknown)."""
    try:
        fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
        up = float(Path("/proc/uptime").read_text().split()[0])
        return up - int(fields[19]) / 100
    except (OSError, ValueError, IndexError):
        return time.perf_counter() - _IMPORTED


_IMPORTED = time.perf_counter()


def draw(result: dict, folder: Path) -> None:
    """The accuracy on held-out points against wall time."""
    import matplotlib.pyplot as plt

    from metricflow import plotting

    figure, axis = plt.subplots(figsize=(5.5, 4), layout="constrained")
    plotting.accuracy_against_time(axis, {result["method"]: result["history"]})
    axis.set_title(result["manifold"])
    _run.save_figure(figure, folder / "accuracy.png")


def _check(config: Config) -> None:
    if config.method not in METHODS:
        raise ValueError(f"--method: expected one of {METHODS}, got {config.method!r}")
    if not config.seconds > 0:
        raise ValueError(f"--seconds: expected a number above 0, got {config.seconds}")
    for name in ("validation_points", "test_points", "derivative_points"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--manifold", help=FORMS)
    parser.add_argument("--method", choices=METHODS, help="how to write the metric")
    parser.add_argument("--seconds", type=float, help="budget in wall seconds of the process")
    parser.add_argument("--seed", type=int, help="root seed")
    parser.add_argument("--test-points", type=int, help="fresh points of the final evaluation")
    parser.add_argument("--rungs", type=int, help="stop after so many rungs")


def configure(arguments: argparse.Namespace) -> Config:
    """The config that the flags describe."""
    names = ("manifold", "method", "seconds", "seed", "test_points", "rungs")
    given = {k: getattr(arguments, k) for k in names if getattr(arguments, k) is not None}
    return dataclasses.replace(PRESETS[arguments.preset], **given)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
