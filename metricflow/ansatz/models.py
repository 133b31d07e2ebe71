"""Models: a network that writes a metric, g = metric(parameters, points), ready to be trained.

- free: g = 1 + h
- additive: g = g_FS + h
- multiplicative: g_ab = g_FS_ab (1 + h_ab), component by component
- matrix: g = L (1 + h) L^dagger with g_FS = L L^dagger
- potential: g = g_FS + d dbar phi, see :class:`PotentialModel`

with h the Hermitian matrix whose real components the network gives at the coordinates of a point.
Only the last is Kaehler, and a tensor, by construction.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .. import _checks
from .._pytree import register_dataclass
from .._tiles import carrying, map_tiles
from ..geometry import (
    FubiniStudyMetric,
    Hypersurface,
    Points,
    fubini_study_metric,
    hermitian_pack,
    hermitian_root,
    hermitian_unpack,
    neighbour_chart,
    points_at,
    real_derivatives,
    transition,
)
from .global_metric import GlobalMetric

_TILE = 4096


def _free(h: Array, reference: Array) -> Array:
    return jnp.eye(h.shape[-1], dtype=h.dtype) + h


def _additive(h: Array, reference: Array) -> Array:
    return reference + h


def _multiplicative(h: Array, reference: Array) -> Array:
    return reference + reference * h


def _matrix(h: Array, reference: Array) -> Array:
    root = hermitian_root(reference)
    return reference + jnp.einsum("...ab,...bc,...dc->...ad", root, h, root.conj())


ANSAETZE: dict[str, Callable[[Array, Array], Array]] = {
    "free": _free,
    "additive": _additive,
    "multiplicative": _multiplicative,
    "matrix": _matrix,
}


class ComponentData(NamedTuple):
    """What the training of a component model needs at points, computed once.

    Attributes:
        points: the points.
        inputs: Re z and Im z with z_s = 1, shape (N, 2(n+2)).
        directions: how the inputs move along the 2n real directions of X, shape (N, 2n, 2(n+2)).
        reference: g_FS, shape (N, n, n).
        reference_slopes: its derivatives along these directions, as real components (N, 2n, n^2).
        beside_inputs, beside_reference: the same in the neighbouring chart.
        change: T with g' = T g T^dagger, from the chart of a point to the neighbouring one.
    """

    points: Points
    inputs: Float[Array, "b f"]
    directions: Float[Array, "b d f"]
    reference: Complex[Array, "b n n"]
    reference_slopes: Float[Array, "b d c"]
    beside_inputs: Float[Array, "b f"]
    beside_reference: Complex[Array, "b n n"]
    change: Complex[Array, "b n n"]


class ComponentInputs(NamedTuple):
    """What the metric of a component model needs at points, and nothing else.

    Attributes:
        inputs: Re z and Im z with z_s = 1, shape (N, 2(n+2)).
        reference: g_FS, shape (N, n, n).
    """

    inputs: Float[Array, "b f"]
    reference: Complex[Array, "b n n"]


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ComponentModel:
    """A network for the components of the metric in the chart of each point.

    Attributes:
        manifold: the hypersurface.
        ansatz: ``"free"``, ``"additive"``, ``"multiplicative"`` or ``"matrix"``.
        network: with ``apply(parameters, x)``, or that function itself: from the 2(n+2) real
            coordinates of one point to n^2 numbers, the components of
            :func:`metricflow.geometry.hermitian_pack`.

    Source: MF section 3.3 (the multiplicative model).
    """

    manifold: Hypersurface
    ansatz: str = dataclasses.field(metadata={"static": True})
    network: Any = dataclasses.field(metadata={"static": True})

    kaehler = False

    def __post_init__(self) -> None:
        _checks.one_of("ansatz", self.ansatz, sorted(ANSAETZE))

    def prepare(self, points: Points) -> ComponentData:
        """Inputs, reference metric and the neighbouring chart at points."""
        return _prepared(self, points)

    def inputs(
        self, z: Complex[Array, "b k"], reference: Complex[Array, "b n n"]
    ) -> ComponentInputs:
        """What :meth:`metric` and :meth:`components` need, of points and g_FS in their charts."""
        return ComponentInputs(real_coordinates(z), reference)

    def metric(
        self, parameters: Any, data: ComponentData | ComponentInputs
    ) -> Complex[Array, "b n n"]:
        """g at prepared points, shape (N, n, n)."""
        return self._assembled(parameters, data.inputs, data.reference)

    def components(
        self, parameters: Any, data: ComponentData | ComponentInputs
    ) -> Float[Array, "b c"]:
        """The real components of g, :func:`metricflow.geometry.hermitian_pack`, (N, n^2)."""
        return hermitian_pack(self.metric(parameters, data))

    def component_map(self, data: ComponentData | ComponentInputs) -> Float[Array, "b c c"]:
        """dg_I/dh_J at prepared points: how the metric follows the network, (N, n^2, n^2).

        A factor h(x) in front of a network multiplies its tangent kernel by h(x) h(x'); this matrix
        A(x) is such a factor for all components at once, Theta_g = A(x) Theta_h A(x')^T.

        Source: MF 2.15, MF 2.16
        """
        ansatz = ANSAETZE[self.ansatz]

        def assembled(reference: Array) -> Array:
            def packed(h: Array) -> Array:
                return hermitian_pack(ansatz(hermitian_unpack(h), reference))

            zero = jnp.zeros(self.manifold.dim**2, reference.real.dtype)
            return jax.jacfwd(packed)(zero)

        return jax.vmap(assembled)(data.reference)

    def real_slopes(self, parameters: Any, data: ComponentData) -> Float[Array, "b d c"]:
        """Derivatives of g along the 2n real directions as real components, (N, 2n, n^2)."""
        n = self.manifold.dim

        def network(x: Array) -> Array:
            return self._components(parameters, x)

        def assembled(components: Array, reference: Array) -> Array:
            g = ANSAETZE[self.ansatz](hermitian_unpack(components), hermitian_unpack(reference))
            return hermitian_pack(g)

        found = []
        reference = hermitian_pack(data.reference)
        for k in range(2 * n):
            h, dh = jax.jvp(network, (data.inputs,), (data.directions[:, k],))
            slope = data.reference_slopes[:, k]
            found.append(jax.jvp(assembled, (h, reference), (dh, slope))[1])
        return jnp.stack(found, axis=1)

    def beside(self, parameters: Any, data: ComponentData) -> tuple[Array, Array]:
        """g in the neighbouring chart by the network, and carried there as a tensor."""
        here = self.metric(parameters, data)
        there = self._assembled(parameters, data.beside_inputs, data.beside_reference)
        return there, jnp.einsum("xab,xbc,xdc->xad", data.change, here, data.change.conj())

    def bind(self, parameters: Any) -> "ComponentMetric":
        """The metric with these parameters: it can be called, diagnosed and saved."""
        return ComponentMetric(self.manifold, self.ansatz, self.network, parameters)

    def _prepare(self, points: Points) -> ComponentData:
        reference = FubiniStudyMetric(self.manifold)
        slopes = real_derivatives(
            lambda z: hermitian_pack(reference(z, points.chart)), points.z, points.pullback
        )
        beside = points_at(
            self.manifold,
            points.z,
            chart=neighbour_chart(self.manifold, points.z, points.chart),
            check=False,
        )
        along = jnp.concatenate([points.pullback, 1j * points.pullback], axis=1)
        return ComponentData(
            points=points,
            inputs=real_coordinates(points.z),
            directions=real_coordinates(along),
            reference=fubini_study_metric(points),
            reference_slopes=jnp.moveaxis(slopes, 0, 1),
            beside_inputs=real_coordinates(beside.z),
            beside_reference=fubini_study_metric(beside),
            change=transition(self.manifold, points.z, points.chart, beside.chart),
        )

    def _components(self, parameters: Any, inputs: Array) -> Array:
        apply = getattr(self.network, "apply", self.network)
        found = jax.vmap(apply, in_axes=(None, 0))(parameters, inputs)
        expected = (len(inputs), self.manifold.dim**2)
        if found.shape != expected:
            raise ValueError(
                f"network: expected {expected[1]} components at each point, got shape "
                f"{found.shape[1:]}; make it with ansatz.component_mlp"
            )
        return found

    def _assembled(self, parameters: Any, inputs: Array, reference: Array) -> Array:
        h = hermitian_unpack(self._components(parameters, inputs))
        return ANSAETZE[self.ansatz](h, reference)


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ComponentMetric(GlobalMetric):
    """A :class:`ComponentModel` with its parameters: callable in every chart, a tensor in none.

    Attributes:
        manifold, ansatz, network: of the model.
        parameters: of the network.
    """

    manifold: Hypersurface
    ansatz: str = dataclasses.field(metadata={"static": True})
    network: Any = dataclasses.field(metadata={"static": True})
    parameters: Any

    def __post_init__(self) -> None:
        _checks.one_of("ansatz", self.ansatz, sorted(ANSAETZE))

    def at(self, points: Points) -> Array:
        """g at points in their charts, shape (N, n, n)."""
        model = ComponentModel(self.manifold, self.ansatz, self.network)
        reference = fubini_study_metric(points)
        return model._assembled(self.parameters, real_coordinates(points.z), reference)


@jax.jit
def _prepared(model: ComponentModel, points: Points) -> ComponentData:
    return map_tiles(carrying(type(model)._prepare, model), points, _TILE)


def real_coordinates(z: Complex[Array, "*b k"]) -> Float[Array, "*b f"]:
    """Re z and Im z, what a network of one chart reads: shape (..., 2(n+2))."""
    return jnp.concatenate([z.real, z.imag], axis=-1)
