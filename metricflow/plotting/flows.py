"""Flows against flow time, and how flows of kernels become local."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import NullLocator

COLOURS = {
    "kaehler_ricci": "#0072b2",
    "calabi": "#d55e00",
    "ultra_local": "#cc79a7",
    "ultra_local_dirichlet": "#56b4e9",
    "two_derivative": "#009e73",
    "calabi_yau": "#e69f00",
    "spectral": "#0072b2",
    "kernel": "#d55e00",
    "network": "#009e73",
}
LABELS = {
    "kaehler_ricci": "Kähler-Ricci",
    "calabi": "Calabi",
    "ultra_local": r"ultra-local, $L^2$",
    "ultra_local_dirichlet": "ultra-local, Dirichlet",
    "two_derivative": "two-derivative",
    "calabi_yau": r"gradient of the entropy, $L^2(\mu_{CY})$",
    "spectral": "spectral basis",
    "kernel": "kernel sections",
    "network": "network",
}
QUANTITIES = {
    "energy": "own energy / start",
    "sigma": r"$\sigma$",
    "mean_abs_ricci": r"mean $|R|$",
}


def flow_histories(axis: Axes, curves: Mapping[str, Mapping[str, Any]], key: str) -> Axes:
    """A quantity along flows, both scales logarithmic; time zero is left out.

    Args:
        axis: where to draw.
        curves: for each flow its columns, ``time`` and ``key`` among them.
        key: ``"energy"`` is drawn relative to its first value, everything else as it is.
    """
    for name, columns in curves.items():
        values = np.asarray(columns[key], float)
        values = values / values[0] if key == "energy" else values
        time = np.asarray(columns["time"], float)
        axis.loglog(
            time[1:], values[1:], color=COLOURS.get(name), label=LABELS.get(name, name), lw=1.4
        )
    axis.set_ylabel(QUANTITIES.get(key, key))
    return axis


def local_limit(axis: Axes, widths: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Axes:
    """The distance between a flow of kernels and the local flow against the width of the kernel.

    Args:
        axis: where to draw, both scales logarithmic.
        widths: of the kernels.
        errors: for each flow the distances.

    Source: MF 2.30, MF 2.31.
    """
    for name, far in errors.items():
        axis.loglog(
            widths, far, "o-", color=COLOURS.get(name), label=LABELS.get(name, name), ms=4, lw=1.2
        )
    w = np.asarray(widths, float)
    lowest = min(float(far[0]) for far in errors.values())
    axis.loglog(w, lowest / 2 * (w / w[0]) ** 2, "--", color="0.5", label=r"$\propto$ width$^2$")
    axis.set_xticks(w, [f"{x:g}" for x in w])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("width of the kernel")
    axis.set_ylabel("distance to the local flow")
    axis.legend(frameon=False, fontsize=7)
    return axis


# name, colour, heading, and the box (left, bottom, right, top) of every region, outermost first
_REGIONS = (
    ("network", "#dceaf5", "flows of finite networks: the kernel evolves", (0.0, 0.0, 1.0, 1.0)),
    ("frozen", "#bcd6ec", "infinite networks: the kernel is frozen", (0.03, 0.03, 0.97, 0.73)),
    ("local", "#f6dcc6", "local: the kernel is a delta function", (0.06, 0.06, 0.94, 0.49)),
    ("perelman", "#efb98c", "Perelman's Ricci flow", (0.09, 0.09, 0.91, 0.26)),
)


def flow_map(axis: Axes, texts: Mapping[str, Sequence[str]]) -> Axes:
    """Flows of metrics inside one another, each with its examples.

    Args:
        axis: where to draw.
        texts: lines for the regions ``"network"``, ``"frozen"``, ``"local"`` and ``"perelman"``.

    Source: MF Fig. 1.
    """
    for name, colour, heading, (left, bottom, right, top) in _REGIONS:
        box = FancyBboxPatch(
            (left, bottom),
            right - left,
            top - bottom,
            boxstyle="round,pad=0,rounding_size=0.02",
            facecolor=colour,
            edgecolor="0.35",
            lw=0.8,
        )
        axis.add_patch(box)
        middle = (left + right) / 2
        axis.text(middle, top - 0.015, heading, ha="center", va="top", fontsize=11, weight="bold")
        lines = "\n".join(texts.get(name, ()))
        axis.text(middle, top - 0.07, lines, ha="center", va="top", fontsize=9.5)
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.01)
    axis.set_axis_off()
    return axis
