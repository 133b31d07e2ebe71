import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from metricflow import geometry, kernels
from tests.tolerances import tolerance

KERNELS = [
    kernels.Gaussian(0.3),
    kernels.Exponential(0.3),
    kernels.ReluNTK(2, 1.3, 0.2),
    kernels.Delta(),
]


def points(quintic, count: int, seed: int = 0, dtype: str = "float64") -> jax.Array:
    return geometry.sample_points_in_chart(jax.random.key(seed), quintic, count, dtype=dtype).z


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


def real(z: jax.Array) -> np.ndarray:
    return np.concatenate([np.asarray(z).real, np.asarray(z).imag], -1).astype(float)


@pytest.mark.equation("MF 3.6")
def test_radial_kernels_are_their_formulas(quintic, dtype):
    z, w = points(quintic, 40, 0, dtype), points(quintic, 30, 1, dtype)
    d = np.asarray(geometry.pairwise_distance(z.astype(complex), w.astype(complex)))
    tol = tolerance("kernel", dtype)
    gaussian = kernels.dense(kernels.Gaussian(0.3), z, w)
    np.testing.assert_allclose(gaussian, np.exp(-(d**2) / (2 * 0.3**2)), rtol=20 * tol, atol=tol)
    printed = kernels.dense(kernels.Exponential(0.3), z, w)
    np.testing.assert_allclose(printed, np.exp(-d / (2 * 0.3)), rtol=20 * tol, atol=tol)
    assert gaussian.dtype == printed.dtype == dtype
    # on the diagonal the distance is zero to rounding, in float32 too
    for kernel in (kernels.Gaussian(0.3), kernels.Exponential(0.3)):
        np.testing.assert_allclose(
            jnp.diagonal(kernels.dense(kernel, z, z)), 1, atol=2e-5 if dtype == "float32" else 1e-13
        )


@pytest.mark.equation("MF 2.9", "MF 2.12")
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_relu_ntk_is_the_recursion_off_the_diagonal(quintic, dtype, depth):
    z, w = points(quintic, 30, 0, dtype), points(quintic, 20, 1, dtype)
    for weight, bias in ((1.4, 0.0), (1.0, 0.7)):
        found = kernels.dense(kernels.ReluNTK(depth, weight, bias), z, w)
        expected = relu_recursion(real(z)[:, None], real(w)[None], depth, weight, bias)
        scale = np.abs(expected).max()
        assert found.dtype == dtype
        np.testing.assert_allclose(found / scale, expected / scale, atol=tolerance("kernel", dtype))


@pytest.mark.parametrize("depth", [1, 3, 10])
def test_relu_ntk_is_right_on_the_diagonal(quintic, dtype, depth):
    z = points(quintic, 30, 0, dtype)
    weight, bias = 1.3, 0.2
    found = jnp.diagonal(kernels.dense(kernels.ReluNTK(depth, weight, bias), z, z))
    # theta = 0: K' = w^2 q / 2 + b^2 and Theta' = K' + w^2 / 2 Theta
    q = weight**2 * np.sum(real(z) ** 2, 1) / 10 + bias**2
    theta = q
    for _ in range(depth):
        q = weight**2 * q / 2 + bias**2
        theta = q + weight**2 / 2 * theta
    np.testing.assert_allclose(found, theta, rtol=tolerance("kernel", dtype))


def test_relu_ntk_near_the_diagonal_and_near_its_antipode_in_float32(quintic):
    z = points(quintic, 5, 0)
    kernel = kernels.ReluNTK(3, 1.4, 0.0)
    for factor in (1.0, -1.0):
        for offset in (1e-3, 1e-4, 1e-5, 1e-6):
            w = factor * (z + offset * points(quintic, 5, 1)[::-1])
            # the kernel of the float32 inputs, in float32 and in float64
            zs, ws = z.astype("complex64"), w.astype("complex64")
            narrow = jnp.diagonal(kernels.dense(kernel, zs, ws))
            wide = jnp.diagonal(
                kernels.dense(kernel, zs.astype("complex128"), ws.astype("complex128"))
            )
            largest = np.abs(jnp.diagonal(kernels.dense(kernel, z, z)))
            assert np.max(np.abs(narrow - wide) / largest) < 2e-6


