"""neural-tangents as the library loads it: its numbers, and what it leaves alone."""

import functools
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from metricflow import _neural_tangents

ROOT = Path(__file__).parents[2]
HERE = all(importlib.util.find_spec(name) for name in ("neural_tangents", "frozendict"))
needs_package = pytest.mark.skipif(not HERE, reason=_neural_tangents.INSTALL)
IMPLEMENTATIONS = ("NTK_VECTOR_PRODUCTS", "JACOBIAN_CONTRACTION", "STRUCTURED_DERIVATIVES", "AUTO")


@pytest.fixture(scope="module")
def nt():
    if not HERE:
        pytest.skip(_neural_tangents.INSTALL)
    return _neural_tangents.load()


@pytest.fixture(scope="module")
def small(nt):
    """A network of stax with three outputs, its weights, and two sets of inputs."""
    stax = nt.stax
    init, apply, kernel = stax.serial(
        stax.Dense(16, 1.2, 0.3), stax.Gelu(), stax.Dense(16, 1.1, 0.2), stax.Erf(), stax.Dense(3)
    )
    train, test = (jax.random.normal(jax.random.key(i), (n, 5)) for i, n in ((0, 6), (1, 4)))
    kernel = jax.jit(kernel, static_argnums=2)
    return apply, init(jax.random.PRNGKey(2), train.shape)[1], kernel, train, test


