"""The metric-NTK: every route against the product of explicit Jacobians."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec

from metricflow import ansatz, geometry
from metricflow._tiles import fill_tiles
from metricflow.discretize import tau_of_share
from metricflow.kernels import (
    metric_ntk,
    metric_ntk_components,
    metric_ntk_diagonal,
    metric_ntk_product,
    pulled_back,
    tangent_kernel,
)
from metricflow.kernels.tangents import perceptron, tangents
from metricflow.optim import lne_gradient
from tests.tolerances import tolerance

Partial = jax.tree_util.Partial

INPUTS = 3
# parameterisation, spread of the biases, outputs
PERCEPTRONS = [
    ("standard", 0.7, None),
    ("standard", 0.0, 3),
    ("ntk", 0.7, None),
    ("ntk", 0.7, 3),
    ("ntk", 0.0, 3),
]
PAIRS = ((0, 0), (2, 1), (1, 2), (0, 2))
NUMBERS = st.floats(-10, 10)
SEEDS = st.integers(0, 2**31 - 1)


def mlp(parameterisation="ntk", bias_std=0.7, outputs=3, widths=(4, 3)):
    return ansatz.Mlp(
        widths,
        "tanh",
        outputs,
        parameterisation,
        input_variance=1.3,
        hidden_variance=1.7,
        output_variance=0.8,
        bias_std=bias_std,
    )


def drawn(network, seed=0, inputs=INPUTS, dtype="float64"):
    """Parameters of order one, biases too, without running the initialisation."""
    x = jax.ShapeDtypeStruct((inputs,), dtype)
    like = jax.eval_shape(network.init, jax.random.key(0), x)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype), like)


def inputs(count, seed=1, dtype="float64", width=INPUTS):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, width)), dtype)


def plain(network):
    """The same function, which nothing recognises as a perceptron."""

    def apply(params, x):
        return network.apply(params, x)

    return apply


@functools.partial(jax.jit, static_argnums=0)
def jacobian(apply, params, x):
    """All rows dg_I(x_a)/dtheta side by side: (N, c, P), for real parameters."""
    flat, unravel = ravel_pytree(params)
    apply = getattr(apply, "apply", apply)

    def outputs(theta, row):
        return jnp.atleast_1d(apply(unravel(theta), row))

    return jax.vmap(jax.jacrev(outputs), (None, 0))(flat, x)


def contracted(left, right):
    return np.einsum("aip,bjp->abij", np.asarray(left, float), np.asarray(right, float))


@functools.partial(jax.jit, static_argnums=0)
def values(network, params, x):
    return jax.vmap(network.apply, (None, 0))(params, x)


def assert_close(found, expected, dtype="float64", name="tangents"):
    """To a share of the largest number."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape
    scale = np.max(np.abs(expected))
    assert scale > 0
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance(name, dtype))


@functools.partial(jax.jit, static_argnums=(0, 4))
def every_form(apply, params, x, y, preconditioner=None):
    """Dense, diagonal, components, product and its first half, in tiles of 2, in one program."""
    options = {"preconditioner": preconditioner, "chunk": 2}
    v = jnp.cos(jnp.arange(len(y) * 3.0)).reshape(len(y), 3).astype(y.dtype)
    return {
        "dense": metric_ntk(apply, params, x, y, **options),
        "diagonal": metric_ntk_diagonal(apply, params, x, preconditioner=preconditioner),
        "components": metric_ntk_components(apply, params, x, y, pairs=PAIRS, **options),
        "product": metric_ntk_product(apply, params, x, y, v, **options),
        "pulled": pulled_back(apply, params, y, v, chunk=2),
        "v": v,
    }


