"""Kernels made of kernels: sums and products are positive semi-definite again."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from .. import _checks
from .._pytree import register_dataclass


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum:
    """K = sum_i c_i K_i: the tangent kernel of networks that are added with factors sqrt(c_i).

    Attributes:
        kernels: with ``matrix(z1, z2)``.
        weights: c_i, not negative; all 1 by default.

    Raises:
        ValueError: no kernels, a kernel without values for pairs, weights of another number or
            below zero.
    """

    kernels: tuple[Any, ...]
    weights: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        _check_parts("Sum", self.kernels)
        weights = self.weights
        if weights is None:
            return
        if not isinstance(weights, tuple) or len(weights) != len(self.kernels):
            got = len(weights) if isinstance(weights, tuple) else weights
            raise ValueError(
                f"weights: expected one for each of {len(self.kernels)} kernels, got {got}"
            )
        known = [w for w in weights if isinstance(w, int | float | jax.Array)]
        if any(not _checks.is_traced(w) and not np.all(np.asarray(w) >= 0) for w in known):
            raise ValueError(f"weights: expected numbers of at least 0, got {weights}")

    @property
    def reads_vectors(self) -> bool:
        """Whether all parts take real vectors."""
        return _read_vectors(self.kernels)

    def matrix(self, z1: Num[Array, "b1 k"], z2: Num[Array, "b2 k"]) -> Float[Array, "b1 b2"]:
        """K for all pairs."""
        weights = (1,) * len(self.kernels) if self.weights is None else self.weights
        parts = [c * part.matrix(z1, z2) for c, part in zip(weights, self.kernels, strict=True)]
        return jnp.asarray(sum(parts[1:], parts[0]))


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Product:
    """K = prod_i K_i: two points are near only if every factor says so.

    Attributes:
        kernels: with ``matrix(z1, z2)``.

    Raises:
        ValueError: no kernels, a kernel without values for pairs.
    """

    kernels: tuple[Any, ...]

    def __post_init__(self) -> None:
        _check_parts("Product", self.kernels)

    @property
    def reads_vectors(self) -> bool:
        """Whether all factors take real vectors."""
        return _read_vectors(self.kernels)

    def matrix(self, z1: Num[Array, "b1 k"], z2: Num[Array, "b2 k"]) -> Float[Array, "b1 b2"]:
        """K for all pairs."""
        found = self.kernels[0].matrix(z1, z2)
        for factor in self.kernels[1:]:
            found = found * factor.matrix(z1, z2)
        return found


def _check_parts(name: str, kernels: tuple[Any, ...]) -> None:
    if not isinstance(kernels, tuple) or not kernels:
        raise ValueError(f"kernels: expected a tuple of at least one for a {name}, got {kernels}")
    wrong = [k for k in kernels if not hasattr(k, "matrix")]
    if wrong:
        raise ValueError(
            f"kernels: expected kernels with values for pairs of points, got {wrong}; kernels that "
            "mix components, and Delta, cannot be parts"
        )


def _read_vectors(kernels: tuple[Any, ...]) -> bool:
    return all(getattr(kernel, "reads_vectors", False) for kernel in kernels)
