"""The LNE metrics under Ricci-DeTurck flow, end to end with small settings."""

import dataclasses
import json

import pytest

from experiments import _run, lne_stability

SMOKE = lne_stability.PRESETS["smoke"]


def test_a_run_from_the_command_line(tmp_path):
    assert lne_stability.main(["--preset", "smoke", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "lne_stability" / "smoke"
    found = json.loads((folder / "result.json").read_text())
    hessian, printed = found["T2"]["hessian"], found["T2"]["printed"]
    assert hessian["speed_hamilton"] < 1e-3 < 0.1 < printed["speed_hamilton"]
    # with itself as the background the one stays and takes perturbations back, the other does not
    assert hessian["own_background"]["moved"] < 1e-6 < 0.1 < printed["own_background"]["moved"]
    assert hessian["own_background"]["distance_at_end"] < 0.01
    assert printed["own_background"]["distance_at_end"] > 0.1
    origin = found["ricci_at_origin_over_minus_n_minus_1_tau2"]
    assert origin["hessian"] == pytest.approx([0] * 4, abs=1e-12)
    assert origin["printed"] == pytest.approx([1] * 4)
    assert (folder / "figures" / "lne_metrics.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [({"dims": (4,)}, "--dims"), ({"plane": 8}, "--plane"), ({"tau": 0.9}, "--tau")],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        lne_stability.run(dataclasses.replace(SMOKE, **change), _run.Record())
