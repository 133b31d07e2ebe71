"""Quantised Linen layers: against hand formulas, and existing models against layers built so."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from metricflow import discretize
from metricflow.discretize import Quantization, layers

HOW = Quantization(
    discretize.weight_quantizer(1, scale="channel"),
    discretize.activation_quantizer(4, grid="unsigned"),
)
KEY = jax.random.key(3)


def images(shape=(2, 7, 6, 3)):
    return jax.random.uniform(jax.random.key(1), shape, jnp.float32)


def test_the_dense_layer_is_the_product_of_quantised_factors():
    x = images((5, 8))
    layer = layers.quantized_dense(4, HOW)
    params = layer.init(KEY, x)
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    wanted = HOW.activations(x) @ HOW.weights(kernel) + bias
    np.testing.assert_allclose(layer.apply(params, x), wanted, rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(wanted - (x @ kernel + bias))) > 0.05


def test_the_convolution_is_that_of_quantised_factors():
    x = images()
    layer = layers.quantized_conv(4, (3, 3), HOW, strides=2, padding="SAME", use_bias=False)
    params = layer.init(KEY, x)
    wanted = lax.conv_general_dilated(
        HOW.activations(x),
        HOW.weights(params["params"]["kernel"]),
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(layer.apply(params, x), wanted, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_the_slope_at_the_quantised_kernel():
    x = images((5, 8))
    how = Quantization(HOW.weights)
    layer = layers.quantized_dense(4, how, use_bias=False)
    w = layer.init(KEY, x)["params"]["kernel"]

    def of_product(q):
        return jnp.sum(jnp.sin(x @ q))

    found = jax.grad(lambda w: jnp.sum(jnp.sin(layer.apply({"params": {"kernel": w}}, x))))(w)
    np.testing.assert_allclose(found, jax.grad(of_product)(how.weights(w)), rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(found - jax.grad(of_product)(w))) > 1e-2


class Plain(nn.Module):
    """An ordinary Linen network that knows nothing of quantisation."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(4, (3, 3), name="stem")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        x = nn.relu(nn.Conv(5, (3, 3), strides=2, name="middle")(x))
        return nn.Dense(2, name="head")(jnp.mean(x, (1, 2)))


class ByHand(nn.Module):
    """The same with the middle layer quantised when it was written."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(4, (3, 3), name="stem")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        x = nn.relu(layers.quantized_conv(5, (3, 3), HOW, strides=2, name="middle")(x))
        return nn.Dense(2, name="head")(jnp.mean(x, (1, 2)))


@pytest.mark.parametrize("train", [False, True])
def test_an_existing_model_quantised_from_outside(train):
    x = images()
    variables = Plain().init(KEY, x, train=False)
    quantised = layers.quantized_apply(
        Plain().apply, discretize.uniform_policy(HOW.weights, HOW.activations)
    )
    options = {"train": train, "mutable": ["batch_stats"]}
    found, statistics = quantised(variables, x, **options)
    wanted, expected = ByHand().apply(variables, x, **options)
    np.testing.assert_array_equal(found, wanted)
    jax.tree.map(np.testing.assert_array_equal, statistics, expected)
    plain, _ = Plain().apply(variables, x, **options)
    assert np.max(np.abs(found - plain)) > 1e-3

    def loss(apply):
        return lambda p: jnp.sum(apply({**variables, "params": p}, x, **options)[0] ** 2)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        jax.grad(loss(quantised))(variables["params"]),
        jax.grad(loss(ByHand().apply))(variables["params"]),
    )


def test_only_layers_of_the_policy_get_other_inputs():
    seen = []

    def spy(x):
        seen.append(x.shape)
        return x

    x = images()
    variables = Plain().init(KEY, x, train=False)
    with layers.quantized_activations(discretize.uniform_policy(None, spy)):
        inside = Plain().apply(variables, x, train=False)
    assert seen == [(2, 7, 6, 4)]
    outside = Plain().apply(variables, x, train=False)
    assert len(seen) == 1
    np.testing.assert_array_equal(inside, outside)


@pytest.mark.equation("RF 2")
def test_the_normalised_layer():
    x = images()
    layer = layers.NormalizedLayer(4, (3, 3), HOW)
    variables = layer.init(KEY, x, train=False)
    y, updated = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    inner = layers.quantized_conv(4, (3, 3), HOW, use_bias=False)
    z = inner.apply({"params": variables["params"]["conv"]}, x)
    mean, var = jnp.mean(z, (0, 1, 2)), jnp.var(z, (0, 1, 2))
    np.testing.assert_allclose(y, jax.nn.relu((z - mean) / jnp.sqrt(var + 1e-5)), atol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["norm"]["mean"], 0.1 * mean, rtol=1e-6)
    dense = layers.NormalizedLayer(4, None, HOW, activation=None)
    flat = x.reshape(2, -1)
    made = dense.init(KEY, flat, train=False)
    assert made["params"]["dense"]["kernel"].shape == (7 * 6 * 3, 4)
    found = dense.apply(made, flat, train=True, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(jnp.mean(found, 0), 0, atol=1e-6)


class Deep(nn.Module):
    how: Quantization

    @nn.compact
    def __call__(self, x):
        for _ in range(12):
            x = layers.NormalizedLayer(16, how=self.how)(x, train=True)
        return x


@pytest.mark.equation("RF 2")
@pytest.mark.parametrize("grid", ["signed", "unsigned"])
def test_gradients_of_deep_networks_keep_their_size(grid, rng):
    """The paper's activations in [-1, 1] do not: each layer multiplies by the size of its input."""
    x = jnp.asarray(rng.normal(size=(32, 16)), jnp.float32)
    variables = Deep(Quantization(None, None)).init(KEY, x)
    weights = jnp.asarray(rng.normal(size=(32, 16)), jnp.float32)

    def size(activations):
        def loss(params):
            model = Deep(Quantization(None, activations))
            out, _ = model.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return jnp.sum(weights * out)

        slope = jax.jit(jax.grad(loss))(variables["params"])
        return float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(slope))))

    real = size(None)
    assert real / 2 < size(discretize.activation_quantizer(8, grid=grid)) < 2 * real
    printed = discretize.straight_through(lambda x: discretize.quantize(x, 8))
    assert size(printed) > 1e4 * real


