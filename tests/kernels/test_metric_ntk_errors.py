"""What the functions of the metric-NTK refuse, and how they say it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz
from metricflow.kernels import (
    metric_ntk,
    metric_ntk_components,
    metric_ntk_diagonal,
    metric_ntk_product,
    pulled_back,
)
from tests.kernels.jacobians import (
    drawn,
    mlp,
)
from tests.tolerances import tolerance

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
