"""metricflow.plotting draws: nothing of it is computed by jax."""

from collections.abc import Callable

from tests.robustness.calls.call import Call

CALLS: dict[str, Callable[[], Call]] = {}

NOT_APPLICABLE = {
    name: "figure"
    for name in (
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
    )
}
