"""The rules that multiply dL/dQ(w) by a function of w, against losses they are exact for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow import discretize
from metricflow.optim import (
    dorefa_gradient,
    exponential_slope,
    irnet_gradient,
    mirror_descent_gradient,
    ste_gradient,
)
from tests.tolerances import tolerance


def problem(dtype="float64"):
    weights, gradient = np.random.default_rng(0).normal(size=(2, 4, 3))
    return jnp.asarray(weights, dtype), jnp.asarray(gradient, dtype)


def loss(v):
    return jnp.sum(jnp.sin(3 * v) + v**2 * jnp.arange(v.size).reshape(v.shape))


def one_update(rule, weights, gradient):
    return rule.update(gradient, rule.init(weights), weights)[0]


def error_decay(w):
    return discretize.error_decay(discretize.standardised(w), 3.0)


@pytest.mark.equation("RF 1", "RF 21")
@pytest.mark.parametrize(
    ("rule", "factor"),
    [
        (ste_gradient(), jnp.ones_like),
        (ste_gradient(0.7), lambda w: discretize.clipped(w, 0.7)),
        (dorefa_gradient(), discretize.dorefa),
        (irnet_gradient(3.0), error_decay),
        (mirror_descent_gradient(2.0), lambda w: discretize.mirror(w, 2.0)),
    ],
    ids=["ste", "clipped", "dorefa", "irnet", "mirror"],
)
def test_a_rule_multiplies_by_its_function(dtype, rule, factor):
    weights, gradient = problem(dtype)
    found = one_update(rule, weights, gradient)
    np.testing.assert_allclose(found, gradient * factor(weights), tolerance("rounding", dtype))
    assert found.dtype == dtype


@pytest.mark.equation("RF 1")
def test_the_clipped_estimator_stops_beyond_its_threshold():
    weights = jnp.array([-1.1, -1.0, -0.2, 0.0, 1.0, 1.000001])
    found = one_update(ste_gradient(1.0), weights, jnp.full(6, 3.0))
    np.testing.assert_array_equal(found, [0, 3, 3, 3, 3, 0])


@pytest.mark.equation("RF 21")
def test_straight_through_is_the_derivative_of_a_loss_behind_a_straight_through_quantiser():
    weights, _ = problem()
    quantise = discretize.straight_through(discretize.binary)
    slope = jax.grad(loss)(discretize.binary(weights))
    found = one_update(ste_gradient(), weights, slope)
    np.testing.assert_array_equal(found, jax.grad(lambda w: loss(quantise(w)))(weights))


@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_mirror_descent_is_exact_for_a_loss_of_its_primal_weights(beta):
    """d/dw of loss(tanh(beta w)) is beta times the update."""
    weights, _ = problem()
    slope = jax.grad(loss)(jnp.tanh(beta * weights))
    found = beta * one_update(mirror_descent_gradient(beta), weights, slope)
    expected = jax.grad(lambda w: loss(jnp.tanh(beta * w)))(weights)
    np.testing.assert_allclose(found, expected, rtol=tolerance("algebra"))


def test_dorefa_is_exact_for_a_loss_of_its_weights_with_a_fixed_maximum():
    weights, _ = problem()

    def shown(w):
        t = jnp.tanh(w)
        return t / jax.lax.stop_gradient(jnp.max(jnp.abs(t)))

    slope = jax.grad(loss)(shown(weights))
    expected = jax.grad(lambda w: loss(shown(w)))(weights)
    np.testing.assert_allclose(shown(weights), discretize.dorefa_weights(weights), rtol=1e-14)
    found = one_update(dorefa_gradient(), weights, slope)
    np.testing.assert_allclose(found, expected, rtol=tolerance("algebra"))


@pytest.mark.parametrize("slope", [0.4, 3.0])
def test_irnet_is_exact_for_its_estimator_of_the_standardised_weights(slope):
    """d/dw' of loss(max(1, 1/s) tanh(s w')) at the w' that the rule makes of w."""
    weights, _ = problem()
    shown = (weights - jnp.mean(weights)) / jnp.std(weights)

    def estimator(x):
        return max(1, 1 / slope) * jnp.tanh(slope * x)

    expected = jax.grad(lambda x: loss(estimator(x)))(shown)
    found = one_update(irnet_gradient(slope), weights, jax.grad(loss)(estimator(shown)))
    np.testing.assert_allclose(found, expected, rtol=tolerance("algebra"))


@pytest.mark.parametrize("factory", [irnet_gradient, mirror_descent_gradient])
def test_schedules_are_functions_of_the_number_of_updates(factory):
    weights, gradient = problem()
    rule = factory(lambda count: 0.5 + count)
    state = rule.init(weights)
    for count in range(4):
        assert int(state.count) == count
        found, state = rule.update(gradient, state, weights)
        expected = one_update(factory(0.5 + count), weights, gradient)
        np.testing.assert_allclose(found, expected, rtol=tolerance("rounding"))


@pytest.mark.parametrize(("start", "end"), [(0.1, 10.0), (10.0, 0.1), (1.0, 1.0)])
def test_the_exponential_slope_rises_by_equal_factors_and_ends(start, end):
    slope = exponential_slope(8, start, end)
    found = np.array([float(slope(count)) for count in range(12)])
    np.testing.assert_allclose(found[:9], np.geomspace(start, end, 9), rtol=1e-6)
    np.testing.assert_allclose(found[8:], end, rtol=1e-6)


def test_irnet_goes_from_the_identity_to_the_sign():
    """Where the slope is small the gradient is passed on; where large, only at the mean."""
    weights, gradient = problem()
    np.testing.assert_allclose(one_update(irnet_gradient(1e-9), weights, gradient), gradient)
    late = one_update(irnet_gradient(1e3), weights, gradient)
    assert np.max(np.abs(late)) < 1e-3


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_numbers_have_to_be_positive(value):
    with pytest.raises(ValueError, match=r"clip: .*above 0"):
        ste_gradient(value)
    with pytest.raises(ValueError, match=r"slope: .*above 0"):
        irnet_gradient(value)
    with pytest.raises(ValueError, match=r"beta: .*above 0"):
        mirror_descent_gradient(value)
    with pytest.raises(ValueError, match=r"start: .*above 0"):
        exponential_slope(3, value)
    with pytest.raises(ValueError, match="steps: "):
        exponential_slope(0)


def test_a_chain_takes_the_product_of_the_factors():
    weights, gradient = problem()
    rule = optax.chain(ste_gradient(0.7), mirror_descent_gradient(2.0))
    expected = gradient * discretize.clipped(weights, 0.7) * discretize.mirror(weights, 2.0)
    np.testing.assert_allclose(one_update(rule, weights, gradient), expected, rtol=1e-14)
