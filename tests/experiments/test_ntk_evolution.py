"""The evolution of the metric-NTK end to end with small settings."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import _run, ntk_evolution
from metricflow import kernels

SMOKE = ntk_evolution.PRESETS["smoke"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert ntk_evolution.main(["--preset", "smoke", "--out", str(out)]) == 0
    return out / "ntk_evolution" / "smoke"


def test_a_run_from_the_command_line(folder):
    found = json.loads((folder / "result.json").read_text())
    evolution = found["evolution"]
    assert evolution["epochs"] == [0, 1, 2]
    assert np.shape(evolution["validation_loss"]) == (3, len(SMOKE.seeds))
    for name in ntk_evolution.STATISTICS:
        drift = np.array(evolution["drift"][name]["raw"])
        assert np.all(drift[0] == 0)
        assert np.all(drift[1:] > 0)
    assert min(evolution["spectra"]["joint"]["last"]) > -1e-9
    assert np.allclose(evolution["alignment"][0], 1)
    assert np.all(np.array(evolution["relative_change"][-1]) > 0)
    for part in found["widths"].values():
        assert [row["width"] for row in part["rows"]] == list(SMOKE.sweep_widths)
        assert all(np.isfinite(row["drift"]["mean"]) for row in part["rows"])
    for name in ("ntk_evolution", "ntk_widths"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5000


def test_a_resumed_run_is_the_same(folder):
    first = json.loads((folder / "result.json").read_text())
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]))
    flags = ["--preset", "smoke", "--out", str(folder.parent.parent), "--resume"]
    assert ntk_evolution.main(flags) == 0
    again = json.loads((folder / "result.json").read_text())
    for name in ("evolution", "widths"):
        assert again[name] == first[name]


def test_the_fit_finds_a_power():
    rows = [
        {"width": w, "drift": {"values": [3 * w**-0.5, 3 * w**-0.5]}} for w in (32, 64, 128, 256)
    ]
    fit = ntk_evolution._fitted(rows, "drift")
    assert fit["power"] == pytest.approx(-0.5)
    assert fit["standard_error"] == pytest.approx(0, abs=1e-9)


def test_statistics_are_those_of_the_library():
    theta = jax.random.normal(jax.random.key(0), (2, 6, 6, 4, 4))
    theta = theta + theta.transpose(0, 2, 1, 4, 3)
    found = ntk_evolution._spectra(theta, 3)
    expected = kernels.joint_spectrum(theta[1])
    np.testing.assert_allclose(found["joint"][1], expected)
    blocks = kernels.block_eigenvalues(theta[1, :3, 3:]).real
    np.testing.assert_allclose(np.sort(found["block_eigenvalues"][1]), np.sort(blocks.ravel()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": ()}, "--parts"),
        ({"epochs": 0}, "--epochs"),
        ({"seeds": ()}, "--seeds"),
        ({"sweep_widths": (8,)}, "at least two widths"),
        ({"fixed_points": 1000}, "--fixed-points"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        ntk_evolution.run(dataclasses.replace(SMOKE, **change), _run.Record())
