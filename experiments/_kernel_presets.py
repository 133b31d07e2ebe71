"""Hyper-parameters of the fixed-kernel flows: tuned ones, their search boxes, the paper's table."""

import json
from pathlib import Path
from typing import Any

from metricflow import kernels
from metricflow.flows import KernelFlow

KERNELS = ("relu", "gaussian", "delta")
SETS = ("train_optimal", "test_optimal")

# Found by `--tune`: Bayesian optimisation on fresh points at every evaluation, see
# docs/kernel_flows.md; the file says with which command
TUNED_FILE = Path(__file__).with_name("quintic_kernel_tuned.json")
_STORED = json.loads(TUNED_FILE.read_text())
TUNED: dict[str, dict[str, dict[str, Any]]] = _STORED["hyperparameters"]
LARGE: dict[str, Any] = _STORED["large"]  # Gaussian, found with 10^4 points
# what --tune varies; everything else stays as it is in the preset
BOXES: dict[str, dict[str, dict[str, tuple[float, float, str]]]] = {
    "relu": {
        chosen: {
            "depth": (1, 8, "integer"),
            "bias_std": (0.003, 0.3, "log"),
            "step_size": (0.005, 0.2, "log"),
        }
        for chosen in SETS
    },
    "gaussian": {
        "train_optimal": {"width": (0.01, 0.3, "log"), "step_size": (0.02, 0.9, "log")},
        "test_optimal": {
            "width": (0.15, 0.9, "log"),
            "step_size": (0.01, 0.15, "log"),
            "power": (1.5, 4.0, "linear"),
        },
    },
    "delta": {
        "train_optimal": {"step_size": (0.02, 0.9, "log")},
        "test_optimal": {
            "step_size": (0.003, 0.1, "log"),
            "power": (1.0, 3.0, "linear"),
            "steps": (5, 50, "integer"),
        },
    },
}
# Table 1 of the paper as printed, with the printed kernel exp(-d / 2 sigma) and loss |1 - eta|
_PRINTED = {"gradient": "euclidean", "power": 1.0, "clip": None, "measure": "sum"}
_TABLE_1: dict[str, dict[str, Any]] = {
    "relu": {"depth": 1, "step_size": 0.1},
    "gaussian": {"kernel": "exponential", "width": 30.0, "step_size": 0.1583},
    "delta": {"step_size": 0.3162},
}
PRINTED = {k: {chosen: {**h, **_PRINTED} for chosen in SETS} for k, h in _TABLE_1.items()}


def build_flow(hyperparameters: dict[str, Any], kernel: str) -> KernelFlow:
    """The flow that a set of hyper-parameters describes; ``steps`` is not part of it."""
    options = dict(hyperparameters)
    options.pop("steps", None)
    name = options.pop("kernel", kernel)
    if name == "relu":
        parts = {k: options.pop(k) for k in ("depth", "weight_std", "bias_std") if k in options}
        return KernelFlow(kernels.InfiniteNetwork("relu", **parts), **options)
    if name == "delta":
        return KernelFlow(kernels.Delta(), **options)
    radial = {"gaussian": kernels.Gaussian, "exponential": kernels.Exponential}[name]
    return KernelFlow(radial(options.pop("width")), **options)
