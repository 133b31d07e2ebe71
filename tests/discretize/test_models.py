"""Image classifiers against published counts, formulas by hand, and what their users rely on."""

import functools
import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metricflow import discretize
from metricflow.discretize import layers, models
from metricflow.discretize.models import MODELS, classifier

SMALLEST = {
    "mlp": 1, "small": 8, "alexnet": 63, "mobilenet": 32, "resnet18": 32, "resnet50": 32
}  # fmt: skip
CIFAR = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}
IMAGENET = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "alexnet": 61_100_840,
    "mobilenet": 4_231_976,
}
SLOW_TO_TRACE = {"resnet44", "resnet56", "resnet110"}
ARCHITECTURES = sorted(set(MODELS) - SLOW_TO_TRACE)


def size(name):
    return SMALLEST.get(name, 4)


def images(name, count=4, pixels=None, seed=0):
    shape = (count, pixels or size(name), pixels or size(name), 3)
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def shapes(network, pixels):
    x = jax.ShapeDtypeStruct((2, pixels, pixels, 3), jnp.float32)
    return jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), x)


def paths(tree):
    return {"/".join(path): leaf for path, leaf in flax.traverse_util.flatten_dict(tree).items()}


def fast(function):
    """Compiled, with little effort: these programs run once."""
    return jax.jit(
        function,
        compiler_options={
            "xla_backend_optimization_level": 0,
            "xla_llvm_disable_expensive_passes": True,
        },
    )


def filled(variables, seed=0):
    """Random kernels of He's size and fresh statistics, without compiling anything."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        if name == "kernel":
            spread = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return jnp.asarray(rng.standard_normal(leaf.shape) * spread, leaf.dtype)
        return jnp.full(leaf.shape, name in ("scale", "var"), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, variables)


def initial(network, x, seed=0):
    return filled(shapes(network, x.shape[1]), seed)


@functools.cache
def evaluate(network):
    return fast(functools.partial(network.apply, train=False))


@functools.cache
def train(network):
    return fast(functools.partial(network.apply, train=True, mutable=["batch_stats"]))


@pytest.mark.parametrize("name", [*CIFAR, *IMAGENET])
def test_numbers_of_parameters(name):
    classes, pixels = (1000, 224) if name in IMAGENET else (10, 32)
    params = shapes(classifier(name, classes), pixels)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == (CIFAR | IMAGENET)[name]


def test_numbers_of_parameters_of_small_models_by_hand():
    params = shapes(models.Perceptron((5, 7), 3), 4)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 48 * 5 + 35 + 21 + 2 * 15
    params = shapes(models.SmallConvNet(3, (4, 5)), 4)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 9 * (12 + 20) + 2 * 9 + 18


def equations(jaxpr):
    """All of them, those of functions inside too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def multiply_adds(jaxpr):
    """Of convolutions and matrix products, from their shapes."""
    total = 0
    for equation in equations(jaxpr):
        outputs = math.prod(equation.outvars[0].aval.shape)
        left, right = (v.aval.shape for v in (*equation.invars, *equation.invars)[:2])
        if equation.primitive.name == "conv_general_dilated":
            features = equation.params["dimension_numbers"].rhs_spec[0]
            total += outputs * math.prod(right) // right[features]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += outputs * math.prod(left[axis] for axis in contracted)
    return total


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet20", 40.6e6),
        ("resnet18", 1.81e9),
        ("resnet50", 4.09e9),
        ("alexnet", 0.714e9),
        ("mobilenet", 0.569e9),
    ],
)
def test_multiply_adds(name, published):
    classes, pixels = (1000, 224) if name in IMAGENET else (10, 32)
    network = classifier(name, classes)
    variables = shapes(network, pixels)
    x = jax.ShapeDtypeStruct((1, pixels, pixels, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(functools.partial(network.apply, train=False))(variables, x).jaxpr
    assert multiply_adds(jaxpr) == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_parameters_and_statistics(name, dtype):
    network = classifier(name, 7, dtype=jnp.dtype(dtype))
    for more in (0, 5):
        x = jax.ShapeDtypeStruct((3, size(name) + more, size(name) + 2 * more, 3), jnp.float32)
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        (logits, variables) = jax.eval_shape(
            functools.partial(network.init_with_output, train=True), rngs, x
        )
        assert (logits.shape, logits.dtype) == ((3, 7), jnp.float32)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names(name):
    network = classifier(name, 10)
    called, x = [], jax.ShapeDtypeStruct((2, size(name), size(name), 3), jnp.float32)

    def record(call, args, kwargs, context):
        if isinstance(context.module, nn.Conv | nn.Dense) and context.method_name == "__call__":
            called.append(context.module.path)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        variables = shapes(network, x.shape[1])
    assert called[0] == ("stem",)
    assert called[-1] == ("head",)
    assert len(set(called)) == len(called)
    flat = paths(variables["params"])
    assert {path.rpartition("/")[2] for path in flat} <= {"kernel", "bias", "scale"}
    layers = {"/".join(path) for path in called}
    assert {path.removesuffix("/kernel") for path in flat if path.endswith("/kernel")} == layers
    for path in layers:  # a bias before a normalisation has no effect
        assert (f"{path}_norm/scale" in flat) != (f"{path}/bias" in flat)
    assert set(paths(variables.get("batch_stats", {}))) == {
        path.removesuffix("scale") + moment
        for path in flat
        if path.endswith("/scale")
        for moment in ("mean", "var")
    }


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("mlp", {"stem/kernel", "hidden2/kernel", "head/kernel", "head_norm/scale"}),
        ("small", {"stem/kernel", "conv2/kernel", "conv3_norm/bias", "head/bias"}),
        ("resnet20", {"stage1_block0/conv1/kernel", "stage3_block2/conv2_norm/scale"}),
        ("resnet18", {"stage2_block0/shortcut/kernel", "stage4_block1/conv2/kernel"}),
        ("resnet50", {"stage1_block0/shortcut_norm/scale", "stage4_block2/conv3/kernel"}),
        ("alexnet", {"conv5/kernel", "dense6/kernel", "dense7/bias"}),
        ("mobilenet", {"block1/depthwise/kernel", "block13/pointwise_norm/bias"}),
    ],
)
def test_names_are_stable(name, some):
    assert some <= set(paths(shapes(classifier(name, 10), size(name))["params"]))


