"""What gradient rules do to the gradient mismatch: angles to finite differences of the loss.

The loss of a network with binary weights has differences, no derivative: D_i, half the change of
the loss as weight i goes from -1 to +1.  dL/dQ(w) is its first-order estimate (zero mismatch would
be D = dL/dQ).  Averaging the loss over a box of half-width h around the latent weights, one weight
at a time, has the derivative D_i / h where |w_i| < h, else zero: a direction of descent in w.
Both are compared with what every rule makes of dL/dQ(w), in the course of one training by the
straight-through estimator, with and without batch normalisation.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from tqdm import tqdm

from experiments import _digits, _flags, _mlp, _run
from metricflow import __version__, discretize, optim


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run.

    Attributes:
        widths: of the hidden layers.
        probes: weights of each layer whose differences are computed, drawn at random.
        epochs: after which measurements are taken, increasing from 0.
        q: of the LNE metrics.
        seeds: trainings with their own initial weights and probes.
        rate: latent learning rate.
        batch: of training.
        box: half-width h in units of the mean absolute weight of the layer.
        seed: root seed.
    """

    widths: tuple[int, ...] = (256, 256)
    probes: int = 400
    epochs: tuple[int, ...] = (0, 1, 3, 10, 30)
    q: float = 0.5
    seeds: int = 3
    rate: float = 0.3
    batch: int = 64
    box: float = 1.0
    seed: int = 0


