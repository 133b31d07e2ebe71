"""The two LNE metrics under the microscope: which one the theory of Ricci flow covers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow.discretize import dense_rank_one_metric, hessian_metric
from metricflow.flows import RicciFlow
from metricflow.geometry import PeriodicGrid, christoffel, ricci, riemann
from metricflow.geometry.grid_curvature import grid_ricci
from tests.tolerances import tolerance

DIMENSIONS = pytest.mark.parametrize("n", [2, 3, 4, 5])


def hessian(w, tau):
    return jnp.diag(hessian_metric(w, tau))


def points(n, count=4):
    return jnp.asarray(np.random.default_rng(n).normal(size=(count, n)))


@pytest.mark.equation("RF 15")
@DIMENSIONS
def test_the_hessian_metric_is_flat(n):
    metric = functools.partial(hessian, tau=0.7)
    found = jax.jit(jax.vmap(functools.partial(riemann, metric)))(points(n))
    np.testing.assert_allclose(found, 0, atol=tolerance("algebra"))
    # in coordinates that are not Cartesian
    gamma = jax.jit(jax.vmap(functools.partial(christoffel, metric)))(points(n))
    assert float(jnp.max(jnp.abs(gamma))) > 0.3


@pytest.mark.equation("RF 15")
@DIMENSIONS
@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_the_printed_metric_is_not_ricci_flat(n, tau):
    """Ric(0) = -(n - 1) tau^2 g, of constant curvature -tau^2 there; nor elsewhere."""
    metric = functools.partial(dense_rank_one_metric, tau=tau)
    at = jax.jit(lambda x: (ricci(metric, x), riemann(metric, x)))
    found, curved = at(jnp.zeros(n))
    one = np.eye(n)
    np.testing.assert_allclose(found, -(n - 1) * tau**2 * one, atol=tolerance("algebra"))
    expected = np.einsum("ik,jl->ijkl", one, one) - np.einsum("il,jk->ijkl", one, one)
    np.testing.assert_allclose(curved, -(tau**2) * expected, atol=tolerance("algebra"))
    elsewhere = points(n, 1)[0] * 0.3 / n**0.5
    assert float(jnp.linalg.norm(at(elsewhere)[0])) > 0.3 * tau**2


@pytest.mark.equation("RF 15", "RF 8")
def test_on_a_torus_one_moves_by_diffeomorphisms_and_the_other_does_not_stay():
    """tanh(tau x) becomes tanh(tau sin x): the curvature at the origin is the same."""
    grid, tau = PeriodicGrid((27, 27)), 0.5
    sines = jnp.sin(grid.points())
    hess = jnp.eye(2) * hessian_metric(sines, tau)[..., None, :]
    printed = jnp.eye(2) - jnp.tanh(tau * sines)[..., None] * jnp.tanh(tau * sines)[..., None, :]
    curvature = jax.jit(functools.partial(grid_ricci, grid))
    np.testing.assert_allclose(curvature(hess), 0, atol=1e-9)
    np.testing.assert_allclose(curvature(printed)[0, 0], -(tau**2) * np.eye(2), atol=1e-6)

    still = jax.jit(RicciFlow(grid, "hamilton").velocity)
    np.testing.assert_allclose(still(hess), 0, atol=1e-8)
    assert float(jnp.max(jnp.abs(still(printed)))) > tau**2
    # both end at constant metrics, which are not where they came from
    for start in (hess, printed):
        flow = RicciFlow(grid, "deturck", method="rosenbrock")
        state, _, _ = flow.run(flow.init(start), 120, 0.1)
        gone = float(jnp.max(jnp.abs(state.g - grid.mean(state.g))))
        assert gone < 1e-4
        assert float(jnp.max(jnp.abs(state.g - start))) > 0.05
        assert float(jnp.max(jnp.abs(grid.mean(state.g) - jnp.eye(2)))) > 0.05
