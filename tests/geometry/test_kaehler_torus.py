"""Kaehler metrics of flat tori on a grid, against automatic differentiation and identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import geometry
from metricflow.geometry import KaehlerTorus, PeriodicGrid
from metricflow.geometry.kaehler_torus import raised, trace
from tests.tolerances import tolerance

CLOSE = tolerance("algebra")
SKEW = ((1.0, 0.3 + 0.2j), (0.3 - 0.2j, 1.5))
# wave vectors over (x1, x2, y1, y2), amplitudes and phases of a potential in closed form
WAVES = ((1, 0, 0, 1), (0, 1, -1, 0), (1, -1, 0, 0), (0, 0, 1, 1))
STRENGTHS = (0.03, 0.02, 0.015, 0.025)


def closed_form(x):
    """A potential at one point x of C^2."""
    real = jnp.concatenate([x.real, x.imag])
    waves = jnp.asarray(WAVES, real.dtype) @ real + jnp.arange(4)
    return jnp.asarray(STRENGTHS, real.dtype) @ jnp.cos(waves)


def surface(count=9):
    torus = KaehlerTorus(PeriodicGrid((count,) * 4), SKEW)
    axes = torus.grid.points()
    points = axes[..., :2] + 1j * axes[..., 2:]
    return torus, points, jax.vmap(closed_form)(points.reshape(-1, 2)).reshape(torus.grid.shape)


def one_point_metric(x):
    """g_0 + d dbar phi by automatic differentiation along the real axes."""

    def real(y):
        return closed_form(y[:2] + 1j * y[2:])

    second = jax.jacfwd(jax.jacfwd(real))(jnp.concatenate([x.real, x.imag]))
    a, b, c, d = second[:2, :2], second[:2, 2:], second[2:, :2], second[2:, 2:]
    return jnp.asarray(SKEW) + (a + d + 1j * (b - c)) / 4


@pytest.mark.equation("MF B.5", "MF B.6")
def test_metric_and_curvature_are_those_of_automatic_differentiation():
    torus, points, phi = surface(15)
    g = torus.metric(phi)
    for index in ((3, 8, 1, 5), (14, 2, 7, 11)):
        x = points[index]
        np.testing.assert_allclose(g[index], one_point_metric(x), atol=CLOSE)
        # ln det g is not band-limited: what is left falls with the size of the grid
        found = torus.ricci(g)[index]
        np.testing.assert_allclose(found, geometry.kaehler_ricci(one_point_metric, x), atol=1e-5)
        scalar = geometry.kaehler_scalar(one_point_metric, x)
        assert float(torus.ricci_scalar(g)[index]) == pytest.approx(float(scalar), abs=1e-5)
        expected = geometry.kaehler_laplacian(one_point_metric, closed_form, x)
        assert float(torus.laplacian(g, phi)[index]) == pytest.approx(float(expected), abs=CLOSE)


def test_the_length_of_a_gradient_written_out():
    torus, points, phi = surface()
    g = torus.metric(phi)
    index = (1, 2, 3, 4)
    slope = jax.vmap(lambda v: geometry.holomorphic_derivative(closed_form, points[index], v))(
        jnp.eye(2, dtype=complex)
    )
    expected = slope.conj() @ np.linalg.inv(g[index]) @ slope
    # g^(a bbar) d_a f dbar_b f: the inverse matrix carries (bbar, a)
    assert float(torus.slope_squared(g, phi)[index]) == pytest.approx(float(expected.real))


@pytest.mark.equation("MF B.6")
@pytest.mark.parametrize("reference", [(), SKEW])
def test_the_volume_does_not_depend_on_the_potential(reference):
    torus = KaehlerTorus(PeriodicGrid((9,) * 4), reference)
    phi = 0.05 * torus.grid.random_field(jax.random.key(0), 2)
    eta = torus.volume_ratio(torus.metric(phi))
    assert float(jnp.std(eta)) > 0.01
    assert float(torus.grid.mean(eta)) == pytest.approx(1, abs=CLOSE)


def test_double_divergence_is_the_adjoint_of_the_hessian():
    torus, _, phi = surface()
    f = torus.grid.random_field(jax.random.key(1), 2)
    hermitian = torus.hessians(torus.grid.random_field(jax.random.key(2), 2))
    left = torus.grid.mean(jnp.einsum("...ab,...ab->...", hermitian, torus.hessians(f)).real)
    right = torus.grid.mean(f * torus.double_divergence(hermitian))
    assert abs(float(left)) > 1e-3
    assert float(left) == pytest.approx(float(right), rel=CLOSE)
    # raising both indices turns the pairing into the product of g
    g = torus.metric(phi)
    t, h = torus.hessians(phi), torus.hessians(f)
    inverse = jnp.linalg.inv(g)
    expected = jnp.einsum("...ij,...jk,...kl,...li->...", inverse, t, inverse, h).real
    found = jnp.einsum("...ab,...ab->...", raised(g, t), h).real
    np.testing.assert_allclose(found, expected, atol=CLOSE)
    np.testing.assert_allclose(trace(g, t), jnp.einsum("...ij,...ji->...", inverse, t).real)


def test_single_precision_stays_single():
    torus = KaehlerTorus(PeriodicGrid((9, 9)))
    phi = 0.1 * torus.grid.random_field(jax.random.key(0), 2, dtype="float32")
    g = torus.metric(phi)
    assert phi.dtype == jnp.float32
    assert g.dtype == jnp.complex64
    double = torus.metric(phi.astype(float))
    np.testing.assert_allclose(g, double, atol=10 * tolerance("rounding", "float32"))
    assert torus.ricci_scalar(g).dtype == jnp.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PeriodicGrid((5, 5, 5)),), "even number of axes"),
        ((PeriodicGrid((5, 5)), ((-1.0,),)), "positive Hermitian"),
        ((PeriodicGrid((5, 5)), ((1.0, 0.0), (0.0, 1.0))), "positive Hermitian"),
        ((PeriodicGrid((5,) * 4), ((1.0, 0.5), (0.0, 1.0))), "positive Hermitian"),
    ],
)
def test_wrong_tori_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        KaehlerTorus(*arguments)
