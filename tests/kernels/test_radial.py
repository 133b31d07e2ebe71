"""Radial kernels are functions on projective space: exact values and symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import kernels
from tests.tolerances import tolerance

RADIAL = [kernels.Gaussian(0.4), kernels.Exponential(0.4)]


def cloud(seed: int, count: int) -> jax.Array:
    real, imaginary = jax.random.normal(jax.random.key(seed), (2, count, 4))
    return real + 1j * imaginary


def names(kernel):
    return type(kernel).__name__


@pytest.mark.parametrize("kernel", RADIAL, ids=names)
def test_scaling_phases_and_unitaries_drop_out(kernel):
    z, w = cloud(0, 12), cloud(1, 9)
    unitary, _ = jnp.linalg.qr(cloud(2, 4))
    moved = kernels.dense(
        kernel, cloud(3, 12)[:, :1] * z @ unitary.T, cloud(4, 9)[:, :1] * w @ unitary.T
    )
    np.testing.assert_allclose(moved, kernels.dense(kernel, z, w), rtol=tolerance("algebra"))
    np.testing.assert_allclose(
        kernels.dense(kernel, w, z), kernels.dense(kernel, z, w).T, rtol=tolerance("algebra")
    )


@pytest.mark.equation("MF 3.6")
@pytest.mark.parametrize(
    ("kernel", "exponent"),
    [
        (kernels.Gaussian(0.4), lambda d: d**2 / (2 * 0.4**2)),
        (kernels.Exponential(0.4), lambda d: d / (2 * 0.4)),
    ],
    ids=["Gaussian", "Exponential"],
)
def test_values_at_known_distances(kernel, exponent):
    """(1, 0, 0, 0) and (cos d, sin d, 0, 0) are d apart, up to the cut locus at pi/2."""
    d = np.array([1e-3, 0.05, 0.0999, 0.1002, np.pi / 6, np.pi / 4, np.pi / 3, np.pi / 2])
    centre = jnp.eye(4, dtype=complex)[:1]
    z = np.zeros((len(d), 4), complex)
    z[:, 0], z[:, 1] = np.cos(d), 1j * np.sin(d)
    found = kernels.dense(kernel, jnp.asarray(z), centre)[:, 0]
    np.testing.assert_allclose(found, np.exp(-exponent(d)), rtol=tolerance("kernel"))


def test_gaussian_is_smooth_at_its_centre_and_the_exponential_has_a_cusp():
    centre, across = jnp.eye(4, dtype=complex)[:2]

    def along(kernel):
        return lambda t: kernel.log_matrix((centre + t * across)[None], centre[None])[0, 0]

    gaussian = along(kernels.Gaussian(0.4))
    assert float(jax.grad(gaussian)(0.0)) == 0
    assert float(jax.grad(jax.grad(gaussian))(0.0)) == pytest.approx(-1 / 0.4**2, rel=1e-9)
    slope = jax.grad(along(kernels.Exponential(0.4)))
    assert float(slope(1e-4)) == pytest.approx(-1 / 0.8, rel=1e-6)
    assert float(slope(-1e-4)) == pytest.approx(1 / 0.8, rel=1e-6)
    assert np.isfinite(float(slope(0.0)))
