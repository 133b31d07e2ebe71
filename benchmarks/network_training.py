"""An epoch of a network potential, against automatic differentiation and its matrix products."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from benchmarks._timing import compare
from experiments._precision import in_precision
from experiments.quintic_network import PRESETS, build_model, initial_parameters
from metricflow import energies, geometry
from metricflow.training import Training

POINTS = 100_000
BATCH = 1024


def rows(points: int = POINTS) -> list[dict]:
    manifold = geometry.fermat(3)
    sample = geometry.sample_points(jax.random.key(0), manifold, points)
    layered = build_model(PRESETS["default"], manifold, sample)
    data = in_precision(layered.prepare(sample), "float32")
    parameters = initial_parameters(jax.random.key(1), layered, data)
    # a bare function hides that it is a perceptron
    apply = layered.network.apply
    generic = dataclasses.replace(layered, network=lambda theta, y: apply(theta, y))
    batch = min(BATCH, points)

    def epoch(model: Any) -> Callable[[], Any]:
        def loss(theta: Any, part: Any) -> tuple[jax.Array, dict]:
            return energies.Energy()(model, theta, part)

        training = Training(loss, optax.adam(1e-3), batch)
        state = training.init(jax.random.key(2), parameters)
        return lambda: training.advance(state, data, points // batch)

    weights = sum(x.size for x in jax.tree.leaves(parameters))
    row = compare(
        f"epoch of a network potential, {weights} weights, {points} points, batch {batch}, float32",
        epoch(layered),
        {
            "the same step by automatic differentiation": epoch(generic),
            "its matrix products alone, BLAS": _products(layered.network.widths, points, batch),
        },
    )
    return [row]


def _products(widths: tuple[int, ...], points: int, batch: int) -> Callable[[], None]:
    """Forward with 2n + 1 columns a point, backward with one, and twice that for the gradient."""
    rng = np.random.default_rng(0)
    sizes = [24, *widths]
    pairs = [
        (rng.normal(size=(b, a)).astype(np.float32), rng.normal(size=(a, 8 * batch)))
        for a, b in itertools.pairwise(sizes)
    ]
    operands = [(kernel, x.astype(np.float32)) for kernel, x in pairs]

    def run() -> None:
        for _ in range(points // batch):
            for kernel, x in operands:
                for _ in range(3):
                    np.matmul(kernel, x)

    return run
