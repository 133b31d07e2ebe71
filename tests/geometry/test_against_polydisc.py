"""Volumes, kappa, weights and sigma against an integration that shares no code with the library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import diagnostics, geometry
from tests.geometry import polydisc


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_fubini_study_volume(dim):
    cell = polydisc.sample(np.random.default_rng(dim), dim, 400_000)
    volume, error = mean_and_error(cell.measure * cell.density)
    expected = geometry.fubini_study_volume(geometry.fermat(dim))
    assert error < 0.015 * expected
    assert abs(volume - expected) < 4 * error


@pytest.mark.equation("MF B.10")
@pytest.mark.parametrize("dim", [2, 3])
def test_sampled_weights_integrate_the_volume_form(dim):
    """E_FS[w] = Vol_Omega / Vol_FS = 1 / kappa, with the constants of our conventions."""
    cell = polydisc.sample(np.random.default_rng(10 + dim), dim, 400_000)
    omega, omega_error = mean_and_error(cell.measure * cell.omega2)
    manifold = geometry.fermat(dim)
    points = geometry.sample_points(jax.random.key(dim), manifold, 60_000)
    lines = np.asarray(points.weight).reshape(-1, manifold.degree).mean(1)
    mean, error = mean_and_error(lines)
    volume = geometry.fubini_study_volume(manifold)
    assert abs(mean * volume - omega) < 4 * np.hypot(error * volume, omega_error)
    assert np.hypot(error * volume, omega_error) < 0.015 * omega
    kappa = float(diagnostics.kappa_estimate(geometry.fubini_study_metric(points), points))
    assert kappa == pytest.approx(1 / float(jnp.mean(points.weight)), rel=1e-9)


@pytest.mark.equation("MF B.11")
@pytest.mark.parametrize("dim", [2, 3])
def test_sigma_of_fubini_study(dim):
    cell = polydisc.sample(np.random.default_rng(20 + dim), dim, 400_000)
    used = cell.omega2 > 0
    density, omega2 = cell.density[used], cell.omega2[used]
    kappa = density.sum() / omega2.sum()
    expected = np.sum(np.abs(omega2 - density / kappa)) / omega2.sum()
    points = geometry.sample_points(jax.random.key(30 + dim), geometry.fermat(dim), 60_000)
    g = geometry.fubini_study_metric(points)
    found = float(diagnostics.sigma_measure(g, points))
    error = float(diagnostics.sigma_standard_error(g, points))
    # the polydisc keeps about as many points as there are sampled ones, and they are independent
    spread = np.std(np.abs(omega2 - density / kappa)) / omega2.mean() / np.sqrt(len(omega2))
    assert np.hypot(error, spread) < 0.008
    assert abs(found - expected) < 4 * np.hypot(error, spread)
