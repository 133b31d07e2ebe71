"""The spectral basis: how many functions, how independent, how well a metric comes out."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz, diagnostics, geometry
from metricflow.ansatz import spectral_recursion
from metricflow.flows import GaussNewton, LinearPotential
from tests.geometry.cubic import integrate
from tests.tolerances import tolerance

# one program each: step by step every operation is compiled for itself
basis_jets = jax.jit(ansatz.basis_jets)
potential = jax.jit(ansatz.SpectralMetric.potential)


def fitted(manifold, degree, count, key=0):
    points = geometry.sample_points(jax.random.key(key), manifold, count)
    basis = ansatz.spectral_basis(manifold, degree, points)
    problem = LinearPotential(points, ansatz.basis_hessians(basis, points))
    method = GaussNewton()
    state, infos = method.run(method.init(jnp.zeros(basis.size)), problem, 10, tolerance=1e-6)
    return ansatz.SpectralMetric(manifold, basis, state.parameters), infos


@pytest.fixture(scope="module")
def quintic_metric(quintic):
    return fitted(quintic, 8, 1000)[0]


@pytest.mark.parametrize(
    ("manifold", "degree"),
    [(geometry.fermat(3), 10), (geometry.dwork(3, 0.5), 7), (geometry.fermat(2), 10)],
    ids=["quintic", "dwork", "quartic"],
)
def test_every_invariant_function_is_found_once(manifold, degree):
    points = geometry.sample_points(jax.random.key(0), manifold, 400)
    basis = ansatz.spectral_basis(manifold, degree, points)
    dimensions = ansatz.invariant_dimensions(ansatz.symmetry_group(manifold), degree)
    assert basis.size == dimensions[-1] - 1
    for d, count in basis.levels:
        assert count == dimensions[d] - dimensions[d - 1]
    values = np.concatenate([np.ones((1, 400)), basis_jets(basis, points)[:, 0]])
    assert np.linalg.matrix_rank(values) == dimensions[-1]
    # each degree orthogonal to all before, and of mean square one
    gram = values @ values.T / 400
    first = 1
    for _, count in basis.levels:
        rows = slice(first, first + count)
        assert np.abs(gram[rows, :first]).max() < 1e-9
        first += count
    np.testing.assert_allclose(np.diagonal(gram), 1, atol=1e-9)


def test_a_basis_is_the_same_in_one_go_and_in_two(quintic):
    points = geometry.sample_points(jax.random.key(0), quintic, 300)
    whole = ansatz.spectral_basis(quintic, 9, points)
    lower = ansatz.spectral_basis(quintic, 6, points)
    again = ansatz.spectral_basis(quintic, 9, points, start=lower)
    cut = whole.truncated(6)
    few = jax.tree.map(lambda x: x[:5], points)
    for first, second in ((whole, again), (lower, cut)):
        assert first.levels == second.levels
        np.testing.assert_allclose(
            basis_jets(first, few), basis_jets(second, few), rtol=1e-7, atol=1e-7
        )


def test_functions_are_invariant_under_the_group(quintic, quintic_metric):
    symmetry = ansatz.symmetry_group(quintic)
    z = geometry.sample_points(jax.random.key(9), quintic, 20).z
    turn = np.exp(2j * np.pi * symmetry.phases[123] / 5)
    before = potential(quintic_metric, z)
    for moved in (z * turn, z[:, symmetry.permutations[50]], z.conj(), z * (2 + 1j)):
        np.testing.assert_allclose(potential(quintic_metric, moved), before, atol=1e-9)


def test_the_cubic_becomes_the_flat_torus():
    """The exact answer g = kappa |Omega|^2, its constant included: Vol / period^2."""
    period = math.gamma(1 / 3) ** 3 / (2 * np.pi * 3**0.5)
    kappa = 3 * np.pi / (3**0.5 / 2 * period**2)
    assert kappa == pytest.approx(3 * np.pi / integrate(lambda _, omega2: omega2), rel=1e-6)
    metric, _ = fitted(geometry.fermat(1), 18, 400)
    test = geometry.sample_points(jax.random.key(1), metric.manifold, 1000)
    g = metric(test.z, test.chart)[:, 0, 0].real
    np.testing.assert_allclose(g, kappa * test.omega2, rtol=1e-10)


def test_accuracy_grows_with_the_degree_on_held_out_points(quintic):
    test = geometry.sample_points(jax.random.key(1), quintic, 1000)
    sigma = []
    for degree in (4, 6, 8):
        metric, infos = fitted(quintic, degree, 1000)
        g = metric(test.z, test.chart)
        assert float(diagnostics.min_eigenvalue(g, test)) > 0
        assert abs(float(diagnostics.volume_ratio(g, test)) - 1) < 0.05
        losses = [float(info.loss) for info in infos]
        assert losses == sorted(losses, reverse=True)
        sigma.append(float(diagnostics.sigma_measure(g, test)))
    assert sigma[0] < 0.03
    assert sigma[1] < sigma[0] / 2.5
    assert sigma[2] < sigma[1] / 2.5
    assert sigma[2] < 2.5e-3


def test_a_spectral_metric_is_kaehler_and_a_tensor():
    """And nearly Ricci-flat: sigma 2e-4 on K3."""
    metric, _ = fitted(geometry.fermat(2), 8, 400)
    test = geometry.sample_points(jax.random.key(2), metric.manifold, 500)
    found = diagnostics.diagnose(metric, test, derivative_points=20, curvature_points=20)
    assert found.kaehler_defect is not None
    assert found.kaehler_defect < 1e-12
    assert found.chart_mismatch is not None
    assert found.chart_mismatch < 1e-12
    curved = diagnostics.mean_abs_ricci(
        geometry.FubiniStudyMetric(metric.manifold), jax.tree.map(lambda x: x[:20], test)
    )
    assert found.mean_abs_ricci is not None
    assert found.mean_abs_ricci < curved / 30


def test_single_precision_follows_the_points(quintic, quintic_metric):
    points = geometry.sample_points(jax.random.key(4), quintic, 8)
    half = jax.tree.map(
        lambda x: x.astype({"c": "complex64", "f": "float32"}.get(x.dtype.kind, x.dtype)), points
    )
    basis = quintic_metric.basis.truncated(5)
    found = basis_jets(basis, half)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, basis_jets(basis, points), rtol=3e-3, atol=3e-3)


def test_a_metric_works_on_any_batch_shape(quintic, quintic_metric):
    points = geometry.sample_points(jax.random.key(4), quintic, 6)
    g = quintic_metric(points.z, points.chart)
    folded = quintic_metric(points.z.reshape(2, 3, 5), points.chart.reshape(2, 3, 2))
    np.testing.assert_allclose(folded.reshape(g.shape), g, rtol=tolerance("algebra"))
    np.testing.assert_allclose(quintic_metric(points.z[0]), g[0], rtol=tolerance("algebra"))


def test_bad_arguments_are_named(quintic, as_user):
    points = geometry.sample_points(jax.random.key(0), quintic, 20)
    with pytest.raises(ValueError, match="degree: expected an integer of at least 1"):
        ansatz.spectral_basis(quintic, 0, points)
    with pytest.raises(ValueError, match="no invariant function"):
        ansatz.spectral_basis(quintic, 1, points)
    with pytest.raises(ValueError, match="points: 216 functions need at least"):
        ansatz.spectral_basis(quintic, 16, points)


def test_functions_that_are_rounding_are_recognised(quintic):
    points = geometry.sample_points(jax.random.key(0), quintic, 300)
    z = np.asarray(points.z)
    basis = ansatz.spectral_basis(quintic, 8, points)
    builder = spectral_recursion._Builder(z / np.linalg.norm(z, axis=1, keepdims=True), basis, 3)
    assert np.abs(builder.values[:, :64] - builder.image_values).max() < 1e-9
    # f_1^2 lies in the span of the functions: what is left of it is rounding
    square = builder.values[1] ** 2
    mixing = np.linalg.lstsq(builder.values.T, square)[0][None]
    assert np.abs(square - mixing[0] @ builder.values).max() < 1e-12
    one, none = np.array([1]), np.array([-1])
    assert not builder._sound(one, one, none, np.array([1e-16]), mixing)[0]
    # without its part along f_2 it is a function
    mixing[0, 2] = 0
    assert builder._sound(one, one, none, np.array([1.0]), mixing)[0]
