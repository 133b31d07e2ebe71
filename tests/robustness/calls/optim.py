"""Calls of metricflow.optim: the first two updates of every transformation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metricflow import optim as O  # noqa: N812
from metricflow.discretize import binary
from tests.robustness.calls.call import Call, call, numbers


def weights() -> dict[str, jax.Array]:
    return {"a": numbers(1, 4, 3), "b": numbers(2, 5)}


def gradients() -> dict[str, jax.Array]:
    return {"a": numbers(3, 4, 3), "b": numbers(4, 5)}


def loss_gradient(params: Any, k: Any, j: Any) -> Any:
    """Stands for the gradient on translated inputs."""
    return jax.tree.map(lambda w: (1 + k / 4 - j / 8) * w + 0.1 * k, params)


def updates(make: Callable[[], Any], **extra: Any) -> Callable:
    """Two updates: the second one sees the state of the first."""

    def function(gradient: Any, w: Any) -> tuple:
        rule = optax.with_extra_args_support(make())
        first, state = rule.update(gradient, rule.init(w), w, **extra)
        moved = jax.tree.map(lambda p, u: p - 0.01 * u, w, first)
        return first, rule.update(gradient, state, moved, **extra)[0]

    return function


def rule(make: Callable[[], Any], *, extra: dict | None = None, **skip: Any) -> Callable[[], Call]:
    return lambda: call(updates(make, **(extra or {})), gradients(), weights(), **skip)


def setting() -> O.RuleSetting:
    return O.RuleSetting(binary, 10, 0.1, jax.random.key(0))


CALLS: dict[str, Callable[[], Call]] = {
    "as_preconditioner": lambda: call(
        O.as_preconditioner(O.lne_gradient(q=0.4)), weights(), gradients(), grad="loop"
    ),
    "dorefa_gradient": rule(O.dorefa_gradient),
    "exponential_slope": lambda: call(
        lambda count: O.exponential_slope(10)(count), jnp.float64(3.0)
    ),
    "gradient_rule": rule(
        lambda: O.gradient_rule("lne", setting()).wrap(optax.sgd(0.1)),
        grad="loop",
    ),
    "irnet_gradient": rule(lambda: O.irnet_gradient(1.5)),
    "lne_gradient": rule(lambda: O.lne_gradient(q=0.4), grad="loop"),
    "metaquant_gradient": rule(
        lambda: O.metaquant_gradient(jax.random.key(1), "multi_fc", hidden=2),
        hidden="single",
        rough=5,
    ),
    "mirror_descent_gradient": rule(lambda: O.mirror_descent_gradient(1.5)),
    "proximal_quantization": rule(
        lambda: O.proximal_quantization(optax.sgd(0.1), 0.02), grad="step"
    ),
    "rf_dnn_gradient": rule(
        # the other kind cuts derivatives
        lambda: O.rf_dnn_gradient(0.1, q=0.4, inner_gradient="differentiated"),
        extra={"translated_gradient": loss_gradient},
        hidden="penalty",  # what people see of it is in single precision
        grad="loop",
        rough=5,
    ),
    "scale_by_lne": rule(lambda: O.scale_by_lne(0.05), grad="loop"),
    "ste_gradient": rule(lambda: O.ste_gradient(0.7)),
}

NOT_APPLICABLE = {
    "RULES": "constant",
    "CountState": "record",
    "GradientRule": "record",
    "MetaQuantState": "record",
    "ProximalState": "record",
    "RFDNNState": "record",
    "RuleSetting": "record",
    "ScaleByLNEState": "record",
}
