"""Timing of warm calls: compilation apart, processor and wall seconds, median and spread."""

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def measure(function: Callable[[], Any], *, repeats: int = 5) -> dict[str, float]:
    """First call, then the median and the extremes of warm calls, in seconds.

    Calls of less than ten milliseconds are repeated twenty times as often.
    """
    start = time.perf_counter()
    jax.block_until_ready(function())
    first = time.perf_counter() - start
    start = time.perf_counter()
    jax.block_until_ready(function())
    if time.perf_counter() - start < 0.01:
        repeats *= 20
    wall, processor = [], []
    for _ in range(repeats):
        before, start = _processor_seconds(), time.perf_counter()
        jax.block_until_ready(function())
        wall.append(time.perf_counter() - start)
        processor.append(_processor_seconds() - before)
    return {
        "first_call": first,
        "wall": statistics.median(wall),
        "wall_min": min(wall),
        "wall_max": max(wall),
        "cpu": statistics.median(processor),
        "cpu_min": min(processor),
        "cpu_max": max(processor),
    }


def compare(name: str, ours: Callable[[], Any], peers: dict[str, Callable[[], Any]]) -> dict:
    """Our time, that of each peer, and the ratios ours / peer, of processor and of wall seconds."""
    row: dict[str, Any] = {"name": name, "ours": measure(ours), "peers": {}}
    for peer, function in peers.items():
        row["peers"][peer] = beside(row["ours"], measure(function, repeats=3))
    return row


def beside(ours: dict[str, float], peer: dict[str, float]) -> dict[str, float]:
    """The times of a peer, and the ratios ours / peer."""
    return peer | {
        "ratio": ours["cpu"] / peer["cpu"],
        "wall_ratio": ours["wall"] / peer["wall"],
    }


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
