"""Kernels of infinite networks in closed form against neural-tangents, jitted."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._timing import compare
from metricflow import geometry, kernels
from metricflow.kernels.stax import load

POINTS = 2000
DEPTH = 3


def rows(points: int = POINTS) -> list[dict]:
    stax = load().stax
    sample = geometry.sample_points_in_chart(jax.random.key(0), geometry.fermat(3), points)
    activations = {
        "relu": stax.Relu(),
        "erf": stax.Erf(),
        "gelu": stax.Gelu(approximate=False),
        "sin": stax.Sin(),
    }
    found = []
    # with x64 on, neural-tangents computes in float64 whatever it is given
    z = jnp.asarray(sample.z, "complex128")
    for name, activation in activations.items():
        ours = kernels.InfiniteNetwork(name, DEPTH, 1.3, 0.2)
        peer = kernels.StaxKernel(_network(stax, activation))
        calls = [jax.jit(kernel.matrix) for kernel in (ours, peer)]
        row = compare(
            f"NTK of {name}, depth {DEPTH}, {points} x {points}, float64",
            lambda f=calls[0]: f(z, z),  # type: ignore[misc]
            {"neural-tangents": lambda f=calls[1]: f(z, z)},  # type: ignore[misc]
        )
        difference = jnp.max(jnp.abs(calls[0](z, z) / calls[1](z, z) - 1))
        found.append(row | {"values": {"largest relative difference": float(difference)}})
    return found


def _network(stax: Any, activation: Any) -> Any:
    layers: list[Any] = []
    for _ in range(DEPTH):
        layers += [stax.Dense(1, W_std=1.3, b_std=0.2), activation]
    return stax.serial(*layers, stax.Dense(1, W_std=1.3, b_std=0.2))[2]
