"""Gradient rules by name: what the loss sees in training, and the transformation.

A comparison has to treat all rules alike; this is the one place where they differ.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from ..discretize import surrogates
from .lne import lne_gradient
from .metaquant import metaquant_gradient
from .proximal import proximal_quantization
from .rf_dnn import rf_dnn_gradient
from .surrogates import (
    dorefa_gradient,
    exponential_slope,
    irnet_gradient,
    mirror_descent_gradient,
    ste_gradient,
)

Quantizer = Callable[[Array], Array]


class GradientRule(NamedTuple):
    """A way to train discretised weights.

    Attributes:
        training_weights: (w, number of updates) -> the weights at which loss and gradient are taken
            in training, of one array.
        weights: w -> the quantised weights of the network that results, but for a scale of each
            array (those of training have one with the proximal rule).
        wrap: optimiser -> optimiser of the latent weights.
        shown: w -> what the quantiser gets, ``weights(w) = Q(shown(w))``.
    """

    training_weights: Callable[[Array, Array], Array]
    weights: Quantizer
    wrap: Callable[[optax.GradientTransformation], optax.GradientTransformationExtraArgs]
    shown: Callable[[Array], Array] = lambda w: w


class RuleSetting(NamedTuple):
    """What a rule may depend on besides its own options.

    Attributes:
        quantizer: w -> Q(w).
        steps: number of updates of the training, for rules that anneal.
        learning_rate: of the optimiser.
        key: for rules with a network.
    """

    quantizer: Quantizer
    steps: int
    learning_rate: float | Array
    key: Key[Array, ""]


def gradient_rule(name: str, setting: RuleSetting, **options: Any) -> GradientRule:
    """The rule with this name (one of :data:`RULES`) and the options of its transformation.

    Raises:
        ValueError: an unknown name or option.
    """
    if name not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {name!r}")
    known = [
        p.name
        for p in inspect.signature(RULES[name]).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(
            f"rule {name}: got unknown options {', '.join(unknown)}; "
            f"it has {', '.join(known) or 'none'}"
        )
    return RULES[name](setting, **options)


def _link(
    setting: RuleSetting,
    transformation: optax.GradientTransformation,
    shown: Callable[[Array], Array] = lambda w: w,
) -> GradientRule:
    """A rule that is a link before the optimiser; the loss sees Q(shown(w))."""

    def weights(w: Array) -> Array:
        return setting.quantizer(shown(w))

    return GradientRule(
        lambda w, _: weights(w),
        weights,
        lambda optimizer: optax.chain(transformation, optimizer),
        shown,
    )


def _ste(setting: RuleSetting, *, clip: float | None = None) -> GradientRule:
    return _link(setting, ste_gradient(clip))


def _clipped_ste(setting: RuleSetting, *, clip: float = 1.0) -> GradientRule:
    return _link(setting, ste_gradient(clip))


def _dorefa(setting: RuleSetting) -> GradientRule:
    return _link(setting, dorefa_gradient(), surrogates.dorefa_weights)


def _irnet(setting: RuleSetting, *, start: float = 0.1, end: float = 10.0) -> GradientRule:
    slope = exponential_slope(setting.steps, start, end)
    return _link(setting, irnet_gradient(slope), surrogates.standardised)


def _metaquant(kind: str, hidden_units: int) -> Callable[..., GradientRule]:
    def build(
        setting: RuleSetting, *, hidden: int = hidden_units, learning_rate: float = 1e-3
    ) -> GradientRule:
        transformation = metaquant_gradient(
            setting.key,
            kind,  # type: ignore[arg-type]
            hidden=hidden,
            learning_rate=learning_rate,
        )
        return _link(setting, transformation, surrogates.dorefa_weights)

    return build


def _mirror_descent(
    setting: RuleSetting, *, start: float = 1.0, end: float = 100.0
) -> GradientRule:
    beta = exponential_slope(setting.steps, start, end)
    transformation = mirror_descent_gradient(beta)
    return GradientRule(
        lambda w, count: surrogates.mirror_weights(w, jnp.asarray(beta(count), w.dtype)),
        setting.quantizer,
        lambda optimizer: optax.chain(transformation, optimizer),
    )


def _proximal(setting: RuleSetting, *, strength: float = 1.0) -> GradientRule:
    def levels(w: Array) -> Array:
        """Q(w) with the mean absolute value of w: within the reach of the latent weights."""
        q = setting.quantizer(w)
        size = jnp.mean(jnp.abs(q))
        return q * (jnp.mean(jnp.abs(w)) / jnp.where(size == 0, 1, size))

    # grows linearly to strength times the learning rate: at its end it outweighs any step
    schedule = optax.linear_schedule(0.0, strength * setting.learning_rate, setting.steps)
    return GradientRule(
        lambda w, _: w,
        setting.quantizer,
        lambda optimizer: proximal_quantization(optimizer, schedule, quantizer=levels),
    )


def _lne(inverse: str) -> Callable[..., GradientRule]:
    def build(
        setting: RuleSetting,
        *,
        tau: float | None = None,
        q: float | None = None,
        max_q: float | None = 0.9,
    ) -> GradientRule:
        link = lne_gradient(tau, q=q, inverse=inverse, max_q=max_q)  # type: ignore[arg-type]
        return _link(setting, link)

    return build


def _rf_dnn(setting: RuleSetting, **options: Any) -> GradientRule:
    return _link(setting, rf_dnn_gradient(setting.learning_rate, **options))


_rf_dnn.__signature__ = inspect.signature(rf_dnn_gradient)  # type: ignore[attr-defined]

RULES: dict[str, Callable[..., GradientRule]] = {
    "ste": _ste,
    "clipped_ste": _clipped_ste,
    "dorefa": _dorefa,
    "irnet": _irnet,
    "fc_grad": _metaquant("fc", 8),
    "multi_fc_grad": _metaquant("multi_fc", 8),
    "lstm_grad": _metaquant("lstm", 4),
    "mirror_descent": _mirror_descent,
    "proximal": _proximal,
    "lne": _lne("exact"),
    "lne_weak": _lne("weak"),
    "lne_hessian": _lne("hessian"),
    "rf_dnn": _rf_dnn,
}
"""Rule name -> function of a :class:`RuleSetting` and the rule's own options."""