def check_every_form(found, jx, jy, inverse=None, name="tangents"):
    """Against J G^-1 J^T of the Jacobians (N, c, P)."""
    jx, jy = np.asarray(jx), np.asarray(jy)
    inverse = np.eye(jx.shape[2]) if inverse is None else np.asarray(inverse)
    full = contracted(jx @ inverse, jy)
    assert_close(found["dense"], full, name=name)
    blocks = np.einsum("aip,ajp->aij", jx @ inverse, jx)
    assert_close(found["diagonal"], blocks, name=name)
    chosen = np.stack([full[..., i, j] for i, j in PAIRS], -1)
    assert_close(found["components"], chosen, name=name)
    v = np.asarray(found["v"])
    assert_close(found["product"], np.einsum("abij,bj->ai", full, v), name=name)
    assert_close(ravel_pytree(found["pulled"])[0], np.einsum("bip,bi->p", jy, v), name=name)


@pytest.fixture(scope="module")
def small():
    """A perceptron, parameters, 4 and 5 points and the Jacobians there.

    Of two hidden layers: with one, Theta_IJ(x, x') = Theta_JI(x, x') and no transposition shows.
    """
    network = mlp("standard", 0.3)
    params, x, y = drawn(network), inputs(4), inputs(5, 2)
    return network, params, x, y, jacobian(network, params, x), jacobian(network, params, y)


# --- the kernel is J J^T ---------------------------------------------------------------------


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


# --- complex parameters ----------------------------------------------------------------------


def entangled(params, x):
    """Three real numbers of complex and real weights, holomorphic in none."""
    h = jnp.sin(x @ params["w"] + 0.3j)
    s = params["s"]
    return jnp.stack([s @ h.real, jnp.sum(jnp.abs(h) ** 2 * s), h.imag @ s[::-1] + h[0].real ** 2])


def apart(params, x):
    """The same with real and imaginary parts as parameters of their own."""
    return entangled({"w": params["re"] + 1j * params["im"], "s": params["s"]}, x)


def stretched(gradient):
    """A symmetric map of two real parts, an imaginary one and a real leaf."""
    w, s = gradient["w"], gradient["s"]
    bent = 2 * w.real + 0.5 * w.imag + 1j * (0.5 * w.real + 3 * w.imag)
    return {"w": bent + 0.1 * s, "s": 1.5 * s + 0.1 * jnp.sum(w.real, 0)}


def stretched_apart(gradient):
    re, im, s = gradient["re"], gradient["im"], gradient["s"]
    return {
        "re": 2 * re + 0.5 * im + 0.1 * s,
        "im": 0.5 * re + 3 * im,
        "s": 1.5 * s + 0.1 * jnp.sum(re, 0),
    }


@pytest.mark.parametrize("preconditioned", [False, True])
def test_a_complex_parameter_is_two_real_ones(preconditioned):
    w = inputs(3, 5, width=2) + 1j * inputs(3, 6, width=2)
    together = {"w": w, "s": inputs(1, 7, width=2)[0]}
    split = {"re": w.real, "im": w.imag, "s": together["s"]}
    x, y = inputs(4), inputs(5, 2)
    found = every_form(entangled, together, x, y, stretched if preconditioned else None)
    jx, jy = (jacobian(apart, split, z) for z in (x, y))
    pulled = found["pulled"]
    assert pulled["w"].dtype == "complex128"
    assert pulled["s"].dtype == "float64"
    found["pulled"] = {"re": pulled["w"].real, "im": pulled["w"].imag, "s": pulled["s"]}
    inverse = None
    if preconditioned:
        flat, unravel = ravel_pytree(split)
        inverse = jax.jacobian(lambda g: ravel_pytree(stretched_apart(unravel(g)))[0])(flat)
        np.testing.assert_array_equal(inverse, inverse.T)
    check_every_form(found, jx, jy, inverse)


# --- preconditioners -------------------------------------------------------------------------


def identity(gradient):
    return gradient


def multiplied(matrix, gradient):
    flat, unravel = ravel_pytree(gradient)
    return unravel(matrix @ flat)


