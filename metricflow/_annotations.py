"""What annotations say beyond types: bounds of numbers, and which coordinates there are.

``int`` alone is a number of things, at least 0; :data:`Count` and :data:`Signed` are the others.
The front door holds public calls against them.
"""

import dataclasses
import math
from typing import Annotated, Any, TypeVar

import jax
import numpy as np

from ._checks import AnyArray, count_where


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """A lower bound of every entry.

    Attributes:
        least: the smallest value that is allowed.
    """

    least: int | float

    def refusal(self, value: Any) -> str | None:
        """What was expected instead, None if nothing is wrong."""
        if count_where(lambda _, x: x < self.least, _array(value)):
            return f"a number of at least {self.least}"
        return None


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """Indices of homogeneous coordinates, from 0 to n + 1.

    Attributes:
        pairs: whether they are (scaled, eliminated) of a chart, which differ.
    """

    pairs: bool

    def refusal(self, value: Any, ambient: int) -> str | None:
        """What was expected instead of indices of ``ambient`` coordinates, None if nothing."""
        indices = _array(value)
        if count_where(lambda _, x: (x < 0) | (x >= ambient), indices):
            return f"indices from 0 to {ambient - 1}"
        if self.pairs and count_where(lambda _, x: x[..., 0] == x[..., 1], indices):
            return "two different indices (scaled, eliminated)"
        return None


def _array(value: Any) -> AnyArray:
    return value if isinstance(value, jax.Array) else np.asarray(value)


COORDINATES = Coordinates(pairs=False)
CHART = Coordinates(pairs=True)
Count = Annotated[int, AtLeast(1)]
Signed = Annotated[int, AtLeast(-math.inf)]


_Class = TypeVar("_Class", bound=type)


def with_checked_fields(cls: _Class) -> _Class:
    """Decorator: the arrays in such a tuple belong together, and to the other arguments."""
    cls._fields_are_checked = True  # type: ignore[attr-defined]
    return cls
