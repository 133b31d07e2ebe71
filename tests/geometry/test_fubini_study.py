import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import geometry
from metricflow.geometry import antiholomorphic_derivative, holomorphic_derivative
from tests.geometry import cubic
from tests.tolerances import tolerance


@pytest.mark.equation("MF B.1")
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_metric_is_the_mixed_derivative_of_its_potential(dim):
    manifold = geometry.dwork(dim, 0.4)
    points = geometry.sample_points(jax.random.key(0), manifold, 5)

    def potential(z):
        return jnp.log(jnp.sum(z.real**2 + z.imag**2))

    # J is holomorphic in the local coordinates, so dbar does not see it: d dbar of the potential
    # along J and J, plus nothing
    def component(z, jacobian, a, b):
        def inner(w):
            return antiholomorphic_derivative(lambda y: potential(y) + 0j, w, jacobian[b])

        return holomorphic_derivative(inner, z, jacobian[a])

    for x in range(5):
        z, jacobian = points.z[x], points.pullback[x]
        expected = [[component(z, jacobian, a, b) for b in range(dim)] for a in range(dim)]
        found = geometry.fubini_study_metric(points)[x]
        np.testing.assert_allclose(found, jnp.array(expected), atol=1e-12)


def test_closed_form_determinant(quintic, dtype):
    points = geometry.sample_points(jax.random.key(1), quintic, 200, dtype=dtype)
    closed = geometry.fubini_study_determinant(quintic, points.z, points.chart[:, 1])
    direct = np.linalg.det(np.asarray(geometry.fubini_study_metric(points), np.complex128)).real
    np.testing.assert_allclose(closed, direct, rtol=tolerance("algebra", dtype))


def test_metric_is_hermitian_positive_and_scales(quintic_points):
    g = geometry.fubini_study_metric(quintic_points)
    np.testing.assert_allclose(g, jnp.conj(jnp.swapaxes(g, 1, 2)), atol=1e-15)
    assert bool(jnp.all(jnp.linalg.eigvalsh(g) > 0))
    scaled = geometry.fubini_study_metric(quintic_points, scale=1 / np.pi)
    np.testing.assert_allclose(scaled * np.pi, g, rtol=1e-14)


def test_callable_metric_agrees_in_every_batch_shape(quintic, quintic_points):
    metric = geometry.FubiniStudyMetric(quintic)
    expected = geometry.fubini_study_metric(quintic_points)
    np.testing.assert_allclose(metric(3j * quintic_points.z), expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(metric(quintic_points.z[0]), expected[0], rtol=1e-10, atol=1e-13)
    stacked = metric(quintic_points.z[:6].reshape(2, 3, 5))
    np.testing.assert_allclose(stacked.reshape(6, 3, 3), expected[:6], rtol=1e-10, atol=1e-13)


def test_volume_of_the_cubic_by_quadrature():
    total = cubic.integrate(lambda density, omega2: density)
    assert geometry.fubini_study_volume(geometry.fermat(1)) == pytest.approx(total, rel=1e-5)
