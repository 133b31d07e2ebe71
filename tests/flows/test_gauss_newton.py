"""Gauss-Newton: exact on linear problems, the same in both spaces, safe at the domain's edge."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow._pytree import register_dataclass
from metricflow.flows import FlowError, GaussNewton, Result


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """r = A theta - b."""

    A: jax.Array
    b: jax.Array

    def residuals(self, theta):
        return self.A @ theta - self.b


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """r = log(A exp(theta) + 1) - b as a tree of parameters, only where theta_0 < edge."""

    A: jax.Array
    b: jax.Array
    edge: jax.Array

    def residuals(self, tree):
        theta = jnp.concatenate([tree["head"], tree["tail"]])
        value = jnp.log(self.A @ jnp.exp(theta) + 1) - self.b
        return jnp.where(theta[0] < self.edge, value, jnp.inf)


def line(rng, samples, parameters):
    return Line(
        jnp.asarray(rng.normal(size=(samples, parameters))), jnp.asarray(rng.normal(size=samples))
    )


def curve(rng, edge=1e3, samples=12):
    A = jnp.asarray(rng.uniform(size=(samples, 4)))
    exact = jnp.array([0.5, -0.3, 0.2, 0.4])
    return Curve(A, jnp.log(A @ jnp.exp(exact) + 1), jnp.asarray(edge)), exact


TREE = {"head": jnp.zeros(1), "tail": jnp.zeros(3)}


@pytest.mark.parametrize("shape", [(20, 6), (6, 20)], ids=["over", "under"])
@pytest.mark.parametrize("solver", ["auto", "iterative"])
def test_a_linear_problem_takes_one_step(rng, shape, solver):
    problem = line(rng, *shape)
    method = GaussNewton(solver=solver, tolerance=1e-14)
    state, info = method.step(method.init(jnp.zeros(shape[1])), problem)
    expected = np.linalg.lstsq(problem.A, problem.b, rcond=None)[0]  # of least norm
    np.testing.assert_allclose(state.parameters, expected, atol=1e-9)
    assert float(info.fraction) == 1
    assert float(info.loss_before) == pytest.approx(float(jnp.sum(problem.b**2)))
    residual = float(jnp.sum((problem.A @ expected - problem.b) ** 2))
    assert float(state.loss) == pytest.approx(residual, abs=1e-12)


@pytest.mark.parametrize("factor", ["qr", "cholesky"])
@pytest.mark.parametrize("shape", [(15, 6), (6, 15)], ids=["over", "under"])
def test_parameter_space_and_sample_space_give_one_trajectory(rng, factor, shape):
    problem = line(rng, *shape)
    steps = [
        GaussNewton(damping=0.1, solver=solver, factor=factor)
        for solver in ("parameters", "samples")
    ]
    first, second = (method.run(method.init(jnp.ones(shape[1])), problem, 3)[0] for method in steps)
    np.testing.assert_allclose(first.parameters, second.parameters, atol=1e-10)
    assert float(first.loss) > 0


def test_truncated_singular_values_leave_the_null_space_alone(rng):
    problem = line(rng, 12, 5)
    A = problem.A.at[:, 4].set(problem.A[:, 3])
    problem = Line(A, problem.b)
    for solver in ("parameters", "samples"):
        method = GaussNewton(rank_tolerance=1e-10, solver=solver)
        state, info = method.step(method.init(jnp.zeros(5)), problem)
        assert int(info.rank) == 4
        expected = np.linalg.lstsq(A, problem.b, rcond=None)[0]
        np.testing.assert_allclose(state.parameters, expected, atol=1e-10)


def test_in_function_space_a_step_is_a_projection(rng):
    """r after a step is orthogonal to every direction of the model."""
    problem = line(rng, 20, 6)
    method = GaussNewton()
    state, _ = method.step(method.init(jnp.ones(6)), problem)
    np.testing.assert_allclose(problem.A.T @ problem.residuals(state.parameters), 0, atol=1e-11)


def test_convergence_is_quadratic_on_a_tree_of_parameters(rng):
    problem, exact = curve(rng)
    method = GaussNewton()
    state, errors = method.init(TREE), []
    for _ in range(5):
        state, _ = method.step(state, problem)
        found = jnp.concatenate([state.parameters["head"], state.parameters["tail"]])
        errors.append(float(jnp.linalg.norm(found - exact)))
    assert errors[-1] < 1e-12
    assert errors[2] < 5 * errors[1] ** 2


def test_a_step_stops_short_of_the_edge_of_the_domain(rng):
    problem, _ = curve(rng, edge=0.3)
    method = GaussNewton()
    state, infos = method.run(method.init(TREE), problem, 20)
    losses = [float(info.loss) for info in infos]
    assert losses == sorted(losses, reverse=True)
    assert any(0 < float(info.fraction) < 1 for info in infos)
    assert float(state.parameters["head"][0]) < 0.3


def test_damping_adapts(rng):
    problem, _ = curve(rng)
    method = GaussNewton(damping=1.0, adaptive=True)
    state, info = method.step(method.init(TREE), problem)
    assert float(info.fraction) == 1
    assert float(state.damping) == pytest.approx(1 / 3)
    tight, _ = curve(rng, edge=1e-6)
    refused, info = method.step(method.init(TREE), tight)
    assert float(info.fraction) < 1
    assert float(refused.damping) == pytest.approx(4)


def test_results_are_named(rng):
    problem, _ = curve(rng, edge=-1.0)
    method = GaussNewton()
    with pytest.raises(FlowError, match="NaN or infinite"):
        method.run(method.init(TREE), problem, 3)
    state, _ = method.run(method.init(TREE), problem, 3, throw=False)
    assert int(state.result) == Result.NON_FINITE
    np.testing.assert_array_equal(state.parameters["tail"], 0)
    flat = line(rng, 20, 6)
    best, _ = method.run(method.init(jnp.zeros(6)), flat, 5)
    assert int(best.result) in (Result.NO_DECREASE, Result.SUCCESSFUL)
    assert int(best.steps) <= 3


def test_single_precision_stays_single():
    problem = Line(jnp.eye(3, dtype=jnp.float32), jnp.ones(3, jnp.float32))
    for solver in ("parameters", "iterative"):
        method = GaussNewton(solver=solver, damping=1e-6)
        state, _ = jax.jit(method.step)(method.init(jnp.zeros(3, jnp.float32)), problem)
        assert state.parameters.dtype == jnp.float32
        np.testing.assert_allclose(state.parameters, 1, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "magic"}, "solver: expected one of"),
        ({"factor": "lu"}, "factor: expected one of"),
        ({"damping": -1.0}, "damping: expected a finite number of at least 0"),
        ({"adaptive": True}, "an adaptive damping must start above 0"),
        ({"rank_tolerance": 2.0}, "rank_tolerance: expected a number between 0 and 1"),
        ({"iterations": 0}, "iterations: expected an integer of at least 1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GaussNewton(**options)


def test_a_singular_side_is_refused(rng):
    for solver, shape in (("parameters", (4, 6)), ("samples", (6, 4))):
        method = GaussNewton(solver=solver)
        with pytest.raises(ValueError, match="meets a singular matrix"):
            method.step(method.init(jnp.zeros(shape[1])), line(rng, *shape))


def test_bad_parameters_are_named():
    for tree in ((), jnp.arange(3), {"a": jnp.ones(2) + 1j}):
        with pytest.raises(ValueError, match="real floating point arrays"):
            GaussNewton().init(tree)
