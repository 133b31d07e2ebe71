"""Flows of Kaehler potentials, end to end with small settings."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import _run, kaehler_flow
from metricflow.flows import POTENTIAL_FLOWS

SMOKE = kaehler_flow.PRESETS["smoke"]


def test_a_run_from_the_command_line(tmp_path):
    flags = ["--preset", "smoke", "--out", str(tmp_path)]
    assert kaehler_flow.main(flags) == 0
    folder = tmp_path / "kaehler_flow" / "smoke"
    found = json.loads((folder / "result.json").read_text())
    for place in ("torus:1", "fermat:1"):
        for name in POTENTIAL_FLOWS:
            (one,) = found["flows"][place][name]
            assert len(one["time"]) == SMOKE.records + 1
            assert one["largest_rise"] < 0
            # every energy falls along every flow here, not only its own
            for key in ("energy", "sigma", "mean_abs_ricci", "two_derivative_energy"):
                assert one[key][-1] < 0.7 * one[key][0], (place, name, key)
            assert min(one["min_eigenvalue"]) > 0
    on_cubic = found["flows"]["fermat:1"]["calabi"][0]
    assert on_cubic["kaehler_defect"] < 1e-10
    assert on_cubic["chart_mismatch"] < 1e-10
    for one in found["representations"]["fermat:1"]["kinds"].values():
        assert one["largest_rise"] < 1e-12
        assert one["energy"][-1] < 0.3 * one["energy"][0]
    for order in found["local_limit"]["orders"].values():
        assert order == pytest.approx(2, abs=0.2)
    for orders in found["orders"].values():
        assert orders["rosenbrock"] == pytest.approx(2, abs=0.25)
        assert orders["rk4"] == pytest.approx(4, abs=0.25)
    rates = found["printed_energy"]["relative_rates"]
    assert rates["printed"][-1] > 0
    assert np.all(np.array(rates["logarithm"]) < 0)
    for figure in ("kaehler_flows", "local_limit"):
        assert (folder / "figures" / f"{figure}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, "--seeds"),
        ({"records": 0}, "--records"),
        ({"manifolds": ("torus",)}, "--manifold"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        kaehler_flow.run(dataclasses.replace(SMOKE, **change), _run.Record())
