"""What the calls share: a surface, a torus, points, networks; made when first asked for."""

import functools

import jax
import jax.numpy as jnp

from metricflow import ansatz, geometry
from tests.robustness.calls.call import numbers

COUNT = 5
HOME = (0, 3)


@functools.cache
def surface() -> geometry.Hypersurface:
    return geometry.fermat(2)


@functools.cache
def points() -> geometry.Points:
    return geometry.sample_points(jax.random.key(1), surface(), COUNT)


@functools.cache
def many_points() -> geometry.Points:
    return geometry.sample_points(jax.random.key(2), surface(), 200)


@functools.cache
def chart_points() -> geometry.Points:
    """In one chart."""
    return geometry.sample_points_in_chart(jax.random.key(3), surface(), COUNT, chart=HOME)


def free_coordinates() -> jax.Array:
    """Of points of one chart: all but the one that is 1."""
    return chart_points().z[:, 1:]


def in_chart(free: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.ones_like(free[:, :1]), free], axis=1)


@functools.cache
def metric_values() -> jax.Array:
    """A metric at the points that is not Fubini-Study."""
    g = geometry.fubini_study_metric(points())
    root = geometry.hermitian_root(g)
    h = geometry.hermitian_unpack(numbers(5, COUNT, 4, scale=0.1))
    return g + root @ h @ root.swapaxes(-1, -2).conj()


@functools.cache
def basis() -> ansatz.SpectralBasis:
    return ansatz.spectral_basis(surface(), 4, many_points())


@functools.cache
def spectral() -> ansatz.SpectralMetric:
    return ansatz.SpectralMetric(surface(), basis(), numbers(6, basis().size, scale=1e-3))


@functools.cache
def sections() -> ansatz.Sections:
    return ansatz.section_basis(surface(), 1, many_points())


@functools.cache
def form() -> jax.Array:
    """Parameters of a positive form of the sections."""
    count = ansatz.section_count(surface(), 1)
    return jnp.eye(count) + numbers(7, count, count, scale=0.05)


@functools.cache
def component_model() -> ansatz.ComponentModel:
    network = ansatz.component_mlp(2, (6,), output_variance=0.01)
    return ansatz.ComponentModel(surface(), "multiplicative", network)


@functools.cache
def component_parameters() -> object:
    return ansatz.initial_parameters(
        jax.random.key(4), component_model().network, ansatz.real_coordinates(points().z[0])
    )


@functools.cache
def features() -> jax.Array:
    return ansatz.feature_jets(basis(), points())


@functools.cache
def potential_network() -> ansatz.Mlp:
    return ansatz.Mlp((5,), activation="tanh", output_variance=1e-3)


@functools.cache
def potential_parameters() -> object:
    return potential_network().init(jax.random.key(5), features()[0, :, 0])


@functools.cache
def small_network() -> ansatz.Mlp:
    return ansatz.Mlp((4,), activation="tanh", outputs=2)


@functools.cache
def small_parameters() -> object:
    return small_network().init(jax.random.key(6), jnp.zeros(3))


@functools.cache
def grid() -> geometry.PeriodicGrid:
    return geometry.PeriodicGrid((5, 5))


def field(seed: int = 8) -> jax.Array:
    return grid().random_field(jax.random.key(seed), 1)


def grid_metric() -> jax.Array:
    h = grid().random_field(jax.random.key(9), 1, entries=(2, 2))
    return jnp.eye(2) + 0.1 * (h + h.swapaxes(-1, -2))


@functools.cache
def torus() -> geometry.KaehlerTorus:
    return geometry.KaehlerTorus(geometry.PeriodicGrid((5, 5, 5, 5)))


def torus_field(seed: int = 8) -> jax.Array:
    return torus().grid.random_field(jax.random.key(seed), 1)


def torus_metric() -> jax.Array:
    return torus().metric(0.1 * torus_field())
