"""Calls of metricflow.training: single steps; runs are loops of the host."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metricflow import training as T  # noqa: N812
from tests.robustness.calls.call import Call, call, numbers


def loss(parameters: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    value = jnp.mean((batch["x"] @ parameters["w"] - batch["y"]) ** 2)
    return value, {"fit": value}


def training() -> T.Training:
    return T.Training(loss, optax.sgd(0.1, momentum=0.9), 4)


def batch() -> dict[str, jax.Array]:
    return {"x": numbers(1, 8, 3), "y": numbers(2, 8)}


def weights() -> dict[str, jax.Array]:
    return {"w": numbers(3, 3)}


def moved(w: Any, data: Any) -> tuple:
    state, info = training().step(training().init(jax.random.key(0), w), data)
    return state.parameters, info


def advanced(w: Any, data: Any) -> tuple:
    state, info = training().advance(training().init(jax.random.key(0), w), data, 2)
    return state.parameters, info


CALLS: dict[str, Callable[[], Call]] = {
    "Training.init": lambda: call(
        lambda w: training().init(jax.random.key(0), w).parameters, weights()
    ),
    "Training.step": lambda: call(moved, weights(), batch(), hidden="best"),
    "TrainingLoop.advance": lambda: call(advanced, weights(), batch(), hidden="best"),
}

NOT_APPLICABLE = {
    "Checkpoints": "file",
    "Checkpoints.close": "file",
    "Checkpoints.latest": "file",
    "Checkpoints.restore": "file",
    "Checkpoints.save": "file",
    "DiscretizedTraining": "record",
    "DiscretizedTraining.evaluate": "host",
    "DiscretizedTraining.init": "single",
    "DiscretizedTraining.recalibrated": "single",
    "DiscretizedTraining.scores": "single",
    "DiscretizedTraining.step": "single",
    "DiscretizedTraining.variables": "single",
    "NetworkOptimiser": "record",
    "NetworkParameters": "record",
    "Training": "record",
    "TrainingError": "error",
    "TrainingInfo": "record",
    "TrainingLoop": "record",
    "TrainingLoop.run": "host",
    "TrainingLoop.step": "protocol",
    "TrainingState": "record",
    "load_network": "file",
    "save_network": "file",
}
