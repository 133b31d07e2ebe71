"""The threads of processors that stand for devices."""

import os


def threads_of_processors() -> int:
    """How many threads jax has on processors, if nobody changed ``NPROC`` since it began."""
    given = os.environ.get("NPROC", "")
    if given.isdigit():
        return int(given)
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
