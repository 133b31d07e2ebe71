"""The rank-one LNE metric, its inverses, its share and its closeness, against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from metricflow import discretize
from metricflow.discretize import hessian_metric, lne_potential, straight_through
from tests.tolerances import tolerance

ROUNDING = tolerance("rounding")
closeness, dense_rank_one_metric, rank_one_share, tau_of_share = map(
    jax.jit,
    (
        discretize.closeness,
        discretize.dense_rank_one_metric,
        discretize.rank_one_share,
        discretize.tau_of_share,
    ),
)
lne_natural_gradient = jax.jit(discretize.lne_natural_gradient, static_argnames="inverse")


def normal(seed, shape=6, dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def weights(seed, q, shape=6):
    """Weights of share q at tau = 1."""
    w = normal(seed, shape)
    return w * tau_of_share(w, q)


def test_neither_metric_falls_off():
    """RF 17 asks that g - I goes to zero far out; it goes to -s s^T, s the signs, or to -I."""
    w = normal(5)
    for r in (10.0, 1000.0):
        printed, hessian = dense_rank_one_metric(r * w, 1.0), jnp.diag(hessian_metric(r * w, 1.0))
        assert float(jnp.linalg.norm(printed - jnp.eye(6))) > 5
        assert float(jnp.linalg.norm(hessian - jnp.eye(6))) > 2
    s = jnp.sign(w)
    np.testing.assert_allclose(printed, jnp.eye(6) - jnp.outer(s, s), atol=ROUNDING)
    np.testing.assert_allclose(hessian, 0, atol=ROUNDING)


@pytest.mark.equation("RF 15")
def test_the_printed_metric_is_the_hessian_of_no_function():
    """The derivatives of a Hessian are symmetric in all three indices."""
    w = normal(3)
    derivative = jax.jit(jax.jacfwd(dense_rank_one_metric))(w, 1.3)  # [i, j, k] = d_k g_ij
    t = np.tanh(1.3 * w)
    assert float(derivative[0, 1, 0]) == pytest.approx(-1.3 * (1 - t[0] ** 2) * t[1])
    assert float(derivative[0, 0, 1]) == 0
    true = jax.jit(jax.jacfwd(lambda w: jnp.diag(hessian_metric(w, 1.3))))(w)
    np.testing.assert_array_equal(true, true.transpose(0, 2, 1))
    # to first order in w both are I; for n = 1 they are the same
    np.testing.assert_allclose(dense_rank_one_metric(w[:1], 1.3)[0], hessian_metric(w[:1], 1.3))


@pytest.mark.equation("RF 15")
@given(st.integers(0, 99), st.floats(0.01, 0.999))
def test_the_eigenvalues_are_one_and_one_minus_the_share(seed, q):
    w = weights(seed, q, (2, 3))
    found = np.linalg.eigvalsh(dense_rank_one_metric(w, 1.0))
    np.testing.assert_allclose(found, [1 - q, 1, 1, 1, 1, 1], atol=1e-13)


@pytest.mark.equation("RF 16", "RF 22")
@given(
    st.integers(0, 99), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from(["float32", "float64"])
)
def test_the_exact_inverse_solves_with_the_matrix(seed, q, kind):
    w, v = weights(seed, q, (2, 3)).astype(kind), normal(seed + 1, (2, 3), kind)
    found = lne_natural_gradient(w, v, 1.0)
    assert found.dtype == v.dtype
    expected = np.linalg.solve(
        dense_rank_one_metric(w.astype(float), 1.0), np.ravel(v).astype(float)
    )
    error = np.linalg.norm(np.ravel(found) - expected) / np.linalg.norm(expected)
    assert error < (1e-5 if kind == "float32" else 1e-12)


@pytest.mark.equation("RF 16")
def test_the_inverse_of_the_hessian_metric_solves_with_it():
    w, v = normal(0), normal(1)
    hessian = jax.jit(jax.hessian(lne_potential))(w, 0.7)
    found = lne_natural_gradient(w, v, 0.7, inverse="hessian")
    np.testing.assert_allclose(found, np.linalg.solve(hessian, v), rtol=1e-12)


@pytest.mark.equation("RF 23")
def test_the_gradient_of_a_discretised_layer():
    w, x = weights(2, 0.6), normal(5, (4, 6))

    def loss(w):
        return jnp.sum(jnp.sin(x @ w))

    found = lne_natural_gradient(w, jax.grad(lambda w: loss(straight_through(jnp.sign)(w)))(w), 1.0)
    at = jax.grad(loss)(jnp.sign(w))
    np.testing.assert_allclose(dense_rank_one_metric(w, 1.0) @ found, at, rtol=1e-12, atol=1e-13)


@pytest.mark.equation("RF 25")
@pytest.mark.parametrize("q", [0.01, 0.5, 0.9, 3.0])
def test_the_weak_inverse_leaves_the_square_of_the_share(q):
    w = weights(1, q) if q < 1 else jnp.arctanh(jnp.full(6, (q / 6) ** 0.5))
    rows = jax.vmap(lambda v: lne_natural_gradient(w, v, 1.0, inverse="weak"))(jnp.eye(6))
    left = np.eye(6) - dense_rank_one_metric(w, 1.0) @ rows
    assert np.linalg.norm(left) == pytest.approx(q**2, rel=1e-12)
    # beyond q = 1 the exact inverse turns the gradient round along t
    t = jnp.tanh(w)
    assert (float(t @ lne_natural_gradient(w, t, 1.0)) < 0) == (q > 1)


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_tau_gives_the_share(dtype, size, scale):
    w = scale * normal(1, size, dtype)
    for q in (1e-6, 0.3, 0.9, 0.999):
        tau = tau_of_share(w, q)
        assert tau.dtype == dtype
        share = np.sum(np.tanh(float(tau) * np.asarray(w, float)) ** 2)
        assert share == pytest.approx(q, rel=tolerance("rounding", dtype))
        assert float(rank_one_share(w, tau)) == pytest.approx(q, rel=2e-6)


@pytest.mark.parametrize("scale", [1e-15, 1e-10, 1e12, 1e15])
def test_tau_is_in_units_of_the_weights(dtype, scale):
    w = jnp.asarray([1.0, -2.0, 0.5], dtype)
    expected = float(tau_of_share(w, 0.5))
    assert float(tau_of_share(scale * w, 0.5)) * scale == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 999), st.floats(1e-6, 0.999), st.floats(0, 8))
def test_tau_for_weights_of_very_different_size(seed, q, decades):
    w = 10.0 ** -np.random.default_rng(seed).uniform(0, decades, 50)
    share = rank_one_share(w, tau_of_share(w, q))
    assert float(share) == pytest.approx(q, rel=10 * ROUNDING)


def test_tau_of_many_layers_at_once_and_of_zeros():
    layers = normal(1, (5, 7)).at[2].set(0)
    many = jax.jit(jax.vmap(tau_of_share, (0, None)))(layers, 0.5)
    alone = [float(tau_of_share(layer, 0.5)) for layer in layers]
    np.testing.assert_allclose(many, alone, rtol=ROUNDING)
    assert alone[2] == 0
    np.testing.assert_array_equal(lne_natural_gradient(layers[2], layers[1], many[2]), layers[1])
    assert tau_of_share(layers[0].astype("bfloat16"), 0.5).dtype == "float32"


@given(
    st.integers(0, 999), st.sampled_from([1, 2, 5]), st.floats(0.01, 0.99), st.floats(0.01, 0.99)
)
def test_closeness_is_that_of_the_matrices(seed, n, q, q0):
    w, origin = (np.random.default_rng(seed + i).normal(size=n) for i in (0, 1))
    w, origin = w * tau_of_share(w, q), origin * tau_of_share(origin, q0)
    g, g0 = dense_rank_one_metric(w, 1.0), dense_rank_one_metric(origin, 1.0)
    values = scipy.linalg.eigvalsh(g, g0)
    expected = max(values[-1] - 1, 1 / values[0] - 1, 0)
    assert float(closeness(w, origin, 1.0)) == pytest.approx(expected, rel=1e-10)


def test_closeness_of_a_metric_to_itself_and_to_no_metric():
    w = weights(0, 0.5)
    assert float(closeness(w, w, 1.0)) == 0
    assert float(closeness(2 * w, w, 1.0)) > 0.1
    assert float(closeness(9 * w, w, 1.0)) == np.inf
    assert np.isnan(closeness(w, 9 * w, 1.0))


@pytest.mark.parametrize("size", [1e-5, 1e-7, 1e-11])
def test_closeness_for_short_steps(size):
    """Eigenvalues of -(t d^T + d t^T) to first order: -(t.d) +- sqrt(t.t d.d) in g0^-1."""
    origin, h = weights(0, 0.5), size * normal(1)
    w = origin + h
    t, step = np.tanh(np.asarray(origin)), np.asarray(w - origin)
    d = (1 - t**2) * step
    inverse = np.linalg.inv(dense_rank_one_metric(origin, 1.0))
    expected = abs(t @ inverse @ d) + np.sqrt((t @ inverse @ t) * (d @ inverse @ d))
    assert float(closeness(w, origin, 1.0)) == pytest.approx(expected, rel=1e-12 + 30 * size)


@pytest.mark.usefixtures("as_user")
def test_bad_input_is_named():
    w = normal(0)
    for q in (1.0, 2.0, 0.0, -0.1, np.nan, np.inf, jnp.asarray(1.5)):
        with pytest.raises(ValueError, match=r"^q: expected"):
            discretize.tau_of_share(w, q)
    with pytest.raises(ValueError, match=r"^inverse: expected .* got 'strong'"):
        discretize.lne_natural_gradient(w, w, 1.0, inverse="strong")
