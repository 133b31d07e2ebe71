"""Small problems, and comparisons to the bit."""

import functools
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metricflow.training import Training

from ..tolerances import tolerance

ROWS, BATCH = 23, 5
PER_EPOCH = ROWS // BATCH

OPTIMISERS = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.02, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(0.05),
    "schedule": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 9))
    ),
    "several_steps": lambda: optax.MultiSteps(optax.adam(0.05), 3).gradient_transformation(),
    "hyperparameters": lambda: optax.inject_hyperparams(optax.adam)(0.05),
    "plateau": lambda: optax.chain(
        optax.adam(0.05),
        optax.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=0.3),
    ),
    "lbfgs": lambda: optax.chain(optax.scale_by_lbfgs(memory_size=3), optax.scale(-0.02)),
    "noise": lambda: optax.chain(optax.add_noise(0.01, 0.55, jax.random.key(9)), optax.sgd(0.1)),
}


@functools.cache
def points(rows=ROWS, dtype="float64"):
    """Rows of a linear problem; the last array says which row it is."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.3 + 0.1 * rng.normal(size=rows)
    return {"x": jnp.array(x, dtype), "y": jnp.array(y, dtype), "row": jnp.arange(rows)}


@functools.cache
def start(dtype="float64"):
    return {"w": jnp.array([0.2, 0.1, -0.3], dtype), "b": jnp.zeros((), dtype)}


def least_squares(parameters, batch):
    residual = batch["x"] @ parameters["w"] + parameters["b"] - batch["y"]
    fit, ridge = jnp.mean(residual**2), 0.01 * jnp.sum(parameters["w"] ** 2)
    return fit + ridge, {"fit": fit, "ridge": ridge}


def with_rows(parameters, batch):
    """The same, telling the rows of each batch."""
    value, terms = least_squares(parameters, batch)
    return value, {**terms, "row": batch["row"]}


@functools.cache
def training(optimiser="adam", batch=BATCH):
    """The same object each time, so that it is compiled once."""
    return Training(least_squares, OPTIMISERS[optimiser](), batch)


KEY = jax.random.key(4)
ADAM = training()


@functools.cache
def whole():
    """Three epochs, uninterrupted."""
    return ADAM.run(ADAM.init(KEY, start()), points(), 3)


@functools.cache
def recorder(batch):
    return Training(with_rows, optax.sgd(0.0), batch)


def batches(key, epochs, rows=ROWS, batch=BATCH):
    """Rows of every batch of every epoch, as the loop itself tells them."""
    loop = recorder(batch)
    state, data, found = loop.init(key, start()), points(rows), []
    for _ in range(epochs):
        state, info = loop.advance(state, data, rows // batch)
        found.append(np.asarray(info.terms["row"]))
    return np.array(found)


@functools.cache
def counting():
    """A training whose parameter is the number of epochs so far, and its start and data."""
    step = Training(
        lambda p, batch: (-p["epochs"] + 0.0 * jnp.sum(batch), {}),
        optax.sgd(1 / PER_EPOCH),
        BATCH,
    )
    return step, {"epochs": jnp.zeros(())}, jnp.zeros((ROWS, 1))


def plain(tree):
    """Leaves as NumPy arrays, keys as their numbers."""
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


def same(one, other):
    """Same tree, types and shapes, and the same numbers to the bit."""
    ours, theirs = plain(one), plain(other)
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        for a, b in zip(ours, theirs, strict=True)
    )


def close(one, other, name="algebra", dtype="float64"):
    """Same tree, the same numbers up to a tolerance."""
    for a, b in zip(plain(one), plain(other), strict=True):
        bound = tolerance(name, dtype)
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound)


def fingerprint(folder: Path):
    """Name and hash of everything below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }
