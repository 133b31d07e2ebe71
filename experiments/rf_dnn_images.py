"""Gradient rules on images: the tables of paper RF, and all rules under one recipe.

Every rule, model and bit width gets the same grid of latent learning rates, chosen on a validation
part with seeds of their own; then it is trained once with the test seeds.  With one rate in the
grid nothing is tuned: the recipe of the paper.  Rules share initial weights, batches and
augmentation seed by seed, so that differences to the straight-through estimator are paired.
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

from experiments import _flags, _image_training, _printed_tables, _rules, _run
from metricflow import __version__, data, discretize, optim, processes
from metricflow.discretize import joined, layers, models, pack, tree_bytes
from metricflow.training import DiscretizedTraining, save_network

_SHARES = (0.4, 0.75, 0.95)  # of the training, where the rate drops: 80, 150, 190 of 200 epochs


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run.

    Attributes:
        data: name in :data:`metricflow.data.DATA_SETS`, or "imagenet" for a folder that does not
            fit in memory.
        folder: where its files are; by default where the catalogue looks.
        cache: file for decoded images of a folder.
        models: names in :data:`metricflow.discretize.models.MODELS`.
        rules: names of :data:`metricflow.optim.RULES`, with options as ``name:option=value,...``;
            "full_precision" for weights that are not quantised.
        bits: bit widths of the weights.
        activation_bits: of the inputs of quantised layers; 32 leaves them as they are.
        activation_grid: "signed" (RF 34) or "unsigned" (zero is a level).
        scale: of quantised kernels: "none" (levels in [-1, 1], the paper's), "array", "channel".
        ends: "full" leaves first and last layer in full precision, "quantised" does not.
        train_images: so many images of the training part, stratified; None for all.
        validation_images: held out of the training part.
        seeds: test seeds.
        tuning_seeds: other seeds, for the choice of the learning rate.
        lanes: seeds and rates trained at the same time (vmap).
        rates: grid of latent learning rates; one rate is not tuned.
        rest_rate: learning rate of everything that is not quantised.
        epochs, batch: of training.
        schedule: "steps" (a tenth after .4, .75, .95 of the training) or "cosine".
        momentum, weight_decay: of SGD with Nesterov momentum.
        decay_all: weight decay of everything, not only of the latent kernels.
        last: epochs at the end whose accuracy is averaged.
        augment: "crop_flip" (4 pixels around, flips) or "none".
        precision: of the computation.
        steps_a_call: updates between looks at the clock for a checkpoint; None for an epoch.
        init: a saved network to start from, full precision; None for random weights.
        seed: root seed.
    """

    data: str = "cifar10"
    folder: str | None = None
    cache: str | None = None
    models: tuple[str, ...] = ("small",)
    rules: tuple[str, ...] = ("ste", "lne")
    bits: tuple[int, ...] = (1,)
    activation_bits: int = 32
    activation_grid: str = "signed"
    scale: str = "none"
    ends: str = "full"
    train_images: int | None = None
    validation_images: int = 5000
    seeds: int = 5
    tuning_seeds: int = 1
    lanes: int = 6
    rates: tuple[float, ...] = (0.1,)
    rest_rate: float = 0.1
    epochs: int = 200
    batch: int = 128
    schedule: str = "steps"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_all: bool = True
    last: int = 10
    augment: str = "crop_flip"
    precision: str = "float32"
    steps_a_call: int | None = None
    init: str | None = None
    seed: int = 0


_TABLE = Config(rules=("dorefa", "multi_fc_grad", "rf_dnn", "ste", "lne", _rules.FULL_PRECISION))
_TABLE2 = dataclasses.replace(
    _TABLE,
    data="cifar100",
    rules=("dorefa", "multi_fc_grad", "fc_grad", "rf_dnn", "ste", "lne", _rules.FULL_PRECISION),
)
_IMAGENET = dataclasses.replace(
    _TABLE2,
    data="imagenet",
    epochs=100,
    schedule="cosine",
    weight_decay=1e-4,
    last=5,
    lanes=1,
    augment="none",  # images of a stream are cropped and flipped when they are decoded
    validation_images=0,
)


def _table4(model: str, weights: int, activations: int) -> Config:
    """A row of table 4: from a network of full precision, given by ``--init``."""
    return dataclasses.replace(
        _IMAGENET,
        models=(model,),
        rules=("ste", "rf_dnn"),
        bits=(weights,),
        activation_bits=activations,
        rates=(0.01,),
        rest_rate=0.01,
    )


