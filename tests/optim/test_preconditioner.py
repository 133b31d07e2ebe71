"""Gradient rules as operators on the tangent kernel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow import ansatz, kernels, lne_gradient
from metricflow.optim import as_preconditioner

NETWORK = ansatz.Mlp((5,), "tanh", outputs=2)
X = jax.random.normal(jax.random.key(0), (4, 3))
PARAMETERS = NETWORK.init(jax.random.key(1), X[0])


@pytest.mark.equation("RF 16", "RF 22")
@pytest.mark.parametrize("inverse", ["exact", "weak", "hessian"])
def test_a_rule_and_its_kernel_are_one(inverse):
    """theta moves by the rule, the outputs by J G^-1 J^T: equal up to the square of the step."""
    rule = lne_gradient(q=0.5, inverse=inverse)
    at = functools.partial(as_preconditioner(rule), PARAMETERS)
    theta = kernels.metric_ntk(NETWORK, PARAMETERS, X, preconditioner=at)
    np.testing.assert_allclose(
        kernels.joint_matrix(theta), kernels.joint_matrix(theta).T, atol=1e-12
    )
    slope = jax.random.normal(jax.random.key(2), (4, 2))

    def outputs(parameters):
        return jax.vmap(NETWORK.apply, (None, 0))(parameters, X)

    def gap(dt):
        chain = optax.chain(rule, optax.sgd(dt))
        gradient = kernels.pulled_back(NETWORK, PARAMETERS, X, slope)
        updates, _ = chain.update(gradient, chain.init(PARAMETERS), PARAMETERS)
        moved = outputs(optax.apply_updates(PARAMETERS, updates))
        predicted = outputs(PARAMETERS) - dt * jnp.einsum("xyij,yj->xi", theta, slope)
        return float(jnp.linalg.norm(moved - predicted))

    steps = np.array([1e-3, 5e-4, 2.5e-4])
    order = np.polyfit(np.log(steps), np.log([gap(dt) for dt in steps]), 1)[0]
    assert order == pytest.approx(2, abs=0.05)


def test_plain_descent_is_the_identity():
    at = functools.partial(as_preconditioner(optax.identity()), PARAMETERS)
    np.testing.assert_allclose(
        kernels.metric_ntk(NETWORK, PARAMETERS, X, preconditioner=at),
        kernels.metric_ntk(NETWORK, PARAMETERS, X),
        atol=1e-12,
    )
