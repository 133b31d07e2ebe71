import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import diagnostics, geometry, kernels
from metricflow.flows import FlowError, KernelFlow, Result, held_out_sigma
from metricflow.flows import kernel as kernel_flow
from tests.tolerances import tolerance

GAUSSIAN = KernelFlow(kernels.Gaussian(0.3), step_size=0.2, measure="mean")


@pytest.fixture(scope="module")
def train(quintic):
    return geometry.sample_points_in_chart(jax.random.key(1), quintic, 120)


@pytest.fixture(scope="module")
def test_set(quintic):
    return geometry.sample_points_in_chart(jax.random.key(2), quintic, 90)


def run(flow, points, steps, **options):
    return flow.run(flow.init(points, dense=True), steps, **options)


@pytest.mark.equation("MF 3.5", "MF 2.14")
@pytest.mark.parametrize("gradient", ["euclidean", "covariant"])
def test_one_step_of_the_delta_kernel_by_hand(train, gradient):
    flow = KernelFlow(kernels.Delta(), step_size=0.01, power=1.0, gradient=gradient)
    state, _, _ = run(flow, train, 1)
    g = np.asarray(geometry.fubini_study_metric(train))
    omega2, w = np.asarray(train.omega2), np.asarray(train.weight)
    ratio = np.linalg.det(g).real / omega2
    eta = ratio / np.average(ratio, weights=w)
    tensor = np.linalg.inv(g) if gradient == "euclidean" else g
    expected = g + 0.01 * (np.sign(1 - eta) * eta)[:, None, None] * tensor
    np.testing.assert_allclose(state.g, expected, rtol=tolerance("algebra"), atol=1e-13)


@pytest.mark.equation("MF 3.5", "MF 2.23")
def test_one_step_of_a_dense_kernel_by_hand(train):
    state, _, _ = run(GAUSSIAN, train, 1)
    g = np.asarray(geometry.fubini_study_metric(train))
    eta = np.asarray(diagnostics.eta(g, train))
    source = 2 * ((1 - eta) * eta)[:, None, None] * g / len(g)
    k = np.exp(-(np.asarray(geometry.pairwise_distance(train.z, train.z)) ** 2) / (2 * 0.3**2))
    expected = g + 0.2 * np.einsum("xy,yab->xab", k, source)
    np.testing.assert_allclose(state.g, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.equation("MF 2.12", "MF 2.3")
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("gradient", ["euclidean", "covariant"])
def test_energy_falls_for_small_steps(train, gradient, power):
    step = 2e-4 if gradient == "euclidean" else 0.05
    flow = KernelFlow(
        kernels.Gaussian(0.3), step_size=step, power=power, gradient=gradient, measure="mean"
    )
    _, info, _ = run(flow, train, 20)
    assert np.all(np.diff(np.asarray(info.energy)) < 0)


@pytest.mark.equation("MF 2.12")
def test_energy_rate_is_minus_the_kernel_norm_of_the_gradient(train):
    """dE/dt = - <dE, K dE>: the flow of a symmetric positive operator, to first order in dt."""
    ratios = []
    for step in (1e-5, 5e-6):
        flow = KernelFlow(
            kernels.Gaussian(0.3), step_size=step, gradient="euclidean", measure="mean"
        )
        _, info, _ = run(flow, train, 2)
        drop = float(info.energy[1] - info.energy[0]) / step
        start = flow.init(train, dense=True)
        # coefficients after one step are -dt m dl/dg
        source = flow.step(start)[0].coefficients / step
        rate = -float(jnp.sum(source * (start.operator @ source)))
        ratios.append(drop / rate - 1)
    assert abs(ratios[0]) < 2e-2
    assert ratios[0] / ratios[1] == pytest.approx(2, rel=0.1)


@pytest.mark.equation("MF 3.5")
@pytest.mark.parametrize("kernel", [kernels.Delta(), kernels.Gaussian(0.01)], ids=repr)
def test_local_kernels_solve_the_training_points(train, kernel):
    flow = KernelFlow(kernel, step_size=0.1, clip=1.0)
    state, info, _ = run(flow, train, 50)
    assert float(diagnostics.gain(state.g, train)) > 1e10
    assert bool(jnp.all(info.largest_update <= 1 + 1e-12))
    assert 0 < float(info.clipped_fraction[0]) < 1
    assert int(state.steps) == 50


@pytest.mark.equation("MF 2.14")
def test_local_flow_of_the_cubic_ends_at_the_flat_metric():
    cubic = geometry.fermat(1)
    points = geometry.sample_points_in_chart(jax.random.key(3), cubic, 50)
    flow = KernelFlow(kernels.Delta(), step_size=0.3, clip=1.0)
    state, _, _ = run(flow, points, 200)
    np.testing.assert_allclose(
        state.g[:, 0, 0].real, state.kappa * points.omega2, rtol=tolerance("algebra")
    )


def test_a_run_in_two_parts_is_the_run_in_one(train):
    whole, info, _ = run(GAUSSIAN, train, 20)
    half, first, _ = run(GAUSSIAN, train, 12)
    rest, second, _ = GAUSSIAN.run(half, 8)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(rest), strict=True):
        assert jnp.array_equal(a, b)
    assert jnp.array_equal(info.energy, jnp.concatenate([first.energy, second.energy]))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(
    "kernel",
    [kernels.Gaussian(0.3), kernels.InfiniteNetwork("relu", 2), kernels.Delta()],
    ids=lambda k: type(k).__name__,
)
def test_the_metric_is_the_flow_at_any_point(quintic, train, test_set, kernel, normalise):
    step = 0.002 if isinstance(kernel, kernels.InfiniteNetwork) and not normalise else 0.1
    flow = KernelFlow(kernel, step_size=step, measure="mean", normalise=normalise, clip=1.0)
    state = flow.init(train)
    state, _, seen = flow.run(state, 5, observe=held_out_sigma(flow, state, test_set, chunk=32))
    metric = flow.metric(quintic, state)
    np.testing.assert_allclose(metric(train.z), state.g, rtol=1e-8, atol=1e-11)
    sigma = diagnostics.sigma_measure(metric(test_set.z, test_set.chart), test_set)
    assert float(sigma) == pytest.approx(float(seen[-1]), rel=1e-10)
    # any scaling and any permutation of a point is the same point
    shuffled = (2 - 1j) * test_set.z[:, [3, 0, 4, 1, 2]]
    moved = metric(shuffled, (1, 2))
    straight = geometry.permute_to_chart(
        geometry.chart_coordinates(shuffled, (1, 2)), (1, 2), (0, 4)
    )
    np.testing.assert_allclose(moved, metric(straight, (0, 4)), rtol=1e-9, atol=1e-12)