@pytest.mark.parametrize("name", ["resnet20", "resnet110"])
def test_shortcuts_of_small_residual_networks_have_no_parameters(name):
    flat = paths(shapes(classifier(name, 10), 4)["params"])
    assert not any("shortcut" in path for path in flat)
    assert sum(leaf.ndim == 4 for leaf in flat.values()) == int(name[6:]) - 1


def test_the_stride_of_a_bottleneck_is_in_its_3x3_convolution():
    seen = {}

    def convolution(x, kernel, strides, *args, **kwargs):
        if strides[0] > 1:
            seen.setdefault(kernel.shape[0], []).append(kernel.shape[2:])
        return jax.lax.conv_general_dilated(x, kernel, strides, *args, **kwargs)

    shapes(classifier("resnet50", 10, convolution=convolution), 32)
    assert seen[3] == [(128, 128), (256, 256), (512, 512)]
    assert seen[1] == [(256, 512), (512, 1024), (1024, 2048)]  # shortcuts


@pytest.mark.parametrize("stride", [1, 2])
def test_padded_shortcut(stride):
    x = np.arange(2 * 5 * 4 * 3, dtype=np.float32).reshape(2, 5, 4, 3) + 1
    y = np.asarray(models.padded_shortcut(x, 5, stride))
    assert y.shape == (2, -(-5 // stride), -(-4 // stride), 5)
    for n, i, j, c in np.ndindex(y.shape):
        assert y[n, i, j, c] == (x[n, stride * i, stride * j, c] if c < 3 else 0)
    with pytest.raises(ValueError, match="channels: expected at least the 3"):
        models.padded_shortcut(x, 2, 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_without_residue_is_its_shortcut(stride):
    """With the last gain zero only the shortcut is left; a block halves the image or keeps it."""
    x = images("small", pixels=6)
    block = models.BasicBlock(
        models.Layers(jnp.float32, None, False), 3 * stride, stride, projected=False
    )
    variables = filled(jax.eval_shape(block.init, jax.random.key(0), x))
    variables["params"]["conv2_norm"]["scale"] = jnp.zeros(3 * stride)
    expected = x if stride == 1 else models.padded_shortcut(x, 6, 2)
    np.testing.assert_array_equal(fast(block.apply)(variables, x), np.maximum(expected, 0))


def test_a_bottleneck_without_residue_is_its_shortcut():
    x = jnp.tile(images("small", pixels=5), (1, 1, 1, 4))
    block = models.Bottleneck(models.Layers(jnp.float32, None, False), 3, 1)
    variables = filled(jax.eval_shape(block.init, jax.random.key(0), x))
    assert "shortcut" not in variables["params"]
    variables["params"]["conv3_norm"]["scale"] = jnp.zeros(12)
    np.testing.assert_array_equal(fast(block.apply)(variables, x), np.maximum(x, 0))


def test_a_block_by_hand():
    """relu(norm(conv(relu(norm(conv x)))) + x), at fresh statistics: variance one, mean zero."""
    x = images("small", pixels=5)
    block = models.BasicBlock(models.Layers(jnp.float32, None, False), 3, 1)
    variables = filled(jax.eval_shape(block.init, jax.random.key(0), x))
    assert set(variables["params"]) == {"conv1", "conv1_norm", "conv2", "conv2_norm"}

    def convolve(x, kernel):
        x, kernel = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), np.asarray(kernel)
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
        return np.einsum("nijcab,abcd->nijd", windows, kernel) / np.sqrt(1 + 1e-5)

    y = np.maximum(convolve(x, variables["params"]["conv1"]["kernel"]), 0)
    y = convolve(y, variables["params"]["conv2"]["kernel"]) + x
    np.testing.assert_allclose(
        fast(block.apply)(variables, x), np.maximum(y, 0), rtol=1e-5, atol=1e-5
    )


def test_statistics_move_in_training_only():
    network, x = classifier("small", 3), images("small", count=16)
    variables = initial(network, x)
    watched = functools.partial(
        network.apply, mutable=["batch_stats", "intermediates"], capture_intermediates=True
    )
    _, state = fast(functools.partial(watched, train=True))(variables, x)
    y = np.asarray(state["intermediates"]["stem"]["__call__"][0], np.float64)
    moved = state["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(moved["mean"], 0.1 * y.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * y.var((0, 1, 2)), rtol=1e-4)
    _, state = fast(functools.partial(watched, train=False))(variables, x)
    jax.tree.map(np.testing.assert_array_equal, state["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("name", ["mlp", "small"])
def test_evaluation_does_not_see_the_rest_of_the_batch(name):
    network, x = classifier(name, 3), images(name, count=6)
    variables = initial(network, x)
    variables = {**variables, **train(network)(variables, x)[1]}
    together = evaluate(network)(variables, x)
    np.testing.assert_allclose(evaluate(network)(variables, x[:2]), together[:2], atol=1e-5)
    # training does
    seen = train(network)(variables, x)[0][:2] - train(network)(variables, x[:2])[0]
    assert np.abs(seen).max() > 1e-2


def gradients(apply, variables):
    """Of a random linear function of the outputs in training."""

    @fast
    def gradient(params):
        def value(params):
            y, _ = apply({**variables, "params": params}, mutable=["batch_stats"])
            return jnp.sum(y * np.random.default_rng(2).standard_normal(y.shape))

        return jax.grad(value)(params)

    return paths(gradient(variables["params"]))


def all_move(found):
    for path, leaf in found.items():
        assert np.isfinite(leaf).all(), path
        assert np.any(np.asarray(leaf) != 0), path


@pytest.mark.parametrize("name", ["mlp", "small", "resnet20"])
def test_gradients_reach_every_parameter(name):
    network, x = classifier(name, 3), images(name, count=6, pixels=8)
    all_move(gradients(functools.partial(network.apply, x=x, train=True), initial(network, x)))


@pytest.mark.parametrize("block", [models.BasicBlock, models.Bottleneck, models.SeparableBlock])
def test_gradients_reach_every_parameter_of_a_block(block):
    module, x = block(models.Layers(jnp.float32, None, True), 8, 2), images("small", pixels=6)
    variables = filled(jax.eval_shape(module.init, jax.random.key(0), x))
    all_move(gradients(functools.partial(module.apply, x=x), variables))


@pytest.mark.parametrize("name", ["mlp", "small"])
def test_learning_where_the_bright_side_is(name):
    network = classifier(name, 2, **({"channels": (4, 8)} if name == "small" else {}))
    labels = np.arange(64) % 2
    x = np.random.default_rng(1).standard_normal((64, 8, 8, 3)).astype(np.float32)
    x[labels == 0, :, :4] += 2
    x[labels == 1, :, 4:] += 2
    variables = initial(network, x)
    rule = optax.adam(3e-3)

    @fast
    def step(params, statistics, state):
        def loss(params):
            logits, changed = network.apply(
                {"params": params, "batch_stats": statistics}, x[:32], train=True,
                mutable=["batch_stats"],
            )  # fmt: skip
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[:32])
            return losses.mean(), changed["batch_stats"]

        gradients, statistics = jax.grad(loss, has_aux=True)(params)
        updates, state = rule.update(gradients, state)
        return optax.apply_updates(params, updates), statistics, state

    params, statistics = variables["params"], variables["batch_stats"]
    state = rule.init(params)
    for _ in range(40):
        params, statistics, state = step(params, statistics, state)
    logits = evaluate(network)({"params": params, "batch_stats": statistics}, x)
    assert (np.argmax(logits[:32], 1) == labels[:32]).all()
    assert np.mean(np.argmax(logits[32:], 1) == labels[32:]) > 0.9


def test_vmap_over_seeds():
    network, x = classifier("small", 3), images("small", count=2)
    keys = jax.random.split(jax.random.key(3), 2)

    def outputs(key):
        variables = network.init(key, x, train=False)
        return network.apply(variables, x, train=True, mutable=["batch_stats"])

    together = fast(jax.vmap(outputs))(keys)
    single = fast(outputs)
    for place, key in enumerate(keys):
        jax.tree.map(
            lambda a, b, place=place: np.testing.assert_allclose(a[place], b, atol=2e-3, rtol=2e-3),
            together,
            single(key),
        )
    assert not np.allclose(together[0][0], together[0][1])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    x = images("small", count=8)
    precise, coarse = classifier("small", 3), classifier("small", 3, dtype=dtype)
    variables = initial(precise, x)
    expected, _ = train(precise)(variables, x)
    logits, state = train(coarse)(variables, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    distance = np.abs(logits - expected).max()
    assert 0 < distance < 0.1 * np.abs(expected).max()
    inside = [
        equation.outvars[0].aval.dtype
        for equation in equations(
            jax.make_jaxpr(functools.partial(coarse.apply, train=False))(variables, x).jaxpr
        )
        if equation.primitive.name == "conv_general_dilated"
    ]
    assert inside == [dtype] * 3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_convolution_can_be_replaced(name):
    called = []

    def convolution(x, kernel, *args, **kwargs):
        called.append(kernel.shape)
        return jax.lax.conv_general_dilated(x, kernel, *args, **kwargs)

    flat = paths(shapes(classifier(name, 10, convolution=convolution), size(name))["params"])
    kernels = [leaf.shape for leaf in flat.values() if leaf.ndim == 4]
    assert sorted(called) == sorted(kernels)
    assert bool(kernels) == (name != "mlp")


def test_a_replaced_convolution_is_used():
    x = images("small")
    variables = initial(classifier("small", 3), x)

    def twice(*args, **kwargs):
        return 2 * jax.lax.conv_general_dilated(*args, **kwargs)

    changed = classifier("small", 3, convolution=twice)
    doubled = {
        name: {"kernel": 2 * layer["kernel"]} if "conv" in name or name == "stem" else layer
        for name, layer in variables["params"].items()
        if "norm" not in name
    }
    expected = classifier("small", 3).apply(
        {**variables, "params": {**variables["params"], **doubled}}, x, train=False
    )
    np.testing.assert_allclose(changed.apply(variables, x, train=False), expected, atol=1e-5)


def test_initial_weights():
    network = classifier("small", 10, channels=(8, 64))
    init = fast(functools.partial(network.init, train=False))
    flat = paths(init(jax.random.key(0), images("small"))["params"])
    for path, outputs in (("stem", 8), ("conv2", 64)):
        kernel = np.asarray(flat[f"{path}/kernel"])
        assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * outputs)), rel=0.1)
    assert np.abs(kernel).max() > 3 * kernel.std()  # not truncated
    assert flat["head/kernel"].std() == pytest.approx(math.sqrt(2 / 64), rel=0.1)
    block = models.SeparableBlock(models.Layers(jnp.float32, None, False), 8, 1)
    kernel = fast(block.init)(jax.random.key(0), jnp.ones((1, 4, 4, 200)))["params"]["depthwise"]
    assert kernel["kernel"].shape == (3, 3, 1, 200)
    assert kernel["kernel"].std() == pytest.approx(math.sqrt(2 / 9), rel=0.1)


def test_dropout_is_for_training():
    network, x = classifier("alexnet", 3), jnp.zeros((1, 63, 63, 3), jnp.float32)
    variables = shapes(network, 63)

    def random_numbers(train, rngs):
        function = functools.partial(network.apply, train=train, rngs=rngs)
        names = [e.primitive.name for e in equations(jax.make_jaxpr(function)(variables, x).jaxpr)]
        return sum(name == "random_bits" for name in names)

    assert random_numbers(False, {}) == 0
    assert random_numbers(True, {"dropout": jax.random.key(0)}) == 2
    with pytest.raises(flax.errors.InvalidRngError):
        random_numbers(True, {})


def test_names_of_models():
    assert set(MODELS) == {"mlp", "small", *CIFAR, *IMAGENET}
    for name in MODELS:
        assert MODELS[name](10) == MODELS[name](classes=10) == classifier(name, 10)
        assert isinstance(classifier(name, 10), models.Classifier)
        assert hash(classifier(name, 10)) != hash(classifier(name, 11))
    assert classifier("small", 10, channels=(4, 8)) == models.SmallConvNet(10, (4, 8))
    assert classifier("mlp", 10, dtype=jnp.float16).dtype == jnp.float16


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: classifier("resnet19", 10), "name: expected one of"),
        (lambda: classifier("small", 10, width=3), "fields of SmallConvNet: expected one of"),
        (lambda: classifier("resnet20", 10, depth=32), "fields of CifarResNet: expected one of"),
        (lambda: classifier("small", 0), "classes: expected an integer of at least 1, got 0"),
        (lambda: classifier("mlp", 2.5), "classes: expected an integer of at least 1"),
        (lambda: classifier("mlp", 10, dtype=jnp.float64), "dtype: expected one of .*float64"),
        (lambda: classifier("mlp", 10, dtype="real"), "dtype: expected one of .*real"),
        (lambda: classifier("small", 10, convolution=3), "convolution: expected a function"),
        (lambda: models.CifarResNet(26, 10), "depth: expected one of .*110.*got 26"),
        (lambda: models.CifarResNet(21, 10), "depth: expected one of .*got 21"),
        (lambda: models.ResNet(34, 10), "depth: expected one of .*18, 50.*got 34"),
        (lambda: models.Perceptron((), 10), "widths: expected a tuple of at least one"),
        (lambda: models.Perceptron((3, 0), 10), "widths: expected an integer of at least 1"),
        (lambda: models.SmallConvNet(10, ()), "channels: expected a tuple of at least one"),
        (lambda: models.SmallConvNet(10, (1.5,)), "channels: expected an integer"),
    ],
)
def test_bad_fields(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bad_images(name):
    network = classifier(name, 10)

    def call(x):
        return jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), x)

    wrong = (5,) if name == "mlp" else (224, 224, 3)
    with pytest.raises(ValueError, match=r"x: expected .* got shape"):
        call(jnp.zeros(wrong, jnp.float32))
    with pytest.raises(ValueError, match=r"x: expected .* got shape"):
        call(jnp.zeros((0, 224, 224, 3), jnp.float32))
    with pytest.raises(ValueError, match="x: expected real floating point numbers, got uint8"):
        call(jnp.zeros((1, 224, 224, 3), jnp.uint8))
    if name != "mlp":
        with pytest.raises(ValueError, match=f"pixels, got {size(name) - 1} x 224"):
            call(jnp.zeros((1, size(name) - 1, 224, 3), jnp.float32))


