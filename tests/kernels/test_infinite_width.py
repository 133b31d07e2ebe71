"""Closed forms against neural-tangents, quadrature, wide networks, and themselves in float64."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from metricflow import _neural_tangents, ansatz, geometry, kernels
from metricflow.kernels import infinite_width
from tests.tolerances import tolerance

HERE = all(importlib.util.find_spec(name) for name in ("neural_tangents", "frozendict"))
NAMES = tuple(infinite_width.ACTIVATIONS)
SMOOTH = tuple(name for name in NAMES if name != "relu")
STATISTICS = infinite_width.STATISTICS
# s and s', up to the factor of the normalised exponential
FUNCTIONS = {
    "relu": (lambda u: np.maximum(u, 0), lambda u: 1.0 * (u > 0)),
    "erf": (scipy.special.erf, lambda u: 2 / np.sqrt(np.pi) * np.exp(-(u**2))),
    "gelu": (
        lambda u: u * scipy.special.ndtr(u),
        lambda u: scipy.special.ndtr(u) + u * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi),
    ),
    "sin": (np.sin, np.cos),
    "cos": (np.cos, lambda u: -np.sin(u)),
    "exp": (np.exp, np.exp),
}
EACH = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def stax():
    if not HERE:
        pytest.skip(_neural_tangents.INSTALL)
    return _neural_tangents.load().stax


@pytest.fixture(scope="module")
def points(quintic):
    """points(count, seed, dtype), seeds 0 and 1, of the same sample for both dtypes."""
    sets = [geometry.sample_points_in_chart(jax.random.key(i), quintic, 50).z for i in (0, 1)]

    def some(count, seed=0, dtype="float64"):
        return sets[seed][:count].astype(jnp.result_type(dtype, "complex64"))

    return some


def real(z: jax.Array) -> np.ndarray:
    return np.concatenate([np.asarray(z).real, np.asarray(z).imag], -1).astype(float)


def both(name, depth, weight, bias):
    return [kernels.InfiniteNetwork(name, depth, weight, bias, kind) for kind in STATISTICS]


def close(found, expected, dtype="float64", tol="closed form"):
    """Relative to the largest entry, which sets the size of rounding."""
    expected = np.asarray(expected, float)
    assert found.dtype == dtype
    error = np.max(np.abs(np.asarray(found, float) - expected))
    assert error < tolerance(tol, dtype) * np.max(np.abs(expected))


# --- neural-tangents -------------------------------------------------------------------------


def stax_kernel(stax, name, depth, weight, bias):
    # the random Fourier features of stax have the normalised exponential's kernel in every layer
    layer = {"exp": lambda: stax.Rbf(0.5)}.get(name) or getattr(stax, name.title())
    layers = [stax.Dense(1, weight, bias), layer()] * depth
    kernel = stax.serial(*layers, stax.Dense(1, weight, bias))[2]
    return jax.jit(lambda x, y: kernel(x, y, STATISTICS))


@EACH
@pytest.mark.parametrize(
    ("dtype", "depth", "weight", "bias"), [("float32", 1, 1.4, 0.0), ("float64", 2, 1.1, 0.6)]
)
def test_closed_forms_are_those_of_stax(stax, points, dtype, name, depth, weight, bias):
    z, w = points(20, 0, dtype), points(10, 1, dtype)
    w = jnp.concatenate([z[:10], w])
    # in a session of float64 stax answers in float64 whatever comes in
    with jax.enable_x64(dtype == "float64"):
        x, y = (jnp.concatenate([p.real, p.imag], -1) for p in (z, w))
        theirs = stax_kernel(stax, name, depth, weight, bias)(x, y)
        for network, kind in zip(both(name, depth, weight, bias), STATISTICS, strict=True):
            found, expected = network.matrix(z, w), getattr(theirs, kind)
            assert expected.dtype == dtype
            close(found[:, 10:], expected[:, 10:], dtype)
            if name != "relu":
                close(found, expected, dtype)
            else:
                # stax takes the angle from sqrt(q q' - K^2), which ours avoids: on the diagonal,
                # where it is 0, half of its digits are lost
                half = np.sqrt(np.finfo(dtype).eps)
                np.testing.assert_allclose(found, expected, rtol=3 * half)


# --- the definition --------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMOOTH)
def test_one_layer_is_a_gaussian_average(name):
    """K' = w^2 E[s(u) s(v)] + b^2, Theta' = K' + w^2 E[s'(u) s'(v)] K, by quadrature."""
    function, slope = FUNCTIONS[name]
    weight, bias = 0.9, 0.3
    x, y = np.random.default_rng(0).normal(size=(2, 4, 5))
    x[0] = y[0]
    k, q, r = (weight**2 * np.sum(a * b, -1) / 5 + bias**2 for a, b in ((x, y), (x, x), (y, y)))
    node, share = np.polynomial.hermite_e.hermegauss(90)
    share = np.outer(share, share) / np.sum(share) ** 2
    expand = (..., None, None)
    u = np.sqrt(q)[expand] * node[:, None] + 0 * node
    rest = np.sqrt(np.maximum(r - k**2 / q, 0))
    v = (k / np.sqrt(q))[expand] * node[:, None] + rest[expand] * node
    norm = np.exp(-q - r) if name == "exp" else 1  # sqrt(E exp(2u)) = exp(q)
    covariance = weight**2 * norm * np.sum(share * function(u) * function(v), (-2, -1)) + bias**2
    theta = covariance + weight**2 * norm * np.sum(share * slope(u) * slope(v), (-2, -1)) * k
    for network, expected in zip(both(name, 1, weight, bias), (theta, covariance), strict=True):
        found = jnp.diagonal(network.matrix(jnp.asarray(x), jnp.asarray(y)))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def relu_recursion(x: np.ndarray, y: np.ndarray, depth: int, weight: float, bias: float):
    """The textbook form with arccos, in extended precision: off the diagonal only."""
    x, y = x.astype(np.longdouble), y.astype(np.longdouble)
    k, q, r = (
        weight**2 * np.sum(a * b, -1) / x.shape[-1] + bias**2 for a, b in ((x, y), (x, x), (y, y))
    )
    theta = k
    for _ in range(depth):
        s = np.sqrt(q * r)
        t = np.arccos(np.clip(k / s, -1, 1))
        k = weight**2 * s * (np.sin(t) + (np.pi - t) * np.cos(t)) / (2 * np.pi) + bias**2
        theta = k + weight**2 * (np.pi - t) / (2 * np.pi) * theta
        q, r = weight**2 * q / 2 + bias**2, weight**2 * r / 2 + bias**2
    return theta.astype(float)


