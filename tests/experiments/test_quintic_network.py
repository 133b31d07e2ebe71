"""The network experiment end to end with small settings: results, resume, ansätze, bad flags."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import _run, quintic_network
from metricflow import ansatz, diagnostics, geometry, load_metric
from metricflow.training import Training

SMOKE = quintic_network.PRESETS["smoke"]
TINY = dataclasses.replace(
    SMOKE, points=60, validation_points=40, test_points=40, polish=0, epochs=2, curvature_points=0
)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert quintic_network.main(["--preset", "smoke", "--out", str(out)]) == 0
    return out / "quintic_network" / "smoke"


def result(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_run_from_the_command_line(smoke):
    found = result(smoke)
    one = found["runs"][0]
    assert len(one["history"]) == SMOKE.epochs
    assert one["loss"] == one["history"][-1]["validation"]["loss"]
    assert one["loss_gain"] == pytest.approx(one["before"]["loss"] / one["loss"])
    key = jax.random.split(jax.random.key(0), 4)[1]
    validation = geometry.sample_points(key, geometry.fermat(1), SMOKE.validation_points)
    sigma = diagnostics.sigma_measure(geometry.fubini_study_metric(validation), validation)
    start = one["loss_gain_from_fubini_study"] * one["loss"]
    assert start == pytest.approx(float(sigma), rel=1e-6)
    assert one["after"]["kaehler_defect"] < 1e-12
    assert one["after"]["chart_mismatch"] < 1e-12
    assert one["polished"]["training_rms"][-1] <= one["polished"]["training_rms"][0]
    sigma = one["after"]["sigma"]
    assert found["summary"]["sigma"] == {"mean": sigma, "std": 0.0, "values": [sigma]}
    assert (smoke / "figures" / "training.png").stat().st_size > 5000


def test_the_saved_metric_is_the_one_reported(smoke):
    metric = load_metric(smoke / "metrics" / "seed-0.npz")
    test_key = jax.random.fold_in(jax.random.key(0), 1)
    test = geometry.sample_points(test_key, metric.manifold, SMOKE.test_points)
    found = quintic_network._diagnosed(SMOKE, metric, test)
    stored = result(smoke)["runs"][0]["polished"]
    assert found["sigma"] == pytest.approx(stored["sigma"], rel=1e-12)


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    whole = quintic_network.run(TINY, _run.Record(tmp_path / "whole"))
    assert (tmp_path / "whole" / "checkpoints" / "seed-0").is_dir()

    with monkeypatch.context() as patch:
        patch.setattr(quintic_network, "_diagnosed", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quintic_network.run(TINY, _run.Record(tmp_path / "cut"))

    steps = []
    advance = Training.advance
    monkeypatch.setattr(
        Training, "advance", lambda *args: steps.append(1) or advance(*args), raising=True
    )
    again = quintic_network.run(TINY, _run.Record(tmp_path / "cut"))
    assert not steps  # nothing is trained twice
    assert again["runs"] == whole["runs"]


# other experiments train the rest: multiplicative ones, and free ones are the simplest of all
QUICK = ("additive", "matrix")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in QUICK else pytest.mark.heavy)
        for kind in ansatz.ANSAETZE
    ],
)
def test_every_ansatz_runs_and_says_what_it_is(kind):
    config = dataclasses.replace(
        TINY,
        manifold="fermat:2",
        ansatz=kind,
        energy={"kaehler": 0.01, "transition": 0.01, "volume": 0.1},
        independent=kind == "additive",
        epochs=15,
    )
    found = quintic_network.run(config)
    one = found["runs"][0]
    assert set(one["before"]) == {"loss", "monge_ampere", "kaehler", "transition", "volume"}
    assert one["after"]["kaehler_defect"] > 1e-6  # the weights are free, so it is not Kaehler
    assert one["history"][-1]["loss"] < one["history"][0]["loss"]


def test_several_seeds_are_summed_up():
    found = quintic_network.run(dataclasses.replace(TINY, seeds=(0, 1), epochs=1))
    sigma = [one["after"]["sigma"] for one in found["runs"]]
    assert sigma[0] != sigma[1]
    assert found["summary"]["sigma"]["mean"] == pytest.approx(np.mean(sigma))
    assert found["summary"]["sigma"]["std"] == pytest.approx(np.std(sigma, ddof=1))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "1000"], "--batch-size: 1000 is more than --points 200"),
        (["--epochs", "0"], "--epochs: expected at least 1"),
        (["--learning-rate", "0"], "--learning-rate: expected a number above 0"),
        (["--activation", "step"], "activation: expected one of"),
        (["--activation", "relu"], "activation"),
        (["--kaehler", "-1"], "--kaehler: expected at least 0"),
        (["--independent"], "--independent: a potential has one component"),
        (["--ansatz", "free", "--feature-degree", "3"], "--feature-degree: only"),
        (["--manifold", "fermat"], "--manifold: expected"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, capsys, flags, message):
    assert quintic_network.main(["--preset", "smoke", "--out", str(tmp_path), *flags]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_a_loss_that_explodes_is_named(tmp_path, capsys):
    flags = ["--preset", "smoke", "--learning-rate", "1e30", "--out", str(tmp_path)]
    assert quintic_network.main(flags) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: training: ")
    assert "step" in error
    assert "epoch" in error
