"""What is not finite: found at its step, named, and kept out of the state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow.training import Checkpoints, Training, TrainingError

from .problems import (
    ADAM,
    BATCH,
    KEY,
    OPTIMISERS,
    PER_EPOCH,
    ROWS,
    batches,
    close,
    fingerprint,
    least_squares,
    plain,
    points,
    same,
    start,
    training,
    whole,
)


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
