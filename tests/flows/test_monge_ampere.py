"""The residuals of the Monge-Ampere equation, and the Jacobians of the ways to write a metric."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from metricflow import ansatz, diagnostics, energies, geometry
from metricflow.flows import AlgebraicPotential, GaussNewton, LinearPotential, NetworkPotential
from tests.tolerances import tolerance

QUARTIC = geometry.fermat(2)
CLOSE = tolerance("algebra")


@pytest.fixture(scope="module")
def points():
    return geometry.sample_points(jax.random.key(1), QUARTIC, 40)


@pytest.fixture(scope="module")
def basis(points):
    return ansatz.spectral_basis(QUARTIC, 4, points)


def linear(points, basis):
    problem = LinearPotential(points, ansatz.basis_hessians(basis, points))
    return problem, 0.005 * jax.random.normal(jax.random.key(2), (basis.size,))


def network(points, basis):
    features = ansatz.feature_jets(basis, points)
    perceptron = ansatz.mlp((4,))
    parameters = ansatz.initial_parameters(jax.random.key(3), perceptron, features[0, :, 0])
    # out of the almost constant start, but inside the cone
    parameters["params"]["Dense_1"]["kernel"] = 0.03 * jnp.array([[3.0], [-2.0], [1.0], [4.0]])
    return NetworkPotential(points, features, perceptron), parameters


def algebraic(points, _):
    sections = ansatz.section_basis(QUARTIC, 2, points)
    form = jnp.eye(10) + 0.05 * jax.random.normal(jax.random.key(4), (10, 10))
    return AlgebraicPotential(points, ansatz.section_jets(sections, points), 2), form


def conformal(points):
    """A positive metric that is far from Fubini-Study."""
    size = jnp.abs(points.z) ** 2
    factor = 1 + size[:, 0] / jnp.sum(size, axis=1)
    return factor[:, None, None] * geometry.fubini_study_metric(points)


def test_the_sum_of_squares_is_the_variance_of_log_eta(points):
    g = conformal(points)
    found = energies.monge_ampere_residuals(g, points)
    log = np.log(np.asarray(diagnostics.eta(g, points)))
    weight = np.asarray(points.weight)
    mean = np.average(log, weights=weight)
    assert float(jnp.sum(found**2)) == pytest.approx(np.average((log - mean) ** 2, weights=weight))
    np.testing.assert_allclose(found, np.sqrt(weight / weight.sum()) * (log - mean), atol=CLOSE)
    assert float(jnp.sum(found**2)) > 1e-2


def test_near_the_exact_metric_it_is_the_square_of_eta_minus_one(points):
    g = conformal(points)
    exact = g * diagnostics.eta(g, points)[:, None, None] ** -0.5
    ripple = 1 + 1e-4 * jnp.sin(jnp.arange(40.0))
    near = exact * ripple[:, None, None]
    gap = diagnostics.eta(near, points) - 1
    expected = jnp.sum(points.weight * gap**2) / jnp.sum(points.weight)
    found = jnp.sum(energies.monge_ampere_residuals(near, points) ** 2)
    assert float(found) == pytest.approx(float(expected), rel=1e-3)


def test_it_vanishes_on_exact_metrics_of_any_scale(points):
    curve = geometry.sample_points(jax.random.key(0), geometry.fermat(1), 40)
    g = conformal(points)
    exact = [
        (curve.omega2[:, None, None] + 0j, curve),
        (g * diagnostics.eta(g, points)[:, None, None] ** -0.5, points),
    ]
    for metric, sample in exact:
        for scale in (1, 7.3):
            found = energies.monge_ampere_residuals(scale * metric, sample)
            assert float(jnp.max(jnp.abs(found))) < CLOSE


def test_no_scale_changes_it(points):
    g = conformal(points)
    first, second = (energies.monge_ampere_residuals(s * g, points) for s in (1, 7.3))
    np.testing.assert_allclose(first, second, atol=CLOSE)
    heavy = points._replace(weight=5 * points.weight)
    np.testing.assert_allclose(energies.monge_ampere_residuals(g, heavy), first, atol=CLOSE)


def test_it_is_infinite_where_a_metric_is_not_positive(points):
    """Also where both eigenvalues are negative and the determinant is not."""
    signs = jnp.ones((40, 2)).at[3].set(-1).at[8, 0].set(-1).at[9, 1].set(-1).at[11].set(0)
    diagonal = signs[:, :, None] * jnp.eye(2) + 0j
    root = jnp.linalg.cholesky(conformal(points))
    g = root @ diagonal @ root.conj().swapaxes(1, 2)
    found = energies.monge_ampere_residuals(g, points)
    assert np.flatnonzero(~np.isfinite(found)).tolist() == [3, 8, 9, 11]
    assert np.all(np.asarray(found)[[3, 8, 9, 11]] == np.inf)
    slope = jax.jvp(
        lambda h: energies.monge_ampere_residuals(h, points), (g,), (conformal(points),)
    )[1]
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("build", [linear, network], ids=lambda f: f.__name__)
def test_the_jacobian_is_the_derivative_of_the_residuals(points, basis, build):
    problem, parameters = build(points, basis)
    flat, unravel = ravel_pytree(parameters)
    expected = jax.jit(jax.jacfwd(lambda theta: problem.residuals(unravel(theta))))(flat)
    # a network's rows in parts, the last of them shorter
    options = {"chunk": 7} if build is network else {}
    value, slope = jax.jit(lambda p: problem.jacobian(p, **options))(parameters)
    np.testing.assert_allclose(value, jax.jit(problem.residuals)(parameters), atol=1e-14)
    np.testing.assert_allclose(slope, expected, atol=CLOSE)
    assert slope.shape == (40, len(flat))
    assert np.linalg.norm(slope) > 0.1
    # no metric of these is Fubini-Study itself
    change = problem.metric(parameters) - geometry.fubini_study_metric(points)
    assert float(jnp.max(jnp.abs(change))) > 1e-3


def test_products_with_the_jacobian_of_an_algebraic_metric(points):
    problem, form = algebraic(points, None)
    direction = jax.random.normal(jax.random.key(5), form.shape)
    residuals = jax.jit(problem.residuals)
    found = jax.jvp(residuals, (form,), (direction,))[1]
    step = 1e-6
    difference = (residuals(form + step * direction) - residuals(form - step * direction)) / (
        2 * step
    )
    np.testing.assert_allclose(found, difference, atol=1e-8)
    assert np.linalg.norm(found) > 0.1
    # the scale of H moves no metric
    assert float(jnp.max(jnp.abs(jax.jvp(residuals, (form,), (form,))[1]))) < CLOSE


def test_the_flow_lowers_the_loss_of_a_network(points, basis):
    problem, parameters = network(points, basis)
    method = GaussNewton(damping=1e-3)
    _, infos = method.run(method.init(parameters), problem, 3)
    assert float(infos[-1].loss) < 0.5 * float(infos[0].loss_before)


def test_metrics_at_the_training_points_are_those_of_the_callables(points, basis):
    problem, coefficients = linear(points, basis)
    spectral = ansatz.SpectralMetric(QUARTIC, basis, coefficients)
    perceptron, theta = network(points, basis)
    net = ansatz.NetworkMetric(QUARTIC, basis, perceptron.network, theta)
    sections, form = algebraic(points, None)
    algebra = ansatz.AlgebraicMetric(QUARTIC, ansatz.section_basis(QUARTIC, 2, points), form)
    for found, metric in (
        (jax.jit(problem.metric)(coefficients), spectral),
        (jax.jit(perceptron.metric)(theta), net),
        (jax.jit(sections.metric)(form), algebra),
    ):
        np.testing.assert_allclose(found, metric(points.z, points.chart), rtol=1e-9, atol=1e-11)