GRIDS = {
    "real": None,
    "printed, in [-1, 1]": discretize.straight_through(lambda x: discretize.quantize(x, 8)),
    "signed": discretize.activation_quantizer(8),
    "unsigned": discretize.activation_quantizer(8, grid="unsigned"),
}


@functools.cache
def slope_at_the_start(grid):
    """Of MobileNet with weights of 8 bits, by parameters, statistics, images and labels."""
    how = discretize.uniform_policy(discretize.weight_quantizer(8), GRIDS[grid])
    apply = layers.quantized_apply(classifier("mobilenet", 3).apply, how)

    def loss(params, statistics, x, labels):
        variables = {"params": params, "batch_stats": statistics}
        out, _ = apply(variables, x, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()

    return fast(jax.grad(loss))


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_of_mobilenet_needs_the_scale_of_activations(seed):
    """Norms in docs/results/activation_scale.json are those printed here."""
    x = images("mobilenet", pixels=64, seed=seed)
    variables = initial(classifier("mobilenet", 3), x, seed)
    labels = jnp.asarray(np.random.default_rng(seed).integers(3, size=4))
    norms = {}
    for grid in GRIDS:
        slope = slope_at_the_start(grid)(variables["params"], variables["batch_stats"], x, labels)
        squares = [np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in jax.tree.leaves(slope)]
        norms[grid] = float(np.sqrt(sum(squares)))
    print({"seed": seed, **norms})
    # its square is more than float32 holds: clipping by the norm, for one, returns zeros
    assert norms["printed, in [-1, 1]"] ** 2 > float(np.finfo(np.float32).max)
    assert norms["real"] / 2 < norms["unsigned"] < 2 * norms["real"]
    assert norms["real"] / 5 < norms["signed"] < 5 * norms["real"]