def test_the_identity_changes_nothing(small):
    network, params, x, y, jx, jy = small
    theta = metric_ntk(network, params, x, y, preconditioner=identity)
    assert_close(theta, contracted(jx, jy))


@pytest.mark.equation("RF 4")
def test_any_metric_of_the_parameters_stands_between_the_jacobians(small):
    """J G^-1 J^T; a Partial with another matrix does not compile again."""
    network, params, x, y, jx, jy = small
    roots = [inputs(43, seed, width=43) for seed in (8, 9)]
    v = inputs(5, 3)
    before = [f._cache_size() for f in (tangent_kernel._dense, tangent_kernel._product)]
    for root in roots:
        inverse = root @ root.T + 0.1 * jnp.eye(43)
        between = Partial(multiplied, inverse)
        expected = contracted(jx @ inverse, jy)
        found = metric_ntk(network, params, x, y, preconditioner=between)
        assert_close(found, expected)
        product = metric_ntk_product(network, params, x, y, v, preconditioner=between)
        assert_close(product, np.einsum("abij,bj->ai", expected, v))
    after = [f._cache_size() for f in (tangent_kernel._dense, tangent_kernel._product)]
    assert after == [count + 1 for count in before]
    # all other forms, with the last of them
    between = functools.partial(multiplied, inverse)
    check_every_form(every_form(network, params, x, y, between), jx, jy, inverse)


