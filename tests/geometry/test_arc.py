"""The polynomial arc cosine: its tables, its error, its derivatives, what kernels make of it."""

from decimal import Decimal, localcontext
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import geometry, kernels
from metricflow.geometry import distances
from tests.tolerances import tolerance


def arc(v: Decimal) -> Decimal:
    """arccos(1 - v)^2 / v by d^2 = 4 arcsin(sqrt(v / 2))^2 = 2 sum_k (2 v)^k / (k^2 C(2k, k))."""
    return sum(
        Decimal(4) * (2 * v) ** k / ((k + 1) ** 2 * comb(2 * k + 2, k + 1)) if k else Decimal(2)
        for k in range(140)
    )


def interpolated(degree: int) -> list[Decimal]:
    """Coefficients of 1, v, ... of the polynomial through Q at the Chebyshev nodes of [0, 1]."""
    nodes = [
        (1 + Decimal(str(np.cos(np.longdouble(2 * k + 1) * np.pi / (2 * degree + 2))))) / 2
        for k in range(degree + 1)
    ]
    newton = [arc(v) for v in nodes]
    for order in range(1, degree + 1):  # divided differences
        for i in range(degree, order - 1, -1):
            newton[i] = (newton[i] - newton[i - 1]) / (nodes[i] - nodes[i - order])
    found = [newton[degree]]
    for i in range(degree - 1, -1, -1):  # p <- newton_i + (v - node_i) p
        shifted, scaled = [Decimal(0), *found], [-nodes[i] * c for c in found] + [Decimal(0)]
        found = [a + b for a, b in zip(shifted, scaled, strict=True)]
        found[0] += newton[i]
    return found


@pytest.mark.parametrize(
    ("table", "digits"), [(distances._ARC_FLOAT32, 5e-9), (distances._ARC_FLOAT64, 1e-14)]
)
def test_the_tables_interpolate_the_arc_cosine(table, digits):
    """Made again; nine digits are written for float32, and the nodes here have eighteen."""
    with localcontext() as context:
        context.prec = 60
        expected = interpolated(len(table) - 1)
        for found, exact in zip(table, expected, strict=True):
            assert abs(Decimal(found) - exact) < Decimal(digits) * abs(exact)


@pytest.mark.parametrize(
    ("table", "error"), [(distances._ARC_FLOAT32, 1e-8), (distances._ARC_FLOAT64, 3e-16)]
)
def test_the_tables_are_as_accurate_as_they_say(table, error):
    """As polynomials with the coefficients as stored, against the exact series."""
    with localcontext() as context:
        context.prec = 40
        for i in range(51):
            v = Decimal(i) / 50
            exact = arc(v)
            found = Decimal(0)
            for c in reversed(table):
                found = found * v + Decimal(c)
            assert abs(found - exact) < Decimal(error) * exact


@pytest.mark.parametrize(("kind", "error"), [("float32", 3e-7), ("float64", 1e-15)])
def test_relative_error_of_the_squared_arc(kind, error):
    half = np.longdouble("1.57079632679489661923")
    d = np.concatenate(
        [np.geomspace(np.longdouble(1e-9), half, 4000), np.linspace(1e-2, half, 4000)]
    )
    d = np.minimum(d, half)
    sine2, cosine2 = ((f(d) ** 2).astype(kind) for f in (np.sin, np.cos))
    found = distances.arc_squared(jnp.asarray(sine2), jnp.asarray(cosine2))
    assert found.dtype == kind
    assert np.max(np.abs(np.asarray(found).astype(np.longdouble) - d**2) / d**2) < error
    zero, one = jnp.zeros(1, kind), jnp.ones(1, kind)
    assert float(distances.arc_squared(zero, one)[0]) == 0


@pytest.fixture(scope="module")
def frame():
    """Two orthonormal vectors."""
    real, imaginary = jax.random.normal(jax.random.key(3), (2, 5, 2))
    return jnp.linalg.qr(real + 1j * imaginary)[0].T


