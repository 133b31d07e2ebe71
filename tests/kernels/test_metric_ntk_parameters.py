"""The metric-NTK where parameters are complex, or have a metric of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from metricflow.discretize import tau_of_share
from metricflow.kernels import (
    metric_ntk,
    metric_ntk_product,
    tangent_kernel,
)
from metricflow.optim import lne_gradient
from tests.kernels.jacobians import (
    a_small_case,
    assert_close,
    check_every_form,
    contracted,
    drawn,
    every_form,
    inputs,
    jacobian,
    mlp,
    multiplied,
)
from tests.tolerances import tolerance

Partial = jax.tree_util.Partial


@pytest.fixture(scope="module")
def small():
    return a_small_case()


def entangled(params, x):
    """Three real numbers of complex and real weights, holomorphic in none."""
    h = jnp.sin(x @ params["w"] + 0.3j)
    s = params["s"]
    return jnp.stack([s @ h.real, jnp.sum(jnp.abs(h) ** 2 * s), h.imag @ s[::-1] + h[0].real ** 2])


def apart(params, x):
    """The same with real and imaginary parts as parameters of their own."""
    return entangled({"w": params["re"] + 1j * params["im"], "s": params["s"]}, x)


def stretched(gradient):
    """A symmetric map of two real parts, an imaginary one and a real leaf."""
    w, s = gradient["w"], gradient["s"]
    bent = 2 * w.real + 0.5 * w.imag + 1j * (0.5 * w.real + 3 * w.imag)
    return {"w": bent + 0.1 * s, "s": 1.5 * s + 0.1 * jnp.sum(w.real, 0)}


def stretched_apart(gradient):
    re, im, s = gradient["re"], gradient["im"], gradient["s"]
    return {
        "re": 2 * re + 0.5 * im + 0.1 * s,
        "im": 0.5 * re + 3 * im,
        "s": 1.5 * s + 0.1 * jnp.sum(re, 0),
    }


@pytest.mark.parametrize("preconditioned", [False, True])
def test_a_complex_parameter_is_two_real_ones(preconditioned):
    w = inputs(3, 5, width=2) + 1j * inputs(3, 6, width=2)
    together = {"w": w, "s": inputs(1, 7, width=2)[0]}
    split = {"re": w.real, "im": w.imag, "s": together["s"]}
    x, y = inputs(4), inputs(5, 2)
    found = every_form(entangled, together, x, y, stretched if preconditioned else None)
    jx, jy = (jacobian(apart, split, z) for z in (x, y))
    pulled = found["pulled"]
    assert pulled["w"].dtype == "complex128"
    assert pulled["s"].dtype == "float64"
    found["pulled"] = {"re": pulled["w"].real, "im": pulled["w"].imag, "s": pulled["s"]}
    inverse = None
    if preconditioned:
        flat, unravel = ravel_pytree(split)
        inverse = jax.jacobian(lambda g: ravel_pytree(stretched_apart(unravel(g)))[0])(flat)
        np.testing.assert_array_equal(inverse, inverse.T)
    check_every_form(found, jx, jy, inverse)


# --- preconditioners -------------------------------------------------------------------------


def identity(gradient):
    return gradient


def test_the_identity_changes_nothing(small):
    network, params, x, y, jx, jy = small
    theta = metric_ntk(network, params, x, y, preconditioner=identity)
    assert_close(theta, contracted(jx, jy))


@pytest.mark.equation("RF 4")
def test_any_metric_of_the_parameters_stands_between_the_jacobians(small):
    """J G^-1 J^T; a Partial with another matrix does not compile again."""
    network, params, x, y, jx, jy = small
    roots = [inputs(43, seed, width=43) for seed in (8, 9)]
    v = inputs(5, 3)
    before = [f._cache_size() for f in (tangent_kernel._dense, tangent_kernel._product)]
    for root in roots:
        inverse = root @ root.T + 0.1 * jnp.eye(43)
        between = Partial(multiplied, inverse)
        expected = contracted(jx @ inverse, jy)
        found = metric_ntk(network, params, x, y, preconditioner=between)
        assert_close(found, expected)
        product = metric_ntk_product(network, params, x, y, v, preconditioner=between)
        assert_close(product, np.einsum("abij,bj->ai", expected, v))
    after = [f._cache_size() for f in (tangent_kernel._dense, tangent_kernel._product)]
    assert after == [count + 1 for count in before]
    # all other forms, with the last of them
    between = functools.partial(multiplied, inverse)
    check_every_form(every_form(network, params, x, y, between), jx, jy, inverse)


@pytest.mark.equation("RF 22")
def test_the_inverse_lne_metric_gives_the_lne_kernel(small):
    """I + t t^T / (1 - q) in every leaf, t = tanh(tau w) with |t|^2 = q."""
    network, params, x, y, jx, jy = small
    q = 0.5
    rule = lne_gradient(q=q)

    def lne(gradient):
        return rule.update(gradient, rule.init(params), params)[0]

    blocks = []
    for leaf in jax.tree.leaves(params):
        t = np.tanh(float(tau_of_share(leaf, q)) * np.asarray(leaf)).ravel()
        assert t @ t == pytest.approx(q, rel=tolerance("algebra"))
        blocks.append(np.eye(t.size) + np.outer(t, t) / (1 - q))
    inverse = np.zeros((43, 43))
    start = 0
    for block in blocks:
        inverse[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    assert start == 43
    dense = metric_ntk(network, params, x, y, preconditioner=lne)
    product = metric_ntk_product(network, params, x, y, inputs(5, 3), preconditioner=lne)
    expected = contracted(jx @ inverse, jy)
    assert_close(dense, expected, name="algebra")
    assert_close(product, np.einsum("abij,bj->ai", expected, inputs(5, 3)), name="algebra")


@pytest.mark.equation("RF 4")
def test_gauss_newton_gives_a_projector_on_the_batch():
    """G = J^T J of the batch: Theta is J J^+, whose eigenvalues are 0 and 1."""
    network = mlp("standard", 0.3, 3, (2,))
    params, x = drawn(network, inputs=2), inputs(8, width=2)
    rows = np.asarray(jacobian(network, params, x)).reshape(24, -1)
    rank = np.linalg.matrix_rank(rows)
    assert rank < 24
    inverse = jnp.asarray(np.linalg.pinv(rows.T @ rows, rcond=1e-12, hermitian=True))
    between = Partial(multiplied, inverse)
    theta = metric_ntk(network, params, x, preconditioner=between)
    matrix = np.asarray(theta).swapaxes(1, 2).reshape(24, 24)
    assert_close(matrix @ matrix, matrix, name="algebra")
    assert_close(matrix @ rows, rows, name="algebra")
    assert np.trace(matrix) == pytest.approx(rank, rel=tolerance("algebra"))
