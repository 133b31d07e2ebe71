"""Data and training of ``rf_dnn_images``: several seeds and rates at once, or from a stream."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from experiments import _run
from metricflow import data
from metricflow.training import (
    Checkpoints,
    DiscretizedTraining,
    TrainingState,
    load_network,
)

_REFERENCE_BATCHES = 8  # for the statistics of batch normalisation
_STREAM_SIDE = 224
# of ImageNet's training images, as everybody uses them
_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Lane(NamedTuple):
    """One of the networks that are trained side by side.

    Attributes:
        use: "tuning" or "test", whose seeds differ.
        seed: number among those of the same use; the rate does not enter its key.
        rate: latent learning rate.
    """

    use: str
    seed: int
    rate: float


class Source(NamedTuple):
    """Images to train on and to look at.

    Attributes:
        parts: "train", "validation", "test": images and labels on the device, or streams.
        rows: images to train on.
        classes: how many.
        statistics: mean and standard deviation of the channels.
        description: for the record.
    """

    parts: dict[str, Any]
    rows: int
    classes: int
    statistics: tuple[Any, Any]
    description: dict[str, Any]

    @property
    def streamed(self) -> bool:
        """Whether the images do not fit in memory."""
        return isinstance(self.parts["train"], data.ImageStream)


def read(config: Any) -> Source:
    """The data set of a config, split."""
    if config.data == "imagenet":
        return _read_stream(config)
    train, test = data.load(config.data, config.folder, cache=config.cache)
    if config.train_images is not None and config.train_images < len(train.labels):
        train = data.subset(train, config.train_images, config.seed)
    parts = {"train": train, "test": test}
    if config.validation_images:
        parts["train"], parts["validation"] = data.stratified_split(
            train, config.validation_images, config.seed
        )
    if len(parts["train"].labels) < config.batch:
        raise ValueError(
            f"--batch: {config.batch} is more than the {len(parts['train'].labels)} images to "
            "train on"
        )
    return Source(
        {
            name: {"images": jnp.asarray(part.images), "labels": jnp.asarray(part.labels)}
            for name, part in parts.items()
        },
        len(parts["train"].labels),
        len(train.classes),
        data.channel_statistics(parts["train"]),
        {name: len(part.labels) for name, part in parts.items()},
    )


def preparation(
    statistics: tuple[Any, Any], augment: str
) -> Callable[[Array | None, Array], Array]:
    """(key, stored images) -> standardised images, with a key cropped and flipped before."""

    def prepare(key: Array | None, images: Array) -> Array:
        if key is not None and augment == "crop_flip":
            images = data.random_crop_and_flip(key, images)
        return data.standardise(images, *statistics)

    return prepare


def start_from(path: str, models: tuple[str, ...]) -> Any:
    """The variables of a saved network of full precision."""
    variables, about = load_network(path)
    if about.get("model") not in (None, *models):
        raise ValueError(f"--init {path}: holds a {about['model']}, expected a {models[0]}")
    return variables


def train(
    config: Any,
    training: DiscretizedTraining,
    source: Source,
    lanes: list[Lane],
    part: str,
    start: Any,
    folder: Path | None,
) -> tuple[dict[str, np.ndarray], TrainingState]:
    """Curves of all lanes, (lanes, epochs) each, and their last states.

    Args:
        config: of the run.
        training: the network and its rule.
        source: of images.
        lanes: what is trained, ``config.lanes`` at a time.
        part: looked at after every epoch, "validation" or "test".
        start: variables to start from, or None.
        folder: of checkpoints, which are deleted at the end; None for none.

    Returns:
        ``loss`` and ``train_accuracy`` over an epoch, ``top1`` and ``top5`` after it (zero once a
        lane has diverged), and ``failed`` (lanes,).
    """
    run = _run_stream if source.streamed else _run_resident
    curves, states = [], []
    for first in range(0, len(lanes), config.lanes):
        group = lanes[first : first + config.lanes]
        place = None if folder is None else folder / str(first // config.lanes)
        state, history = run(config, training, source, group, part, start, place)
        curves.append(_curves(history, config.epochs, np.asarray(state.failed)))
        states.append(state)
        if curves[-1]["failed"].any():
            bad = [lane for lane, failed in zip(group, curves[-1]["failed"], strict=True) if failed]
            _run.log.warning("%s: diverged: %s", part, ", ".join(map(str, bad)))
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    together = {name: np.concatenate([c[name] for c in curves]) for name in curves[0]}
    return together, jax.tree.map(lambda *x: jnp.concatenate(x), *states)


def reference_images(config: Any, source: Source) -> Array:
    """Training images (batches, n, h, w, c) for the statistics of batch normalisation."""
    if source.streamed:
        batches = min(_REFERENCE_BATCHES, source.rows // config.batch)
        stream = source.parts["train"].batches(config.seed, 0, config.batch)
        return jnp.stack([x.images for x, _ in zip(stream, range(batches), strict=False)])
    images = source.parts["train"]["images"]
    batches = min(_REFERENCE_BATCHES, len(images) // config.batch)
    # stored images may be sorted by class
    order = np.random.default_rng(config.seed).permutation(len(images))
    used = images[order[: batches * config.batch]]
    return used.reshape(batches, config.batch, *images.shape[1:])


def _initial(
    config: Any, training: DiscretizedTraining, group: list[Lane], start: Any, images: Array
) -> TrainingState:
    """States of all lanes; the key of a lane depends on use and seed alone."""
    roots = {"tuning": 1, "test": 2}
    root = jax.random.key(config.seed)
    keys = jnp.stack(
        [jax.random.fold_in(jax.random.fold_in(root, roots[x.use]), x.seed) for x in group]
    )
    rates = jnp.asarray([lane.rate for lane in group], jnp.float32)
    make = jax.vmap(functools.partial(training.init, images=images, variables=start))
    return jax.jit(lambda key, rate: make(key, learning_rate=rate))(keys, rates)


def _run_resident(
    config: Any,
    training: DiscretizedTraining,
    source: Source,
    group: list[Lane],
    part: str,
    start: Any,
    folder: Path | None,
) -> tuple[TrainingState, list[dict]]:
    images = source.parts["train"]
    state = _initial(config, training, group, start, images["images"][:2])
    reference = reference_images(config, source)

    def look(row: dict, state: TrainingState) -> None:
        found = training.evaluate(state, reference, source.parts[part])
        row["evaluation"] = jax.tree.map(lambda x: np.asarray(x).tolist(), found)

    checkpoints = None if folder is None else Checkpoints(folder)
    try:
        return training.run(
            state,
            images,
            config.epochs,
            callback=look,
            progress=True,
            checkpoints=checkpoints,
            steps_a_call=config.steps_a_call,
            throw=False,
        )
    finally:
        if checkpoints is not None:
            checkpoints.close()


def _read_stream(config: Any) -> Source:
    folder = config.folder or "data/imagenet"
    try:
        side = (_STREAM_SIDE, _STREAM_SIDE)
        parts = {
            split: data.ImageStream(folder, name, size=side)
            for split, name in _STREAM_SPLITS.items()
        }
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"imagenet: {error}; put train/CLASS/*.JPEG and val/CLASS/*.JPEG there (from "
            "https://image-net.org, ILSVRC 2012), or give another --folder"
        ) from None
    if len(config.rates) > 1:
        raise ValueError("--rates: one for imagenet, whose training images are not split")
    if len(parts["train"]) < config.batch:
        raise ValueError(f"--batch: {config.batch} is more than the {len(parts['train'])} images")
    return Source(
        parts,
        len(parts["train"]),
        len(parts["train"].classes),
        tuple(np.asarray(x, np.float32) for x in _IMAGENET_STATISTICS),  # type: ignore[arg-type]
        {name: len(part) for name, part in parts.items()},
    )


_STREAM_SPLITS = {"train": "train", "test": "val"}


def _run_stream(
    config: Any,
    training: DiscretizedTraining,
    source: Source,
    group: list[Lane],
    part: str,
    start: Any,
    folder: Path | None,
) -> tuple[TrainingState, list[dict]]:
    """As from memory; all lanes of a group see the same batches."""
    stream = source.parts["train"]
    per_epoch = len(stream) // config.batch
    reference = reference_images(config, source)
    state = _initial(config, training, group, start, reference[0, :2])
    step = jax.jit(jax.vmap(training.step, in_axes=(0, None)))
    history: list[dict] = []
    partial: list[list] = []
    checkpoints = None if folder is None else Checkpoints(folder, seconds=300)
    shape = {"rows": len(stream), "batch_size": config.batch}
    if checkpoints is not None:
        state, history, partial = checkpoints.restore(state, data=shape)
    bar = tqdm(total=config.epochs, initial=len(history), unit="epoch", disable=None)
    while len(history) < config.epochs and not np.all(state.failed):
        epoch = len(history)
        for batch in stream.batches(config.seed, epoch, config.batch, len(partial)):
            if len(partial) == per_epoch:
                break  # the rest of the images fill no batch
            state, info = step(state, batch._asdict())
            partial.append([np.asarray(x).tolist() for x in (info.loss, info.terms["accuracy"])])
            if checkpoints is not None:
                checkpoints.save(state, history, partial, data=shape)
        loss, accuracy = np.mean(partial, axis=0)
        history.append(
            {
                "epoch": epoch + 1,
                "loss": loss.tolist(),
                "terms": {"accuracy": accuracy.tolist()},
                "evaluation": _evaluate_stream(config, training, state, reference, source, part),
            }
        )
        partial = []
        bar.update(1)
        if checkpoints is not None:
            checkpoints.save(state, history, partial, data=shape, force=True)
    bar.close()
    if checkpoints is not None:
        checkpoints.close()
    return state, history


def _evaluate_stream(
    config: Any,
    training: DiscretizedTraining,
    state: TrainingState,
    reference: Array,
    source: Source,
    part: str,
) -> dict[str, list[float]]:
    ready, score = _stream_evaluation(training)
    variables = ready(state.parameters, reference)
    sums: Any = None
    for batch in source.parts[part].batches(config.seed, 0, config.batch):
        found = score(variables, *batch)
        sums = found if sums is None else jax.tree.map(jnp.add, sums, found)
    return jax.tree.map(lambda x: (np.asarray(x) / len(source.parts[part])).tolist(), sums)


@functools.cache
def _stream_evaluation(training: DiscretizedTraining) -> tuple[Any, Any]:
    def ready(parameters: Any, reference: Array) -> Any:
        return training.recalibrated(training.variables(parameters), reference)

    return (
        jax.jit(jax.vmap(ready, in_axes=(0, None))),
        jax.jit(jax.vmap(training.scores, in_axes=(0, None, None))),
    )


def _curves(history: list[dict], epochs: int, failed: np.ndarray) -> dict[str, np.ndarray]:
    def curve(read: Callable[[dict], Any]) -> np.ndarray:
        known = np.array([read(row) for row in history], float).reshape(len(history), len(failed))
        missing = np.full((epochs - len(history), len(failed)), np.nan)
        return np.concatenate([known, missing]).T

    loss = curve(lambda row: row["loss"])
    found = {
        "loss": np.where(np.isfinite(loss), loss, 1e3),
        "train_accuracy": curve(lambda row: row["terms"]["accuracy"]),
        "top1": curve(lambda row: row["evaluation"]["top1"]),
        "top5": curve(lambda row: row["evaluation"]["top5"]),
        "failed": failed,
    }
    # a rate that is too large loses the comparison; it does not end it
    gone = ~np.isfinite(loss)
    for name in ("train_accuracy", "top1", "top5"):
        found[name] = np.where(gone | ~np.isfinite(found[name]), 0.0, found[name])
    return found
