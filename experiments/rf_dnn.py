"""Gradient rules for discretised networks side by side: one recipe, latent learning rates tuned.

A perceptron with all weights quantised learns the digits of scikit-learn.  Every rule gets the
same grid of latent learning rates, chosen on the validation part with seeds of their own; then it
is trained once with the test seeds, and the test part is read.  Rules share initial weights and
batches seed by seed, so that differences to the straight-through estimator are paired.
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

from experiments import _digits, _flags, _mlp, _rules, _run
from experiments._rules import FULL_PRECISION, compared, parse_rule
from metricflow import __version__, discretize, optim

_REST_RATE = 0.1  # learning rate of gains and biases, the same for all rules


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run.

    Attributes:
        data, model: "digits" and "mlp", the only ones.
        rules: names of :data:`metricflow.optim.RULES`, with options as ``name:option=value,...``;
            "full_precision" for weights that are not quantised.
        bits: bit widths of the weights.
        seeds: test seeds, trained at the same time.
        tuning_seeds: other seeds, for the choice of the learning rate.
        rates: grid of latent learning rates.
        epochs, batch: of training.
        widths: of the hidden layers.
        last: epochs at the end whose accuracy is averaged.
        momentum, weight_decay: of SGD with Nesterov momentum.
        seed: root seed.
    """

    data: str = "digits"
    model: str = "mlp"
    rules: tuple[str, ...] = (
        "ste",
        *(name for name in optim.RULES if name != "ste"),
        FULL_PRECISION,
    )
    bits: tuple[int, ...] = (1,)
    seeds: int = 10
    tuning_seeds: int = 4
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    epochs: int = 60
    batch: int = 64
    widths: tuple[int, ...] = (256, 256)
    last: int = 10
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0

    @property
    def steps(self) -> int:
        """Updates in a training."""
        return self.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return len(_digits.digits()[0].labels) // self.batch