_BENCH = Config(
    rules=(
        "ste",
        *(name for name in optim.RULES if name not in ("ste", "rf_dnn")),
        "rf_dnn:every=10",
        _rules.FULL_PRECISION,
    ),
    scale="channel",
    train_images=20_000,
    validation_images=10_000,
    tuning_seeds=2,
    rates=(0.1, 1.0, 10.0),
    epochs=8,
    last=2,
    decay_all=False,
)

PRESETS = {
    "bench": _BENCH,
    "table1": dataclasses.replace(_TABLE, models=("resnet20", "resnet32", "resnet44")),
    "table2": dataclasses.replace(_TABLE2, models=("resnet56", "resnet110")),
    "table3": dataclasses.replace(_IMAGENET, models=("resnet18",)),
    "table4_alexnet_w6": _table4("alexnet", 6, 32),
    "table4_resnet18_w1": _table4("resnet18", 1, 32),
    "table4_resnet18_w4a4": _table4("resnet18", 4, 4),
    "table4_resnet50_w8a8": _table4("resnet50", 8, 8),
    "table4_mobilenet_w5a5": _table4("mobilenet", 5, 5),
    "table4_mobilenet_w8a8": _table4("mobilenet", 8, 8),
    "figure6b": dataclasses.replace(
        _TABLE,
        models=("resnet20", "resnet32", "resnet44"),
        rules=("ste", "rf_dnn"),
        bits=(1, 2, 4, 8),
    ),
    "smoke": Config(
        data="digits",
        rules=("ste", "rf_dnn"),
        validation_images=300,
        seeds=2,
        lanes=2,
        rates=(0.03, 0.1),
        epochs=3,
        batch=64,
        last=2,
        augment="none",
    ),
}


def run(config: Config, record: _run.Record | None = None) -> dict:
    """Tune, train and test every rule for every model and bit width."""
    record = record or _run.Record()
    parsed = {spec: _rules.parse_rule(spec) for spec in config.rules}
    source = _image_training.read(config)
    start = None if config.init is None else _image_training.start_from(config.init, config.models)
    found: dict[str, dict] = {}
    for model in config.models:
        found[model] = {}
        for bits in config.bits:
            rows = {}
            for spec, (name, options) in parsed.items():
                training = _training(config, source, model, bits, name, tuple(options.items()))
                label = f"{model}/{bits}/{spec}"
                rows[spec] = _tuned(config, record, label, training, source, start)
            found[model][str(bits)] = _rules.compared(rows)
    return {
        "data": config.data,
        "models": found,
        "images": source.description,
        "seconds": {name: record.seconds(name) for name in ("compile", "total")},
        "versions": {"metricflow": __version__, "jax": jax.__version__, "optax": optax.__version__},
    }


def _tuned(
    config: Config,
    record: _run.Record,
    label: str,
    training: DiscretizedTraining,
    source: _image_training.Source,
    start: Any,
) -> dict:
    """The best latent learning rate on the validation part, and the test with it."""

    def trained(lanes: list[_image_training.Lane], part: str) -> tuple[dict[str, np.ndarray], Any]:
        folder = record.file(f"checkpoints/{label}/{lanes[0].use}")
        return _image_training.train(config, training, source, lanes, part, start, folder)

    rates, best = config.rates, config.rates[0]
    scores: list[list[float]] = []
    if len(rates) > 1:

        def tune() -> dict:
            lanes = [
                _image_training.Lane("tuning", seed, rate)
                for rate in rates
                for seed in range(config.tuning_seeds)
            ]
            curves, _ = trained(lanes, "validation")
            late = curves["top1"][:, -config.last :]
            by_rate = late.mean(axis=1).reshape(len(rates), -1).mean(axis=1)
            return {"tuning": [[r, float(s)] for r, s in zip(rates, by_rate, strict=True)]}

        scores = record.stage(f"{label}/tuning", tune)["tuning"]
        best = max(scores, key=lambda row: row[1])[0]

    def test() -> dict:
        lanes = [_image_training.Lane("test", seed, best) for seed in range(config.seeds)]
        found, states = trained(lanes, "test")
        late = found["top1"][:, -config.last :]
        saved = _save(config, record, label, training, source, states)
        return {
            "accuracy": late.mean(axis=1).tolist(),
            "mean": float(late.mean()),
            "std": float(late.mean(axis=1).std(ddof=1)) if len(late) > 1 else 0.0,
            "std_of_seeds_and_last_epochs": float(late.std()),
            "std_over_last_epochs": float(late.std(axis=1).mean()),
            "top5": float(found["top5"][:, -config.last :].mean()),
            "learning_rate": best,
            "train_loss": found["loss"].mean(axis=0).tolist(),
            "train_curve": found["train_accuracy"].mean(axis=0).tolist(),
            "test_curve": found["top1"].mean(axis=0).tolist(),
            "diverged": int(found["failed"].sum()),
            **saved,
        }

    row = record.stage(f"{label}/test", test)
    edge = len(rates) > 2 and best in (min(rates), max(rates))
    return row | {"tuning": scores, "best_rate_at_the_edge": edge}


