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
    kernels.InfiniteNetwork("relu", 2, 1.3, 0.2),
    kernels.Delta(),
]


def points(quintic, count: int, seed: int = 0, dtype: str = "float64") -> jax.Array:
    return geometry.sample_points_in_chart(jax.random.key(seed), quintic, count, dtype=dtype).z


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
    assert len(jax.devices()) >= 4
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


class Unregistered:
    def matrix(self, z1, z2):
        return jnp.ones((len(z1), len(z2)))


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kernels.Gaussian(0.0), "width"),
        (lambda: kernels.Exponential(-1), "width"),
        (lambda: kernels.Gaussian(float("nan")), "width"),
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
        (
            lambda: kernels.dense(object(), np.ones((2, 5)) + 0j, np.ones((3, 5)) + 0j),
            r"kernel: expected an object with a method matrix\(z1, z2\).*got object",
        ),
        (
            lambda: kernels.tiled_operator(
                kernels.Sum((kernels.Gaussian(1.0), Unregistered())),
                np.ones((2, 5)) + 0j,
                np.ones((3, 5)) + 0j,
            ),
            "kernel: Unregistered is no pytree.*metricflow.register_dataclass",
        ),
    ],
)
def test_bad_kernels_and_sets_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
