"""The metric-NTK: every route against the product of explicit Jacobians."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec

from metricflow import ansatz
from metricflow._tiles import fill_tiles
from metricflow.kernels import (
    metric_ntk,
    metric_ntk_diagonal,
    metric_ntk_product,
    pulled_back,
    tangent_kernel,
)
from metricflow.kernels.tangents import perceptron, tangents
from tests.kernels.jacobians import (
    a_small_case,
    assert_close,
    check_every_form,
    contracted,
    drawn,
    every_form,
    inputs,
    jacobian,
    mlp,
    plain,
    values,
)
from tests.tolerances import tolerance

# parameterisation, spread of the biases, outputs
PERCEPTRONS = [
    ("standard", 0.7, None),
    ("standard", 0.0, 3),
    ("ntk", 0.7, None),
    ("ntk", 0.7, 3),
    ("ntk", 0.0, 3),
]
NUMBERS = st.floats(-10, 10)
SEEDS = st.integers(0, 2**31 - 1)


@pytest.fixture(scope="module")
def small():
    return a_small_case()


@functools.partial(jax.jit, static_argnums=0)
def both_routes(network, params, x, y):
    return [metric_ntk(f, params, x, y) for f in (network.apply, plain(network))]


@pytest.mark.equation("MF 2.7")
@pytest.mark.parametrize("case", PERCEPTRONS, ids=str)
def test_both_routes_are_the_product_of_the_jacobians(case):
    """Layer by layer, and as a function of which nothing is known."""
    network = mlp(*case, widths=(6, 5))
    wide = drawn(network), inputs(4), inputs(5, 2)
    expected = contracted(*(jacobian(network, wide[0], x) for x in wide[1:]))
    for dtype in ("float64", "float32") if case == PERCEPTRONS[3] else ("float64",):
        params, x, y = jax.tree.map(lambda leaf, d=dtype: leaf.astype(d), wide)
        for found in both_routes(network, params, x, y):
            assert found.dtype == dtype
            assert found.shape == (4, 5, case[2] or 1, case[2] or 1)
            assert_close(found, expected, dtype)


def test_a_perceptron_goes_layer_by_layer():
    network = mlp(widths=(6, 5))
    assert perceptron(network) is network
    assert perceptron(network.apply) is network
    for other in (plain(network), network.init, ansatz.CosineNetwork(4), "apply"):
        assert perceptron(other) is None
    params, x = drawn(network), inputs(2)

    def shapes(apply):
        return jax.eval_shape(lambda p: tangents(apply, p, x), params)

    layered = shapes(network.apply)
    assert [f.activation.shape for f in layered] == [(2, 6), (2, 7), (2, 4)]
    assert [f.sensitivity.shape for f in layered] == [(1, 3, 3), (2, 3, 5), (2, 3, 6)]
    assert all(f.activation is None for f in shapes(plain(network)))
    # in this parameterisation a bias without spread moves nothing, and is left out
    quiet = shapes(mlp(bias_std=0.0, widths=(6, 5)))
    assert [f.activation.shape for f in quiet] == [(2, 5), (2, 6), (2, 3)]


@pytest.mark.parametrize(
    ("parameterisation", "bias_std", "outputs", "expected"),
    [
        ("standard", 0.7, 3, [(1.0, 1.0)] * 3),
        ("standard", 0.0, None, [(1.0, 1.0), (1.0, 1.0), (1.0, 0.0)]),
        ("ntk", 0.7, 3, [(1.3, 0.7), (1.7, 0.7), (0.8, 0.7)]),
        ("ntk", 0.0, 3, [(1.3, 0.0), (1.7, 0.0), (0.8, 0.0)]),
        ("ntk", 0.7, None, [(1.3, 0.7), (1.7, 0.7), (0.8, 0.0)]),
    ],
)
def test_tangent_scales_are_what_stands_before_the_parameters(
    parameterisation, bias_std, outputs, expected
):
    network = mlp(parameterisation, bias_std, outputs, (6, 5))
    for place, (variance, bias) in enumerate(expected):
        weight = np.sqrt(variance / 9) if parameterisation == "ntk" else 1.0
        found = network.tangent_scales(9, place)
        np.testing.assert_allclose(found, (weight, bias), rtol=tolerance("rounding"))


@pytest.mark.equation("MF 2.7")
@pytest.mark.parametrize(("route", "count"), [("layered", 53), ("generic", 4)])
def test_every_form_is_a_part_of_the_kernel(small, route, count):
    """53 rows are more than one tile of the dense form holds."""
    network, params, _, y, _, jy = small
    x = inputs(count)
    apply = network if route == "layered" else plain(network)
    check_every_form(every_form(apply, params, x, y), jacobian(network, params, x), jy)


@pytest.mark.parametrize(("count", "chunk"), [(4, 1), (4, 3), (60, 1000)])
def test_tiles_of_any_size_give_the_same_kernel(small, count, chunk):
    network, params, _, y, _, jy = small
    x = inputs(count)
    found = metric_ntk(network, params, x, y, chunk=chunk)
    assert_close(found, contracted(jacobian(network, params, x), jy))


def test_points_whose_tangents_are_large_come_a_few_at_a_time(small, monkeypatch):
    """Room for the tangents of two points only."""
    network, params, x, y, jx, jy = small
    apply = plain(network)
    monkeypatch.setattr(tangent_kernel, "_TANGENTS", 2 * 3 * 43 + 1)
    assert tangent_kernel._points_at_once(lambda z: tangents(apply, params, z), y) == 2
    assert_close(metric_ntk(apply, params, x, y), contracted(jx, jy))
    assert_close(metric_ntk_diagonal(apply, params, y), np.einsum("aip,ajp->aij", jy, jy))
    monkeypatch.setattr(tangent_kernel, "_TANGENTS", 1)
    assert tangent_kernel._points_at_once(lambda z: tangents(apply, params, z), y) == 1


@functools.partial(jax.jit, static_argnums=0)
def both_orders(network, params, x, y):
    together = metric_ntk(network, params, jnp.concatenate([x, y]))
    return metric_ntk(network, params, x, y), metric_ntk(network, params, y, x), together


@pytest.mark.equation("MF 2.7")
@given(seed=SEEDS, size=st.floats(0.01, 3))
def test_the_kernel_is_symmetric_and_positive(seed, size):
    network = mlp()
    params = jax.tree.map(lambda leaf: size * leaf, drawn(network, seed))
    forth, back, own = both_orders(network, params, inputs(4, seed), inputs(3, seed + 1))
    assert_close(forth, np.asarray(back).transpose(1, 0, 3, 2))
    assert_close(forth, own[:4, 4:])
    matrix = np.asarray(own).swapaxes(1, 2).reshape(21, 21)
    assert_close(matrix, matrix.T)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues[0] > -tolerance("tangents") * eigenvalues[-1]


@pytest.mark.equation("MF 2.7", "MF 2.8")
def test_the_kernel_is_what_a_step_along_the_gradient_does(small):
    """Theta v is the derivative of g along J^T v, by central differences."""
    network, params, x, y, *_ = small
    v = inputs(5, 3)
    direction = pulled_back(network, params, y, v)
    size = np.linalg.norm(ravel_pytree(direction)[0])
    ahead, behind = (
        values(network, jax.tree.map(lambda p, d, e=e: p + e / size * d, params, direction), x)
        for e in (1e-5, -1e-5)
    )
    moved = (ahead - behind) * size / 2e-5
    product = metric_ntk_product(network, params, x, y, v)
    dense = metric_ntk(network, params, x, y)
    assert_close(product, moved, name="difference")
    assert_close(np.einsum("abij,bj->ai", dense, v), moved, name="difference")


@pytest.mark.equation("MF 2.2")
def test_the_first_half_of_a_product_is_a_gradient(small):
    network, params, _, y, *_ = small
    v = inputs(5, 3)

    @jax.jit
    def weighed(theta):
        return jax.grad(lambda t: jnp.sum(v * values(network, t, y)))(theta)

    found, expected = pulled_back(network, params, y, v), weighed(params)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert_close(ravel_pytree(found)[0], ravel_pytree(expected)[0])


@given(seed=SEEDS, a=NUMBERS, b=NUMBERS)
def test_products_are_linear(small, seed, a, b):
    network, params, x, y, *_ = small
    u, v = inputs(5, seed), inputs(5, seed + 1)
    first, second, both = (
        np.asarray(metric_ntk_product(network, params, x, y, w)) for w in (u, v, a * u + b * v)
    )
    size = abs(a) * np.abs(first).max() + abs(b) * np.abs(second).max()
    np.testing.assert_allclose(
        both, a * first + b * second, rtol=0, atol=tolerance("tangents") * max(size, 1)
    )


def test_many_networks_at_once(small):
    """vmap over seeds, and an empty second set stands for the first."""
    network, _, x, y, *_ = small
    v = inputs(5, 3)
    seeds = [drawn(network, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)

    @jax.jit
    @jax.vmap
    def both(params):
        return (
            metric_ntk(network, params, x, y),
            metric_ntk_product(network, params, x, y, v),
            metric_ntk(network, params, y),
            metric_ntk_product(network, params, y, None, v),
        )

    for params, *found in zip(seeds, *both(stacked), strict=True):
        jx, jy = (jacobian(network, params, z) for z in (x, y))
        for place, rows in ((0, jx), (2, jy)):
            expected = contracted(rows, jy)
            assert_close(found[place], expected)
            assert_close(found[place + 1], np.einsum("abij,bj->ai", expected, v))


def test_the_kernel_can_be_differentiated(small):
    """The gradient by the parameters, back through the tiles, against central differences."""
    network, params, x, y, *_ = small
    flat, unravel = ravel_pytree(params)
    weight = inputs(1, 4, width=4 * 5 * 9).reshape(4, 5, 3, 3)
    step = 1e-5 * inputs(1, 5, width=len(flat))[0]

    @jax.jit
    @jax.value_and_grad
    def total(theta):
        dense = metric_ntk(network, unravel(theta), x, y, chunk=2)
        product = metric_ntk_product(network, unravel(theta), x, y, inputs(5, 3), chunk=2)
        return jnp.sum(weight * dense) + jnp.sum(x * product)

    difference = (total(flat + step)[0] - total(flat - step)[0]) / 2
    assert_close(total(flat)[1] @ step, difference, name="difference")


# --- tiles and scale -------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 7, 9])
def test_tiles_are_written_in_place(chunk):
    """Seven rows of a tree in tiles of any size: the last one overlaps the one before."""
    tree = {"a": jnp.arange(7.0), "b": jnp.arange(14).reshape(7, 2)}
    seen = []

    def function(rows):
        seen.append(len(rows["a"]))
        return rows["a"][:, None] * rows["b"]

    found = fill_tiles(function, tree, chunk)
    np.testing.assert_array_equal(found, np.arange(7)[:, None] * np.arange(14).reshape(7, 2))
    assert set(seen) == {min(chunk, 7)}


@pytest.mark.usefixtures("as_user")
def test_a_product_never_holds_the_kernel():
    network = mlp("ntk", 0.7, 4, (8,))
    x = jax.ShapeDtypeStruct((20_000, 3), jnp.float32)
    v = jax.ShapeDtypeStruct((20_000, 4), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((3,), x.dtype))
    lowered = tangent_kernel._product.lower(
        tangent_kernel.static(network), params, x, x, v, None, 1024
    )
    used = lowered.compile().memory_analysis().temp_size_in_bytes
    assert used < 10e6  # all pairs: 2.6e10


def test_sharded_points_give_the_same_numbers():
    assert len(jax.devices()) >= 4
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("rows"))
    network = mlp("standard", 0.3)
    params, x, y, v = drawn(network), inputs(64), inputs(12, 2), inputs(12, 3)
    rows, columns, values = (jax.device_put(z, spread) for z in (x, y, v))
    expected = contracted(jacobian(network, params, x), jacobian(network, params, y))
    dense = metric_ntk(network, params, rows, y)
    assert dense.shape == (64, 12, 3, 3)
    assert_close(dense, expected)
    applied = np.einsum("abij,bj->ai", expected, v)
    for second, weights in ((y, v), (columns, values)):
        assert_close(metric_ntk_product(network, params, rows, second, weights, chunk=5), applied)