def _save(
    config: Config,
    record: _run.Record,
    label: str,
    training: DiscretizedTraining,
    source: _image_training.Source,
    states: Any,
) -> dict:
    """The network of the first seed that did not diverge, full and packed; sizes in bytes."""
    good = np.flatnonzero(~processes.on_host(states.failed))
    if not len(good):
        return {}
    model, bits, spec = label.split("/", 2)
    about = {"model": model, "classes": source.classes, "data": config.data, "rule": spec}
    parameters = jax.tree.map(lambda x: x[good[0]], states.parameters)
    reference = _image_training.reference_images(config, source)
    final = jax.jit(lambda p: training.recalibrated(training.variables(p), reference))(parameters)
    latent = {"params": joined(parameters.latent, parameters.rest), **_statistics(final)}
    kept = record.file(f"networks/{label.replace('/', '_').replace(':', '_')}.npz")
    sizes = {"bytes": tree_bytes(latent)}
    if spec == _rules.FULL_PRECISION:
        if kept is not None:
            save_network(kept, latent, about)
        return sizes
    if int(bits) > 8:
        return sizes
    shown = training.rule(jax.random.key(0), jnp.float32(1)).shown
    kernels = {
        path: pack(
            shown(w),
            int(bits),
            scaled=config.scale != "none",
            axis=-1 if config.scale == "channel" else None,
        )
        for path, w in parameters.latent.items()
    }
    packed = {"params": joined(kernels, parameters.rest), **_statistics(final)}
    if kept is not None:
        save_network(kept, packed, about | {"bits": int(bits)})
    return sizes | {"packed_bytes": tree_bytes(packed)}


def _statistics(variables: dict) -> dict:
    return {name: value for name, value in variables.items() if name != "params"}


def _training(
    config: Config,
    source: _image_training.Source,
    model: str,
    bits: int,
    name: str,
    options: tuple[tuple[str, float | None], ...],
) -> DiscretizedTraining:
    """The network and everything that trains it; the learning rate comes later."""
    steps = config.epochs * (source.rows // config.batch)
    weights = discretize.weight_quantizer(bits, scale=config.scale)
    if name == _rules.FULL_PRECISION:
        name, weights = "ste", lambda w: w
    activations = None
    if config.activation_bits < 32:
        activations = discretize.activation_quantizer(
            config.activation_bits, grid=config.activation_grid
        )
    kept = discretize.ENDS if config.ends == "full" else ()
    # XLA's convolutions are slow inside loops on processors
    patches = layers.convolution_by_patches if jax.default_backend() == "cpu" else None

    def sgd(rate: float | jax.Array, decay: float) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(decay),
            optax.trace(config.momentum, nesterov=True),
            optax.scale_by_schedule(schedule(config, steps)),
            optax.scale(-rate),
        )

    return DiscretizedTraining(
        model=models.classifier(
            model, source.classes, dtype=jnp.dtype(config.precision), convolution=patches
        ),
        policy=discretize.uniform_policy(weights, activations, full_precision=kept),
        rule=lambda key, rate: optim.gradient_rule(
            name, optim.RuleSetting(weights, steps, rate, key), **dict(options)
        ),
        latent_optimiser=functools.partial(sgd, decay=config.weight_decay),
        rest_optimiser=sgd(config.rest_rate, config.weight_decay if config.decay_all else 0.0),
        batch_size=config.batch,
        prepare=_image_training.preparation(source.statistics, config.augment),
    )