@pytest.mark.equation("RF 22")
def test_the_inverse_lne_metric_gives_the_lne_kernel(small):
    """I + t t^T / (1 - q) in every leaf, t = tanh(tau w) with |t|^2 = q."""
    network, params, x, y, jx, jy = small
    q = 0.5
    rule = lne_gradient(q=q)

    def lne(gradient):
        return rule.update(gradient, rule.init(params), params)[0]

    blocks = []
    for leaf in jax.tree.leaves(params):
        t = np.tanh(float(tau_of_share(leaf, q)) * np.asarray(leaf)).ravel()
        assert t @ t == pytest.approx(q, rel=tolerance("algebra"))
        blocks.append(np.eye(t.size) + np.outer(t, t) / (1 - q))
    inverse = np.zeros((43, 43))
    start = 0
    for block in blocks:
        inverse[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    assert start == 43
    dense = metric_ntk(network, params, x, y, preconditioner=lne)
    product = metric_ntk_product(network, params, x, y, inputs(5, 3), preconditioner=lne)
    expected = contracted(jx @ inverse, jy)
    assert_close(dense, expected, name="algebra")
    assert_close(product, np.einsum("abij,bj->ai", expected, inputs(5, 3)), name="algebra")


@pytest.mark.equation("RF 4")
def test_gauss_newton_gives_a_projector_on_the_batch():
    """G = J^T J of the batch: Theta is J J^+, whose eigenvalues are 0 and 1."""
    network = mlp("standard", 0.3, 3, (2,))
    params, x = drawn(network, inputs=2), inputs(8, width=2)
    rows = np.asarray(jacobian(network, params, x)).reshape(24, -1)
    rank = np.linalg.matrix_rank(rows)
    assert rank < 24
    inverse = jnp.asarray(np.linalg.pinv(rows.T @ rows, rcond=1e-12, hermitian=True))
    between = Partial(multiplied, inverse)
    theta = metric_ntk(network, params, x, preconditioner=between)
    matrix = np.asarray(theta).swapaxes(1, 2).reshape(24, 24)
    assert_close(matrix @ matrix, matrix, name="algebra")
    assert_close(matrix @ rows, rows, name="algebra")
    assert np.trace(matrix) == pytest.approx(rank, rel=tolerance("algebra"))


# --- points that are trees, models ------------------------------------------------------------


class Pair(NamedTuple):
    left: jax.Array
    right: jax.Array


def test_points_may_be_trees(small):
    """The network reads fields of a point: dicts and named tuples with the points first."""
    network, params, x, y, jx, jy = small

    def of_dict(theta, row):
        return network.apply(theta, jnp.append(row["place"], row["kind"]))

    def of_pair(theta, row):
        return network.apply(theta, jnp.append(row.left, row.right))

    expected = contracted(jx, jy)
    first, second = ({"place": z[:, :2], "kind": z[:, 2]} for z in (x, y))
    assert_close(metric_ntk(of_dict, params, first, second, chunk=3), expected)
    first, second = (Pair(z[:, :2], np.asarray(z[:, 2:])) for z in (x, y))
    v = inputs(5, 3)
    product = metric_ntk_product(of_pair, params, first, second, v, chunk=3)
    assert_close(product, np.einsum("abij,bj->ai", expected, v))


@functools.partial(jax.jit, static_argnums=0)
def packed_jacobian(ansatz_name, params, data):
    """Of the metric that the formula of the ansatz gives, by hand: (N, n^2, P)."""
    flat, unravel = ravel_pytree(params)
    n = data.reference.shape[-1]

    def packed(theta, row):
        h = geometry.hermitian_unpack(component_network(n).apply(unravel(theta), row.inputs))
        g = row.reference
        root = jnp.linalg.cholesky(g)
        return geometry.hermitian_pack(
            {
                "free": jnp.eye(n) + h,
                "additive": g + h,
                "multiplicative": g * (1 + h),
                "matrix": root @ (jnp.eye(n) + h) @ root.conj().T,
            }[ansatz_name]
        )

    return jax.vmap(jax.jacrev(packed), (None, 0))(flat, data)


def component_network(n):
    return ansatz.component_mlp(
        n, (4,), "tanh", parameterisation="ntk", output_variance=1.0, bias_std=0.5
    )


def component_data(model, count, seed):
    """Inputs and positive reference metrics as they come, of no point in particular."""
    n = model.manifold.dim
    root = inputs(count * n, seed, width=2 * n).reshape(count, n, 2 * n)
    root = root[..., :n] + 1j * root[..., n:]
    reference = root @ root.conj().swapaxes(1, 2) + jnp.eye(n)
    return ansatz.ComponentInputs(inputs(count, seed + 1, width=2 * (n + 2)), reference)


@functools.partial(jax.jit, static_argnums=4)
def forms_of_a_model(model, params, x, y, preconditioner=None):
    v = jnp.cos(jnp.arange(len(y.inputs) * model.manifold.dim**2 * 1.0)).reshape(len(y.inputs), -1)
    options = {"preconditioner": preconditioner}
    return (
        metric_ntk(model, params, x, y, **options),
        metric_ntk_diagonal(model, params, x, **options),
        v,
        metric_ntk_product(model, params, x, y, v, **options),
    )


def check_a_model(found, jx, jy, inverse=None):
    inverse = np.eye(jx.shape[2]) if inverse is None else inverse
    dense, diagonal, v, product = (np.asarray(x) for x in found)
    expected = contracted(jx @ inverse, jy)
    assert_close(dense, expected)
    assert_close(diagonal, np.einsum("aip,ajp->aij", jx @ inverse, jx))
    assert_close(product, np.einsum("abij,bj->ai", expected, v))


@pytest.fixture(scope="module")
def manifolds():
    return {n: geometry.fermat(n) for n in (1, 2, 3)}


@pytest.mark.equation("MF 2.7", "MF 2.15", "MF 2.16")
@pytest.mark.parametrize(
    ("name", "n"),
    [("free", 2), ("additive", 1), ("multiplicative", 2), ("matrix", 3)],
)
def test_the_kernel_of_a_model_is_that_of_its_metric(manifolds, name, n):
    """A(x) Theta_h A(x')^T of the components of the network, against the metric itself."""
    model = ansatz.ComponentModel(manifolds[n], name, component_network(n))
    params = drawn(model.network, inputs=2 * (n + 2))
    x, y = component_data(model, 4, 20), component_data(model, 4, 30)
    jx, jy = (packed_jacobian(name, params, z) for z in (x, y))
    check_a_model(forms_of_a_model(model, params, x, y), jx, jy)
    if (name, n) == ("multiplicative", 2):
        # with a preconditioner, by the metric itself
        size = jx.shape[2]
        root = inputs(size, 8, width=size)
        inverse = root @ root.T + jnp.eye(size)
        between = functools.partial(multiplied, inverse)
        check_a_model(forms_of_a_model(model, params, x, y, between), jx, jy, inverse)


@pytest.mark.equation("MF 2.15", "MF 2.16")
def test_a_factor_multiplies_the_kernel(small):
    """h(x) f(theta, x) has the kernel h(x) h(x') Theta."""
    network, params, x, y, jx, jy = small

    def factor(row):
        return jnp.exp(row[0]) - row[1]

    def times(theta, row):
        return factor(row) * network.apply(theta, row)

    hx, hy = (np.exp(z[:, 0]) - z[:, 1] for z in (np.asarray(x), np.asarray(y)))
    expected = hx[:, None, None, None] * hy[:, None, None] * contracted(jx, jy)
    assert_close(metric_ntk(times, params, x, y), expected)


@pytest.mark.equation("MF 2.15", "MF 2.16")
def test_on_a_curve_the_metric_is_the_factor(manifolds):
    """g = g_FS (1 + f): of all that training prepares, only the inputs and g_FS matter."""
    network = component_network(1)
    params = drawn(network, inputs=6)
    model = ansatz.ComponentModel(manifolds[1], "multiplicative", network)
    few = component_data(model, 6, 20)
    unused = dict.fromkeys(ansatz.ComponentData._fields, jnp.zeros(6))
    data = ansatz.ComponentData(**{**unused, **few._asdict()})
    jx = np.asarray(jacobian(network, params, few.inputs))
    h = np.asarray(few.reference.real)[:, 0, 0]
    expected = contracted(jx, jx) * h[:, None, None, None] * h[:, None, None]
    assert_close(metric_ntk(model, params, data), expected)
    assert_close(metric_ntk(model, params, few), expected)
    assert_close(
        metric_ntk_product(model, params, data, None, h[:, None]),
        np.einsum("abij,b->ai", expected, h),
    )
    # sets of the two kinds do not mix
    with pytest.raises(ValueError, match="x2: expected points like x1"):
        metric_ntk(model, params, few, data)


@pytest.mark.usefixtures("as_user")
@pytest.mark.equation("MF 2.7")
def test_the_kernel_of_a_potential_is_that_of_its_metric(manifolds):
    """Through two derivatives by the point, layer by layer in the model and not in the check."""
    network = ansatz.Mlp((4,), "tanh", bias_std=0.7)
    model = ansatz.PotentialModel(manifolds[1], None, network)  # it does not read its basis
    jets = inputs(4 * 3, 1, width=4).reshape(4, 3, 4)
    data = ansatz.PotentialData(None, jets, jnp.exp(inputs(4, 2, width=1))[..., None] + 0j)
    params = drawn(network)

    def metric(theta, row):
        h = ansatz.composed_hessian(lambda y: network.apply(theta, y), row.features, 1)
        return geometry.hermitian_pack(row.reference + h.reshape(1, 1))

    rows = np.asarray(jacobian(metric, params, data))
    v = inputs(4, 3, width=1)

    @jax.jit
    def forms(theta):
        dense = metric_ntk(model, theta, data)
        return dense, metric_ntk_product(model, theta, data, None, v)

    dense, product = forms(params)
    assert_close(dense, contracted(rows, rows))
    assert_close(product, np.einsum("aip,bjp,bj->ai", rows, rows, v))


@pytest.mark.equation("MF 2.20")
def test_independent_networks_do_not_mix():
    one = ansatz.Mlp((4,), "tanh", None, "ntk", bias_std=0.7)
    network = ansatz.IndependentNetworks(one, 3)
    params, x, y = drawn(network), inputs(4), inputs(5, 2)
    theta = np.asarray(metric_ntk(network, params, x, y))
    for i in range(3):
        for j in range(3):
            if i != j:
                assert np.all(theta[..., i, j] == 0)
        own = {"params": jax.tree.map(lambda leaf, c=i: leaf[c], params["params"]["network"])}
        alone = contracted(*(jacobian(one, own, z) for z in (x, y)))
        assert_close(theta[..., i : i + 1, i : i + 1], alone)


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


# --- the front door --------------------------------------------------------------------------

NET = mlp("standard", 0.3)
PARAMS = drawn(NET)
X, Y, V = np.ones((4, 3)), np.ones((5, 3)), np.ones((5, 3))
NAN = np.full((4, 3), np.nan)


def with_kernel(kernel):
    tree = jax.tree.map(lambda leaf: leaf, PARAMS)
    tree["params"]["Dense_0"]["kernel"] = kernel
    return tree


def product(x1=X, x2=Y, v=V, **options):
    return metric_ntk_product(NET, PARAMS, x1, x2, v, **options)


def twice(params, x):
    return jnp.stack([x, x]) * params


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: metric_ntk(NET, with_kernel(np.ones((3, 4), int)), X),
            r"params\['params'\]\['Dense_0'\]\['kernel'\]: expected real or complex.*int64",
        ),
        (
            lambda: metric_ntk_diagonal(NET, with_kernel(NAN[:3]), X),
            r"\['kernel'\]: 9 of 9 entries are NaN",
        ),
        (lambda: metric_ntk(NET, {}, X), "params: expected at least one array"),
        (lambda: pulled_back(NET, None, X, V), "params: expected at least one array"),
        (lambda: metric_ntk(NET, PARAMS, NAN), "x1: 12 of 12 entries are NaN"),
        (lambda: metric_ntk(NET, PARAMS, X, NAN), "x2: 12 of 12 entries are NaN"),
        (lambda: metric_ntk_diagonal(NET, PARAMS, NAN), "x: 12 of 12"),
        (lambda: product(NAN), "x1: 12 of 12"),
        (
            lambda: metric_ntk(lambda p, x: p * x * 1j, 1.0, X),
            r"apply_fn: expected real outputs.*complex128 of shape \(3,\)",
        ),
        (
            lambda: metric_ntk(twice, 1.0, X),
            r"apply_fn: expected real outputs.*shape \(2, 3\); flatten them",
        ),
        (lambda: metric_ntk_product(twice, 1.0, X, Y, V), "apply_fn: expected real outputs"),
        (lambda: metric_ntk_components(twice, 1.0, X, pairs=[(0, 0)]), "expected real outputs"),
        (
            lambda: metric_ntk(NET, PARAMS, X, np.ones((5, 2))),
            r"x2: expected points like x1, \[\(4, 3\)\], got \[\(5, 2\)\]",
        ),
        (lambda: metric_ntk(NET, PARAMS, X, {"a": Y, "b": Y}), "x2: expected points like x1"),
        (
            lambda: metric_ntk(NET, PARAMS, {"a": X, "b": Y}),
            r"x1: expected an array or a tree of arrays with the points first",
        ),
        (lambda: metric_ntk(NET, PARAMS, {}), "x1: expected an array or a tree of arrays"),
        (lambda: metric_ntk(NET, PARAMS, 1.0), "x1: expected an array or a tree of arrays"),
        (lambda: metric_ntk(NET, PARAMS, X[:0]), "x1: expected at least one point"),
        (lambda: product(x2=Y[:0], v=V[:0]), "x2: expected at least one point"),
        (
            lambda: product(v=np.ones((4, 3))),
            r"v: expected real numbers of shape \(5, 3\), a row for each point.*\(4, 3\)",
        ),
        (lambda: product(v=np.ones(5)), r"v: expected real numbers of shape \(5, 3\)"),
        (lambda: product(v=V * 1j), r"v: expected real numbers.*complex128"),
        (lambda: product(v=np.ones((5, 3), int)), r"v: expected real numbers.*int64"),
        (lambda: pulled_back(NET, PARAMS, X, V), r"v: expected real numbers of shape \(4, 3\)"),
        (
            lambda: metric_ntk_components(NET, PARAMS, X, pairs=[(0, 3)]),
            r"pairs: expected pairs.*components 0 to 2, got \[\(0, 3\)\]",
        ),
        (lambda: metric_ntk_components(NET, PARAMS, X, pairs=[(-1, 0)]), "pairs: expected"),
        (lambda: metric_ntk_components(NET, PARAMS, X, pairs=[]), "pairs: expected"),
        (lambda: metric_ntk(NET, PARAMS, X, chunk=0), "chunk: expected an integer of at least 1"),
        (lambda: metric_ntk(NET, PARAMS, X, chunk=2.5), "chunk: expected an integer"),
        (lambda: product(chunk=0), "chunk: expected an integer of at least 1"),
        (lambda: pulled_back(NET, PARAMS, Y, V, chunk=-1), "chunk: expected an integer"),
        (lambda: metric_ntk_product(NET, PARAMS, NAN, None, X), "x1: 12 of 12"),
    ],
)
def test_what_has_no_kernel_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_plain_perceptron_goes_the_general_way():
    """Activations that mix neurons and subclasses have other derivatives than a perceptron."""

    class Doubled(ansatz.Mlp):
        def __call__(self, x):
            return 2 * super().__call__(x)

    x = jax.random.normal(jax.random.key(0), (4, 3))
    for network in (ansatz.Mlp((4,), jax.nn.softmax, 2), Doubled((4,), "tanh", 2)):
        params = network.init(jax.random.key(1), x[0])
        found = metric_ntk(network, params, x)
        expected = metric_ntk(lambda p, y, n=network: n.apply(p, y), params, x)
        np.testing.assert_allclose(found, expected, rtol=tolerance("algebra"))


