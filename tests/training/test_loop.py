"""The training loop against plain loops, in pieces, with several seeds, and when it fails."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow.training import Checkpoints, Training, TrainingError

from ..tolerances import tolerance
from .problems import (
    BATCH,
    OPTIMISERS,
    PER_EPOCH,
    ROWS,
    batches,
    counting,
    fingerprint,
    least_squares,
    plain,
    points,
    same,
    start,
    training,
    with_rows,
)

KEY = jax.random.key(4)


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


def close(one, other, name="algebra", dtype="float64"):
    for a, b in zip(plain(one), plain(other), strict=True):
        bound = tolerance(name, dtype)
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound)


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

ADAM = training()


@functools.cache
def whole():
    """Three epochs, uninterrupted."""
    return ADAM.run(ADAM.init(KEY, start()), points(), 3)


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


@pytest.mark.parametrize("name", OPTIMISERS)
def test_one_step_a_call_gives_the_same_state_with_every_optimiser(name):
    loop = training(name)
    at_once, _ = loop.run(loop.init(KEY, start()), points(), 2)
    pieces, _ = loop.run(loop.init(KEY, start()), points(), 2, steps_a_call=1)
    assert same(pieces, at_once)


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


# --- validation, patience, callback


def validation(values):
    """Value number e after epoch e, if the parameter counts the epochs."""
    table = jnp.array(values)
    return lambda p: {"loss": table[jnp.round(p["epochs"]).astype(int) - 1], "more": p["epochs"]}


VALUES = [5.0, 3.0, 4.0, 2.0, 6.0, 2.0, 8.0, 1.0, 9.0]


def test_best_parameters_are_those_of_the_best_epoch():
    loop, parameters, data = counting()
    state, history = loop.run(loop.init(KEY, parameters), data, 7, validate=validation(VALUES))
    assert [row["validation"]["loss"] for row in history] == VALUES[:7]
    assert float(state.best) == 2.0
    assert round(float(state.best_parameters["epochs"])) == 4
    assert round(float(state.parameters["epochs"])) == 7
    assert int(state.stale) == 3


def test_all_numbers_of_the_validation_are_in_the_history():
    loop, parameters, data = counting()
    _, history = loop.run(loop.init(KEY, parameters), data, 2, validate=validation(VALUES))
    np.testing.assert_allclose([row["validation"]["more"] for row in history], [1, 2])


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (3, 7), (4, 9)])
def test_patience_stops_after_so_many_epochs_without_a_better_one(patience, epochs):
    loop, parameters, data = counting()
    state, history = loop.run(
        loop.init(KEY, parameters), data, 9, validate=validation(VALUES), patience=patience
    )
    assert len(history) == epochs
    assert int(state.step) == epochs * PER_EPOCH


@pytest.mark.parametrize("interrupted", range(1, 7))
def test_patience_counts_on_in_a_resumed_run(tmp_path, interrupted):
    loop, parameters, data = counting()
    options = {"validate": validation(VALUES), "patience": 3}
    whole = loop.run(loop.init(KEY, parameters), data, 9, **options)
    for epochs in (interrupted, 9, 9):
        checkpoints = Checkpoints(tmp_path / "run", seconds=0)
        found = loop.run(
            loop.init(KEY, parameters), data, epochs, checkpoints=checkpoints, **options
        )
        checkpoints.close()
    assert len(found[1]) == 7
    assert same(found[0], whole[0])
    assert found[1] == whole[1]


def test_more_patience_goes_on_from_where_it_stopped(tmp_path):
    loop, parameters, data = counting()
    check = validation(VALUES)
    whole = loop.run(loop.init(KEY, parameters), data, 9, validate=check, patience=4)
    for patience in (1, 4):
        checkpoints = Checkpoints(tmp_path / "run")
        found = loop.run(
            loop.init(KEY, parameters),
            data,
            9,
            validate=check,
            patience=patience,
            checkpoints=checkpoints,
        )
        checkpoints.close()
    assert same(found[0], whole[0])
    assert found[1] == whole[1]


def test_patience_waits_for_the_last_seed():
    loop, _, data = counting()
    keys = jax.random.split(KEY, 2)
    parameters = {"epochs": jnp.zeros(2), "seed": jnp.arange(2) * 1.0}

    def validate(p):
        epoch = jnp.round(p["epochs"])
        return {"loss": jnp.where(p["seed"] > 0, jnp.abs(epoch - 5), epoch)}

    state, history = loop.run(loop.init(keys, parameters), data, 20, validate=validate, patience=2)
    assert len(history) == 7
    np.testing.assert_allclose(np.round(state.best_parameters["epochs"]), [1, 5])
    np.testing.assert_array_equal(state.stale, [6, 2])


def test_a_validation_that_is_nan_is_never_the_best(tmp_path):
    loop, parameters, data = counting()
    values = [float("nan"), 3.0, float("nan"), 2.0, float("inf"), float("nan")]
    for _ in range(2):
        checkpoints = Checkpoints(tmp_path / "run")
        state, history = loop.run(
            loop.init(KEY, parameters),
            data,
            6,
            validate=validation(values),
            checkpoints=checkpoints,
        )
        checkpoints.close()
        np.testing.assert_array_equal([row["validation"]["loss"] for row in history], values)
        assert float(state.best) == 2.0
        assert round(float(state.best_parameters["epochs"])) == 4


def test_small_improvements_in_float64_count():
    loop, parameters, data = counting()
    values = list(1 - 1e-10 * np.arange(6))
    state, history = loop.run(
        loop.init(KEY, parameters), data, 6, validate=validation(values), patience=2
    )
    assert len(history) == 6
    assert float(state.best) == values[-1]


def test_without_validation_nothing_is_best():
    loop, parameters, data = counting()
    state, history = loop.run(loop.init(KEY, parameters), data, 2)
    assert "validation" not in history[0]
    assert same(state.best_parameters, parameters)
    assert np.isinf(state.best)


def test_the_callback_sees_every_row_and_state():
    loop, parameters, data = counting()
    seen = []

    def callback(row, state):
        seen.append((row, int(state.step), float(state.best)))

    _, history = loop.run(
        loop.init(KEY, parameters),
        data,
        4,
        validate=validation(VALUES),
        callback=callback,
        steps_a_call=3,
    )
    assert [row for row, _, _ in seen] == history
    assert [step for _, step, _ in seen] == [PER_EPOCH * (e + 1) for e in range(4)]
    assert [best for _, _, best in seen] == [5, 3, 3, 2]


def test_the_callback_can_stop_and_the_run_stays_stopped(tmp_path):
    loop, parameters, data = counting()
    calls = []

    def callback(row, state):
        calls.append(row["epoch"])
        return row["epoch"] == 3

    found = []
    for _ in range(3):
        checkpoints = Checkpoints(tmp_path / "run")
        found.append(
            loop.run(
                loop.init(KEY, parameters),
                data,
                8,
                callback=callback,
                checkpoints=checkpoints,
            )
        )
        checkpoints.close()
    assert calls == [1, 2, 3]
    for state, history in found:
        assert same(state, found[0][0])
        assert history == found[0][1]
        assert int(state.step) == 3 * PER_EPOCH


def test_a_run_that_has_enough_epochs_takes_no_step(tmp_path):
    loop = training()
    for epochs in (4, 2):
        checkpoints = Checkpoints(tmp_path / "run")
        state, history = loop.run(
            loop.init(KEY, start()), points(), epochs, checkpoints=checkpoints
        )
        checkpoints.close()
        assert len(history) == 4
        assert int(state.step) == 4 * PER_EPOCH


# --- what is not finite


def spoiled(row, value=np.nan):
    data = points()
    return {**data, "x": data["x"].at[row, 1].set(value)}


def first_use(row, epochs=9):
    """Steps before the one whose batch has this row."""
    return int(np.flatnonzero((batches(KEY, epochs) == row).any(axis=-1).ravel())[0])


def left_out():
    """A row that the first epoch leaves out."""
    return next(row for row in range(ROWS) if first_use(row) >= PER_EPOCH)


@pytest.mark.parametrize("steps_a_call", [None, 1, 3])
@pytest.mark.parametrize("row", [0, 1, 2, "left out"])
def test_a_bad_row_is_named_by_its_step_epoch_batch_and_term(row, steps_a_call):
    row = left_out() if row == "left out" else row
    good = first_use(row)
    wanted = (
        f"step {good + 1} .epoch {good // PER_EPOCH + 1}, "
        f"batch {good % PER_EPOCH + 1} of {PER_EPOCH}"
    )
    with pytest.raises(TrainingError, match=wanted) as caught:
        ADAM.run(ADAM.init(KEY, start()), spoiled(row), 9, steps_a_call=steps_a_call)
    assert caught.value.step == good
    assert "nan (fit)" in str(caught.value)
    assert "ridge" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, FloatingPointError)


def after(steps):
    """The state after so many steps on good data, a step a call."""
    state = ADAM.init(KEY, start())
    for _ in range(steps):
        state, _ = ADAM.advance(state, points(), 1)
    return state


@pytest.mark.parametrize("steps_a_call", [None, 1, 3])
@pytest.mark.parametrize("row", [0, 1, "left out"])
def test_the_state_is_exactly_that_before_the_step(row, steps_a_call):
    row = left_out() if row == "left out" else row
    options = {"steps_a_call": steps_a_call}
    state, history = ADAM.run(ADAM.init(KEY, start()), spoiled(row), 9, throw=False, **options)
    assert bool(state.failed)
    good = first_use(row)
    assert same(state._replace(failed=jnp.array(False)), after(good))
    assert len(history) == good // PER_EPOCH
    with pytest.raises(TrainingError) as caught:
        ADAM.run(ADAM.init(KEY, start()), spoiled(row), 9, **options)
    assert same(caught.value.state, state)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_state_of_every_optimiser_is_kept(name):
    loop, row = training(name), 3
    good = first_use(row)
    assert 0 < good < PER_EPOCH
    wanted = loop.init(KEY, start())
    for _ in range(good):
        wanted, _ = loop.advance(wanted, points(), 1)
    found, _ = loop.advance(loop.init(KEY, start()), spoiled(row), PER_EPOCH)
    assert same(found._replace(failed=jnp.array(False)), wanted)


def test_a_failed_state_stays_as_it_is():
    state, _ = ADAM.run(ADAM.init(KEY, start()), spoiled(3), 9, throw=False)
    again, history = ADAM.run(state, points(), 9, throw=False)
    assert same(again, state)
    assert history == []


def test_a_failed_state_goes_on_when_it_is_told_to():
    state, _ = ADAM.run(ADAM.init(KEY, start()), spoiled(3), 1, throw=False)
    assert first_use(3) < PER_EPOCH
    mended = state._replace(failed=jnp.array(False))
    rest = PER_EPOCH - int(state.step)
    found, _ = ADAM.advance(mended, points(), rest)
    assert same(found, after(PER_EPOCH))


def exploding(at, rate=0.1):
    return optax.scale_by_schedule(lambda n: jnp.where(n == at, jnp.inf, -rate))


@pytest.mark.parametrize("at", [0, 2, 5])
def test_an_infinite_update_of_a_finite_loss_is_caught(at):
    loop = Training(least_squares, exploding(at), BATCH)
    clean = training("sgd")
    with pytest.raises(TrainingError, match=f"an update is not finite in step {at + 1} ") as caught:
        loop.run(loop.init(KEY, start()), points(), 4)
    assert caught.value.step == at
    state = clean.init(KEY, start())
    for _ in range(at):
        state, _ = clean.advance(state, points(), 1)
    assert same(caught.value.state.parameters, state.parameters)


def test_a_bad_row_after_a_bad_update_is_not_blamed():
    late = next(row for row in range(ROWS) if first_use(row) == 3)
    loop = Training(least_squares, exploding(1), BATCH)
    with pytest.raises(TrainingError, match="an update is not finite in step 2 "):
        loop.run(loop.init(KEY, start()), spoiled(late), 1)


def test_a_gradient_that_is_nan_under_a_finite_loss_is_caught():
    def loss(p, batch):
        value, terms = least_squares(p, batch)
        return value + jnp.sqrt(jnp.sum(0.0 * p["w"])), terms

    loop = Training(loss, optax.adam(0.1), BATCH)
    with pytest.raises(TrainingError, match="an update is not finite in step 1 "):
        loop.run(loop.init(KEY, start()), points(), 1)


def test_a_nan_does_not_hide_in_the_memory_of_the_optimiser():
    def loss(p, batch):
        value, terms = least_squares(p, batch)
        return value + jnp.sqrt(jnp.sum(0.0 * p["w"])), terms

    loop = Training(loss, OPTIMISERS["several_steps"](), BATCH)
    state, _ = loop.run(loop.init(KEY, start()), points(), 1, throw=False)
    assert bool(state.failed)
    assert not any(np.isnan(x).any() for x in plain(state.optimiser) if x.dtype.kind == "f")


def test_overflow_of_the_parameters_is_caught():
    loop = Training(least_squares, optax.sgd(1e200), BATCH)
    state, _ = loop.run(loop.init(KEY, start()), points(), 50, throw=False)
    assert bool(state.failed)
    assert all(np.isfinite(x).all() for x in plain(state.parameters))


def test_the_seed_that_failed_is_named_and_the_others_are_good():
    keys = jax.random.split(KEY, 3)
    starts = jax.tree.map(lambda x: jnp.stack([x, x, x]), start())
    starts["w"] = starts["w"].at[1].mul(1e200)
    with pytest.raises(TrainingError, match=r"in step 1 of seed 1 \(epoch 1, batch 1") as caught:
        ADAM.run(ADAM.init(keys, starts), points(), 2)
    assert "inf (fit, ridge)" in str(caught.value)
    state = caught.value.state
    np.testing.assert_array_equal(state.failed, [False, True, False])
    np.testing.assert_array_equal(state.step, [PER_EPOCH, 0, PER_EPOCH])
    np.testing.assert_array_equal(state.parameters["w"][1], starts["w"][1])
    for seed in (0, 2):
        alone, _ = ADAM.run(ADAM.init(keys[seed], start()), points(), 1)
        close(jax.tree.map(lambda x, s=seed: x[s], state.parameters), alone.parameters)


def test_each_seed_meets_a_bad_row_at_its_own_step():
    keys = jax.random.split(KEY, 4)
    starts = jax.tree.map(lambda x: jnp.stack([x] * 4), start())
    uses = [np.flatnonzero((batches(key, 9) == 2).any(axis=-1).ravel())[0] for key in keys]
    first = min(use // PER_EPOCH for use in uses)
    failing = [seed for seed, use in enumerate(uses) if use // PER_EPOCH == first]
    wanted = f"step {uses[failing[0]] + 1} of seed {failing[0]} "
    with pytest.raises(TrainingError, match=wanted) as caught:
        ADAM.run(ADAM.init(keys, starts), spoiled(2), 9)
    np.testing.assert_array_equal(
        caught.value.state.step, np.minimum(uses, (first + 1) * PER_EPOCH)
    )


def test_a_failure_leaves_the_checkpoints_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", seconds=0)
    ADAM.run(ADAM.init(KEY, start()), points(), 1, checkpoints=checkpoints)
    before = fingerprint(tmp_path)
    for throw in (True, False):
        state = ADAM.init(KEY, start())
        data = {**points(), "y": jnp.full(ROWS, jnp.nan)}
        if throw:
            with pytest.raises(TrainingError, match=f"the checkpoint of step {PER_EPOCH} is good"):
                ADAM.run(state, data, 3, checkpoints=checkpoints)
        else:
            failed, history = ADAM.run(state, data, 3, checkpoints=checkpoints, throw=False)
            assert (int(failed.step), len(history)) == (PER_EPOCH, 1)
        assert fingerprint(tmp_path) == before
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "run")
    found = ADAM.run(ADAM.init(KEY, start()), points(), 3, checkpoints=checkpoints)
    checkpoints.close()
    assert same(found[0], whole()[0])
    assert found[1] == whole()[1]


# --- mistakes


def fine():
    return ADAM.init(KEY, start())


def zero(parameters):
    return {"loss": jnp.zeros(())}


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_a_batch_size_that_is_no_count_is_refused(as_user, size):
    with pytest.raises(ValueError, match="batch_size"):
        Training(least_squares, optax.sgd(0.1), size)


def test_a_batch_larger_than_the_data_is_refused():
    loop = training(batch=ROWS + 1)
    with pytest.raises(ValueError, match=rf"batch_size: {ROWS + 1} is more than .*lower it"):
        loop.run(loop.init(KEY, start()), points(), 1)


def test_unequal_rows_are_refused():
    data = {**points(), "y": points()["y"][:-2]}
    with pytest.raises(ValueError, match=r"equal length, got \[21, 23\] rows"):
        ADAM.run(fine(), data, 1)


def test_data_without_arrays_are_refused():
    with pytest.raises(ValueError, match="data"):
        ADAM.run(fine(), {}, 1)


def test_patience_without_validation_is_refused():
    with pytest.raises(ValueError, match=r"patience.*validation"):
        ADAM.run(fine(), points(), 1, patience=3)


@pytest.mark.parametrize("patience", [0, -1])
def test_patience_below_one_is_refused(patience):
    with pytest.raises(ValueError, match="patience"):
        ADAM.run(fine(), points(), 1, validate=zero, patience=patience)


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_a_call_below_one_are_refused(steps):
    with pytest.raises(ValueError, match="steps_a_call"):
        ADAM.run(fine(), points(), 1, steps_a_call=steps)


def test_a_validation_without_a_loss_is_refused():
    with pytest.raises(ValueError, match=r"validate.*'loss', got \['error'\]"):
        ADAM.run(fine(), points(), 1, validate=lambda p: {"error": jnp.zeros(())})


def test_a_validation_loss_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"validate.*\(3,\)"):
        ADAM.run(fine(), points(), 1, validate=lambda p: {"loss": p["w"]})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite_are_refused(bad):
    parameters = {**start(), "w": start()["w"].at[1].set(bad)}
    with pytest.raises(ValueError, match=r"parameters\['w'\]: 1 of 3 entries are NaN or infinite"):
        ADAM.init(KEY, parameters)


def test_parameters_without_the_axis_of_the_seeds_are_refused():
    with pytest.raises(ValueError, match=r"leading axis of 5 seeds.*vmap the init"):
        ADAM.init(jax.random.split(KEY, 5), start())


def test_a_key_of_the_old_kind_is_refused(as_user):
    with pytest.raises(ValueError, match="key"):
        ADAM.init(jax.random.PRNGKey(0), {"w": jnp.zeros((2, 3)), "b": jnp.zeros(2)})


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
    whole, history = loop.run(loop.init(KEY, parameters), data, 12)
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