@pytest.mark.equation("MF 2.9", "MF 2.12")
@pytest.mark.parametrize("depth", [1, 5])
def test_relu_is_the_recursion_off_the_diagonal(points, dtype, depth):
    z, w = points(20, 0, dtype), points(20, 1, dtype)
    for weight, bias in ((1.4, 0.0), (1.0, 0.7)):
        found = kernels.InfiniteNetwork("relu", depth, weight, bias).matrix(z, w)
        close(found, relu_recursion(real(z)[:, None], real(w)[None], depth, weight, bias), dtype)


@pytest.mark.parametrize("depth", [1, 10])
def test_relu_is_right_on_the_diagonal(points, dtype, depth):
    z = points(20, 0, dtype)
    weight, bias = 1.3, 0.2
    network = kernels.InfiniteNetwork("relu", depth, weight, bias)
    # t = 0: K' = w^2 q / 2 + b^2 and Theta' = K' + w^2 / 2 Theta
    q = weight**2 * np.sum(real(z) ** 2, 1) / 10 + bias**2
    theta = q
    for _ in range(depth):
        q = weight**2 * q / 2 + bias**2
        theta = q + weight**2 / 2 * theta
    # sigma_w in float32 enters twenty times at depth 10
    close(jnp.diagonal(network.matrix(z, z)), theta, dtype, "kernel")