@pytest.mark.parametrize(
    ("strides", "size", "padding", "dtype"),
    [
        ((1, 1), (3, 3), "SAME", "float64"),
        ((2, 2), (3, 3), "SAME", "float32"),
        ((2, 3), (5, 2), "VALID", "float64"),
        ((2, 2), (1, 1), "VALID", "float64"),
        ((2, 2), (3, 3), ((1, 0), (2, 1)), "float64"),
    ],
)
def test_patches_give_the_convolution(strides, size, padding, dtype):
    x = images((2, 9, 8, 3)).astype(dtype)
    w = jax.random.normal(KEY, (*size, 3, 4), dtype)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"atol": 1e-12}

    def ours(x, w):
        return layers.convolution_by_patches(x, w, strides, padding, **options)

    def theirs(x, w):
        return lax.conv_general_dilated(x, w, strides, padding, **options)

    np.testing.assert_allclose(ours(x, w), theirs(x, w), **tolerance)
    assert ours(x, w).dtype == x.dtype
    slopes = [
        jax.grad(lambda x, w, f=f: jnp.sum(jnp.sin(f(x, w))), argnums=(0, 1))(x, w)
        for f in (ours, theirs)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), *slopes)


def test_patches_leave_other_convolutions_to_xla():
    x = images((2, 6, 6, 4))
    model = nn.Conv(
        4,
        (3, 3),
        feature_group_count=4,
        conv_general_dilated=layers.convolution_by_patches,
    )
    params = model.init(KEY, x)
    np.testing.assert_array_equal(
        model.apply(params, x), nn.Conv(4, (3, 3), feature_group_count=4).apply(params, x)
    )
    wide = nn.Conv(4, (3, 3), kernel_dilation=2)
    other = nn.Conv(
        4, (3, 3), kernel_dilation=2, conv_general_dilated=layers.convolution_by_patches
    )
    params = wide.init(KEY, x)
    np.testing.assert_array_equal(other.apply(params, x), wide.apply(params, x))


def test_patches_inside_linen_and_under_vmap():
    x = images((2, 9, 8, 3))
    plain = nn.Conv(4, (3, 3), strides=2)
    patched = nn.Conv(4, (3, 3), strides=2, conv_general_dilated=layers.convolution_by_patches)
    several = jax.vmap(plain.init, in_axes=(0, None))(jax.random.split(KEY, 3), x)
    np.testing.assert_allclose(
        jax.vmap(patched.apply, in_axes=(0, None))(several, x),
        jax.vmap(plain.apply, in_axes=(0, None))(several, x),
        atol=1e-5,
    )
