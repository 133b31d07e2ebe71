"""MLGeometry, a peer, on our question: sigma on held-out points against processor seconds.

A script for an interpreter that has MLGeometry-JAX (``make peers``); it does not import metricflow.
MLGeometry provides the bihomogeneous network, its initialisation, the metric and the loss.  The
loops follow its trainers, Adam on mini-batches and then L-BFGS, but stop by the clock.  Points, and
the volume form and pull-back at them, come from NumPy, since the symbolic route of MLGeometry takes
minutes for 10^5 points and does not end for a general quintic; they are not on the clock.

The result is JSON: ``rows`` holds [processor seconds, sigma], compilation and start included and
the measurements of sigma left out.  Without a peer it holds ``status: not run`` and the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

with contextlib.suppress(ImportError):  # not needed to say that nothing could run
    import numpy as np

PACKAGES = ("MLGeometry-JAX", "jax", "jaxlib", "flax", "optax", "jaxopt", "numpy")
WRONG_JAX = "0.10.2"  # computes wrong numbers on the CPU


class Polynomial(NamedTuple):
    """sum_m c_m prod_i z_i^(e_mi), homogeneous, of as many variables as its degree."""

    exponents: np.ndarray
    coefficients: np.ndarray


def polynomial(text: str) -> Polynomial:
    """``fermat:3`` for the quintic, or a JSON file with exponents, real and imag."""
    if text.startswith("fermat:"):
        degree = int(text.removeprefix("fermat:")) + 2
        return Polynomial(degree * np.eye(degree, dtype=int), np.ones(degree, complex))
    found = json.loads(Path(text).read_text())
    exponents = np.asarray(found["exponents"], int)
    if np.any(exponents.sum(1) != exponents.shape[1]):
        raise ValueError(f"{text}: every monomial must have degree {exponents.shape[1]}")
    coefficients = np.asarray(found["real"]) + 1j * np.asarray(found["imag"])
    return Polynomial(exponents, coefficients)


def value(p: Polynomial, z: np.ndarray) -> np.ndarray:
    """P(z) for z of shape (N, n+2)."""
    powers = z[:, :, None] ** np.arange(p.exponents.max() + 1)
    monomials = np.ones((len(z), len(p.coefficients)), complex)
    for i in range(z.shape[1]):
        monomials *= powers[:, i, p.exponents[:, i]]
    return monomials @ p.coefficients


def gradient(p: Polynomial, z: np.ndarray) -> np.ndarray:
    """dP/dz_i, of shape (N, n+2)."""
    unit = np.eye(z.shape[1], dtype=int)
    slopes = [
        value(Polynomial(np.maximum(p.exponents - e, 0), p.coefficients * (p.exponents @ e)), z)
        for e in unit
    ]
    return np.stack(slopes, axis=1)


def sample(rng: np.random.Generator, p: Polynomial, count: int) -> np.ndarray:
    """Where random complex lines meet the hypersurface: points of the Fubini-Study measure."""
    degree = p.exponents.shape[1]
    lines = -(-count // degree)
    parts = [_on_lines(rng, p, min(1000, lines - start)) for start in range(0, lines, 1000)]
    return np.concatenate(parts)[:count]


def _on_lines(rng: np.random.Generator, p: Polynomial, lines: int) -> np.ndarray:
    degree = p.exponents.shape[1]
    a, b = rng.normal(size=(2, lines, degree, 2)) @ [1, 1j]
    # P(a + t b) at the roots of unity gives its coefficients in t
    t = np.exp(2j * np.pi * np.arange(degree + 1) / (degree + 1))
    z = (a[:, None] + t[:, None] * b[:, None]).reshape(-1, degree)
    ascending = np.fft.fft(value(p, z).reshape(lines, -1), axis=1) / (degree + 1)
    companion = np.zeros((lines, degree, degree), complex)
    companion[:, np.arange(1, degree), np.arange(degree - 1)] = 1
    companion[:, :, -1] = -ascending[:, :-1] / ascending[:, -1:]
    roots = np.linalg.eigvals(companion)
    for _ in range(2):  # Newton, to full precision
        z = (a[:, None] + roots[..., None] * b[:, None]).reshape(-1, degree)
        slope = np.sum(gradient(p, z).reshape(lines, degree, -1) * b[:, None], axis=-1)
        roots = roots - value(p, z).reshape(lines, degree) / slope
    return (a[:, None] + roots[..., None] * b[:, None]).reshape(-1, degree)


def dataset(p: Polynomial, z: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays that MLGeometry trains on, each point in its best affine chart.

    |Omega|^2 = 1 / |dP/dz_e|^2, mass = |Omega|^2 / det g_FS, and restriction holds the tangents.
    """
    ambient, row = z.shape[1], np.arange(len(z))
    scaled = np.argmax(np.abs(z), axis=1)
    z = z / z[row, scaled][:, None]
    slope = gradient(p, z)
    size = np.abs(slope)
    size[row, scaled] = -1
    eliminated = np.argmax(size, axis=1)
    steep = slope[row, eliminated]
    chart = np.stack([scaled, eliminated], axis=1)
    others = np.all(np.arange(ambient) != chart[:, :, None], axis=1)
    local = np.nonzero(others)[1].reshape(len(z), ambient - 2)
    restriction = np.zeros((len(z), ambient - 2, ambient), complex)
    restriction[row[:, None], np.arange(ambient - 2), local] = 1
    restriction[row, :, eliminated] = -np.take_along_axis(slope, local, 1) / steep[:, None]
    mass = np.sum(np.abs(z) ** 2, 1) ** (ambient - 1) / np.sum(np.abs(slope) ** 2, 1)
    return {
        "points": z.astype(np.complex64),
        "Omega_Omegabar": (1 / np.abs(steep) ** 2).astype(np.float32),
        "mass": mass.astype(np.float32),
        "restriction": restriction.astype(np.complex64),
    }


