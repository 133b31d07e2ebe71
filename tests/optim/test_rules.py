"""The rules by name, as a training loop uses them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow.discretize import dorefa_weights, quantize, standardised, ternary
from metricflow.optim import RULES, RuleSetting, gradient_rule, lne_gradient
from tests.tolerances import tolerance

STEPS = 40
every_rule = pytest.mark.parametrize("name", RULES)
WEIGHTS = 0.3 + jax.random.normal(jax.random.key(0), (9, 4))
SHOWN = {
    "dorefa": dorefa_weights,
    "irnet": standardised,
    "fc_grad": dorefa_weights,
    "multi_fc_grad": dorefa_weights,
    "lstm_grad": dorefa_weights,
}


def setting(bits=1, quantizer=None):
    quantizer = quantizer or functools.partial(quantize, bits=bits)
    return RuleSetting(quantizer, STEPS, 0.05, jax.random.key(1))


def train(rule, gradient, weights, steps=STEPS):
    """Plain training: the gradient where the rule says, then its optimiser."""
    optimizer = optax.with_extra_args_support(rule.wrap(optax.sgd(0.05, momentum=0.9)))

    def body(carry, count):
        w, state = carry
        slope = gradient(rule.training_weights(w, count), 0, 0)

        def translated(w, k, j):
            return gradient(rule.weights(w), k, j)

        updates, state = optimizer.update(slope, state, w, translated_gradient=translated)
        return (optax.apply_updates(w, updates), state), None

    start = (weights, optimizer.init(weights))
    (found, _), _ = jax.lax.scan(body, start, jnp.arange(steps))
    return found


@pytest.fixture(scope="module")
def classes():
    """Images of 3 x 3 pixels and four labels +-1 each: the signs of sums with binary weights."""
    first, second, third = jax.random.split(jax.random.key(2), 3)
    images = jax.random.normal(first, (128, 3, 3))
    teacher = jnp.sign(jax.random.normal(second, (9, 4)))
    labels = jnp.sign(images.reshape(-1, 9) @ teacher)

    def loss(weights, k=0, j=0):
        moved = jnp.roll(images, (k, j), (1, 2)).reshape(-1, 9)
        return jnp.mean(jnp.logaddexp(0, -labels * (moved @ weights)))

    return loss, 0.1 * jax.random.normal(third, (9, 4))


@every_rule
def test_a_binary_layer_learns_what_a_binary_layer_can_do(name, classes):
    loss, start = classes
    # its default strength is for longer trainings
    options = {"strength": 0.1} if name == "proximal" else {}
    rule = gradient_rule(name, setting(), **options)
    found = train(rule, jax.grad(loss), start)
    before, after = (loss(rule.weights(w)) for w in (start, found))
    assert after < 0.25 * before


@every_rule
def test_the_network_that_results_has_quantised_weights(name):
    for bits in (1, 2):
        rule = gradient_rule(name, setting(bits))
        found = rule.weights(WEIGHTS)
        levels = np.linspace(-1, 1, 2**bits)
        assert np.min(np.abs(np.asarray(found)[..., None] - levels), -1).max() < 1e-6
        shown = SHOWN.get(name, lambda w: w)(WEIGHTS)
        np.testing.assert_array_equal(found, quantize(shown, bits))


@every_rule
def test_training_sees_what_the_rule_says(name):
    rule = gradient_rule(name, setting())
    for count, beta in ((0, 1), (STEPS // 2, 10), (STEPS, 100), (2 * STEPS, 100)):
        shown = {"mirror_descent": jnp.tanh(beta * WEIGHTS), "proximal": WEIGHTS}
        expected = shown.get(name, rule.weights(WEIGHTS))
        found = rule.training_weights(WEIGHTS, jnp.asarray(count))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert found.dtype == WEIGHTS.dtype


@pytest.mark.parametrize("quantizer", [functools.partial(quantize, bits=2), ternary])
def test_at_its_end_the_proximal_rule_trains_quantised_weights_with_a_scale(quantizer):
    rule = gradient_rule("proximal", setting(quantizer=quantizer), strength=20.0)
    found = train(rule, lambda w, k, j: jnp.zeros_like(w), WEIGHTS, STEPS + 2)
    levels = rule.weights(found)
    scale = jnp.mean(jnp.abs(found)) / jnp.mean(jnp.abs(levels))
    np.testing.assert_allclose(found, scale * levels, rtol=1e-5, atol=1e-6)
    assert len(np.unique(levels)) > 2


def test_zero_weights_that_quantise_to_zero_have_a_scale_too():
    rule = gradient_rule("proximal", setting(quantizer=ternary))
    found = train(rule, lambda w, k, j: jnp.zeros_like(w), jnp.zeros(3), 2)
    np.testing.assert_array_equal(found, jnp.zeros(3))


def first_update(name, **options):
    optimizer = gradient_rule(name, setting(), **options).wrap(optax.sgd(1.0))
    extra = {"translated_gradient": lambda w, k, j: w} if name == "rf_dnn" else {}
    step = jax.jit(lambda *x: optimizer.update(*x, **extra))
    return -step(WEIGHTS[::-1], optimizer.init(WEIGHTS), WEIGHTS)[0]


def test_options_reach_the_transformation():
    gradient = WEIGHTS[::-1]
    clipped = first_update("clipped_ste", clip=0.3)
    np.testing.assert_array_equal(clipped, gradient * (jnp.abs(WEIGHTS) <= 0.3))
    np.testing.assert_array_equal(first_update("ste", clip=0.3), clipped)
    for name, options in {
        "lne": {"q": 0.3},
        "lne_weak": {"q": 0.3, "inverse": "weak"},
        "lne_hessian": {"tau": 0.1, "inverse": "hessian"},
        "rf_dnn": {"tau": 0.1, "inverse": "weak"},
    }.items():
        link = lne_gradient(**options)
        expected, _ = jax.jit(link.update)(gradient, link.init(WEIGHTS), WEIGHTS)
        given = {key: value for key, value in options.items() if key != "inverse"}
        found = first_update(name, **given, **({"alpha": 0.0} if name == "rf_dnn" else {}))
        np.testing.assert_allclose(found, expected, rtol=tolerance("algebra", "float32"))


def test_unknown_names_and_options_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"ste, clipped_ste, .*rf_dnn, got 'adam'"):
        gradient_rule("adam", setting())
    with pytest.raises(ValueError, match=r"rule lne: .*options p, s; it has tau, q, max_q"):
        gradient_rule("lne", setting(), p=1, s=2)
    with pytest.raises(ValueError, match=r"rule dorefa: .*options clip; it has none"):
        gradient_rule("dorefa", setting(), clip=1.0)
    with pytest.raises(ValueError, match=r"step_size; it has alpha, .*every"):
        gradient_rule("rf_dnn", setting(), step_size=0.1)