@functools.partial(jax.jit, static_argnums=0)
def dense_ntk(apply, params, x, y):
    """Theta_ij(x, y) = sum over weights of df_i(x) df_j(y), from both Jacobians in full."""

    def rows(inputs):
        leaves = jax.tree.leaves(jax.jacrev(apply)(params, inputs))
        return jnp.concatenate([j.reshape(*j.shape[:2], -1) for j in leaves], -1)

    return jnp.einsum("nip,mjp->nmij", rows(x), rows(y))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_each_empirical_ntk_is_the_product_of_the_jacobians(nt, small, capfd, implementation):
    apply, params, _, x, y = small
    choice = nt.NtkImplementation[implementation]
    full = jax.jit(nt.empirical_ntk_fn(apply, trace_axes=(), vmap_axes=0, implementation=choice))
    expected = dense_ntk(apply, params, x, y)
    np.testing.assert_allclose(full(x, y, params), expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        full(x, None, params), dense_ntk(apply, params, x, x), rtol=1e-12, atol=1e-13
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "activation",
    [
        jax.nn.softmax,
        jax.jit(jnp.tanh),
        jax.checkpoint(jnp.sin),
        lambda h: jnp.where(h > 0, h, jnp.sin(h)),
        lambda h: (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 0.1),
    ],
    ids=["softmax", "jit", "checkpoint", "where", "normalised"],
)
def test_structured_derivatives_know_networks_of_any_origin(nt, activation):
    @jax.jit
    def apply(params, x):
        for layer in params[:-1]:
            x = activation(x @ layer["w"] + layer["b"])
        return x @ params[-1]["w"] + params[-1]["b"]

    keys = jax.random.split(jax.random.key(3), 6)
    params = [
        {"w": jax.random.normal(keys[i], (a, b)), "b": jax.random.normal(keys[i + 3], (b,))}
        for i, (a, b) in enumerate(((4, 5), (5, 6), (6, 2)))
    ]
    x, y = (jax.random.normal(jax.random.key(i), (n, 4)) for i, n in ((0, 3), (1, 2)))
    choice = nt.NtkImplementation.STRUCTURED_DERIVATIVES
    found = jax.jit(nt.empirical_ntk_fn(apply, trace_axes=(), implementation=choice))(x, y, params)
    expected = dense_ntk(apply, params, x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_the_structured_derivatives_see_outputs_without_weights(nt):
    """A constant output has no kernel; a weight that is itself an output has the identity."""

    def apply(params, x):
        return jnp.stack([jnp.sin(x[:, 0]), x @ params, jnp.ones(len(x))], -1)

    x, params = jax.random.normal(jax.random.key(0), (3, 4)), jnp.arange(4.0)
    choice = nt.NtkImplementation.STRUCTURED_DERIVATIVES
    found = nt.empirical_ntk_fn(apply, trace_axes=(), implementation=choice)(x, None, params)
    expected = np.zeros((3, 3, 3, 3))
    expected[:, :, 1, 1] = x @ x.T
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    itself = nt.empirical_ntk_fn(
        lambda p, x: p, trace_axes=(), implementation=choice, vmap_axes=None
    )
    np.testing.assert_allclose(itself(x, None, params), np.eye(4))


@pytest.mark.parametrize("name", ["Erf", "Gelu", "Sin"])
def test_kernels_of_smooth_layers_are_gaussian_averages(nt, name):
    """K' = w^2 E[s(u) s(v)] + b^2, Theta' = K' + w^2 E[s'(u) s'(v)] Theta, (u, v) of covariance K.

    The averages by Gauss-Hermite quadrature with 80 nodes in each direction.
    """
    function = {"Erf": jax.lax.erf, "Sin": jnp.sin}.get(
        name, lambda h: jax.nn.gelu(h, approximate=False)
    )
    weight, bias = 1.1, 0.3
    stax = nt.stax
    layer = getattr(stax, name)
    _, _, kernel = stax.serial(stax.Dense(1, weight, bias), layer(), stax.Dense(1, weight, bias))
    x, y = (jax.random.normal(jax.random.key(i), (n, 4)) for i, n in ((0, 3), (1, 2)))
    found = jax.jit(lambda x, y: kernel(x, y, ("nngp", "ntk")))(x, y)

    k, q, r = (
        weight**2 * jnp.sum(a * b, -1) / 4 + bias**2
        for a, b in ((x[:, None], y), (x[:, None], x[:, None]), (y, y))
    )
    node, share = np.polynomial.hermite_e.hermegauss(80)
    share = np.outer(share, share) / np.sum(share) ** 2
    expand = (..., None, None)
    u = jnp.sqrt(q)[expand] * node[:, None]
    v = (k / jnp.sqrt(q))[expand] * node[:, None] + jnp.sqrt(r - k**2 / q)[expand] * node

    def average(f):
        f = jnp.vectorize(f)
        return weight**2 * jnp.sum(share * f(u) * f(v), (-2, -1))

    covariance = average(function) + bias**2
    theta = covariance + average(jax.grad(function)) * k
    np.testing.assert_allclose(found.nngp, covariance, rtol=1e-9)
    np.testing.assert_allclose(found.ntk, theta, rtol=1e-9)


def test_pooled_convolutions_and_sums_of_branches_have_their_kernels(nt):
    """A filter of one pixel and an average: the mean of the dense kernel over pairs of pixels."""
    stax = nt.stax
    x, y = (jax.random.normal(jax.random.key(i), (n, 3, 4, 5)) for i, n in ((0, 2), (1, 3)))
    _, _, convolved = stax.serial(
        stax.Conv(1, (1, 1), W_std=1.3, b_std=0.2),
        stax.Relu(),
        stax.GlobalAvgPool(),
        stax.Flatten(),
    )
    _, _, dense = stax.serial(stax.Dense(1, 1.3, 0.2), stax.Relu())
    pixels = dense(x.reshape(-1, 5), y.reshape(-1, 5), "ntk").reshape(2, 12, 3, 12)
    found = jax.jit(lambda x, y: convolved(x, y, "ntk"))(x, y)
    np.testing.assert_allclose(found, pixels.mean((1, 3)), rtol=1e-12)

    branches = [stax.serial(stax.Dense(1, s), a(), stax.Dense(1)) for s, a in
                ((1.0, stax.Relu), (0.7, stax.Erf))]  # fmt: skip
    _, _, together = stax.serial(stax.FanOut(2), stax.parallel(*branches), stax.FanInSum())
    a, b = x[:, 0, 0], y[:, 0, 0]
    with pytest.warns(UserWarning, match="independent inputs"):
        found = together(a, b, "ntk")
    expected = sum(kernel(a, b, "ntk") for _, _, kernel in branches)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("devices", [0, 2])
def test_batched_kernels_are_the_kernels(nt, small, devices):
    apply, params, kernel, x, y = small
    batched = nt.batch(kernel, batch_size=2, device_count=devices)(x[:4], y, "ntk")
    np.testing.assert_allclose(batched, kernel(x[:4], y, "ntk"), rtol=1e-12)
    empirical = nt.batch(nt.empirical_ntk_fn(apply), batch_size=2, device_count=devices)
    expected = jnp.trace(dense_ntk(apply, params, x[:4], y), axis1=2, axis2=3) / 3
    np.testing.assert_allclose(empirical(x[:4], y, params), expected, rtol=1e-12, atol=1e-13)


def test_predicted_training_is_the_matrix_exponential(nt, small):
    """f(t) - y = exp(-t Theta / size) (f(0) - y), and on other points what Theta carries there."""
    _, _, kernel, x, y = small
    target, start, elsewhere = (
        jax.random.normal(jax.random.key(i), (n, 3)) for i, n in ((5, 6), (6, 6), (7, 4))
    )
    theta, across = kernel(x, None, "ntk"), kernel(y, x, "ntk")
    predict = nt.predict.gradient_descent_mse(theta, target)
    for time in (0.0, 3.0, 50.0):
        train, test = predict(time, start, elsewhere, across)
        left = scipy.linalg.expm(-time * theta / target.size) @ (start - target)
        carried = across @ np.linalg.solve(theta, left + target - start)
        np.testing.assert_allclose(train, target + left, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(test, elsewhere + carried, rtol=1e-10, atol=1e-10)
    train, test = predict(None, start, elsewhere, across)
    np.testing.assert_allclose(train, target, atol=1e-10)
    np.testing.assert_allclose(
        test, elsewhere + across @ np.linalg.solve(theta, target - start), rtol=1e-9
    )
    top = np.linalg.eigvalsh(theta)[-1]
    np.testing.assert_allclose(
        nt.predict.max_learning_rate(theta, target.size), 2 * target.size / top, rtol=1e-10
    )


def test_linearised_networks_and_kernel_times_vector_are_their_jacobians(nt, small):
    apply, params, _, x, y = small
    moved = jax.tree.map(lambda p: p + 0.1 * jnp.cos(p), params)
    change = jax.tree.map(jnp.subtract, moved, params)
    slopes = jax.jacrev(apply)(params, x)
    step = sum(
        jnp.tensordot(s, c, c.ndim)
        for s, c in zip(jax.tree.leaves(slopes), jax.tree.leaves(change), strict=True)
    )
    np.testing.assert_allclose(
        nt.linearize(apply, params)(moved, x), apply(params, x) + step, rtol=1e-12
    )
    v = jax.random.normal(jax.random.key(4), (4, 3))
    found = nt.empirical_ntk_vp_fn(apply, x, y, params)(v)
    expected = jnp.einsum("nmij,mj->ni", dense_ntk(apply, params, x, y), v)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def pretend(monkeypatch, **versions):
    """Answer with these versions; None stands for a package that is not there."""
    versions = {"neural-tangents": "0.6.5", "frozendict": "2.5.1"} | {
        name.replace("_", "-"): version for name, version in versions.items()
    }

    def version(name):
        if versions[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.parametrize("name", ["neural_tangents", "frozendict"])
def test_a_missing_package_is_one_line_with_the_commands(monkeypatch, name):
    pretend(monkeypatch, **{name: None})
    with pytest.raises(ImportError) as caught:
        _neural_tangents.load.__wrapped__()
    message = str(caught.value)
    assert "\n" not in message
    assert f"{name.replace('_', '-')} is not installed" in message
    assert "make neural-tangents" in message
    assert "pip install --no-deps neural-tangents==0.6.5 frozendict" in message
    assert caught.value.__suppress_context__


def test_other_versions_are_refused(monkeypatch):
    pretend(monkeypatch, neural_tangents="0.6.4")
    with pytest.raises(ImportError, match=r"neural-tangents 0\.6\.4 was not tried, only 0\.6\.5"):
        _neural_tangents.load.__wrapped__()
    pretend(monkeypatch)
    for version in ("0.9.2", "0.12.0", "0.100.1", "1.10.0"):
        monkeypatch.setattr(jax, "__version__", version)
        with pytest.raises(ImportError, match=f"with jax {version}, only with 0.10.x") as caught:
            _neural_tangents.load.__wrapped__()
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(jax, "__version__", "0.10.3")
    _neural_tangents._check_versions()


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


LOOK = """
import sys, jax.core, jax.extend.core, jax.interpreters.ad, jax.numpy
places = (jax.core, jax.interpreters.ad, jax.numpy, jax.extend.core.Primitive)
def names():
    return [set(vars(p)) for p in places] + [hasattr(jax, "util"), "jax.util" in sys.modules]
before = names()
import metricflow
assert names() == before
assert not {"neural_tangents", "frozendict"} & set(sys.modules)
"""


def test_importing_the_library_patches_nothing():
    run(LOOK)


@needs_package
def test_loading_the_package_leaves_jax_as_it_was():
    run(
        LOOK + "from metricflow._neural_tangents import load\n"
        "nt = load()\nassert names() == before\nassert load() is nt\n"
        "assert not {'tensorflow', 'neural_tangents.experimental'} & set(sys.modules)\n"
    )


def test_the_lock_and_the_command_install_the_version_that_is_asked_for():
    lock = (ROOT / "requirements-neural-tangents.lock").read_text()
    pins = re.findall(r"^(\S+)==(\S+)((?: \\\n +--hash=sha256:[0-9a-f]{64})+)$", lock, re.M)
    assert [name for name, _, _ in pins] == ["frozendict", "neural-tangents"]
    assert pins[1][1] == _neural_tangents.VERSION
    assert "://" not in lock
    rule = (ROOT / "Makefile").read_text()
    assert "--no-deps --require-hashes -r requirements-neural-tangents.lock" in rule
    assert f"neural-tangents=={_neural_tangents.VERSION}" in _neural_tangents.INSTALL
