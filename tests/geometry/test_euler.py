import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import geometry
from metricflow.geometry import euler, kaehler_curvature, local_coordinates, monte_carlo
from tests.geometry.test_kaehler_curvature import Perturbed, projective
from tests.tolerances import tolerance

EULER = {1: 0, 2: 24, 3: -200}


@pytest.fixture(scope="module")
def k3():
    return geometry.fermat(2)


@pytest.fixture(scope="module")
def k3_points(k3):
    return geometry.sample_points(jax.random.key(4), k3, 2000)


def sign(order):
    return np.linalg.det(np.eye(len(order))[list(order)])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_top_form_is_the_sum_over_permutations(n, dtype):
    rng = np.random.default_rng(n)
    r = rng.normal(size=(2, n, n, n, n, 2, 3)).T @ [1, 1j]
    expected = np.zeros((3, 2), complex)
    for s, p, q in itertools.product(itertools.permutations(range(n)), repeat=3):
        factors = [r[..., a, s[a], p[a], q[a]] for a in range(n)]
        expected += sign(s) * sign(p) * sign(q) * np.prod(factors, axis=0)
    found = euler.top_form(jnp.asarray(r, "complex64" if dtype == "float32" else "complex128"))
    assert found.dtype == dtype
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(
        found / scale, expected.real / scale, atol=tolerance("algebra", dtype)
    )


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_euler_number_of_projective_space(n):
    """c_n is pi^-n F / det g = (n + 1)! det g pi^-n, and the volume of P^n is pi^n / n!."""
    x = jnp.array([0.3 - 0.2j, 0.1 + 0.5j, -0.4 + 0.1j, 0.2 + 0.3j][:n])
    g = np.asarray(projective(x))
    r = jnp.einsum("ab,cd->abcd", g, g) + jnp.einsum("ad,cb->abcd", g, g)
    density = float(euler.top_form(r)) / np.linalg.det(g).real ** 2
    assert density / math.factorial(n) == pytest.approx(n + 1, rel=tolerance("algebra"))


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("kind", [geometry.FubiniStudyMetric, Perturbed])
def test_euler_numbers_do_not_depend_on_the_metric(dim, kind):
    manifold = geometry.fermat(dim)
    points = geometry.sample_points(jax.random.key(dim), manifold, 20_000)
    metric = kind(manifold)
    g = metric(points.z, points.chart)
    assert bool(jnp.all(jnp.linalg.eigvalsh(g) > 0))
    found = euler.euler_number(metric, points)
    assert abs(float(found.value) - EULER[dim]) < 3 * float(found.standard_error)
    assert float(found.standard_error) < {1: 0.2, 2: 2, 3: 40}[dim]
    if kind is Perturbed:
        fubini_study = geometry.fubini_study_metric(points)
        change = geometry.hermitian_determinant(g) / geometry.hermitian_determinant(fubini_study)
        assert float(jnp.max(jnp.abs(change - 1))) > 0.1


@pytest.mark.heavy
def test_euler_number_of_a_curve_without_symmetries():
    curve = geometry.random_hypersurface(jax.random.key(0), 1)
    points = geometry.sample_points(jax.random.key(5), curve, 10_000)
    found = euler.euler_number(geometry.FubiniStudyMetric(curve), points)
    assert abs(float(found.value)) < 3 * float(found.standard_error) < 0.5