def test_without_symmetry_the_metric_is_a_tensor(asymmetric_cubic):
    points = geometry.sample_points_in_chart(jax.random.key(4), asymmetric_cubic, 60)
    flow = dataclasses.replace(GAUSSIAN, normalise=True)
    state, _, _ = run(flow, points, 10)
    metric = flow.metric(asymmetric_cubic, state)
    everywhere = geometry.sample_points(jax.random.key(5), asymmetric_cubic, 50)
    assert np.all(np.asarray(metric.chart(everywhere.z)) == (0, 2))
    values = [metric(everywhere.z, c) for c in ((0, 2), (1, 0))]
    change = geometry.transition(asymmetric_cubic, everywhere.z, (0, 2), (1, 0))
    np.testing.assert_allclose(values[1], change * values[0] * change.conj(), rtol=1e-9)
    assert "one chart" in metric.without_chart_mismatch
    found = diagnostics.diagnose(metric, points, derivative_points=10)
    assert found.chart_mismatch is None
    assert found.notes["chart_mismatch"] == "the model lives in one chart"


@pytest.mark.equation("MF 2.3", "MF 2.4")
def test_measures_differ_by_their_weights(train):
    flows = {
        m: dataclasses.replace(GAUSSIAN, measure=m, step_size=1e-3) for m in kernel_flow.MEASURES
    }
    moved = {m: run(f, train, 1)[0].coefficients for m, f in flows.items()}
    np.testing.assert_allclose(moved["sum"], len(train.weight) * moved["mean"], rtol=1e-12)
    share = (train.weight / jnp.sum(train.weight))[:, None]
    np.testing.assert_allclose(moved["calabi_yau"], share * moved["sum"], rtol=1e-12)


