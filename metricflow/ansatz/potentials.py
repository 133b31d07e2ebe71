"""Potentials that are functions of invariant features: networks and fixed kernels.

g = g_FS + d dbar phi(y(x)) with features y of a spectral basis: Kaehler by construction, the same
tensor in every chart.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .._annotations import AtLeast, Count
from .._checks import AnyArray
from .._jit import jit
from .._pytree import register_dataclass
from .._tiles import carrying, map_tiles
from ..geometry import Hypersurface, Points, fubini_study_metric, hermitian_pack
from .features import composed_hessian, feature_jets
from .global_metric import GlobalMetric
from .invariant_functions import SpectralBasis
from .jets import components_to_hermitian, hermitian_components
from .networks import Mlp
from .perceptrons import perceptron_hessians
from .spectral_recursion import spectral_basis
from .symmetry import no_symmetry

Width = Annotated[Float[AnyArray, ""] | float, AtLeast(0)]


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
        network: with ``apply(theta, y)``, or that function itself.
        parameters: theta.
    """

    manifold: Hypersurface
    basis: SpectralBasis
    network: Any = dataclasses.field(metadata={"static": True})
    parameters: Any

    def hessians(self, features: Float[Array, "b f c"]) -> Float[Array, "h b"]:
        """d dbar phi at points whose feature jets are given, as n^2 real components."""
        return network_hessians(self.network, self.parameters, features, self.manifold.dim)


class PotentialData(NamedTuple):
    """What the training of a potential needs at points, computed once.

    Attributes:
        points: the points.
        features: jets of the features, shape (N, F, 1 + 2n + n^2).
        reference: g_FS, shape (N, n, n).
    """

    points: Points
    features: Float[Array, "b f c"]
    reference: Complex[Array, "b n n"]


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PotentialModel:
    """g = g_FS + d dbar phi with phi a network of features, ready to be trained.

    Kaehler and the same tensor in every chart, whatever the parameters are.

    Attributes:
        manifold: the hypersurface.
        basis: whose functions are the features: :func:`projective_features` for what any point of
            projective space has, a :func:`metricflow.ansatz.spectral_basis` with the symmetry of
            the hypersurface for its invariants.
        network: with ``apply(parameters, y)``, or that function itself: from the features of one
            point to a number.

    Source: MF B.1, MF B.5.
    """

    manifold: Hypersurface
    basis: SpectralBasis
    network: Any = dataclasses.field(metadata={"static": True})

    kaehler = True

    def prepare(self, points: Points) -> PotentialData:
        """Feature jets and the reference metric at points."""
        return PotentialData(points, feature_jets(self.basis, points), fubini_study_metric(points))

    def metric(self, parameters: Any, data: PotentialData) -> Complex[Array, "b n n"]:
        """g at prepared points, shape (N, n, n)."""
        dim = self.manifold.dim
        components = network_hessians(self.network, parameters, data.features, dim)
        return data.reference + components_to_hermitian(components, dim)

    def components(self, parameters: Any, data: PotentialData) -> Float[Array, "b c"]:
        """The real components of g, :func:`metricflow.geometry.hermitian_pack`, (N, n^2)."""
        return hermitian_pack(self.metric(parameters, data))

    def bind(self, parameters: Any) -> NetworkMetric:
        """The metric with these parameters: it can be called, diagnosed and saved."""
        return NetworkMetric(self.manifold, self.basis, self.network, parameters)


def projective_features(manifold: Hypersurface, points: Points) -> SpectralBasis:
    """The (n+2)^2 - 1 functions z_i zbar_j / |z|^2 modulo constants, orthonormal on the points.

    They need no symmetry of the hypersurface, and any function on projective space is a function
    of them.
    """
    return spectral_basis(manifold, 1, points, symmetry=no_symmetry(manifold))


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
    width: Width
    centres: Float[AnyArray, "m f"]
    coefficients: Float[AnyArray, " m"]

    def hessians(self, features: Float[Array, "b f c"]) -> Float[Array, "h b"]:
        """d dbar phi at points whose feature jets are given, as n^2 real components."""
        dim = self.manifold.dim
        centres, coefficients = jnp.asarray(self.centres), jnp.asarray(self.coefficients)

        def at(centres: Array, coefficients: Array, width: AnyArray | float, tile: Array) -> Array:
            second = jax.vmap(_kernel_hessian, (0, None, None, None))(tile, centres, width, dim)
            return jnp.einsum("k,xkh->xh", coefficients, second)

        return map_tiles(carrying(at, centres, coefficients, self.width), features, 64).T


