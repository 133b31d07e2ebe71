"""The most accurate Calabi-Yau metric that a number of seconds allows, on any hypersurface.

A method is a ladder of models.  Each rung starts from the one before, is fitted by Gauss-Newton to
the Monge-Ampere equation, and is measured on held-out points; the budget decides how far up it
goes.  Seconds are wall seconds since the start of the process: imports, compilation, sampling,
derivative tensors and the measuring itself are in them, only the last evaluation is not.

Source: MF B.11 (the measure); the methods are described in docs/record_metrics.md.
"""

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _flags, _run
from experiments._ladders import LADDERS, Ladder
from experiments._manifold import FORMS, parse_manifold
from metricflow import (
    __version__,
    ansatz,
    diagnostics,
    geometry,
    load_metric,
    processes,
    save_metric,
)

METHODS = ("auto", "spectral", "algebraic", "network", "kernel")
_FEW_FUNCTIONS = 0.2  # of all functions at D = 4 are invariant: where symmetry pays
_STALLED = 0.98  # two rungs that leave more of sigma than this end the climb
_OF_QR = 0.3  # of the speed of a QR factorisation is reached by a rung as a whole


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


def run(config: Config, record: _run.Record) -> dict:
    """Climb the ladder until the budget ends, then evaluate on fresh points.

    A rung that ends after the budget stands in the history, but is not the metric of the run.
    """
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
    fitted: dict[int, Any] = {}
    rows: list[dict] = []
    before = cpu_before = 0.0  # seconds of earlier processes of an interrupted run
    began = process_seconds()
    for name, stage in record.stages.items():
        if name.startswith("rung/"):
            rows.append(stage["result"])
    if rows:
        before, cpu_before = rows[-1]["seconds"] - began, rows[-1]["cpu_seconds"]
        fitted = {row["size"]: load_metric(_checkpoint(record, row["size"])) for row in rows}
        if method == "network":
            ladder.damping = rows[-1]["damping"]  # type: ignore[attr-defined]

    def now() -> float:
        return process_seconds() + before

    # the clocks of processes differ
    while (size := processes.agreed(_next_rung(config, ladder, rows, now()))) is not None:

        def rung(size: int = size) -> dict:
            start = now()
            with record.timed("fit"):
                found, facts = ladder.fit(size, fitted[rows[-1]["size"]] if rows else None)
            with record.timed("validate"):
                g = ladder.evaluate(found, validation)
                sigma = float(diagnostics.sigma_measure(g, validation))
            end = now()
            if not np.isfinite(sigma):
                raise FloatingPointError(f"rung {size}: sigma is not finite on held-out points")
            path = _checkpoint(record, size)
            if path is not None:
                save_metric(path, found)
            fitted[size] = found
            return {
                "size": size,
                "seconds": end,
                "cpu_seconds": cpu_before + time.process_time(),
                "cost": end - start,
                "sigma": sigma,
                **facts,
            }

        rows.append(record.stage(f"rung/{size}", rung))
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
    within = [row for row in rows if row["seconds"] <= config.seconds] or rows[:1]
    best = min(within, key=lambda row: row["sigma"])
    metric = fitted[best["size"]]
    if (path := record.file("metric.npz")) is not None:
        save_metric(path, metric, provenance=dataclasses.asdict(config) | best)
    return metric, rows


def _next_rung(config: Config, ladder: Ladder, rows: list[dict], now: float) -> int | None:
    """The rung whose predicted cost is at most 70 % of what is left, else the next one if it fits.

    The cost of a rung is predicted as compilation, taken constant, and work: at the speed of this
    machine, until work outweighs compilation and the last rung tells more.
    """
    if config.rungs and len(rows) >= config.rungs:
        return None
    if len(rows) > 2 and min(row["sigma"] for row in rows[-2:]) > _STALLED * rows[-3]["sigma"]:
        return None
    if not rows:
        return ladder.sizes()[0] if now < config.seconds else None
    last = rows[-1]
    above = [size for size in ladder.sizes() if size > last["size"]]
    left = config.seconds - now

    def cost(size: int) -> float:
        fixed = min(row["cost"] for row in rows)
        rate = _OF_QR * operations_per_second()
        if ladder.work(last["size"]) / rate > fixed:
            rate = ladder.work(last["size"]) / (last["cost"] - fixed)
        return fixed + ladder.work(size) / rate

    if not above or cost(above[0]) > 0.95 * left:
        return None
    return max(
        [size for size in above[: ladder.stride] if cost(size) < 0.7 * left], default=above[0]
    )


def _evaluate(config: Config, manifold: geometry.Hypersurface, metric: Any, key: jax.Array) -> dict:
    points = geometry.sample_points(key, manifold, config.test_points)
    g = metric(points.z, points.chart)
    found = diagnostics.diagnose(
        metric,
        points,
        g=g,
        derivative_points=config.derivative_points,
        curvature_points=config.curvature_points,
    )
    gap = jnp.abs(1 - diagnostics.eta(g, points))
    return {
        **{k: v for k, v in found._asdict().items() if k not in ("gain", "gain_unweighted")},
        "gain": _run.finite_or_none(found.gain),
        "volume_ratio_standard_error": float(diagnostics.volume_ratio_standard_error(g, points)),
        "largest_gap": float(jnp.max(gap)),
        "kappa": float(diagnostics.kappa_estimate(g, points)),
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


@functools.cache
def operations_per_second() -> float:
    """Floating point operations a second of a QR factorisation in double precision, here."""
    tall = jax.random.normal(jax.random.key(0), (1500, 400))
    factor = jax.jit(lambda x: jnp.linalg.qr(x)[1])
    jax.block_until_ready(factor(tall))
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(factor(tall))
        spent.append(time.perf_counter() - start)
    return 2 * 1500 * 400**2 / min(spent)


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
    parser.add_argument(
        "--seconds", type=_flags.amount, help="budget in wall seconds of the process"
    )
    parser.add_argument("--seed", type=_flags.whole, help="root seed")
    parser.add_argument(
        "--test-points", type=_flags.count, help="fresh points of the final evaluation"
    )
    parser.add_argument("--rungs", type=_flags.count, help="stop after so many rungs")


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
