"""Calls of metricflow.discretize."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metricflow import discretize as Q  # noqa: N812
from tests.robustness.calls.call import Call, call, numbers, on_symmetric

TREE = {"stem": {"kernel": 0}, "block": {"kernel": 1, "bias": 2}}


def weights() -> jax.Array:
    return numbers(1, 4, 3)


def origin() -> jax.Array:
    return numbers(2, 4, 3)


def tau() -> jax.Array:
    return jnp.float64(0.05)


def steps(function: Callable) -> Callable[[], Call]:
    """A quantiser: its derivative is zero where it has one."""
    return lambda: call(function, weights(), grad="step")


def smooth(function: Callable, *more: Callable) -> Callable[[], Call]:
    return lambda: call(function, weights(), *[make() for make in more])


def surrogate(function: Callable, *more: Callable) -> Callable[[], Call]:
    """The derivative that stands for a quantiser's is not that of its values."""
    return lambda: call(function, weights(), *[make() for make in more], grad="surrogate")


def of_kind(kind: str) -> tuple:
    network = Q.meta_quantizer(jax.random.key(2), kind, 3)  # type: ignore[arg-type]
    memory = Q.initial_memory(kind, 3, weights())  # type: ignore[arg-type]
    return jax.tree.map(lambda x: x.astype(float), (network, memory))


def corrected(network: Q.MetaQuantizer, g: jax.Array, w: jax.Array, memory: jax.Array) -> tuple:
    return Q.corrected_gradient("lstm", network, g, w, memory)


def metric() -> jax.Array:
    a = numbers(3, 3, 3, scale=0.1)
    return jnp.eye(3) + a @ a.T


CALLS: dict[str, Callable[[], Call]] = {
    "MetaQuantizer": lambda: call(
        corrected, of_kind("lstm")[0], weights(), origin(), of_kind("lstm")[1]
    ),
    "activation_quantizer": steps(lambda x: Q.activation_quantizer(2)(x)),
    "binary": steps(Q.binary),
    "clipped": surrogate(lambda w: Q.clipped(w, 0.8)),
    "closeness": smooth(Q.closeness, origin, tau),
    "corrected_gradient": lambda: call(
        corrected, of_kind("lstm")[0], weights(), origin(), of_kind("lstm")[1]
    ),
    "dense_discrete_flow_step": lambda: call(
        lambda m: Q.dense_discrete_flow_step(m, 0.05), numbers(1, 4, 3, 2)
    ),
    "dense_rank_one_metric": smooth(Q.dense_rank_one_metric, tau),
    "dense_translation_curvature": lambda: call(
        lambda m: Q.dense_translation_curvature(m, 0.05), numbers(1, 4, 3, 2)
    ),
    "dorefa": smooth(Q.dorefa),
    "dorefa_weights": smooth(Q.dorefa_weights),
    "error_decay": surrogate(Q.error_decay, lambda: jnp.float64(1.5)),
    "hessian_metric": smooth(Q.hessian_metric, tau),
    "initial_memory": lambda: call(
        lambda w: Q.initial_memory("lstm", 3, w), weights(), grad="constant", dtype="single"
    ),
    "lne_divergence": smooth(Q.lne_divergence, origin, tau),
    "lne_natural_gradient": smooth(Q.lne_natural_gradient, origin, tau),
    "lne_potential": smooth(Q.lne_potential, tau),
    "mean_abs_scale": smooth(lambda w: Q.mean_abs_scale(w, axis=1)),
    "meta_quantizer": lambda: call(
        lambda key: Q.meta_quantizer(key, "lstm", 3),
        jax.random.key(0),
        grad="random",
        dtype="single",
    ),
    "mirror": smooth(Q.mirror, lambda: jnp.float64(1.5)),
    "mirror_weights": smooth(Q.mirror_weights, lambda: jnp.float64(1.5)),
    "pack": lambda: call(lambda w: Q.unpack(Q.pack(w, 2)), weights(), grad="step", dtype="single"),
    "pack_tree": lambda: call(
        lambda w: Q.pack_tree({"a": w, "b": w}, lambda path: "a" in path, 3),
        weights(),
        grad="step",
        dtype="single",
    ),
    "quantize": steps(lambda w: Q.quantize(w, 2, scaled=True)),
    "quantized_parameters": lambda: call(
        lambda w: Q.quantized_parameters(
            {"block": {"kernel": w, "bias": w[0]}}, Q.uniform_policy(Q.weight_quantizer(2))
        ),
        weights(),
        grad="surrogate",
    ),
    "rank_one_share": smooth(Q.rank_one_share, tau),
    "split_kernels": lambda: call(
        lambda w: Q.split_kernels(
            {"block": {"kernel": w, "bias": w[0]}}, Q.uniform_policy(Q.weight_quantizer(2))
        ),
        weights(),
    ),
    "joined": lambda: call(lambda w: Q.joined({"a/b": w}, {"a/c": w[0]}), weights()),
    "paths": lambda: call(lambda w: Q.paths({"a": {"b": w, "c": w[0]}}), weights()),
    "standardised": smooth(Q.standardised),
    "straight_through": surrogate(Q.straight_through(Q.binary)),
    "strong_inverse": lambda: call(
        on_symmetric(lambda g: Q.strong_inverse(jax.random.key(0), g, steps=5, width=4)),
        metric(),
        single="random",
        hidden="random",
        grad="fit",
    ),
    "tau_of_share": lambda: call(Q.tau_of_share, weights(), jnp.float64(0.4), grad="loop"),
    "ternary": steps(Q.ternary),
    "translation_penalty": lambda: call(
        lambda w, d, t: Q.translation_penalty(w, d, t),
        numbers(1, 4, 2),
        numbers(2, 5, 4, 2, scale=0.1),
        tau(),
    ),
    "uniform": steps(lambda w: Q.uniform(w, 3)),
    "unpack": lambda: call(
        lambda w: Q.unpack(Q.pack(w, 4, axis=1)), weights(), grad="step", dtype="single"
    ),
    "unpack_tree": lambda: call(
        lambda w: Q.unpack_tree(Q.pack_tree({"a": w, "b": w}, lambda path: "a" in path, 3)),
        weights(),
        grad="step",
        dtype="single",
    ),
    "unsigned": steps(lambda w: Q.unsigned(w, 2)),
    "weight_quantizer": surrogate(lambda w: Q.weight_quantizer(2)(w)),
}

NOT_APPLICABLE = {
    "ENDS": "constant",
    "FULL_PRECISION": "constant",
    "PackedArray": "record",
    "Policy": "type",
    "Quantization": "record",
    "Translations": "record",
    "packed_bytes": "host",
    "quantization": "host",
    "tree_bytes": "host",
    "uniform_policy": "host",
}
