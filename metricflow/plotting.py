"""Figures: arrays and a matplotlib axis in, the axis out.

Import it by name, ``from metricflow import plotting``: it needs matplotlib, the rest does not.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

COLOURS = {"relu": "#0072b2", "gaussian": "#d55e00", "delta": "#009e73"}
LABELS = {"relu": "ReLU NTK", "gaussian": "Gaussian", "delta": "delta"}


def gain_against_distance(
    axis: Axes, curves: Mapping[str, Sequence[Sequence[float]]], *, style: str = "o-"
) -> Axes:
    """The factor gained in sigma against the mean distance to the nearest training point.

    Args:
        axis: where to draw, both scales logarithmic.
        curves: for each kernel rows (distance, gain).
        style: line style, as in ``axis.plot``.

    Source: MF section 3.2 (Fig. 3, left).
    """
    for name, rows in curves.items():
        distance, gain = np.asarray(rows, float).T[:2]
        axis.loglog(
            distance, gain, style, color=COLOURS.get(name), label=LABELS.get(name, name), ms=4
        )
    axis.axhline(1, color="0.6", lw=0.8, zorder=0)
    axis.set_xlabel("mean distance to the nearest training point")
    axis.set_ylabel(r"gain in $\sigma$")
    axis.legend(frameon=False)
    return axis


def nearest_neighbour_distances(
    axis: Axes,
    sizes: Sequence[int],
    minimum: Sequence[float],
    mean: Sequence[float],
    maximum: Sequence[float],
    *,
    prefactor: float,
    exponent: float,
    fitted: Sequence[bool] | None = None,
) -> Axes:
    """Smallest, mean and largest nearest-neighbour distance against the number of points.

    Args:
        axis: where to draw, both scales logarithmic.
        sizes: numbers of points N.
        minimum: smallest distance for each N.
        mean: mean distance for each N.
        maximum: largest distance for each N.
        prefactor: a of the fit a N^b to the mean.
        exponent: b of the fit.
        fitted: which sizes the fit used; the others are drawn hollow.

    Source: MF 3.7, MF section 3.2 (Fig. 3, right).
    """
    numbers = np.asarray(sizes, float)
    for values, label, marker in ((maximum, "largest", "^"), (minimum, "smallest", "v")):
        axis.loglog(numbers, values, marker, color="0.55", ms=5, label=label)
    used = np.ones(len(numbers), bool) if fitted is None else np.asarray(fitted)
    axis.loglog(numbers[used], np.asarray(mean)[used], "o", color="#0072b2", ms=5, label="mean")
    axis.loglog(numbers[~used], np.asarray(mean)[~used], "o", color="#0072b2", mfc="none", ms=5)
    axis.loglog(
        numbers,
        prefactor * numbers**exponent,
        "-",
        color="#0072b2",
        lw=1,
        label=rf"${prefactor:.3f}\,N^{{{exponent:.3f}}}$",
    )
    axis.set_xlabel("number of points N")
    axis.set_ylabel("distance to the nearest other point")
    axis.legend(frameon=False)
    return axis


def sigma_history(
    axis: Axes, train: Sequence[float], held_out: Sequence[float], *, name: str
) -> Axes:
    """sigma on training points and on held-out points against the step of a flow."""
    colour = COLOURS.get(name)
    axis.semilogy(range(len(train)), train, "-", color=colour, label=f"{LABELS.get(name, name)}")
    axis.semilogy(range(len(held_out)), held_out, "--", color=colour)
    axis.set_xlabel("step")
    axis.set_ylabel(r"$\sigma$ (solid: training, dashed: held out)")
    axis.legend(frameon=False)
    return axis
