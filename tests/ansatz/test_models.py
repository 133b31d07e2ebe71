"""Algebraic, network and kernel potentials, and the least-squares problems built on them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz, diagnostics, geometry, load_metric, save_metric
from metricflow.energies import monge_ampere_residuals
from metricflow.flows import AlgebraicPotential, GaussNewton, LinearPotential, NetworkPotential
from tests.tolerances import tolerance


@pytest.fixture(scope="module")
def quartic():
    return geometry.fermat(2)


@pytest.fixture(scope="module")
def points(quartic):
    return geometry.sample_points(jax.random.key(0), quartic, 300)


@pytest.fixture(scope="module")
def basis(quartic, points):
    return ansatz.spectral_basis(quartic, 6, points)


@pytest.fixture(scope="module")
def metrics(quartic, points, basis):
    rng = np.random.default_rng(1)
    network = ansatz.mlp((5,))
    features = ansatz.feature_jets(basis, points)
    parameters = ansatz.initial_parameters(jax.random.key(1), network, features[0, :, 0])
    sections = ansatz.section_basis(quartic, 2, points)
    return {
        "spectral": ansatz.SpectralMetric(quartic, basis, 1e-3 * rng.normal(size=basis.size)),
        "network": ansatz.NetworkMetric(
            quartic, basis, (5,), "tanh", jax.tree.map(lambda x: 0.1 + x, parameters)
        ),
        "kernel": ansatz.KernelPotentialMetric(
            quartic, basis, 4.0, features[:7, :, 0], 0.1 * rng.normal(size=7)
        ),
        "algebraic": ansatz.AlgebraicMetric(
            quartic, sections, ansatz.fubini_study_form(quartic, sections, points)
        ),
    }


def laplacians(metric, potential, point, direction, step=2e-3):
    """4 d_v dbar_v phi by central differences of fourth order along v and i v."""
    z = point.z
    around = 0.0
    for turn in (1, -1, 1j, -1j):
        near, far = (potential(z + k * step * turn * direction) for k in (1, 2))
        around += (16 * near - far) / 12
    return (around - 5 * potential(z)) / step**2


@pytest.mark.parametrize("name", ["network", "kernel"])
def test_metrics_are_fubini_study_plus_derivatives_of_their_potential(
    metrics, quartic, points, basis, name
):
    metric = metrics[name]
    network = ansatz.mlp((5,))

    @jax.jit
    def potential(z):
        features = ansatz.basis_jets(basis, geometry.points_at(quartic, z, check=False))[:, 0].T
        if name == "network":
            return jax.vmap(lambda y: network.apply(metric.parameters, y))(features)
        square = jnp.sum((features[:, None] - metric.centres) ** 2, axis=-1)
        return jnp.exp(-square / (2 * metric.width**2)) @ metric.coefficients

    few = jax.tree.map(lambda x: x[:3], points)
    correction = metric(few.z, few.chart) - geometry.fubini_study_metric(few)
    for v in np.array([[1, 0], [0, 1], [1, 1], [1, 1j]]):
        direction = jnp.einsum("a,xai->xi", v, few.pullback)
        expected = jnp.einsum("a,xab,b->x", v, correction, v.conj()).real
        found = laplacians(metric, potential, few, direction) / 4
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["spectral", "network", "kernel", "algebraic"])
def test_metrics_are_tensors_and_come_back_from_disk(metrics, points, tmp_path, name):
    metric = metrics[name]
    few = jax.tree.map(lambda x: x[:10], points)
    assert float(diagnostics.chart_mismatch(metric, few)) < tolerance("algebra")
    g = metric(few.z)
    save_metric(tmp_path / "metric.npz", metric)
    np.testing.assert_array_equal(load_metric(tmp_path / "metric.npz")(few.z), g)
    np.testing.assert_allclose(
        metric(few.z.reshape(2, 5, 4)).reshape(g.shape), g, rtol=tolerance("algebra")
    )


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_power_of_the_norm_is_fubini_study(quartic, points, k):
    """|z|^(2k) is a Hermitian form of the monomials with multinomial weights."""
    sections = ansatz.section_basis(quartic, k, points)
    weights = [
        math.factorial(k) / math.prod(map(math.factorial, row)) for row in sections.exponents
    ]
    inverse = np.linalg.inv(sections.transform)
    form = inverse.conj().T @ np.diag(weights) @ inverse
    metric = ansatz.AlgebraicMetric(quartic, sections, ansatz.form_parameters(form + 0j))
    np.testing.assert_allclose(
        metric(points.z, points.chart), geometry.fubini_study_metric(points), atol=1e-10
    )


def test_forms_and_their_parameters(rng):
    real = jnp.asarray(rng.normal(size=(5, 5)))
    form = ansatz.hermitian_form(real)
    np.testing.assert_allclose(form, form.conj().T, atol=1e-15)
    np.testing.assert_allclose(ansatz.form_parameters(form), real, atol=1e-14)
    assert float(jnp.sum(jnp.abs(form) ** 2)) == pytest.approx(float(jnp.sum(real**2)))


def test_sections_are_counted_and_independent(quartic, points):
    for k, count in ((1, 4), (2, 10), (3, 20), (4, 34)):
        assert ansatz.section_count(quartic, k) == count
    sections = ansatz.section_basis(quartic, 4, points)
    s = ansatz.section_jets(sections, points)[:, 0]
    s = s[:34] + 1j * s[34:]
    gram = s @ s.conj().T / len(points.weight)
    np.testing.assert_allclose(gram, np.eye(34), atol=1e-9)
    with pytest.raises(ValueError, match="34 sections need 68, got 20"):
        ansatz.section_basis(quartic, 4, jax.tree.map(lambda x: x[:20], points))


def test_balanced_metrics_are_fixed_points_and_approach_calabi_yau(quartic):
    many = geometry.sample_points(jax.random.key(3), quartic, 4000)
    sigma = []
    for k in (1, 2, 3):
        sections = ansatz.section_basis(quartic, k, many)
        parameters, changes = ansatz.balanced_form(sections, many, steps=15)
        assert changes[-1] < 1e-3 * changes[0]
        metric = ansatz.AlgebraicMetric(quartic, sections, parameters)
        sigma.append(float(diagnostics.sigma_measure(metric(many.z, many.chart), many)))
    assert sigma[1] < 0.8 * sigma[0]
    assert sigma[2] < 0.8 * sigma[1]
    raised = ansatz.raised_form(metric, ansatz.section_basis(quartic, 4, many), many)
    higher = ansatz.AlgebraicMetric(quartic, ansatz.section_basis(quartic, 4, many), raised)
    assert float(diagnostics.sigma_measure(higher(many.z, many.chart), many)) < sigma[1]


def test_gauss_newton_beats_the_balanced_form(quartic, points):
    sections = ansatz.section_basis(quartic, 2, points)
    problem = AlgebraicPotential(points, ansatz.section_jets(sections, points), 2)
    start, _ = ansatz.balanced_form(sections, points)
    before = float(diagnostics.sigma_measure(problem.metric(start), points))
    method = GaussNewton(solver="iterative", iterations=60, damping=1e-9)
    state, _ = method.run(method.init(start), problem, 5, tolerance=1e-2)
    assert float(diagnostics.sigma_measure(problem.metric(state.parameters), points)) < before / 3


def test_closed_jacobians_are_those_of_jax(points, basis):
    few = jax.tree.map(lambda x: x[:12], points)
    linear = LinearPotential(few, ansatz.basis_hessians(basis, few))
    coefficients = 1e-6 * jnp.arange(1.0, basis.size + 1)
    network = ansatz.mlp((3,), "gelu")
    features = ansatz.feature_jets(basis, few)
    neural = NetworkPotential(few, features, network)
    parameters = ansatz.initial_parameters(jax.random.key(0), network, features[0, :, 0])
    for problem, at in ((linear, coefficients), (neural, parameters)):
        flat, unravel = jax.flatten_util.ravel_pytree(at)
        r, J = jax.jit(problem.jacobian)(at)
        np.testing.assert_allclose(r, problem.residuals(at), atol=1e-12)
        expected = jax.jit(jax.jacfwd(lambda x, p=problem, u=unravel: p.residuals(u(x))))(flat)
        np.testing.assert_allclose(J, expected, atol=1e-9 * float(jnp.max(jnp.abs(expected))))


def test_residuals_are_the_variance_of_log_eta(points):
    g = geometry.fubini_study_metric(points)
    log = jnp.log(diagnostics.eta(g, points))
    weight = points.weight / jnp.sum(points.weight)
    variance = jnp.sum(weight * log**2) - jnp.sum(weight * log) ** 2
    found = monge_ampere_residuals(g, points)
    assert float(jnp.sum(found**2)) == pytest.approx(float(variance), rel=1e-12)
    np.testing.assert_allclose(monge_ampere_residuals(7.0 * g, points), found, atol=1e-14)
    exact = g * (points.omega2 / geometry.hermitian_determinant(g))[:, None, None] ** 0.5
    np.testing.assert_allclose(monge_ampere_residuals(exact, points), 0, atol=1e-14)
    broken = g.at[3].multiply(-1)
    assert np.flatnonzero(~np.isfinite(monge_ampere_residuals(broken, points))).tolist() == [3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), "tanh"), "at least one hidden layer"),
        (((3, 0), "tanh"), "widths: expected an integer of at least 1"),
        (((3,), "relu"), "activation: expected one of"),
    ],
)
def test_bad_networks_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ansatz.mlp(*arguments)
