"""Perelman's functional: its variation, its rise along a Ricci flow, and the flow it is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow.energies import perelman
from metricflow.flows import RicciFlow, conjugate_heat
from metricflow.geometry import PeriodicGrid
from metricflow.geometry import grid_curvature as gc
from tests.tolerances import tolerance


@functools.cache
def symmetric(grid, seed=0):

    @jax.jit
    def drawn(key):
        h = grid.random_field(key, 1, entries=(grid.dim, grid.dim))
        h = h + h.swapaxes(-2, -1)
        return h / jnp.max(jnp.abs(h))

    return drawn(jax.random.key(seed))


def bumpy(grid, size):
    return jnp.eye(grid.dim) + size * symmetric(grid)


def flat(grid):
    return jnp.broadcast_to(jnp.eye(grid.dim), (*grid.shape, grid.dim, grid.dim))


def close(found, expected, tol=None, scale=1.0):
    np.testing.assert_allclose(found, expected, rtol=0, atol=(tol or tolerance("algebra")) * scale)


@pytest.mark.equation("MF 2.41")
def test_values_that_are_known():
    """Flat: int |grad f|^2 e^-f; f = 0 in two dimensions: Gauss-Bonnet; and its scaling."""
    grid = PeriodicGrid((25, 25))
    x = grid.points()[..., 0]
    functional = jax.jit(functools.partial(perelman.perelman_functional, grid))
    found = functional(flat(grid), jnp.cos(x))
    bessel = 2 * np.pi * np.mean(np.sin(np.asarray(x)) ** 2 * np.exp(-np.cos(np.asarray(x))))
    assert float(found) == pytest.approx(2 * np.pi * bessel)
    g = bumpy(grid, 0.2)
    zero = jnp.zeros(grid.shape)
    close(functional(g, zero), 0, 1e-8)
    volume = grid.integral(gc.volume_density(g))
    assert float(perelman.weighted_volume(grid, g, zero)) == pytest.approx(float(volume))
    # a constant in f multiplies, a scale of g in dimension 2 does nothing
    f = 0.3 * jnp.cos(x)
    one = float(functional(g, f))
    assert float(functional(g, f + 1)) == pytest.approx(one / np.e)
    assert float(functional(3 * g, f)) == pytest.approx(one)


@pytest.mark.equation("MF 2.40", "MF 2.41")
@pytest.mark.parametrize("shape", [(19, 19), (9, 9, 9)], ids=["T2", "T3"])
def test_variation_at_fixed_measure(shape):
    """dF = -int (Ric + Hess f)^ij h_ij e^-f dV, against a derivative and against differences."""
    grid = PeriodicGrid(shape)
    g, h = bumpy(grid, 0.1), symmetric(grid, 1)
    measure = 1 + 0.1 * grid.random_field(jax.random.key(2), 1)

    def functional(g):
        return perelman.perelman_functional(grid, g, jnp.log(gc.volume_density(g) / measure))

    @jax.jit
    def every(g, h):
        f = jnp.log(gc.volume_density(g) / measure)
        variation = perelman.perelman_variation(grid, g, f)
        inverse = gc.metric_inverse(g)
        inner = jnp.einsum("...ij,...ij->...", inverse @ variation @ inverse, h)
        fastest = perelman.fixed_measure_velocity(grid, g, measure)
        rise = jax.jvp(functional, (g,), (fastest,))[1]
        slope = jax.jvp(functional, (g,), (h,))[1]
        found = grid.integral(inner * measure)
        return found, slope, rise, fastest, variation, perelman.perelman_rate(grid, g, f)

    found, slope, rise, fastest, variation, rate = every(g, h)
    step, compiled = 1e-4, jax.jit(functional)
    difference = (compiled(g + step * h) - compiled(g - step * h)) / (2 * step)
    assert abs(float(found)) > 0.01
    tol = 1e-6 if grid.dim == 2 else 1e-3
    assert float(found) == pytest.approx(float(slope), rel=tol)
    assert float(slope) == pytest.approx(float(difference), rel=tolerance("difference"))
    # the paper's velocity is twice the gradient; F rises along it at the rate of the integral
    close(fastest, 2 * variation)
    assert float(rise) > 0
    assert float(rise) == pytest.approx(float(rate), rel=tol)


@functools.cache
def evolution(gauge, shape, size=0.15, steps=32, dt=0.01):
    """f and F along a stored flow."""
    grid = PeriodicGrid(shape)
    flow = RicciFlow(grid, gauge)
    start = flow.init(bumpy(grid, size))
    _, _, metrics = flow.run(start, steps, dt, observe=lambda state: state.g)
    metrics = jnp.concatenate([start.g[None], metrics])
    f = conjugate_heat(flow, metrics, 0.2 * grid.random_field(jax.random.key(5), 1), dt)

    @jax.jit
    @jax.vmap
    def every(g, f):
        quantities = (
            perelman.perelman_functional,
            perelman.perelman_rate,
            perelman.weighted_volume,
        )
        return [quantity(grid, g, f) for quantity in quantities]

    return (*(np.asarray(x) for x in every(metrics[::2], f)), f, 2 * dt)


@pytest.mark.equation("MF 2.40", "MF 2.41")
@pytest.mark.parametrize(
    ("gauge", "shape"),
    [("hamilton", (15, 15)), ("deturck", (15, 15)), ("hamilton", (9, 9, 9))],
    ids=["hamilton", "deturck", "T3"],
)
def test_monotonicity(gauge, shape):
    """F rises, at the rate 2 int |Ric + Hess f|^2 e^-f dV, and int e^-f dV stays."""
    functional, rate, volume, _, dt = evolution(gauge, shape)
    np.testing.assert_allclose(volume, volume[0], rtol=1e-12)
    assert np.all(np.diff(functional) > 0)
    assert functional[-1] > 1.5 * functional[0]
    # Simpson's rule over pairs of intervals
    rise = (functional[2:] - functional[:-2]) / (2 * dt)
    expected = (rate[:-2] + 4 * rate[1:-1] + rate[2:]) / 6
    np.testing.assert_allclose(rise, expected, rtol=1e-4 if len(shape) == 2 else 1e-2)
    # the rise is of second order in the curvature: half of it would be seen
    assert not np.allclose(rise, expected / 2, rtol=0.1)


def test_monotonicity_needs_f_to_move_with_the_flow():
    """With some f held fixed F need not rise, and int e^-f dV moves."""
    grid = PeriodicGrid((15, 15))
    flow = RicciFlow(grid, "hamilton")
    start = flow.init(bumpy(grid, 0.15))
    f = 0.2 * grid.random_field(jax.random.key(5), 1)

    def seen(state):
        return jnp.stack(
            [
                perelman.perelman_functional(grid, state.g, f),
                perelman.weighted_volume(grid, state.g, f),
            ]
        )

    values = flow.run(start, 16, 0.02, observe=seen)[2]
    assert float(jnp.ptp(values[:, 1])) > 1e-4 * float(values[0, 1])
    assert np.any(np.diff(values[:, 0]) < 0)


@pytest.mark.equation("MF 2.40", "MF 2.42", "MF 2.30")
@pytest.mark.parametrize("shape", [(9, 9), (9, 9, 9)], ids=["T2", "T3"])
def test_the_flow_of_a_fixed_measure_is_ill_posed(shape):
    """Longitudinal modes grow as e^(+k^2 t), transverse traceless ones decay as e^(-k^2 t)."""
    grid = PeriodicGrid(shape)
    measure, width = jnp.ones(shape), 0.7
    modes = [np.array(m)[: grid.dim] for m in ((1, 0, 0), (2, 1, 1), (3, -2, 1))]

    def velocity(g):
        return perelman.fixed_measure_velocity(grid, g, measure)

    linear = jax.jit(lambda h: jax.jvp(velocity, (flat(grid),), (h,))[1])
    for k in modes:
        square = float(k @ k)
        wave = jnp.cos(grid.points() @ k)[..., None, None]
        longitudinal = wave * np.outer(k, k)
        close(linear(longitudinal), square * longitudinal, scale=square**2)
        # of finite width: k^2 exp(-s^2 k^2 / 2), at most 2 / (e s^2) for any k
        smoothed = grid.multiply(linear(longitudinal), lambda s: jnp.exp(-(width**2) * s / 2))
        growth = square * np.exp(-(width**2) * square / 2)
        close(smoothed, growth * longitudinal, scale=square**2)
        assert growth <= 2 / (np.e * width**2)
        if grid.dim == 2:
            continue
        across = np.linalg.svd(k[None].astype(float))[2][1:]
        transverse = wave * (np.outer(across[0], across[0]) - np.outer(across[1], across[1]))
        close(linear(transverse), -square * transverse, scale=square**2)


def test_the_bound_of_the_growth_is_sharp():
    width = 0.3
    square = np.linspace(0, 200, 100001)
    largest = np.max(square * np.exp(-(width**2) * square / 2))
    assert largest == pytest.approx(2 / (np.e * width**2), rel=1e-6)


@pytest.mark.usefixtures("as_user")
def test_wrong_input_is_named():
    grid = PeriodicGrid((5, 5))
    f = jnp.zeros((5, 5))
    for quantity in (
        perelman.perelman_functional,
        perelman.perelman_rate,
        perelman.weighted_volume,
        perelman.perelman_variation,
    ):
        with pytest.raises(ValueError, match=r"g: expected .*\(5, 5, 2, 2\).* got .*\(2, 2\)"):
            quantity(grid, jnp.eye(2), f)
        with pytest.raises(ValueError, match=r"f: expected real values of shape \(5, 5\), got"):
            quantity(grid, flat(grid), f[0])
    with pytest.raises(ValueError, match="measure: expected real values"):
        perelman.fixed_measure_velocity(grid, flat(grid), f[0])
