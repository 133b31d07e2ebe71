"""The metrics that come with the library are as good as their provenance says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz, diagnostics, geometry, records
from metricflow.flows import GaussNewton, LinearPotential


@pytest.mark.parametrize("name", records.names())
def test_a_stored_metric_keeps_its_promise(name):
    metric, promised = records.calabi_yau_metric(name), records.provenance(name)
    points = geometry.sample_points(jax.random.key(77), metric.manifold, 4000)
    g = metric(points.z, points.chart)
    error = float(diagnostics.sigma_standard_error(g, points))
    assert float(diagnostics.sigma_measure(g, points)) == pytest.approx(
        promised["sigma"], abs=4 * error
    )
    assert error < 0.5 * promised["sigma"]  # few points carry much of it
    assert float(diagnostics.min_eigenvalue(g, points)) > 0
    assert metric.basis.degree == promised["degree"]
    assert "record_metric" in promised["command"]


def test_there_are_stored_metrics():
    assert {"fermat_quartic", "fermat_quintic"} <= set(records.names())
    with pytest.raises(ValueError, match=r"name: expected one of \['.*got 'sphere'"):
        records.calabi_yau_metric("sphere")


def test_a_compact_metric_is_the_same_metric():
    manifold = geometry.fermat(2)
    points = geometry.sample_points(jax.random.key(0), manifold, 400)
    basis = ansatz.spectral_basis(manifold, 10, points)
    problem = LinearPotential(points, ansatz.basis_hessians(basis, points))
    method = GaussNewton()
    state, _ = method.run(method.init(jnp.zeros(basis.size)), problem, 4)
    metric = ansatz.SpectralMetric(manifold, basis, state.parameters)
    small = ansatz.compact_metric(metric, points)
    assert small.basis.mixing.dtype == np.float32
    fresh = geometry.sample_points(jax.random.key(1), manifold, 50)
    g = metric(fresh.z, fresh.chart)
    np.testing.assert_allclose(small(fresh.z, fresh.chart), g, atol=1e-12)
    # without new coefficients it is another metric
    stale = dataclasses.replace(small, coefficients=metric.coefficients)
    assert float(jnp.max(jnp.abs(stale(fresh.z, fresh.chart) - g))) > 1e-10
    # a basis can be built on from the rounded one
    higher = ansatz.spectral_basis(manifold, 12, points, start=small.basis)
    assert higher.degree == 12
    with pytest.raises(ValueError, match="points: expected at least"):
        ansatz.compact_metric(metric, jax.tree.map(lambda x: x[:10], points))
