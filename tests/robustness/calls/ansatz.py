"""Calls of metricflow.ansatz."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metricflow import ansatz as A  # noqa: N812
from metricflow import geometry
from tests.robustness.calls.call import Call, call, complex_numbers, hermitian, like, numbers
from tests.robustness.calls.samples import (
    basis,
    component_model,
    component_parameters,
    features,
    form,
    many_points,
    points,
    potential_network,
    potential_parameters,
    sections,
    small_network,
    small_parameters,
    spectral,
    surface,
)


def here(z: jax.Array) -> geometry.Points:
    return geometry.points_at(surface(), z, chart=points().chart, check=False)


def at(metric: Callable) -> Callable:
    """A metric as a function of z in the charts of the points."""
    return lambda z: like(metric, z)(z, points().chart)


def potential_model() -> A.PotentialModel:
    return A.PotentialModel(surface(), basis(), potential_network())


def algebraic() -> A.AlgebraicMetric:
    return A.AlgebraicMetric(surface(), sections(), form())


def component() -> A.ComponentMetric:
    return component_model().bind(component_parameters())


@functools.cache
def centres() -> jax.Array:
    return features()[:3, :, 0]


@functools.cache
def kernel_potential() -> A.KernelPotentialMetric:
    return A.KernelPotentialMetric(
        surface(), basis(), jnp.float64(2.0), centres(), numbers(3, 3, scale=1e-3)
    )


def network_metric() -> A.NetworkMetric:
    return potential_model().bind(potential_parameters())


def cast_like(tree: object, x: jax.Array) -> object:
    return jax.tree.map(lambda leaf: leaf.astype(x.dtype), tree)


def wave(y: jax.Array) -> jax.Array:
    return jnp.sin(jnp.sum(y)) + jnp.sum(y**2)


def applied(network: object, size: int) -> Callable[[], Call]:
    """A network as a function of its parameters and of one point."""

    def made() -> Call:
        x = numbers(2, size)
        return call(network.apply, network.init(jax.random.key(1), x), x)  # type: ignore[attr-defined]

    return made


def data() -> A.ComponentData:
    return component_model().prepare(points())


CALLS: dict[str, Callable[[], Call]] = {
    "AlgebraicMetric": lambda: call(at(algebraic()), points().z),
    "AlgebraicMetric.at": lambda: call(lambda z: like(algebraic(), z).at(here(z)), points().z),
    "ComponentMetric": lambda: call(at(component()), points().z),
    "ComponentMetric.at": lambda: call(lambda z: like(component(), z).at(here(z)), points().z),
    "ComponentModel.prepare": lambda: call(
        lambda z: component_model().prepare(here(z)), points().z
    ),
    "ComponentModel.inputs": lambda: call(
        component_model().inputs, points().z, geometry.fubini_study_metric(points())
    ),
    "ComponentModel.metric": lambda: call(component_model().metric, component_parameters(), data()),
    "ComponentModel.components": lambda: call(
        component_model().components, component_parameters(), data()
    ),
    "ComponentModel.component_map": lambda: call(component_model().component_map, data()),
    "ComponentModel.real_slopes": lambda: call(
        component_model().real_slopes, component_parameters(), data()
    ),
    "ComponentModel.beside": lambda: call(component_model().beside, component_parameters(), data()),
    "ComponentModel.bind": lambda: call(
        lambda p, z: component_model().bind(p)(z, points().chart),
        component_parameters(),
        points().z,
    ),
    "CosineNetwork": applied(A.CosineNetwork(5), 3),
    "IndependentNetworks": applied(A.IndependentNetworks(A.Mlp((4,)), 3), 3),
    "KernelPotentialMetric": lambda: call(at(kernel_potential()), points().z),
    "KernelPotentialMetric.hessians": lambda: call(
        lambda f: like(kernel_potential(), f).hessians(f), features()
    ),
    "Mlp": applied(A.Mlp((4, 4), outputs=2), 3),
    "Mlp.layers": lambda: call(small_network().layers, small_parameters()),
    "NetworkMetric": lambda: call(at(network_metric()), points().z),
    "NetworkMetric.hessians": lambda: call(
        lambda f: like(network_metric(), f).hessians(f), features()
    ),
    "PotentialModel.prepare": lambda: call(
        lambda z: potential_model().prepare(here(z)), points().z
    ),
    "PotentialModel.metric": lambda: call(
        potential_model().metric, potential_parameters(), potential_model().prepare(points())
    ),
    "PotentialModel.components": lambda: call(
        potential_model().components, potential_parameters(), potential_model().prepare(points())
    ),
    "PotentialModel.bind": lambda: call(
        lambda p, z: potential_model().bind(p)(z, points().chart),
        potential_parameters(),
        points().z,
    ),
    "SpectralMetric": lambda: call(at(spectral()), points().z),
    "SpectralMetric.at": lambda: call(lambda z: like(spectral(), z).at(here(z)), points().z),
    "SpectralMetric.potential": lambda: call(
        lambda z: like(spectral(), z).potential(z), points().z
    ),
    "algebraic_metric": lambda: call(
        lambda p, jets: A.algebraic_metric(p, jets, 1),
        form(),
        A.section_jets(sections(), points()),
    ),
    "basis_hessians": lambda: call(lambda z: A.basis_hessians(basis(), here(z)), points().z),
    "basis_jets": lambda: call(lambda z: A.basis_jets(basis(), here(z)), points().z),
    "component_mlp": applied(A.component_mlp(2, (4,)), 8),
    "composed_hessian": lambda: call(lambda f: A.composed_hessian(wave, f, 2), features()[0]),
    "composed_jet": lambda: call(lambda f: A.composed_jet(wave, f, 2), features()[0]),
    "feature_jets": lambda: call(lambda z: A.feature_jets(basis(), here(z)), points().z),
    "form_parameters": lambda: call(
        lambda h: A.form_parameters(hermitian(h)), complex_numbers(1, 4, 4)
    ),
    "fubini_study_form": lambda: call(
        lambda w: A.fubini_study_form(
            surface(), like(sections(), w), like(many_points(), w)._replace(weight=w)
        ),
        many_points().weight,
    ),
    "hermitian_form": lambda: call(A.hermitian_form, numbers(1, 4, 4)),
    "initial_parameters": lambda: call(
        lambda key, x: A.initial_parameters(key, small_network(), x),
        jax.random.key(0),
        numbers(1, 3),
        grad="random",
        single="random",
    ),
    "kernel_hessians": lambda: call(
        lambda f, c, w: A.kernel_hessians(f, c, w, 2), features(), centres(), jnp.float64(2.0)
    ),
    "kernel_jets": lambda: call(
        lambda f, c, w: A.kernel_jets(f, c, w, 2), features(), centres(), jnp.float64(2.0)
    ),
    "linearised": lambda: call(
        lambda origin, p, x: A.linearised(small_network(), origin)(p, x),
        small_parameters(),
        jax.tree.map(lambda x: x + 0.1, small_parameters()),
        numbers(1, 3),
    ),
    "mlp": applied(A.mlp((4, 4), output_variance=1.0), 3),
    "network_hessians": lambda: call(
        lambda p, f: A.network_hessians(potential_network(), p, f, 2),
        potential_parameters(),
        features(),
    ),
    "one_point": lambda: call(A.one_point(small_network()), small_parameters(), numbers(1, 3)),
    "perceptron_hessians": lambda: call(
        lambda kernel, bias, last, jets: A.perceptron_hessians(
            [(kernel, bias), (last, None)], jnp.tanh, jets, 2
        ),
        numbers(1, features().shape[1], 4),
        numbers(2, 4),
        numbers(3, 4, 1),
        jnp.moveaxis(features(), 0, -1),
    ),
    "raised_form": lambda: call(
        lambda p: A.raised_form(
            A.AlgebraicMetric(surface(), like(sections(), p), p),
            like(sections(), p),
            like(many_points(), p),
        ),
        form(),
    ),
    "real_coordinates": lambda: call(A.real_coordinates, points().z),
    "section_jets": lambda: call(lambda z: A.section_jets(sections(), here(z)), points().z),
    "section_values": lambda: call(lambda z: A.section_values(sections(), here(z)), points().z),
    # the origin is held: its derivative is cut
    "tangent_network": lambda: call(
        lambda change, x: A.tangent_network(small_network())(
            cast_like({"origin": small_parameters(), "change": change}, x), x
        ),
        small_parameters(),
        numbers(1, 3),
    ),
}

NOT_APPLICABLE = {
    "ANSAETZE": "constant",
    "ComponentData": "record",
    "ComponentInputs": "record",
    "ComponentModel": "record",
    "Mlp.setup": "flax",
    "Mlp.tangent_scales": "host",
    "PotentialData": "record",
    "PotentialModel": "record",
    "Sections": "record",
    "SpectralBasis": "record",
    "SpectralBasis.truncated": "host",
    "Symmetry": "record",
    "balanced_form": "host",
    "compact_metric": "host",
    "invariant_dimensions": "host",
    "invariant_orbits": "host",
    "no_symmetry": "host",
    "projective_features": "host",
    "section_basis": "host",
    "section_count": "host",
    "spectral_basis": "host",
    "symmetry_group": "host",
}