def test_derivatives_along_a_geodesic_of_speed_one(frame, dtype):
    """d^2 = t^2, up to the last points before the cut locus."""
    u, v = frame.astype("complex64" if dtype == "float32" else "complex128")

    def along(t):
        return geometry.squared_distance(u, jnp.cos(t) * u + jnp.sin(t) * v)

    slope = jax.grad(along)
    t = jnp.asarray([0, 1e-9, 1e-4, 1e-2, 0.1, 0.5, 1, 1.3, 1.5], dtype)
    value, first, second = jax.jit(
        lambda t: tuple(jax.vmap(f)(t) for f in (along, slope, jax.grad(slope)))
    )(t)
    scale = 1 if dtype == "float64" else 20
    close = scale * tolerance("kernel", dtype)
    np.testing.assert_allclose(value, t**2, atol=close)
    np.testing.assert_allclose(first, 2 * t, atol=close)
    np.testing.assert_allclose(second, 2, atol=10 * close)


def test_the_hessian_where_points_coincide_is_the_metric(frame, dtype):
    """d^2 (z, z + h) = |h|^2 - |<z, h>|^2 to second order, for |z| = 1: no part along z or i z."""
    z = frame[0].astype("complex64" if dtype == "float32" else "complex128")

    def moved(h):
        return geometry.squared_distance(z, z + (h[:5] + 1j * h[5:]))

    zero = jnp.zeros(10, dtype)
    value, slope, found = jax.jit(lambda h: (moved(h), jax.grad(moved)(h), jax.hessian(moved)(h)))(
        zero
    )
    assert abs(float(value)) < 1e-12
    np.testing.assert_allclose(slope, 0, atol=4 * jnp.finfo(dtype).eps)
    along = np.stack(
        [np.concatenate([w.real, w.imag]) for w in (np.asarray(z), 1j * np.asarray(z))]
    )
    expected = 2 * (np.eye(10) - along.T @ along)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, atol=10 * tolerance("rounding", dtype))


def test_the_gradient_at_the_cut_locus_is_finite():
    """Orthogonal to the last bit."""
    u, v = jnp.eye(5, dtype=complex)[:2]
    value, slope = jax.jit(jax.value_and_grad(lambda w: geometry.squared_distance(u, w)))(v)
    assert float(value) == pytest.approx(np.pi**2 / 4, rel=1e-12)
    assert bool(jnp.all(jnp.isfinite(slope)))


def test_gradients_with_respect_to_points_are_differences():
    """Generic pairs, both arguments, by central differences."""
    rng = np.random.default_rng(4)
    z, w, a, b = (rng.normal(size=(6, 5)) + 1j * rng.normal(size=(6, 5)) for _ in range(4))

    @jax.jit
    def along(t):
        return geometry.squared_distance(z + t * a, w + t * b)

    step = 1e-5
    expected = (along(step) - along(-step)) / (2 * step)
    bend = (along(10 * step) + along(-10 * step) - 2 * along(0.0)) / (10 * step) ** 2
    first, second = (jax.jit(f)(0.0) for f in (jax.jacfwd(along), jax.jacfwd(jax.jacfwd(along))))
    np.testing.assert_allclose(first, expected, rtol=tolerance("difference"))
    np.testing.assert_allclose(second, bend, rtol=1e-4, atol=1e-4)


def test_a_gaussian_in_single_precision_is_that_in_double():
    rng = np.random.default_rng(5)
    z, w = ((rng.normal(size=(80, 5)) + 1j * rng.normal(size=(80, 5))) for _ in range(2))
    near = z + 0.03 * w
    for second in (w, near, z):
        pair = [jnp.asarray(x, "complex64") for x in (z, second)]
        narrow = kernels.dense(kernels.Gaussian(1.0), *pair)
        wide = kernels.dense(kernels.Gaussian(1.0), *(x.astype("complex128") for x in pair))
        assert narrow.dtype == "float32"
        np.testing.assert_allclose(narrow, wide, rtol=0, atol=1e-6)
