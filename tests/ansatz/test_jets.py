"""Jets against automatic differentiation along the hypersurface, and the rules they obey."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow import ansatz, geometry
from metricflow.ansatz import jets
from metricflow.geometry import antiholomorphic_derivative, holomorphic_derivative
from tests.tolerances import tolerance

# one program each: step by step every operation is compiled for itself
basis_jets = jax.jit(ansatz.basis_jets)
potential = jax.jit(ansatz.SpectralMetric.potential)


@functools.partial(jax.jit, static_argnums=0)
def autodiff_jet(function, z, jacobian):
    """The jet of a real function of homogeneous coordinates at one point."""

    def value(w):
        return function(w) + 0j

    gradient = jax.vmap(lambda v: holomorphic_derivative(value, z, v))(jacobian)

    def mixed(first, second):
        return holomorphic_derivative(
            lambda w: antiholomorphic_derivative(value, w, second), z, first
        )

    hessian = jax.vmap(lambda a: jax.vmap(lambda b: mixed(a, b))(jacobian))(jacobian)
    return jets.pack_jet(jnp.reshape(function(z), (1,)), gradient[:, None], hessian[..., None])[
        :, 0
    ]


def difference_jet(function, z, jacobian, step=2e-3):
    """The same by central differences of sixth order, from values alone."""
    dim = len(jacobian)
    # second derivatives along v and iv add up to 4 f_(v vbar), which is sesquilinear in v
    units = 1j ** np.arange(4)
    pairs = [(a, b) for a in range(dim) for b in range(dim)]
    directions = [jacobian[a] + c * jacobian[b] for a, b in pairs for c in units]
    directions = np.array([u * v for v in [*jacobian, *directions] for u in (1, 1j)])
    stencil = np.arange(-3, 4) * step
    values = function(z + stencil[:, None, None] * directions).reshape(7, -1, 2)
    first = np.array([-1, 9, -45, 0, 45, -9, 1]) / (60 * step)
    second = np.array([2, -27, 270, -490, 270, -27, 2]) / (180 * step**2)
    slope = np.einsum("s,sdu->du", first, values)[:dim]
    along = np.einsum("s,sdu->d", second, values)[dim:].reshape(dim, dim, 4) / 4
    gradient = (slope[:, 0] - 1j * slope[:, 1]) / 2
    hessian = np.einsum("abc,c->ab", along, units) / 4
    return jets.pack_jet(values[3, :1, 0], gradient[:, None], hessian[..., None])[:, 0]


def random_jets(seed, dim, count=3):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(count, jets.jet_size(dim), 2)))


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_jets_form_a_commutative_ring(seed, dim):
    f, g, h = random_jets(seed, dim)
    one = jets.constant_jet(dim, 2, f.dtype)
    times = jets.multiply_jets
    np.testing.assert_allclose(times(f, g, dim), times(g, f, dim), atol=1e-12)
    np.testing.assert_allclose(times(f, one, dim), f, atol=1e-12)
    left, right = times(times(f, g, dim), h, dim), times(f, times(g, h, dim), dim)
    np.testing.assert_allclose(left, right, atol=1e-10)
    np.testing.assert_allclose(
        times(f, g + h, dim), times(f, g, dim) + times(f, h, dim), atol=1e-11
    )


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_components_of_hermitian_matrices(seed, dim):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, 5, dim, dim)) + 1j * rng.normal(size=(2, 5, dim, dim))
    first, second = (m + m.conj().swapaxes(-1, -2) for m in (first, second))
    components = jets.hermitian_components(jnp.asarray(first)).T
    np.testing.assert_allclose(jets.components_to_hermitian(components, dim), first, atol=1e-14)
    trace = jnp.sum(jets.hermitian_dual(jnp.asarray(second)) * components, axis=0)
    np.testing.assert_allclose(trace, np.einsum("xab,xba->x", first, second).real, atol=1e-11)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_norm_jets_are_those_of_log_norm(dim):
    manifold = geometry.fermat(dim)
    points = geometry.sample_points(jax.random.key(3), manifold, 4)
    value, slope, hessian = jets.norm_jets(points)
    packed = jets.pack_jet(value, slope, hessian)

    def log_norm(w):
        return jnp.log(jnp.sum(jnp.abs(w) ** 2))

    for i in range(4):
        expected = autodiff_jet(log_norm, points.z[i], points.pullback[i])
        np.testing.assert_allclose(packed[:, i], expected, atol=tolerance("algebra"))


@pytest.mark.parametrize(
    ("manifold", "group", "degree"),
    [
        (geometry.fermat(3), ansatz.symmetry_group, 8),
        # the sum of one orbit of degree 5 vanishes here, and must not be taken for a function
        (geometry.dwork(2, 0.3 + 0.1j), ansatz.symmetry_group, 6),
        (geometry.fermat(1), ansatz.no_symmetry, 2),
    ],
    ids=["quintic", "dwork-quartic", "cubic-none"],
)
def test_basis_jets_are_those_of_their_values(manifold, group, degree):
    points = geometry.sample_points(jax.random.key(5), manifold, 300)
    basis = ansatz.spectral_basis(manifold, degree, points, symmetry=group(manifold))
    few = jax.tree.map(lambda x: x[:3], points)
    found = basis_jets(basis, few)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=basis.size))
    metric = ansatz.SpectralMetric(manifold, basis, weights)
    total = np.einsum("k,kcx->cx", weights, found)
    for i in range(3):
        expected = difference_jet(functools.partial(potential, metric), few.z[i], few.pullback[i])
        np.testing.assert_allclose(total[:, i], expected, rtol=1e-5, atol=1e-4)
    hessians = ansatz.basis_hessians(basis, few, chunk=2)
    np.testing.assert_allclose(hessians, found[:, 1 + 2 * manifold.dim :], atol=1e-12)


def test_composed_hessian_is_the_chain_rule():
    """F(y) = y_0 y_1 + y_2^3 by products of jets."""
    for dim in (1, 2, 3):
        y = random_jets(dim, dim)
        times = jets.multiply_jets
        cube = times(y[2], times(y[2], y[2], dim), dim)
        expected = times(y[0], y[1], dim) + cube
        for point in range(2):
            found = ansatz.composed_hessian(lambda v: v[0] * v[1] + v[2] ** 3, y[:, :, point], dim)
            np.testing.assert_allclose(found, expected[1 + 2 * dim :, point], atol=1e-10)
