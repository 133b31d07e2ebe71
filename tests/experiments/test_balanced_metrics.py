import json

import pytest

from experiments import balanced_metrics


def test_balanced_metrics_end_to_end(tmp_path):
    assert balanced_metrics.main(["--preset", "smoke", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "balanced_metrics" / "smoke"
    result = json.loads((folder / "result.json").read_text())
    first, second, _ = result["rows"]
    assert [row["sections"] for row in result["rows"]] == [3, 6, 9]
    assert second["sigma"] < 0.6 * first["sigma"]
    assert all(row["min_eigenvalue"] > 0 for row in result["rows"])
    assert second["last_change"] < 0.01
    assert (folder / "figures" / "sigma.png").stat().st_size > 5000


@pytest.mark.parametrize("degrees", [["2"], ["1", "3", "3"]])
def test_too_few_degrees_are_named(tmp_path, capsys, degrees):
    assert balanced_metrics.main(["--degrees", *degrees, "--out", str(tmp_path)]) == 2
    assert "--degrees: expected two degrees above 1" in capsys.readouterr().err
