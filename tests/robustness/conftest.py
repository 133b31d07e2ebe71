"""Counts of what was checked, written where the environment asks for them."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """From the reports of passed tests: with several workers they all arrive here."""
    path = os.environ.get("METRICFLOW_TRANSFORMATIONS_JSON")
    if not path:
        return
    from tests.robustness.test_transformations import ROOM_CHECKS, ROOMS, summary

    found: dict[str, Counter] = {room: Counter() for room in ROOMS}
    for report in terminalreporter.stats.get("passed", []):
        checks = dict(report.user_properties).get(ROOM_CHECKS)
        if report.when == "call" and checks:
            found[checks["room"]].update(["calls that passed", *checks["passed"]])
    Path(path).write_text(json.dumps(summary(found), indent=1) + "\n")
