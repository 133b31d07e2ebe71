"""Gradient rules on images: every preset, resume, streams, wrong flags."""

import argparse
import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import _image_training, _printed_tables, _run, rf_dnn_images
from metricflow import discretize, optim
from metricflow.data import ImageSet
from metricflow.training import load_network
from tests.data import files

TINY = dataclasses.replace(
    rf_dnn_images.PRESETS["smoke"],
    rules=("ste", "lne"),
    train_images=500,
    rates=(0.1,),
    epochs=2,
    last=1,
)


def folder_of_images(folder, classes=3, count=10, size=40):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(classes):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (size, size, 3)) + 80 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.jpeg")
    return folder


def config_of(*flags):
    parser = argparse.ArgumentParser()
    rf_dnn_images.add_flags(parser)
    return rf_dnn_images.configure(parser.parse_args(list(flags)))


def test_the_command_tunes_trains_exports_and_resumes(tmp_path):
    flags = ["--preset", "smoke", "--rules", "ste", "full_precision", "--out", str(tmp_path)]
    assert rf_dnn_images.main(flags) == 0
    folder = tmp_path / "rf_dnn_images" / "smoke"
    result = json.loads((folder / "result.json").read_text())
    rows = result["models"]["small"]["1"]
    assert result["images"] == {"train": 1137, "validation": 300, "test": 360}
    for row in rows.values():
        assert row["mean"] > 0.7
        assert len(row["accuracy"]) == 2
        assert len(row["test_curve"]) == len(row["train_curve"]) == 3
        assert [rate for rate, _ in row["tuning"]] == [0.03, 0.1]
        best = max(row["tuning"], key=lambda pair: pair[1])[0]
        assert row["learning_rate"] == best
        assert row["mean"] <= row["top5"] <= 1
    assert rows["ste"]["packed_bytes"] < rows["ste"]["bytes"] / 8
    assert not list((folder / "checkpoints").rglob("*.json"))
    for name in ("rules_small_1_bit", "accuracy_and_spread", "training_curves"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000
    before = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text("".join(before.splitlines(keepends=True)[:-1]))
    assert rf_dnn_images.main([*flags, "--resume"]) == 0
    again = json.loads((folder / "result.json").read_text())
    assert again["models"] == result["models"]
    variables, about = load_network(folder / "networks" / "small_1_ste.npz")
    assert about == {"model": "small", "classes": 10, "data": "digits", "rule": "ste", "bits": 1}
    kernel = variables["params"]["conv2"]["kernel"]
    assert len(np.unique(np.abs(kernel))) <= 2  # one bit, no scale
    start = str(folder / "networks" / "small_1_full_precision.npz")
    begun = _image_training.start_from(start, ("small",))
    assert np.isfinite(begun["params"]["conv2"]["kernel"]).all()
    with pytest.raises(ValueError, match=r"--init .*: holds a small, expected a resnet20"):
        _image_training.start_from(start, ("resnet20",))


class KilledError(Exception):
    pass


def test_a_training_that_is_cut_off_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    config = dataclasses.replace(TINY, rules=("ste",), epochs=3)
    whole = rf_dnn_images.run(config, _run.Record())["models"]
    monkeypatch.setattr(_image_training, "Checkpoints", lambda folder: Eager(folder, seconds=0))
    evaluate = rf_dnn_images.DiscretizedTraining.evaluate
    calls = []

    def dying(self, *args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KilledError
        return evaluate(self, *args, **options)

    monkeypatch.setattr(rf_dnn_images.DiscretizedTraining, "evaluate", dying)
    with pytest.raises(KilledError):
        rf_dnn_images.run(config, _run.Record(tmp_path))
    assert list(tmp_path.rglob("checkpoints/small/1/ste/test/0/*"))
    found = rf_dnn_images.run(config, _run.Record(tmp_path))["models"]
    # two epochs were evaluated before, the third is evaluated again
    assert len(calls) == 4
    assert found == whole


Eager = _image_training.Checkpoints


def test_lanes_in_groups_are_the_same_networks():
    config = dataclasses.replace(TINY, seeds=3, lanes=2, rules=("ste",))
    groups = rf_dnn_images.run(config)["models"]["small"]["1"]["ste"]
    whole = rf_dnn_images.run(dataclasses.replace(config, lanes=3))["models"]["small"]["1"]["ste"]
    np.testing.assert_allclose(groups["accuracy"], whole["accuracy"], atol=0.02)
    np.testing.assert_allclose(groups["train_loss"], whole["train_loss"], rtol=1e-3)


def test_seeds_are_paired_and_tuning_has_others():
    source = _image_training.read(TINY)
    images = source.parts["train"]["images"][:2]
    states = []
    for rule in ("ste", "dorefa"):
        training = rf_dnn_images._training(TINY, source, "small", 1, rule, ())
        for use in ("test", "tuning"):
            lanes = [_image_training.Lane(use, 0, rate) for rate in (0.1, 0.3)]
            states.append(_image_training._initial(TINY, training, lanes, None, images))
    kernels = [np.asarray(s.parameters.latent["conv2/kernel"]) for s in states]
    np.testing.assert_array_equal(kernels[0], kernels[2])
    np.testing.assert_array_equal(kernels[0][0], kernels[0][1])
    assert np.max(np.abs(kernels[0] - kernels[1])) > 0.1
    np.testing.assert_array_equal(
        jax.random.key_data(states[0].key), jax.random.key_data(states[2].key)
    )


def test_reference_images_are_of_all_classes(monkeypatch):
    labels = np.sort(np.arange(400, dtype=np.int32) % 10)
    images = np.broadcast_to((20 * labels).astype(np.uint8)[:, None, None, None], (400, 8, 8, 1))
    by_class = ImageSet(images, labels, tuple("0123456789"))  # as folders are read
    monkeypatch.setattr(_image_training.data, "load", lambda *_, **__: (by_class, by_class))
    config = dataclasses.replace(TINY, train_images=None, validation_images=100, batch=16)
    reference = _image_training.reference_images(config, _image_training.read(config))
    assert set(np.unique(reference)) == set(range(0, 200, 20))


@pytest.mark.parametrize("preset", rf_dnn_images.PRESETS)
def test_every_preset_makes_a_step(preset):
    """Traced, not compiled: the shapes of the whole program of a step are right."""
    config = config_of("--preset", preset)
    shape, classes = {
        "cifar10": ((32, 32, 3), 10),
        "cifar100": ((32, 32, 3), 100),
        "imagenet": ((224, 224, 3), 1000),
        "digits": ((8, 8, 1), 10),
    }[config.data]
    statistics = (np.full(shape[-1], 0.5, np.float32),) * 2
    source = _image_training.Source({}, 5000, classes, statistics, {})
    images = jax.ShapeDtypeStruct((8, *shape), jnp.uint8)
    labels = jax.ShapeDtypeStruct((8,), jnp.int32)
    model, bits = config.models[0], config.bits[0]
    for spec in ("ste", "rf_dnn") if preset == "table1" else ("ste",):
        training = rf_dnn_images._training(config, source, model, bits, spec, ())
        state = jax.eval_shape(lambda x, t=training: t.init(jax.random.key(0), x, 0.1), images)
        after, _ = jax.eval_shape(training.step, state, {"images": images, "labels": labels})
        assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
        quantised = set(state.parameters.latent)
        assert quantised
        assert not any(name.startswith(("stem", "head")) for name in quantised)


def test_a_network_that_diverges_is_counted_and_not_kept(tmp_path):
    """With a learning rate at which single precision overflows."""
    config = dataclasses.replace(TINY, rates=(1e30,), seeds=2)
    found = rf_dnn_images.run(config, _run.Record(tmp_path))
    rows = found["models"]["small"]["1"]
    for row in rows.values():
        assert row["diverged"] == 2
        assert row["mean"] == 0
        assert "packed_bytes" not in row
    assert not list(tmp_path.rglob("*.npz"))
    json.dumps(found, allow_nan=False)
    rf_dnn_images.draw(found, tmp_path / "figures")


def test_of_several_seeds_the_first_that_did_not_diverge_is_kept(tmp_path, monkeypatch):
    config = dataclasses.replace(TINY, rules=("ste",), seeds=2, epochs=1)
    train = _image_training.train

    def first_diverges(*arguments):
        found, states = train(*arguments)
        lost = jax.tree.map(
            lambda x: x.at[0].set(jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            states.parameters,
        )
        states = states._replace(parameters=lost, failed=states.failed.at[0].set(True))
        return found | {"failed": np.array([True, False])}, states

    monkeypatch.setattr(_image_training, "train", first_diverges)
    row = rf_dnn_images.run(config, _run.Record(tmp_path))["models"]["small"]["1"]["ste"]
    assert row["diverged"] == 1
    (path,) = (tmp_path / "networks").glob("*.npz")
    variables, _ = load_network(path)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(variables))


@pytest.mark.heavy
@pytest.mark.parametrize("preset", rf_dnn_images.PRESETS)
def test_every_preset_runs_shortened(preset, tmp_path, monkeypatch):
    """From the data set to figures, with images of 64 pixels in place of ImageNet's 224."""
    monkeypatch.setattr(_image_training, "_STREAM_SIDE", 64)
    config = config_of("--preset", preset)
    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    if config.data == "imagenet":
        folder_of_images(folder, size=80)
    elif config.data != "digits":
        # enough for a split in which every class is on both sides
        getattr(files, f"write_{config.data}")(
            folder, rng, {"cifar10": 12, "cifar100": 1500}[config.data]
        )
    others = [rule for rule in config.rules if rule != "ste"]
    rules = ("ste", "rf_dnn" if preset in ("table1", "smoke") else others[0])
    short = dataclasses.replace(
        config,
        folder=str(folder),
        models=config.models[:1],
        rules=rules,
        bits=config.bits[:1],
        rates=config.rates[:2],
        train_images=None,
        validation_images={"cifar10": 12, "cifar100": 100}.get(
            config.data, config.validation_images
        ),
        seeds=1,
        tuning_seeds=1,
        lanes=1,
        epochs=1,
        batch=4 if config.data == "imagenet" else 16,
        last=1,
    )
    found = rf_dnn_images.run(short, _run.Record(tmp_path / "out"))
    rf_dnn_images.draw(found, tmp_path / "figures")
    for rows in found["models"][short.models[0]].values():
        assert set(rows) == set(rules)
        assert all(np.isfinite(row["train_loss"]).all() for row in rows.values())


def test_presets_are_the_papers():
    one = rf_dnn_images.PRESETS["table1"]
    assert (one.epochs, one.batch, one.rates, one.weight_decay) == (200, 128, (0.1,), 5e-4)
    assert {("cifar10", model) for model in one.models} < set(_printed_tables.PRINTED)
    two = rf_dnn_images.PRESETS["table2"]
    assert {(two.data, model) for model in two.models} < set(_printed_tables.PRINTED)
    rates = [
        float(rf_dnn_images.schedule(one, 1000)(step)) for step in (0, 399, 401, 749, 751, 951)
    ]
    np.testing.assert_allclose(rates, [1, 1, 0.1, 0.1, 0.01, 0.001], rtol=1e-5)
    three = rf_dnn_images.PRESETS["table3"]
    cosine = rf_dnn_images.schedule(three, 1000)
    np.testing.assert_allclose([cosine(0), cosine(500), cosine(1000)], [1, 0.5, 0], atol=1e-6)


def test_a_folder_too_big_for_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(_image_training, "_STREAM_SIDE", 16)
    folder = folder_of_images(tmp_path / "images")
    config = dataclasses.replace(
        TINY,
        data="imagenet",
        folder=str(folder),
        rules=("ste",),
        batch=8,
        epochs=3,
        validation_images=0,
        lanes=2,
    )
    found = rf_dnn_images.run(config, _run.Record(tmp_path / "a"))
    row = found["models"]["small"]["1"]["ste"]
    assert found["images"] == {"train": 30, "test": 30}
    assert row["train_loss"][-1] < row["train_loss"][0]
    # cut off in the middle of the second epoch
    monkeypatch.setattr(
        _image_training, "Checkpoints", lambda folder, seconds: Eager(folder, seconds=0)
    )
    batches = _image_training.data.ImageStream.batches
    calls = []

    def dying(self, seed, epoch, size, start=0):
        for batch in batches(self, seed, epoch, size, start):
            calls.append((epoch, start))
            if len(calls) == dying.limit:
                raise KilledError
            yield batch

    dying.limit = 14
    monkeypatch.setattr(_image_training.data.ImageStream, "batches", dying)
    record = tmp_path / "b"
    record.mkdir()
    with pytest.raises(KilledError):
        rf_dnn_images.run(config, _run.Record(record))
    dying.limit = -1
    calls.clear()
    again = rf_dnn_images.run(config, _run.Record(record))
    assert any(start > 0 for _, start in calls)
    assert again["models"] == found["models"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rules", "nothing"], "rule: expected one of"),
        (["--bits", "0"], "--bits: expected at least 1"),
        (["--bits", "20"], r"bits: expected 1 to 16"),
        (["--rates", "-1"], "--rates: expected at least 0"),
        (
            ["--rates", "0.1", "0.2", "--validation-images", "0"],
            "--validation-images: tuning needs",
        ),
        (["--preset", "table1", "--init", "x.npz"], "--init: fits one model"),
        (["--data", "cifar10", "--folder", "{tmp}"], "data_batch_1"),
        (["--data", "imagenet", "--folder", "{tmp}", "--rates", "0.1"], r"put train/CLASS/\*.JPEG"),
        (["--batch", "5000"], "--batch: 5000 is more than the 1137 images"),
        (["--init", "{tmp}/none.npz"], "no such file"),
    ],
)
def test_mistakes_are_named(flags, message, tmp_path, capsys):
    flags = [flag.replace("{tmp}", str(tmp_path)) for flag in flags]
    preset = [] if "--preset" in flags else ["--preset", "smoke"]
    assert rf_dnn_images.main([*preset, *flags, "--out", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    # what came to nothing is not in the way of the next run
    assert not list((tmp_path / "out").rglob("config.json"))


def test_the_straight_through_estimator_is_always_there():
    assert config_of("--rules", "lne", "dorefa").rules == ("ste", "lne", "dorefa")


def test_rules_say_what_they_show_the_quantiser():
    w = jax.random.normal(jax.random.key(0), (3, 3, 4, 5))
    quantizer = discretize.weight_quantizer(1)
    setting = optim.RuleSetting(quantizer, 10, 0.1, jax.random.key(1))
    for name in optim.RULES:
        rule = optim.gradient_rule(name, setting)
        np.testing.assert_array_equal(rule.weights(w), quantizer(rule.shown(w)))