PRESETS = {
    "default": Config(),
    "smoke": Config(
        rules=("ste", "lne"),
        seeds=2,
        tuning_seeds=1,
        rates=(0.03, 0.1),
        epochs=3,
        widths=(32,),
        last=2,
    ),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """Tune and test every rule at every bit width."""
    record = record or _run.Record()
    parsed = {spec: parse_rule(spec) for spec in config.rules}  # errors before the first minute
    by_bits: dict[str, dict] = {}
    total = len(config.bits) * len(parsed) * (len(config.rates) + 1)
    with tqdm(total=total, desc="rf_dnn", disable=None) as bar:
        for bits in config.bits:
            found = {}
            for spec, (name, options) in parsed.items():
                train = _trainer(config, bits, name, tuple(options.items()))
                found[spec] = _tuned(config, record, f"{bits}/{spec}", train, bar)
            by_bits[str(bits)] = compared(found)
    return {
        "data": config.data,
        "model": config.model,
        "rules": by_bits[str(config.bits[0])],
        "by_bits": by_bits,
        "seconds": {name: record.seconds(name) for name in ("compile", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__, "optax": optax.__version__},
    }


def _tuned(config: Config, record: _run.Record, label: str, train: Any, bar: tqdm) -> dict:
    """The best latent learning rate on the validation part, and the test with it."""
    scores = []
    for rate in config.rates:

        def tune(rate: float = rate) -> dict:
            keys = _keys(config, "tuning", config.tuning_seeds)
            curves = train(keys, rate)
            score = np.mean(curves["validation"][:, -config.last :])
            return {"rate": rate, "validation": float(score)}

        scores.append(record.stage(f"{label}/rate/{rate:g}", tune))
        bar.update()
    best = max(scores, key=lambda row: row["validation"])["rate"]

    def test() -> dict:
        curves = train(_keys(config, "test", config.seeds), best)
        late = curves["test"][:, -config.last :]
        return {
            "accuracy": late.mean(axis=1).tolist(),
            "mean": float(late.mean()),
            "std": float(late.mean(axis=1).std(ddof=1)) if len(late) > 1 else 0.0,
            "std_over_last_epochs": float(late.std(axis=1).mean()),
            "learning_rate": best,
            "train_loss": curves["loss"].mean(axis=0).tolist(),
            "test_curve": curves["test"].mean(axis=0).tolist(),
        }

    found = record.stage(f"{label}/test", test)
    bar.update()
    edge = best in (min(config.rates), max(config.rates)) and len(config.rates) > 2
    return found | {
        "tuning": [[row["rate"], row["validation"]] for row in scores],
        "best_rate_at_the_edge": edge,
    }


def _keys(config: Config, use: str, count: int) -> Array:
    root = jax.random.fold_in(jax.random.key(config.seed), {"tuning": 1, "test": 2}[use])
    return jax.random.split(root, count)


@functools.cache
def _trainer(
    config: Config, bits: int, name: str, options: tuple[tuple[str, float | None], ...]
) -> Any:
    """``train(keys, rate)``: curves of all seeds, arrays of shape (seeds, epochs)."""
    train, validation, test = _digits.digits()
    quantizer = functools.partial(discretize.quantize, bits=bits)
    if name == FULL_PRECISION:
        name, quantizer = "ste", lambda w: w  # type: ignore[assignment]
    boundaries = {int(share * config.steps): 0.1 for share in (0.4, 0.75, 0.95)}

    def one_seed(key: Array, rate: Array) -> dict[str, Array]:
        init_key, rule_key, order_key = jax.random.split(key, 3)
        setting = optim.RuleSetting(quantizer, config.steps, rate, rule_key)
        rule = optim.gradient_rule(name, setting, **dict(options))

        def sgd(learning_rate: Array | float) -> optax.GradientTransformation:
            # the schedule of the paper, in shares of the training: 80, 150, 190 of 200 epochs
            schedule = optax.piecewise_constant_schedule(1.0, boundaries)
            return optax.chain(
                optax.trace(config.momentum, nesterov=True),
                optax.scale_by_schedule(schedule),
                optax.scale(-learning_rate),
            )

        decayed = optax.chain(optax.add_decayed_weights(config.weight_decay), sgd(rate))
        latent_optimizer = optax.with_extra_args_support(rule.wrap(decayed))
        rest_optimizer = sgd(_REST_RATE)
        net = _mlp.network(init_key, (_digits.SIDE**2, *config.widths, _digits.CLASSES))

        def step(state: tuple, batch: tuple[Array, Array]) -> tuple[tuple, Array]:
            latent, rest, latent_state, rest_state, count = state
            images, labels = batch

            def loss(weights: Any, rest: Any, images: Array) -> Array:
                return _mlp.cross_entropy(_mlp.logits(weights, rest, images), labels)

            def seen(latent: Any) -> Any:
                return jax.tree.map(lambda w: rule.training_weights(w, count), latent)

            def translated(latent: Any, rows: int, columns: int) -> Any:
                moved = _digits.translate(images, rows, columns)
                return jax.grad(loss)(seen(latent), rest, moved)

            value, (slope, rest_slope) = jax.value_and_grad(loss, argnums=(0, 1))(
                seen(latent), rest, images
            )
            moved, latent_state = latent_optimizer.update(
                slope, latent_state, latent, translated_gradient=translated
            )
            rest_moved, rest_state = rest_optimizer.update(rest_slope, rest_state, rest)
            latent, rest = optax.apply_updates((latent, rest), (moved, rest_moved))
            return (latent, rest, latent_state, rest_state, count + 1), value

        def epoch(state: tuple, key: Array) -> tuple[tuple, dict[str, Array]]:
            used = config.steps_per_epoch * config.batch
            order = jax.random.permutation(key, len(train.labels))[:used]
            order = order.reshape(config.steps_per_epoch, config.batch)
            state, losses = jax.lax.scan(step, state, (train.images[order], train.labels[order]))
            weights = jax.tree.map(rule.weights, state[0])
            scores = {
                part: _mlp.accuracy(
                    _mlp.logits(weights, state[1], split.images, reference=train.images),
                    split.labels,
                )
                for part, split in (("validation", validation), ("test", test))
            }
            return state, {"loss": jnp.mean(losses), **scores}

        start = (
            net.latent,
            net.rest,
            latent_optimizer.init(net.latent),
            rest_optimizer.init(net.rest),
            jnp.zeros((), jnp.int32),
        )
        return jax.lax.scan(epoch, start, jax.random.split(order_key, config.epochs))[1]

    compiled = jax.jit(jax.vmap(one_seed, in_axes=(0, None)))

    def trained(keys: Array, rate: float) -> dict[str, np.ndarray]:
        curves = jax.tree.map(np.asarray, compiled(keys, jnp.float32(rate)))
        if not np.all(np.isfinite(curves["loss"])):
            # a rate that is too large loses the comparison; it does not end it
            bad = ~np.isfinite(curves["loss"]).all(axis=1)
            _run.log.warning("%s, rate %g: %d seeds diverged", name, rate, bad.sum())
            curves["loss"] = np.nan_to_num(curves["loss"], nan=1e3, posinf=1e3)
        return curves

    return trained


def draw(result: dict, folder: Path) -> None:
    """Accuracy with paired intervals, tuning curves, training curves: a figure a bit width."""
    for bits, rules in result["by_bits"].items():
        title = f"{result['data']}, {result['model']}, {bits} bit weights"
        _rules.draw_comparison(rules, title, folder / f"rules_{bits}_bit.png")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="default", help="where to start from")
    add("--data", choices=("digits",), help="data set")
    add("--model", choices=("mlp",), help="network")
    add(
        "--rules",
        nargs="+",
        help=f"{', '.join(optim.RULES)}, {FULL_PRECISION}; options as lne:q=.1",
    )
    add("--bits", type=_flags.count, nargs="+", help="bit widths of the weights")
    add("--seeds", type=_flags.count, help="test seeds")
    add("--epochs", type=_flags.count, help="epochs")
    add("--rates", type=_flags.amount, nargs="+", help="grid of latent learning rates")
    add("--widths", type=_flags.count, nargs="+", help="hidden layers")
    add("--seed", type=_flags.whole, help="root seed")


def configure(arguments: argparse.Namespace) -> Config:
    """The config that the flags describe; the straight-through estimator is always in it."""
    names = ("data", "model", "rules", "bits", "seeds", "epochs", "rates", "widths", "seed")
    given = {k: getattr(arguments, k) for k in names if getattr(arguments, k) is not None}
    for name in ("rules", "bits", "rates", "widths"):
        if name in given:
            given[name] = tuple(dict.fromkeys(given[name]))
    if "rules" in given and "ste" not in given["rules"]:
        given["rules"] = ("ste", *given["rules"])
    config = dataclasses.replace(PRESETS[arguments.preset], **given)
    for spec in config.rules:
        parse_rule(spec)
    for name in ("seeds", "epochs", "bits", "widths"):
        value = getattr(config, name)
        if min(value if isinstance(value, tuple) else (value,)) < 1:
            raise ValueError(f"--{name}: expected at least 1, got {value}")
    if not all(0 < rate < float("inf") for rate in config.rates):
        raise ValueError(f"--rates: expected numbers above 0, got {config.rates}")
    return dataclasses.replace(config, last=min(config.last, config.epochs))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
