"""metricflow.processes moves values between host and processes."""

from collections.abc import Callable

from tests.robustness.calls.call import Call

CALLS: dict[str, Callable[[], Call]] = {}

NOT_APPLICABLE = {
    "Value": "type",
    "agreed": "host",
    "local": "host",
    "on_first": "host",
    "on_host": "host",
}
