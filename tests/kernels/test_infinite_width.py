"""The ReLU NTK from its definition as Gaussian expectations, and its scaling laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import kernels
from tests.tolerances import tolerance


def cloud(seed: int, count: int) -> jax.Array:
    real, imaginary = jax.random.normal(jax.random.key(seed), (2, count, 3))
    return real + 1j * imaginary


def ntk(depth, weight, bias, z, w):
    return kernels.dense(kernels.ReluNTK(depth, weight, bias), z, w)


def expectations(covariance: np.ndarray) -> tuple[float, float]:
    """E[relu(u) relu(v)] and E[relu'(u) relu'(v)] over N(0, covariance) by an angular integral.

    In polar coordinates of the plane the radius integrates to 2 in the first, 1 in the second.
    """
    steps = 200_000
    angle = 2 * np.pi * (np.arange(steps) + 0.5) / steps
    u, v = np.linalg.cholesky(covariance) @ np.stack([np.cos(angle), np.sin(angle)])
    return (
        2 * float(np.mean(np.maximum(u, 0) * np.maximum(v, 0))),
        float(np.mean((u > 0) & (v > 0))),
    )


@pytest.mark.equation("MF 2.9", "MF 2.11")
@pytest.mark.parametrize(("weight", "bias"), [(1.4, 0.0), (0.8, 0.5)])
def test_recursion_is_that_of_gaussian_expectations(weight, bias):
    z, w = cloud(0, 1), cloud(1, 1)
    x, y = (np.concatenate([np.asarray(a)[0].real, np.asarray(a)[0].imag]) for a in (z, w))
    stacked = np.stack([x, y])
    covariance = weight**2 * stacked @ stacked.T / len(x) + bias**2
    theta = covariance[0, 1]
    for depth in (1, 2, 3):
        product, slope = expectations(covariance)
        # E[relu^2] = q / 2
        diagonal = weight**2 * np.diag(covariance) / 2 + bias**2
        off = weight**2 * product + bias**2
        theta = off + weight**2 * slope * theta
        covariance = np.array([[diagonal[0], off], [off, diagonal[1]]])
        found = float(ntk(depth, weight, bias, z, w)[0, 0])
        assert found == pytest.approx(theta, rel=1e-4)


@pytest.mark.parametrize("depth", [1, 3])
def test_without_bias_the_kernel_is_homogeneous_in_inputs_and_weights(depth):
    z, w = cloud(2, 7), cloud(3, 5)
    plain = ntk(depth, 1.0, 0.0, z, w)
    stretched = ntk(depth, 1.0, 0.0, 3 * z, 0.2 * w)
    np.testing.assert_allclose(stretched, 0.6 * plain, rtol=tolerance("algebra"))
    # each of the L + 1 layers brings sigma_w^2
    heavier = ntk(depth, 1.7, 0.0, z, w)
    np.testing.assert_allclose(heavier, 1.7 ** (2 * depth + 2) * plain, rtol=tolerance("algebra"))


def test_opposite_inputs_share_no_active_unit():
    z = cloud(4, 6)
    found = jnp.diagonal(ntk(1, 1.3, 0.0, z, -z))
    size = jnp.diagonal(ntk(1, 1.3, 0.0, z, z))
    assert float(jnp.max(jnp.abs(found / size))) < tolerance("algebra")


def test_orthogonal_transformations_of_the_real_inputs_drop_out():
    z, w = cloud(5, 6), cloud(6, 6)
    unitary, _ = jnp.linalg.qr(cloud(7, 3))
    moved = ntk(2, 1.3, 0.2, z @ unitary.T, w @ unitary.T)
    np.testing.assert_allclose(moved, ntk(2, 1.3, 0.2, z, w), rtol=tolerance("algebra"))


def test_gradient_is_finite_on_the_diagonal():
    z = cloud(8, 3)
    kernel = kernels.ReluNTK(2, 1.3, 0.1)
    slope = jax.grad(lambda w: jnp.sum(kernel.matrix(w, z)))(z)
    assert bool(jnp.all(jnp.isfinite(slope)))
    step = 1e-6
    other = cloud(9, 3)
    slope = jax.grad(lambda t: jnp.sum(kernel.matrix(z + t * other, z)))(0.7)
    up, down = (float(jnp.sum(kernel.matrix(z + (0.7 + s * step) * other, z))) for s in (1, -1))
    assert float(slope) == pytest.approx((up - down) / (2 * step), rel=tolerance("difference"))
