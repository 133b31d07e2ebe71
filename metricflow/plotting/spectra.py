"""Spectra of tangent kernels, and how far they move."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

_NAMES = {
    "block_eigenvalues": "eigenvalues of blocks (as in the paper)",
    "block_singular_values": "singular values of blocks",
    "joint": "joint spectrum",
    "gradient_descent": "gradient descent, NTK parameterisation",
    "adam": "Adam, standard parameterisation",
}


def spectrum_histogram(
    axis: Axes, spectra: Mapping[str, Sequence[float]], *, bins: int = 60, linear: float = 1e-2
) -> Axes:
    """Histograms of spectra on a scale that is linear around zero and logarithmic beyond.

    Args:
        axis: where to draw.
        spectra: for each label its numbers.
        bins: of the histogram.
        linear: where the logarithmic scale begins.

    Source: MF section 3.3 (Fig. 4, left)
    """
    numbers = np.concatenate([np.asarray(values, float) for values in spectra.values()])
    folded = np.arcsinh(numbers / linear)
    edges = linear * np.sinh(np.linspace(folded.min(), folded.max(), bins + 1))
    for name, values in spectra.items():
        axis.hist(values, list(edges), histtype="stepfilled", alpha=0.5, label=name)
    axis.set_xscale("symlog", linthresh=linear)
    axis.set_ylabel("count")
    axis.legend(frameon=False)
    return axis


def drift_history(
    axis: Axes,
    epochs: Sequence[int],
    drift: Mapping[str, Sequence[Sequence[float]]],
    *,
    floors: Mapping[str, Sequence[float]] | None = None,
) -> Axes:
    """W_1 to the spectrum at epoch 0 against the epoch: mean and range over seeds.

    Args:
        axis: where to draw.
        epochs: E epochs.
        drift: for each statistic E rows of S seeds.
        floors: for each statistic the distances between seeds at epoch 0; their mean is a dotted
            line.

    Source: MF section 3.3 (Fig. 4, right)
    """
    for place, (name, rows) in enumerate(drift.items()):
        values, colour = np.asarray(rows, float), f"C{place}"
        axis.plot(epochs, values.mean(axis=1), color=colour, label=_NAMES.get(name, name))
        axis.fill_between(
            epochs, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.2, lw=0
        )
        if floors is not None and len(floors[name]):
            axis.axhline(float(np.mean(floors[name])), color=colour, ls=":", lw=1)
    axis.set_xlabel("epoch")
    axis.set_ylabel(r"$W_1$ to epoch 0 / mean at epoch 0")
    axis.legend(frameon=False)
    return axis


def drift_against_width(
    axis: Axes,
    widths: Sequence[int],
    drift: Sequence[Sequence[float]],
    *,
    label: str,
    power: float,
    fitted: Sequence[int],
) -> Axes:
    """How far a kernel moves against the width, a point for each seed, with the fitted power.

    Args:
        axis: where to draw, both scales logarithmic.
        widths: W widths.
        drift: W rows of S seeds.
        label: of the curve.
        power: of the width, in the legend and as a line through the points that it was fitted to.
        fitted: the widths of these.
    """
    rows = [np.asarray(row, float) for row in drift]
    x = np.concatenate([np.full(len(row), w) for w, row in zip(widths, rows, strict=True)])
    y = np.concatenate(rows)
    some = np.isin(x, fitted)
    centre = np.exp(np.mean(np.log(y[some])) - power * np.mean(np.log(x[some])))
    ends = np.array([min(fitted), max(fitted)], float)
    line = axis.loglog(
        ends,
        centre * ends**power,
        "-",
        lw=1,
        label=f"{_NAMES.get(label, label)}: width$^{{{power:.2f}}}$",
    )
    axis.loglog(x, y, "o", ms=4, color=line[0].get_color())
    axis.set_xlabel("width")
    axis.set_ylabel(r"$W_1$ of the joint spectrum / its mean at the start")
    axis.legend(frameon=False)
    return axis
