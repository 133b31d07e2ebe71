"""Perceptrons, independent networks and cosine networks against formulas by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz, kernels
from metricflow.ansatz.networks import ACTIVATIONS, PARAMETERISATIONS, SMOOTH
from tests.tolerances import tolerance

CLOSE = tolerance("algebra")
BY_HAND = {
    "tanh": np.tanh,
    "sin": np.sin,
    "relu": lambda x: np.maximum(x, 0),
    "softplus": lambda x: np.log1p(np.exp(x)),
}
PARAMETERISED = pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)


def mlp(widths, activation="tanh", parameterisation="standard", outputs=None):
    """With four different numbers, so that none can stand for another."""
    return ansatz.Mlp(
        widths,
        activation,
        outputs=outputs,
        parameterisation=parameterisation,
        input_variance=0.7,
        hidden_variance=2.3,
        output_variance=0.2,
        bias_std=0.4,
    )


def drawn(network, inputs):
    """Parameters as the network begins with them."""
    x = jnp.ones(inputs)
    return jax.jit(lambda key: ansatz.initial_parameters(key, network, x))(jax.random.key(0))


def shapes(network, inputs, dtype="float64"):
    x = jax.ShapeDtypeStruct((inputs,), dtype)
    return jax.eval_shape(network.init, jax.random.key(0), x)


def filled(network, inputs, dtype="float64", draws=()):
    """Standard normal parameters without the initialisation of the network: nothing to compile."""
    rng = np.random.default_rng(3)

    def normal(leaf):
        return jnp.asarray(rng.normal(size=(*draws, *leaf.shape)), leaf.dtype)

    return jax.tree.map(normal, shapes(network, inputs, dtype))


def value(network, tree, x):
    return jax.jit(network.apply)(tree, jnp.asarray(x))


def factors(network, tree):
    """What stands in front of the weights and biases of every layer, by hand."""
    shapes = [tree["params"][f"Dense_{i}"]["kernel"].shape for i in range(len(network.widths) + 1)]
    middle = [network.hidden_variance] * (len(shapes) - 2)
    variances = [network.input_variance, *middle, network.output_variance]
    return [np.sqrt(v / shape[0]) for v, shape in zip(variances, shapes, strict=True)]


def perceptron(network, tree, x):
    """y = W h + b with loops, nothing of the library."""
    ntk = network.parameterisation == "ntk"
    h = np.asarray(x)
    scales = factors(network, tree)
    for place, scale in enumerate(scales):
        layer = {k: np.asarray(v) for k, v in tree["params"][f"Dense_{place}"].items()}
        kernel, bias = layer["kernel"], layer.get("bias", np.zeros(()))
        before = np.zeros(kernel.shape[1])
        for j in range(kernel.shape[1]):
            before[j] = sum(h[i] * kernel[i, j] for i in range(len(h))) * (scale if ntk else 1)
        before = before + (network.bias_std if ntk else 1) * bias
        h = before if place == len(scales) - 1 else BY_HAND[network.activation](before)
    return h[0] if network.outputs is None else h


@PARAMETERISED
@pytest.mark.parametrize(
    ("widths", "activation", "outputs"),
    [((5,), "relu", 1), ((4, 6), "tanh", None), ((3, 5, 2), "softplus", 3)],
)
def test_a_perceptron_is_layers_with_activations_between(
    parameterisation, widths, activation, outputs
):
    network = mlp(widths, activation, parameterisation, outputs)
    tree = filled(network, 3)
    x = jnp.array([0.5, -1.5, 2.0])
    found = value(network, tree, x)
    assert found.shape == (() if outputs is None else (outputs,))
    np.testing.assert_allclose(found, perceptron(network, tree, x), rtol=CLOSE)
    assert np.all(np.abs(found) > 1e-3)
    # a constant moves no metric: a potential has none
    assert ("bias" in tree["params"][f"Dense_{len(widths)}"]) == (outputs is not None)


@PARAMETERISED
@pytest.mark.parametrize("outputs", [None, 2])
def test_layers_act_as_the_network_does(parameterisation, outputs):
    network = mlp((4, 3, 6), "sin", parameterisation, outputs)
    tree = filled(network, 5)
    x = np.linspace(-1, 2, 5)
    h = x
    *hidden, (last, offset) = network.layers(tree)
    assert len(hidden) == 3
    for kernel, bias in hidden:
        h = np.sin(h @ np.asarray(kernel) + np.asarray(bias))
    assert (offset is None) == (outputs is None)
    found = h @ np.asarray(last) + (0 if offset is None else np.asarray(offset))
    np.testing.assert_allclose(np.squeeze(found), value(network, tree, x), rtol=CLOSE)


def test_both_parameterisations_are_one_function_of_matched_parameters():
    networks = [mlp((4, 5), "tanh", kind, 3) for kind in PARAMETERISATIONS]
    standard, ntk = networks
    tree = filled(ntk, 3)
    matched = {
        f"Dense_{i}": {
            "kernel": scale * tree["params"][f"Dense_{i}"]["kernel"],
            "bias": 0.4 * tree["params"][f"Dense_{i}"]["bias"],
        }
        for i, scale in enumerate(factors(ntk, tree))
    }
    x = jnp.array([0.5, -1.5, 2.0])
    found = value(standard, {"params": matched}, x)
    np.testing.assert_allclose(found, value(ntk, tree, x), rtol=CLOSE)


def assert_normal(sample, std):
    """Mean zero and this spread, within four standard errors."""
    sample = np.ravel(sample)
    assert abs(sample.mean()) < 4 * std / np.sqrt(sample.size)
    assert abs(sample.var() / std**2 - 1) < 4 * np.sqrt(2 / sample.size)
    assert abs(np.mean(sample**4) / std**4 / 3 - 1) < 4 * np.sqrt(96 / 9 / sample.size)


@PARAMETERISED
def test_wide_layers_begin_with_the_variances_they_are_given(parameterisation):
    network = mlp((200, 150, 250), "tanh", parameterisation, 80)
    tree = drawn(network, 100)
    layers = network.layers(tree)
    variances = [0.7, 2.3, 2.3, 0.2]
    for inputs, (kernel, bias), v in zip([100, 200, 150, 250], layers, variances, strict=True):
        assert kernel.shape[0] == inputs
        assert_normal(kernel, np.sqrt(v / inputs))
        assert_normal(bias, 0.4)
    if parameterisation == "ntk":
        for leaf in jax.tree.leaves(tree):
            assert_normal(leaf, 1)


@PARAMETERISED
def test_biases_begin_at_zero_by_default(parameterisation):
    network = ansatz.Mlp((4,), parameterisation=parameterisation, outputs=2)
    tree = (filled if parameterisation == "ntk" else drawn)(network, 3)
    assert all(not np.any(bias) for _, bias in network.layers(tree))


@pytest.mark.parametrize(
    ("network", "count"),
    [
        # 10 128 + 128, twice 128 128 + 128, 128 9 + 9
        (ansatz.component_mlp(3, (128, 128, 128)), 35593),
        (ansatz.component_mlp(3, (128, 128, 128), parameterisation="ntk"), 35593),
        # nine of 10 8 + 8, 8 6 + 6, 6
        (ansatz.component_mlp(3, (8, 6), independent=True), 9 * 148),
        # 10 8 + 8, 8
        (ansatz.mlp((8,)), 96),
        # frequencies, phases, amplitudes
        (ansatz.CosineNetwork(7, outputs=9), 10 * 7 + 7 + 7 * 9),
        (ansatz.CosineNetwork(7), 10 * 7 + 7 + 7),
    ],
)
def test_numbers_of_parameters(network, count):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(network, 10))) == count


def tangent_kernel(network, tree, x, y):
    """Theta_(cd)(x, y) = sum_p dphi_c(x)/dp dphi_d(y)/dp."""

    def jacobian(at):
        found = jax.jacrev(lambda t: jnp.atleast_1d(network.apply(t, at)))(tree)
        return [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(found)]

    return sum(a @ b.T for a, b in zip(jacobian(x), jacobian(y), strict=True))


def sample_of_kernels(network, x, y, draws):
    """Theta(x, y) of a network of one output at many initialisations."""
    if getattr(network, "parameterisation", None) == "ntk":
        trees = filled(network, len(x), draws=(draws,))
    else:
        trees = jax.vmap(lambda key: network.init(key, x))(
            jax.random.split(jax.random.key(3), draws)
        )

    def at(tree):
        return tangent_kernel(network, tree, x, y)[0, 0]

    return np.asarray(jax.jit(lambda trees: jax.lax.map(at, trees, batch_size=16))(trees))


@pytest.fixture(scope="module")
def pair():
    x, y = np.random.default_rng(0).normal(size=(2, 6))
    return jnp.asarray(x), jnp.asarray(x + 0.5 * y)


def test_tangent_kernels_of_wide_networks_vary_less(pair):
    """In the NTK parameterisation: one limit, and fluctuations that fall like width^(-1/2)."""
    widths, spread, mean = (16, 128), [], []
    for width in widths:
        network = ansatz.Mlp(
            (width, width), "gelu", None, "ntk", 1.0, hidden_variance=2.0, bias_std=0.3
        )
        found = sample_of_kernels(network, *pair, 256)
        mean.append(found.mean())
        spread.append(found.std() / found.mean())
    assert -0.6 < np.log(spread[1] / spread[0]) / np.log(8) < -0.4
    assert mean[1] == pytest.approx(mean[0], rel=0.2)


def test_the_standard_parameterisation_has_a_kernel_that_grows_with_the_width(pair):
    few, many = (
        sample_of_kernels(ansatz.Mlp((width,), "tanh"), *pair, 64).mean() for width in (64, 512)
    )
    assert 6 < many / few < 9


@pytest.mark.parametrize(("depth", "variance", "bias_std"), [(1, 1.3, 0.4), (3, 0.8, 0.7)])
def test_wide_relu_networks_have_the_closed_form_tangent_kernel(pair, depth, variance, bias_std):
    """Every variance one sigma_w^2; the kernel of the library adds the bias of the output."""
    network = ansatz.Mlp((192,) * depth, "relu", 1, "ntk", variance, variance, variance, bias_std)
    found = sample_of_kernels(network, *pair, 128)
    closed = kernels.InfiniteNetwork("relu", depth, variance**0.5, bias_std)
    z = [(x[:3] + 1j * x[3:])[None] for x in pair]
    expected = float(closed.matrix(*z)[0, 0])
    assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(128) + 0.01 * expected


def component(tree, place):
    """The parameters of one of several independent networks."""
    own = jax.tree.map(lambda leaf: np.asarray(leaf)[place], tree["params"]["network"])
    return {"params": own}


@pytest.mark.equation("MF 2.19", "MF 2.20")
def test_independent_networks_have_a_kernel_that_mixes_no_components(pair):
    """Their kernel is diagonal in the components, each the kernel of its own network."""
    options = {"parameterisation": "ntk", "output_variance": 1.0, "bias_std": 0.5}
    network = ansatz.component_mlp(2, (5, 4), independent=True, **options)
    tree = drawn(network, 6)
    x, y = pair
    kernel = jax.jit(tangent_kernel, static_argnums=0)
    together = np.asarray(kernel(network, tree, x, y))
    assert together.shape == (4, 4)
    assert np.all(together[~np.eye(4, dtype=bool)] == 0)
    values = value(network, tree, x)
    for c in range(4):
        own = component(tree, c)
        np.testing.assert_allclose(values[c], value(network.network, own, x), rtol=CLOSE)
        alone = kernel(network.network, own, x, y)
        np.testing.assert_allclose(together[c, c], alone[0, 0], rtol=CLOSE)
    # no two of them begin alike, in a network of several outputs they do mix
    assert np.min(np.abs(np.subtract.outer(values, values))[~np.eye(4, dtype=bool)]) > 1e-3
    shared = ansatz.component_mlp(2, (5, 4), **options)
    mixed = np.asarray(kernel(shared, filled(shared, 6), x, y))
    assert np.min(np.abs(mixed[~np.eye(4, dtype=bool)])) > 1e-4


def test_independent_networks_of_any_kind(pair):
    network = ansatz.IndependentNetworks(ansatz.CosineNetwork(6), 3)
    tree = filled(network, 6)
    values = value(network, tree, pair[0])
    assert values.shape == (3,)
    for c in range(3):
        alone = value(network.network, component(tree, c), pair[0])
        np.testing.assert_allclose(values[c], alone, rtol=CLOSE)


@pytest.mark.equation("MF 2.32")
@pytest.mark.parametrize("normalised", [False, True])
def test_a_cosine_network_is_a_sum_of_cosines(normalised):
    network = ansatz.CosineNetwork(5, 1.7, 2, normalised)
    tree = filled(network, 3)
    w, b, a = (np.asarray(tree["params"][k]) for k in ("frequency", "phase", "amplitude"))
    x = np.array([0.5, -1.5, 2.0])
    A = np.sqrt(2) * ((1.7**2 / (2 * np.pi * 3)) ** (3 / 4) if normalised else 1)
    expected = [
        A / np.sqrt(5) * sum(a[i, c] * np.cos(w[:, i] @ x + b[i]) for i in range(5))
        for c in range(2)
    ]
    np.testing.assert_allclose(value(network, tree, x), expected, rtol=CLOSE)
    single = ansatz.CosineNetwork(5, 1.7, None, normalised)
    tree["params"]["amplitude"] = tree["params"]["amplitude"][:, 1:]
    np.testing.assert_allclose(value(single, tree, x), expected[1], rtol=CLOSE)


@pytest.mark.equation("MF 2.32", "MF 2.37")
def test_the_weights_of_a_cosine_network_begin_as_they_should():
    tree = drawn(ansatz.CosineNetwork(20_000, 1.7, 2), 6)["params"]
    assert_normal(tree["frequency"], 1.7 / np.sqrt(6))
    assert_normal(tree["amplitude"], 1)
    phase = np.sort(tree["phase"])
    uniform = np.linspace(-np.pi, np.pi, len(phase))
    assert np.abs(phase - uniform).max() < 2 * 2 * np.pi / np.sqrt(len(phase))  # Kolmogorov


def amplitude_slopes(network, tree, x):
    """dphi(x) / da_i of a cosine network of one output."""

    def phi(amplitude):
        return network.apply({"params": {**tree["params"], "amplitude": amplitude}}, x)

    return jax.grad(phi)(tree["params"]["amplitude"])[:, 0]


def network_constant(network, inputs):
    """The A that a network uses: its slope A N^(-1/2) cos(w . x + b) where w and b vanish."""
    tree = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes(network, inputs))
    slope = np.asarray(jax.jit(amplitude_slopes, static_argnums=0)(network, tree, jnp.ones(inputs)))
    assert np.ptp(slope) == 0
    return float(slope[0]) * np.sqrt(network.width)


def gaussian(A, weight_std, inputs, square):
    """The kernel in the limit, a function of |x - x'|^2."""
    return A**2 / 2 * np.exp(-(weight_std**2) * square / (2 * inputs))


