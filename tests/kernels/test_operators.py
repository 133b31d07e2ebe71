"""Kernels as operators: adjoints, signs, dtypes, tiles of every shape, sharded programs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from metricflow import kernels
from tests.tolerances import tolerance


def cloud(seed: int, count: int, dtype: str = "complex128") -> jax.Array:
    real, imaginary = jax.random.normal(jax.random.key(seed), (2, count, 4))
    return (real + 1j * imaginary).astype(dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Overlap:
    """Re <z, w>: a kernel of a user, with both signs and no logarithm."""

    def matrix(self, z1, z2):
        return (z1.conj() @ z2.T).real


@pytest.mark.parametrize("kernel", [kernels.Gaussian(0.3), kernels.ReluNTK(2)], ids=repr)
def test_the_operator_of_a_symmetric_kernel_is_its_own_adjoint(kernel):
    z, w = cloud(0, 13), cloud(1, 21)
    u, v = (
        jax.random.normal(jax.random.key(2), (13, 1)),
        jax.random.normal(jax.random.key(3), (21, 1)),
    )
    left = jnp.sum(u * kernels.apply(kernel, z, w, v, chunk=5))
    right = jnp.sum(kernels.apply(kernel, w, z, u, chunk=8) * v)
    assert float(left) == pytest.approx(float(right), rel=tolerance("sum"))


@pytest.mark.parametrize("chunk", [1, 4, 9, 100])
def test_a_kernel_with_signs_is_normalised_by_absolute_values(chunk):
    z, w = cloud(0, 9), cloud(1, 11)
    v = jax.random.normal(jax.random.key(2), (11, 3))
    matrix = np.real(np.asarray(z).conj() @ np.asarray(w).T)
    assert matrix.min() < 0 < matrix.max()
    expected = matrix / np.abs(matrix).sum(1, keepdims=True) @ np.asarray(v)
    found = kernels.apply(Overlap(), z, w, v, normalise=True, chunk=chunk)
    np.testing.assert_allclose(found, expected, rtol=tolerance("sum"), atol=tolerance("sum"))
    dense = kernels.dense(Overlap(), z, w, normalise=True)
    np.testing.assert_allclose(dense @ v, expected, rtol=tolerance("sum"), atol=tolerance("sum"))


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_a_single_centre_and_tiles_that_just_fit(count):
    z, v = cloud(3, count), jax.random.normal(jax.random.key(4), (1, 2))
    centre = cloud(5, 1)
    plain = kernels.apply(kernels.Gaussian(0.5), z, centre, v, chunk=8)
    np.testing.assert_allclose(
        plain, kernels.dense(kernels.Gaussian(0.5), z, centre) * v, rtol=tolerance("kernel")
    )
    only = kernels.apply(kernels.Gaussian(0.5), z, centre, v, normalise=True, chunk=8)
    np.testing.assert_array_equal(only, jnp.broadcast_to(v, (count, 2)))


@pytest.mark.parametrize("normalise", [False, True])
def test_dtype_follows_the_points(normalise, dtype):
    kind = "complex64" if dtype == "float32" else "complex128"
    z, w = cloud(6, 10, kind), cloud(7, 12, kind)
    v = jnp.ones((12, 2), dtype)
    for kernel in (kernels.Gaussian(0.4), kernels.ReluNTK(1, 1.2, 0.1), kernels.Delta()):
        for make in (kernels.dense_operator, kernels.tiled_operator):
            assert (make(kernel, z, w, normalise=normalise) @ v).dtype == dtype


@pytest.mark.parametrize("normalise", [False, True])
def test_a_compiled_program_over_sharded_rows_gives_the_same_numbers(normalise):
    assert len(jax.devices()) == 4
    z, w, v = cloud(8, 64), cloud(9, 50), jax.random.normal(jax.random.key(10), (50, 4))

    @jax.jit
    def program(rows):
        return kernels.apply(kernels.Gaussian(0.4), rows, w, v, normalise=normalise, chunk=16)

    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.device_put(z, NamedSharding(mesh, PartitionSpec("rows")))
    np.testing.assert_allclose(program(rows), program(z), rtol=tolerance("sum"))
