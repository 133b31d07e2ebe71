import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import _run, evaluate_metric, kernel_generalisation, quintic_kernel
from experiments._manifold import parse_manifold

SMOKE = quintic_kernel.PRESETS["smoke"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert quintic_kernel.main(["--preset", "smoke", "--out", str(out)]) == 0
    return out / "quintic_kernel" / "smoke"


def result(folder):
    return json.loads((folder / "result.json").read_text())


def test_result_has_what_others_rely_on(smoke):
    found = result(smoke)
    assert 0.3 < found["sigma_fubini_study"] < 0.45
    assert set(found["nearest_neighbour_fit"]) == {"prefactor", "exponent", "n_min"}
    assert -0.3 < found["nearest_neighbour_fit"]["exponent"] < -0.1
    for kernel in quintic_kernel.KERNELS:
        for chosen in quintic_kernel.SETS:
            entry = found["kernels"][kernel][chosen]
            for name in ("train_gain", "test_gain", "positive_fraction", "steps"):
                assert np.isfinite(entry[name])
            assert (entry["kaehler_defect"] is None) == (kernel == "delta")
            assert entry["hyperparameters"]["step_size"] > 0
        assert all(len(row) == 2 for row in found["gain_vs_distance"][kernel])
    assert set(found["seconds"]) == {"compile", "sample", "flow", "total"}
    assert found["command"].startswith("python -m experiments.quintic_kernel --preset smoke")
    assert found["seed"] == 0
    environment = json.loads((smoke / "environment.json").read_text())
    assert environment["x64"] is True
    names = {p.name for p in (smoke / "figures").iterdir()}
    assert names == {"gain_against_distance.png", "nearest_neighbours.png", "histories.png"}


def test_saved_metrics_reproduce_the_reported_numbers(smoke, capsys):
    path = smoke / "metrics" / "gaussian-test_optimal.npz"
    assert evaluate_metric.main([str(path), "--points", "300", "--derivative-points", "10"]) == 0
    shown = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    reported = result(smoke)["kernels"]["gaussian"]["test_optimal"]
    assert float(shown["sigma"]) == pytest.approx(reported["sigma"], rel=0.25)
    assert float(shown["positive_fraction"]) == 1
    assert evaluate_metric.main([str(path.with_name("none.npz"))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1


def test_figures_are_redrawn_from_the_numbers_alone(smoke):
    figure = smoke / "figures" / "histories.png"
    before = figure.stat().st_mtime_ns
    assert (
        quintic_kernel.main(["--preset", "smoke", "--out", str(smoke.parents[1]), "--redraw"]) == 0
    )
    assert figure.stat().st_mtime_ns > before


def test_an_existing_folder_is_never_overwritten(smoke, capsys):
    out = str(smoke.parents[1])
    before = (smoke / "result.json").read_bytes()
    for flags, message in (
        ([], "--resume goes on"),
        (["--resume", "--seed", "5"], "other settings (seed)"),
        (["--name", "nothing", "--redraw"], "no finished run"),
    ):
        assert quintic_kernel.main(["--preset", "smoke", "--out", out, *flags]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert (smoke / "result.json").read_bytes() == before


def test_a_resumed_run_equals_an_uninterrupted_one(smoke, tmp_path):
    """Cut after four stages, the last line half written: the rest is computed to the same bits."""
    folder = tmp_path / "quintic_kernel" / "smoke"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((smoke / "config.json").read_bytes())
    lines = (smoke / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:4]) + lines[4][:200])
    assert quintic_kernel.main(["--preset", "smoke", "--out", str(tmp_path), "--resume"]) == 0
    whole, resumed = result(smoke), result(folder)
    for key in set(whole) - {"seconds", "command"}:
        assert whole[key] == resumed[key], key
    again = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert again[:4] == lines[:4]
    assert [json.loads(a)["stage"] for a in again] == [json.loads(b)["stage"] for b in lines]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--manifold", "torus:3"], "fermat:DIM, dwork:DIM:PSI or random:DIM:SEED"),
        (["--manifold", "dwork:3:1"], "singular"),
        (["--manifold", "fermat:x"], "fermat:x"),
        (["--points", "1"], "--points"),
        (["--steps", "0"], "--steps"),
        (["--test-points", "-3"], "--test-points"),
        (["--step-size", "-1"], "--step-size: expected at least 0"),
    ],
)
def test_wrong_flags_are_one_line_errors(tmp_path, capsys, flags, message):
    assert quintic_kernel.main(["--preset", "smoke", "--out", str(tmp_path), *flags]) == 2
    error = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("reference")]
    assert len(error) == 1
    assert message in error[0]


