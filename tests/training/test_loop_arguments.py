"""What the training loop refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow.training import Training

from .problems import (
    ADAM,
    KEY,
    ROWS,
    least_squares,
    points,
    start,
    training,
)


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