def sigma(determinant: np.ndarray, data: dict[str, Any]) -> float:
    """Weighted mean of |1 - eta|, kappa from the same points."""
    eta = np.asarray(determinant, float) / np.asarray(data["Omega_Omegabar"], float)
    weight = np.asarray(data["mass"], float)
    return float(np.average(np.abs(1 - eta / np.average(eta, weights=weight)), weights=weight))


class Clock:
    """Processor seconds of this process, all threads, that can be stopped."""

    def __init__(self) -> None:
        self._left_out, self._start = 0.0, time.process_time()

    def seconds(self) -> float:
        """Since the start, without what was left out."""
        return time.process_time() - self._start - self._left_out

    def without(self, function: Callable[[], float]) -> float:
        """Call off the clock."""
        before = time.process_time()
        found = function()
        self._left_out += time.process_time() - before
        return found


def network(variables: int, start: int, widths: Sequence[int]) -> Any:
    """log of a network on z zbar (start 1) or its products (start 2, 3, 4), squares in between."""
    import jax.numpy as jnp
    from flax import linen
    from MLGeometry import bihomoNN

    first = getattr(bihomoNN, "Bihomogeneous" if start == 1 else f"Bihomogeneous_k{start}")

    class Potential(linen.Module):
        @linen.compact
        def __call__(self, z: Any) -> Any:
            x = first(d=variables)(z)
            for width in widths:
                x = bihomoNN.SquareDense(width)(x)
            return bihomoNN.SquareDense(1, activation=jnp.log)(x)

    return Potential()


def adam(model: Any, params: Any, data: dict, options: argparse.Namespace) -> Iterator[Any]:
    """Parameters after every batch."""
    import jax
    import optax
    from MLGeometry import loss

    # at full speed from the start some seeds end in a network that no longer depends on z
    rate = optax.linear_schedule(0.0, options.learning_rate, options.warmup)
    optimizer = optax.adam(rate)

    @jax.jit
    def step(params: Any, state: Any, batch: dict) -> tuple[Any, Any, Any]:
        found, slope = jax.value_and_grad(
            lambda q: loss.compute_loss(model, q, batch, loss.weighted_MAPE)
        )(params)
        change, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, change), state, found

    state, rng = optimizer.init(params), np.random.default_rng(options.seed)
    size, count = min(options.batch, options.points), options.points
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            chosen = order[start : start + size]
            params, state, found = step(params, state, {k: v[chosen] for k, v in data.items()})
            found.block_until_ready()
            yield params


def lbfgs(model: Any, params: Any, data: dict, options: argparse.Namespace) -> Iterator[Any]:
    """Parameters after every iteration, until it stops."""
    import jax
    import jaxopt
    from MLGeometry import loss

    part = {k: v[: options.lbfgs_points] for k, v in data.items()}
    objective = loss.make_full_dataset_loss_fn(
        model, part, loss.weighted_MAPE, batch_size=min(options.batch, len(part["mass"]))
    )
    solver = jaxopt.LBFGS(fun=objective, maxiter=10**6, tol=1e-5)
    state, update = solver.init_state(params), jax.jit(solver.update)
    error = math.inf
    while error > 1e-5:
        params, state = update(params, state)
        error = float(state.error)
        yield params


def training_rows(
    stages: Sequence[tuple[Callable[[Any], Iterator[Any]], float]],
    params: Any,
    measure: Callable[[Any], float],
    every: float,
    clock: Clock,
) -> Iterator[list[float]]:
    """[seconds, sigma] at the start, about every so many seconds, and at the end of each stage."""

    def row(params: Any) -> list[float]:
        return [clock.seconds(), clock.without(lambda: measure(params))]

    yield row(params)
    for stage, until in stages:
        if clock.seconds() >= until:
            continue
        mark = clock.seconds() + every
        for params in stage(params):  # noqa: B020  the next stage goes on from here
            if clock.seconds() >= min(mark, until):
                mark = clock.seconds() + every
                yield row(params)
            if clock.seconds() >= until:
                break
        else:
            yield row(params)


