"""Whether the kernel must be learned: the experiment end to end with small settings."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import _run, learned_kernel

SMOKE = learned_kernel.PRESETS["smoke"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert learned_kernel.main(["--preset", "smoke", "--out", str(out)]) == 0
    return out / "learned_kernel" / "smoke"


def test_a_run_from_the_command_line(folder):
    found = json.loads((folder / "result.json").read_text())
    assert found["epochs"] == list(SMOKE.snapshots)
    for rule in learned_kernel.RULES:
        assert set(found[rule]) == {"frozen_ntk", "gaussian", "relu"}
        assert len(found[rule]["frozen_ntk"]) == len(SMOKE.snapshots)
        for row in [*found[rule]["frozen_ntk"], found[rule]["gaussian"], found[rule]["relu"]]:
            assert len(row["values"]) == len(SMOKE.seeds)
            assert np.isfinite(row["mean"])
    for one in found["runs"]:
        for kernel in (*one["frozen_ntk"].values(), *one["fixed"].values()):
            for rule, best in kernel.items():
                tried = best["tried"]
                assert best["validation_sigma"] == min(row["validation_sigma"] for row in tried)
                if best["steps"]:  # the metric that is diagnosed is the one that was chosen
                    gain = best["diagnostics"]["gain"]
                    assert gain == pytest.approx(best["test_gain"], rel=1e-3)
                assert len(tried) == (len(SMOKE.step_sizes) if rule == "gradient_flow" else 1)
    assert (folder / "figures" / "learned_kernel.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": 0}, "--points"),
        ({"seeds": ()}, "--seeds"),
        ({"snapshots": (0, 99)}, "--snapshots"),
        ({"step_sizes": (0.0,)}, "--step-sizes"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        learned_kernel.run(dataclasses.replace(SMOKE, **change), _run.Record())
