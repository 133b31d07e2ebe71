"""Gauss-Newton on problems whose steps are known in closed form."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow._pytree import register_dataclass
from metricflow.flows import FlowError, GaussNewton, Result, gauss_newton
from tests.tolerances import tolerance

CLOSE = tolerance("algebra")


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    """A theta - b."""

    matrix: Any
    target: Any

    def residuals(self, theta):
        return self.matrix @ theta - self.target


class Bent(Affine):
    """A theta + sin(A theta) / 2 - b."""

    def residuals(self, theta):
        moved = self.matrix @ theta
        return moved + jnp.sin(moved) / 2 - self.target


class Logarithm(Affine):
    """log(A theta) - b where A theta > 0.

    With y = A theta for an invertible A and b = 0 a full step is y <- y (1 - log y), each
    component by itself: the step does not see the coordinates.
    """

    def residuals(self, theta):
        y = self.matrix @ theta
        inside = jnp.log(jnp.where(y > 0, y, 1)) - self.target
        return jnp.where(y > 0, inside, jnp.inf)


for _problem in (Bent, Logarithm):
    register_dataclass(_problem)


def problem(rng, rows, columns, kind=Affine):
    return kind(jnp.asarray(rng.normal(size=(rows, columns))), jnp.asarray(rng.normal(size=rows)))


def one_step(method, target, theta):
    return gauss_newton._compiled_step(method, method.init(theta), target)


def trajectory(method, target, theta, steps=4):
    state, found = method.init(theta), []
    for _ in range(steps):
        state, _ = gauss_newton._compiled_step(method, state, target)
        found.append(np.asarray(state.parameters))
    return np.array(found)


@pytest.mark.parametrize("factor", gauss_newton.FACTORS)
@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (5, 5)])
def test_a_linear_problem_takes_one_step(rng, shape, factor):
    """The least-squares solution, of all of them the nearest to the start."""
    target = problem(rng, *shape)
    start = rng.normal(size=shape[1])
    A, b = np.asarray(target.matrix), np.asarray(target.target)
    nearest = start + np.linalg.lstsq(A, b - A @ start)[0]
    state, info = one_step(GaussNewton(factor=factor), target, jnp.asarray(start))
    small = 1e-10 if factor == "qr" else 1e-7  # eps cond(A)^2
    np.testing.assert_allclose(state.parameters, nearest, atol=small)
    assert float(info.loss_before) == pytest.approx(np.sum((A @ start - b) ** 2))
    assert float(info.loss) == pytest.approx(np.sum((A @ nearest - b) ** 2), abs=small)
    assert float(info.step_norm) == pytest.approx(np.linalg.norm(nearest - start))
    assert (float(info.fraction), int(state.steps), int(info.rank)) == (1, 1, -1)
    assert int(state.result) == Result.SUCCESSFUL


@pytest.mark.parametrize(
    "options",
    [
        {"damping": 0.1},
        {"damping": 0.1, "factor": "cholesky"},
        {"damping": 0.1, "adaptive": True},
        {"rank_tolerance": 1e-10},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_both_sides_of_the_jacobian_give_the_same_trajectory(rng, shape, options):
    target = problem(rng, *shape, kind=Bent)
    start = jnp.asarray(0.3 * rng.normal(size=shape[1]))
    first, second = (
        trajectory(GaussNewton(solver=solver, **options), target, start)
        for solver in ("parameters", "samples")
    )
    np.testing.assert_allclose(first, second, atol=CLOSE)
    assert np.linalg.norm(first[-1] - start) > 0.1


def test_undamped_sides_agree_on_a_square_jacobian(rng):
    target = problem(rng, 5, 5, kind=Bent)
    start = jnp.asarray(0.3 * rng.normal(size=5))
    first, *others = (
        trajectory(GaussNewton(solver=solver, factor=factor), target, start)
        for solver in ("parameters", "samples")
        for factor in gauss_newton.FACTORS
    )
    for other in others:
        np.testing.assert_allclose(first, other, atol=1e-8)


@pytest.mark.parametrize("solver", ["parameters", "samples"])
def test_damping_is_relative_to_the_mean_square_column(rng, solver):
    target = problem(rng, 9, 4)
    A, b = np.asarray(target.matrix), np.asarray(target.target)
    scale = 0.3 * np.mean(np.sum(A**2, axis=0))
    expected = np.linalg.solve(A.T @ A + scale * np.eye(4), A.T @ b)
    for factor in gauss_newton.FACTORS:
        method = GaussNewton(damping=0.3, solver=solver, factor=factor)
        state, _ = one_step(method, target, jnp.zeros(4))
        np.testing.assert_allclose(state.parameters, expected, atol=CLOSE)
        # a problem in other units takes the same step
        scaled = Affine(7 * target.matrix, 7 * target.target)
        again, _ = one_step(method, scaled, jnp.zeros(4))
        np.testing.assert_allclose(again.parameters, expected, atol=CLOSE)


def test_products_give_the_step_of_the_dense_jacobian(rng):
    target = problem(rng, 9, 4, kind=Bent)
    start = jnp.asarray(0.3 * rng.normal(size=4))
    exact = {"iterations": 60, "tolerance": 1e-14}
    dense = trajectory(GaussNewton(), target, start)
    products = trajectory(GaussNewton(solver="iterative", **exact), target, start)
    np.testing.assert_allclose(products, dense, atol=1e-9)
    # with orthogonal columns the one probe finds the mean square column exactly
    columns = np.linalg.qr(rng.normal(size=(9, 4)))[0] * [1, 2, 3, 4]
    orthogonal = Affine(jnp.asarray(columns), target.target)
    dense, products = (
        one_step(GaussNewton(damping=0.2, solver=solver, **exact), orthogonal, start)[0].parameters
        for solver in ("parameters", "iterative")
    )
    np.testing.assert_allclose(products, dense, atol=1e-9)


def test_few_conjugate_gradient_iterations_still_lower_the_loss(rng):
    target = problem(rng, 30, 20)
    methods = [GaussNewton(solver="iterative", iterations=i) for i in (1, 3, 40)]
    losses = [
        float(one_step(method, target, jnp.zeros(20))[1].loss)
        for method in (*methods, GaussNewton())
    ]
    assert losses[0] > 1.1 * losses[1] > 1.1 * losses[2]
    assert losses[2] == pytest.approx(losses[3], rel=1e-6)


@pytest.mark.parametrize("solver", ["parameters", "samples"])
@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
def test_a_rank_deficient_jacobian_gives_the_shortest_step(rng, shape, solver):
    A = rng.normal(size=(shape[0], 3)) @ rng.normal(size=(3, shape[1]))
    b = rng.normal(size=shape[0])
    method = GaussNewton(solver=solver, rank_tolerance=1e-8)
    state, info = one_step(method, Affine(jnp.asarray(A), jnp.asarray(b)), jnp.zeros(shape[1]))
    np.testing.assert_allclose(state.parameters, np.linalg.pinv(A, rcond=1e-8) @ b, atol=1e-10)
    assert int(info.rank) == 3
    full = problem(rng, *shape)
    assert int(one_step(method, full, jnp.zeros(shape[1]))[1].rank) == 5


def test_singular_values_below_the_tolerance_are_dropped(rng):
    left, right = (np.linalg.qr(rng.normal(size=(n, 4)))[0] for n in (7, 5))
    sizes = np.array([1, 0.1, 1e-3, 1e-5])
    target = Affine(jnp.asarray(left * sizes @ right.T), jnp.asarray(rng.normal(size=7)))
    for cut, rank in ((1e-2, 2), (1e-4, 3), (1e-6, 4)):
        method = GaussNewton(rank_tolerance=cut)
        state, info = one_step(method, target, jnp.zeros(5))
        assert int(info.rank) == rank
        kept = right[:, :rank] / sizes[:rank] @ left[:, :rank].T @ target.target
        np.testing.assert_allclose(state.parameters, kept, rtol=1e-8)


def test_in_function_space_the_step_is_a_projector(rng):
    """r moves by Pi r with Pi = J (J^T J)^+ J^T, where gradient descent moves it by J J^T r."""
    J = jnp.asarray(rng.normal(size=(8, 3)) @ rng.normal(size=(3, 5)))
    method = GaussNewton(rank_tolerance=1e-8)

    def projected(r):
        state, info = one_step(method, Affine(J, -r), jnp.zeros(5))
        assert float(info.fraction) == 1
        return -J @ state.parameters

    u, v = jnp.asarray(rng.normal(size=(2, 8)))
    once = projected(u)
    np.testing.assert_allclose(projected(once), once, atol=1e-10)
    assert float(u @ projected(v)) == pytest.approx(float(once @ v))
    assert 0.1 < float(once @ once) < 0.9 * float(u @ u)
    # what the model can follow goes at the same speed, whatever its singular value
    np.testing.assert_allclose(projected(J @ v[:5]), J @ v[:5], atol=1e-10)


def test_steps_are_halved_to_stay_in_the_domain():
    """From y = 10 the full step ends at 10 (1 - log 10) < 0, and so does half of it."""
    target = Logarithm(jnp.eye(2), jnp.zeros(2))
    method = GaussNewton()
    state, info = one_step(method, target, jnp.array([10.0, 1.0]))
    assert float(info.fraction) == 0.25
    np.testing.assert_allclose(state.parameters, [10 - 2.5 * np.log(10), 1], rtol=1e-12)
    assert int(state.result) == Result.SUCCESSFUL
    state, infos = method.run(method.init(jnp.array([10.0, 30.0])), target, 30)
    np.testing.assert_allclose(state.parameters, 1, rtol=1e-12)
    losses = [float(info.loss) for info in infos]
    assert losses == sorted(losses, reverse=True)
    assert [float(info.loss_before) for info in infos[1:]] == losses[:-1]
    assert int(state.steps) == sum(float(info.fraction) > 0 for info in infos)
    # without room to halve there is no good step
    stuck, info = one_step(GaussNewton(halvings=1), target, jnp.array([10.0, 1.0]))
    assert int(stuck.result) == Result.NO_DECREASE
    assert np.array_equal(stuck.parameters, [10, 1])
    assert (float(info.fraction), float(info.loss)) == (0, float(info.loss_before))


def test_convergence_is_quadratic_and_sees_no_coordinates(rng):
    A = rng.normal(size=(3, 3))
    y = np.array([1.5, 0.6, 1.1])
    target = Logarithm(jnp.asarray(A), jnp.zeros(3))
    start = jnp.asarray(np.linalg.solve(A, y))
    found = trajectory(GaussNewton(), target, start, steps=6) @ A.T
    for here in found:
        y = y * (1 - np.log(y))
        np.testing.assert_allclose(here, y, rtol=1e-11)
    # 1 + e goes to 1 - e^2 / 2
    error = np.abs(found[:3] - 1)
    np.testing.assert_allclose(error[2] / error[1] ** 2, 0.5, rtol=0.02)
    assert np.abs(found[-1] - 1).max() < 1e-13


def test_damping_falls_after_full_steps_and_rises_after_others():
    target = Logarithm(jnp.eye(1), jnp.zeros(1))
    method = GaussNewton(damping=1e-3, adaptive=True)
    state = method.init(jnp.array([10.0]))
    full = []
    for _ in range(6):
        before = state.damping
        state, info = gauss_newton._compiled_step(method, state, target)
        full.append(float(info.fraction) == 1)
        expected = before / 3 if full[-1] else before * 4
        assert float(state.damping) == pytest.approx(float(expected), rel=1e-14)
    assert full[0] is False
    assert full[-1] is True
    state, info = one_step(method, target, jnp.ones(1))
    assert int(state.result) == Result.NO_DECREASE
    assert float(state.damping) == pytest.approx(4e-3)
    fixed, _ = one_step(GaussNewton(damping=1e-3), target, jnp.ones(1))
    assert float(fixed.damping) == pytest.approx(1e-3, rel=1e-14)
    # an adaptive run goes on after a refused step
    _, infos = method.run(method.init(jnp.ones(1)), target, 3)
    assert len(infos) == 3


@pytest.mark.parametrize(
    "options",
    [{}, {"damping": 1e-3, "adaptive": True}, {"solver": "iterative"}],
    ids=str,
)
def test_a_start_outside_the_domain_is_refused(options):
    """Also where the step of the finite residuals would lead into it, as the products see it."""
    target = Logarithm(jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.zeros(2))
    method = GaussNewton(**options)
    start = method.init(jnp.array([-0.1, 0.6]))
    with pytest.raises(FlowError, match="NaN or infinite") as caught:
        method.run(start, target, 5)
    assert (caught.value.result, caught.value.step) == (Result.NON_FINITE, 0)
    state, infos = method.run(start, target, 5, throw=False)
    assert int(state.result) == Result.NON_FINITE
    assert np.array_equal(state.parameters, start.parameters)
    assert len(infos) == 1


def test_a_run_ends_at_the_minimum():
    # r = (theta, 1): the loss cannot fall below 1
    target = Affine(jnp.array([[1.0], [0.0]]), jnp.array([0.0, -1.0]))
    method = GaussNewton()
    state, infos = method.run(method.init(jnp.array([4.0])), target, 9)
    assert np.array_equal(state.parameters, [0])
    assert [float(info.loss) for info in infos] == [1, 1]
    assert (int(state.result), int(state.steps)) == (Result.NO_DECREASE, 1)
    assert float(infos[1].fraction) == 0


def test_a_run_ends_once_steps_gain_too_little():
    target = Logarithm(jnp.eye(1), jnp.zeros(1))
    method = GaussNewton()
    # from 10 a quarter of a step: the loss falls to 0.40 of itself, then faster
    for tolerance_, steps in ((0.7, 1), (0.5, 12)):
        _, infos = method.run(method.init(jnp.array([10.0])), target, 12, tolerance=tolerance_)
        assert (len(infos) == 1) == (steps == 1)
        assert float(infos[0].loss) / float(infos[0].loss_before) == pytest.approx(0.395, abs=0.01)


def test_another_minibatch_every_step(rng):
    """Two equations at a time: the error loses its part along them, compiled once."""
    A, solution = rng.normal(size=(20, 5)), rng.normal(size=5)
    method = GaussNewton()
    step = jax.jit(method.step)
    state, error = method.init(jnp.zeros(5)), -solution
    for rows in np.arange(20).reshape(10, 2):
        part = A[rows]
        state, info = step(state, Affine(jnp.asarray(part), jnp.asarray(part @ solution)))
        error = error - np.linalg.pinv(part) @ part @ error
        np.testing.assert_allclose(state.parameters, solution + error, atol=1e-10)
        assert float(info.loss) < 1e-20
    assert np.linalg.norm(error) < 0.3 * np.linalg.norm(solution)
    assert step._cache_size() == 1


def test_parameters_may_be_any_tree(rng):
    target = problem(rng, 9, 4)

    @register_dataclass
    @dataclasses.dataclass(frozen=True, eq=False)
    class Tree(Affine):
        def residuals(self, tree):
            flat = jnp.concatenate([tree["a"], tree["b"][0].ravel()])
            return self.matrix @ flat - self.target

    start = {"a": jnp.zeros(2), "b": [jnp.zeros((2, 1))]}
    state, _ = one_step(GaussNewton(), Tree(target.matrix, target.target), start)
    flat, _ = one_step(GaussNewton(), target, jnp.zeros(4))
    assert state.parameters["b"][0].shape == (2, 1)
    np.testing.assert_allclose(state.parameters["a"], flat.parameters[:2], rtol=1e-12)
    np.testing.assert_allclose(state.parameters["b"][0][:, 0], flat.parameters[2:], rtol=1e-12)


def test_a_jacobian_of_the_problem_is_used_where_one_is_formed(rng, monkeypatch):
    @register_dataclass
    @dataclasses.dataclass(frozen=True, eq=False)
    class Doubled(Affine):
        def jacobian(self, theta):
            return self.residuals(theta), 2 * self.matrix

    target = problem(rng, 5, 5, kind=Doubled)
    state, info = one_step(GaussNewton(), target, jnp.zeros(5))
    assert float(info.loss) == pytest.approx(float(info.loss_before) / 4)
    iterative, info = one_step(GaussNewton(solver="iterative"), target, jnp.zeros(5))
    assert float(info.loss) < 1e-6 * float(info.loss_before)
    # too big a Jacobian is not formed
    monkeypatch.setattr(gauss_newton, "_DENSE_ENTRIES", 24)
    assert np.array_equal(
        jax.jit(GaussNewton().step)(state._replace(parameters=jnp.zeros(5)), target)[0].parameters,
        iterative.parameters,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"adaptive": True, "damping": 0.1},
        {"damping": 0.1, "factor": "cholesky", "solver": "samples"},
        {"rank_tolerance": 1e-4},
        {"solver": "iterative"},
    ],
    ids=str,
)
def test_single_precision_stays(rng, options):
    double = problem(rng, 6, 6, kind=Bent)
    single = jax.tree.map(lambda x: x.astype(jnp.float32), double)
    method = GaussNewton(**options)
    state, info = one_step(method, single, jnp.zeros(6, jnp.float32))
    for x in (state.parameters, state.damping, state.loss, *info[:4]):
        assert x.dtype == jnp.float32
    before, after = (jax.tree.structure(x) for x in (method.init(jnp.zeros(6)), state))
    assert before == after
    expected = one_step(method, double, jnp.zeros(6))[0].parameters
    np.testing.assert_allclose(state.parameters, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"solver": "rows"}, "solver"),
        ({"factor": "svd"}, "factor"),
        ({"damping": -1.0}, "damping"),
        ({"damping": float("nan")}, "damping"),
        ({"damping": float("inf")}, "damping"),
        ({"adaptive": True}, "damping"),
        ({"rank_tolerance": 0.0}, "rank_tolerance"),
        ({"rank_tolerance": 1.0}, "rank_tolerance"),
        ({"rank_tolerance": 1e-3, "factor": "cholesky"}, "rank_tolerance"),
        ({"iterations": 0}, "iterations"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"halvings": -1}, "halvings"),
    ],
    ids=str,
)
def test_bad_options_are_named(options, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        GaussNewton(**options)


@pytest.mark.usefixtures("as_user")
def test_bad_input_is_named(rng):
    for bad in ({}, jnp.zeros(3, int), jnp.zeros(3, complex), {"a": jnp.zeros(3), "b": 1}):
        with pytest.raises(ValueError, match="parameters: expected a tree of real"):
            GaussNewton().init(bad)
    method = GaussNewton()
    with pytest.raises(ValueError, match="steps: expected an integer"):
        method.run(method.init(jnp.zeros(4)), problem(rng, 9, 4), 0)
    # the bigger side of J is singular without damping
    for solver, shape in (("parameters", (4, 9)), ("samples", (9, 4))):
        for factor in gauss_newton.FACTORS:
            method = GaussNewton(solver=solver, factor=factor)
            with pytest.raises(ValueError, match=f"solver: '{solver}' meets a singular"):
                method.step(method.init(jnp.zeros(shape[1])), problem(rng, *shape))
