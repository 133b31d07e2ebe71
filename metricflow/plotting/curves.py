"""Numbers of runs as curves: gain, loss and distances."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

COLOURS = {
    "relu": "#0072b2",
    "gaussian": "#d55e00",
    "delta": "#009e73",
    "spectral": "#0072b2",
    "algebraic": "#d55e00",
    "network": "#009e73",
    "kernel": "#cc79a7",
    "relu_network": "black",
    "erf": "#009e73",
    "gelu": "#cc79a7",
    "frozen_ntk": "#cc79a7",
}
LABELS = {
    "relu": "ReLU NTK",
    "gaussian": "Gaussian",
    "delta": "delta",
    "relu_network": "ReLU network",
    "frozen_ntk": "flow of its NTK, frozen then",
    "network": "network",
}


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


def search_history(axis: Axes, scores: Sequence[float], *, name: str) -> Axes:
    """The scores of a search and the best so far against the number of the evaluation.

    Args:
        axis: where to draw.
        scores: in the order of evaluation.
        name: of what was tuned.
    """
    number = np.arange(1, len(scores) + 1)
    colour = COLOURS.get(name)
    axis.plot(number, scores, ".", color=colour, ms=4, alpha=0.6)
    best = np.maximum.accumulate(np.asarray(scores))
    axis.step(number, best, where="post", color=colour, label=LABELS.get(name, name))
    axis.set_xlabel("evaluation")
    axis.legend(frameon=False)
    return axis


def training_history(
    axis: Axes, history: Sequence[Mapping[str, Any]], *, before: float, first: bool = True
) -> Axes:
    """The validation loss and its terms against the epoch.

    Args:
        axis: where to draw, the loss on a logarithmic scale.
        history: rows of :meth:`metricflow.training.Training.run` with a validation.
        before: the validation loss at the start.
        first: of several runs in one figure, the one with entries in the legend.
    """
    epochs = [0, *(row["epoch"] for row in history)]
    names = [name for name in history[0]["validation"] if name != "loss"]
    losses = [before, *(row["validation"]["loss"] for row in history)]
    axis.semilogy(epochs, losses, "-", color="black", lw=1.2, label="total" if first else None)
    for place, name in enumerate(names if len(names) > 1 else []):
        values = np.array([row["validation"][name] for row in history], float)
        label = name.replace("monge_ampere", "Monge-Ampère").replace("kaehler", "Kähler")
        colour = f"C{place}"
        shown = np.where(values > 0, values, np.nan)
        axis.semilogy(epochs[1:], shown, "-", color=colour, lw=1, label=label if first else None)
    axis.set_xlabel("epoch")
    axis.set_ylabel("loss on held-out points")
    axis.legend(frameon=False)
    return axis


def gain_against_epoch(
    axis: Axes,
    epochs: Sequence[int],
    curves: Mapping[str, Sequence[Sequence[float]]],
    *,
    constant: Mapping[str, float],
) -> Axes:
    """Test gains against the epoch of a network: mean and range over seeds.

    Args:
        axis: where to draw, the gain on a logarithmic scale.
        epochs: E epochs.
        curves: for each label E rows of S seeds.
        constant: gains of what does not depend on the network, as dotted lines.
    """
    for name, rows in curves.items():
        values, colour = np.asarray(rows, float), COLOURS.get(name)
        axis.plot(
            epochs, values.mean(axis=1), "o-", ms=4, color=colour, label=LABELS.get(name, name)
        )
        axis.fill_between(
            epochs, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.2, lw=0
        )
    for name, value in constant.items():
        axis.axhline(value, color=COLOURS.get(name), ls=":", label=LABELS.get(name, name))
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xlim(0, max(epochs))
    axis.set_xticks(epochs, [str(epoch) for epoch in epochs])
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    axis.set_xlabel("epoch")
    axis.set_ylabel(r"test gain in $\sigma$")
    axis.legend(frameon=False)
    return axis


def accuracy_against_time(
    axis: Axes, histories: Mapping[str, Sequence[Sequence[float]]], *, style: str = "o-"
) -> Axes:
    """sigma on held-out points against wall seconds, both scales logarithmic.

    Args:
        axis: where to draw.
        histories: for each label rows (seconds, sigma).
        style: line style, as in ``axis.plot``.

    Raises:
        ValueError: rows that are not pairs.
    """
    for name, rows in histories.items():
        pairs = np.asarray(rows, float)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError(
                f"histories: expected rows (seconds, sigma), got shape {pairs.shape} for {name!r}"
            )
        seconds, sigma = pairs.T
        axis.loglog(
            seconds, sigma, style, color=COLOURS.get(name), label=LABELS.get(name, name), ms=4
        )
    axis.set_xlabel("wall seconds since the start of the process")
    axis.set_ylabel(r"$\sigma$ on held-out points")
    axis.legend(frameon=False)
    return axis
