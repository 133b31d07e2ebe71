import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from metricflow import diagnostics, geometry
from tests.geometry import cubic
from tests.tolerances import tolerance


@pytest.mark.parametrize("manifold", [geometry.fermat(d) for d in (1, 2, 3, 4)], ids=repr)
def test_points_lie_on_the_hypersurface(manifold, dtype):
    points = geometry.sample_points(jax.random.key(0), manifold, 1003, dtype=dtype)
    assert points.z.shape == (1003, manifold.ambient)
    assert points.pullback.shape == (1003, manifold.dim, manifold.ambient)
    assert points.weight.dtype == points.omega2.dtype == points.z.real.dtype == dtype
    assert float(geometry.residual(manifold, points.z).max()) <= tolerance("residual", dtype)


def test_the_roots_of_a_line_are_all_there(quintic):
    points = geometry.sample_points(jax.random.key(1), quintic, 1000)
    z = np.asarray(points.z).reshape(200, 5, 5)
    assert np.all(np.asarray(points.line).reshape(200, 5) == np.arange(200)[:, None])
    for line in z[:20]:
        # five points on one projective line: rank two; and no two of them coincide
        assert np.linalg.svd(line)[1][2] < 1e-12
        distance = np.array(geometry.pairwise_distance(line, line)) + np.eye(5)
        assert distance.min() > 1e-6


def test_sampling_is_a_function_of_the_key(quintic):
    first, again, other = (
        geometry.sample_points(jax.random.key(k), quintic, 50).z for k in (3, 3, 4)
    )
    assert jnp.array_equal(first, again)
    assert not jnp.allclose(first, other)


def test_weights_are_the_ratio_of_the_two_measures(quintic, dtype):
    points = geometry.sample_points(jax.random.key(2), quintic, 300, dtype=dtype)
    determinant = geometry.hermitian_determinant(geometry.fubini_study_metric(points))
    np.testing.assert_allclose(
        points.weight, points.omega2 / determinant, rtol=tolerance("algebra", dtype)
    )


def test_moments_of_the_fubini_study_measure(asymmetric_cubic):
    # mu_FS of a curve of degree 3 averages |z_i|^2 / |z|^2 over three lines' worth of points;
    # on Fermat symmetry makes each 1/3, and the law of a line is unitary invariant on any curve
    cubic = geometry.fermat(1)
    points = geometry.sample_points(jax.random.key(4), cubic, 30_000)
    share = np.abs(points.z) ** 2 / np.sum(np.abs(points.z) ** 2, 1, keepdims=True)
    error = share.std(0) / np.sqrt(10_000)
    assert np.all(np.abs(share.mean(0) - 1 / 3) < 4 * error)
    assert len(geometry.sample_points(jax.random.key(5), asymmetric_cubic, 7).z) == 7


def test_permuted_and_rejected_points_follow_one_law(quintic):
    home = geometry.home_chart(quintic)
    found = {}
    for method in ("permute", "reject"):
        points = geometry.sample_points_in_chart(jax.random.key(6), quintic, 4000, method=method)
        assert np.all(np.asarray(points.chart) == home)
        assert np.all(np.asarray(geometry.best_chart(quintic, points.z)) == home)
        assert float(geometry.residual(quintic, points.z).max()) < tolerance("residual")
        size = np.abs(points.z)
        found[method] = np.stack(
            [points.weight, size[:, 1], size[:, 4], size[:, 1] * size[:, 2]], 1
        )
    means = [f.mean(0) for f in found.values()]
    error = np.sqrt(sum(f.var(0) / (len(f) / 5) for f in found.values()))
    assert np.all(np.abs(means[0] - means[1]) < 4 * error)


def test_single_chart_points_without_symmetry(asymmetric_cubic):
    points = geometry.sample_points_in_chart(jax.random.key(7), asymmetric_cubic, 100, chart=(1, 0))
    assert np.all(np.asarray(points.chart) == (1, 0))
    with pytest.raises(ValueError, match="permut"):
        geometry.sample_points_in_chart(jax.random.key(7), asymmetric_cubic, 10, method="permute")


@pytest.mark.equation("MF B.11")
def test_sigma_of_fubini_study_on_the_quintic(quintic):
    for seed in range(3):
        points = geometry.sample_points(jax.random.key(seed), quintic, 100_000)
        g = geometry.fubini_study_metric(points)
        assert abs(float(diagnostics.sigma_measure(g, points)) - 0.373) < 0.003
        # the plain mean over the sample is another number
        assert abs(float(jnp.mean(jnp.abs(1 - diagnostics.eta(g, points)))) - 0.4995) < 0.004


