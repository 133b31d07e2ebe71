"""The metric-NTK of a perceptron against neural-tangents, and its products against a gradient."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._timing import compare
from metricflow import _neural_tangents, ansatz, kernels

WIDTHS = (128, 128, 128)
INPUTS, OUTPUTS = 10, 9
SIZES = (10, 100, 1000)
PRODUCT_POINTS = 100_000
# the largest set on which an implementation is timed: beyond it takes a minute a call
LARGEST = {"NTK_VECTOR_PRODUCTS": 100, "JACOBIAN_CONTRACTION": 100}


def rows(points: int = PRODUCT_POINTS) -> list[dict]:
    """Dense kernels of 10 to 1000 points in both precisions, products at many points."""
    found = [
        _dense(size, dtype) for dtype in ("float32", "float64") for size in SIZES if size <= points
    ]
    return [*found, *(_product(points, dtype) for dtype in ("float32", "float64"))]


def _problem(points: int, dtype: str) -> tuple[Any, Any, jax.Array, jax.Array]:
    network = ansatz.Mlp(WIDTHS, "gelu", outputs=OUTPUTS)
    keys = jax.random.split(jax.random.key(0), 3)
    x1, x2 = (jax.random.normal(key, (points, INPUTS), dtype) for key in keys[:2])
    return network, network.init(keys[2], x1[0]), x1, x2


def _dense(points: int, dtype: str) -> dict:
    network, params, x1, x2 = _problem(points, dtype)
    ours = jax.jit(lambda p, x, y: kernels.metric_ntk(network, p, x, y))
    peers: dict[str, Callable[[], Any]] = {
        name: functools.partial(peer, x1, x2, params)
        for name, peer in _implementations(network, points).items()
    }
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    row = compare(
        f"dense metric-NTK, {points} x {points} points, {weights} weights, {dtype}",
        lambda: ours(params, x1, x2),
        peers,
    )
    truth = ours(params, x1, x2)
    largest = jnp.max(jnp.abs(truth))
    row["values"] = {
        f"largest difference to {name}": float(jnp.max(jnp.abs(peer() - truth)) / largest)
        for name, peer in peers.items()
    }
    return row


def _implementations(network: Any, points: int) -> dict[str, Callable]:
    """Those of neural-tangents, jitted, with all axes kept: (N1, N2, c, c)."""
    nt = _neural_tangents.load()
    batched = jax.vmap(network.apply, in_axes=(None, 0))
    found: dict[str, Callable] = {}
    for name in (
        "STRUCTURED_DERIVATIVES",
        "AUTO",
        "JACOBIAN_CONTRACTION",
        "NTK_VECTOR_PRODUCTS",
    ):
        if points > LARGEST.get(name, points):
            continue
        peer = nt.empirical_ntk_fn(
            lambda params, x: batched(params, x),
            trace_axes=(),
            vmap_axes=0,
            implementation=getattr(nt.NtkImplementation, name),
        )
        found[f"neural-tangents, {name}"] = jax.jit(peer)
    return found


def _product(points: int, dtype: str) -> dict:
    """Theta v against the gradient of the same batch, whole and in the tiles of the product."""
    network, params, x, _ = _problem(points, dtype)
    v = jax.random.normal(jax.random.key(1), (points, OUTPUTS), dtype)
    batched = jax.vmap(network.apply, in_axes=(None, 0))
    gradient = jax.jit(jax.grad(lambda p, x, v: jnp.sum(batched(p, x) * v)))
    ours = jax.jit(lambda p, x, v: kernels.metric_ntk_product(network, p, x, x, v))
    tiled = jax.jit(lambda p, x, v: kernels.pulled_back(network, p, x, v))
    row = compare(
        f"metric-NTK product, {points} points, {dtype}",
        lambda: ours(params, x, v),
        {
            "gradient of the same batch": lambda: gradient(params, x, v),
            "gradient of the same batch, in tiles": lambda: tiled(params, x, v),
        },
    )
    memory = ours.lower(params, x, v).compile().memory_analysis()
    if memory is not None:
        row["values"] = {"temporary memory of the product, MB": memory.temp_size_in_bytes / 1e6}
    return row