PRESETS = {
    "default": Config(),
    "smoke": Config(widths=(16,), probes=20, epochs=(0, 1), seeds=1),
}
_ELEMENTWISE = {
    "ste": optim.ste_gradient(),
    "clipped ste": optim.ste_gradient(1.0),
    "dorefa": optim.dorefa_gradient(),
    "irnet, slope 1": optim.irnet_gradient(1.0),
    "irnet, slope 10": optim.irnet_gradient(10.0),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """Angles of every rule, layer by layer, with and without batch normalisation."""
    record = record or _run.Record()
    rows: list[dict] = []
    total = 2 * config.seeds
    with tqdm(total=total, desc="gradient_mismatch", disable=None) as bar:
        for batch_norm in (True, False):
            for seed in range(config.seeds):

                def measured(batch_norm: bool = batch_norm, seed: int = seed) -> dict:
                    return {"rows": _training(config, batch_norm, seed)}

                kind = "batch_norm" if batch_norm else "plain"
                found = record.stage(f"{kind}/{seed}", measured)["rows"]
                rows += [row | {"batch_norm": batch_norm, "seed": seed} for row in found]
                bar.update()
    return {
        "rows": rows,
        "rules": _rule_names(),
        "q": config.q,
        "seconds": {name: record.seconds(name) for name in ("compile", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__, "optax": optax.__version__},
    }


def _rules(q: float) -> dict[str, optax.GradientTransformation]:
    lne = {
        f"lne {inverse}": optim.lne_gradient(q=q, inverse=inverse)
        for inverse in ("exact", "weak", "hessian")
    }
    return {**_ELEMENTWISE, **lne}


def _rule_names() -> list[str]:
    return list(_rules(0.5))


def _training(config: Config, batch_norm: bool, seed: int) -> list[dict]:
    train, _, test = _digits.digits()
    key = jax.random.fold_in(jax.random.key(config.seed), seed)
    init_key, probe_key, order_key = jax.random.split(key, 3)
    net = _mlp.network(init_key, (_digits.SIDE**2, *config.widths, _digits.CLASSES))
    apply = functools.partial(_mlp.logits, batch_norm=batch_norm)

    def loss(weights: Any, rest: Any, images: Array, labels: Array) -> Array:
        return _mlp.cross_entropy(apply(weights, rest, images), labels)

    # without normalisation gains would have to undo the growth of the sums: Adam for all
    optimizer = optax.adam(1e-3 if not batch_norm else 1e-2)
    latent_optimizer = optax.sgd(config.rate, momentum=0.9) if batch_norm else optax.adam(1e-3)

    @jax.jit
    def epoch(state: tuple, key: Array) -> tuple:
        steps = len(train.labels) // config.batch
        order = jax.random.permutation(key, len(train.labels))[: steps * config.batch]

        def step(state: tuple, rows: Array) -> tuple[tuple, None]:
            latent, rest, latent_state, rest_state = state
            seen = jax.tree.map(discretize.binary, latent)
            slope, rest_slope = jax.grad(loss, argnums=(0, 1))(
                seen, rest, train.images[rows], train.labels[rows]
            )
            moved, latent_state = latent_optimizer.update(slope, latent_state, latent)
            rest_moved, rest_state = optimizer.update(rest_slope, rest_state, rest)
            latent, rest = optax.apply_updates((latent, rest), (moved, rest_moved))
            return (latent, rest, latent_state, rest_state), None

        return jax.lax.scan(step, state, order.reshape(steps, config.batch))[0]

    @jax.jit
    def test_accuracy(latent: Any, rest: Any) -> Array:
        weights = jax.tree.map(discretize.binary, latent)
        outputs = apply(weights, rest, test.images, reference=train.images)
        return _mlp.accuracy(outputs, test.labels)

    measure = jax.jit(functools.partial(_measured, config, loss, train))
    state = (
        net.latent,
        net.rest,
        latent_optimizer.init(net.latent),
        optimizer.init(net.rest),
    )
    rows, before = [], net.latent
    for number in range(max(config.epochs) + 1):
        if number in config.epochs:
            probes = jax.random.fold_in(probe_key, number)
            layers = jax.tree.map(np.asarray, measure(probes, state[0], state[1], before))
            accuracy = float(test_accuracy(state[0], state[1]))
            rows += [
                {"epoch": number, "layer": i, "test_accuracy": accuracy, **_plain(found)}
                for i, found in enumerate(layers)
            ]
        before = state[0]
        state = epoch(state, jax.random.fold_in(order_key, number))
    return rows


def _measured(
    config: Config,
    loss: Any,
    train: _digits.Split,
    key: Array,
    latent: tuple[Array, ...],
    rest: Any,
    before: tuple[Array, ...],
) -> list[dict]:
    """Every layer: cosines of all rules with both differences, and of the LNE correction with w."""
    seen = jax.tree.map(discretize.binary, latent)
    whole = functools.partial(loss, images=train.images, labels=train.labels)
    slope = jax.grad(lambda weights: whole(weights, rest))(seen)
    directions = {
        name: rule.update(slope, rule.init(latent), latent)[0]
        for name, rule in _rules(config.q).items()
    }
    found = []
    for i, (w, g) in enumerate(zip(latent, slope, strict=True)):
        probes = jax.random.permutation(jax.random.fold_in(key, i), w.size)[: config.probes]

        def at(value: float, index: Array, i: int = i) -> Array:
            moved = seen[i].reshape(-1).at[index].set(value).reshape(seen[i].shape)
            return whole((*seen[:i], moved, *seen[i + 1 :]), rest)

        difference = jax.lax.map(lambda k, at=at: (at(1.0, k) - at(-1.0, k)) / 2, probes)
        inside = jnp.abs(w.reshape(-1)[probes]) < config.box * jnp.mean(jnp.abs(w))
        smooth = jnp.where(inside, difference, 0)
        tau = discretize.tau_of_share(w, config.q)
        correction = directions["lne exact"][i] - g
        row: dict[str, Any] = {
            "mismatch": jnp.linalg.norm(g.reshape(-1)[probes] - difference)
            / jnp.linalg.norm(difference),
            "radial": jnp.sum(seen[i] * g) / (jnp.linalg.norm(seen[i]) * jnp.linalg.norm(g)),
            "cos_correction_w": _cosine(correction, w),
            "cos_tangent_w": _cosine(jnp.tanh(tau * w), w),
            "share_of_correction": jnp.linalg.norm(correction) / jnp.linalg.norm(g),
            "closeness_in_an_epoch": discretize.closeness(w, before[i], tau),
            "tau": tau,
        }
        for name, direction in directions.items():
            part = direction[i].reshape(-1)[probes]
            row[f"difference/{name}"] = _cosine(part, difference)
            row[f"smooth/{name}"] = _cosine(part, smooth)
        found.append(row)
    return found


def _cosine(a: Array, b: Array) -> Array:
    size = jnp.linalg.norm(a) * jnp.linalg.norm(b)
    return jnp.sum(a * b) / jnp.where(size == 0, 1, size)


def _plain(row: dict) -> dict:
    return {k: float(v) for k, v in row.items()}


def draw(result: dict, folder: Path) -> None:
    """Cosines of the rules with the differences, and of the LNE correction with the weights."""
    import matplotlib.pyplot as plt

    rows = result["rows"]
    epochs = sorted({row["epoch"] for row in rows})
    layers = sorted({row["layer"] for row in rows})
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained", sharex=True)
    place = np.arange(len(epochs))

    def mean(batch_norm: bool, key: str, layer: int | None = None) -> np.ndarray:
        return np.array(
            [
                np.mean(
                    [
                        abs(row[key])
                        for row in rows
                        if row["epoch"] == e
                        and row["batch_norm"] == batch_norm
                        and layer in (None, row["layer"])
                    ]
                )
                for e in epochs
            ]
        )

    for line, batch_norm in zip(axes, (True, False), strict=True):
        for axis, kind, title in (
            (line[0], "difference", "cosine with the differences D"),
            (line[1], "smooth", "cosine with the slope of the smoothed loss"),
        ):
            for name in result["rules"]:
                axis.plot(place, mean(batch_norm, f"{kind}/{name}"), "o-", ms=3, label=name)
            axis.set_title(title, fontsize=10)
            axis.set_ylim(top=1.03)
        for layer in layers:
            radial = mean(batch_norm, "cos_correction_w", layer)
            line[2].plot(place, radial, "o-", ms=3, label=f"|cos(correction, w)|, layer {layer}")
            line[2].plot(
                place,
                mean(batch_norm, "share_of_correction", layer),
                "s:",
                ms=3,
                label=f"|correction| / |dL/dQ|, layer {layer}",
            )
        line[2].set_title(f"what the exact LNE metric adds, q = {result['q']:g}", fontsize=10)
        line[0].set_ylabel("with batch normalisation" if batch_norm else "without")
        for axis in line:
            axis.set_xticks(place, [str(e) for e in epochs])
            axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("epoch")
    axes[0][0].legend(frameon=False, fontsize=7)
    axes[0][2].legend(frameon=False, fontsize=7)
    _run.save_figure(figure, folder / "mismatch.png")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    parser.add_argument("--preset", choices=PRESETS, default="default", help="where to start from")
    parser.add_argument("--q", type=_flags.amount, help="of the LNE metrics, in (0, 1)")
    parser.add_argument("--probes", type=_flags.count, help="weights of each layer to flip")
    parser.add_argument("--seeds", type=_flags.count, help="trainings")
    parser.add_argument("--seed", type=_flags.whole, help="root seed")


def configure(arguments: argparse.Namespace) -> Config:
    """The config that the flags describe."""
    names = ("q", "probes", "seeds", "seed")
    given = {k: getattr(arguments, k) for k in names if getattr(arguments, k) is not None}
    config = dataclasses.replace(PRESETS[arguments.preset], **given)
    if min(config.probes, config.seeds) < 1:
        raise ValueError(
            f"--probes, --seeds: expected at least 1, got {config.probes}, {config.seeds}"
        )
    _rules(config.q)
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
