"""Kernel flows against scaling laws, exact end points and their own failures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import diagnostics, geometry, kernels
from metricflow.flows import FlowError, KernelFlow, Result
from tests.tolerances import tolerance


@pytest.fixture(scope="module")
def quartic():
    return geometry.fermat(2)


@pytest.fixture(scope="module")
def train(quartic):
    return geometry.sample_points_in_chart(jax.random.key(1), quartic, 60)


@pytest.mark.equation("MF 3.5")
@pytest.mark.parametrize(("gradient", "exponent"), [("euclidean", 2), ("covariant", 0)])
def test_a_rescaled_metric_moves_like_the_metric_at_another_speed(train, gradient, exponent):
    """lambda g with step lambda^2 dt, or dt if covariant, is lambda times the flow of g."""
    scale, step = 3.0, 1e-3
    flow = KernelFlow(kernels.Gaussian(0.3), step, gradient=gradient, measure="mean")
    start = flow.init(train, dense=True)
    plain, info, _ = flow.run(start, 5)
    faster = dataclasses.replace(flow, step_size=step * scale**exponent)
    larger = start._replace(g=scale * start.g, kappa=scale**2 * start.kappa)
    scaled, scaled_info, _ = faster.run(larger, 5)
    np.testing.assert_allclose(scaled.g, scale * plain.g, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(scaled_info.sigma, info.sigma, rtol=1e-9)
    assert float(jnp.max(jnp.abs(plain.g - start.g))) > 1e-6


@pytest.mark.equation("MF 2.14", "MF 3.5")
def test_covariant_delta_flow_ends_at_the_conformal_metric(quartic, train):
    """Each point moves along its own g: the end is g_FS eta^(-1/n), with sigma 0 and no merit."""
    flow = KernelFlow(kernels.Delta(), step_size=0.1, clip=1.0)
    start = flow.init(train)
    state, info, _ = flow.run(start, 200)
    eta = diagnostics.eta(start.g, train, start.kappa)
    expected = start.g * (eta**-0.5)[:, None, None]
    np.testing.assert_allclose(state.g, expected, rtol=1e-9, atol=1e-12)
    assert float(diagnostics.sigma_measure(state.g, train)) < 1e-10
    # the last energies are rounding, before that every step goes down
    energy = np.asarray(info.energy)
    assert np.all(np.diff(energy)[energy[1:] > 1e-20] < 0)


@pytest.mark.equation("MF 3.5")
@pytest.mark.parametrize("gradient", ["covariant", "euclidean"])
def test_clipped_points_move_exactly_as_far_as_allowed(train, gradient):
    clip, step = 0.2, 1e-3
    flow = KernelFlow(kernels.Delta(), step, gradient=gradient, clip=clip)
    start = flow.init(train)
    state, info = flow.step(start)
    free = dataclasses.replace(flow, clip=None).step(start)[0]
    inverse = np.linalg.inv(np.asarray(start.g))

    def norm(h):
        h = np.asarray(h)
        if gradient == "euclidean":
            return np.linalg.norm(h, axis=(1, 2))
        return np.sqrt(np.einsum("xab,xbc,xcd,xda->x", inverse, h, inverse, h).real)

    moved, wanted = norm(state.g - start.g) / step, norm(free.g - start.g) / step
    np.testing.assert_allclose(moved, np.minimum(wanted, clip), rtol=1e-9)
    assert float(info.clipped_fraction) == pytest.approx(np.mean(wanted > clip))
    assert 0 < float(info.clipped_fraction) < 1
    assert float(info.largest_update) == pytest.approx(clip)


def test_calabi_yau_measure_of_equal_weights_is_the_mean(train):
    equal = train._replace(weight=jnp.full_like(train.weight, 7.0))
    ends = []
    for measure, step in (("calabi_yau", 0.1), ("mean", 0.1), ("sum", 0.1 / 60)):
        flow = KernelFlow(kernels.Gaussian(0.3), step, measure=measure)
        ends.append(flow.run(flow.init(equal, dense=True), 10)[0].g)
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], rtol=tolerance("sum"), atol=tolerance("sum"))


def test_nan_in_the_state_is_named(train):
    flow = KernelFlow(kernels.Gaussian(0.3), 0.1, measure="mean")
    start = flow.init(train, dense=True)
    poisoned = start._replace(g=start.g.at[3, 0, 0].set(jnp.nan))
    with pytest.raises(FlowError, match="NaN or infinite") as caught:
        flow.run(poisoned, 2)
    assert caught.value.result == Result.NON_FINITE
    assert caught.value.step == 0


def test_a_flow_that_breaks_down_on_the_way_keeps_its_last_good_state(train):
    flow = KernelFlow(kernels.Gaussian(0.3), jnp.asarray(0.1), measure="mean")
    good, _, _ = flow.run(flow.init(train, dense=True), 4)
    violent = dataclasses.replace(flow, step_size=jnp.asarray(1e5))
    stopped, info, _ = violent.run(good, 4, throw=False)
    assert int(stopped.steps) == 4
    assert np.all(np.asarray(info.result) == Result.LOST_POSITIVITY)
    np.testing.assert_array_equal(stopped.g, good.g)
    np.testing.assert_array_equal(stopped.coefficients, good.coefficients)
    # a state that has failed stays failed, with a step that would be fine as well
    again, info, _ = flow.run(stopped, 4, throw=False)
    assert np.all(np.asarray(info.result) == Result.LOST_POSITIVITY)
    np.testing.assert_array_equal(again.g, good.g)
    with pytest.raises(FlowError, match="after 4 good steps"):
        violent.run(good, 4)
