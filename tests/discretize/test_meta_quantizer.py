"""Meta quantisers: the identity at first, then one network for every weight by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow import discretize
from metricflow.discretize import initial_memory, meta_quantizer
from tests.tolerances import tolerance

KINDS = ("fc", "multi_fc", "lstm")
HIDDEN, SHAPE = 5, (4, 3)
CLOSE = 10 * tolerance("rounding", "float32")
corrected_gradient = jax.jit(discretize.corrected_gradient, static_argnames="kind")


def normal(seed, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def trained(kind, seed=0):
    """A network that is no longer the identity."""
    start = meta_quantizer(jax.random.key(seed), kind, HIDDEN)
    return start._replace(outer=normal(seed, HIDDEN), offset=jnp.float32(0.2))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def one_weight(kind, network, unit, relative, hidden, cell):
    """The correction in units of G (multi_fc) or of r, by NumPy for a single weight."""
    inner, bias, outer, offset = (np.asarray(x, float) for x in network)
    if kind != "lstm":
        x = unit if kind == "fc" else relative
        return np.tanh(inner[:, 0] * x + bias) @ outer + offset, hidden, cell
    gates = (inner @ np.append(unit, hidden) + bias).reshape(4, HIDDEN)
    cell = sigmoid(gates[0]) * cell + sigmoid(gates[1]) * np.tanh(gates[3])
    hidden = sigmoid(gates[2]) * np.tanh(cell)
    return hidden @ outer + offset, hidden, cell


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_the_identity(kind):
    network = meta_quantizer(jax.random.key(1), kind)
    w, gradient, memory = normal(0), normal(1), initial_memory(kind, 32, normal(0))
    for _ in range(2):  # whatever the memory
        found, memory = corrected_gradient(kind, network, gradient, w, memory)
        np.testing.assert_array_equal(found, gradient)
    assert all(x.dtype == "float32" for x in network)
    assert memory.dtype == found.dtype == "float32"


def test_the_start_is_no_fixed_point_of_training():
    network, gradient = meta_quantizer(jax.random.key(1), "fc", HIDDEN), normal(1)
    memory = initial_memory("fc", HIDDEN, gradient)
    slopes = jax.jit(
        jax.grad(lambda net: jnp.sum(corrected_gradient("fc", net, gradient, gradient, memory)[0]))
    )(network)
    assert float(np.abs(slopes.outer).min()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_three_steps_of_every_weight_by_itself(kind):
    network, w = trained(kind), normal(0)
    memory = initial_memory(kind, HIDDEN, w)
    cells = np.zeros((2, *SHAPE, HIDDEN))
    for step in range(3):
        gradient = 0.01 * normal(step + 1)
        found, memory = corrected_gradient(kind, network, gradient, w, memory)
        g, size = np.asarray(gradient, float), np.abs(w).mean()
        root = np.sqrt(np.mean(g**2))
        for at in np.ndindex(SHAPE):
            correction, *state = one_weight(
                kind, network, g[at] / root, w[at] / size, cells[(0, *at)], cells[(1, *at)]
            )
            cells[(0, *at)], cells[(1, *at)] = state
            expected = g[at] + (g[at] if kind == "multi_fc" else root) * correction
            assert float(found[at]) == pytest.approx(expected, rel=1e-5, abs=1e-7)
        if kind == "lstm":
            np.testing.assert_allclose(memory, cells, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, 99), st.integers(-30, 30))
def test_the_unit_of_the_loss_does_not_matter(kind, seed, power):
    """M(c G) = c M(G), and the memory stays the same; powers of two are exact."""
    network, w, gradient = trained(kind), normal(seed), normal(seed + 1)
    memory = 0.3 * normal(2, initial_memory(kind, HIDDEN, w).shape)
    found, after = corrected_gradient(kind, network, 2.0**power * gradient, w, memory)
    expected, unchanged = corrected_gradient(kind, network, gradient, w, memory)
    np.testing.assert_allclose(found, 2.0**power * expected, rtol=CLOSE, atol=CLOSE * 2.0**power)
    np.testing.assert_allclose(after, unchanged, rtol=CLOSE, atol=CLOSE)
    assert np.abs(expected - gradient).max() > 0.05
    scaled, _ = corrected_gradient(kind, network, gradient, 2.0**power * w, memory)
    np.testing.assert_allclose(scaled, expected, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, 99))
def test_weights_in_another_order_give_the_same_in_that_order(kind, seed):
    network, w, gradient = trained(kind), normal(seed), normal(seed + 1)
    memory = 0.3 * normal(2, initial_memory(kind, HIDDEN, w).shape)
    order = np.random.default_rng(seed).permutation(w.size)

    def moved(x):
        return x.reshape(-1)[order].reshape(SHAPE)

    def moved_memory(x):
        return x.reshape(2, w.size, -1)[:, order].reshape(x.shape)

    found, after = corrected_gradient(
        kind, network, moved(gradient), moved(w), moved_memory(memory)
    )
    expected, unmoved = corrected_gradient(kind, network, gradient, w, memory)
    np.testing.assert_allclose(found, moved(expected), rtol=CLOSE, atol=CLOSE)
    np.testing.assert_allclose(after, moved_memory(unmoved), rtol=CLOSE, atol=CLOSE)


def test_only_the_lstm_remembers():
    w, gradient = normal(0), normal(1)
    for kind in KINDS:
        network, memory = trained(kind), initial_memory(kind, HIDDEN, w)
        assert memory.shape == (2, *SHAPE, HIDDEN if kind == "lstm" else 0)
        first, memory = corrected_gradient(kind, network, gradient, w, memory)
        second, _ = corrected_gradient(kind, network, gradient, w, memory)
        assert (float(np.abs(first - second).max()) > 1e-3) == (kind == "lstm")


@pytest.mark.parametrize("kind", KINDS)
def test_zero_gradients_and_zero_weights_give_numbers(kind):
    network, zero = trained(kind), jnp.zeros(SHAPE, "float32")
    memory = initial_memory(kind, HIDDEN, zero)
    found, after = corrected_gradient(kind, network, zero, normal(0), memory)
    np.testing.assert_array_equal(found, 0)
    assert np.all(np.isfinite(after))
    found, _ = corrected_gradient(kind, network, normal(0), zero, memory)
    assert np.all(np.isfinite(found))


@pytest.mark.usefixtures("as_user")
def test_bad_input_is_named():
    key = jax.random.key(0)
    for kind in ("FC", "gru", "", None):
        with pytest.raises(ValueError, match=r"^kind: expected one of .* got"):
            meta_quantizer(key, kind)
    for hidden in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=r"^hidden: expected"):
            meta_quantizer(key, "fc", hidden)
