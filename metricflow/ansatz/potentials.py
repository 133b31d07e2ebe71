"""Potentials that are functions of invariant features: networks and fixed kernels.

g = g_FS + d dbar phi(y(x)) with features y of a spectral basis: Kaehler by construction, the same
tensor in every chart.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import AnyArray
from .._pytree import register_dataclass
from ..geometry import Hypersurface, Points, fubini_study_metric
from .features import composed_hessian, feature_jets
from .global_metric import GlobalMetric
from .jets import components_to_hermitian, hermitian_components
from .networks import Mlp
from .spectral import SpectralBasis


class FeaturePotential(GlobalMetric):
    """g_FS + d dbar phi for a potential that knows its Hessians from the jets of features."""

    basis: SpectralBasis

    def hessians(self, features: Float[Array, "b f c"]) -> Float[Array, "h b"]:
        """d dbar phi at points whose feature jets are given, as n^2 real components."""
        raise NotImplementedError

    def at(self, points: Points) -> Array:
        """g at points in their charts, shape (N, n, n)."""
        components = self.hessians(feature_jets(self.basis, points))
        correction = components_to_hermitian(components, self.manifold.dim)
        return fubini_study_metric(points) + correction


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NetworkMetric(FeaturePotential):
    """g_FS + d dbar phi with phi(x) = network(theta, y(x)).

    Attributes:
        manifold: the hypersurface.
        basis: whose functions are the features y.
        widths, activation: of the :class:`metricflow.ansatz.networks.Mlp`.
        parameters: theta.
    """

    manifold: Hypersurface
    basis: SpectralBasis
    widths: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    activation: str = dataclasses.field(metadata={"static": True})
    parameters: Any

    def hessians(self, features: Float[Array, "b f c"]) -> Float[Array, "h b"]:
        """d dbar phi at points whose feature jets are given, as n^2 real components."""
        return network_hessians(
            Mlp(self.widths, self.activation), self.parameters, features, self.manifold.dim
        )


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class KernelPotentialMetric(FeaturePotential):
    """g_FS + d dbar phi with phi(x) = sum_b K(y(x), y_b) a_b, K = exp(-|y - y'|^2 / 2 width^2).

    A frozen kernel that gives a true Kaehler metric, unlike a kernel on metric components.

    Attributes:
        manifold: the hypersurface.
        basis: whose functions are the features y.
        width: of the Gaussian, in the units of the features (mean square one).
        centres: y_b, shape (B, F).
        coefficients: a_b, shape (B,).
    """

    manifold: Hypersurface
    basis: SpectralBasis
    width: Float[AnyArray, ""] | float
    centres: Float[AnyArray, "m f"]
    coefficients: Float[AnyArray, " m"]

    def hessians(self, features: Float[Array, "b f c"]) -> Float[Array, "h b"]:
        """d dbar phi at points whose feature jets are given, as n^2 real components."""
        dim = self.manifold.dim
        centres, coefficients = jnp.asarray(self.centres), jnp.asarray(self.coefficients)

        def at(one: Array) -> Array:
            return coefficients @ _kernel_hessian(one, centres, self.width, dim)

        return jax.lax.map(at, features, batch_size=64).T


def network_hessians(
    network: Any, parameters: Any, features: Float[Array, "b f c"], dim: int
) -> Float[Array, "h b"]:
    """d dbar of a network potential at points whose feature jets are given."""

    def at(one: Array) -> Array:
        return composed_hessian(lambda y: network.apply(parameters, y), one, dim)

    return jax.vmap(at, out_axes=1)(features)


@functools.partial(jax.jit, static_argnames=("dim", "chunk"))
def kernel_hessians(
    features: Float[Array, "b f c"],
    centres: Float[AnyArray, "m f"],
    width: Float[AnyArray, ""] | float,
    dim: int,
    *,
    chunk: int = 64,
) -> Float[Array, "m h b"]:
    """d dbar K(y(x), y_b) for all centres b: shape (B, n^2, N), the columns of a collocation.

    With u = y - y_b: K (-u . ddbar y - dy . dbar y + (u . dy)(u . dbar y) / s^2) / s^2.
    """

    def at(one: Array) -> Array:
        return _kernel_hessian(one, jnp.asarray(centres), width, dim)

    return jnp.moveaxis(jax.lax.map(at, features, batch_size=chunk), 0, -1)


def _kernel_hessian(one: Array, centres: Array, width: AnyArray | float, dim: int) -> Array:
    u = one[:, 0] - centres
    slope = one[:, 1 : 1 + dim] + 1j * one[:, 1 + dim : 1 + 2 * dim]
    kernel = jnp.exp(-jnp.sum(u**2, axis=1) / (2 * width**2)) / width**2
    radial = u @ slope  # (B, n)
    cross = radial[:, :, None] * radial[:, None, :].conj() / width**2 - slope.T @ slope.conj()
    second = hermitian_components(cross) - u @ one[:, 1 + 2 * dim :]
    return kernel[:, None] * second
