import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow import geometry
from tests.tolerances import tolerance


def hermitian(seed: int, n: int, count: int = 6, dtype: str = "float64") -> np.ndarray:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(count, n, n)) + 1j * rng.normal(size=(count, n, n))
    return (a + a.conj().swapaxes(1, 2)).astype("complex64" if dtype == "float32" else "complex128")


@given(st.integers(1, 4), st.integers(0, 1000), st.sampled_from(["float32", "float64"]))
def test_packing_is_an_isometry_onto_n_squared_numbers(n, seed, dtype):
    g, h = hermitian(seed, n, dtype=dtype), hermitian(seed + 1, n, dtype=dtype)
    packed = geometry.hermitian_pack(g)
    assert packed.shape == (6, n * n)
    assert packed.dtype == dtype
    tol = tolerance("algebra", dtype)
    np.testing.assert_allclose(geometry.hermitian_unpack(packed), g, rtol=tol, atol=tol)
    inner = np.einsum("xab,xba->x", g, h).real
    found = jnp.sum(packed * geometry.hermitian_pack(h), 1)
    np.testing.assert_allclose(found, inner, rtol=tol, atol=50 * tol)


@given(st.integers(1, 4), st.integers(0, 1000))
def test_determinant_inverse_and_pivots_are_numpy_s(n, seed):
    g = hermitian(seed, n) + 0.1 * np.eye(n)
    np.testing.assert_allclose(
        geometry.hermitian_determinant(g), np.linalg.det(g).real, rtol=1e-8, atol=1e-8
    )
    product = np.asarray(geometry.hermitian_inverse(g)) @ g
    condition = np.linalg.cond(g).max()
    np.testing.assert_allclose(
        product, np.broadcast_to(np.eye(n), g.shape), atol=1e-13 * condition**2
    )
    positive = np.all(np.asarray(geometry.hermitian_pivots(g)) > 0, axis=1)
    np.testing.assert_array_equal(positive, np.linalg.eigvalsh(g)[:, 0] > 0)
    raised = g - (np.linalg.eigvalsh(g)[:, :1, None] - 0.01) * np.eye(n)
    assert np.all(np.asarray(geometry.hermitian_pivots(raised)) > 0)


def test_vanishing_leading_minor_is_not_positive():
    g = jnp.array([[[0, 1], [1, 0]]], complex)
    assert not bool(jnp.all(geometry.hermitian_pivots(g) > 0))
    assert float(geometry.hermitian_determinant(g)[0]) == -1


@pytest.mark.parametrize("count", [2, 3, 8, 10])
def test_components_that_are_no_square_number_are_refused(count):
    with pytest.raises(ValueError, match="n\\^2"):
        geometry.hermitian_unpack(jnp.zeros((4, count)))


@given(st.integers(1, 4), st.integers(0, 1000), st.sampled_from(["float32", "float64"]))
def test_a_frame_is_orthonormal(n, seed, dtype):
    h = hermitian(seed, n, dtype=dtype)
    g = np.einsum("xab,xcb->xac", h, h.conj()) + np.eye(n, dtype=h.dtype)
    frame = geometry.hermitian_frame(g)
    assert frame.dtype == g.dtype
    np.testing.assert_array_equal(frame, np.tril(frame))
    found = np.einsum("xab,xbc,xdc->xad", frame, g, frame.conj())
    unit = np.tile(np.eye(n), (6, 1, 1))
    np.testing.assert_allclose(found, unit, atol=tolerance("algebra", dtype))