def run(options: argparse.Namespace, write: Callable[[dict], None]) -> None:
    """Train by the clock and write after every row."""
    import jax
    import jax.numpy as jnp
    from MLGeometry import loss, trainer

    if jax.__version__ == WRONG_JAX:
        raise RuntimeError(f"jax {WRONG_JAX} computes wrong numbers on the CPU")
    before = time.process_time()
    p = polynomial(options.manifold)
    z = points(p, options)
    train, test = (
        {k: jnp.asarray(v) for k, v in dataset(p, part).items()}
        for part in (z[: options.points], z[options.points :])
    )
    spent = time.process_time() - before
    variables = z.shape[1]
    model = network(variables, options.start, options.widths)
    params = trainer.init_params(model, (variables,), options.seed)

    @jax.jit
    def determinant(params: Any, batch: dict) -> Any:
        return jnp.linalg.det(loss.compute_cy_metric(model, params, batch)).real

    def measure(params: Any) -> float:
        parts = (
            determinant(params, {k: v[i : i + 1000] for k, v in test.items()})
            for i in range(0, options.test_points, 1000)
        )
        return sigma(np.concatenate([np.asarray(part) for part in parts]), test)

    rows: list[list[float]] = []
    result = {
        "peer": "MLGeometry",
        "status": "run",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "settings": settings(options),
        "points": "from a file" if options.points_file else "drawn in NumPy",
        "clock": "processor seconds of training with its compilation; points are not on it",
        "processor_seconds_of_points": spent,
        "rows": rows,
    }
    stages = (
        (lambda q: adam(model, q, train, options), options.adam_share * options.seconds),
        (lambda q: lbfgs(model, q, train, options), options.seconds),
    )
    for row in training_rows(stages, params, measure, options.seconds / options.rows, Clock()):
        print(f"{row[0]:8.1f} cpu s   sigma {row[1]:.5f}", flush=True)
        rows.append(row)
        write(result)
        if not math.isfinite(row[1]):
            raise FloatingPointError(f"sigma is {row[1]} after {row[0]:.1f} processor seconds")


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What a run depends on; files by name, without their folders."""
    kept = {k: v for k, v in vars(options).items() if k not in ("out", "not_run")}
    kept["manifold"] = Path(options.manifold).name
    return kept | {"points_file": options.points_file and options.points_file.name}


def points(p: Polynomial, options: argparse.Namespace) -> np.ndarray:
    """Homogeneous points: first those to train on, then those held out."""
    count = options.points + options.test_points
    if options.points_file is None:
        return sample(np.random.default_rng(options.seed), p, count)
    with np.load(options.points_file) as archive:
        z = archive["z"]
    if z.ndim != 2 or len(z) < count or z.shape[1] != p.exponents.shape[1]:
        raise ValueError(f"{options.points_file}: {z.shape} are not {count} points")
    return z[:count]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--manifold", default="fermat:3", help="fermat:N, or JSON of exponents, real and imag")
    add("--seconds", type=float, default=150.0, help="processor seconds of training")
    add("--seed", type=int, default=0)
    add("--points", type=int, default=50_000, help="to train on")
    add("--test-points", type=int, default=20_000, help="held out")
    add("--points-file", type=Path, help="an .npz with homogeneous points z of shape (N, n+2)")
    add("--start", type=int, default=1, choices=(1, 2, 3, 4), help="degree of the first layer")
    add("--widths", type=int, nargs="+", default=[70, 100], help="hidden layers")
    add("--learning-rate", type=float, default=5e-3, help="of Adam")
    add("--warmup", type=int, default=100, help="steps until Adam has its learning rate")
    add("--batch", type=int, default=1000)
    add("--adam-share", type=float, default=0.6, help="of the seconds; then L-BFGS")
    add("--lbfgs-points", type=int, default=10_000, help="at most, to train on with L-BFGS")
    add("--rows", type=int, default=20, help="measurements, about")
    add("--cores", type=int, default=1, help="processors to use; 0 for all")
    add("--out", type=Path, default=Path("results/peer_mlgeometry.json"))
    add("--not-run", type=Path, metavar="LOG", help="only write that installation failed, and how")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    options = parse(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def write(result: dict) -> None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")

    def not_run(reason: str) -> None:
        write({"peer": "MLGeometry", "status": "not run", "reason": reason, "rows": []})
        print(f"not run: {reason}", file=sys.stderr)

    if options.not_run:
        lines = [x for x in options.not_run.read_text().splitlines() if x.strip()]
        not_run(next((x for x in reversed(lines) if "ERROR" in x), (lines or ["unknown"])[-1]))
        return 0
    if options.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    try:
        run(options, write)
    except ImportError as error:
        not_run(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
