"""Calls of metricflow.devices, without a mesh: tests/test_devices.py has those with one."""

from collections.abc import Callable

import jax.numpy as jnp

from metricflow import devices as D  # noqa: N812
from tests.robustness.calls.call import Call, call, numbers

CALLS: dict[str, Callable[[], Call]] = {
    "by_rows": lambda: call(lambda x: D.by_rows(jnp.sin, x), numbers(1, 4, 3)),
    "divide": lambda: call(D.divide, numbers(1, 4, 3)),
    "everywhere": lambda: call(D.everywhere, numbers(1, 4, 3)),
    "filled_up": lambda: call(lambda x: D.filled_up(x, 6), numbers(1, 4, 3)),
}

NOT_APPLICABLE = {"mesh": "host", "on_each": "mesh", "sharing": "host", "summed": "mesh"}