@pytest.mark.equation("MF B.10", "MF B.11")
def test_sigma_and_kappa_of_the_cubic_against_quadrature():
    volume, omega = cubic.integrate(lambda g, o: g), cubic.integrate(lambda g, o: o)
    kappa = volume / omega
    sigma = cubic.integrate(lambda g, o: o * np.abs(1 - g / (kappa * o))) / omega
    manifold = geometry.fermat(1)
    points = geometry.sample_points(jax.random.key(8), manifold, 200_000)
    g = geometry.fubini_study_metric(points)
    error = float(diagnostics.sigma_standard_error(g, points))
    assert error < 1e-3
    assert abs(float(diagnostics.sigma_measure(g, points)) - sigma) < 4 * error
    assert abs(float(diagnostics.kappa_estimate(g, points)) / kappa - 1) < 5e-3
    # the periods of the curve give the flat metric kappa |Omega|^2 in closed form
    period = scipy.special.gamma(1 / 3) ** 3 / (2 * np.pi * np.sqrt(3))
    exact = 3 * np.pi / (np.sqrt(3) / 2 * period**2)
    assert kappa == pytest.approx(exact, rel=1e-5)


def test_perturbed_points_are_off_by_the_noise_and_projection_brings_them_back(quintic):
    points = geometry.sample_points_in_chart(jax.random.key(9), quintic, 200)
    key = jax.random.key(10)
    for scale in (1e-6, 1e-3):
        off = geometry.perturb_points(key, quintic, points, scale)
        on = geometry.perturb_points(key, quintic, points, scale, project=True)
        residual = float(jnp.mean(geometry.residual(quintic, off.z)))
        assert 0.1 * scale < residual < 10 * scale
        assert float(geometry.residual(quintic, on.z).max()) < tolerance("residual")
        moved = geometry.fubini_study_distance(on.z, points.z)
        assert 0.1 * scale < float(jnp.mean(moved)) < 10 * scale
        assert np.all(np.asarray(on.chart) == np.asarray(points.chart))


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (np.ones((3, 5)), "complex"),
        (np.ones((3, 4), complex), "shape"),
        (np.ones((0, 5), complex), "empty"),
        (np.ones((3, 5), complex), "off the hypersurface"),
        (np.full((3, 5), np.nan + 0j), "NaN"),
        (np.zeros((3, 5), complex), "zero vector"),
        (np.ones((2, 3, 5), complex), "shape"),
    ],
)
@pytest.mark.usefixtures("as_user")
def test_points_at_refuses_what_are_no_points(quintic, z, message):
    with pytest.raises(ValueError, match=message):
        geometry.points_at(quintic, z)


def test_points_at_any_scaling_are_the_sampled_points(quintic, quintic_points):
    again = geometry.points_at(quintic, (1 - 2j) * quintic_points.z)
    for old, new in zip(quintic_points[:-1], again[:-1], strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n: "),
        ({"n": 2.5}, "n: "),
        ({"n": 10, "dtype": "float16"}, "dtype"),
        ({"n": 10, "dtype": "complex128"}, "dtype"),
    ],
)
@pytest.mark.usefixtures("as_user")
def test_sampling_refuses_bad_arguments(quintic, arguments, message):
    with pytest.raises(ValueError, match=message):
        geometry.sample_points(jax.random.key(0), quintic, **arguments)


@pytest.mark.parametrize("chart", [(0, 0), (0, 5), (-1, 2)])
def test_impossible_charts_are_refused(quintic, chart):
    with pytest.raises(ValueError, match="chart"):
        geometry.sample_points_in_chart(jax.random.key(0), quintic, 5, chart=chart)


def test_float64_without_x64_is_refused_and_float32_works():
    code = (
        "import jax; from metricflow import geometry as g; m = g.fermat(3); k = jax.random.key(0)\n"
        "assert g.sample_points(k, m, 20).z.dtype == 'complex64'\n"
        "try:\n    g.sample_points(k, m, 20, dtype='float64')\n"
        "except ValueError as error:\n    assert 'jax_enable_x64' in str(error)\n"
        "else:\n    raise SystemExit('accepted')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