@pytest.mark.equation("MF 2.32", "MF 2.36", "MF 2.37")
@pytest.mark.parametrize(("inputs", "normalised"), [(1, True), (3, False)])
def test_the_kernel_of_the_amplitudes_tends_to_a_gaussian(inputs, normalised):
    """The error of a network falls like width^(-1/2), that of their mean like draws^(-1/2)."""
    std, draws = 1.6, 300
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, inputs)))
    square = np.sum((np.asarray(x)[:, None] - np.asarray(x)[None]) ** 2, axis=-1)
    widths, errors = (16, 128, 1024), []
    for width in widths:
        network = ansatz.CosineNetwork(width, std, None, normalised)
        A = network_constant(network, inputs)
        expected = gaussian(A, std, inputs, square)

        def kernel(key, network=network):
            tree = network.init(key, x[0])
            slopes = jax.vmap(lambda at: amplitude_slopes(network, tree, at))(x)
            return slopes @ slopes.T

        keys = jax.random.split(jax.random.key(width), draws)
        found = np.asarray(jax.jit(jax.vmap(kernel))(keys))
        # cos(u) cos(u') has variance below 1/4 and there are width draws of them
        assert np.all(np.abs(found.mean(axis=0) - expected) < 4 * A**2 / 2 / np.sqrt(width * draws))
        errors.append(np.sqrt(np.mean((found - expected) ** 2)))
    order = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert -0.55 < order < -0.45


