"""jax.jit with the types of what it compiles; jax's own makes them Any for those who call it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import jax

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(*, static_argnames: str | Sequence[str] = ()) -> Callable[[Function], Function]:
    """A decorator: the function compiled by jax.jit, seen by type checkers as it is written."""

    def compiled(function: Function) -> Function:
        return cast(Function, jax.jit(function, static_argnames=static_argnames))

    return compiled
