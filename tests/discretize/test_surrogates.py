"""Surrogate derivatives against the derivatives, by autodiff, of what they are said to derive."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow import discretize
from tests.tolerances import tolerance

clipped, dorefa, dorefa_weights, error_decay, mirror, mirror_weights, standardised = (
    jax.jit(getattr(discretize, name))
    for name in (
        "clipped",
        "dorefa",
        "dorefa_weights",
        "error_decay",
        "mirror",
        "mirror_weights",
        "standardised",
    )
)
KINDS = st.sampled_from(["float32", "float64"])


def normal(seed, shape=(3, 4), dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def derivative(function, w):
    """Of a function of each entry by itself."""
    return jax.grad(lambda w: jnp.sum(function(w)))(w)


@pytest.mark.equation("RF 1")
def test_the_clipped_derivative_is_that_of_the_clipped_identity(dtype):
    w = jnp.linspace(-3, 3, 30, dtype=dtype)
    for threshold in (0.5, 1.0, 2.0):
        expected = derivative(lambda w, c=threshold: jnp.clip(w, -c, c), w)
        np.testing.assert_array_equal(clipped(w, threshold), expected)
    found = clipped(jnp.array([1.0, -1.0, 1.01, np.inf, np.nan], dtype))
    np.testing.assert_array_equal(found, [1, 1, 0, 0, 0])
    assert found.dtype == dtype


@given(st.integers(0, 99), st.floats(-2, 1), KINDS)
def test_dorefa_is_the_derivative_of_its_weights_at_fixed_maximum(seed, power, kind):
    w = (10**power * normal(seed)).astype(kind)
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(jnp.tanh(w))))
    close = tolerance("rounding", kind)
    expected = derivative(lambda w: jnp.tanh(w) / top, w)
    np.testing.assert_allclose(dorefa(w), expected, rtol=close, atol=close)
    found = dorefa_weights(w)
    assert float(np.abs(found).max()) == pytest.approx(1, rel=close)
    np.testing.assert_allclose(found * top, jnp.tanh(w), rtol=2 * close)


@given(st.integers(0, 99), st.floats(-3, 1.5), KINDS)
def test_error_decay_is_a_derivative_of_at_least_one_at_zero(seed, power, kind):
    w, slope = normal(seed, dtype=kind), 10**power
    expected = max(1, 1 / slope) * derivative(lambda w: jnp.tanh(slope * w), w)
    close = tolerance("rounding", kind) * max(1, slope)
    found = error_decay(w, slope)
    assert found.dtype == kind
    np.testing.assert_allclose(found, expected, rtol=close, atol=close)
    peak = error_decay(jnp.zeros(2, kind), slope)
    np.testing.assert_allclose(peak, max(1, slope), rtol=1e-6)


def test_error_decay_goes_from_the_identity_to_the_sign(dtype):
    w = jnp.linspace(-2, 2, 400, dtype=dtype)  # even: zero is not among them
    np.testing.assert_allclose(error_decay(w, 1e-5), 1, rtol=1e-6)
    late = error_decay(w, 20.0)
    assert np.all(late[np.abs(w) > 1] < 1e-5)
    assert float(jnp.sum(late) * (w[1] - w[0])) == pytest.approx(2, rel=1e-3)  # the jump


@given(st.integers(0, 99), st.floats(-2, 1), KINDS)
def test_mirror_is_the_derivative_of_its_weights_over_beta(seed, power, kind):
    w, beta = normal(seed, dtype=kind), 10**power
    close = 4 * tolerance("rounding", kind)
    expected = derivative(lambda w: mirror_weights(w, beta), w) / beta
    np.testing.assert_allclose(mirror(w, beta), expected, rtol=close, atol=close)
    np.testing.assert_allclose(mirror_weights(w, beta), np.tanh(beta * np.asarray(w, float)), close)


def test_mirror_weights_become_signs(dtype):
    w = normal(0, dtype=dtype)
    np.testing.assert_array_equal(mirror_weights(w, 1e4), jnp.sign(w))
    np.testing.assert_array_equal(mirror(w, 1e4), 0)
    np.testing.assert_array_equal(mirror(w, 1e-9), 1)


@given(st.integers(0, 99), st.floats(-3, 3), st.floats(-3, 3), KINDS)
def test_standardised_weights_have_mean_zero_and_deviation_one(seed, mean, power, kind):
    w = (mean + 10**power * normal(seed)).astype(kind)
    found = standardised(w)
    lost = float(jnp.finfo(kind).eps) * (1 + 3 / 10**power)
    assert abs(float(jnp.mean(found))) < 10 * lost
    assert float(jnp.std(found)) == pytest.approx(1, rel=10 * lost)
    # an increasing affine image of w
    np.testing.assert_array_equal(np.argsort(found, axis=None), np.argsort(w, axis=None))
    np.testing.assert_allclose(standardised(4 * w), found, rtol=1e-6, atol=1e-6)


def test_standardised_constants_are_zero(dtype):
    """Also where the mean of a constant is not the constant, by a rounding."""
    for count, value in itertools.product((1, 3, 7, 11), (0.0, 0.1, -0.3, 0.7, 1e-20)):
        found = standardised(np.full(count, value, dtype))
        np.testing.assert_array_equal(found, 0, err_msg=f"{count} times {value}")


def test_zeros_have_derivative_one(dtype):
    zeros = jnp.zeros((2, 3), dtype)
    for found in (clipped(zeros), dorefa(zeros), error_decay(zeros, 0.1), mirror(zeros, 5.0)):
        np.testing.assert_array_equal(found, 1)
        assert found.dtype == dtype
    for found in (dorefa_weights(zeros), mirror_weights(zeros, 5.0), standardised(zeros)):
        np.testing.assert_array_equal(found, 0)
        assert found.dtype == dtype
