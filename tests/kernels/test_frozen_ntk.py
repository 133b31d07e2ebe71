"""The tangent kernel at fixed parameters, and other kernels that mix components, in a flow."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from metricflow import ansatz, diagnostics, energies, geometry, kernels, save_metric
from metricflow.flows import KernelFlow, held_out_sigma
from metricflow.flows import kernel as kernel_flow
from metricflow.kernels.operators import MatrixKernel, Operator
from tests.tolerances import tolerance

SCALE = 0.3


def drawn(network, inputs, seed=0, dtype="float64"):
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(inputs, dtype))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype), like)


def close(found, expected, dtype="float64", name="algebra"):
    found, expected = np.asarray(found), np.asarray(expected)
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance(name, dtype))


@pytest.fixture(scope="module")
def quartic():
    return geometry.fermat(2)


@pytest.fixture(scope="module")
def train(quartic):
    return geometry.sample_points_in_chart(jax.random.key(1), quartic, 12)


@pytest.fixture(scope="module")
def frozen(quartic, train):
    network = ansatz.component_mlp(
        2, (4,), "tanh", parameterisation="ntk", output_variance=1.0, bias_std=0.5
    )
    model = ansatz.ComponentModel(quartic, "multiplicative", network)
    chart = tuple(int(i) for i in train.chart[0])
    return kernels.FrozenNTK(model, drawn(network, 8), chart, SCALE)


@pytest.fixture(scope="module")
def theta(frozen, train):
    """The kernel of the model itself between the training points, dense."""
    data = frozen.model.inputs(train.z, geometry.fubini_study_metric(train))
    return np.asarray(kernels.metric_ntk(frozen.model, frozen.parameters, data))


@pytest.fixture(scope="module")
def v():
    return jnp.asarray(np.random.default_rng(2).normal(size=(12, 4)))


FLOW = KernelFlow(None, step_size=0.1, gradient="euclidean", measure="mean")


@pytest.fixture(scope="module")
def flow(frozen):
    return dataclasses.replace(FLOW, kernel=frozen)


@pytest.fixture(scope="module")
def flowed(flow, train):
    """Two steps, in tiles of 5."""
    start = flow.init(train, chunk=5)
    return start, *flow.run(start, 2, observe=held_out_sigma(flow, start, train))


@pytest.mark.equation("MF 2.11", "MF 2.12")
def test_it_acts_like_the_kernel_of_the_model(frozen, train, theta, v):
    expected = SCALE * np.einsum("abij,bj->ai", theta, v)
    assert isinstance(frozen, MatrixKernel)
    operator = kernels.tiled_operator(frozen, train.z, train.z, chunk=5)
    assert isinstance(operator, Operator)
    assert isinstance(operator, kernels.FrozenOperator)
    close(operator @ v, expected)
    close(kernels.apply(frozen, train.z, train.z, v, chunk=5), expected)
    close(kernels.dense_operator(frozen, train.z, train.z) @ v, expected)
    # symmetric, whatever it does to the components
    u = jnp.roll(v, 1, axis=0)
    close(jnp.vdot(u, expected), jnp.vdot(v, SCALE * np.einsum("abij,bj->ai", theta, u)))


def test_what_it_reads_of_points(frozen, train):
    """Coordinates with z_s = 1, and g_FS in its own chart: those of prepared points."""
    found = frozen.inputs(train.z)
    close(found.inputs, np.concatenate([train.z.real, train.z.imag], 1))
    close(found.reference, geometry.fubini_study_metric(train))


def test_sharded_points_give_the_same_numbers(frozen, train, theta, v):
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.device_put(train.z, NamedSharding(mesh, PartitionSpec("rows")))
    found = kernels.apply(frozen, rows, train.z, v, chunk=5)
    close(found, SCALE * np.einsum("abij,bj->ai", theta, v))


@pytest.mark.equation("MF 2.12", "MF 2.3")
def test_steps_of_a_flow_by_hand(train, theta, flowed):
    """g - dt Theta dE / N with the Euclidean variation of (1 - eta)^2, two times."""
    start, state, info, _ = flowed
    g = np.asarray(geometry.fubini_study_metric(train))
    for energy in info.energy:
        eta = np.asarray(diagnostics.eta(g, train, start.kappa))
        assert float(energy) == pytest.approx(np.mean((1 - eta) ** 2), rel=tolerance("algebra"))
        slope = (-2 * (1 - eta) * eta)[:, None, None] * np.linalg.inv(g) / len(g)
        push = np.einsum("abij,bj->ai", theta, geometry.hermitian_pack(slope))
        g = g - 0.1 * SCALE * np.asarray(geometry.hermitian_unpack(push))
    close(state.g, g)
    assert float(jnp.max(jnp.abs(state.g - start.g))) > 1e-3
    assert info.energy[1] < info.energy[0]


def test_the_metric_is_the_flow_at_its_points(quartic, train, flow, flowed):
    _, state, _, seen = flowed
    metric = flow.metric(quartic, state)
    close(metric(train.z, train.chart), state.g)
    sigma = diagnostics.sigma_measure(state.g, train)
    assert float(seen[-1]) == pytest.approx(float(sigma), rel=tolerance("algebra"))


def test_the_scale_is_a_step_size(train, flow, flowed):
    """Twice the scale with half the step; and other numbers do not compile again."""
    before = kernel_flow._run._cache_size()
    kernel = dataclasses.replace(flow.kernel, scale=jnp.asarray(2 * SCALE))
    runs = []
    for step in (0.05, 0.1):
        changed = dataclasses.replace(flow, kernel=kernel, step_size=jnp.asarray(step))
        runs.append(changed.run(changed.init(train, chunk=5), 2)[0])
    assert kernel_flow._run._cache_size() == before + 1
    close(runs[0].g, flowed[1].g)
    close(2 * runs[0].coefficients, 2 * flowed[1].coefficients / 2)
    assert float(jnp.max(jnp.abs(runs[1].g - runs[0].g))) > 1e-3


def test_float32_stays_float32(frozen, train, theta, v):
    narrow = dataclasses.replace(
        frozen,
        parameters=jax.tree.map(lambda leaf: leaf.astype("float32"), frozen.parameters),
    )
    z = train.z.astype("complex64")
    found = kernels.apply(narrow, z, z, v.astype("float32"))
    assert found.dtype == "float32"
    close(found, SCALE * np.einsum("abij,bj->ai", theta, v), "float32")


class Turned:
    """Any object that makes its own operator is a kernel: here one that turns components."""

    def __init__(self):
        self.chunks = []

    def operator(self, z1, z2, *, chunk, stored=False):
        self.chunks.append((chunk, stored))
        return TurnedOperator(kernels.dense(kernels.Gaussian(0.3), z1, z2))


class TurnedOperator:
    def __init__(self, matrix):
        self.matrix = matrix

    def __matmul__(self, v):
        return self.matrix @ v[:, ::-1]


def test_kernels_of_others_that_mix_components(train, v):
    kernel, z = Turned(), train.z
    expected = np.asarray(kernels.dense(kernels.Gaussian(0.3), z[:7], z)) @ np.asarray(v)[:, ::-1]
    close(kernels.apply(kernel, z[:7], z, v, chunk=5), expected)
    close(kernels.tiled_operator(kernel, z[:7], z, chunk=6) @ v, expected)
    close(kernels.dense_operator(kernel, z[:7], z) @ v, expected)
    assert kernel.chunks == [(5, False), (6, False), (1024, True)]
    for other in (kernels.Gaussian(0.3), kernels.Delta(), kernels.InfiniteNetwork()):
        assert not isinstance(other, MatrixKernel)


def test_a_metric_with_a_frozen_kernel_is_no_file(quartic, flow, flowed, tmp_path):
    """The format does not know it, says so, and leaves nothing behind."""
    metric = flow.metric(quartic, flowed[1])
    with pytest.raises(TypeError, match=r"metric\.kernel: .* does not know FrozenNTK"):
        save_metric(tmp_path / "metric.npz", metric)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("as_user")
def test_what_makes_no_sense_is_refused(frozen, flow, train, v):
    normalised = dataclasses.replace(flow, normalise=True)
    for dense in (False, True):
        with pytest.raises(ValueError, match="normalise: the rows of a kernel that mixes"):
            normalised.init(train, dense=dense)
    with pytest.raises(ValueError, match="normalise: the rows"):
        kernels.apply(frozen, train.z, train.z, v, normalise=True)
    with pytest.raises(ValueError, match="chunk: expected an integer"):
        kernels.tiled_operator(frozen, train.z, train.z, chunk=0)
    with pytest.raises(ValueError, match=r"v: expected shape \(12, c\)"):
        kernels.apply(frozen, train.z, train.z, v[:3])
    with pytest.raises(ValueError, match=r"v: expected real numbers of shape \(12, 4\)"):
        kernels.apply(frozen, train.z, train.z, v[:, :3])


@pytest.mark.equation("MF 2.3", "MF 2.4")
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_energy_of_components_and_its_slope(train, power):
    """sum_b m_b |1 - eta|^p of the packed metric; its gradient is the Euclidean variation."""
    weight = train.weight / jnp.sum(train.weight)
    g = geometry.fubini_study_metric(train)
    eta = np.asarray(diagnostics.eta(g, train, 0.7))
    energy = jax.jit(jax.value_and_grad(energies.sigma_energy), static_argnames="power")
    found, slope = energy(geometry.hermitian_pack(g), train.omega2, weight, 0.7, power=power)
    expected = np.sum(weight * np.abs(1 - eta) ** power)
    assert float(found) == pytest.approx(float(expected), rel=tolerance("algebra"))
    variation = energies.sigma_loss_variation(g, train.omega2, 0.7, power=power)
    close(slope, weight[:, None] * geometry.hermitian_pack(variation))


def test_points_of_another_scaling_and_a_matrix_are_refused(as_user, frozen, train, v):
    with pytest.raises(ValueError, match="expected points of chart"):
        kernels.apply(frozen, 2 * train.z, train.z, v)
    with pytest.raises(ValueError, match="has no N1 x N2 matrix"):
        kernels.dense(frozen, train.z, train.z)