def schedule(config: Config, steps: int) -> optax.Schedule:
    """The factor of all learning rates after so many of the ``steps`` updates."""
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(1.0, steps)
    return optax.piecewise_constant_schedule(1.0, {int(x * steps): 0.1 for x in _SHARES})


def draw(result: dict, folder: Path) -> None:
    """A comparison for each model and bit width, and the paper's figures where there is enough."""
    for model, by_bits in result["models"].items():
        for bits, rules in by_bits.items():
            title = f"{result['data']}, {model}, {bits} bit weights"
            _rules.draw_comparison(rules, title, folder / f"rules_{model}_{bits}_bit.png")
    _printed_tables.draw_accuracy_and_spread(result, folder)
    _printed_tables.draw_curves(result, folder)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this experiment."""
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="bench", help="where to start from")
    add("--data", choices=(*data.DATA_SETS, "imagenet"), help="data set")
    add("--folder", help="folder of the data set")
    add("--cache", help="file for the decoded images of a folder")
    add("--models", nargs="+", choices=models.MODELS, help="networks")
    add(
        "--rules",
        nargs="+",
        help=f"{', '.join(optim.RULES)}, {_rules.FULL_PRECISION}; options as rf_dnn:every=10",
    )
    add("--bits", type=_flags.count, nargs="+", help="bit widths of the weights")
    add("--activation-bits", type=_flags.count, help="bit width of activations, 32 for real ones")
    add("--activation-grid", choices=("signed", "unsigned"), help="levels of activations")
    add("--scale", choices=("none", "array", "channel"), help="scale of quantised kernels")
    add("--ends", choices=("full", "quantised"), help="first and last layer")
    add("--train-images", type=_flags.count, help="use so many images of the training part")
    add("--validation-images", type=_flags.whole, help="of them held out")
    add("--seeds", type=_flags.count, help="test seeds")
    add("--tuning-seeds", type=_flags.whole, help="seeds for each rate of the grid")
    add("--lanes", type=_flags.count, help="seeds and rates trained at the same time")
    add(
        "--rates",
        type=_flags.amount,
        nargs="+",
        help="grid of latent learning rates; one: no tuning",
    )
    add("--rest-rate", type=_flags.amount, help="learning rate of everything that is not quantised")
    add("--epochs", type=_flags.count, help="epochs")
    add("--batch", type=_flags.count, help="images in a batch")
    add("--schedule", choices=("steps", "cosine"), help="of the learning rates")
    add("--augment", choices=("crop_flip", "none"), help="of the training images")
    add("--precision", choices=models.DTYPES, help="of the computation")
    add(
        "--steps-a-call",
        type=_flags.count,
        help="updates between checkpoints, an epoch if left out",
    )
    add("--init", help="saved network of full precision to start from")
    add("--seed", type=_flags.whole, help="root seed")


def configure(arguments: argparse.Namespace) -> Config:
    """The config that the flags describe; the straight-through estimator is always in it."""
    config = _run.configured(arguments, PRESETS)
    rules = config.rules if "ste" in config.rules else ("ste", *config.rules)
    config = dataclasses.replace(
        config,
        models=tuple(dict.fromkeys(config.models)),
        rules=tuple(dict.fromkeys(rules)),
        bits=tuple(dict.fromkeys(config.bits)),
        rates=tuple(dict.fromkeys(config.rates)),
        last=min(config.last, config.epochs),
    )
    for spec in config.rules:
        _rules.parse_rule(spec)
    for name in ("seeds", "tuning_seeds", "lanes", "epochs", "batch", "bits", "activation_bits"):
        value = getattr(config, name)
        if min(value if isinstance(value, tuple) else (value,)) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1, got {value}")
    for bits in (*config.bits, config.activation_bits):
        if bits > 16 and bits != 32:
            raise ValueError(f"bits: expected 1 to 16 (activations also 32), got {bits}")
    if not all(0 < rate < float("inf") for rate in (*config.rates, config.rest_rate)):
        raise ValueError(f"--rates: expected numbers above 0, got {config.rates}")
    if len(config.rates) > 1 and config.validation_images < 1:
        raise ValueError("--validation-images: tuning needs some; give one --rates to do without")
    if config.init is not None and len(config.models) > 1:
        raise ValueError(f"--init: fits one model, got {', '.join(config.models)}")
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    return _run.launch(argv, sys.modules[__name__])


if __name__ == "__main__":
    sys.exit(main())
