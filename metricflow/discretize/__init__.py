"""Discretised networks: quantisers, LNE metrics, and the mathematics of their gradient rules.

Functions of one array of weights; :mod:`metricflow.optim` makes optax transformations of them.
"""

from .lne import (
    closeness,
    dense_rank_one_metric,
    hessian_metric,
    lne_divergence,
    lne_natural_gradient,
    lne_potential,
    rank_one_share,
    tau_of_share,
)
from .meta_quantizer import MetaQuantizer, corrected_gradient, initial_memory, meta_quantizer
from .quantizers import (
    binary,
    mean_abs_scale,
    quantize,
    straight_through,
    ternary,
    uniform,
    unsigned,
)
from .strong_inverse import strong_inverse
from .surrogates import (
    clipped,
    dorefa,
    dorefa_weights,
    error_decay,
    mirror,
    mirror_weights,
    standardised,
)
from .translation_curvature import (
    Translations,
    dense_discrete_flow_step,
    dense_translation_curvature,
    translation_penalty,
)

__all__ = [
    "MetaQuantizer",
    "Translations",
    "binary",
    "clipped",
    "closeness",
    "corrected_gradient",
    "dense_discrete_flow_step",
    "dense_rank_one_metric",
    "dense_translation_curvature",
    "dorefa",
    "dorefa_weights",
    "error_decay",
    "hessian_metric",
    "initial_memory",
    "lne_divergence",
    "lne_natural_gradient",
    "lne_potential",
    "mean_abs_scale",
    "meta_quantizer",
    "mirror",
    "mirror_weights",
    "quantize",
    "rank_one_share",
    "standardised",
    "straight_through",
    "strong_inverse",
    "tau_of_share",
    "ternary",
    "translation_penalty",
    "uniform",
    "unsigned",
]
