"""The experiment on fixed kernels: what its numbers must be, whatever they are."""

import json

import numpy as np
import pytest

from experiments import kernel_regression


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert kernel_regression.main(["--preset", "smoke", "--out", str(out)]) == 0
    return out / "kernel_regression" / "smoke"


@pytest.fixture(scope="module")
def found(smoke):
    return json.loads((smoke / "result.json").read_text())


def test_invariant_tensors_learn_from_few_points_what_components_cannot(found):
    plain, invariant = (found["flow"][name] for name in ("gaussian", "invariant"))
    assert invariant["test_gain"]["mean"] > 2 * plain["test_gain"]["mean"]
    assert invariant["chart_mismatch"]["mean"] < 1e-9 < 1e-2 < plain["chart_mismatch"]["mean"]
    for row in (plain, invariant):
        assert len(row["test_gain"]["values"]) == 2
        assert row["min_eigenvalue"]["mean"] > 0
        assert row["kaehler_defect"]["mean"] > 1e-3


def test_the_kernel_is_chosen_on_validation_points(smoke, found):
    lines = [json.loads(text) for text in (smoke / "metrics.jsonl").read_text().splitlines()]
    rows = [line["result"] for line in lines if line["stage"].startswith("flow/invariant")]
    assert len(rows) == 2
    for row in rows:
        assert len(row["tried"]) == 2
        best = min(row["tried"], key=lambda one: one["validation_sigma"])
        assert row["kernel"] == best["kernel"]


def test_interpolating_the_volume_form_gains_most_and_means_least(found):
    volume = found["volume"]
    assert volume["error"]["mean"] < 0.2 * volume["deviation"]["mean"]
    assert volume["test_gain"]["mean"] > 5
    assert volume["kaehler_defect"]["mean"] > 0.5


def test_regression_over_time_starts_at_nothing_and_learns(found):
    supervised = found["supervised"]
    assert set(supervised["kernels"]) == {"relu", "erf", "gelu", "gaussian"}
    for rows in supervised["kernels"].values():
        assert len(rows["error"]) == len(supervised["times"])
        assert rows["error"][-1] < rows["error"][0] < 1.5 * supervised["size"]["mean"]
        if "deviation" in rows:
            assert np.all(np.array(rows["deviation"]) > 0)
            assert rows["deviation"][-1] < rows["deviation"][0]


def test_figures_and_command(smoke, found):
    names = {path.name for path in (smoke / "figures").iterdir()}
    assert names == {"kernel_regression.png", "regression_over_time.png"}
    assert found["command"].startswith("python -m experiments.kernel_regression --preset smoke")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--points", "10"], "--choose-points"),
        (["--steps", "0"], "--steps"),
        (["--manifold", "torus:3"], "fermat:DIM"),
    ],
)
def test_wrong_flags_are_one_line_errors(tmp_path, capsys, flags, message):
    assert kernel_regression.main(["--preset", "smoke", "--out", str(tmp_path), *flags]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert message in error[0]