@pytest.mark.parametrize("complex_part", ["params", "x"])
def test_complex_outputs_of_a_perceptron_are_refused(as_user, complex_part):
    network = ansatz.Mlp((4,), "tanh", 2)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    params = network.init(jax.random.key(1), x[0])
    if complex_part == "params":
        params = jax.tree.map(lambda leaf: leaf + 0j, params)
    else:
        x = x + 0j
    with pytest.raises(ValueError, match="expected real outputs"):
        metric_ntk(network, params, x)


@pytest.mark.parametrize("chunk", [0, 2.5])
def test_a_chunk_is_a_number_of_points(as_user, chunk):
    network = ansatz.Mlp((4,), "tanh", 2)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    params = network.init(jax.random.key(1), x[0])
    for call in (metric_ntk, functools.partial(metric_ntk_components, pairs=[(0, 1)])):
        with pytest.raises(ValueError, match="chunk: expected an integer"):
            call(network, params, x, chunk=chunk)
    with pytest.raises(ValueError, match="pairs"):
        metric_ntk_components(network, params, x, pairs=[(0.9, 1.7)])


def test_trees_with_other_names_are_other_points(as_user):
    def apply(params, row):
        return params * sum(row.values())

    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match="x2: expected points like x1"):
        metric_ntk(apply, jnp.ones(2), {"a": x, "b": x}, {"c": x, "d": x})


def test_points_of_another_dimension_are_refused(as_user):
    network = ansatz.Mlp((4,), "tanh", 2)
    params = network.init(jax.random.key(1), jnp.ones(3))
    with pytest.raises(ValueError, match="x: the network reads 3 numbers at each point, got 2"):
        metric_ntk(network, params, jnp.ones((4, 2)))
