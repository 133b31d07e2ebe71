"""Training of discretised networks: against a loop written out by hand, and its own invariants."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow import data, discretize, optim
from metricflow.training import Checkpoints, DiscretizedTraining, load_network, save_network

ROWS, BATCH, EPOCHS, RATE = 24, 8, 3, 0.1
PER_EPOCH = ROWS // BATCH
KEY = jax.random.key(4)


class Net(nn.Module):
    """A convolution that is quantised, between two layers that are not."""

    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(3, (3, 3), use_bias=False, name="stem")(x)
        x = nn.relu(x)
        x = nn.Conv(4, (3, 3), use_bias=False, name="middle")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=self.momentum, name="norm")(x)
        return nn.Dense(3, name="head")(jnp.mean(nn.relu(x), (1, 2)))


def pictures(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    images = rng.integers(0, 90, (rows, 4, 5, 1)) + 60 * labels[:, None, None, None]
    return {"images": jnp.asarray(images, jnp.uint8), "labels": jnp.asarray(labels, jnp.int32)}


def prepare(key, images):
    if key is not None:
        images = data.random_crop_and_flip(key, images, 1)
    return data.standardise(images, np.float32([0.4]), np.float32([0.3]))


def sgd(rate):
    return optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(rate, momentum=0.9))


@functools.cache
def training(name="ste", *, activations=None, momentum=0.9, bits=1, augment=True, **options):
    weights = discretize.weight_quantizer(bits, scale="channel")

    def rule(key, rate):
        setting = optim.RuleSetting(weights, EPOCHS * PER_EPOCH, rate, key)
        return optim.gradient_rule(name, setting, **options)

    return DiscretizedTraining(
        model=Net(momentum),
        policy=discretize.uniform_policy(weights, activations),
        rule=rule,
        latent_optimiser=sgd,
        rest_optimiser=optax.sgd(0.05, momentum=0.9),
        batch_size=BATCH,
        prepare=prepare if augment else lambda key, images: prepare(None, images),
    )


def start(loop, seeds=None, rate=RATE):
    make = functools.partial(loop.init, images=pictures()["images"][:2])
    if seeds is None:
        return make(KEY, learning_rate=rate)
    keys = jax.random.split(KEY, seeds)
    rates = jnp.broadcast_to(jnp.float32(rate), (seeds,))
    return jax.vmap(lambda k, r: make(k, learning_rate=r))(keys, rates)


def same(a, b):
    plain = [
        [jax.random.key_data(x) if is_key(x) else x for x in jax.tree.leaves(t)] for t in (a, b)
    ]
    return all(np.array_equal(x, y) for x, y in zip(*plain, strict=True))


def is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def close(a, b, **tolerance):
    a, b = (jax.tree.map(np.asarray, tree) for tree in (a, b))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.equation("RF 21", "RF 23")
@pytest.mark.parametrize("name", ["ste", "lne"])
def test_a_step_is_what_the_algorithm_says(name):
    loop = training(name, augment=False)
    state, batch = start(loop), jax.tree.map(lambda x: x[:BATCH], pictures())
    now = state.parameters
    q = discretize.quantize(now.latent["middle/kernel"], 1, scaled=True, axis=-1)

    def loss(q, rest):
        params = discretize.joined({"middle/kernel": q}, rest)
        logits, updated = Net().apply(
            {"params": params, "batch_stats": now.statistics},
            prepare(None, batch["images"]),
            train=True,
            mutable=["batch_stats"],
        )
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][:, None], 1)
        return -jnp.mean(picked), updated["batch_stats"]

    (value, statistics), (slope, rest_slope) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        q, now.rest
    )
    if name == "lne":
        w = np.asarray(now.latent["middle/kernel"], np.float64).ravel()
        rule = optim.gradient_rule("lne", optim.RuleSetting(jnp.sign, 1, RATE, KEY))
        memory = rule.wrap(optax.identity()).init(now.latent)
        tau = float(
            rule.wrap(optax.identity())
            .update({"middle/kernel": slope}, memory, now.latent)[1][0]
            .tau["middle/kernel"]
        )
        t = np.tanh(tau * w)
        metric = np.eye(len(w)) - np.outer(t, t)
        slope = np.linalg.solve(metric, np.asarray(slope, np.float64).ravel()).reshape(slope.shape)
    found, info = loop.step(state, batch)
    close(info.loss, value, rtol=1e-6)
    close(found.parameters.statistics, statistics, rtol=1e-5, atol=1e-7)
    wanted = (
        0.999 * 0
        + now.latent["middle/kernel"]
        - RATE * (slope + 1e-3 * now.latent["middle/kernel"])
    )
    close(found.parameters.latent["middle/kernel"], wanted, rtol=1e-4, atol=1e-6)
    close(
        found.parameters.rest,
        {path: w - 0.05 * rest_slope[path] for path, w in now.rest.items()},
        rtol=1e-5,
        atol=1e-7,
    )


@pytest.mark.equation("RF 32")
def test_the_penalty_sees_translated_inputs():
    loop = training("rf_dnn", alpha=0.5)
    batch = jax.tree.map(lambda x: x[:BATCH], pictures())
    found, _ = loop.step(start(loop), batch)
    bent = float(found.optimiser.latent[0].penalty)
    assert bent > 1e-9
    # inputs that are the same after any translation bend nothing
    flat = {**batch, "images": jnp.full_like(batch["images"], 102)}  # 0.4 of 255
    level = training("rf_dnn", alpha=0.5, augment=False)
    found, _ = level.step(start(level), flat)
    assert float(found.optimiser.latent[0].penalty) < 1e-5 * bent


@pytest.mark.parametrize("name", ["rf_dnn", "multi_fc_grad", "mirror_descent", "proximal"])
def test_seeds_and_rates_side_by_side_are_those_alone(name):
    loop = training(name)
    keys, rates = jax.random.split(KEY, 2), jnp.float32([0.02, 0.2])
    images = pictures()["images"][:2]
    several = jax.vmap(lambda k, r: loop.init(k, images, r))(keys, rates)
    found, info = loop.advance(several, pictures(), 2)
    for lane in range(2):
        alone, single = loop.advance(loop.init(keys[lane], images, rates[lane]), pictures(), 2)
        close(info.loss[:, lane], single.loss, rtol=1e-4)
        close(
            jax.tree.map(lambda x, i=lane: x[i], found.parameters),
            alone.parameters,
            rtol=1e-3,
            atol=1e-4,
        )


def test_rates_and_keys_change_the_run():
    loop = training()
    keys = jnp.stack([KEY, KEY, jax.random.key(5)])
    images = pictures()["images"][:2]
    rates = jnp.float32([0.1, 0.2, 0.1])
    states = jax.vmap(lambda k, r: loop.init(k, images, r))(keys, rates)
    kernels = states.parameters.latent["middle/kernel"]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.max(np.abs(kernels[0] - kernels[2])) > 0.1
    moved, _ = loop.advance(states, pictures(), 1)
    moves = moved.parameters.latent["middle/kernel"] - kernels
    close(moves[1], 2 * moves[0], rtol=1e-3, atol=1e-6)


def test_every_step_draws_its_own_augmentation():
    seen = []

    def spy(key, images):
        if key is not None:
            jax.debug.callback(lambda k: seen.append(k.tolist()), jax.random.key_data(key))
        return prepare(None, images)

    loop = dataclasses.replace(training(), prepare=spy)
    loop.advance(start(loop), pictures(), PER_EPOCH)
    jax.effects_barrier()
    assert len({tuple(key) for key in seen}) == PER_EPOCH


def test_an_interrupted_run_goes_on_to_the_bit(tmp_path):
    loop = training("multi_fc_grad")
    _, rows = loop.run(start(loop, 2), pictures(), EPOCHS)
    for steps in (1, 2):
        folder = Checkpoints(tmp_path / str(steps), seconds=0)
        loop.run(start(loop, 2), pictures(), 1, checkpoints=folder, steps_a_call=steps)
        folder.close()
        folder = Checkpoints(tmp_path / str(steps), seconds=0)
        again, found = loop.run(
            start(loop, 2), pictures(), EPOCHS, checkpoints=folder, steps_a_call=steps
        )
        folder.close()
        assert [row["epoch"] for row in found] == [row["epoch"] for row in rows]
        straight, _ = loop.run(start(loop, 2), pictures(), EPOCHS, steps_a_call=steps)
        assert same(again, straight)


def test_it_learns():
    loop = training()
    state, history = loop.run(start(loop, 2), pictures(), 25)
    assert np.mean(history[-1]["loss"]) < 0.5 * np.mean(history[0]["loss"])
    found = loop.evaluate(state, pictures()["images"][None], pictures(30, seed=9))
    assert np.min(found["top1"]) > 0.8


def test_a_lane_that_diverges_does_not_end_the_others():
    loop = training()
    images = pictures()["images"][:2]
    keys = jnp.stack([KEY, KEY])
    rates = jnp.float32([RATE, 3e38])
    states = jax.vmap(lambda k, r: loop.init(k, images, r))(keys, rates)
    state, history = loop.run(states, pictures(), EPOCHS, throw=False)
    assert state.failed.tolist() == [False, True]
    assert len(history) == EPOCHS
    assert int(state.step[0]) == EPOCHS * PER_EPOCH
    alone, _ = loop.run(start(loop), pictures(), EPOCHS)
    close(jax.tree.map(lambda x: x[0], state.parameters), alone.parameters, rtol=1e-3, atol=1e-5)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.parameters))


@pytest.mark.parametrize("momentum", [0.5, 0.99])
def test_recalibrated_statistics_are_means_over_batches(momentum):
    loop = training(momentum=momentum)
    state = start(loop)
    variables = loop.variables(state.parameters)
    batches = pictures()["images"].reshape(3, 8, 4, 5, 1)
    found = loop.recalibrated(variables, batches)["batch_stats"]["norm"]
    kernels = variables["params"]
    means, variances = [], []
    for batch in batches:
        x = prepare(None, batch)
        for name in ("stem", "middle"):
            x = jax.lax.conv_general_dilated(
                x,
                kernels[name]["kernel"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jax.nn.relu(x) if name == "stem" else x
        means.append(jnp.mean(x, (0, 1, 2)))
        variances.append(jnp.var(x, (0, 1, 2)))
    close(found["mean"], np.mean(means, axis=0), rtol=1e-4, atol=1e-5)
    close(found["var"], np.mean(variances, axis=0), rtol=1e-4)
    other = {**variables, "batch_stats": jax.tree.map(lambda x: x + 7, variables["batch_stats"])}
    close(loop.recalibrated(other, batches)["batch_stats"]["norm"], found, rtol=1e-6)


def test_evaluation_is_that_of_the_quantised_network():
    loop = training()
    state, _ = loop.advance(start(loop, 2), pictures(), PER_EPOCH)
    shown = pictures(10, seed=3)
    reference = pictures()["images"].reshape(3, 8, 4, 5, 1)
    found = loop.evaluate(state, reference, shown)
    for lane in range(2):
        parameters = jax.tree.map(lambda x, i=lane: x[i], state.parameters)
        variables = loop.variables(parameters)
        kernel = variables["params"]["middle"]["kernel"]
        np.testing.assert_array_equal(
            kernel, discretize.quantize(parameters.latent["middle/kernel"], 1, scaled=True, axis=-1)
        )
        ready = loop.recalibrated(variables, reference)
        logits = Net().apply(ready, prepare(None, shown["images"]), train=False)
        hits = float(np.mean(np.argmax(logits, axis=1) == shown["labels"]))
        assert float(found["top1"][lane]) == pytest.approx(hits, abs=1e-6)
        assert float(found["top5"][lane]) == 1  # of three classes
    for chunk in (1, 4, 10, 100):
        close(loop.evaluate(state, reference, shown, chunk=chunk), found, rtol=1e-5)


def test_activations_are_quantised_in_training_and_evaluation():
    coarse = discretize.activation_quantizer(1)
    loop, plain = training(activations=coarse), training()
    state = start(loop)
    batch = jax.tree.map(lambda x: x[:BATCH], pictures())
    assert float(loop.step(state, batch)[1].loss) != float(plain.step(state, batch)[1].loss)
    reference = pictures()["images"][None]
    values = [float(x.evaluate(state, reference, batch)["loss"]) for x in (loop, plain)]
    assert abs(values[0] - values[1]) > 1e-4


def test_a_start_from_given_variables():
    loop = training()
    given = Net().init(jax.random.key(77), prepare(None, pictures()["images"]), train=False)
    state = loop.init(KEY, pictures()["images"][:2], RATE, given)
    np.testing.assert_array_equal(
        state.parameters.latent["middle/kernel"], given["params"]["middle"]["kernel"]
    )
    wrong = {**given, "params": {**given["params"], "head": {"kernel": jnp.zeros((4, 9))}}}
    with pytest.raises(ValueError, match=r"head.*bias.* is missing and has to be \(3,\)"):
        loop.init(KEY, pictures()["images"][:2], RATE, wrong)


@pytest.mark.parametrize("bits", [1, 3])
@pytest.mark.parametrize("name", ["ste", "dorefa", "irnet"])
def test_the_packed_network_predicts_the_same(name, bits, tmp_path):
    loop = training(name, bits=bits)
    state, _ = loop.advance(start(loop), pictures(), PER_EPOCH)
    final = loop.variables(state.parameters)
    shown = loop.rule(KEY, jnp.float32(1)).shown
    kernels = {
        path: discretize.pack(shown(w), bits, scaled=True, axis=-1)
        for path, w in state.parameters.latent.items()
    }
    packed = {**final, "params": discretize.joined(kernels, state.parameters.rest)}
    path = tmp_path / "net.npz"
    size = save_network(path, packed, {"model": "net"})
    assert size == path.stat().st_size
    back, about = load_network(path)
    assert about == {"model": "net"}
    x = prepare(None, pictures()["images"])
    np.testing.assert_array_equal(
        Net().apply(back, x, train=False), Net().apply(final, x, train=False)
    )
