"""Clusters and what a flow loses by them, end to end with small settings."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import _run, kernel_clustering

SMOKE = kernel_clustering.PRESETS["smoke"]


def test_a_run_from_the_command_line(tmp_path):
    assert kernel_clustering.main(["--preset", "smoke", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "kernel_clustering" / "smoke"
    found = json.loads((folder / "result.json").read_text())
    for charts in kernel_clustering.CHARTS:
        for method in kernel_clustering.METHODS:
            values = found["silhouettes"][charts][method]["values"]
            assert len(values) == len(SMOKE.seeds)
            assert np.all(np.abs(values) < 1)
    assert found["flow"]["unclustered"]["difference"]["mean"] == 0
    assert found["flow"]["2"]["difference"]["mean"] > 0
    assert (folder / "figures" / "clusters.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, "--seeds"),
        ({"clusters": 0}, "--clusters"),
        ({"batches": 30}, "--batches"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        kernel_clustering.run(dataclasses.replace(SMOKE, **change), _run.Record())