# --- rounding --------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize(("weight", "bias"), [(1.4, 0.0), (2.5, 0.5)])
def test_float32_is_right_on_and_near_the_diagonal_and_its_antipode(points, name, weight, bias):
    z, other = points(20), points(2, 1)
    offsets = (0.0, 1e-2, 1e-3, 1e-4, 1e-6)
    w = jnp.asarray([s * (np.asarray(z[:2]) + e * other) for s in (1.0, -1.0) for e in offsets])
    w = w.reshape(-1, z.shape[1])
    # the kernel of the float32 inputs, in float32 and in float64
    zs, ws = z.astype("complex64"), w.astype("complex64")
    for network in both(name, 2, weight, bias):
        wide = network.matrix(zs.astype("complex128"), ws.astype("complex128"))
        # sums of layers grow with the weights, and rounding of the small entries with them
        close(network.matrix(zs, ws), wide, "float32")


@EACH
@pytest.mark.parametrize("q", [1e-3, 0.7, 40.0])
def test_small_distances_keep_their_digits(name, q):
    """E[(s(u) - s(v))^2] -> E[s'(u)^2 (u - v)^2]: differences of moments would be rounding.

    With different lengths v = (1 + e) u + an independent part.
    """
    u = np.sqrt(q) * np.linspace(-9, 9, 20_000)  # not at 0, where relu has a kink
    share = np.exp(-(u**2) / (2 * q))
    share = share / share.sum() * FUNCTIONS[name][1](u) ** 2
    straight, turned = np.sum(share * u**2) / q, np.sum(share)
    if name == "exp":  # normalised, it only sees D
        straight = turned = 1
    for gap in (1e-12, 1e-20):
        for fraction in (0.0, 0.3):  # part of D that comes from different lengths
            stretch = np.sqrt(fraction * gap / q)
            q1, q2, small = (jnp.full((1, 1), x) for x in (q, q * (1 + stretch) ** 2, gap))
            pair = infinite_width._Pair(q1, q2, small, 2 * (q1 + q2) - small)
            found = infinite_width.ACTIVATIONS[name](pair)
            expected = gap * (fraction * straight + (1 - fraction) * turned)
            rtol = 1e-3 if fraction else 1e-5
            np.testing.assert_allclose(found.distance2, expected, rtol=rtol)
            np.testing.assert_allclose(found.slope, turned, rtol=1e-3)


def test_large_weights_of_erf_keep_their_digits(points):
    """erf is nearly a sign then, and K' has nearly a cusp."""
    z = points(20)
    w = jnp.concatenate([z, -z, z + 1e-3 * points(20, 1)])
    zs, ws = z.astype("complex64"), w.astype("complex64")
    network = kernels.InfiniteNetwork("erf", 1, 100.0)
    wide = network.matrix(zs.astype("complex128"), ws.astype("complex128"))
    close(network.matrix(zs, ws), wide, "float32")


# --- wide networks ---------------------------------------------------------------------------


def wide_kernels(width, name, weight, bias, x, draws):
    network = ansatz.Mlp((width,), name, 1, "ntk", weight**2, weight**2, weight**2, bias)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x[0])
    rng = np.random.default_rng(width)
    trees = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=(draws, *leaf.shape))), shapes)

    @jax.jit
    def each(trees):
        return jax.lax.map(lambda tree: kernels.metric_ntk(network, tree, x)[..., 0, 0], trees)

    return np.asarray(each(trees))


