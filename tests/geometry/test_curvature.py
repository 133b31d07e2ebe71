import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow.geometry import curvature
from tests.tolerances import tolerance


def sphere(x, radius=1.0):
    """Stereographic coordinates: ds^2 = 4 r^2 |dx|^2 / (1 + |x|^2)^2."""
    return 4 * radius**2 * jnp.eye(len(x), dtype=x.dtype) / (1 + jnp.sum(x**2)) ** 2


def hyperbolic(x):
    """The half-space: ds^2 = |dx|^2 / x_k^2."""
    return jnp.eye(len(x), dtype=x.dtype) / x[-1] ** 2


SPACES = pytest.mark.parametrize(("space", "K"), [(sphere, 1.0), (hyperbolic, -1.0)])


def point(k, dtype="float64"):
    return jnp.asarray([0.3, -0.8, 0.5, 0.7][-k:], dtype)


def bent(x):
    """Curvilinear coordinates of flat space: a diffeomorphism near the points used here."""
    mix = jnp.asarray(np.random.default_rng(0).normal(size=(len(x), len(x))))
    return x + 0.2 * jnp.sin(mix @ x) + 0.1 * x**2


def wavy(x):
    """A smooth metric without any symmetry, positive everywhere."""
    rng, k = np.random.default_rng(1), len(x)
    phase, wave = rng.normal(size=(k, k)), rng.normal(size=(k, k, k))
    root = jnp.eye(k) + 0.3 * jnp.sin(phase + wave @ x)
    return root @ root.T


def at(quantity, metric, x):
    """Compiled as one program, which is faster here than operation by operation."""
    return jax.jit(functools.partial(quantity, metric))(x)


def close(found, expected, tol=None, scale=1.0):
    np.testing.assert_allclose(found, expected, rtol=0, atol=(tol or tolerance("algebra")) * scale)


@SPACES
@pytest.mark.parametrize("k", [2, 3, 4])
def test_spaces_of_constant_curvature(space, K, k, dtype):
    x = point(k, dtype)
    g = space(x)
    tol, size = tolerance("algebra", dtype), float(jnp.max(jnp.abs(g)))
    found, ricci, scalar = at(
        lambda metric, y: (
            curvature.riemann(metric, y),
            curvature.ricci(metric, y),
            curvature.scalar_curvature(metric, y),
        ),
        space,
        x,
    )
    assert found.dtype == ricci.dtype == scalar.dtype == dtype
    expected = K * (jnp.einsum("ik,jl->ijkl", g, g) - jnp.einsum("il,jk->ijkl", g, g))
    close(found, expected, tol, size**2)
    close(ricci, K * (k - 1) * g, tol, size)
    assert float(scalar) == pytest.approx(K * k * (k - 1), rel=tol)


@pytest.mark.parametrize("signature", [(1, 1, 1), (-1, 1, 1)])
def test_flat_space_in_curvilinear_coordinates(signature):
    """Gamma^i_jk = (dx^i / dX^m) d_j d_k X^m; a space-time has such coordinates too."""

    def metric(x):
        jacobian = jax.jacfwd(bent)(x)
        return jacobian.T @ jnp.diag(jnp.array(signature, float)) @ jacobian

    x = point(3)
    second = jax.jit(jax.jacfwd(jax.jacfwd(bent)))(x)
    expected = jnp.einsum("im,mjk->ijk", jnp.linalg.inv(jax.jacfwd(bent)(x)), second)
    close(at(curvature.christoffel, metric, x), expected)
    close(at(curvature.riemann, metric, x), 0)
    close(at(curvature.scalar_curvature, metric, x), 0)


def test_a_constant_metric_is_that_of_a_flat_torus():
    g = wavy(jnp.zeros(4))
    assert not np.any(at(curvature.christoffel, lambda x: g + 0 * x[0], point(4)))
    assert not np.any(at(curvature.riemann, lambda x: g + 0 * x[0], point(4)))


def test_gauss_curvature_of_a_conformal_factor():
    """g = exp(2 u) (dx^2 + dy^2) has K = -exp(-2 u) (u_xx + u_yy), not constant."""

    def u(x):
        return jnp.sin(x[0]) * jnp.exp(0.3 * x[1]) + x[0] * x[1] ** 2

    x = point(2)
    K = -jnp.exp(-2 * u(x)) * jnp.trace(jax.hessian(u)(x))
    found = at(curvature.scalar_curvature, lambda y: jnp.exp(2 * u(y)) * jnp.eye(2), x)
    assert float(found) == pytest.approx(2 * float(K), rel=tolerance("algebra"))


def test_symmetries_and_first_bianchi_identity():
    r = at(curvature.riemann, wavy, point(4))
    assert float(jnp.max(jnp.abs(r))) > 0.1
    close(r, -r.swapaxes(0, 1))
    close(r, -r.swapaxes(2, 3))
    close(r, jnp.transpose(r, (2, 3, 0, 1)))
    close(r + jnp.transpose(r, (0, 2, 3, 1)) + jnp.transpose(r, (0, 3, 1, 2)), 0)


