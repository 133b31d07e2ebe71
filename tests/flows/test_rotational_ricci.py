"""Ricci flow of rotationally symmetric spheres: round ones shrink, dumbbells pinch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow.flows import FlowError, Result, RotationalRicciFlow
from tests.tolerances import tolerance


def round_sphere(flow, radius=1.0, stretch=0.0, dtype="float64"):
    """A round sphere in the coordinate theta = x + stretch sin 2x."""
    x = flow.coordinates(dtype)
    theta = x + stretch * jnp.sin(2 * x)
    return radius * (1 + 2 * stretch * jnp.cos(2 * x)), radius * jnp.sin(theta)


def dumbbell(flow, depth=0.8):
    sine = jnp.sin(flow.coordinates())
    return jnp.ones_like(sine), sine * (1 - depth * sine**2)


def close(found, expected, tol):
    np.testing.assert_allclose(found, expected, rtol=tol, atol=tol)


def test_curvatures_of_round_spheres(dtype):
    flow = RotationalRicciFlow(3, 48)
    state = flow.init(*round_sphere(flow, 2.0, 0.15, dtype))
    for found in flow.curvatures(state):
        assert found.dtype == dtype
        close(found, 0.25, 1e-8 if dtype == "float64" else 2e-2)
    chi, psi = flow.metric(state)
    close(chi, round_sphere(flow, 2.0, 0.15, dtype)[0], 10 * tolerance("rounding", dtype))
    close(psi, round_sphere(flow, 2.0, 0.15, dtype)[1], 10 * tolerance("rounding", dtype))


def test_curvatures_by_automatic_differentiation():
    """-psi_ss / psi and (1 - psi_s^2) / psi^2 of functions of x."""
    flow = RotationalRicciFlow(3, 48)

    def psi(x):
        return jnp.sin(x) * (1 - 0.5 * jnp.sin(x) ** 2 + 0.1 * jnp.cos(x))

    def chi(x):
        return (1 + 0.1 * jnp.cos(x)) * jnp.exp(0.3 * jnp.sin(x) ** 2)

    x = flow.coordinates()
    slope = lambda y: jax.grad(psi)(y) / chi(y)  # noqa: E731
    first = jax.vmap(slope)(x)
    second = jax.vmap(jax.grad(slope))(x) / chi(x)
    axial, spherical = flow.curvatures(flow.init(chi(x), psi(x)))
    size = float(jnp.max(jnp.abs(axial)))
    np.testing.assert_allclose(axial, -second / psi(x), atol=1e-8 * size)
    np.testing.assert_allclose(spherical, (1 - first**2) / psi(x) ** 2, atol=1e-8 * size)
    # they agree at the poles, where the metric has no cone
    np.testing.assert_allclose(axial[0], spherical[0], rtol=0.02)


@pytest.mark.equation("RF 5")
def test_velocity_is_the_equation_of_the_flow():
    """psi_t = psi_ss - (n - 1) (1 - psi_s^2) / psi and chi_t = n chi psi_ss / psi, with L_W."""
    for dim in (2, 3, 4):
        flow, n = RotationalRicciFlow(dim, 48), dim - 1
        sine, cosine = jnp.sin(flow.coordinates()), jnp.cos(flow.coordinates())
        state = flow.init(1 + 0.1 * sine**2, sine * (1 + 0.2 * sine**2 * cosine))
        chi, psi = flow.metric(state)

        def derivative(values, chi=chi, cosine=cosine, sine=sine):
            """d/dx of an even function."""
            series = np.polynomial.chebyshev.Chebyshev.fit(cosine, values, 40, domain=[-1, 1])
            return -sine * series.deriv()(np.asarray(cosine))

        psi_x = cosine * psi / sine + sine * derivative(psi / sine)
        w = derivative(chi) / chi**3 - n * psi_x / (psi * chi**2) + n * sine * cosine / psi**2
        w = w * (1 - 0.7 * sine**2)
        w_x = cosine * w / sine + sine * derivative(w / sine)
        axial, spherical = flow.curvatures(state)
        expected_psi = -psi * (axial + (n - 1) * spherical) + w * psi_x
        expected_chi = -n * chi * axial + w * derivative(chi) + w_x * chi
        _, (chi_t, psi_t) = jax.jvp(
            lambda a, b, state=state, flow=flow: flow.metric(state._replace(a=a, b=b)),
            (state.a, state.b),
            flow.velocity(state.a, state.b),
        )
        np.testing.assert_allclose(psi_t, expected_psi, atol=1e-6)
        np.testing.assert_allclose(chi_t, expected_chi, atol=1e-6)


@pytest.mark.equation("RF 5")
@pytest.mark.parametrize("dim", [2, 3, 4])
@pytest.mark.parametrize("stretch", [0.0, 0.1])
def test_round_spheres_shrink(dim, stretch):
    """r^2 = r_0^2 - 2 (dim - 1) t, to 1e-6 up to nine tenths of the life time."""
    flow = RotationalRicciFlow(dim, 32)
    life = 1.5**2 / (2 * (dim - 1))
    state = flow.init(*round_sphere(flow, 1.5, stretch))
    state, _, _ = flow.run(state, 800, 0.9 * life / 800)
    assert float(state.time) == pytest.approx(0.9 * life)
    radius = (1.5**2 - 2 * (dim - 1) * float(state.time)) ** 0.5
    for curvature in flow.curvatures(state):
        np.testing.assert_allclose(curvature**-0.5, radius, rtol=1e-6)
    if not stretch:
        for found, expected in zip(flow.metric(state), round_sphere(flow, radius), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.equation("RF 38")
def test_a_dumbbell_pinches():
    """The curvature explodes as 1 / (T - t) at the neck, while the bells live on."""
    flow = RotationalRicciFlow(3, 64)
    middle = flow.points // 2

    def seen(state):
        psi = flow.metric(state)[1]
        return psi[middle], jnp.max(psi)

    _, info, (neck, bell) = flow.run(flow.init(*dumbbell(flow)), 300, observe=seen)
    curvature, time = np.asarray(info.curvature), np.asarray(info.time)
    assert curvature[-1] > 20 * curvature[0]
    assert np.all(np.diff(curvature) > 0)
    # the neck is a shrinking cylinder: d(1/K)/dt -> -2 (n - 1), without knowing T
    late = curvature > 4 * curvature[0]
    slope = np.polyfit(time[late], 1 / curvature[late], 1)[0]
    assert -2 < slope < -1.6
    T = time[-1] - 1 / (slope * curvature[-1])
    product = curvature * (T - time)
    assert np.ptp(product[late]) < 0.1 * np.mean(product[late])
    assert 0.5 < np.mean(product[late]) < 0.65  # 1 / (2 (n - 1)) for the cylinder, reached slowly
    assert float(bell[-1]) > 0.7 * float(bell[0])
    np.testing.assert_allclose(curvature[1:][late[1:]] * neck[:-1][late[1:]] ** 2, 1, rtol=2e-3)


@pytest.mark.equation("RF 38")
def test_a_shallow_dumbbell_does_not_pinch():
    """It becomes round first: the two curvatures approach one another."""
    flow = RotationalRicciFlow(3, 32, change=0.01)
    state = flow.init(*dumbbell(flow, 0.2))
    spread = []
    for _ in range(3):
        axial, spherical = flow.curvatures(state)
        both = jnp.concatenate([axial, spherical])
        spread.append(float(jnp.ptp(both) / jnp.max(both)))
        state, _, _ = flow.run(state, 300)
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] < 0.2 * spread[0]


def test_the_adaptive_step_follows_the_curvature():
    flow = RotationalRicciFlow(2, 16)
    state = flow.init(*round_sphere(flow))
    end, info, _ = flow.run(state, 200)
    assert np.all(np.asarray(info.dt[1:]) <= info.dt[:-1])
    np.testing.assert_allclose(info.dt * info.curvature, info.dt[0] * info.curvature[0], rtol=1e-6)
    assert float(end.time) < 0.5
    close(flow.curvatures(end)[0] * (1 - 2 * end.time), 1, 1e-6)


def test_a_flow_that_breaks_down_says_so():
    flow = RotationalRicciFlow(3, 16)
    state = flow.init(*round_sphere(flow))
    with pytest.raises(FlowError, match="smaller dt") as error:
        flow.run(state, 50, 0.3)
    assert error.value.result == Result.NON_FINITE
    end, info, _ = flow.run(state, 50, 0.3, throw=False)
    assert int(end.steps) == error.value.step < 50
    assert np.all(np.isfinite(end.a))
    assert int(info.result[-1]) == Result.NON_FINITE


@pytest.mark.usefixtures("as_user")
def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="dim: expected at least 2, the sphere S"):
        RotationalRicciFlow(1)
    with pytest.raises(ValueError, match="points: expected at least 4, got 3"):
        RotationalRicciFlow(3, 3)
    with pytest.raises(ValueError, match="share: expected a number above 0, at most 1, got 2"):
        RotationalRicciFlow(share=2.0)
    with pytest.raises(ValueError, match="safety: expected a finite number above 0"):
        RotationalRicciFlow(safety=0.0)
    flow = RotationalRicciFlow(3, 8)
    with pytest.raises(ValueError, match=r"chi: expected real values of shape \(8,\) .* got"):
        flow.init(jnp.ones(7), jnp.ones(8))
    with pytest.raises(ValueError, match="psi: expected values above 0"):
        flow.init(jnp.ones(8), jnp.zeros(8))
    state = flow.init(*round_sphere(flow))
    with pytest.raises(ValueError, match="steps: expected an integer"):
        flow.run(state, 0)
    with pytest.raises(ValueError, match="dt: expected a finite number above 0"):
        flow.run(state, 1, 0.0)
