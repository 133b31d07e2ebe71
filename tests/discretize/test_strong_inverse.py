"""The learned inverse of an LNE metric, between the weak and the exact one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow.discretize import dense_rank_one_metric, lne_natural_gradient, tau_of_share
from metricflow.discretize import strong_inverse as eager

strong_inverse = jax.jit(eager, static_argnames=("steps", "width"))
IDENTITY = jnp.eye(8)


@functools.cache
def weights(q, dtype="float64"):
    w = jnp.asarray(np.random.default_rng(0).normal(size=8), dtype)
    return w * tau_of_share(w, q)


def residual(g, inverse):
    return float(jnp.linalg.norm(jnp.eye(len(g)) - g @ inverse))


@pytest.mark.equation("RF 24")
def test_the_network_comes_close_to_the_inverse(dtype):
    g = dense_rank_one_metric(weights(0.5, dtype), 1.0)
    found, left = strong_inverse(jax.random.key(0), g, steps=500)
    assert found.dtype == left.dtype == dtype
    assert float(left) < 1e-3 * residual(g, jnp.eye(8, dtype=dtype))
    assert float(left) == pytest.approx(residual(g, found), rel=1e-3)
    np.testing.assert_array_equal(found, found.T)
    exact = np.linalg.inv(np.asarray(g, float))
    np.testing.assert_allclose(found, exact, atol=2 * float(left) + 1e-6)


@pytest.mark.equation("RF 24", "RF 25")
def test_the_strong_inverse_lies_between_the_weak_and_the_exact_one():
    w = weights(0.9)
    g = dense_rank_one_metric(w, 1.0)
    by_formula = {
        kind: jax.vmap(lambda v, kind=kind: lne_natural_gradient(w, v, 1.0, inverse=kind))(IDENTITY)
        for kind in ("weak", "exact")
    }
    weak, exact = (residual(g, by_formula[kind]) for kind in ("weak", "exact"))
    strong = float(strong_inverse(jax.random.key(1), g, steps=500)[1])
    assert weak == pytest.approx(0.81)
    assert 1e3 * exact < strong < 0.1 * weak


def test_the_inverse_of_the_identity_is_found_exactly():
    found, left = strong_inverse(jax.random.key(0), IDENTITY, steps=500)
    np.testing.assert_array_equal(found, IDENTITY)
    assert float(left) == 0


@pytest.mark.usefixtures("as_user")
def test_bad_input_is_named():
    key, g = jax.random.key(0), jnp.eye(3)
    for shape in ((3, 4), (3,), (2, 3, 3)):
        with pytest.raises(ValueError, match=r"^g: expected a matrix of shape \(n, n\)"):
            eager(key, jnp.ones(shape))
    with pytest.raises(ValueError, match=r"^g: expected at most 64 rows .* got 65"):
        eager(key, jnp.eye(65))
    with pytest.raises(ValueError, match=r"^g: 1 of 9 entries"):
        eager(key, g.at[0, 0].set(np.nan))
    for name in ("steps", "width"):
        for wrong in (0, True, 2.5):
            with pytest.raises(ValueError, match=f"^{name}: expected"):
                eager(key, g, **{name: wrong})


def test_a_matrix_that_is_not_symmetric_is_refused():
    with pytest.raises(ValueError, match="symmetric"):
        eager(jax.random.key(0), jnp.eye(3).at[0, 1].set(0.5), steps=1)