@pytest.mark.equation("MF 2.9", "MF 2.11")
def test_wide_random_networks_average_to_the_relu_ntk(quintic):
    z = points(quintic, 6)
    x = jnp.asarray(real(z))
    weight, bias, depth = 1.4, 0.3, 2
    expected = kernels.dense(kernels.ReluNTK(depth, weight, bias), z, z)

    def network(params, inputs):
        h = inputs
        for i, (w, b) in enumerate(params):
            h = weight * h @ w / np.sqrt(w.shape[0]) + bias * b
            h = jax.nn.relu(h) if i < depth else h
        return h[:, 0]

    def error(width):
        def one(key):
            sizes = [10, *[width] * depth, 1]
            keys = jax.random.split(key, 2 * (depth + 1))
            params = [
                (jax.random.normal(keys[2 * i], (a, b)), jax.random.normal(keys[2 * i + 1], (b,)))
                for i, (a, b) in enumerate(itertools.pairwise(sizes))
            ]
            rows = jax.tree.leaves(jax.jacobian(network)(params, x))
            return sum(r.reshape(6, -1) @ r.reshape(6, -1).T for r in rows)

        found = jax.lax.map(one, jax.random.split(jax.random.key(width), 24))
        assert (
            np.abs(jnp.mean(found, 0) - expected).max()
            < 4 * np.std(found, 0).max() / np.sqrt(24) + 0.02
        )
        return float(jnp.sqrt(jnp.mean((found - expected) ** 2)))

    narrow, wide = error(32), error(512)
    # sixteen times the width: a quarter of the error
    assert 2.5 < narrow / wide < 6.5


def test_relu_ntk_is_positive_semi_definite(quintic):
    z = points(quintic, 60)
    matrix = np.asarray(kernels.dense(kernels.ReluNTK(2, 1.4, 0.1), z, z))
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


