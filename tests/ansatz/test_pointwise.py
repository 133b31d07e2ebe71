"""Networks and models at one point, and their expansion in the parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz, geometry
from metricflow.ansatz import linearised, one_point
from metricflow.kernels import metric_ntk
from tests.tolerances import tolerance

NETWORK = ansatz.Mlp((4,), "tanh", 3, "ntk", bias_std=0.7)


def drawn(network, inputs, seed=0, dtype="float64"):
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(inputs, dtype))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype), like)


def points(count, seed=1, dtype="float64", width=3):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, width)), dtype)


def along(origin, direction, t):
    return jax.tree.map(lambda a, b: a + t * b, origin, direction)


def close(found, expected, dtype="float64", name="tangents"):
    found, expected = np.asarray(found), np.asarray(expected)
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance(name, dtype))


def test_modules_functions_and_their_apply_are_functions_of_one_point():
    params, x = drawn(NETWORK, 3), points(1)[0]
    expected = NETWORK.apply(params, x)
    for given in (NETWORK, NETWORK.apply, lambda p, row: NETWORK.apply(p, row)):
        np.testing.assert_array_equal(one_point(given)(params, x), expected)
    number = one_point(lambda p, row: jnp.sum(p * row))(2.0, x)
    assert number.shape == (1,)
    np.testing.assert_allclose(number, 2 * np.sum(x), rtol=tolerance("rounding"))


@pytest.mark.parametrize("name", ["free", "additive", "multiplicative", "matrix"])
def test_a_model_gives_the_components_of_the_metric(name):
    """One point of the batch; and the map of components is the derivative of the metric by h."""
    network = ansatz.component_mlp(2, (4,), "tanh", output_variance=1.0)
    model = ansatz.ComponentModel(geometry.fermat(2), name, network)
    root = points(3, 2, width=8).reshape(3, 2, 4)
    root = root[..., :2] + 1j * root[..., 2:]
    data = model.inputs(
        points(3, width=4) + 1j * points(3, 3, width=4), root @ root.conj().mT + jnp.eye(2)
    )
    params = drawn(network, 8)
    g = jax.jit(model.metric)(params, data)
    packed = geometry.hermitian_pack(g)
    np.testing.assert_array_equal(jax.jit(model.components)(params, data), packed)
    pointwise = jax.jit(jax.vmap(one_point(model), (None, 0)))(params, data)
    close(pointwise, packed)
    # the metric is affine in h, with the component map as its slope
    h = jax.vmap(network.apply, (None, 0))(params, data.inputs)
    zero = np.eye(2) + 0j if name == "free" else np.asarray(data.reference)
    start = geometry.hermitian_pack(jnp.broadcast_to(zero, (3, 2, 2)))
    change = jax.jit(model.component_map)(data)
    assert change.shape == (3, 4, 4)
    close(start + np.einsum("xij,xj->xi", change, h), packed)
    if name in ("free", "additive"):
        close(change, np.broadcast_to(np.eye(4), (3, 4, 4)))


@pytest.mark.usefixtures("as_user")
def test_a_potential_gives_the_components_of_its_metric():
    network = ansatz.Mlp((4,), "tanh", bias_std=0.7)
    quartic = geometry.fermat(2)
    sample = geometry.sample_points(jax.random.key(0), quartic, 40)
    # of the basis nothing is read
    model = ansatz.PotentialModel(quartic, ansatz.spectral_basis(quartic, 4, sample), network)
    jets = points(3 * 5, 1, width=9).reshape(3, 5, 9)
    data = ansatz.PotentialData(None, jets, jnp.broadcast_to(jnp.eye(2) + 0j, (3, 2, 2)))
    params = drawn(network, 5)
    packed = geometry.hermitian_pack(jax.jit(model.metric)(params, data))
    assert packed.shape == (3, 4)
    assert float(jnp.max(jnp.abs(packed - jnp.array([1.0, 1, 0, 0])))) > 0.1
    close(jax.jit(model.components)(params, data), packed)
    close(jax.jit(jax.vmap(one_point(model), (None, 0)))(params, data), packed)


@pytest.mark.equation("MF 2.10")
def test_the_expansion_touches_the_network_at_the_origin(dtype):
    origin, direction = (drawn(NETWORK, 3, seed, dtype) for seed in (0, 1))
    x = points(1, dtype=dtype)[0]
    straight = linearised(NETWORK, origin)

    @jax.jit
    def both(t):
        theta = along(origin, direction, t)
        return straight(theta, x), NETWORK.apply(theta, x)

    zero = jnp.zeros((), dtype)
    value, exact = both(zero)
    assert value.dtype == dtype
    close(value, exact, dtype)
    slope, exact_slope = jax.jit(jax.jacfwd(both))(zero)
    close(slope, exact_slope, dtype)
    # straight in every direction, however far
    far = 50.0
    ahead, behind = (both(jnp.asarray(t, dtype))[0] for t in (far, -far))
    close(ahead - value, far * slope, dtype)
    close(ahead + behind, 2 * value + 0 * slope, dtype, name="algebra")
    # and the network is not: what is left out is of second order
    gaps = [float(jnp.linalg.norm(jnp.subtract(*both(jnp.asarray(t, dtype))))) for t in (0.1, 0.2)]
    assert 3 < gaps[1] / gaps[0] < 5


@pytest.mark.equation("MF 2.11")
def test_the_kernel_of_the_expansion_does_not_move():
    """At any theta it is that of the network at the origin; that of the network is not."""
    origin, other = drawn(NETWORK, 3), drawn(NETWORK, 3, 1)
    x, y = points(3), points(4, 2)
    straight = linearised(NETWORK.apply, origin)
    frozen = metric_ntk(NETWORK, origin, x, y)
    for theta in (origin, other):
        close(metric_ntk(straight, theta, x, y), frozen)
    moved = metric_ntk(NETWORK, other, x, y)
    assert float(jnp.max(jnp.abs(moved - frozen))) > 0.1 * float(jnp.max(jnp.abs(frozen)))


@pytest.mark.equation("MF 2.10", "MF 2.11")
def test_the_expansion_in_complex_parameters():
    def apply(params, x):
        h = jnp.sin(params["w"] @ x)
        return jnp.abs(h) ** 2 + params["s"] * h.imag

    def some(seed):
        re, im, s = points(3, seed, width=2).T, points(3, seed + 1, width=2).T, points(1, 7)[0, :2]
        return {"w": re + 1j * im, "s": s}

    origin, other = some(3), some(5)
    x = points(3)
    straight = linearised(apply, origin)
    close(metric_ntk(straight, other, x), metric_ntk(apply, origin, x))

    @jax.jit
    def both(t):
        theta = along(origin, jax.tree.map(jnp.subtract, other, origin), t)
        return straight(theta, x[0]), apply(theta, x[0])

    value, exact = jax.jit(jax.jacfwd(both))(0.0)
    close(value, exact)
    close(both(3.0)[0] - both(0.0)[0], 3 * value)


def test_the_expansion_of_a_model_is_read_like_the_model():
    network = ansatz.component_mlp(1, (4,), "tanh", output_variance=1.0)
    model = ansatz.ComponentModel(geometry.fermat(1), "multiplicative", network)
    data = model.inputs(
        points(3) + 1j * points(3, 2), 1 + points(3, 3, width=1)[..., None] ** 2 + 0j
    )
    origin, other = drawn(network, 6), drawn(network, 6, 1)
    straight = linearised(model, origin)
    found = jax.jit(jax.vmap(straight, (None, 0)))
    close(found(origin, data), model.components(origin, data))
    ntk = functools.partial(metric_ntk, x1=data)
    close(ntk(straight, other), ntk(model, origin))


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda p, x: p * x * 1j, r"real outputs of shape \(c,\).*complex128 of shape \(3,\)"),
        (lambda p, x: p * x[:, None] * x, r"float64 of shape \(3, 3\); flatten.*hermitian_pack"),
    ],
)
def test_outputs_that_are_no_real_vector_are_refused(apply, message):
    x = points(1)[0]
    with pytest.raises(ValueError, match=message):
        one_point(apply)(1.0, x)
    with pytest.raises(ValueError, match=message):
        linearised(apply, 1.0)(2.0, x)
