import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _digits, _mlp, _run, rf_dnn

TINY = dataclasses.replace(rf_dnn.PRESETS["smoke"], rates=(0.1,), epochs=2, last=1)


def test_rules_end_to_end_and_resumed(tmp_path):
    flags = ["--preset", "smoke", "--out", str(tmp_path)]
    assert rf_dnn.main(flags) == 0
    folder = tmp_path / "rf_dnn" / "smoke"
    result = json.loads((folder / "result.json").read_text())
    assert set(result["rules"]) == {"ste", "lne"}
    for row in result["rules"].values():
        assert len(row["accuracy"]) == 2
        assert row["mean"] > 0.5  # ten classes
        assert row["learning_rate"] in (0.03, 0.1)
        best = max(score for _, score in row["tuning"])
        assert [row["learning_rate"], best] in row["tuning"]
    assert result["rules"]["ste"]["paired_difference_to_ste"] == 0
    assert (folder / "figures" / "rules_1_bit.png").stat().st_size > 5000
    # interrupted after the first rule: the rest is computed again, to the bit
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:4]))
    (folder / "result.json").unlink()
    assert rf_dnn.main([*flags, "--resume"]) == 0
    assert json.loads((folder / "result.json").read_text())["rules"] == result["rules"]


def test_seeds_are_paired_and_the_test_part_is_read_once():
    record = _run.Record()
    rules = ("ste", "ste:clip=1000")
    found = rf_dnn.run(dataclasses.replace(TINY, rules=rules, seeds=2), record)["rules"]
    # clipping far away changes nothing, so all differences vanish seed by seed
    assert found["ste"]["accuracy"] == found["ste:clip=1000"]["accuracy"]
    assert found["ste:clip=1000"]["paired_standard_error"] == 0
    tuning = [s["result"] for name, s in record.stages.items() if "/rate/" in name]
    assert all(set(row) == {"rate", "validation"} for row in tuning)
    assert sum(name.endswith("/test") for name in record.stages) == len(rules)


def test_full_precision_and_more_bits():
    config = dataclasses.replace(TINY, rules=("ste", "full_precision"), bits=(3,), seeds=1)
    found = rf_dnn.run(config)["by_bits"]
    assert set(found) == {"3"}
    assert found["3"]["full_precision"]["accuracy"] != found["3"]["ste"]["accuracy"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rules", "sty"], "rule: expected one of ste"),
        (["--rules", "lne:tau=0"], "tau: expected a finite number above 0"),
        (["--rules", "lne:q=1"], "q: expected a number below 1"),
        (["--rules", "lne:q=x"], "expected option=number"),
        (["--rules", "lne:beta=1"], "unknown options beta"),
        (["--rules", "full_precision:q=1"], "has no options"),
        (["--bits", "0"], "--bits: expected at least 1"),
        (["--rates", "0"], "--rates: expected numbers above 0"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, capsys, flags, message):
    assert rf_dnn.main([*flags, "--preset", "smoke", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "rf_dnn").exists()


def test_the_straight_through_estimator_is_always_there():
    import argparse

    parser = argparse.ArgumentParser()
    rf_dnn.add_flags(parser)
    config = rf_dnn.configure(parser.parse_args(["--rules", "lne", "dorefa"]))
    assert config.rules == ("ste", "lne", "dorefa")


def test_digits_are_split_by_class():
    parts = _digits.digits()
    assert [len(part.labels) for part in parts] == [1078, 359, 360]
    shares = np.array([np.bincount(part.labels, minlength=10) / len(part.labels) for part in parts])
    assert np.abs(shares - shares[0]).max() < 0.005
    images = np.concatenate([part.images for part in parts])
    assert len(np.unique(images, axis=0)) == len(images)


def test_translation_moves_pixels_and_fills_with_background():
    image = -jnp.ones((1, 64)).at[0, 3 * 8 + 4].set(-1.0)
    image = image.at[0, 3 * 8 + 4].set(0.5)
    moved = _digits.translate(image, 2, -1).reshape(8, 8)
    assert moved[5, 3] == 0.5
    assert jnp.sum(moved != -1) == 1
    gone = _digits.translate(image, 0, 4)
    assert jnp.all(gone == -1)


def test_batch_norm_takes_its_statistics_from_the_reference():
    net = _mlp.network(jax.random.key(0), (5, 7, 3))
    images = jax.random.normal(jax.random.key(1), (11, 5))
    alone = _mlp.logits(net.latent, net.rest, images)
    sent = _mlp.logits(net.latent, net.rest, images[:4], reference=images)
    np.testing.assert_allclose(sent, alone[:4], rtol=1e-5, atol=1e-6)
    # and so does not feel the scale of the weights
    scaled = [3.0 * w for w in net.latent]
    np.testing.assert_allclose(_mlp.logits(scaled, net.rest, images), alone, atol=1e-3)
    plain = _mlp.logits(net.latent, net.rest, images, batch_norm=False)
    assert not np.allclose(plain, alone)
