"""Small networks and their explicit Jacobians, against which the metric-NTK is checked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from metricflow import ansatz
from metricflow.kernels import (
    metric_ntk,
    metric_ntk_components,
    metric_ntk_diagonal,
    metric_ntk_product,
    pulled_back,
)
from tests.tolerances import tolerance

INPUTS = 3
PAIRS = ((0, 0), (2, 1), (1, 2), (0, 2))


def mlp(parameterisation="ntk", bias_std=0.7, outputs=3, widths=(4, 3)):
    return ansatz.Mlp(
        widths,
        "tanh",
        outputs,
        parameterisation,
        input_variance=1.3,
        hidden_variance=1.7,
        output_variance=0.8,
        bias_std=bias_std,
    )


def drawn(network, seed=0, inputs=INPUTS, dtype="float64"):
    """Parameters of order one, biases too, without running the initialisation."""
    x = jax.ShapeDtypeStruct((inputs,), dtype)
    like = jax.eval_shape(network.init, jax.random.key(0), x)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype), like)


def inputs(count, seed=1, dtype="float64", width=INPUTS):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, width)), dtype)


def plain(network):
    """The same function, which nothing recognises as a perceptron."""

    def apply(params, x):
        return network.apply(params, x)

    return apply


@functools.partial(jax.jit, static_argnums=0)
def jacobian(apply, params, x):
    """All rows dg_I(x_a)/dtheta side by side: (N, c, P), for real parameters."""
    flat, unravel = ravel_pytree(params)
    apply = getattr(apply, "apply", apply)

    def outputs(theta, row):
        return jnp.atleast_1d(apply(unravel(theta), row))

    return jax.vmap(jax.jacrev(outputs), (None, 0))(flat, x)


def contracted(left, right):
    return np.einsum("aip,bjp->abij", np.asarray(left, float), np.asarray(right, float))


@functools.partial(jax.jit, static_argnums=0)
def values(network, params, x):
    return jax.vmap(network.apply, (None, 0))(params, x)


def assert_close(found, expected, dtype="float64", name="tangents"):
    """To a share of the largest number."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape
    scale = np.max(np.abs(expected))
    assert scale > 0
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance(name, dtype))


@functools.partial(jax.jit, static_argnums=(0, 4))
def every_form(apply, params, x, y, preconditioner=None):
    """Dense, diagonal, components, product and its first half, in tiles of 2, in one program."""
    options = {"preconditioner": preconditioner, "chunk": 2}
    v = jnp.cos(jnp.arange(len(y) * 3.0)).reshape(len(y), 3).astype(y.dtype)
    return {
        "dense": metric_ntk(apply, params, x, y, **options),
        "diagonal": metric_ntk_diagonal(apply, params, x, preconditioner=preconditioner),
        "components": metric_ntk_components(apply, params, x, y, pairs=PAIRS, **options),
        "product": metric_ntk_product(apply, params, x, y, v, **options),
        "pulled": pulled_back(apply, params, y, v, chunk=2),
        "v": v,
    }


def check_every_form(found, jx, jy, inverse=None, name="tangents"):
    """Against J G^-1 J^T of the Jacobians (N, c, P)."""
    jx, jy = np.asarray(jx), np.asarray(jy)
    inverse = np.eye(jx.shape[2]) if inverse is None else np.asarray(inverse)
    full = contracted(jx @ inverse, jy)
    assert_close(found["dense"], full, name=name)
    blocks = np.einsum("aip,ajp->aij", jx @ inverse, jx)
    assert_close(found["diagonal"], blocks, name=name)
    chosen = np.stack([full[..., i, j] for i, j in PAIRS], -1)
    assert_close(found["components"], chosen, name=name)
    v = np.asarray(found["v"])
    assert_close(found["product"], np.einsum("abij,bj->ai", full, v), name=name)
    assert_close(ravel_pytree(found["pulled"])[0], np.einsum("bip,bi->p", jy, v), name=name)


def multiplied(matrix, gradient):
    flat, unravel = ravel_pytree(gradient)
    return unravel(matrix @ flat)


def a_small_case():
    """A perceptron, parameters, 4 and 5 points and the Jacobians there.

    Of two hidden layers: with one, Theta_IJ(x, x') = Theta_JI(x, x') and no transposition shows.
    """
    network = mlp("standard", 0.3)
    params, x, y = drawn(network), inputs(4), inputs(5, 2)
    return network, params, x, y, jacobian(network, params, x), jacobian(network, params, y)