@pytest.mark.equation("MF 2.9", "MF 2.11")
@pytest.mark.parametrize("name", ["relu", "erf", "sin"])
def test_kernels_of_random_networks_tend_to_the_closed_form(name):
    """Unbiased at any width with one hidden layer, and off by width^(-1/2)."""
    weight, bias, draws = 1.3, 0.4, 48
    x = jnp.asarray(np.random.default_rng(2).normal(size=(5, 6)))
    expected = np.asarray(kernels.InfiniteNetwork(name, 1, weight, bias).matrix(x, x))
    widths, errors = (64, 512, 4096), []
    for width in widths:
        found = wide_kernels(width, name, weight, bias, x, draws)
        deviation = np.abs(found.mean(0) - expected)
        assert np.all(deviation < 4.5 * found.std(0) / np.sqrt(draws))
        errors.append(np.sqrt(np.mean((found - expected) ** 2)))
    order = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert -0.65 < order < -0.35


@pytest.mark.equation("MF 2.21", "MF 2.22")
def test_independent_networks_share_one_kernel_and_do_not_mix():
    """Theta_IJ = delta_IJ Theta^I, and every Theta^I tends to the one of the closed form."""
    weight, draws, count = 1.3, 12, 4
    x = jnp.asarray(np.random.default_rng(3).normal(size=(4, 6)))
    expected = np.asarray(kernels.InfiniteNetwork("erf", 1, weight).matrix(x, x))
    errors = []
    for width in (64, 1024):
        one = ansatz.Mlp((width,), "erf", None, "ntk", weight**2, weight**2, weight**2)
        network = ansatz.IndependentNetworks(one, count)
        shapes = jax.eval_shape(network.init, jax.random.key(0), x[0])
        rng = np.random.default_rng(width)
        trees = jax.tree.map(lambda v, r=rng: jnp.asarray(r.normal(size=(draws, *v.shape))), shapes)

        @jax.jit
        def each(trees, network=network):
            return jax.lax.map(lambda tree: kernels.metric_ntk(network, tree, x), trees)

        found = np.asarray(each(trees))
        assert np.all(found[..., ~np.eye(count, dtype=bool)] == 0)
        diagonal = np.moveaxis(np.diagonal(found, axis1=-2, axis2=-1), -1, 1)
        spread = diagonal.std((0, 1)) / np.sqrt(draws)
        assert np.all(np.abs(diagonal.mean(0) - expected) < 4.5 * spread)
        errors.append(np.sqrt(np.mean((diagonal - expected) ** 2, axis=(0, 2, 3))))
    # sixteen times the width, a quarter of the error in each component
    ratio = errors[0] / errors[1]
    assert ratio.shape == (count,)
    assert np.all((ratio > 2.2) & (ratio < 7))


# --- what a kernel must be -------------------------------------------------------------------


@EACH
def test_kernels_are_symmetric_and_positive_semi_definite(points, name):
    z = points(20)
    for network in both(name, 2, 1.4, 0.1):
        matrix = np.asarray(network.matrix(z, z))
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-14 * matrix.max())
        eigenvalues = np.linalg.eigvalsh(matrix)
        assert eigenvalues[0] > -1e-13 * eigenvalues[-1]
        assert eigenvalues[-1] > 0


@EACH
def test_derivatives_on_the_diagonal(points, name):
    z, directions = points(4), points(4, 1)

    def matrix(at):
        network = kernels.InfiniteNetwork(name, 1, at[0], at[1])
        return network.matrix(z + at[2] * directions, z)

    @jax.jit
    def both(at):
        """Derivatives by the numbers and along a line through the diagonal, and differences."""
        small, step = 1e-5, 1e-4
        shifts = jnp.concatenate([small * jnp.eye(3), -small * jnp.eye(3), jnp.zeros((3, 3))])
        shifts = shifts.at[6:8, 2].set(jnp.asarray([step, -step]))
        values = jax.vmap(matrix)(at + shifts)
        differences = (values[:3] - values[3:6]) / (2 * small)
        bend = (values[6] - 2 * values[8] + values[7]) / step**2
        line = jax.jacfwd(jax.jacfwd(lambda t: matrix(at.at[2].set(t))))(at[2])
        first = jnp.moveaxis(jax.jacfwd(matrix)(at), -1, 0)
        return (first, differences), (line, bend)

    first, second = both(jnp.asarray([1.3, 0.2, 0.0]))
    # on the diagonal relu has a cusp along lines: the derivative is the mean of both sides
    pairs = [(first, tolerance("difference")), (second, 10 * tolerance("difference"))]
    for (found, expected), tol in pairs[: 1 if name == "relu" else 2]:
        np.testing.assert_allclose(found, expected, atol=tol * np.abs(expected).max())
    assert np.all(np.isfinite(second[0]))


