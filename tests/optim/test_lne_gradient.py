"""The gradient in an LNE metric against matrices that are written out and solved."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow import optim
from metricflow.discretize import dense_rank_one_metric, hessian_metric
from metricflow.optim import lne_gradient
from tests.tolerances import tolerance

CLOSE = tolerance("algebra")


def problem(seed, shape=(4, 3), dtype="float64"):
    weights, gradient = np.random.default_rng(seed).normal(size=(2, *shape))
    return jnp.asarray(weights, dtype), jnp.asarray(gradient, dtype)


@functools.partial(jax.jit, static_argnames=("inverse", "max_q"))
def one_update(weights, gradient, tau=None, q=None, inverse="exact", max_q=0.9):
    rule = lne_gradient(tau, q=q, inverse=inverse, max_q=max_q)
    found, state = rule.update({"w": gradient}, rule.init({"w": weights}), {"w": weights})
    return found["w"], state.tau["w"], state.q["w"]


def metric(weights, tau):
    """I - t t^T, as the paper prints it."""
    t = np.tanh(float(tau) * np.asarray(weights, float)).reshape(-1)
    return np.eye(t.size) - np.outer(t, t)


def solved(weights, gradient, tau):
    flat = np.asarray(gradient, float).reshape(-1)
    return np.linalg.solve(metric(weights, tau), flat).reshape(gradient.shape)


@pytest.mark.equation("RF 15", "RF 22", "RF 23")
@pytest.mark.parametrize("options", [{"tau": 0.1}, {"q": 0.8}, {}], ids=str)
def test_the_exact_inverse_is_a_solve_with_the_printed_metric(dtype, options):
    weights, gradient = problem(0, dtype=dtype)
    found, tau, q = one_update(weights, gradient, **options)
    within = {"float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(found, solved(weights, gradient, tau), within, within)
    assert float(q) == pytest.approx(np.sum(np.tanh(float(tau) * np.asarray(weights)) ** 2), within)
    assert found.dtype == tau.dtype == q.dtype == dtype


@pytest.mark.equation("RF 25")
def test_the_weak_inverse_is_wrong_by_the_square_of_what_it_adds():
    """(I - t t^T)(I + t t^T) = I - q t t^T, which has the norm q^2."""
    weights, _ = problem(1)
    rule = lne_gradient(q=0.3, inverse="weak")
    _, tau, q = one_update(weights, weights, q=0.3)
    columns = jax.vmap(lambda g: rule.update(g, rule.init(weights), weights)[0])
    inverse = columns(jnp.eye(12).reshape(12, 4, 3)).reshape(12, 12)
    t = np.tanh(float(tau) * np.asarray(weights)).reshape(-1)
    left = np.eye(12) - metric(weights, tau) @ inverse
    np.testing.assert_allclose(left, float(q) * np.outer(t, t), atol=CLOSE)
    assert np.linalg.norm(left) == pytest.approx(float(q) ** 2, rel=1e-10)


@pytest.mark.equation("RF 15")
def test_the_hessian_metric_is_diagonal():
    weights, gradient = problem(2)
    found, tau, _ = one_update(weights, gradient, 0.1, inverse="hessian")
    expected = np.cosh(float(tau) * np.asarray(weights)) ** 2 * gradient
    np.testing.assert_allclose(found, expected, rtol=CLOSE)
    np.testing.assert_allclose(found * hessian_metric(weights, tau), gradient, rtol=CLOSE)


@pytest.mark.equation("RF 24")
def test_the_strong_inverse_comes_close_to_the_exact_one():
    weights, gradient = problem(3, (2, 2))
    found, tau, _ = one_update(weights, gradient, inverse="strong")
    np.testing.assert_allclose(found, solved(weights, gradient, tau), atol=1e-2)
    assert np.max(np.abs(found - gradient)) > 0.1


def test_the_strong_inverse_is_for_few_weights():
    with pytest.raises(ValueError, match=r"at most 64 weights.*\(65,\).*exact"):
        one_update(jnp.ones(65), jnp.ones(65), inverse="strong")


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("q", [1e-4, 0.5, 0.89])
def test_the_share_that_was_asked_for_is_the_one_in_use(dtype, q, size):
    weights, gradient = problem(4, dtype=dtype)
    for w in (size * weights, size * weights[0, :1]):
        _, tau, found = one_update(w, gradient.reshape(-1)[: w.size].reshape(w.shape), q=q)
        assert float(found) == pytest.approx(q, rel=100 * tolerance("rounding", dtype))
        assert float(jnp.sum(jnp.tanh(tau * w) ** 2)) == pytest.approx(q, rel=1e-5)


@pytest.mark.equation("RF 23")
@pytest.mark.parametrize("power", [1, 3, 9])
def test_large_layers_with_light_and_heavy_tails(dtype, power):
    """Where tau is found in one go if it can be, and sums are taken in slices."""
    weights, gradient = problem(10, (64, 65), dtype=dtype)
    weights = 0.02 * weights**power
    found, tau, q = one_update(weights, gradient, q=0.8)
    t, slope = np.tanh(float(tau) * np.asarray(weights, float)), np.asarray(gradient, float)
    within = 10 * tolerance("rounding", dtype)
    assert float(q) == pytest.approx(0.8, rel=within)
    assert np.sum(t**2) == pytest.approx(0.8, rel=within)
    expected = slope + t * np.sum(t * slope) / (1 - np.sum(t**2))
    np.testing.assert_allclose(found, expected, rtol=100 * within, atol=100 * within)


def test_half_is_the_share_when_nothing_is_said():
    weights, gradient = problem(5)
    assert float(one_update(weights, gradient)[2]) == pytest.approx(0.5, rel=CLOSE)


@pytest.mark.parametrize("inverse", ["exact", "weak", "hessian"])
def test_tau_is_lowered_where_the_share_would_be_too_large(inverse):
    weights, gradient = problem(6)
    slightly = one_update(weights, gradient, q=0.75)[1]
    expected = one_update(weights, gradient, q=0.7, inverse=inverse)[0]
    for given_tau in (slightly, 2.0):
        found, tau, q = one_update(weights, gradient, given_tau, inverse=inverse, max_q=0.7)
        assert float(q) == pytest.approx(0.7, rel=CLOSE)
        assert float(tau) < given_tau
        np.testing.assert_allclose(found, expected, rtol=CLOSE)
    _, tau, q = one_update(weights, gradient, 0.01, inverse=inverse, max_q=0.7)
    assert float(tau) == 0.01
    assert float(q) < 0.7
    assert float(one_update(weights, gradient, q=0.95)[2]) == pytest.approx(0.9, rel=CLOSE)


def test_without_a_limit_tau_stays():
    weights, gradient = problem(7)
    for inverse in ("weak", "hessian"):
        _, tau, q = one_update(weights, gradient, 2.0, inverse=inverse, max_q=None)
        assert float(tau) == 2.0
        assert float(q) > 1


def test_leaves_have_metrics_of_their_own():
    shapes, rule = [(4, 3), (5,), ()], lne_gradient(q=0.4)
    pairs = [problem(8 + i, shape) for i, shape in enumerate(shapes)]
    weights, gradients = ([pair[i] for pair in pairs] for i in (0, 1))
    found, state = jax.jit(rule.update)(gradients, rule.init(weights), weights)
    for w, g, leaf, tau, q in zip(weights, gradients, found, state.tau, state.q, strict=True):
        np.testing.assert_allclose(leaf, one_update(w, g, q=0.4)[0], rtol=CLOSE)
        np.testing.assert_allclose(leaf, solved(w, g, tau), rtol=CLOSE)
        assert float(q) == pytest.approx(0.4, rel=CLOSE)
    assert len({float(tau) for tau in state.tau}) == 3


def test_nothing_is_reported_before_the_first_update(dtype):
    state = lne_gradient().init({"w": jnp.ones(3, dtype)})
    assert (float(state.tau["w"]), float(state.q["w"])) == (0, 0)
    assert state.tau["w"].dtype == dtype


def test_of_the_two_names_one_is_the_other():
    assert optim.lne_gradient is optim.scale_by_lne
    assert list(inspect.signature(lne_gradient).parameters) == ["tau", "q", "inverse", "max_q"]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 1.0, "q": 0.5}, "tau or q, got both"),
        ({"tau": 0.0}, "tau: .*above 0"),
        ({"tau": -1.0}, "tau: .*above 0"),
        ({"tau": float("nan")}, "tau: "),
        ({"q": 1.0}, "q: .*below 1"),
        ({"q": 0.0}, "q: .*above 0"),
        ({"q": jnp.asarray(1.5)}, "q: .*below 1"),
        ({"max_q": 1.0}, "max_q: .*below 1"),
        ({"max_q": 0.0}, "max_q: .*above 0"),
        ({"max_q": None}, "max_q: None is for"),
        ({"max_q": None, "inverse": "strong"}, "max_q: None is for"),
        ({"inverse": "pseudo"}, "inverse: .*'hessian'.*'pseudo'"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lne_gradient(**options)


numbers = st.lists(st.floats(-10, 10, width=32), min_size=5, max_size=5)


@jax.jit
def both_inverses(weights, gradient, q):
    exact, weak = (lne_gradient(q=q, inverse=inverse) for inverse in ("exact", "weak"))
    state = exact.init(weights)
    found, after = exact.update(gradient, state, weights)
    return found, weak.update(gradient, state, weights)[0], after


@given(numbers, numbers, st.floats(0.01, 0.89))
def test_the_step_is_a_descent_direction(weights, gradient, q):
    """<G, g^-1 G> lies between |G|^2 and |G|^2 / (1 - q), the eigenvalues of the inverse."""
    w, g = jnp.asarray(weights), jnp.asarray(gradient)
    exact, weak, state = both_inverses(w, g, q)
    if np.any(w):
        assert float(state.q) == pytest.approx(q)
        assert float(jnp.sum(jnp.tanh(state.tau * w) ** 2)) == pytest.approx(q)
    square = float(jnp.vdot(g, g))
    for found, top in ((exact, 1 / (1 - q)), (weak, 1 + q)):
        along = float(jnp.vdot(g, found))
        assert square * (1 - 1e-12) <= along <= square * top * (1 + 1e-9)


@pytest.mark.equation("RF 23")
def test_no_step_of_the_same_length_in_the_metric_goes_down_faster(rng):
    weights, gradient = problem(9)
    found, tau, _ = one_update(weights, gradient, q=0.8)
    g = np.asarray(dense_rank_one_metric(weights, tau))
    steepest, slope = np.asarray(found).reshape(-1), np.asarray(gradient).reshape(-1)
    others = rng.normal(size=(500, 12))
    others = np.vstack([others, steepest + 0.01 * others, slope])

    def descent(step):
        return step @ slope / np.sqrt(np.einsum("...i,ij,...j", step, g, step))

    assert np.all(descent(others) < descent(steepest))
    assert descent(steepest) ** 2 == pytest.approx(slope @ np.linalg.solve(g, slope))