@pytest.mark.equation("MF 2.12")
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.parametrize(("rows", "columns", "chunk"), [(23, 40, 7), (5, 64, 16), (30, 30, 1000)])
def test_tiled_and_dense_forms_agree(quintic, kernel, rows, columns, chunk, normalise):
    z, w = points(quintic, rows, 0), points(quintic, columns, 1)
    v = jax.random.normal(jax.random.key(2), (columns, 9))
    expected = kernels.dense(kernel, z, w, normalise=normalise) @ v
    found = kernels.apply(kernel, z, w, v, normalise=normalise, chunk=chunk)
    np.testing.assert_allclose(found, expected, rtol=tolerance("sum"), atol=1e-11)
    for operator in (kernels.dense_operator, kernels.tiled_operator):
        again = operator(kernel, z, w, normalise=normalise) @ v
        np.testing.assert_allclose(again, expected, rtol=tolerance("sum"), atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_normalised_rows_add_up_to_one(quintic, kernel):
    matrix = kernels.dense(kernel, points(quintic, 10, 0), points(quintic, 20, 1), normalise=True)
    np.testing.assert_allclose(jnp.sum(jnp.abs(matrix), 1), 1, rtol=1e-13)


@pytest.mark.parametrize("width", [1e-3, 1e-9])
def test_narrow_normalised_gaussian_is_the_delta_kernel(quintic, width, dtype):
    z, w = points(quintic, 20, 0, dtype), points(quintic, 30, 1, dtype)
    v = jax.random.normal(jax.random.key(3), (30, 2), dtype)
    found = kernels.apply(kernels.Gaussian(width), z, w, v, normalise=True, chunk=8)
    np.testing.assert_array_equal(found, kernels.apply(kernels.Delta(), z, w, v))
    nearest = geometry.nearest_neighbour(z, w).indices
    np.testing.assert_array_equal(found, v[nearest])


@pytest.mark.usefixtures("as_user")
def test_applying_a_kernel_never_holds_all_pairs():
    from metricflow.kernels import operators

    z, v = (
        jax.ShapeDtypeStruct((20_000, 5), jnp.complex64),
        jax.ShapeDtypeStruct((20_000, 9), jnp.float32),
    )
    for normalise in (False, True):
        lowered = operators._streamed.lower(kernels.Gaussian(0.3), z, z, v, normalise, 1000)
        assert lowered.compile().memory_analysis().temp_size_in_bytes < 60e6  # all pairs: 1.6e9


def test_sharded_rows_give_the_same_numbers(quintic):
    devices = jax.devices()
    assert len(devices) == 4
    z, w = points(quintic, 64, 0), points(quintic, 50, 1)
    v = jax.random.normal(jax.random.key(2), (50, 9))
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.device_put(z, NamedSharding(mesh, PartitionSpec("rows")))
    found = kernels.apply(kernels.Gaussian(0.4), rows, w, v, chunk=16)
    np.testing.assert_allclose(
        found, kernels.apply(kernels.Gaussian(0.4), z, w, v, chunk=16), rtol=1e-13
    )


def test_gaussian_is_smooth_at_its_centres(quintic):
    """log K = -t^2 / (2 width^2) along geodesics of speed 1, and so are its derivatives."""
    centres = points(quintic, 8)
    u = centres / jnp.linalg.norm(centres, axis=1, keepdims=True)
    v = jnp.roll(u, 1, axis=0)
    v = v - u * jnp.sum(u.conj() * v, axis=1, keepdims=True)
    v = v / jnp.linalg.norm(v, axis=1, keepdims=True)
    kernel = kernels.Gaussian(0.4)

    def along(t):
        return jnp.diagonal(kernel.log_matrix(jnp.cos(t) * u + jnp.sin(t) * v, centres))

    slope, bend = jax.jit(jax.jacobian(along)), jax.jit(jax.hessian(along))
    for t in (0.0, 1e-12, 1e-9, 1e-6, 1e-3):
        np.testing.assert_allclose(slope(t), -t / 0.4**2, atol=1e-12)
        np.testing.assert_allclose(bend(t), -6.25, rtol=1e-9)
    assert float(jnp.max(kernel.matrix(u, centres))) <= 1


def test_changing_the_width_does_not_compile_again(quintic):
    from metricflow.kernels import operators

    z, v = points(quintic, 11), jnp.ones((11, 2))
    before = operators._streamed._cache_size()
    for width in (0.1, 0.2, 0.3):
        kernels.apply(kernels.Gaussian(jnp.asarray(width)), z, z, v)
    assert operators._streamed._cache_size() == before + 1


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kernels.Gaussian(0.0), "width"),
        (lambda: kernels.Exponential(-1), "width"),
        (lambda: kernels.Gaussian(float("nan")), "width"),
        (lambda: kernels.ReluNTK(0), "depth"),
        (lambda: kernels.ReluNTK(1, -1.0), "weight_std"),
        (lambda: kernels.ReluNTK(1, 1.0, -0.1), "bias_std"),
        (
            lambda: kernels.apply(
                kernels.Delta(), np.ones((2, 5)) + 0j, np.ones((3, 5)) + 0j, np.ones((2, 1))
            ),
            "v: ",
        ),
        (
            lambda: kernels.apply(
                kernels.Delta(), np.ones((2, 5)) + 0j, np.ones((0, 5)) + 0j, np.ones((0, 1))
            ),
            "empty",
        ),
        (
            lambda: kernels.dense(kernels.Gaussian(1.0), np.ones((2, 5)), np.ones((3, 5)) + 0j),
            "complex",
        ),
        (
            lambda: kernels.tiled_operator(
                kernels.Gaussian(1.0), np.ones((2, 5)) + 0j, np.ones((3, 5)) + 0j, chunk=0
            ),
            "chunk",
        ),
    ],
)
def test_bad_kernels_and_sets_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
