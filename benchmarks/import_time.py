"""How long ``import metricflow`` takes beyond jax, in fresh processes in alternation."""

import os
import subprocess
import sys
import time
from typing import Any

OURS = "import metricflow"
PEER = "import jax, jax.numpy"


def rows(repeats: int = 5) -> list[dict[str, Any]]:
    """Seconds of both imports, the interpreter's start included in both."""
    ours, peer = [], []
    for _ in range(repeats):
        ours.append(_seconds(OURS))
        peer.append(_seconds(PEER))
    found, beside = _spread(ours), _spread(peer)
    beside["ratio"] = found["cpu"] / beside["cpu"]
    beside["wall_ratio"] = found["wall"] / beside["wall"]
    # the least of each: what other programs add to a time is never negative
    beyond = {
        "processor seconds": found["cpu_min"] - beside["cpu_min"],
        "wall seconds": found["wall_min"] - beside["wall_min"],
    }
    return [
        {
            "name": f"import metricflow ({repeats} fresh processes)",
            "ours": found | {"first_call": ours[0][0]},
            "peers": {PEER: beside},
            "values": {f"beyond jax, {name}": round(value, 3) for name, value in beyond.items()},
        }
    ]


def _seconds(program: str) -> tuple[float, float]:
    """Wall and processor seconds of a process."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    wall, after = time.perf_counter() - start, os.times()
    user = after.children_user - before.children_user
    return wall, user + after.children_system - before.children_system


def _spread(times: list[tuple[float, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, values in zip(("wall", "cpu"), zip(*times, strict=True), strict=True):
        ordered = sorted(values)
        found |= {
            name: ordered[len(ordered) // 2],
            f"{name}_min": ordered[0],
            f"{name}_max": ordered[-1],
        }
    return found