@pytest.mark.equation("MF 2.36", "MF 2.37")
@pytest.mark.parametrize("std", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("inputs", [1, 2])
def test_the_normalised_gaussian_has_integral_one_and_width_sqrt_d_over_s(inputs, std):
    """By the trapezoidal rule, exact to rounding for a Gaussian on a grid like this."""
    A = network_constant(ansatz.CosineNetwork(4, std, None, True), inputs)
    width = np.sqrt(inputs) / std
    grid = np.linspace(-9 * width, 9 * width, 181)
    step = grid[1] - grid[0]
    square = sum(axis**2 for axis in np.meshgrid(*[grid] * inputs))
    density = gaussian(A, std, inputs, square) * step**inputs
    assert density.sum() == pytest.approx(1, abs=CLOSE)
    assert (square * density).sum() == pytest.approx(inputs * width**2, rel=CLOSE)
    assert network_constant(ansatz.CosineNetwork(4, std), inputs) == pytest.approx(2**0.5)


NETWORKS = {
    "potential": ansatz.mlp((4, 3), "softplus"),
    "standard": ansatz.component_mlp(2, (4, 3), "erf", bias_std=0.3),
    "ntk": ansatz.component_mlp(2, (4, 3), "relu", parameterisation="ntk", bias_std=0.3),
    "independent": ansatz.component_mlp(2, (4,), independent=True),
    "cosine": ansatz.CosineNetwork(4, 1.7, 3, True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_keep_the_precision_of_their_inputs(name, dtype):
    network = NETWORKS[name]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(network, 3, dtype))} == {np.dtype(dtype)}
    tree = filled(network, 3, dtype)
    x = jnp.asarray([0.5, -1.5, 2.0], dtype)
    found = value(network, tree, x)
    assert found.dtype == dtype
    slopes = jax.eval_shape(jax.grad(lambda t: jnp.sum(network.apply(t, x))), tree)
    assert {leaf.dtype for leaf in jax.tree.leaves(slopes)} == {np.dtype(dtype)}
    if isinstance(network, ansatz.Mlp):
        assert {leaf.dtype for leaf in jax.tree.leaves(network.layers(tree))} == {np.dtype(dtype)}
    # the same numbers, however wide they are stored
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, "float64"), tree)
    tol = tolerance("algebra", dtype)
    expected = value(network, wide, np.asarray(x, "float64"))
    np.testing.assert_allclose(found, expected, rtol=tol, atol=1e-2 * tol)


