"""Kaehler potentials with the functions d phi / d theta_k along which their parameters move them.

A Galerkin flow needs these tangent functions as jets: values, gradients and complex Hessians at the
points.  For a linear potential they are the basis; for a network they move with the parameters.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .._annotations import Count
from .._pytree import register_dataclass
from .._tiles import carrying, map_tiles
from ..ansatz.features import composed_jet
from ..geometry import Points
from .monge_ampere import LinearPotential, NetworkPotential


@runtime_checkable
class TangentPotential(Protocol):
    """A family of potentials phi(theta) at fixed points."""

    @property
    def points(self) -> Points:
        """The points."""
        ...

    def metric(self, parameters: Any) -> Array:
        """g at the points, shape (N, n, n)."""
        ...

    def tangents(self, parameters: Any) -> Array:
        """The jets of d phi / d theta_k, shape (P, 1 + 2n + n^2, N)."""
        ...


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinearTangents:
    """phi = sum_k c_k f_k with stored jets.

    Attributes:
        points: the points.
        jets: of the functions f_k at the points, shape (M, 1 + 2n + n^2, N): from
            :func:`metricflow.ansatz.feature_jets` (with its axes moved, see
            :func:`spectral_tangents`) or :func:`metricflow.ansatz.kernel_jets`.
    """

    points: Points
    jets: Float[Array, "m c b"]

    @property
    def least_squares(self) -> LinearPotential:
        """The Monge-Ampere equation for the same family, for Gauss-Newton."""
        dim = self.points.pullback.shape[-2]
        return LinearPotential(self.points, self.jets[:, 1 + 2 * dim :])

    def metric(self, parameters: Float[Array, " m"]) -> Complex[Array, "b n n"]:
        """g at the points, shape (N, n, n)."""
        return self.least_squares.metric(parameters)

    def tangents(self, parameters: Float[Array, " m"]) -> Float[Array, "m c b"]:
        """The jets of the functions, whatever the parameters are."""
        return self.jets


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NetworkTangents(NetworkPotential):
    """phi = network(theta, y): the problem of Gauss-Newton, with its tangent functions."""

    def tangents(self, parameters: Any, *, chunk: Count = 32) -> Float[Array, "p c b"]:
        """The jets of d phi / d theta_k, parameters in the order of ``ravel_pytree``."""
        dim = self.points.pullback.shape[-2]
        flat, unravel = jax.flatten_util.ravel_pytree(parameters)
        apply = getattr(self.network, "apply", self.network)

        def at(flat: Array, one: Array) -> Array:
            def jet(theta: Array) -> Array:
                return composed_jet(lambda y: apply(unravel(theta), y), one, dim)

            return jax.jacrev(jet)(flat)

        found = map_tiles(
            carrying(jax.vmap(at, (None, 0)), flat), self.features, chunk
        )  # (N, c, P)
        return jnp.moveaxis(found, 0, -1).swapaxes(0, 1)
