"""The gradient of RF-DNN against a penalty of dense matrices and its finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow.optim import lne_gradient, rf_dnn_gradient
from tests.tolerances import tolerance

STEP, TAU, SHIFTS = 0.3, 0.2, (2, -1, 1, -2)
DRAWN = np.random.default_rng(0).normal(size=(10, 6))
MIX, ROWS, COLUMNS = DRAWN[:6], DRAWN[6], DRAWN[7]
WEIGHTS, GRADIENT = (jnp.asarray(x).reshape(2, 3) for x in DRAWN[8:])
both_times = pytest.mark.parametrize("time_difference", ["previous", "second_step"])


def translated(w, k, j, numpy=jnp):
    """A gradient that depends on the translation and, not linearly, on the weights."""
    flat = numpy.tanh((1 + 0.2 * k - 0.1 * j) * MIX @ w.reshape(-1) + k * ROWS + j * COLUMNS)
    return flat.reshape(w.shape)


def dense_metric(w):
    t = np.tanh(TAU * w).reshape(-1)
    return np.eye(t.size) - np.outer(t, t)


def dense_penalty(w, at, time_difference, previous=None):
    """N of weights w that move as those at ``at`` would."""

    def displacement(at, k, j):
        return -STEP * translated(at, k, j, np)

    k1, k2, j1, j2 = SHIFTS
    first = displacement(at, k1, 0)
    g_k1, g_k2, g_j1, g_j2 = (
        dense_metric(w + displacement(at, *shift)) for shift in ((k1, 0), (k2, 0), (0, j1), (0, j2))
    )
    if time_difference == "second_step":
        change = dense_metric(w + first + displacement(at + first, k1, 0)) - g_k1
    else:
        change = 0 if previous is None else g_k1 - dense_metric(previous)
    tensor = change - (g_k1 - g_k2) / (k1 - k2) + (g_j1 - g_j2) / (j1 - j2)
    return np.sum(tensor**2)


def slope_of_penalty(w, inner_gradient, *rest, small=1e-5):
    """Central differences; constant inner steps are those at the weights themselves."""
    w = np.asarray(w)
    found = np.zeros_like(w)
    for i in np.ndindex(w.shape):
        ahead, behind = w.copy(), w.copy()
        ahead[i] += small
        behind[i] -= small
        values = [
            dense_penalty(x, w if inner_gradient == "constant" else x, *rest)
            for x in (ahead, behind)
        ]
        found[i] = (values[0] - values[1]) / (2 * small)
    return found


def rule(**options):
    defaults = {"alpha_scale": "absolute", "tau": TAU, "translations": SHIFTS}
    return rf_dnn_gradient(STEP, **{**defaults, **options})


@functools.partial(jax.jit, static_argnums=0)
def update(given, *arguments):
    return given.update(*arguments, translated_gradient=translated)


@functools.partial(jax.jit, static_argnames="inverse")
def natural(gradient, weights=WEIGHTS, inverse="weak", tau=TAU, q=None):
    link = lne_gradient(tau, q=q, inverse=inverse)
    return link.update(gradient, link.init(weights), weights)[0]


@pytest.mark.equation("RF 31", "RF 32")
@pytest.mark.parametrize("inner_gradient", ["constant", "differentiated"])
@both_times
def test_the_gradient_is_that_of_loss_and_penalty(time_difference, inner_gradient):
    given = rule(
        alpha=50.0, time_difference=time_difference, inner_gradient=inner_gradient, inverse="exact"
    )
    weights, previous, state = WEIGHTS, None, given.init(WEIGHTS)
    for _ in range(3):
        found, state = update(given, GRADIENT, state, weights)
        rest = (time_difference, previous)
        slope = slope_of_penalty(weights, inner_gradient, *rest)
        assert np.linalg.norm(50 * slope) > 0.05 * np.linalg.norm(GRADIENT)
        expected = natural(GRADIENT + 50 * slope, weights, "exact")
        np.testing.assert_allclose(found, expected, rtol=tolerance("difference"), atol=1e-7)
        penalty = dense_penalty(np.asarray(weights), np.asarray(weights), *rest)
        assert float(state.penalty) == pytest.approx(penalty, rel=1e-6)
        previous = np.asarray(weights - STEP * translated(weights, SHIFTS[0], 0))
        np.testing.assert_allclose(state.previous, previous, rtol=1e-14)
        weights = weights - 0.2 * found


@pytest.mark.equation("RF 32")
@pytest.mark.parametrize("alpha_scale", ["relative", "absolute"])
@pytest.mark.parametrize("inverse", ["exact", "weak", "hessian"])
def test_without_a_penalty_it_is_the_lne_gradient(alpha_scale, inverse):
    given = rule(alpha=0.0, alpha_scale=alpha_scale, inverse=inverse, tau=None, q=0.3)
    found, state = update(given, GRADIENT, given.init(WEIGHTS), WEIGHTS)
    np.testing.assert_allclose(found, natural(GRADIENT, WEIGHTS, inverse, None, 0.3), rtol=1e-14)
    assert float(state.lne.q) == pytest.approx(0.3)


def test_a_relative_penalty_has_a_given_share_of_the_gradients_norm(dtype):
    """Of every leaf; also late in training, where gradients and inner steps are small."""
    given = rf_dnn_gradient(STEP, alpha=0.25, tau=TAU, translations=SHIFTS)
    params = {"a": WEIGHTS.astype(dtype), "b": 2 * WEIGHTS[0].astype(dtype)}

    @jax.jit
    def step(size):
        def small(params, k, j):
            return jax.tree.map(lambda w: size * (jnp.cos(w + k) + j * w), params)

        gradient = jax.tree.map(lambda w: size * (w**2 + 1), params)
        state = given.init(params)
        return gradient, *given.update(gradient, state, params, translated_gradient=small)

    for size in (1.0, 1e-6, 1e-9):
        gradient, found, state = step(jnp.asarray(size, dtype))
        for name, w in params.items():
            t = np.tanh(float(state.lne.tau[name]) * np.asarray(w, float)).reshape(-1)
            weak = np.eye(t.size) + np.outer(t, t)
            total = np.linalg.solve(weak, np.asarray(found[name], float).reshape(-1))
            added = total - np.asarray(gradient[name], float).reshape(-1)
            share = np.linalg.norm(added) / np.linalg.norm(np.asarray(gradient[name], float))
            assert share == pytest.approx(0.25, rel=10 * tolerance("algebra", dtype))


def test_absolute_and_relative_penalties_point_the_same_way():
    added = []
    for scale in ("absolute", "relative"):
        given = rule(alpha=0.5, alpha_scale=scale, inverse="exact")
        found, _ = update(given, GRADIENT, given.init(WEIGHTS), WEIGHTS)
        rest = dense_metric(np.asarray(WEIGHTS)) @ np.asarray(found).reshape(-1)
        added.append(rest - np.asarray(GRADIENT).reshape(-1))
    lengths = [np.linalg.norm(x) for x in added]
    assert added[0] @ added[1] == pytest.approx(lengths[0] * lengths[1])


@pytest.mark.parametrize(("time_difference", "calls"), [("previous", 4), ("second_step", 5)])
def test_the_penalty_is_computed_in_every_third_update(time_difference, calls):
    given, asked = rule(alpha=1.0, every=3, time_difference=time_difference), []

    def counted(w, k, j):
        jax.debug.callback(lambda: asked.append((k, j)))
        return translated(w, k, j)

    step = jax.jit(lambda *x: given.update(*x, translated_gradient=counted))
    weights, state = WEIGHTS, given.init(WEIGHTS)
    for count in range(7):
        asked.clear()
        found, after = step(GRADIENT, state, weights)
        jax.effects_barrier()
        assert int(after.count) == count + 1
        plain = natural(GRADIENT, weights)
        if count % 3 == 0:
            k1, k2, j1, j2 = SHIFTS
            assert len(asked) == calls
            assert set(asked) == {(k1, 0), (k2, 0), (0, j1), (0, j2)}
            assert np.max(np.abs(found - plain)) > 1e-3
            moved = weights - STEP * translated(weights, SHIFTS[0], 0)
            np.testing.assert_allclose(after.previous, moved, rtol=1e-14)
        else:
            assert asked == []
            np.testing.assert_allclose(found, plain, rtol=1e-14)
            np.testing.assert_array_equal(after.previous, state.previous)
            assert float(after.penalty) == float(state.penalty)
        weights, state = weights - 0.1 * found, after


def test_the_penalties_of_leaves_are_summed():
    given = rule(alpha=1.0)
    leaves = (WEIGHTS, 2 * WEIGHTS)
    both = {"a": leaves[0], "b": leaves[1]}

    def each(params, k, j):
        return jax.tree.map(lambda w: translated(w, k, j), params)

    step = jax.jit(lambda *x: given.update(*x, translated_gradient=each))
    found, state = step(both, given.init(both), both)
    single = [update(given, w, given.init(w), w) for w in leaves]
    for leaf, (expected, _) in zip(found.values(), single, strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=tolerance("algebra"))
    total = sum(float(after.penalty) for _, after in single)
    assert float(state.penalty) == pytest.approx(total, rel=1e-6)


def test_descent_lowers_the_penalty():
    options = {"time_difference": "second_step", "inner_gradient": "differentiated"}
    given = optax.chain(rule(alpha=20.0, **options), optax.sgd(0.05))

    def body(carry, _):
        w, state = carry
        updates, state = update(given, jnp.zeros_like(w), state, w)
        return (optax.apply_updates(w, updates), state), state[0].penalty

    _, penalties = jax.lax.scan(body, (WEIGHTS, given.init(WEIGHTS)), length=20)
    assert np.all(np.diff(penalties) < 0)
    assert penalties[-1] < 0.9 * penalties[0]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size: .*above 0"),
        ({"alpha": -0.1}, "alpha: .*at least 0"),
        ({"alpha": float("nan")}, "alpha: .*at least 0"),
        ({"alpha_scale": "log"}, "alpha_scale: .*'relative'.*'log'"),
        ({"time_difference": "next"}, "time_difference: .*'second_step'.*'next'"),
        ({"inner_gradient": "zero"}, "inner_gradient: .*'differentiated'.*'zero'"),
        ({"every": 0}, "every: .*at least 1"),
        ({"every": 2.5}, "every: "),
        ({"translations": (1, -1, 1)}, r"translations: expected \(k1, k2, j1, j2\)"),
        ({"translations": (1, 1, 1, -1)}, "translations: expected k1 != k2"),
        ({"translations": (1, -1, 2, 2)}, "translations: expected k1 != k2"),
        ({"translations": (1.5, -1, 1, -1)}, "translations: expected integers"),
        ({"tau": 1.0, "q": 0.5}, "tau or q"),
        ({"inverse": "pseudo"}, "inverse: "),
        ({"max_q": 2.0}, "max_q: "),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rf_dnn_gradient(**{"step_size": 0.1, **options})


def test_a_translated_gradient_is_needed():
    given = rule()
    with pytest.raises(ValueError, match=r"needs update.*translated_gradient=f"):
        given.update(GRADIENT, given.init(WEIGHTS), WEIGHTS)
