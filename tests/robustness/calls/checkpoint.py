"""metricflow.checkpoint writes and reads files."""

from collections.abc import Callable

from tests.robustness.calls.call import Call

CALLS: dict[str, Callable[[], Call]] = {}

NOT_APPLICABLE = {"load_metric": "file", "read_provenance": "file", "save_metric": "file"}