def test_normalised_updates_have_size_one(train):
    flow = dataclasses.replace(
        GAUSSIAN, normalise_update=True, step_size=0.01, gradient="euclidean"
    )
    start = flow.init(train, dense=True)
    state, _ = flow.step(start)
    update = jnp.linalg.norm(state.g - start.g, axis=(1, 2))
    assert float(jnp.max(update)) == pytest.approx(0.01)
    np.testing.assert_allclose(
        state.g - start.g,
        geometry.hermitian_unpack(start.operator @ state.coefficients),
        atol=1e-15,
    )


@pytest.mark.equation("MF B.10")
def test_kappa_is_held_or_estimated(train):
    held, info, _ = run(GAUSSIAN, train, 10)
    assert float(jnp.ptp(info.kappa)) == 0
    moving, info, _ = run(dataclasses.replace(GAUSSIAN, kappa="estimated"), train, 10)
    assert float(jnp.ptp(info.kappa)) > 0
    previous, last = (
        run(dataclasses.replace(GAUSSIAN, kappa="estimated"), train, 9)[0],
        moving.kappa,
    )
    assert float(last) == pytest.approx(float(diagnostics.kappa_estimate(previous.g, train)))
    assert float(held.kappa) != float(moving.kappa)


def test_lost_positivity_is_raised_and_the_good_state_kept(train):
    flow = dataclasses.replace(GAUSSIAN, step_size=1e3)
    with pytest.raises(FlowError, match=r"positive definite.*after 0 good steps") as caught:
        run(flow, train, 3)
    assert caught.value.result == Result.LOST_POSITIVITY
    state, info, _ = run(flow, train, 3, throw=False)
    assert jnp.array_equal(state.g, geometry.fubini_study_metric(train))
    assert int(state.steps) == 0
    assert set(np.asarray(info.result)) == {Result.LOST_POSITIVITY}


def test_overflow_is_named(train):
    flow = dataclasses.replace(GAUSSIAN, step_size=1e308, measure="sum")
    with pytest.raises(FlowError, match="NaN or infinite") as caught:
        run(flow, train, 3)
    assert caught.value.result == Result.NON_FINITE


def test_float32_stays_float32(quintic):
    points = geometry.sample_points_in_chart(jax.random.key(6), quintic, 60, dtype="float32")
    state, info, _ = run(GAUSSIAN, points, 5)
    assert state.g.dtype == "complex64"
    assert state.coefficients.dtype == info.energy.dtype == "float32"
    wide = jax.tree.map(
        lambda x: x.astype({"c": "complex128", "f": "float64"}.get(x.dtype.kind, x.dtype)), points
    )
    np.testing.assert_allclose(state.g, run(GAUSSIAN, wide, 5)[0].g, atol=2e-4)


def test_other_numbers_do_not_compile_again(train):
    state = GAUSSIAN.init(train, dense=True)
    before = kernel_flow._run._cache_size()
    for step in (0.01, 0.02, 0.03):
        flow = dataclasses.replace(
            GAUSSIAN, step_size=jnp.asarray(step), kernel=kernels.Gaussian(jnp.asarray(10 * step))
        )
        flow.run(state, 4)
    assert kernel_flow._run._cache_size() == before + 1


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "natural"}, "gradient"),
        ({"measure": "haar"}, "measure"),
        ({"kappa": "free"}, "kappa"),
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": float("nan")}, "step_size"),
        ({"clip": -1.0}, "clip"),
        ({"power": 0.5}, "power"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KernelFlow(kernels.Delta(), **options)


@pytest.mark.usefixtures("as_user")
def test_points_that_cannot_flow_are_refused(quintic_points, train):
    with pytest.raises(ValueError, match="one chart"):
        GAUSSIAN.init(quintic_points)
    with pytest.raises(ValueError, match="at least one training point"):
        GAUSSIAN.init(jax.tree.map(lambda x: x[:0], train))
    with pytest.raises(ValueError, match="steps"):
        GAUSSIAN.run(GAUSSIAN.init(train), 0)
    other = train._replace(chart=jnp.broadcast_to(jnp.array([1, 2]), train.chart.shape))
    with pytest.raises(ValueError, match="held-out points are in chart"):
        held_out_sigma(GAUSSIAN, GAUSSIAN.init(train), other)
