"""Distance matrices of clustered points."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.image import AxesImage


def distance_matrix(
    axis: Axes, distances: np.ndarray, labels: Sequence[int] | None = None
) -> AxesImage:
    """The distances of all pairs as a picture, points in the order of their clusters.

    Args:
        axis: where to draw.
        distances: shape (N, N).
        labels: cluster of every point; None keeps the order.  Thin lines separate clusters.

    Returns:
        The image, for a colour bar.

    Source: MF section 3.1 (Fig. 2)
    """
    distances = np.asarray(distances)
    if labels is not None:
        order = np.argsort(labels, kind="stable")
        distances = distances[np.ix_(order, order)]
        for edge in np.cumsum(np.bincount(labels))[:-1] - 0.5:
            axis.axhline(edge, color="white", lw=0.3)
            axis.axvline(edge, color="white", lw=0.3)
    # few colours: a picture of noise does not compress
    colours = colormaps["viridis"].resampled(12)
    image = axis.imshow(distances, cmap=colours, vmin=0, vmax=np.pi / 2, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    return image