@EACH
def test_the_origin_is_a_point_like_others(name):
    """q = 0 without biases: square roots and quotients must not turn into NaN."""
    x = jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3)])

    def matrix(x, weight):
        return kernels.InfiniteNetwork(name, 1, weight).matrix(x, x)

    both = jax.jit(lambda *at: [d(matrix, argnums=(0, 1))(*at) for d in (jax.jacfwd, jax.jacrev)])
    forward, backward = both(x, 1.3)
    for one, other in zip(forward, backward, strict=True):
        assert np.all(np.isfinite(one))
        np.testing.assert_allclose(one, other, atol=1e-12)
    np.testing.assert_allclose(matrix(x, 1.3), matrix(x.at[0].set(1e-9), 1.3), atol=1e-7)


def test_many_components_and_large_sets_take_no_third_axis():
    x, y = np.random.default_rng(0).normal(size=(2, 6, 77))
    found = kernels.InfiniteNetwork("relu", 2, 1.4, 0.3).matrix(jnp.asarray(x), jnp.asarray(y))
    close(found, relu_recursion(x[:, None], y[None], 2, 1.4, 0.3))
    large = jax.ShapeDtypeStruct((2000, 100), jnp.float32)
    lowered = infinite_width._matrix.lower(
        kernels.InfiniteNetwork("erf", 1, 1.0, 0.1), large, large
    )
    used = lowered.compile().memory_analysis().temp_size_in_bytes
    assert used < 2e8  # with a third axis 1.6e9


def test_changing_the_weights_does_not_compile_again(points):
    z = points(7)
    before = infinite_width._matrix._cache_size()
    for weight in (1.0, 1.1, 1.2):
        kernels.InfiniteNetwork("sin", 1, jnp.asarray(weight), jnp.asarray(0.1)).matrix(z, z)
    assert infinite_width._matrix._cache_size() == before + 1


ONES = np.ones((2, 3))


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kernels.InfiniteNetwork("tanh"), "activation: expected one of .*got 'tanh'"),
        (lambda: kernels.InfiniteNetwork(depth=0), "depth"),
        (lambda: kernels.InfiniteNetwork(weight_std=-1.0), "weight_std"),
        (lambda: kernels.InfiniteNetwork(bias_std=-0.1), "bias_std: .*got -0.1"),
        (lambda: kernels.InfiniteNetwork(bias_std=float("nan")), "bias_std"),
        (lambda: kernels.InfiniteNetwork(statistic="nngtk"), "statistic: .*'ntk', 'nngp'"),
        (
            lambda: kernels.InfiniteNetwork().matrix(ONES[0], ONES),
            r"z1: .* got float64 of shape \(3,\)",
        ),
        (lambda: kernels.InfiniteNetwork().matrix(ONES[:, :2], ONES), r"z2: .*k = 2 in z1, got"),
        (lambda: kernels.InfiniteNetwork().matrix(ONES + 0j, ONES), "dtype, got complex128 and"),
        (
            lambda: kernels.InfiniteNetwork().matrix(ONES.astype(int), ONES.astype(int)),
            "z1: .*got int64",
        ),
    ],
)
def test_what_is_no_network_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
