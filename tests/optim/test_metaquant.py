"""The meta quantisers: where they start, what derivative trains them, what they learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow.discretize import dorefa
from metricflow.optim import dorefa_gradient, metaquant_gradient
from tests.tolerances import tolerance

KINDS = ["fc", "multi_fc", "lstm"]
every_kind = pytest.mark.parametrize("kind", KINDS)
RATE = 0.2


def rule(kind):
    return metaquant_gradient(jax.random.key(1), kind, hidden=3, learning_rate=0.01)


@functools.cache
def compiled(kind):
    return jax.jit(rule(kind).update)


def draw(seed, like):
    """Normal numbers in float64 in the shapes of a tree."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(generator.normal(size=x.shape)), like)


WEIGHTS = draw(0, {"a": np.empty((4, 3)), "b": np.empty(5)})
TARGET, GRADIENT = draw(1, WEIGHTS), draw(2, WEIGHTS)


def loss(params):
    parts = jax.tree.map(lambda w, t: jnp.sum((w - t) ** 2), params, TARGET)
    return parts["a"] / 2 + 2 * parts["b"] + params["a"][0, 0] * params["b"][0]


def trained_a_little(kind):
    """A state in double precision that has a network, and a memory, that are not zero."""
    state = rule(kind).init(WEIGHTS)
    return state._replace(network=draw(3, state.network), next_memory=draw(4, state.next_memory))


def dot(x, y):
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, x, y)))


@every_kind
def test_the_first_update_is_that_of_dorefa(kind):
    start = rule(kind).init(WEIGHTS)
    found, state = compiled(kind)(GRADIENT, start, WEIGHTS)
    expected, _ = dorefa_gradient().update(GRADIENT, optax.EmptyState(), WEIGHTS)
    for leaf, other in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=tolerance("rounding"))
    jax.tree.map(np.testing.assert_array_equal, state.network, start.network)
    jax.tree.map(np.testing.assert_array_equal, state.adam, start.adam)
    jax.tree.map(np.testing.assert_array_equal, (state.gradient, state.params), (GRADIENT, WEIGHTS))


@every_kind
def test_the_network_goes_down_the_loss_that_its_last_step_led_to(kind):
    """Its gradient, times the rate, is the derivative of the next loss with respect to it."""
    start, slope = trained_a_little(kind), jax.jit(jax.grad(loss))

    def stepped(network):
        state = start._replace(network=network)
        updates, state = compiled(kind)(slope(WEIGHTS), state, WEIGHTS)
        return jax.tree.map(lambda w, u: w - RATE * u, WEIGHTS, updates), state

    after, state = stepped(start.network)
    _, state = compiled(kind)(slope(after), state, after)
    change = jax.tree.map(lambda mean: mean / 0.1, state.adam.mu)  # its first moving average
    for seed in (5, 6, 7):
        way = draw(seed, start.network)
        ahead, behind = (
            loss(stepped(jax.tree.map(lambda x, d, e=e: x + e * d, start.network, way))[0])
            for e in (1e-5, -1e-5)
        )
        difference = float((ahead - behind) / 2e-5)
        assert RATE * float(dot(change, way)) == pytest.approx(difference, rel=1e-6)
    # of Adam's first step only the sign of the slope is seen
    expected = jax.tree.map(lambda x, s: x - 0.01 * jnp.sign(s), start.network, change)
    for leaf, other in zip(state.network, expected, strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-6)


@every_kind
def test_it_is_the_new_network_that_corrects_the_gradient(kind):
    start = trained_a_little(kind)
    _, state = compiled(kind)(GRADIENT, start, WEIGHTS)
    found, after = compiled(kind)(TARGET, state, WEIGHTS)
    fresh = start._replace(network=after.network, next_memory=state.next_memory)
    expected, _ = compiled(kind)(TARGET, fresh, WEIGHTS)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9), found, expected)
    assert float(dot(state.network, state.network)) != float(dot(after.network, after.network))


@functools.cache
def path(kind):
    """Forty updates at the same weights."""
    trained = rule(kind)

    def body(state, gradient):
        return trained.update(gradient, state, WEIGHTS)[::-1]

    return jax.jit(lambda gradients: jax.lax.scan(body, trained.init(WEIGHTS), gradients)[1])


def forty(function):
    return jax.tree.map(lambda w, g: function(w, g, (40, *w.shape)), WEIGHTS, GRADIENT)


@every_kind
def test_steps_that_always_lower_the_loss_become_longer(kind):
    """A linear loss: the same gradient for ever, of which no straight-through step makes more."""
    updates = path(kind)(forty(lambda w, g, shape: jnp.broadcast_to(jnp.abs(g), shape)))
    sums = jax.tree.map(lambda u, g: jnp.einsum("t...->t", u * jnp.abs(g)), updates, GRADIENT)
    gains = np.asarray(sums["a"] + sums["b"])
    straight = dot(GRADIENT, jax.tree.map(lambda g, w: g * dorefa(w), GRADIENT, WEIGHTS))
    assert gains[0] == pytest.approx(float(straight))
    assert np.all(np.diff(gains[1:]) > 0)
    assert gains[-1] > 1.3 * gains[0]


@every_kind
def test_the_scale_of_the_loss_is_not_seen(kind):
    generator = np.random.default_rng(8)
    gradients = forty(lambda w, g, shape: jnp.asarray(generator.normal(size=shape)))
    expected = path(kind)(gradients)
    for scale in (1e-5, 1e5):
        found = path(kind)(jax.tree.map(lambda g, scale=scale: scale * g, gradients))
        for leaf, other in zip(found.values(), expected.values(), strict=True):
            np.testing.assert_allclose(leaf[:4] / scale, other[:4], rtol=1e-4, atol=1e-4)


def test_the_memory_of_the_lstm_goes_on():
    start = rule("lstm").init(WEIGHTS)
    _, first = compiled("lstm")(GRADIENT, start, WEIGHTS)
    _, second = compiled("lstm")(GRADIENT, first, WEIGHTS)
    assert first.memory["a"].shape == (2, 4, 3, 3)
    assert not np.any(first.memory["a"])
    assert np.all(first.next_memory["a"][1] != 0)
    np.testing.assert_array_equal(second.memory["a"], first.next_memory["a"])
    assert rule("fc").init(WEIGHTS).memory["a"].size == 0


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "gru"}, "kind: expected one of .*'lstm'.*'gru'"),
        ({"hidden": 0}, "hidden: .*at least 1"),
        ({"learning_rate": 0.0}, "learning_rate: .*above 0"),
        ({"learning_rate": -1e-3}, "learning_rate: .*above 0"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        metaquant_gradient(jax.random.key(0), **arguments)
