"""The proximal map against a search, and the wrapper around an optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow.discretize import binary, ternary
from metricflow.optim import proximal_quantization
from tests.tolerances import tolerance

WEIGHTS, GRADIENT = (jnp.asarray(x) for x in np.random.default_rng(0).normal(size=(2, 4, 3)))
SGD = optax.sgd(0.1, momentum=0.9)


def moved(rule, weights=WEIGHTS, gradient=GRADIENT):
    updates, state = rule.update(gradient, rule.init(weights), weights)
    return optax.apply_updates(weights, updates), state


@pytest.mark.parametrize("quantizer", [binary, ternary])
@pytest.mark.parametrize("strength", [0.05, 0.5, 3.0])
def test_the_map_is_the_smallest_of_all_values(strength, quantizer):
    """argmin_x (x - v)^2 / 2 + strength |x - Q(v)| at v = w + step, by search."""
    v = np.asarray(WEIGHTS - 0.1 * GRADIENT)
    found, _ = moved(proximal_quantization(optax.sgd(0.1), strength, quantizer=quantizer))
    x = np.linspace(-4, 4, 16001)[:, None, None]
    target = np.asarray(quantizer(jnp.asarray(v)))
    best = np.argmin((x - v) ** 2 / 2 + strength * np.abs(x - target), axis=0)
    np.testing.assert_allclose(found, x[best, 0, 0], atol=5e-4)


def test_no_strength_is_the_optimiser_alone():
    found, state = moved(proximal_quantization(SGD, 0.0))
    expected, inner = moved(SGD)
    np.testing.assert_allclose(found, expected, rtol=10 * tolerance("rounding"))
    jax.tree.map(np.testing.assert_array_equal, state.inner, inner)


def test_no_weight_moves_further_than_the_strength():
    found, _ = moved(proximal_quantization(SGD, 0.3))
    free, _ = moved(SGD)
    distance = np.abs(np.asarray(found - free))
    gap = np.abs(np.asarray(free - binary(free)))
    np.testing.assert_allclose(distance, np.minimum(gap, 0.3), atol=1e-14)


def test_a_large_strength_puts_every_weight_on_a_level(dtype):
    weights = 3 * WEIGHTS.astype(dtype)
    found, _ = moved(proximal_quantization(SGD, 100.0), weights, GRADIENT.astype(dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, binary(weights), atol=2 * tolerance("rounding", dtype))


def test_the_strength_is_a_function_of_the_number_of_updates():
    rule = proximal_quantization(optax.sgd(0.1), lambda count: 0.02 * count)
    state = rule.init(WEIGHTS)
    for count in range(4):
        assert int(state.count) == count
        found, state = rule.update(GRADIENT, state, WEIGHTS)
        constant = proximal_quantization(optax.sgd(0.1), 0.02 * count)
        expected, _ = constant.update(GRADIENT, constant.init(WEIGHTS), WEIGHTS)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_weights_anneal_to_levels_and_stay_there():
    """min |w - t|^2 / 2 with t in (-1, 1): free at first, at the end the nearest of +-1."""
    target = jnp.tanh(WEIGHTS)
    rule = proximal_quantization(optax.sgd(0.1), optax.linear_schedule(0.0, 0.5, 100))

    def body(carry, _):
        w, state = carry
        updates, state = rule.update(w - target, state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    _, path = jax.lax.scan(body, (0.01 * target, rule.init(target)), length=120)
    assert np.max(np.abs(np.abs(path[20]) - 1)) > 0.1
    for late in path[100:]:
        np.testing.assert_allclose(late, np.sign(target), atol=1e-15)


def test_the_optimiser_is_told_what_it_asks_for():
    def update(updates, state, params, *, value, **_):
        return jax.tree.map(lambda g: -value * g, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    rule = proximal_quantization(inner, 0.0)
    found, _ = rule.update(GRADIENT, rule.init(WEIGHTS), WEIGHTS, value=0.25)
    np.testing.assert_allclose(found, -0.25 * GRADIENT, atol=1e-15)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("strength", [-0.1, float("nan"), jnp.asarray(-1.0)])
def test_a_strength_below_zero_is_refused(strength):
    with pytest.raises(ValueError, match=r"strength: .*at least 0"):
        proximal_quantization(SGD, strength)
