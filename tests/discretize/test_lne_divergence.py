"""The LNE potential, its divergence and its Hessian: by derivatives, limits and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow import discretize
from metricflow.discretize import hessian_metric
from tests.tolerances import tolerance

lne_potential, divergence = map(jax.jit, (discretize.lne_potential, discretize.lne_divergence))
by_row = jax.jit(jax.vmap(discretize.lne_divergence, (0, 0, None)))
hessian = jax.jit(jax.hessian(discretize.lne_potential))
KINDS = st.sampled_from(["float32", "float64"])


def normal(seed, shape=6, dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def integral(w, origin, tau):
    """D = integral over u in [0, 1] of (1 - u) h^2 sech^2(tau (origin + u h)), h = w - origin."""
    w, origin = np.asarray(w, float), np.asarray(origin, float)
    nodes, masses = np.polynomial.legendre.leggauss(40)
    u = (nodes + 1)[:, None] / 2
    inside = (1 - u) / np.cosh(tau * (origin + u * (w - origin))) ** 2
    return np.sum(masses[:, None] / 2 * inside * (w - origin) ** 2)


@pytest.mark.equation("RF 13", "RF 15")
@given(st.integers(0, 99), st.floats(0.1, 3))
def test_the_hessian_metric_is_the_hessian_of_the_potential(seed, tau):
    w = normal(seed).at[0].set(0)
    np.testing.assert_allclose(hessian(w, tau), jnp.diag(hessian_metric(w, tau)), atol=1e-13)


@pytest.mark.equation("RF 13")
@pytest.mark.parametrize("tau", [1e-2, 1.0, 1e4])
def test_the_potential_goes_from_half_the_square_to_the_modulus(dtype, tau):
    w = normal(0, dtype=dtype)
    x = tau * np.asarray(w, float)
    expected = np.sum(np.logaddexp(x, -x) - np.log(2)) / tau**2
    assert float(lne_potential(w, tau)) == pytest.approx(expected, rel=tolerance("algebra", dtype))
    limit = w @ w / 2 if tau < 1 else np.abs(w).sum() / tau
    assert tau == 1 or float(limit) == pytest.approx(expected, rel=3e-4)


@pytest.mark.equation("RF 14")
@given(st.integers(0, 99), st.floats(0.3, 3))
def test_the_divergence_is_what_convexity_leaves(seed, tau):
    w, origin = normal(seed, (2, 6))
    slope = jax.grad(lne_potential)(origin, tau)
    printed = lne_potential(w, tau) - lne_potential(origin, tau) - (w - origin) @ slope
    np.testing.assert_allclose(divergence(w, origin, tau), printed, rtol=1e-11)


@pytest.mark.equation("RF 14", "RF 15")
@given(st.integers(0, 99), st.floats(-7, -3), KINDS)
def test_short_steps_have_half_their_squared_length(seed, power, kind):
    origin = normal(seed, dtype=kind)
    w = origin + (10**power * normal(seed + 100)).astype(kind)
    found = divergence(w, origin, 1.0)
    step = np.asarray(w, float) - np.asarray(origin, float)
    half = np.sum(np.asarray(hessian_metric(origin.astype(float), 1.0)) * step**2) / 2
    assert float(found) == pytest.approx(half, rel=3 * 10**power + tolerance("algebra", kind))


def test_the_divergence_is_accurate_for_all_steps(dtype):
    """Also where differences have begun to cancel and the series to need more terms."""
    places, steps = jnp.linspace(-3, 3, 20), 10 ** jnp.linspace(-8, 0.3, 50)
    origin, h = (x.reshape(-1, 1).astype(dtype) for x in jnp.meshgrid(places, steps))
    w = origin + h
    found = by_row(w, origin, 1.0)
    expected = [integral(*pair, 1.0) for pair in zip(*map(np.asarray, (w, origin)), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-3 if dtype == "float32" else 1e-8)


def test_the_divergence_is_never_negative(dtype):
    size, step = 10 ** jnp.linspace(-6, 3, 40, dtype=dtype), 10 ** jnp.linspace(-6, 3, 60)
    origin, h = (x.ravel().astype(dtype) for x in jnp.meshgrid(size, step))
    for sign in (1, -1):
        found = by_row(sign * origin + h, sign * origin, 1.0)
        assert np.all(np.isfinite(found))
        assert np.all(found >= 0)
        seen = (sign * origin + h != sign * origin) & (origin < 2)
        assert np.all(found[seen] > 0)
        assert not np.any(by_row(origin, origin, 1.0))


@pytest.mark.parametrize("size", [3.0, 9.0, 20.0, 400.0, 1000.0])
def test_the_divergence_across_zero_of_saturated_weights(dtype, size):
    """From a to -a: 2 a tanh a."""
    ends = jnp.array([[size], [-size]], dtype)
    for sign in (1, -1):
        found = divergence(sign * ends[1], sign * ends[0], 1.0)
        np.testing.assert_allclose(found, 2 * size * np.tanh(size), rtol=1e-5)