def test_density_of_fubini_study_on_the_cubic_by_the_equation_of_gauss(dtype):
    """3 K / det g with K = (2 g^2 - |h|^2) / g and h from the second derivatives of P."""
    curve = geometry.fermat(1)
    points = geometry.sample_points(jax.random.key(3), curve, 50, dtype=dtype)
    z, jacobian = np.asarray(points.z, complex), np.asarray(points.pullback, complex)[:, 0]
    bend = np.sum(6 * z * jacobian**2, axis=1)
    h2 = np.abs(bend) ** 2 / np.sum(np.abs(3 * z**2) ** 2, 1) / np.sum(np.abs(z) ** 2, 1)
    g = np.asarray(geometry.fubini_study_metric(points), complex)[:, 0, 0].real
    found = euler.euler_density(geometry.FubiniStudyMetric(curve), points, chunk=16)
    assert found.dtype == dtype
    expected = 3 * (2 - h2 / g**2)
    tol = tolerance("algebra", dtype) * np.max(np.abs(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tol)


def test_density_of_a_flat_torus_is_zero():
    curve = geometry.fermat(1)
    points = geometry.sample_points(jax.random.key(2), curve, 200)

    def metric(z, chart):
        return geometry.holomorphic_volume(curve, z, chart)[..., None, None] + 0j

    # metric takes z in its chart, as the points come
    found = euler.euler_number(metric, points)
    assert abs(float(found.value)) < tolerance("algebra")
    assert float(found.standard_error) < tolerance("algebra")


def test_density_depends_neither_on_the_chart_nor_on_the_scale(k3, k3_points):
    points = jax.tree.map(lambda x: x[:20], k3_points)
    metric = Perturbed(k3)
    expected = np.asarray(euler.euler_density(metric, points))
    swapped = geometry.points_at(k3, points.z, chart=points.chart[:, ::-1])
    scale = np.max(np.abs(expected))
    for found in (
        euler.euler_density(metric, swapped),
        euler.euler_density(Perturbed(k3, scale=7.0), points),
    ):
        np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-9)


@pytest.mark.heavy
def test_density_of_a_hermitian_metric_that_is_not_kaehler(k3):
    """A conformal factor changes c_n by an exact form: the number stays."""
    points = geometry.sample_points(jax.random.key(6), k3, 10_000)
    fubini_study = geometry.FubiniStudyMetric(k3)

    def metric(z, chart):
        share = jnp.abs(z[..., 0]) ** 2 / jnp.sum(jnp.abs(z) ** 2, axis=-1)
        return fubini_study(z, chart) * jnp.exp(share)[..., None, None]

    found = euler.euler_number(metric, points)
    assert abs(float(found.value) - 24) < 3 * float(found.standard_error)
    few = jax.tree.map(lambda x: x[:5], points)
    change = euler.euler_density(metric, few) / euler.euler_density(fubini_study, few)
    assert float(jnp.max(jnp.abs(change - 1))) > 0.01


@pytest.mark.heavy
def test_density_is_that_of_the_curvature_in_local_coordinates(k3, k3_points):
    """det of the matrix of curvature forms for n = 2, written out with an inverse metric."""
    metric = Perturbed(k3)
    z, chart = k3_points.z[0], k3_points.chart[0]
    local, x = local_coordinates.local_metric(metric, k3, z, chart)
    r = np.asarray(jax.jit(lambda y: kaehler_curvature.kaehler_riemann(local, y))(x))
    inverse = np.linalg.inv(jax.jit(local)(x))
    form = np.einsum("ea,becd->abcd", inverse, r)  # R^a_(b c dbar)

    def wedge(p, q):
        return p[0, 0] * q[1, 1] + p[1, 1] * q[0, 0] - p[0, 1] * q[1, 0] - p[1, 0] * q[0, 1]

    top = wedge(form[0, 0], form[1, 1]) - wedge(form[0, 1], form[1, 0])
    reference = np.linalg.det(geometry.FubiniStudyMetric(k3)(z, chart)).real
    found = euler.euler_density(metric, jax.tree.map(lambda x: x[:3], k3_points))[0]
    assert float(found) == pytest.approx(2 * top.real / reference, rel=1e-9)


