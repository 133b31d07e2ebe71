"""Updates of a discretised network: each gradient rule against the straight-through estimator."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._timing import compare
from metricflow import data, discretize, optim
from metricflow.discretize.layers import convolution_by_patches
from metricflow.discretize.models import classifier
from metricflow.training import DiscretizedTraining

STEPS = 10  # in a call, so that a penalty in every tenth update is there once
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "lne": ("lne", {}),
    "dorefa": ("dorefa", {}),
    "multi_fc_grad": ("multi_fc_grad", {}),
    "rf_dnn, penalty in every update": ("rf_dnn", {}),
    "rf_dnn, in every 2nd": ("rf_dnn", {"every": 2}),
    "rf_dnn, in every 10th": ("rf_dnn", {"every": 10}),
}


def rows(batch: int = 128) -> list[dict]:
    """Ten updates of a small convolutional network with one-bit weights, 32 x 32 images."""
    straight = _updates("ste", {}, batch)
    return [
        compare(
            f"ten updates, {name}, {batch} images",
            _updates(rule, options, batch),
            {"straight-through estimator": straight},
        )
        for name, (rule, options) in RULES.items()
    ]


def _updates(name: str, options: dict[str, Any], batch: int) -> Any:
    weights = discretize.weight_quantizer(1)
    statistics = (np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
    cpu = jax.default_backend() == "cpu"

    def prepare(key: Any, images: Any) -> Any:
        images = images if key is None else data.random_crop_and_flip(key, images)
        return data.standardise(images, *statistics)

    training = DiscretizedTraining(
        model=classifier("small", 10, convolution=convolution_by_patches if cpu else None),
        policy=discretize.uniform_policy(weights),
        rule=lambda key, rate: optim.gradient_rule(
            name, optim.RuleSetting(weights, 1000, rate, key), **options
        ),
        latent_optimiser=functools.partial(optax.sgd, momentum=0.9, nesterov=True),
        rest_optimiser=optax.sgd(0.1, momentum=0.9, nesterov=True),
        batch_size=batch,
        prepare=prepare,
    )
    draws = np.random.default_rng(0)
    images = jnp.asarray(draws.integers(0, 256, (STEPS * batch, 32, 32, 3)), jnp.uint8)
    labels = jnp.asarray(draws.integers(0, 10, STEPS * batch), jnp.int32)
    state = jax.jit(lambda key: training.init(key, images[:2], 0.1))(jax.random.key(0))
    return lambda: training.advance(state, {"images": images, "labels": labels}, STEPS)