@pytest.mark.parametrize("make", [ansatz.mlp, lambda *a: ansatz.component_mlp(1, *a)])
def test_any_function_can_be_the_activation(make):
    def bump(x):
        return x / (1 + x**2)

    network, x = make((5, 4), bump), jnp.array([0.5, -1.5, 2.0])
    tree = filled(network, 3)
    *hidden, (last, offset) = network.layers(tree)
    h = np.asarray(x)
    for kernel, bias in hidden:
        h = bump(h @ np.asarray(kernel) + np.asarray(bias))
    expected = np.squeeze(h @ np.asarray(last) + (0 if offset is None else np.asarray(offset)))
    np.testing.assert_allclose(np.squeeze(value(network, tree, x)), expected, rtol=CLOSE)
    assert network.function is bump


def test_activations_by_name_are_those_functions():
    x = jnp.linspace(-2, 2, 9)

    @jax.jit
    def both():
        bends = {k: jax.vmap(jax.grad(jax.grad(f)))(x) for k, f in ACTIVATIONS.items()}
        return {k: f(x) for k, f in ACTIVATIONS.items()}, bends

    values, bends = both()
    for name, by_hand in BY_HAND.items():
        np.testing.assert_allclose(values[name], by_hand(np.asarray(x)), atol=CLOSE)
    # every smooth one has a second derivative somewhere, relu has none
    for name, bend in bends.items():
        assert np.any(np.abs(bend) > 0.1) == (name in SMOOTH)


