"""Gradient rules for discretised networks as optax transformations.

All take dL/dQ(w), the gradient where the loss was evaluated, as updates and the latent weights w as
params, and give what an optimiser should treat as the gradient of w::

    optimizer = optax.chain(lne_gradient(q=0.5), optax.sgd(0.1, momentum=0.9))

:func:`proximal_quantization` acts after the step and wraps an optimiser instead.
:func:`gradient_rule` adds to each what the loss sees in training, for comparisons.
"""

from .._front_door import guard
from .lne import ScaleByLNEState, lne_gradient, scale_by_lne
from .metaquant import MetaQuantState, metaquant_gradient
from .preconditioner import as_preconditioner
from .proximal import ProximalState, proximal_quantization
from .rf_dnn import RFDNNState, rf_dnn_gradient
from .rules import RULES, GradientRule, RuleSetting, gradient_rule
from .surrogates import (
    CountState,
    dorefa_gradient,
    exponential_slope,
    irnet_gradient,
    mirror_descent_gradient,
    ste_gradient,
)

__all__ = [
    "RULES",
    "CountState",
    "GradientRule",
    "MetaQuantState",
    "ProximalState",
    "RFDNNState",
    "RuleSetting",
    "ScaleByLNEState",
    "as_preconditioner",
    "dorefa_gradient",
    "exponential_slope",
    "gradient_rule",
    "irnet_gradient",
    "lne_gradient",
    "metaquant_gradient",
    "mirror_descent_gradient",
    "proximal_quantization",
    "rf_dnn_gradient",
    "scale_by_lne",
    "ste_gradient",
]

guard(globals())
