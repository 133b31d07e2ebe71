"""The metric-NTK of models, of points that are trees, of independent networks."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from metricflow import ansatz, geometry
from metricflow.kernels import (
    metric_ntk,
    metric_ntk_diagonal,
    metric_ntk_product,
)
from tests.kernels.jacobians import (
    a_small_case,
    assert_close,
    contracted,
    drawn,
    inputs,
    jacobian,
    multiplied,
)


@pytest.fixture(scope="module")
def small():
    return a_small_case()


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
    curve = manifolds[1]
    sample = geometry.sample_points(jax.random.key(0), curve, 40)
    # of the basis nothing is read
    model = ansatz.PotentialModel(curve, ansatz.spectral_basis(curve, 3, sample), network)
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