def test_equal_networks_are_one_static_argument():
    """They stand for compiled programs: equal ones must not compile twice."""
    one, two = (ansatz.component_mlp(2, [4, 3], independent=True) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != ansatz.component_mlp(2, [4, 2], independent=True)
    assert ansatz.mlp([4], "tanh") != ansatz.mlp([4], "gelu")


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("make", [ansatz.mlp, lambda *a: ansatz.component_mlp(2, *a)])
def test_bad_widths_and_activations_are_named(make):
    with pytest.raises(ValueError, match=r"activation: expected one of .*tanh.* got 'swish'"):
        make((4,), "swish")
    with pytest.raises(ValueError, match="widths: expected at least one"):
        make(())
    for widths in ((4, 0), (2.5,), (True,), (-3,)):
        with pytest.raises(ValueError, match="widths: expected an integer of at least 1"):
            make(widths)


@pytest.mark.usefixtures("as_user")
def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"activation: expected one of .* got 'relu'") as caught:
        ansatz.mlp((4,), "relu")
    assert "'relu'" not in str(caught.value).split("got")[0]
    assert ansatz.component_mlp(2, (4,), "relu").activation == "relu"
    with pytest.raises(ValueError, match=r"parameterisation: expected one of .*ntk.* got 'mup'"):
        ansatz.component_mlp(2, (4,), parameterisation="mup")
    for dim in (0, 1.5, True):
        with pytest.raises(ValueError, match="dim: expected an integer of at least 1"):
            ansatz.component_mlp(dim, (4,))