def test_standard_error_is_the_spread_over_samples(k3):
    metric = geometry.FubiniStudyMetric(k3)
    found = [
        euler.euler_number(metric, geometry.sample_points(jax.random.key(seed), k3, 400))
        for seed in range(150)
    ]
    value, error = np.array(found, float).T
    assert np.mean(error) == pytest.approx(np.std(value, ddof=1), rel=0.2)
    assert np.mean(value) == pytest.approx(24, abs=3 * np.mean(error) / np.sqrt(150))


@pytest.mark.heavy
def test_standard_error_falls_with_the_root_of_the_number_of_points(k3):
    points = geometry.sample_points(jax.random.key(8), k3, 32_000)
    metric = geometry.FubiniStudyMetric(k3)
    value, error = euler.euler_number(metric, points)
    density = euler.euler_density(metric, points)
    assert float(value) == pytest.approx(float(jnp.mean(density)), rel=tolerance("sum"))
    _, few = monte_carlo.mean_over_lines(density[:2000], points.line[:2000])
    assert float(few) / float(error) == pytest.approx(4, rel=0.15)


def test_variance_over_lines_written_out():
    values, line = np.array([1.0, 4, 2, 8, 5]), np.array([7, 7, -3, 10**6, -3])
    mean, error = monte_carlo.mean_over_lines(values, line)
    assert float(mean) == 4
    sums = np.array([1 + 4 - 8, 2 + 5 - 8, 8 - 4]) / 5  # less the mean
    assert float(error) ** 2 == pytest.approx(np.sum(sums**2) * 3 / 2)
    # each point its own line: the usual standard error
    _, alone = monte_carlo.mean_over_lines(values, np.arange(5))
    assert float(alone) == pytest.approx(np.std(values, ddof=1) / np.sqrt(5))
    assert float(monte_carlo.mean_over_lines(values, np.zeros(5, int))[1]) == pytest.approx(0)


def test_euler_number_compiles_and_can_be_differentiated(k3, k3_points):
    """The mean over many points does not change with eps, but that over a few does."""
    points = jax.tree.map(lambda x: x[:8], k3_points)

    def value(eps):
        return euler.euler_number(Perturbed(k3, eps), points).value

    found = jax.jit(value)
    step = 1e-4
    difference = (float(found(0.2 + step)) - float(found(0.2 - step))) / (2 * step)
    slope = float(jax.jit(jax.grad(value))(0.2))
    assert slope == pytest.approx(difference, rel=tolerance("difference"))


@pytest.mark.usefixtures("as_user")
def test_wrong_input_is_named(k3, k3_points):
    metric = geometry.FubiniStudyMetric(k3)
    for quantity in (euler.euler_density, euler.euler_number):
        with pytest.raises(ValueError, match="points: expected at least one point, got none"):
            quantity(metric, jax.tree.map(lambda x: x[:0], k3_points))
        with pytest.raises(ValueError, match=r"metric: expected .* \(250, 2, 2\) .* got \(250, 4"):
            quantity(lambda z, chart: z, k3_points)
        with pytest.raises(ValueError, match=r"chunk: expected an integer .* got 1\.5"):
            quantity(metric, k3_points, chunk=1.5)
    for values, line in ((np.ones(3), np.arange(2)), (np.ones((2, 2)), np.ones((2, 2), int))):
        with pytest.raises(ValueError, match=r"influence: expected one number .* points\.line"):
            monte_carlo.variance_over_lines(values, line)
    with pytest.raises(ValueError, match="influence: expected one number"):
        monte_carlo.mean_over_lines(np.ones(0), np.ones(0, int))


@pytest.mark.heavy
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_euler_numbers_of_a_million_points(dim):
    manifold = geometry.fermat(dim)
    points = geometry.sample_points(jax.random.key(2), manifold, 1_000_000)
    found = euler.euler_number(geometry.FubiniStudyMetric(manifold), points)
    assert abs(float(found.value) - EULER[dim]) < 3 * float(found.standard_error)
    assert float(found.standard_error) < {1: 0.01, 2: 0.1, 3: 2}[dim]
