"""Architectures of neural-tangents as kernels of a flow."""

import importlib.metadata
import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import _neural_tangents, geometry, kernels
from metricflow.flows import KernelFlow
from metricflow.kernels import stax as ours
from tests.tolerances import tolerance

HERE = all(importlib.util.find_spec(name) for name in ("neural_tangents", "frozendict"))


@pytest.fixture(scope="module")
def stax():
    if not HERE:
        pytest.skip(_neural_tangents.INSTALL)
    return ours.load().stax


@pytest.fixture(scope="module")
def erf(stax):
    return stax.serial(stax.Dense(1, 1.2, 0.1), stax.Erf(), stax.Dense(1, 1.2, 0.1))[2]


@pytest.fixture(scope="module")
def train(quintic):
    return geometry.sample_points_in_chart(jax.random.key(0), quintic, 24)


@pytest.mark.equation("MF 2.9")
@pytest.mark.parametrize("statistic", ["ntk", "nngp"])
def test_complex_points_are_read_in_full_and_in_their_dtype(erf, train, dtype, statistic):
    z = train.z.astype(jnp.result_type(dtype, "complex64"))
    found = kernels.dense(kernels.StaxKernel(erf, statistic), z, z[:9])
    assert found.dtype == dtype
    expected = kernels.InfiniteNetwork("erf", 1, 1.2, 0.1, statistic).matrix(z, z[:9])
    tol = tolerance("closed form", dtype) * np.max(expected)
    np.testing.assert_allclose(found, expected, atol=tol)
    x = jnp.concatenate([z.real, z.imag], -1)
    again = kernels.StaxKernel(erf, statistic).matrix(x, x[:9])
    np.testing.assert_allclose(again, expected, atol=tol)


def test_a_flow_takes_any_architecture(stax, quintic, train):
    """Normalised layers of two kinds, which have no closed form of ours."""
    layers = [stax.Dense(1, 1.1, 0.2), stax.LayerNorm(), stax.LeakyRelu(0.1)]
    _, _, kernel_fn = stax.serial(*layers, stax.Dense(1), stax.Erf(), stax.Dense(1))
    kernel = kernels.StaxKernel(kernel_fn)
    flow = KernelFlow(kernel, step_size=0.01, measure="mean", clip=1.0)
    state, info, _ = flow.run(flow.init(train, dense=True), 4)
    assert np.all(np.diff(info.energy) < 0)
    tiled, _, _ = flow.run(flow.init(train, chunk=10), 4)
    np.testing.assert_allclose(tiled.g, state.g, rtol=tolerance("algebra"), atol=1e-12)
    metric = flow.metric(quintic, state)
    np.testing.assert_allclose(metric(train.z), state.g, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("as_user")
def test_what_is_no_kernel_is_refused():
    with pytest.raises(ValueError, match=r"kernel_fn: expected a function.*got tuple; unpack"):
        kernels.StaxKernel((1, 2, 3))
    with pytest.raises(ValueError, match="statistic: expected one of"):
        kernels.StaxKernel(lambda x, y, get: x @ y.T, "cov")
    x = jnp.ones((3, 4))
    with pytest.raises(ValueError, match=r"kernel of shape \(3, 3\), got \(3, 4\); end the"):
        kernels.StaxKernel(lambda x, y, get: x).matrix(x, x)
    with pytest.raises(ValueError, match="dtype, got complex128 and float64"):
        kernels.StaxKernel(lambda x, y, get: x @ y.T).matrix(x + 0j, x)


def test_nothing_is_loaded_before_it_is_asked_for(monkeypatch):
    code = (
        "import sys, metricflow.kernels.stax\n"
        "assert not {'neural_tangents', 'metricflow._neural_tangents'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(_neural_tangents, "load", _neural_tangents.load.__wrapped__)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ImportError, match="is not installed; run make neural-tangents") as caught:
        ours.load()
    assert "\n" not in str(caught.value)
