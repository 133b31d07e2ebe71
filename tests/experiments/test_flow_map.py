"""The map of flows, from published results."""

import json
from pathlib import Path

import pytest

from experiments import _run, flow_map

PUBLISHED = Path(__file__).parents[2] / "docs" / "results"


def test_the_map_is_drawn_from_published_numbers(tmp_path):
    assert flow_map.main(["--out", str(tmp_path), "--published", str(PUBLISHED)]) == 0
    folder = tmp_path / "flow_map" / "default"
    found = json.loads((folder / "result.json").read_text())
    assert set(found["texts"]) == {"network", "frozen", "local", "perelman"}
    for source in found["sources"]:
        assert (PUBLISHED / source["file"]).exists()
        assert len(source["numbers"]) == len(source["places"])
    assert (folder / "figures" / "flow_map.png").stat().st_size > 5000


def test_missing_and_other_results_are_named(tmp_path):
    with pytest.raises(ValueError, match="is missing"):
        flow_map.run(flow_map.Config(str(tmp_path)), _run.Record())
    for _, _, name, _ in flow_map.EXAMPLES:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="another version"):
        flow_map.run(flow_map.Config(str(tmp_path)), _run.Record())
