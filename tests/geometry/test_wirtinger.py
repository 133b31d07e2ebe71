"""Wirtinger derivatives under composition, and the tangents along which the library takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import geometry
from metricflow.geometry import antiholomorphic_derivative, holomorphic_derivative
from tests.tolerances import tolerance

Z = jnp.array([0.3 + 0.4j, -1.2 + 0.1j])
V = jnp.array([1.0 - 2j, 0.5j])


def mixed(w):
    """Neither holomorphic nor antiholomorphic."""
    return jnp.sum(jnp.abs(w) ** 2) * w[0] + jnp.conj(w[1]) ** 2


def test_both_parts_add_up_to_the_real_derivative():
    total = holomorphic_derivative(mixed, Z, V) + antiholomorphic_derivative(mixed, Z, V)
    step = 1e-6
    difference = (mixed(Z + step * V) - mixed(Z - step * V)) / (2 * step)
    np.testing.assert_allclose(total, difference, rtol=tolerance("difference"))


def test_conjugation_exchanges_the_two():
    found = antiholomorphic_derivative(mixed, Z, V)
    other = holomorphic_derivative(lambda w: jnp.conj(mixed(w)), Z, V)
    np.testing.assert_allclose(found, jnp.conj(other), rtol=tolerance("rounding"))


def test_chain_rule_through_a_holomorphic_map():
    def inner(w):
        return jnp.stack([w[0] * w[1], jnp.exp(w[0])])

    pushed = jax.jvp(inner, (Z,), (V,))[1]
    for derivative in (holomorphic_derivative, antiholomorphic_derivative):
        whole = derivative(lambda w: mixed(inner(w)), Z, V)
        np.testing.assert_allclose(whole, derivative(mixed, inner(Z), pushed), rtol=1e-13)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_pullback_rows_are_tangent_to_the_hypersurface_in_every_chart(dim):
    manifold = geometry.dwork(dim, 0.3 + 0.2j)
    z = geometry.sample_points(jax.random.key(dim), manifold, 6).z
    for scaled in range(manifold.ambient):
        for eliminated in set(range(manifold.ambient)) - {scaled}:
            chart = (scaled, eliminated)
            here = geometry.chart_coordinates(z, chart)
            rows = geometry.pullback(manifold, here, chart)
            slope = geometry.gradient(manifold, here)
            along = jnp.einsum("xai,xi->xa", rows, slope)
            largest = jnp.max(jnp.abs(slope)) * jnp.max(jnp.abs(rows))
            assert float(jnp.max(jnp.abs(along))) < tolerance("algebra") * float(largest)
            others = [i for i in range(manifold.ambient) if i not in chart]
            np.testing.assert_array_equal(
                rows[:, :, others], jnp.broadcast_to(jnp.eye(dim), (6, dim, dim))
            )
            assert bool(jnp.all(rows[:, :, scaled] == 0))


def test_transition_from_a_chart_to_itself_and_back():
    manifold = geometry.fermat(2)
    z = geometry.sample_points(jax.random.key(0), manifold, 10).z
    identity = jnp.broadcast_to(jnp.eye(2), (10, 2, 2))
    np.testing.assert_allclose(
        geometry.transition(manifold, z, (1, 3), (1, 3)), identity, atol=1e-12
    )
    there = geometry.transition(manifold, z, (1, 3), (2, 0))
    back = geometry.transition(manifold, z, (2, 0), (1, 3))
    bound = jnp.linalg.norm(there, axis=(1, 2)) * jnp.linalg.norm(back, axis=(1, 2))
    error = jnp.linalg.norm(there @ back - identity, axis=(1, 2))
    assert bool(jnp.all(error < tolerance("algebra") * bound))
