"""Validation, patience and callbacks: when a run of the training loop stops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow.training import Checkpoints

from .problems import (
    KEY,
    PER_EPOCH,
    counting,
    points,
    same,
    start,
    training,
)


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
