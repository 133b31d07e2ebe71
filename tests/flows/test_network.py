"""Gradient descent of a network, seen in its parameters and in the functions it writes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree

from metricflow import ansatz, energies, geometry, kernels
from metricflow.diagnostics import kappa_estimate
from metricflow.flows import (
    FlowError,
    KernelFlow,
    NetworkFlow,
    Result,
    metric_velocity,
    parameter_velocity,
)
from metricflow.kernels import metric_ntk
from metricflow.optim import lne_gradient
from tests.tolerances import tolerance

NETWORK = ansatz.Mlp((4,), "tanh", 2, "standard", bias_std=0.3)
Partial = jax.tree_util.Partial


def drawn(network, inputs=3, seed=0, dtype="float64"):
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(inputs, dtype))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype), like)


def points(count, seed=1, dtype="float64", width=3):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, width)), dtype)


X, Y = points(5), points(4, 2)
TARGET = points(5, 3, width=2)
WEIGHT = jnp.exp(points(5, 4, width=1))[:, 0]


def energy(values):
    """Of a weighted batch, neither quadratic nor the same for both components."""
    gap = values - TARGET.astype(values.dtype)
    return WEIGHT.astype(values.dtype) @ (gap[:, 0] ** 2 / 2 + jnp.cosh(gap[:, 1]))


@jax.jit
def values(params, x):
    return jax.vmap(NETWORK.apply, (None, 0))(params, x)


slope_of = jax.jit(jax.grad(energy))


def close(found, expected, dtype="float64", name="algebra"):
    found, expected = np.asarray(found), np.asarray(expected)
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance(name, dtype))


def flat(tree):
    return ravel_pytree(tree)[0]


def lne(params, gradient):
    rule = lne_gradient(q=0.5)
    return rule.update(gradient, rule.init(params), params)[0]


def multiplied(params, gradient):
    """By a fixed symmetric positive matrix."""
    vector, unravel = ravel_pytree(gradient)
    root = jnp.asarray(np.random.default_rng(9).normal(size=(len(vector), len(vector))))
    return unravel(root @ (root.T @ vector) / len(vector) + 0.1 * vector)


PRECONDITIONERS = pytest.mark.parametrize(
    "preconditioner", [None, lne], ids=lambda f: getattr(f, "__name__", "none")
)

# --- the flow in two spaces ------------------------------------------------------------------


@pytest.mark.equation("MF 2.1", "MF 2.2", "MF 2.5", "MF 2.8", "RF 4")
@PRECONDITIONERS
def test_a_step_of_the_weights_is_a_step_of_the_metric(preconditioner):
    """theta - dt G^-1 dE writes g - dt J G^-1 J^T dE, up to an error of order dt^2."""
    params = drawn(NETWORK)
    at = None if preconditioner is None else Partial(preconditioner, params)

    @jax.jit
    def velocities(theta):
        slope = jax.grad(energy)(values(theta, X))
        options = {"preconditioner": at, "chunk": 3}
        return (
            parameter_velocity(NETWORK, theta, X, slope, **options),
            metric_velocity(NETWORK, theta, Y, X, slope, **options),
            jax.grad(lambda t: energy(values(t, X)))(theta),
        )

    slow, fast, gradient = velocities(params)
    expected = gradient if preconditioner is None else jax.jit(preconditioner)(params, gradient)
    close(flat(slow), -flat(expected))
    start = values(params, Y)
    steps = np.array([1e-2, 1e-3, 1e-4]) / float(jnp.linalg.norm(flat(slow)))
    errors = []
    for dt in steps:
        moved = values(jax.tree.map(lambda p, v, dt=dt: p + dt * v, params, slow), Y)
        errors.append(np.linalg.norm(moved - start - dt * fast))
    order = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(order - 2) < 0.1


@pytest.mark.equation("MF 2.6", "MF 2.8", "MF 2.5")
def test_the_velocity_of_the_metric_is_a_sum_over_the_kernel():
    params = drawn(NETWORK)
    slope = slope_of(values(params, X))
    theta = metric_ntk(NETWORK, params, Y, X)
    found = metric_velocity(NETWORK, params, Y, X, slope)
    close(found, -np.einsum("abij,bj->ai", theta, slope))
    # a weighted batch: weights of an integral are weights of the slopes
    weighted = metric_velocity(NETWORK, params, Y, X, WEIGHT[:, None] * slope)
    close(weighted, -np.einsum("abij,b,bj->ai", theta, WEIGHT, slope))


@pytest.mark.equation("MF 2.2", "RF 4")
@PRECONDITIONERS
def test_one_euler_step_and_what_it_reports(preconditioner):
    params = drawn(NETWORK)
    flow = NetworkFlow(NETWORK, energy, 0.01, preconditioner=preconditioner, chunk=3)
    start = flow.init(params)
    state, info, seen = flow.run(start, X, 1, observe=lambda s: s.parameters)
    slope = slope_of(values(params, X))
    gradient = kernels.pulled_back(NETWORK, params, X, slope)
    if preconditioner is not None:
        gradient = jax.jit(preconditioner)(params, gradient)
    close(flat(state.parameters), flat(params) - 0.01 * flat(gradient))
    np.testing.assert_array_equal(flat(seen), flat(state.parameters))
    close(info.energy, [energy(values(params, X))])
    close(info.slope_norm, [jnp.linalg.norm(slope)])
    close(info.speed, [jnp.linalg.norm(flat(gradient))])
    assert float(state.time) == 0.01
    assert int(state.steps) == 1
    assert int(state.result) == Result.SUCCESSFUL


@pytest.mark.equation("MF 2.8")
def test_energy_falls_at_the_rate_of_the_kernel():
    """dE/dt = -dE . Theta dE along small steps of rk4."""
    params = drawn(NETWORK)
    flow = NetworkFlow(NETWORK, energy, 1e-4, "rk4", multiplied)
    state, info, _ = flow.run(flow.init(params), X, 40)
    assert np.all(np.diff(np.asarray(info.energy)) < 0)
    assert int(state.steps) == 40
    assert float(state.time) == pytest.approx(0.004)
    slope = slope_of(values(params, X))
    at = Partial(multiplied, params)
    rate = float(jnp.vdot(slope, metric_velocity(NETWORK, params, X, X, slope, preconditioner=at)))
    e = np.asarray(info.energy)
    # the derivative at the start from the first three energies
    assert (-1.5 * e[0] + 2 * e[1] - 0.5 * e[2]) / 1e-4 == pytest.approx(rate, rel=2e-3)


FEATURES = points(5, 6, width=3 * 4).reshape(5, 3, 4) / 3


def linear(params, row):
    """Values that are linear in the parameters: a fixed matrix at every point."""
    return row @ params["weights"]


def quadratic(values):
    return jnp.sum((values - points(5, 7)) ** 2) / 2


@pytest.mark.equation("MF 2.12")
@pytest.mark.parametrize(("scheme", "expected"), [("euler", 1), ("rk4", 4)])
def test_orders_of_the_schemes(scheme, expected):
    """Of a linear model with a quadratic energy, whose flow is a matrix exponential."""
    start = {"weights": points(1, 8, width=4)[0]}
    matrix = np.asarray(FEATURES).reshape(15, 4)
    target = np.asarray(points(5, 7)).ravel()
    end, *_ = np.linalg.lstsq(matrix, target)
    decay = scipy.linalg.expm(-2.0 * matrix.T @ matrix)
    exact = end + decay @ (np.asarray(start["weights"]) - end)
    errors = []
    for steps in (20, 40):
        flow = NetworkFlow(linear, quadratic, 2.0 / steps, scheme)
        state, _, _ = flow.run(flow.init(start), FEATURES, steps)
        assert float(state.time) == pytest.approx(2.0)
        errors.append(np.linalg.norm(state.parameters["weights"] - exact))
    assert abs(np.log2(errors[0] / errors[1]) - expected) < 0.2
    assert errors[1] < 0.05


# --- frozen kernels --------------------------------------------------------------------------


@pytest.mark.equation("MF 2.10", "MF 2.11", "MF 2.12")
def test_a_linearised_network_is_the_flow_of_a_frozen_kernel():
    """values - dt Theta dE, at the batch and elsewhere, with Theta of the start throughout."""
    origin = drawn(NETWORK)
    straight = ansatz.linearised(NETWORK, origin)
    flow = NetworkFlow(straight, energy, 0.002)
    assert Y.shape != X.shape

    def watch(state):
        return flow.values(state.parameters, X), flow.values(state.parameters, Y)

    _, info, seen = flow.run(flow.init(origin), X, 15, observe=watch)
    own, other = (np.asarray(metric_ntk(NETWORK, origin, z, X)) for z in (X, Y))
    here, there = (np.asarray(values(origin, z)) for z in (X, Y))
    for step in range(15):
        close(info.energy[step], energy(here))
        slope = slope_of(here)
        here = here - 0.002 * np.einsum("abij,bj->ai", own, slope)
        there = there - 0.002 * np.einsum("abij,bj->ai", other, slope)
        close(seen[0][step], here)
        close(seen[1][step], there)
    assert float(info.energy[-1]) < 0.9 * float(info.energy[0])


@pytest.mark.equation("MF 2.11", "MF 2.12")
def test_a_kernel_flow_with_the_frozen_kernel_is_the_same():
    """Of a model that starts at Fubini-Study: its output weights are zero, all others random."""
    cubic = geometry.fermat(1)
    train = geometry.sample_points_in_chart(jax.random.key(1), cubic, 6)
    network = ansatz.component_mlp(1, (4,), "tanh", bias_std=0.5)
    model = ansatz.ComponentModel(cubic, "multiplicative", network)
    origin = drawn(network, 6)
    last = origin["params"]["Dense_1"]
    origin["params"]["Dense_1"] = jax.tree.map(jnp.zeros_like, last)
    g = geometry.fubini_study_metric(train)
    data = model.inputs(train.z, g)
    chart = tuple(int(i) for i in train.chart[0])
    frozen = kernels.FrozenNTK(model, origin, chart)
    flow = KernelFlow(frozen, step_size=0.05, gradient="euclidean", measure="mean")
    expected, _, _ = flow.run(flow.init(train), 10)
    loss = Partial(_energy, train.omega2, jnp.full(6, 1 / 6), jnp.asarray(kappa_estimate(g, train)))
    network_flow = NetworkFlow(ansatz.linearised(model, origin), loss, 0.05)
    state, info, _ = network_flow.run(network_flow.init(origin), data, 10)
    found = geometry.hermitian_unpack(network_flow.values(state.parameters, data))
    close(found, expected.g)
    assert float(jnp.max(jnp.abs(found - g))) > 1e-2
    assert info.energy[-1] < info.energy[0]


def _energy(omega2, weight, kappa, components):
    return energies.sigma_energy(components, omega2, weight, kappa)


@pytest.mark.equation("MF 2.9", "MF 2.11")
def test_wide_networks_move_their_kernel_less():
    """In the NTK parameterisation: the change in training falls with the width."""
    changes = []
    for width in (16, 256):
        network = ansatz.Mlp((width,), "tanh", 2, "ntk", bias_std=0.5)
        params = drawn(network, seed=width)
        flow = NetworkFlow(network, lambda v: jnp.mean((v - TARGET) ** 2), 0.1)
        state, info, _ = flow.run(flow.init(params), X, 100)
        assert float(info.energy[-1]) < 0.5 * float(info.energy[0])
        before, after = (metric_ntk(network, p, X) for p in (params, state.parameters))
        changes.append(float(jnp.linalg.norm(after - before) / jnp.linalg.norm(before)))
    assert changes[0] > 3 * changes[1]
    assert changes[1] > 0


# --- running ---------------------------------------------------------------------------------


def test_a_run_in_two_parts_is_the_run_in_one():
    flow = NetworkFlow(NETWORK, energy, 0.005, "rk4")
    start = flow.init(drawn(NETWORK))
    whole, info, _ = flow.run(start, X, 6)
    half, first, _ = flow.run(start, X, 3)
    rest, second, _ = flow.run(half, X, 3)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(rest), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b, c in zip(info, first, second, strict=True):
        np.testing.assert_array_equal(a, jnp.concatenate([b, c]))


def test_float32_stays_float32():
    flow = NetworkFlow(NETWORK, energy, jnp.asarray(1e-3))
    narrow, wide = drawn(NETWORK, dtype="float32"), drawn(NETWORK)
    state, info, _ = flow.run(flow.init(narrow), X.astype("float32"), 3)
    kinds = {leaf.dtype for leaf in jax.tree.leaves((state.parameters, state.time, info))}
    assert kinds == {np.dtype("float32")}
    expected, *_ = flow.run(flow.init(wide), X, 3)
    close(flat(state.parameters), flat(expected.parameters), "float32")


@pytest.mark.parametrize("scheme", ["euler", "rk4"])
def test_a_flow_that_leaves_the_numbers_stops_where_it_was(scheme):
    flow = NetworkFlow(NETWORK, energy, 1e200, scheme)
    start = flow.init(drawn(NETWORK))
    state, info, _ = flow.run(start, X, 4, throw=False)
    assert int(state.result) == Result.NON_FINITE
    steps = int(state.steps)
    assert steps < 4
    assert np.all(np.isfinite(flat(state.parameters)))
    assert float(state.time) == pytest.approx(steps * 1e200)
    np.testing.assert_array_equal(info.energy[steps:], info.energy[steps])
    # a state that has failed no longer moves, whatever is asked
    gentle = NetworkFlow(NETWORK, energy, 1e-3, scheme)
    again, _, _ = gentle.run(state, X, 4, throw=False)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(FlowError, match=rf"after {steps} good steps; use a smaller step") as caught:
        flow.run(start, X, 4)
    assert caught.value.result == Result.NON_FINITE


def test_complex_parameters_flow_like_pairs_of_real_ones():
    def apply(params, x):
        return (jnp.sin(x @ params["w"]) * params["c"]).real

    def apart(params, x):
        return apply({k: params[k + "r"] + 1j * params[k + "i"] for k in "wc"}, x)

    parts = {"wr": points(3, 4, width=2), "wi": points(3, 5, width=2)}
    parts |= {"cr": points(1, 6, width=2)[0], "ci": points(1, 7, width=2)[0]}
    whole = {k: parts[k + "r"] + 1j * parts[k + "i"] for k in "wc"}
    ends = []
    for function, params in ((apply, whole), (apart, parts)):
        flow = NetworkFlow(function, energy, 0.002)
        state, info, _ = flow.run(flow.init(params), X, 10)
        assert state.time.dtype == "float64"
        ends.append((state.parameters, info))
    for k in "wc":
        close(ends[0][0][k], ends[1][0][k + "r"] + 1j * ends[1][0][k + "i"])
    for a, b in zip(ends[0][1], ends[1][1], strict=True):
        close(a, b)
    assert float(ends[0][1].energy[-1]) < float(ends[0][1].energy[0])


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "heun"}, r"scheme: expected one of \('euler', 'rk4'\), got 'heun'"),
        ({"step_size": 0.0}, "step_size: expected a finite number above 0"),
        ({"step_size": -1.0}, "step_size"),
        ({"step_size": float("inf")}, "step_size"),
        ({"chunk": 0}, "chunk: expected an integer of at least 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NetworkFlow(NETWORK, energy, **options)


@pytest.mark.usefixtures("as_user")
def test_what_cannot_flow_is_refused():
    flow = NetworkFlow(NETWORK, energy)
    start = flow.init(drawn(NETWORK))
    with pytest.raises(ValueError, match="params: expected at least one array"):
        flow.init({})
    with pytest.raises(ValueError, match=r"params\['a'\]: expected real or complex.*int64"):
        flow.init({"a": np.arange(3)})
    with pytest.raises(ValueError, match=r"params\['a'\]: 1 of 2 entries are NaN"):
        flow.init({"a": np.array([1.0, np.nan])})
    with pytest.raises(ValueError, match="steps: expected an integer of at least 1"):
        flow.run(start, X, 0)
    with pytest.raises(ValueError, match="batch: expected at least one point"):
        flow.run(start, X[:0], 1)
    with pytest.raises(ValueError, match="batch: 15 of 15 entries are NaN"):
        flow.run(start, X * np.nan, 1)
    for velocity in (
        functools.partial(parameter_velocity, NETWORK, start.parameters, X),
        functools.partial(metric_velocity, NETWORK, start.parameters, Y, X),
    ):
        with pytest.raises(ValueError, match=r"v: expected real numbers of shape \(5, 2\)"):
            velocity(jnp.ones((5, 3)))
