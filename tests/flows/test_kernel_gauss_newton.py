"""Gauss-Newton in the function space of a kernel: two routes to one step, invariance, failures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz, diagnostics, energies, flows, geometry, kernels
from metricflow.flows import FlowError, GaussNewton, KernelFlow, KernelGaussNewton, Result
from tests.tolerances import tolerance

MANIFOLD = geometry.fermat(2)


@pytest.fixture(scope="module")
def points():
    return geometry.sample_points_in_chart(jax.random.key(1), MANIFOLD, 40)


@pytest.fixture(scope="module")
def frozen(points):
    model = ansatz.ComponentModel(MANIFOLD, "multiplicative", ansatz.component_mlp(2, (12,)))
    inputs = model.inputs(points.z, geometry.fubini_study_metric(points))
    parameters = ansatz.initial_parameters(jax.random.key(2), model.network, inputs.inputs[0])
    chart = (int(points.chart[0, 0]), int(points.chart[0, 1]))
    return kernels.FrozenNTK(model, parameters, chart)


@pytest.mark.equation("MF 2.12")
def test_a_step_is_that_of_the_linearised_network(points, frozen):
    """(D Theta D^T + lambda) in function space, (J^T J + lambda) in parameter space."""
    method = KernelGaussNewton(frozen, damping=0.1, iterations=400, tolerance=1e-14)
    start = method.init(points)
    state, info = jax.jit(method.step)(start)

    model = dataclasses.replace(frozen.model, network=ansatz.tangent_network(frozen.model.network))
    problem = flows.NetworkComponents(
        model, points, model.inputs(points.z, geometry.fubini_study_metric(points))
    )
    zero = jax.tree.map(jnp.zeros_like, frozen.parameters)
    origin = {"origin": frozen.parameters, "change": zero}
    flat, unravel = jax.flatten_util.ravel_pytree(origin)
    jacobian = jax.jacfwd(lambda theta: problem.residuals(unravel(theta)))(flat)
    r = problem.residuals(origin)
    quotient = r @ jacobian @ jacobian.T @ r / (r @ r)
    # the other method measures its damping in mean square columns
    damping = 0.1 * quotient * len(flat) / jnp.sum(jacobian**2)
    other = GaussNewton(damping=float(damping), solver="samples", factor="cholesky")
    after, seen = other.step(other.init(origin), problem)

    assert float(info.fraction) == float(seen.fraction)
    np.testing.assert_allclose(info.loss, seen.loss, rtol=1e-8)
    np.testing.assert_allclose(state.flow.g, problem.metric(after.parameters), rtol=1e-7, atol=1e-9)


def test_it_ends_far_below_the_gradient_flow(points):
    kernel = kernels.Gaussian(0.3)
    method = KernelGaussNewton(kernel, damping=1.0, iterations=200, tolerance=1e-8)
    state, info, _ = method.run(method.init(points, dense=True), 12)
    assert np.all(np.diff(info.loss) < 1e-20)
    np.testing.assert_allclose(info.loss[:-1], info.loss_before[1:], rtol=1e-6, atol=1e-20)
    flow = KernelFlow(kernel, step_size=1.0, measure="mean", clip=1.0)
    slow, _, _ = flow.run(flow.init(points, dense=True), 50)
    fast, plain = (float(diagnostics.sigma_measure(s.g, points)) for s in (state.flow, slow))
    assert fast < 1e-3 * plain


def test_the_scale_of_the_kernel_does_not_matter(points, frozen):
    def metrics(kernel):
        method = KernelGaussNewton(kernel, damping=0.3, iterations=30)
        return method.run(method.init(points), 4)[0].flow.g

    large = dataclasses.replace(frozen, scale=1024.0)
    np.testing.assert_allclose(metrics(large), metrics(frozen), rtol=1e-7, atol=1e-9)


def test_the_coefficients_are_the_metric(points):
    method = KernelGaussNewton(kernels.Gaussian(0.4))
    state, _, _ = method.run(method.init(points), 3)
    metric = method.metric(MANIFOLD, state)
    np.testing.assert_allclose(
        metric(points.z, points.chart), state.flow.g, rtol=tolerance("sum"), atol=1e-12
    )


def test_two_runs_are_one_and_observe_sees_every_step(points):
    method = KernelGaussNewton(kernels.Gaussian(0.4))
    test = geometry.sample_points_in_chart(jax.random.key(7), MANIFOLD, 30)
    first = method.init(points)
    watch = flows.held_out_sigma(KernelFlow(method.kernel), first.flow, test)
    whole, _, seen = method.run(first, 4, observe=watch)
    half, _, _ = method.run(first, 2)
    rest, _, later = method.run(half, 2, observe=watch)
    np.testing.assert_array_equal(rest.flow.g, whole.flow.g)
    np.testing.assert_array_equal(later, seen[2:])
    metric = method.metric(MANIFOLD, whole)
    sigma = diagnostics.sigma_measure(metric(test.z, test.chart), test)
    np.testing.assert_allclose(seen[-1], sigma, rtol=1e-8)


def test_the_damping_follows_the_fractions(points):
    method = KernelGaussNewton(kernels.Gaussian(0.4), damping=1e-3)
    _, info, _ = method.run(method.init(points), 6)
    factor = np.where(np.asarray(info.fraction) == 1, 1 / 3, 4)
    np.testing.assert_allclose(info.damping[1:] / info.damping[:-1], factor[:-1])


def test_residuals_fall_to_their_linear_prediction(points):
    """With tiny damping and enough iterations one step solves the linearised equation."""
    method = KernelGaussNewton(kernels.Gaussian(0.1), damping=1e-9, iterations=400, tolerance=1e-12)
    state = method.init(points, dense=True)
    moved, info = method.step(state)
    small = 1e-6
    g = state.flow.g + small * (moved.flow.g - state.flow.g) / info.fraction
    before = energies.monge_ampere_residuals(state.flow.g, points)
    after = energies.monge_ampere_residuals(g, points)
    np.testing.assert_allclose(after, (1 - small) * before, atol=1e-9)


def test_a_start_that_is_not_positive_is_named(points):
    method = KernelGaussNewton(kernels.Gaussian(0.4))
    state = method.init(points)
    broken = state._replace(flow=state.flow._replace(g=-state.flow.g))
    with pytest.raises(FlowError, match="start from a metric that is positive"):
        method.run(broken, 1)
    kept, _, _ = method.run(broken, 1, throw=False)
    assert int(kept.result) == Result.NON_FINITE
    np.testing.assert_array_equal(kept.flow.g, broken.flow.g)


@pytest.mark.parametrize("name", ["damping", "iterations", "tolerance", "halvings"])
def test_numbers_that_make_no_sense(as_user, name):
    with pytest.raises(ValueError, match=name):
        KernelGaussNewton(kernels.Gaussian(0.4), **{name: 0})


def test_single_precision(points):
    small = jax.tree.map(
        lambda x: x.astype(
            {"float64": "float32", "complex128": "complex64"}.get(str(x.dtype), x.dtype)
        ),
        points,
    )
    method = KernelGaussNewton(kernels.Gaussian(0.3), damping=1.0)
    state, _, _ = method.run(method.init(small), 6)
    assert state.flow.g.dtype == jnp.complex64
    exact, _, _ = method.run(method.init(points), 6)
    np.testing.assert_allclose(state.flow.g, exact.flow.g, rtol=1e-2, atol=1e-2)
