"""A small training that is killed from outside: python victim.py FOLDER LOG RESULT EPOCHS."""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metricflow.training import Checkpoints, Training

ROWS, BATCH, STEPS = 40, 5, 2
PER_EPOCH = ROWS // BATCH


class Logged(Checkpoints):
    """Writes a line before and after every save, at once, so that a killed process leaves it."""

    def __init__(self, folder, log):
        super().__init__(folder, {"width": 16}, seconds=0)
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.write("start", self.latest() or 0)

    def write(self, *words):
        os.write(self.log, (" ".join(map(str, words)) + "\n").encode())

    def save(self, state, *args, **options):
        self.write("saving", int(state.step))
        done = super().save(state, *args, **options)
        self.write("saved", int(state.step))
        return done


def network(parameters, x):
    hidden = jnp.tanh(x @ parameters["w1"] + parameters["b1"])
    hidden = jnp.tanh(hidden @ parameters["w2"] + parameters["b2"])
    return hidden @ parameters["w3"]


def loss(parameters, batch):
    fit = jnp.mean((network(parameters, batch["x"]) - batch["y"]) ** 2)
    return fit, {"fit": fit}


def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 4))
    parameters = {
        "w1": 0.5 * rng.normal(size=(4, 16)),
        "b1": np.zeros(16),
        "w2": 0.25 * rng.normal(size=(16, 16)),
        "b2": np.zeros(16),
        "w3": 0.25 * rng.normal(size=16),
    }
    data = {"x": jnp.array(x), "y": jnp.array(np.sin(x.sum(axis=1)))}
    return jax.tree.map(jnp.array, parameters), data


def main(folder, log, result, epochs):
    parameters, data = problem()
    rate = optax.cosine_decay_schedule(0.02, epochs * PER_EPOCH)
    training = Training(loss, optax.chain(optax.clip(1.0), optax.adam(rate)), BATCH)
    checkpoints = Logged(folder, log)
    state, history = training.run(
        training.init(jax.random.key(2), parameters),
        data,
        epochs,
        validate=lambda p: {"loss": loss(p, data)[0]},
        checkpoints=checkpoints,
        steps_a_call=STEPS,
    )
    checkpoints.write("end", int(state.step))
    leaves = [np.asarray(x) for x in jax.tree.leaves(state._replace(key=state.step))]
    numbers = [jax.random.key_data(state.key), *leaves]
    rows = [[row["loss"], row["validation"]["loss"]] for row in history]
    unfinished = Path(f"{result}.part.npz")
    np.savez(unfinished, *numbers, history=rows)
    unfinished.rename(result)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(*sys.argv[1:4], int(sys.argv[4]))
