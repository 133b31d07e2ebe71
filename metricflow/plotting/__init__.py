"""Figures: arrays and a matplotlib axis in, the axis out.

Import it by name, ``from metricflow import plotting``: it needs matplotlib, the rest does not.
"""

from .._front_door import guard
from .clusters import distance_matrix
from .comparison import gain_bars, regression_history
from .curves import (
    accuracy_against_time,
    gain_against_distance,
    gain_against_epoch,
    nearest_neighbour_distances,
    search_history,
    sigma_history,
    training_history,
)
from .flows import flow_histories, flow_map, local_limit
from .spectra import drift_against_width, drift_history, spectrum_histogram
from .surface import colour_bar, shaded_surface

__all__ = [
    "accuracy_against_time",
    "colour_bar",
    "distance_matrix",
    "drift_against_width",
    "drift_history",
    "flow_histories",
    "flow_map",
    "gain_against_distance",
    "gain_against_epoch",
    "gain_bars",
    "local_limit",
    "nearest_neighbour_distances",
    "regression_history",
    "search_history",
    "shaded_surface",
    "sigma_history",
    "spectrum_histogram",
    "training_history",
]

guard(globals())
