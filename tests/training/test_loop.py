"""The training loop against plain loops, in pieces, with several seeds, and when it fails."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow.training import Checkpoints, Training

from ..tolerances import tolerance
from .problems import (
    ADAM,
    BATCH,
    KEY,
    OPTIMISERS,
    PER_EPOCH,
    ROWS,
    batches,
    close,
    counting,
    least_squares,
    plain,
    points,
    same,
    start,
    training,
    whole,
    with_rows,
)


def python_loop(optimiser, rows_of_batches, parameters, data):
    """Step by step, with the optimiser alone."""
    optimiser = optax.with_extra_args_support(optimiser)

    @jax.jit
    def step(parameters, memory, batch):
        (value, _), slope = jax.value_and_grad(least_squares, has_aux=True)(parameters, batch)
        updates, memory = optimiser.update(slope, memory, parameters, value=value)
        return optax.apply_updates(parameters, updates), memory, value

    memory, losses = optimiser.init(parameters), []
    data = {name: np.asarray(x) for name, x in data.items()}
    for rows in rows_of_batches.reshape(-1, BATCH):
        batch = {name: x[rows] for name, x in data.items()}
        parameters, memory, value = step(parameters, memory, batch)
        losses.append(float(value))
    return parameters, memory, np.array(losses)


# --- batches


def test_batches_of_an_epoch_are_disjoint():
    for epoch in batches(KEY, 6):
        assert epoch.shape == (PER_EPOCH, BATCH)
        assert len(np.unique(epoch)) == PER_EPOCH * BATCH
        assert set(epoch.ravel()) <= set(range(ROWS))


def test_every_epoch_has_another_order():
    orders = {tuple(epoch.ravel()) for epoch in batches(KEY, 12)}
    assert len(orders) == 12


def test_rows_left_out_differ_and_every_row_is_seen():
    found = batches(KEY, 12)
    left_out = {frozenset(set(range(ROWS)) - set(epoch.ravel())) for epoch in found}
    assert all(len(rows) == ROWS % BATCH for rows in left_out)
    assert len(left_out) > 8
    assert set(found.ravel()) == set(range(ROWS))


def test_batches_depend_on_the_key_alone():
    np.testing.assert_array_equal(batches(KEY, 3), batches(jax.random.key(4), 3))
    assert not np.array_equal(batches(KEY, 3), batches(jax.random.key(5), 3))


def test_a_batch_may_be_all_rows():
    assert sorted(batches(KEY, 1, rows=7, batch=7).ravel()) == list(range(7))


# --- against plain loops


def test_an_epoch_of_gradient_descent_equals_numpy():
    data = {name: np.asarray(x) for name, x in points().items()}
    w, b = np.asarray(start()["w"]), 0.0
    losses = []
    for rows in batches(KEY, 1)[0]:
        x, y = data["x"][rows], data["y"][rows]
        residual = x @ w + b - y
        losses.append(np.mean(residual**2) + 0.01 * np.sum(w**2))
        w, b = (
            w - 0.1 * (2 * residual @ x / BATCH + 0.02 * w),
            b - 0.1 * 2 * np.mean(residual),
        )
    loop = training("sgd")
    state, history = loop.run(loop.init(KEY, start()), points(), 1)
    bound = tolerance("rounding") * 10
    np.testing.assert_allclose(state.parameters["w"], w, rtol=bound)
    np.testing.assert_allclose(state.parameters["b"], b, rtol=bound)
    np.testing.assert_allclose(history[0]["loss"], np.mean(losses), rtol=bound)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_epochs_equal_a_python_loop(name):
    loop = training(name)
    state, history = loop.run(loop.init(KEY, start()), points(), 3)
    parameters, memory, losses = python_loop(OPTIMISERS[name](), batches(KEY, 3), start(), points())
    close(state.parameters, parameters)
    close(state.optimiser, memory)
    means = losses.reshape(3, PER_EPOCH).mean(axis=1)
    np.testing.assert_allclose([row["loss"] for row in history], means, rtol=tolerance("algebra"))
    assert int(state.step) == 3 * PER_EPOCH


def test_the_plateau_sees_the_loss():
    loop = training("plateau")
    state, _ = loop.run(loop.init(KEY, start()), points(), 4)
    assert float(state.optimiser[1].scale) < 1


def test_infos_are_those_of_the_batch_before_the_step():
    loop = Training(with_rows, optax.adam(0.05), BATCH)
    state = loop.init(KEY, start())
    _, infos = loop.advance(state, points(), PER_EPOCH)
    for place in range(PER_EPOCH):
        batch = {name: x[infos.terms["row"][place]] for name, x in points().items()}
        value, terms = least_squares(state.parameters, batch)
        slope = jax.grad(lambda p, b: least_squares(p, b)[0])(state.parameters, batch)
        norm = np.sqrt(sum(np.sum(np.square(x)) for x in plain(slope)))
        state, _ = loop.step(state, batch)
        for found, wanted in [
            (infos.loss, value),
            (infos.terms["fit"], terms["fit"]),
            (infos.terms["ridge"], terms["ridge"]),
            (infos.gradient_norm, norm),
        ]:
            np.testing.assert_allclose(found[place], wanted, rtol=tolerance("algebra"))


def test_terms_of_a_row_add_up_to_its_loss():
    loop = training()
    _, history = loop.run(loop.init(KEY, start()), points(), 3)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    for row in history:
        assert set(row["terms"]) == {"fit", "ridge"}
        np.testing.assert_allclose(
            sum(row["terms"].values()), row["loss"], rtol=tolerance("rounding")
        )


def test_init_changes_nothing_and_starts_at_zero():
    state = training().init(KEY, start())
    assert same(state.parameters, start())
    assert same(state.best_parameters, start())
    assert (int(state.step), int(state.stale), bool(state.failed)) == (0, 0, False)
    assert np.isinf(state.best)


# --- in pieces


@given(st.lists(st.integers(1, PER_EPOCH), min_size=1, max_size=3 * PER_EPOCH))
def test_any_split_into_calls_gives_the_same_state(sizes):
    state, place = ADAM.init(KEY, start()), 0
    sizes = [*sizes, *[1] * 3 * PER_EPOCH]
    while place < 3 * PER_EPOCH:
        steps = min(sizes.pop(0), PER_EPOCH - place % PER_EPOCH)
        state, _ = ADAM.advance(state, points(), steps)
        place += steps
    assert same(state, whole()[0])


@given(st.integers(1, 2 * PER_EPOCH))
def test_steps_a_call_change_no_number_of_the_state(steps):
    state, _ = ADAM.run(ADAM.init(KEY, start()), points(), 3, steps_a_call=steps)
    assert same(state, whole()[0])


@given(st.integers(1, 2 * PER_EPOCH))
def test_steps_a_call_change_no_number_of_the_history(steps):
    _, history = ADAM.run(ADAM.init(KEY, start()), points(), 3, steps_a_call=steps)
    assert history == whole()[1]


def test_calls_of_unequal_length_count_by_their_steps():
    _, history = ADAM.run(ADAM.init(KEY, start()), points(), 3, steps_a_call=3)
    bound = tolerance("rounding")
    for row, wanted in zip(history, whole()[1], strict=True):
        np.testing.assert_allclose(row["loss"], wanted["loss"], rtol=bound)
        np.testing.assert_allclose(row["terms"]["fit"], wanted["terms"]["fit"], rtol=bound)


def in_one_call_and_in_many(name):
    loop = training(name)
    at_once, _ = loop.run(loop.init(KEY, start()), points(), 2)
    pieces, _ = loop.run(loop.init(KEY, start()), points(), 2, steps_a_call=1)
    return at_once, pieces


@pytest.mark.parametrize("name", OPTIMISERS)
def test_one_step_a_call_gives_the_same_state_with_every_optimiser(name):
    at_once, pieces = in_one_call_and_in_many(name)
    assert jax.tree.structure(pieces) == jax.tree.structure(at_once)
    close(pieces, at_once)


@pytest.mark.heavy  # the quick tests' compiler rounds powers in two programs in two ways
@pytest.mark.parametrize("name", OPTIMISERS)
def test_one_step_a_call_gives_the_same_state_to_the_bit(name):
    assert same(*in_one_call_and_in_many(name))


# --- several seeds


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("adam", "float32"),
        ("adam", "float64"),
        ("schedule", "float64"),
        ("several_steps", "float64"),
        ("plateau", "float64"),
        ("noise", "float64"),
    ],
)
def test_several_seeds_equal_single_runs(name, dtype):
    loop, keys = training(name), jax.random.split(jax.random.key(1), 3)
    starts = jax.vmap(
        lambda k: jax.tree.map(lambda x: x + jax.random.normal(k, x.shape, x.dtype), start(dtype))
    )(keys)
    data = points(dtype=dtype)

    def validate(parameters):
        return {"loss": least_squares(parameters, data)[0]}

    state, history = loop.run(loop.init(keys, starts), data, 2, validate=validate)
    for seed, key in enumerate(keys):
        mine = jax.tree.map(lambda x, seed=seed: x[seed], starts)
        alone, rows = loop.run(loop.init(key, mine), data, 2, validate=validate)
        for part in ("parameters", "optimiser", "best_parameters", "best", "step", "stale", "key"):
            ours = jax.tree.map(lambda x, seed=seed: x[seed], getattr(state, part))
            close(ours, getattr(alone, part), "algebra", dtype)
        for ours, theirs in zip(history, rows, strict=True):
            bound = tolerance("algebra", dtype)
            np.testing.assert_allclose(ours["loss"][seed], theirs["loss"], rtol=bound)
            for term in ("fit", "ridge"):
                np.testing.assert_allclose(
                    ours["terms"][term][seed], theirs["terms"][term], rtol=bound
                )
            np.testing.assert_allclose(
                ours["validation"]["loss"][seed], theirs["validation"]["loss"], rtol=bound
            )


def test_seeds_see_batches_of_their_own():
    keys = jax.random.split(jax.random.key(1), 2)
    loop = Training(with_rows, optax.sgd(0.0), BATCH)
    starts = jax.tree.map(lambda x: jnp.stack([x, x]), start())
    _, info = loop.advance(loop.init(keys, starts), points(), PER_EPOCH)
    rows = np.asarray(info.terms["row"])
    assert info.loss.shape == (PER_EPOCH, 2)
    np.testing.assert_array_equal(rows[:, 0], batches(keys[0], 1)[0])
    np.testing.assert_array_equal(rows[:, 1], batches(keys[1], 1)[0])
    assert not np.array_equal(rows[:, 0], rows[:, 1])


# --- compilation


def counted():
    """A training that counts how often its loss is traced."""
    traces = []

    def loss(parameters, batch):
        traces.append(1)
        return least_squares(parameters, batch)

    return Training(loss, optax.adam(0.05), BATCH), traces


@pytest.mark.parametrize("steps_a_call", [None, 2, 3])
def test_epochs_after_the_first_compile_nothing(steps_a_call):
    loop, traces = counted()
    options = {"steps_a_call": steps_a_call}
    loop.run(loop.init(KEY, start()), points(), 1, **options)
    once = len(traces)
    assert once > 0
    loop.run(loop.init(jax.random.key(8), start()), points(), 5, **options)
    assert len(traces) == once


def test_a_resumed_run_compiles_nothing_new(tmp_path):
    loop, traces = counted()
    found = []
    for epochs in (1, 3):
        checkpoints = Checkpoints(tmp_path / "run")
        loop.run(loop.init(KEY, start()), points(), epochs, checkpoints=checkpoints)
        checkpoints.close()
        found.append(len(traces))
    assert found[0] == found[1]


def test_the_validation_is_compiled_once():
    loop, parameters, data = counting()
    traces = []

    def validate(p):
        traces.append(1)
        return {"loss": p["epochs"]}

    for epochs in (2, 5):
        loop.run(loop.init(KEY, parameters), data, epochs, validate=validate)
    assert len(traces) == 1


# --- types and networks


@pytest.mark.parametrize("name", ["momentum", "adam", "schedule", "several_steps", "plateau"])
def test_float32_stays_float32(name, tmp_path):
    loop, data = training(name), points(dtype="float32")
    begin = loop.init(KEY, start("float32"))
    checkpoints = Checkpoints(tmp_path / "run")
    state, _ = loop.run(
        begin,
        data,
        2,
        validate=lambda p: {"loss": least_squares(p, data)[0]},
        checkpoints=checkpoints,
    )
    restored, _, _ = checkpoints.restore(begin)
    checkpoints.close()
    _, info = loop.advance(state, data, 2)
    kinds = {x.dtype for x in plain((state.parameters, state.best_parameters, info))}
    assert kinds == {np.dtype("float32")}
    for found in (state, restored):
        assert [x.dtype for x in plain(found)] == [x.dtype for x in plain(begin)]


def nnx_network(dtype):
    nnx = pytest.importorskip("flax.nnx")

    class Network(nnx.Module):
        def __init__(self, rngs):
            options = {"rngs": rngs, "dtype": dtype, "param_dtype": dtype}
            self.first = nnx.Linear(3, 8, **options)
            self.last = nnx.Linear(8, 1, **options)

        def __call__(self, x):
            return self.last(jnp.tanh(self.first(x)))[:, 0]

    graph, parameters = nnx.split(Network(nnx.Rngs(0)))

    def loss(parameters, batch):
        value = jnp.mean((nnx.merge(graph, parameters)(batch["x"]) - batch["y"]) ** 2)
        return value, {"fit": value}

    return loss, parameters


def test_an_nnx_network_is_trained_and_resumed(tmp_path, dtype):
    loss, parameters = nnx_network(dtype)
    loop, data = Training(loss, optax.adam(0.03), BATCH), points(dtype=dtype)
    whole, history = loop.run(loop.init(KEY, parameters), data, 12, steps_a_call=3)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert {x.dtype for x in plain(whole.parameters)} == {np.dtype(dtype)}
    for epochs in (5, 12):
        checkpoints = Checkpoints(tmp_path / "run")
        found = loop.run(
            loop.init(KEY, parameters), data, epochs, checkpoints=checkpoints, steps_a_call=3
        )
        checkpoints.close()
    assert same(found[0], whole)


def test_the_loss_of_a_fit_comes_down_to_the_noise():
    loop = training("adam")
    state, history = loop.run(loop.init(KEY, start()), points(), 150)
    assert history[-1]["terms"]["fit"] < 0.02
    np.testing.assert_allclose(state.parameters["w"], [1, -2, 0.5], atol=0.1)