def test_second_bianchi_identity():
    x = point(3)
    r, gamma = at(curvature.riemann, wavy, x), at(curvature.christoffel, wavy, x)
    slope = jax.jit(jax.jacfwd(functools.partial(curvature.riemann, wavy)))(x)
    covariant = (
        slope
        - jnp.einsum("pmi,pjkl->ijklm", gamma, r)
        - jnp.einsum("pmj,ipkl->ijklm", gamma, r)
        - jnp.einsum("pmk,ijpl->ijklm", gamma, r)
        - jnp.einsum("pml,ijkp->ijklm", gamma, r)
    )
    cyclic = sum(jnp.transpose(covariant, (0, 1, *p)) for p in ((2, 3, 4), (3, 4, 2), (4, 2, 3)))
    assert float(jnp.max(jnp.abs(covariant))) > 0.1
    close(cyclic, 0)


def test_curvature_is_the_commutator_of_covariant_derivatives():
    """[D_k, D_l] V^m = R^m_jkl V^j fixes every index and the sign."""
    x = point(3)

    def vector(y):
        return jnp.cos(jnp.arange(1.0, 4) * y[::-1])

    def once(y):  # D_l V^m as [m, l]
        return jax.jacfwd(vector)(y) + curvature.christoffel(wavy, y) @ vector(y)

    gamma = at(curvature.christoffel, wavy, x)
    # the last term, in the lower indices of once, is symmetric and drops out
    twice = jax.jacfwd(once)(x) + jnp.einsum("mkp,pl->mlk", gamma, once(x))
    raised = jnp.einsum("im,mjkl->ijkl", jnp.linalg.inv(wavy(x)), at(curvature.riemann, wavy, x))
    expected = jnp.einsum("mjkl,j->mkl", raised, vector(x))
    close(twice.swapaxes(1, 2) - twice, expected)


def test_ricci_and_scalar_are_the_contractions():
    x = point(4)
    inverse, r = np.linalg.inv(wavy(x)), np.asarray(at(curvature.riemann, wavy, x))
    ricci = np.einsum("ik,ijkl->jl", inverse, r)
    close(at(curvature.ricci, wavy, x), ricci)
    close(at(curvature.scalar_curvature, wavy, x), np.sum(inverse * ricci))


@pytest.mark.parametrize("k", [2, 3])
def test_laplacian_of_eigenfunctions_of_the_sphere(k, dtype):
    """Harmonic polynomials of degree l restricted to the sphere: -l (l + k - 1)."""

    def embedded(x):
        size = jnp.sum(x**2)
        return jnp.append(2 * x, 1 - size) / (1 + size)

    def quadratic(x):
        y = embedded(x)
        return jnp.outer(y, y) - jnp.eye(k + 1, dtype=x.dtype) / (k + 1)

    x, tol = point(k, dtype), tolerance("algebra", dtype)
    found, second = at(
        lambda metric, y: [curvature.laplacian(metric, f, y) for f in (embedded, quadratic)],
        sphere,
        x,
    )
    assert found.dtype == second.dtype == dtype
    close(found, -k * embedded(x), tol)
    close(second, -2 * (k + 1) * quadratic(x), tol)


def test_laplacian_is_the_divergence_of_the_gradient():
    """|g|^(-1/2) d_i (|g|^(1/2) g^ij d_j f)."""
    x = point(3)

    def f(y):
        return jnp.sin(y[0] * y[1]) + y[2] ** 3

    def density(y):
        return jnp.sqrt(jnp.linalg.det(wavy(y)))

    def flux(y):
        return density(y) * jnp.linalg.solve(wavy(y), jax.grad(f)(y))

    def divergence(y):
        return jnp.trace(jax.jacfwd(flux)(y)) / density(y)

    close(jax.jit(lambda y: curvature.laplacian(wavy, f, y))(x), jax.jit(divergence)(x))


def test_many_points_compiled_and_one_by_one():
    x = point(3) + jnp.linspace(0, 0.3, 5)[:, None]
    for quantity in (
        curvature.christoffel,
        curvature.riemann,
        curvature.ricci,
        curvature.scalar_curvature,
    ):
        one = jax.jit(functools.partial(quantity, wavy))
        close(jax.jit(jax.vmap(one))(x), jnp.stack([one(y) for y in x]))
    # without compilation too
    close(curvature.christoffel(wavy, x[0]), at(curvature.christoffel, wavy, x[0]))


def test_curvature_can_be_differentiated():
    """The scalar curvature of a sphere of radius r is k (k - 1) / r^2."""

    def scalar(radius):
        return curvature.scalar_curvature(lambda x: sphere(x, radius), point(3))

    expected = -2 * 6 / 1.7**3
    for derivative in (jax.grad(scalar), jax.jacfwd(scalar)):
        found = float(jax.jit(derivative)(1.7))
        assert found == pytest.approx(expected, rel=tolerance("algebra"))


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    "quantity",
    [
        curvature.christoffel,
        curvature.riemann,
        curvature.ricci,
        curvature.scalar_curvature,
        lambda metric, x: curvature.laplacian(metric, jnp.sum, x),
    ],
)
def test_wrong_input_is_named(quantity):
    with pytest.raises(ValueError, match=r"x: expected .* got float64 of shape \(2, 3\).*vmap"):
        quantity(sphere, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"x: expected real coordinates .* got complex128"):
        quantity(sphere, jnp.ones(3) + 1j)
    with pytest.raises(ValueError, match=r"metric: expected .*\(3, 3\) .* got float64 .*\(2, 2\)"):
        quantity(lambda x: jnp.eye(2) * x[0], jnp.ones(3))
    with pytest.raises(ValueError, match=r"metric: expected real components .* got complex128"):
        quantity(lambda x: jnp.eye(3) * (x[0] + 1j), jnp.ones(3))
