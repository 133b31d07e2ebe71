"""Discretised networks: quantisers, LNE metrics, and the mathematics of their gradient rules.

Functions of one array of weights; :mod:`metricflow.optim` makes optax transformations of them.
``policy`` says which layers of a network are quantised; :mod:`metricflow.discretize.layers` and
:mod:`metricflow.discretize.models` (Flax, not imported here) are the layers and networks.
"""

from .._front_door import guard
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
from .packing import PackedArray, pack, pack_tree, packed_bytes, tree_bytes, unpack, unpack_tree
from .policy import (
    ENDS,
    FULL_PRECISION,
    Policy,
    Quantization,
    activation_quantizer,
    joined,
    paths,
    quantization,
    quantized_parameters,
    split_kernels,
    uniform_policy,
    weight_quantizer,
)
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
    "ENDS",
    "FULL_PRECISION",
    "MetaQuantizer",
    "PackedArray",
    "Policy",
    "Quantization",
    "Translations",
    "activation_quantizer",
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
    "joined",
    "lne_divergence",
    "lne_natural_gradient",
    "lne_potential",
    "mean_abs_scale",
    "meta_quantizer",
    "mirror",
    "mirror_weights",
    "pack",
    "pack_tree",
    "packed_bytes",
    "paths",
    "quantization",
    "quantize",
    "quantized_parameters",
    "rank_one_share",
    "split_kernels",
    "standardised",
    "straight_through",
    "strong_inverse",
    "tau_of_share",
    "ternary",
    "translation_penalty",
    "tree_bytes",
    "uniform",
    "uniform_policy",
    "unpack",
    "unpack_tree",
    "unsigned",
    "weight_quantizer",
]

# what works on each weight alone keeps NaN where it is
guard(globals(), may_be_nan=("binary", "clipped", "quantize"))
