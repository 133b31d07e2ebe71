"""The same numbers from 1, 2 and 4 processes, and what happens when one of them is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import local_processes, quintic_network
from metricflow import load_metric, processes
from tests import killing
from tests.killing import ROOT, Program
from tests.tolerances import tolerance

from . import member

ENVIRONMENT = {**killing.ENVIRONMENT, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1"}


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return member.main(folder), folder


@pytest.mark.parametrize("count", [2, 4])
def test_the_same_numbers_from_several_processes(alone, tmp_path, count):
    address = f"localhost:{free_port()}"
    members = [
        Program(
            [member.__file__, tmp_path, address, count, place], tmp_path / "output", ENVIRONMENT
        )
        for place in range(count)
    ]
    try:
        for each in members:
            each.start()
        for each in members:
            each.finish()
    finally:
        for each in members:
            each.kill()
    expected, folder = alone
    with np.load(tmp_path / "result.npz") as found:
        assert set(found) == set(expected)
        for name, value in expected.items():
            bound = tolerance("sum") * np.max(np.abs(value))
            np.testing.assert_allclose(found[name], value, rtol=0, atol=bound, err_msg=name)
    # files of one process and of several are the same files
    metrics = [load_metric(place / "metric.npz") for place in (folder, tmp_path)]
    np.testing.assert_allclose(
        metrics[1].coefficients, metrics[0].coefficients, rtol=0, atol=tolerance("sum")
    )
    # and a training of several processes goes on with one
    more = member.trained(tmp_path, member.EPOCHS + 2)
    reference = member.trained(folder, member.EPOCHS + 2)
    assert len(more["losses"]) == member.EPOCHS + 2
    np.testing.assert_allclose(more["w"], reference["w"], rtol=tolerance("sum"))


def test_one_process_needs_nobody():
    assert processes.agreed({"a": [1, 2.5]}) == {"a": [1, 2.5]}
    with pytest.raises(OSError, match="disk full"):
        processes.on_first(lambda: (_ for _ in ()).throw(OSError("disk full")))
    tree = processes.on_host({"x": jax.numpy.arange(3)})
    assert isinstance(tree["x"], np.ndarray)


FLAGS = ["--preset", "smoke", "--epochs", "400"]


def result(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_killed_process_is_named_and_the_run_goes_on(tmp_path):
    """Process 1 of 2 is killed in the middle of a training; one process alone ends the run."""
    flags = [*FLAGS, "--out", tmp_path, "--name", "killed"]
    arguments = ["-m", "experiments.local_processes", 2, "quintic_network", *flags]
    launcher = Program(arguments, tmp_path / "output", ENVIRONMENT)
    folder = tmp_path / "quintic_network" / "killed"
    try:
        launcher.start()
        assert launcher.wait_for(lambda: list(folder.glob("checkpoints/*/[0-9]*")))
        victims = launcher.processes()[1:]
        assert len(victims) == 2
        os.kill(victims[1], signal.SIGKILL)
        status = launcher.process.wait(60)
    finally:
        launcher.kill()
    said = launcher.output.read_text()
    assert not any(Path(f"/proc/{victim}").exists() for victim in victims)
    assert status == 128 + signal.SIGKILL
    assert "process 1 of 2 was killed by SIGKILL" in said
    assert "go on with --resume" in said
    assert not (folder / "result.json").exists()

    for name in (["killed", "--resume"], ["whole"]):
        assert quintic_network.main([*FLAGS, "--out", str(tmp_path), "--name", *name]) == 0
    one, other = result(folder), result(folder.parent / "whole")
    for name, value in other["summary"].items():
        if value is not None:
            assert one["summary"][name]["values"] == pytest.approx(value["values"], rel=1e-3), name


def numbers(tree, path=""):
    """The numbers of a result that do not tell how long it took."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name not in ("seconds", "versions", "command", "cpu_seconds", "cost", "history"):
                yield from numbers(value, f"{path}/{name}")
    elif isinstance(tree, list):
        for place, value in enumerate(tree):
            yield from numbers(value, f"{path}/{place}")
    elif isinstance(tree, int | float):
        yield path, tree


# how far it climbs must not depend on the clock, nor on the last digits
NO_CLOCK = {"record_metric": ["--manifold", "fermat:1", "--rungs", "1", "--seconds", "1e9"]}


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["quintic_kernel", "quintic_network", "record_metric"])
def test_experiments_in_two_processes(name, tmp_path):
    """The same result as from one, but for sums in another order."""
    flags = ["--preset", "smoke", *NO_CLOCK.get(name, []), "--out", str(tmp_path), "--name"]
    for module, extra in (
        (["experiments.local_processes", "2", name], "two"),
        ([f"experiments.{name}"], "one"),
    ):
        command = [sys.executable, "-m", *module, *flags, extra]
        subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, check=True)
    one, two = (dict(numbers(result(tmp_path / name / run))) for run in ("one", "two"))
    assert set(one) == set(two)
    for path, value in one.items():
        assert two[path] == pytest.approx(value, rel=1e-2, abs=1e-9), path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", "quintic_network"], "N: expected at least 1, got 0"),
        (["2", "quintic_network", "--process-id=1"], "set for each process"),
    ],
)
def test_wrong_arguments_of_the_launcher(arguments, message, capsys):
    assert local_processes.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--devices", "0"], "--devices: expected at least 1"),
        (["--devices", "9"], "at most 8 devices, got 9"),
        (["--processes", "2"], "needs --coordinator"),
        (["--coordinator", "nowhere", "--processes", "2", "--process-id", "0"], "HOST:PORT"),
        (["--coordinator", "a:1", "--processes", "2", "--process-id", "2"], "from 0 to N - 1"),
        (["--coordinator", "a:1", "--devices", "2"], "leave it out"),
    ],
)
def test_wrong_flags(flags, message, tmp_path, capsys):
    assert quintic_network.main([*FLAGS, "--out", str(tmp_path), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
