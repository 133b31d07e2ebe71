"""How the variation of the sigma loss moves with the chart and the scale of the metric."""

import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import energies
from tests.tolerances import tolerance


@pytest.fixture(scope="module")
def field():
    """A metric, the volume form, and the Jacobian of an arbitrary change of coordinates."""
    rng = np.random.default_rng(0)
    a, change = rng.normal(size=(2, 30, 3, 3, 2)) @ [1, 1j]
    g = a @ a.conj().swapaxes(1, 2) + np.eye(3)
    return jnp.asarray(g), jnp.asarray(rng.uniform(0.5, 40, 30)), jnp.asarray(change)


def moved(change, h):
    return jnp.einsum("xac,xcd,xed->xae", change, h, change.conj())


@pytest.mark.equation("MF 3.5")
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_covariant_variation_is_a_tensor_and_the_euclidean_one_its_dual(field, power):
    g, omega2, change = field
    omega2_there = omega2 * jnp.abs(jnp.linalg.det(change)) ** 2

    def variation(g, omega2, kind):
        return energies.sigma_loss_variation(g, omega2, 2.0, power=power, gradient=kind)

    here, there = (
        variation(g, omega2, "covariant"),
        variation(moved(change, g), omega2_there, "covariant"),
    )
    np.testing.assert_allclose(there, moved(change, here), rtol=1e-8, atol=1e-8)
    here, there = (
        variation(g, omega2, "euclidean"),
        variation(moved(change, g), omega2_there, "euclidean"),
    )
    # tr(dl/dg h) is a number, so dl/dg moves with the inverse
    back = jnp.conj(jnp.swapaxes(change, 1, 2)) @ there @ change
    np.testing.assert_allclose(back, here, rtol=1e-8, atol=1e-8)


@pytest.mark.equation("MF 3.5")
@pytest.mark.parametrize(("gradient", "exponent"), [("covariant", 1), ("euclidean", -1)])
def test_scale_of_the_metric(field, gradient, exponent):
    g, omega2, _ = field
    plain = energies.sigma_loss_variation(g, omega2, 2.0, power=2.0, gradient=gradient)
    scaled = energies.sigma_loss_variation(5 * g, omega2, 2.0 * 5**3, power=2.0, gradient=gradient)
    np.testing.assert_allclose(scaled, 5.0**exponent * plain, rtol=tolerance("algebra"))


@pytest.mark.equation("MF B.10", "MF B.11")
def test_eta_and_loss_do_not_see_coordinates(field):
    g, omega2, change = field
    there = omega2 * jnp.abs(jnp.linalg.det(change)) ** 2
    eta = energies.volume_ratio_eta(g, omega2, 2.0)
    np.testing.assert_allclose(
        energies.volume_ratio_eta(moved(change, g), there, 2.0), eta, rtol=1e-9
    )
    np.testing.assert_allclose(
        energies.sigma_loss(g, omega2, 2.0, power=3.0), np.abs(1 - np.asarray(eta)) ** 3, rtol=1e-12
    )
