import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import energies, geometry


def metric_and_direction(quintic_points):
    g = geometry.fubini_study_metric(quintic_points)
    a = jax.random.normal(jax.random.key(0), (*g.shape, 2)) @ jnp.array([1, 1j])
    h = a + jnp.conj(jnp.swapaxes(a, 1, 2))
    return g, h * jnp.linalg.norm(g, axis=(1, 2), keepdims=True)


@pytest.mark.equation("MF 3.5", "MF B.11")
@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_variation_is_the_derivative_of_the_loss(quintic_points, power):
    g, h = metric_and_direction(quintic_points)
    omega2, kappa = quintic_points.omega2, 3.0

    def loss(t):
        return energies.sigma_loss(g + t * h, omega2, kappa, power=power)

    step = 1e-6
    expected = (loss(step) - loss(-step)) / (2 * step)
    variation = energies.sigma_loss_variation(g, omega2, kappa, power=power)
    found = jnp.einsum("xab,xba->x", variation, h).real
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_covariant_gradient_is_the_euclidean_one_with_indices_lowered(quintic_points):
    g, _ = metric_and_direction(quintic_points)
    both = [
        energies.sigma_loss_variation(g, quintic_points.omega2, 3.0, power=2.0, gradient=kind)
        for kind in energies.GRADIENTS
    ]
    np.testing.assert_allclose(g @ both[0] @ g, both[1], rtol=1e-9, atol=1e-12)


def test_variation_vanishes_exactly_at_the_calabi_yau_condition(quintic_points):
    g, _ = metric_and_direction(quintic_points)
    eta = energies.volume_ratio_eta(g, quintic_points.omega2, 2.0)
    flat = g * (eta ** (-1 / 3))[:, None, None]
    variation = energies.sigma_loss_variation(flat, quintic_points.omega2, 2.0, power=2.0)
    assert float(jnp.max(jnp.abs(variation))) < 1e-12 * float(jnp.max(jnp.abs(jnp.linalg.inv(g))))


@pytest.mark.usefixtures("as_user")
def test_unknown_gradient_is_refused(quintic_points):
    g, _ = metric_and_direction(quintic_points)
    with pytest.raises(ValueError, match="gradient"):
        energies.sigma_loss_variation(g, quintic_points.omega2, 1.0, gradient="natural")