def network_hessians(
    network: Any, parameters: Any, features: Float[Array, "b f c"], dim: int
) -> Float[Array, "h b"]:
    """d dbar of a network potential at points whose feature jets are given.

    A perceptron of this library goes layer by layer, any other function by automatic
    differentiation.

    Raises:
        ValueError: a perceptron of several outputs.
    """
    if isinstance(network, Mlp):
        if network.outputs is not None:
            raise ValueError(
                f"network: a potential is one number, this perceptron has {network.outputs} "
                "outputs; make it with ansatz.mlp, or with outputs=None"
            )
        if network.layered:
            layers = network.layers(parameters)
            return perceptron_hessians(layers, network.function, jnp.moveaxis(features, 0, -1), dim)
    apply = getattr(network, "apply", network)

    def at(one: Array) -> Array:
        return composed_hessian(lambda y: apply(parameters, y), one, dim)

    return jax.vmap(at, out_axes=1)(features)


@jit(static_argnames=("dim", "chunk"))
def kernel_hessians(
    features: Float[Array, "b f c"],
    centres: Float[AnyArray, "m f"],
    width: Width,
    dim: int,
    *,
    chunk: Count = 64,
) -> Float[Array, "m h b"]:
    """d dbar K(y(x), y_b) for all centres b: shape (B, n^2, N), the columns of a collocation.

    With u = y - y_b: K (-u . ddbar y - dy . dbar y + (u . dy)(u . dbar y) / s^2) / s^2.
    """

    def at(centres: Array, width: AnyArray | float, tile: Array) -> Array:
        return jax.vmap(_kernel_hessian, (0, None, None, None))(tile, centres, width, dim)

    function = carrying(at, jnp.asarray(centres), width)
    return jnp.moveaxis(map_tiles(function, features, chunk), 0, -1)


@jit(static_argnames=("dim", "chunk"))
def kernel_jets(
    features: Float[Array, "b f c"],
    centres: Float[AnyArray, "m f"],
    width: Width,
    dim: int,
    *,
    chunk: Count = 64,
) -> Float[Array, "m c b"]:
    """The jets of K(y(x), y_b) for all centres b: shape (B, 1 + 2n + n^2, N)."""

    def at(centres: Array, width: AnyArray | float, one: Array) -> Array:
        u = one[:, 0] - centres
        kernel = jnp.exp(-jnp.sum(u**2, axis=1) / (2 * width**2))[:, None]
        slope = -kernel * (u @ one[:, 1 : 1 + 2 * dim]) / width**2
        hessian = _kernel_hessian(one, centres, width, dim)
        return jnp.concatenate([kernel, slope, hessian], axis=1)

    function = carrying(jax.vmap(at, (None, None, 0)), jnp.asarray(centres), width)
    return jnp.moveaxis(map_tiles(function, features, chunk), 0, -1)


def _kernel_hessian(one: Array, centres: Array, width: AnyArray | float, dim: int) -> Array:
    u = one[:, 0] - centres
    slope = one[:, 1 : 1 + dim] + 1j * one[:, 1 + dim : 1 + 2 * dim]
    kernel = jnp.exp(-jnp.sum(u**2, axis=1) / (2 * width**2)) / width**2
    radial = u @ slope  # (B, n)
    cross = radial[:, :, None] * radial[:, None, :].conj() / width**2 - slope.T @ slope.conj()
    second = hermitian_components(cross) - u @ one[:, 1 + 2 * dim :]
    return kernel[:, None] * second
