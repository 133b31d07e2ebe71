"""Several processes that run one program: what they have to agree on, and who writes files.

Every process runs the same program on the devices of all (``jax.distributed.initialize``).  What is
on this page is collective: all processes have to come by, or those that did wait for ever.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Value = TypeVar("Value")


def on_host(tree: Any) -> Any:
    """Arrays as NumPy arrays, complete on every process."""

    def fetched(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return np.asarray(leaf)

    return jax.tree.map(fetched, tree)


def local(tree: Any) -> Any:
    """Arrays that functions may close over: compiled programs refuse those of other processes."""
    return tree if jax.process_count() == 1 else on_host(tree)


def agreed(value: Value) -> Value:
    """The value of the first process, JSON data, on every process."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    padded[: min(size, len(text))] = text[:size]
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).decode())


def on_first(function: Callable[[], object]) -> None:
    """Call a function on the first process alone, for instance to write a file.

    The others go on when it has returned; if it fails, all fail.

    Raises:
        RuntimeError: on the other processes, with what went wrong on the first, which raises what
            the function raised.
    """
    if jax.process_count() == 1:
        function()
        return
    error: BaseException | None = None
    if jax.process_index() == 0:
        try:
            function()
        except BaseException as failure:
            error = failure
    message = agreed(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    if message is not None:
        raise RuntimeError(f"the first process failed: {message}")
