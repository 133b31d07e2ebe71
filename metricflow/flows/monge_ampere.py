"""The Monge-Ampere equation det(g_FS + d dbar phi) = kappa |Omega|^2 as least squares.

One problem for each way to write the potential; :class:`metricflow.flows.GaussNewton` solves them.
What does not depend on the parameters is computed once and kept.
"""

import dataclasses
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._annotations import Count
from .._pytree import register_dataclass
from .._tiles import carrying, map_tiles
from ..ansatz.algebraic import algebraic_metric
from ..ansatz.jets import components_to_hermitian, hermitian_dual
from ..ansatz.models import ComponentInputs, ComponentModel
from ..ansatz.potentials import network_hessians
from ..energies import monge_ampere_residuals
from ..geometry import Points, fubini_study_metric, hermitian_inverse


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinearPotential:
    """phi = sum_k c_k f_k with stored derivative tensors; the Jacobian is in closed form.

    Attributes:
        points: training points.
        hessians: d dbar f_k at the points as n^2 real components, shape (M, n^2, N), from
            :func:`metricflow.ansatz.basis_hessians` or :func:`metricflow.ansatz.kernel_hessians`.
    """

    points: Points
    hessians: Float[Array, "m h b"]

    def metric(self, coefficients: Float[Array, " m"]) -> Array:
        """g at the points, shape (N, n, n)."""
        dim = self.points.pullback.shape[-2]
        total = jnp.einsum("k,khx->hx", coefficients, self.hessians)
        return fubini_study_metric(self.points) + components_to_hermitian(total, dim)

    def residuals(self, coefficients: Float[Array, " m"]) -> Array:
        """See :func:`metricflow.energies.monge_ampere_residuals`."""
        return monge_ampere_residuals(self.metric(coefficients), self.points)

    def jacobian(self, coefficients: Float[Array, " m"]) -> tuple[Array, Array]:
        """r, and dr_x / dc_k = sqrt(w_x) (tr(g^-1 d dbar f_k) - mean), shape (N, M)."""
        g = self.metric(coefficients)
        dual = hermitian_dual(hermitian_inverse(g))
        rows = jnp.einsum("khx,hx->xk", self.hessians, dual)
        weight = self.points.weight / jnp.sum(self.points.weight)
        centred = rows - weight @ rows
        return monge_ampere_residuals(g, self.points), jnp.sqrt(weight)[:, None] * centred


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NetworkPotential:
    """phi = network(theta, y) with stored feature jets.

    Attributes:
        points: training points.
        features: jets of the features, shape (N, F, 1 + 2n + n^2), from
            :func:`metricflow.ansatz.feature_jets`.
        network: with ``apply(theta, y)``, or that function itself.
    """

    points: Points
    features: Float[Array, "b f c"]
    network: Any = dataclasses.field(metadata={"static": True})

    def metric(self, parameters: Any) -> Array:
        """g at the points, shape (N, n, n)."""
        dim = self.points.pullback.shape[-2]
        components = network_hessians(self.network, parameters, self.features, dim)
        return fubini_study_metric(self.points) + components_to_hermitian(components, dim)

    def residuals(self, parameters: Any) -> Array:
        """See :func:`metricflow.energies.monge_ampere_residuals`."""
        return monge_ampere_residuals(self.metric(parameters), self.points)

    def jacobian(self, parameters: Any, *, chunk: Count = 256) -> tuple[Array, Array]:
        """r and dr/dtheta of shape (N, P), one backward pass a point."""
        g = self.metric(parameters)
        dim = g.shape[-1]
        dual = hermitian_dual(hermitian_inverse(g)).T

        def row(parameters: Any, point: tuple[Array, Array]) -> Array:
            features, weights = point

            def trace(theta: Any) -> Array:
                return weights @ network_hessians(self.network, theta, features[None], dim)[:, 0]

            return jax.flatten_util.ravel_pytree(jax.grad(trace)(parameters))[0]

        by_point = carrying(jax.vmap(row, (None, 0)), parameters)
        rows = map_tiles(by_point, (self.features, dual), chunk)
        weight = self.points.weight / jnp.sum(self.points.weight)
        centred = rows - weight @ rows
        return monge_ampere_residuals(g, self.points), jnp.sqrt(weight)[:, None] * centred


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NetworkComponents:
    """A network for the components of the metric, or its linearisation: not Kaehler.

    With :func:`metricflow.ansatz.tangent_network` the damped steps of Gauss-Newton reach the end of
    the flow of a frozen metric-NTK in a few steps, which gradient steps with its small eigenvalues
    do not.

    Attributes:
        model: the model.
        points: training points.
        inputs: what it reads there, from :meth:`metricflow.ansatz.ComponentModel.inputs`.
    """

    model: ComponentModel
    points: Points
    inputs: ComponentInputs

    def metric(self, parameters: Any) -> Array:
        """g at the points, shape (N, n, n)."""
        return self.model.metric(parameters, self.inputs)

    def residuals(self, parameters: Any) -> Array:
        """See :func:`metricflow.energies.monge_ampere_residuals`."""
        return monge_ampere_residuals(self.metric(parameters), self.points)


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AlgebraicPotential:
    """K = (1/k) log s^dagger H s with stored section jets; its Jacobian is never formed.

    A product with the Jacobian is two real matrix products, 32 S^2 (1 + n) operations a point.

    Attributes:
        points: training points.
        jets: of the sections, from :func:`metricflow.ansatz.section_jets`.
        degree: k.
    """

    points: Points
    jets: Float[Array, "two_s jets b"]
    degree: int = dataclasses.field(metadata={"static": True})

    def metric(self, parameters: Float[Array, "s s"]) -> Array:
        """g at the points, shape (N, n, n)."""
        return algebraic_metric(parameters, self.jets, self.degree)

    def residuals(self, parameters: Float[Array, "s s"]) -> Array:
        """See :func:`metricflow.energies.monge_ampere_residuals`."""
        return monge_ampere_residuals(self.metric(parameters), self.points)
