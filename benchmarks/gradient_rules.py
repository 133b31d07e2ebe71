"""Gradient rules on the parameters of ResNet18, the translation penalty, and a 1-bit layer."""

import importlib.metadata
import importlib.util

import jax
import jax.numpy as jnp
import optax

from benchmarks._timing import compare
from metricflow import discretize, optim

SIDE = 64  # channels of the first stage of ResNet18
PENALTY = 2_400_000  # weights of the largest layer


def resnet18_shapes(side: int = SIDE) -> list[tuple[int, ...]]:
    """Kernels (height, width, in, out), batch norms and the classifier; 11.7 million at 64."""
    shapes: list[tuple[int, ...]] = [(7, 7, 3, side), (side,), (side,)]
    before = side
    for stage in range(4):
        width = side * 2**stage
        for block in range(2):
            shapes += [(3, 3, before, width), (3, 3, width, width), *[(width,)] * 4]
            if block == 0 and before != width:
                shapes += [(1, 1, before, width), (width,), (width,)]
            before = width
    return [*shapes, (before, 1000), (1000,)]


def rows(side: int = SIDE) -> list[dict]:
    """LNE links and the penalty against plain SGD and what they have to read and write."""
    keys = jax.random.split(jax.random.key(0), len(resnet18_shapes(side)))
    params = [
        jax.random.normal(k, shape, jnp.float32) * 0.05
        for k, shape in zip(keys, resnet18_shapes(side), strict=True)
    ]
    grads = [0.1 * x for x in params]
    count = sum(x.size for x in params)

    def updater(optimizer: optax.GradientTransformation) -> object:
        state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        return lambda: update(grads, state, params)

    plain = updater(optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9)))
    copy = jax.jit(lambda g, w: [x + y for x, y in zip(g, w, strict=True)])
    peers = {
        "SGD, momentum and weight decay": plain,
        "memory bound: read gradient and weight once, write once": lambda: copy(grads, params),
    }
    found = [
        compare(f"{name}, {count / 1e6:.1f} million parameters", updater(link), peers)  # type: ignore[arg-type]
        for name, link in (
            ("lne_gradient(q=.5)", optim.lne_gradient(q=0.5)),
            ("lne_gradient(tau=.01)", optim.lne_gradient(0.01)),
            ("lne_gradient(q=.5, inverse=hessian)", optim.lne_gradient(q=0.5, inverse="hessian")),
        )
    ]
    return [*found, _penalty(PENALTY * side // SIDE), _one_bit_layer()]


def _penalty(n: int) -> dict:
    first, second = jax.random.split(jax.random.key(1))
    w = jax.random.normal(first, (n,), jnp.float32) * 0.05
    moves = 1e-5 * jax.random.normal(second, (5, n), jnp.float32)
    penalty = jax.jit(lambda w, d: discretize.translation_penalty(w, d, 0.01))
    slope = jax.jit(jax.grad(lambda w, d: discretize.translation_penalty(w, d, 0.01)))
    read = jax.jit(lambda w, d: (jnp.max(w), jnp.max(d)))
    return compare(
        f"translation penalty, {n} weights",
        lambda: penalty(w, moves),
        {
            "reading its input once": lambda: read(w, moves),
            "its gradient": lambda: slope(w, moves),
        },
    )


def _one_bit_layer() -> dict:
    """A 1-bit dense layer: the size of its outputs and of its gradient, ours and qwix's."""
    x = jax.random.normal(jax.random.key(2), (64, 128), jnp.float32)
    w = jax.random.normal(jax.random.key(3), (128, 32), jnp.float32)
    binary = discretize.straight_through(discretize.binary)
    ours = jax.jit(jax.value_and_grad(lambda w: jnp.mean((x @ binary(w)) ** 2)))
    row = compare("1-bit dense layer, value and gradient", lambda: ours(w), {})
    value, slope = ours(w)
    row["values"] = {"ours": _sizes(value, slope)}
    if importlib.util.find_spec("qwix") is None:
        row["values"]["qwix"] = "not installed: pip install qwix==0.1.8"
        return row
    import flax.linen as nn
    import qwix  # type: ignore[import-not-found]

    rule = qwix.QtRule(module_path=".*", weight_qtype="int1", act_qtype=None, bwd_qtype=None)
    model = qwix.quantize_model(nn.Dense(32, use_bias=False), qwix.QtProvider([rule]))
    params = {"params": {"kernel": w}}
    theirs = jax.value_and_grad(lambda p: jnp.mean(model.apply(p, x) ** 2))
    value, slope = theirs(params)
    row["values"][f"qwix {importlib.metadata.version('qwix')} int1"] = _sizes(
        value, slope["params"]["kernel"]
    )
    return row


def _sizes(value: jax.Array, slope: jax.Array) -> dict[str, float]:
    return {"mean square output": float(value), "largest gradient": float(jnp.abs(slope).max())}
