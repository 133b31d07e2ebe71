"""Kernels side by side: gains, and errors of regression over time."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from .curves import COLOURS, LABELS


def gain_bars(axis: Axes, gains: Mapping[str, Mapping[str, float]]) -> Axes:
    """A bar for every kernel: its gain in sigma, mean and spread over seeds.

    Args:
        axis: where to draw, gains on a logarithmic scale.
        gains: {"mean": ..., "std": ...} for each name.
    """
    place = np.arange(len(gains))
    means = np.array([row["mean"] for row in gains.values()])
    spreads = np.array([row["std"] for row in gains.values()])
    # a bar that went below one could not be drawn on this scale
    below = np.minimum(spreads, 0.9 * means)
    axis.barh(place, means, color="#0072b2", alpha=0.7, log=True)
    axis.errorbar(means, place, xerr=[below, spreads], fmt="none", ecolor="black", capsize=3)
    axis.set_yticks(place, list(gains))
    axis.invert_yaxis()
    axis.set_xlim(left=1)
    axis.set_xlabel(r"test gain in $\sigma$")
    return axis


def regression_history(
    axis: Axes, times: Sequence[float], rows: Mapping[str, Sequence[float]], *, name: str
) -> Axes:
    """The error of kernel regression against the time of the flow, and the ensemble's spread.

    Args:
        axis: where to draw, both scales logarithmic.
        times: of the flow.
        rows: ``"error"``, and ``"deviation"`` of an ensemble if there is one.
        name: of the kernel.
    """
    (line,) = axis.loglog(
        times, rows["error"], "-", color=COLOURS.get(name), label=LABELS.get(name, name)
    )
    if "deviation" in rows:
        axis.loglog(times, rows["deviation"], "--", color=line.get_color())
    axis.set_xlabel("time of the flow, in units of 1 / kernel")
    axis.set_ylabel("error (dashed: spread of the ensemble)")
    axis.legend(frameon=False)
    return axis
