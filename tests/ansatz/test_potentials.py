"""Networks and kernels of invariant features: mixed derivatives, symmetry, files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz, diagnostics, geometry, load_metric, save_metric
from tests.tolerances import tolerance

QUARTIC = geometry.fermat(2)
CLOSE = tolerance("algebra")
WIDTH = 1.5


@pytest.fixture(scope="module")
def points():
    return geometry.sample_points(jax.random.key(1), QUARTIC, 48)


@pytest.fixture(scope="module")
def few(points):
    return jax.tree.map(lambda x: x[:12], points)


@pytest.fixture(scope="module")
def basis(points):
    return ansatz.spectral_basis(QUARTIC, 4, points)


@pytest.fixture(scope="module")
def metrics(points, basis):
    """One of each kind, all far from Fubini-Study."""
    key = jax.random.key(5)
    features = ansatz.feature_jets(basis, points)[:, :, 0]
    found = {}
    theta = ansatz.initial_parameters(key, ansatz.mlp((4,)), features[0])
    theta["params"]["Dense_1"]["kernel"] = jnp.array([[1.0], [-2.0], [3.0], [2.0]])
    for activation in ("tanh", "gelu"):
        network = ansatz.mlp((4,), activation)
        found[activation] = ansatz.NetworkMetric(QUARTIC, basis, network, theta)
    found["kernel"] = ansatz.KernelPotentialMetric(
        QUARTIC, basis, WIDTH, features[:9], 0.1 * jax.random.normal(key, (9,))
    )
    found["spectral"] = ansatz.SpectralMetric(
        QUARTIC, basis, 0.05 * jax.random.normal(key, (basis.size,))
    )
    sections = ansatz.section_basis(QUARTIC, 2, points)
    form = jnp.eye(10) + 0.1 * jax.random.normal(key, (10, 10))
    found["algebraic"] = ansatz.AlgebraicMetric(QUARTIC, sections, form)
    return found


def potential(metric, features):
    """phi at points whose features are given, without any derivative."""
    if isinstance(metric, ansatz.KernelPotentialMetric):
        square = jnp.sum((features[:, None] - metric.centres) ** 2, axis=-1)
        return jnp.exp(-square / (2 * metric.width**2)) @ metric.coefficients
    return jax.vmap(lambda y: metric.network.apply(metric.parameters, y))(features)


@pytest.fixture(scope="module")
def neighbours(few, basis):
    """Directions c along X, and the features at z + h t v for t = 1, -1, i, -i and at z."""
    step = 5e-4
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(4, 2)) + 1j * rng.normal(size=(4, 2))
    v = jnp.einsum("ca,xai->cxi", directions, few.pullback)
    turns = jnp.array([1, -1, 1j, -1j, 0])
    z = few.z + step * turns[:, None, None, None] * v
    # the functions are defined off the hypersurface too
    moved = geometry.points_at(QUARTIC, z.reshape(-1, 4), check=False)
    features = jax.jit(ansatz.basis_jets)(basis, moved)[:, 0].T.reshape(*z.shape[:-1], basis.size)
    return directions, step, features


@pytest.mark.parametrize("name", ["tanh", "gelu", "kernel"])
def test_the_metric_is_fubini_study_and_the_mixed_derivative_of_phi(metrics, few, neighbours, name):
    """4 d_v dbar_v f = f(z+hv) + f(z-hv) + f(z+ihv) + f(z-ihv) - 4 f(z) over h^2."""
    metric = metrics[name]
    directions, step, features = neighbours
    phi = potential(metric, features.reshape(-1, features.shape[-1]))
    phi = phi.reshape(features.shape[:-1])
    expected = (jnp.sum(phi[:4], axis=0) - 4 * phi[4]) / (4 * step**2)
    change = metric(few.z, few.chart) - geometry.fubini_study_metric(few)
    found = jnp.einsum("ca,xab,cb->cx", directions, change, directions.conj()).real
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(change, change.conj().swapaxes(1, 2), atol=CLOSE)
    # every entry of the change takes part
    assert np.abs(change).max(axis=0).min() > 1e-3
    assert np.abs(change[:, 0, 1].imag).max() > 1e-3


@pytest.mark.parametrize("name", ["tanh", "kernel"])
def test_the_metric_is_invariant_under_the_group(metrics, few, name):
    """The eigenvalues against Fubini-Study, of which every element is an isometry."""
    metric = metrics[name]
    symmetry = ansatz.symmetry_group(QUARTIC)
    turn = np.exp(2j * np.pi * symmetry.phases[23] / 4)
    moved = (few.z * turn, few.z[:, symmetry.permutations[11]], few.z.conj(), few.z * (2 + 1j))
    sample = geometry.points_at(QUARTIC, jnp.concatenate([few.z, *moved]))
    found = diagnostics.relative_eigenvalues(metric(sample.z, sample.chart), sample)
    first, *others = found.reshape(5, 12, 2)
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-9)
    assert float(jnp.ptp(first)) > 0.1


@pytest.mark.parametrize("name", ["tanh", "kernel"])
def test_the_metric_is_a_tensor(metrics, few, name):
    assert float(diagnostics.chart_mismatch(metrics[name], few)) < 1e-10


@pytest.mark.parametrize("name", ["tanh", "kernel"])
def test_a_metric_works_on_any_batch_shape(metrics, few, name):
    metric = metrics[name]
    g = metric(few.z, few.chart)
    folded = metric(few.z.reshape(2, 6, 4), few.chart.reshape(2, 6, 2))
    np.testing.assert_allclose(folded.reshape(g.shape), g, atol=CLOSE)
    np.testing.assert_allclose(metric(few.z[0]), g[0], atol=CLOSE)
    assert np.array_equal(metric.chart(few.z), few.chart)


def test_columns_of_the_kernel_add_up_to_its_potential(metrics, few, basis):
    metric = metrics["kernel"]
    features = ansatz.feature_jets(basis, few, chunk=5)
    columns = ansatz.kernel_hessians(features, metric.centres, WIDTH, 2, chunk=5)
    assert columns.shape == (9, 4, 12)
    found = jnp.einsum("k,khx->hx", metric.coefficients, columns)
    np.testing.assert_allclose(found, jax.jit(metric.hessians)(features), atol=CLOSE)
    jets = ansatz.basis_jets(basis, few)
    np.testing.assert_allclose(features, jnp.moveaxis(jets, -1, 0), atol=CLOSE)


def test_a_new_network_is_almost_fubini_study(few, basis):
    """Inside the Kaehler cone, but its neurons are not the same and not flat."""
    features = ansatz.feature_jets(basis, few)
    network = ansatz.mlp((6,), "sin")
    theta = ansatz.initial_parameters(jax.random.key(0), network, features[0, :, 0])
    assert "bias" not in theta["params"]["Dense_1"]
    change = jax.jit(lambda theta: ansatz.network_hessians(network, theta, features, 2))
    small = change(theta)
    assert 0 < float(jnp.max(jnp.abs(small))) < 1e-4
    theta["params"]["Dense_1"]["kernel"] = jnp.ones((6, 1))
    assert float(jnp.max(jnp.abs(change(theta)))) > 1e-2
    other = ansatz.initial_parameters(jax.random.key(1), network, features[0, :, 0])
    gap = other["params"]["Dense_0"]["kernel"] - theta["params"]["Dense_0"]["kernel"]
    assert float(jnp.min(jnp.abs(gap))) > 0


def test_parameters_follow_the_precision_of_the_features():
    network = ansatz.mlp([3, 2])
    theta = ansatz.initial_parameters(jax.random.key(0), network, jnp.ones(4, jnp.float32))
    assert {x.dtype for x in jax.tree.leaves(theta)} == {np.dtype("float32")}
    assert network.apply(theta, jnp.ones(4, jnp.float32)).dtype == jnp.float32
    shapes = [theta["params"][f"Dense_{i}"]["kernel"].shape for i in range(3)]
    assert shapes == [(4, 3), (3, 2), (2, 1)]


@pytest.mark.parametrize("name", ["tanh", "kernel", "spectral", "algebraic"])
def test_a_loaded_metric_gives_the_same_numbers(tmp_path, metrics, few, name):
    metric = metrics[name]
    path = tmp_path / "metric.npz"
    save_metric(path, metric)
    again = load_metric(path)
    assert type(again) is type(metric)
    assert jax.tree.structure(again) == jax.tree.structure(metric)
    for old, new in zip(jax.tree.leaves(metric), jax.tree.leaves(again), strict=True):
        assert np.array_equal(old, new)
    assert np.array_equal(metric(few.z), again(few.z))
    assert np.array_equal(metric.chart(few.z), again.chart(few.z))


def test_a_metric_with_nan_is_not_saved(tmp_path, metrics):
    metric = metrics["tanh"]
    broken = jax.tree.map(lambda x: x * jnp.nan, metric.parameters)
    bad = ansatz.NetworkMetric(QUARTIC, metric.basis, metric.network, broken)
    with pytest.raises(ValueError, match=r"metric\.parameters\.params\.Dense_.*NaN"):
        save_metric(tmp_path / "metric.npz", bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("as_user")
def test_bad_arguments_are_named(metrics):
    with pytest.raises(ValueError, match=r"activation: expected one of .* got 'relu'"):
        ansatz.mlp((4,), "relu")
    with pytest.raises(ValueError, match="widths: expected at least one"):
        ansatz.mlp(())
    for widths in ((4, 0), (2.5,), (True,)):
        with pytest.raises(ValueError, match="widths: expected an integer of at least 1"):
            ansatz.mlp(widths)
    for name in ("tanh", "kernel"):
        for z in (jnp.ones((3, 5), complex), jnp.ones((3, 4)), jnp.ones((0, 4), complex)):
            with pytest.raises(ValueError, match="z: expected"):
                metrics[name](z)


def test_an_activation_that_mixes_neurons_is_differentiated_as_it_is():
    """Layer by layer it would be taken for a function of each neuron."""
    network = ansatz.Mlp((4,), jax.nn.softmax)
    jets = jax.random.normal(jax.random.key(0), (3, 5, 7 + 9))
    parameters = network.init(jax.random.key(1), jets[0, :, 0])
    found = ansatz.network_hessians(network, parameters, jets, 3)
    expected = ansatz.network_hessians(lambda p, y: network.apply(p, y), parameters, jets, 3)
    np.testing.assert_allclose(found, expected, rtol=tolerance("algebra"))
