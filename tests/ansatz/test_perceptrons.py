"""Complex Hessians of perceptrons: by hand, by automatic differentiation, by differences."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metricflow import ansatz, geometry
from metricflow.ansatz import potentials
from metricflow.ansatz.networks import SMOOTH
from tests.tolerances import tolerance

CLOSE = tolerance("algebra")
WIDTHS = (5, 3, 4, 6)
INPUTS, COUNT = 4, 7


def random_layers(depth, bias, dtype="float64"):
    """Kernels and biases of a perceptron with one output, which has no bias."""
    rng = np.random.default_rng(depth)
    sizes = (INPUTS, *WIDTHS[:depth], 1)
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        kernel = jnp.asarray(rng.normal(size=(inputs, outputs)) / np.sqrt(inputs), dtype)
        layers.append((kernel, jnp.asarray(rng.normal(size=outputs), dtype) if bias else None))
    return [*layers[:-1], (layers[-1][0], None)]


def random_jets(dim, dtype="float64"):
    """Jets of features, (F, 1 + 2n + n^2, N)."""
    rng = np.random.default_rng(dim)
    return jnp.asarray(rng.normal(size=(INPUTS, 1 + 2 * dim + dim**2, COUNT)), dtype)


def run(layers, activation, y):
    """The perceptron itself at one point."""
    for kernel, bias in layers[:-1]:
        y = activation(y @ kernel + (0 if bias is None else bias))
    return (y @ layers[-1][0])[0]


def generic(layers, activation, jets, dim):
    """By automatic differentiation of the perceptron."""

    def at(one):
        return ansatz.composed_hessian(lambda y: run(layers, activation, y), one, dim)

    return jax.vmap(at, in_axes=-1, out_axes=-1)(jets)


def both(layers, activation, jets, dim):
    """Layer by layer and generically, as one program."""

    @jax.jit
    def pair(layers, jets):
        return (
            ansatz.perceptron_hessians(layers, activation, jets, dim),
            generic(layers, activation, jets, dim),
        )

    return pair(layers, jets)


# every depth, every n, every activation, with and without biases, in both precisions
CASES = [
    (1, 1, "tanh", True, "float64"),
    (1, 2, "softplus", False, "float32"),
    (1, 3, "gelu", True, "float64"),
    (2, 1, "sin", False, "float64"),
    (2, 3, "tanh", False, "float32"),
    (2, 2, "erf", True, "float64"),
    (3, 1, "gelu", False, "float32"),
    (3, 2, "tanh", True, "float64"),
    (4, 1, "erf", True, "float32"),
    (4, 2, "sin", True, "float32"),
    (4, 4, "softplus", True, "float64"),
]


def test_the_cases_hold_every_activation():
    assert {case[2] for case in CASES} == set(SMOOTH)


@pytest.mark.parametrize(("depth", "dim", "activation", "bias", "dtype"), CASES)
def test_hessians_are_those_of_automatic_differentiation(depth, dim, activation, bias, dtype):
    layers = random_layers(depth, bias, dtype)
    found, expected = both(layers, SMOOTH[activation], random_jets(dim, dtype), dim)
    assert found.dtype == dtype
    assert found.shape == (dim**2, COUNT)
    size = float(jnp.max(jnp.abs(expected)))
    assert size > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance("algebra", dtype) * size)


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_a_sum_of_squares_by_hand(dim):
    """d_a dbar_b sum_i v_i h_i^2 = sum_i 2 v_i (h_i d_a dbar_b h_i + d_a h_i dbar_b h_i)."""
    layers, jets = random_layers(1, True), random_jets(dim)
    (kernel, bias), (last, _) = [[None if x is None else np.asarray(x) for x in y] for y in layers]
    h = np.einsum("fw,fcx->wcx", kernel, np.asarray(jets))
    value = h[:, 0] + bias[:, None]
    slope = h[:, 1 : 1 + dim] + 1j * h[:, 1 + dim : 1 + 2 * dim]
    expected = []
    for x in range(COUNT):
        matrix = np.zeros((dim, dim), complex)
        for i in range(len(kernel[0])):
            second = np.zeros((dim, dim), complex)
            entries = iter(h[i, 1 + 2 * dim :, x])
            for a in range(dim):
                second[a, a] = next(entries)
            pairs = [(a, b) for a in range(dim) for b in range(a + 1, dim)]
            for part in (1, 1j):
                for a, b in pairs:
                    number = part * next(entries)
                    second[a, b] += number
                    second[b, a] += np.conj(number)
            u = slope[i, :, x]
            matrix += 2 * last[i, 0] * (value[i, x] * second + np.outer(u, u.conj()))
        upper = [matrix[a, b] for a, b in pairs]
        expected.append([*np.diag(matrix).real, *np.real(upper), *np.imag(upper)])
    found = ansatz.perceptron_hessians(layers, jnp.square, jets, dim)
    np.testing.assert_allclose(found, np.transpose(expected), rtol=CLOSE, atol=CLOSE)


def test_a_perceptron_without_hidden_layers_is_linear():
    jets = random_jets(2)
    kernel = jnp.array([[1.0], [-2.0], [0.5], [3.0]])
    found = ansatz.perceptron_hessians([(kernel, None)], jnp.tanh, jets, 2)
    np.testing.assert_allclose(found, np.tensordot(kernel[:, 0], jets[:, 5:], 1), atol=CLOSE)


@pytest.mark.parametrize(("depth", "dim", "activation"), [(1, 3, "gelu"), (3, 2, "tanh")])
def test_derivatives_by_the_parameters_are_those_of_the_generic_path(depth, dim, activation):
    layers, jets = random_layers(depth, True), random_jets(dim)
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(dim**2, COUNT)))
    function = SMOOTH[activation]

    def loss(path, layers):
        return jnp.sum(weight * path(layers, function, jets, dim) ** 2)

    slopes = [
        jax.jit(jax.grad(functools.partial(loss, path)))(layers)
        for path in (ansatz.perceptron_hessians, generic)
    ]
    found, expected = (jax.tree.leaves(slope) for slope in slopes)
    assert len(found) == 2 * depth + 1
    for one, other in zip(found, expected, strict=True):
        size = float(jnp.max(jnp.abs(other)))
        assert size > 1e-3
        np.testing.assert_allclose(one, other, rtol=0, atol=CLOSE * size)


STEP = 1e-4


@pytest.fixture(scope="module")
def surface():
    """Directions c along a quartic without symmetry, and the jets of the functions z_i zbar_j /
    |z|^2 at z + h t v for t = 1, -1, i, -i, 0: shape (5, 3, N, F, 9)."""
    exponents = np.array([*(4 * np.eye(4, dtype=int)), [3, 1, 0, 0]])
    manifold = geometry.hypersurface(exponents, [1, 1.2, 0.9, 1.4, 0.4 + 0.3j])
    sample = geometry.sample_points(jax.random.key(1), manifold, 24)
    basis = ansatz.projective_features(manifold, sample)
    points, rng = jax.tree.map(lambda x: x[:6], sample), np.random.default_rng(1)
    directions = rng.normal(size=(3, 2)) + 1j * rng.normal(size=(3, 2))
    v = np.einsum("ca,xai->cxi", directions, points.pullback)
    z = points.z + STEP * np.array([1, -1, 1j, -1j, 0])[:, None, None, None] * v
    # the functions are defined off the hypersurface too
    moved = geometry.points_at(
        manifold, z.reshape(-1, 4), chart=jnp.tile(points.chart, (15, 1)), check=False
    )
    jets = ansatz.feature_jets(basis, moved)
    return directions, jets.reshape(5, 3, 6, *jets.shape[1:])


@pytest.fixture
def features(surface):
    return surface[1][4, 0]


@pytest.mark.equation("MF B.1")
def test_hessians_are_mixed_differences_of_the_potential(surface, features):
    """4 d_v dbar_v f = f(z+hv) + f(z-hv) + f(z+ihv) + f(z-ihv) - 4 f(z) over h^2."""
    directions, jets = surface
    network = ansatz.Mlp((5, 4), "tanh", None, "ntk", 0.3, bias_std=0.8)
    theta = parameters(network, features.shape[1])
    values = jets[..., 0].reshape(-1, features.shape[1])
    phi = jax.jit(jax.vmap(network.apply, in_axes=(None, 0)))(theta, values).reshape(5, 3, 6)
    expected = (jnp.sum(phi[:4], axis=0) - 4 * phi[4]) / (4 * STEP**2)
    # diagonal, then Re and Im of the entry above it
    first, second, real, imaginary = np.asarray(hessians(network, theta, features))
    upper = real + 1j * imaginary
    change = np.moveaxis(np.array([[first, upper], [upper.conj(), second]]), -1, 0)
    found = np.einsum("ca,xab,cb->cx", directions, change, directions.conj()).real
    assert float(jnp.max(jnp.abs(expected))) > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(upper.imag).max() > 0.01


def parameters(network, inputs):
    rng = np.random.default_rng(2)
    like = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((inputs,), float))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), like)


def hessians(network, theta, features):
    return jax.jit(lambda t: ansatz.network_hessians(network, t, features, 2))(theta)


class Wrapped:
    """Something with ``apply`` that is no network of this library."""

    def __init__(self, network):
        self.network = network

    def apply(self, theta, y):
        return self.network.apply(theta, y)


@pytest.mark.parametrize("parameterisation", ["standard", "ntk"])
def test_every_kind_of_network_gives_the_same_hessians(features, parameterisation, monkeypatch):
    network = ansatz.Mlp((5, 4), "sin", None, parameterisation, 0.5, 1.5, 0.7, 0.8)
    theta = parameters(network, features.shape[1])
    layered = hessians(network, theta, features)

    def refused(*arguments):
        raise AssertionError("only perceptrons of this library go layer by layer")

    monkeypatch.setattr(potentials, "perceptron_hessians", refused)
    with pytest.raises(AssertionError, match="layer by layer"):
        hessians(network, theta, features)
    size = float(jnp.max(jnp.abs(layered)))
    assert size > 0.1
    for other in (network.apply, Wrapped(network), lambda t, y: network.apply(t, y)):
        found = hessians(other, theta, features)
        np.testing.assert_allclose(found, layered, rtol=0, atol=CLOSE * size)


def test_a_network_of_flax_nnx_is_a_function_of_its_state(features):
    """Split into what is static and the numbers, merged inside the function."""
    inputs = features.shape[1]

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(inputs, 5, param_dtype=jnp.float64, rngs=rngs)
            self.last = nnx.Linear(5, 1, use_bias=False, param_dtype=jnp.float64, rngs=rngs)

        def __call__(self, y):
            return self.last(jnp.tanh(self.first(y)))[0]

    graph, state = nnx.split(Model(nnx.Rngs(0)))

    def apply(state, y):
        return nnx.merge(graph, state)(y)

    def loss(state):
        found = ansatz.network_hessians(apply, state, features, 2)
        return jnp.sum(found**2), found

    (_, found), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(state)
    pure = nnx.to_pure_dict(state)
    theta = {"params": {"Dense_0": pure["first"], "Dense_1": pure["last"]}}
    expected = hessians(ansatz.Mlp((5,)), theta, features)
    np.testing.assert_allclose(found, expected, rtol=CLOSE, atol=CLOSE)
    assert float(jnp.max(jnp.abs(found))) > 0.01
    assert jax.tree.structure(slope) == jax.tree.structure(state)
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(slope))


def test_a_network_of_several_numbers_is_no_potential(features):
    """A batch as long as the list of outputs must not make one look like the other."""
    network = ansatz.Mlp((5,), outputs=len(features))
    theta = parameters(network, features.shape[1])
    with pytest.raises((ValueError, TypeError)):
        hessians(network, theta, features)
