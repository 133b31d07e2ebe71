import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow.geometry import antiholomorphic_derivative, holomorphic_derivative
from metricflow.geometry.roots import polynomial_roots


@pytest.mark.parametrize("degree", [1, 3, 4, 5, 6])
def test_roots_are_those_of_companion_matrices(degree, dtype):
    rng = np.random.default_rng(degree)
    coefficients = rng.normal(size=(2, degree + 1, 50)).T @ [1, 1j]
    kind = "complex64" if dtype == "float32" else "complex128"
    found = np.asarray(polynomial_roots(jnp.asarray(coefficients.T, kind)))
    tol = 2e-3 if dtype == "float32" else 1e-9
    for c, roots in zip(coefficients, found.T, strict=True):
        expected = np.roots(c[::-1])
        gap = np.abs(roots[:, None] - expected[None])
        # each has its partner, both ways: none is missing, none is doubled
        assert np.all(gap.min(0) < tol * (1 + np.abs(expected)))
        assert np.all(gap.min(1) < tol * (1 + np.abs(roots)))


def test_wirtinger_derivatives_know_holomorphic_from_antiholomorphic():
    z = jnp.array([0.3 + 0.4j, -1.2 + 0.1j])
    v = jnp.array([1.0 - 2j, 0.5j])

    def f(w):
        return w[0] ** 2 * jnp.exp(w[1])

    expected = 2 * z[0] * jnp.exp(z[1]) * v[0] + f(z) * v[1]
    np.testing.assert_allclose(holomorphic_derivative(f, z, v), expected, rtol=1e-14)
    np.testing.assert_allclose(antiholomorphic_derivative(f, z, v), 0, atol=1e-14)

    def bar(w):
        return jnp.conj(f(w))

    np.testing.assert_allclose(holomorphic_derivative(bar, z, v), 0, atol=1e-14)
    np.testing.assert_allclose(
        antiholomorphic_derivative(bar, z, v), jnp.conj(expected), rtol=1e-14
    )


def test_laplacian_of_the_modulus_squared():
    z = jnp.array([0.3 + 0.4j])
    one = jnp.ones(1, complex)

    def inner(w):
        return antiholomorphic_derivative(lambda y: jnp.sum(y * jnp.conj(y)), w, one)

    assert complex(holomorphic_derivative(inner, z, one)) == pytest.approx(1)


def test_directions_are_linear_and_antilinear():
    z, v = jnp.array([0.3 + 0.4j]), jnp.array([1.0 + 0j])

    def f(w):
        return jnp.sum(jnp.abs(w) ** 2 * w)

    for derivative, factor in ((holomorphic_derivative, 1j), (antiholomorphic_derivative, -1j)):
        assert complex(derivative(f, z, 1j * v)) == pytest.approx(
            factor * complex(derivative(f, z, v))
        )
    assert jax.jit(lambda w: holomorphic_derivative(f, w, v))(z).shape == ()