def test_flags_change_the_config():
    parse = _run.argparse.ArgumentParser()
    quintic_kernel.add_flags(parse)
    flags = ["--kernel", "delta", "relu", "--points", "50", "--step-size", "0.2", "--seed", "3"]
    config = quintic_kernel.configure(parse.parse_args(flags))
    assert config.kernels == ("delta", "relu")
    assert set(config.points.values()) == {50}
    assert config.seed == 3
    assert config.hyperparameters["delta"]["train_optimal"]["step_size"] == 0.2
    assert quintic_kernel.TUNED["delta"]["train_optimal"]["step_size"] != 0.2


def test_the_printed_hyperparameters_run_and_say_how_they_end():
    config = dataclasses.replace(
        SMOKE,
        hyperparameters=quintic_kernel.PRINTED,
        sets=("train_optimal",),
        neighbour_sizes=(),
        noise_levels=(),
        network_epochs=0,
    )
    found = quintic_kernel.run(config)
    outcomes = {k: v["train_optimal"]["outcome"] for k, v in found["kernels"].items()}
    assert set(outcomes.values()) <= {"SUCCESSFUL", "LOST_POSITIVITY", "NON_FINITE"}
    assert found["kernels"]["gaussian"]["train_optimal"]["hyperparameters"]["width"] == 30


def test_another_manifold_runs_end_to_end():
    config = dataclasses.replace(
        SMOKE,
        manifold="dwork:2:0.3",
        kernels=("gaussian",),
        sets=("train_optimal",),
        neighbour_sizes=(100, 200),
        noise_levels=(0.1,),
    )
    assert quintic_kernel.run(config)["manifold"] == "dwork:2:0.3"
    assert parse_manifold("dwork:2:0.3").dim == 2


def test_generalisation_study_runs_end_to_end(tmp_path):
    assert kernel_generalisation.main(["--preset", "smoke", "--out", str(tmp_path)]) == 0
    found = result(tmp_path / "kernel_generalisation" / "smoke")
    assert len(found["table"]) == 6
    for row in found["table"]:
        values = row["test_gain"]["values"]
        assert row["test_gain"]["mean"] == pytest.approx(np.mean(values))
        assert row["test_gain"]["std"] == pytest.approx(np.std(values, ddof=1))


def test_two_runs_on_one_folder_and_a_kill(tmp_path):
    command = [sys.executable, "-m", "experiments.quintic_kernel", "--preset", "smoke"]
    command += ["--kernel", "delta", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    stages = tmp_path / "quintic_kernel" / "smoke" / "metrics.jsonl"
    try:
        deadline = time.monotonic() + 120
        while not stages.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        second = subprocess.run([*command, "--resume"], capture_output=True, text=True)
        assert second.returncode == 2
        assert "another run" in second.stderr
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = stages.read_bytes()
    done = before.count(b"\n")
    assert done >= 1
    assert quintic_kernel.main([*command[3:], "--resume"]) == 0
    assert stages.read_bytes().startswith(before[: before.rfind(b"\n") + 1])


def test_a_record_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        _run.Record().stage("a", lambda: {"x": float("nan")})
