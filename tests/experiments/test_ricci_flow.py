"""Real Ricci flow, end to end with small settings."""

import dataclasses
import json

import pytest

from experiments import _ricci_tori, _run, ricci_flow

SMOKE = ricci_flow.PRESETS["smoke"]


def test_a_run_from_the_command_line(tmp_path):
    assert ricci_flow.main(["--preset", "smoke", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "ricci_flow" / "smoke"
    found = json.loads((folder / "result.json").read_text())
    assert found["curvature"]["T2"][0]["ricci"] < 1e-3
    assert found["spectrum"]["T2"]["error"] < 1e-10
    assert found["decay"]["T2"]["runs"][-1]["late_rate"] == pytest.approx(1, rel=0.02)
    perelman = found["perelman"]["T2"]
    for gauge in _ricci_tori.GAUGES:
        assert perelman[gauge]["smallest_rise"] > 0
        assert perelman[gauge]["rate_error"] < 0.01
    assert found["fixed_measure"]["error"] < 1e-8
    assert not found["equivalence"]["T2"]["half_is_enough"]
    assert found["equivalence"]["T2"]["largest_share"] < 1.0001
    assert max(found["spheres"].values()) < 1e-6
    for fine, coarse in found["dumbbell"]["constants"].values():
        assert 0.5 < fine < 0.7
        assert 0.5 < coarse < 0.7
    for name in ("tori", "dumbbell"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": (4,)}, "--dims"),
        ({"plane": 8}, "--plane"),
        ({"space": 5}, "--space"),
        ({"sizes": (0.1,)}, "--sizes"),
        ({"sizes": (0.1, 0.9)}, "--sizes"),
        ({"spectrum": (3, 4)}, "--spectrum"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        ricci_flow.run(dataclasses.replace(SMOKE, **change), _run.Record())
