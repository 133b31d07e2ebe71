"""Flows of potentials on flat tori: energies fall, the end is flat, orders, the local limit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import energies, kernels
from metricflow.energies import ENTROPY, HELLINGER, SQUARE, ConvexFunction
from metricflow.flows import POTENTIAL_FLOWS, FlowError, Result, TorusKaehlerFlow
from metricflow.geometry import KaehlerTorus, PeriodicGrid
from tests.tolerances import tolerance

CURVE = KaehlerTorus(PeriodicGrid((21, 21)))
SURFACE = KaehlerTorus(PeriodicGrid((9,) * 4), ((1.0, 0.3 + 0.2j), (0.3 - 0.2j, 1.5)))
NAMED = sorted(POTENTIAL_FLOWS)


def start(torus, seed=0):
    """A potential with eta between about .5 and 1.5."""
    size = 0.15 if torus.dim == 1 else 0.06
    return size * torus.grid.random_field(jax.random.key(seed), 2 if torus.dim == 1 else 1)


def named(name, torus=CURVE, **options):
    function, inner_product = POTENTIAL_FLOWS[name]
    return TorusKaehlerFlow(torus, function, inner_product, **options)


def fitted_order(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@pytest.mark.equation("MF B.4", "MF B.8", "MF B.9", "MF B.20", "MF B.21")
@pytest.mark.parametrize("torus", [CURVE, SURFACE], ids=["curve", "surface"])
@pytest.mark.parametrize("name", NAMED)
def test_the_energy_falls_from_random_starts_and_the_end_is_flat(name, torus):
    flow = named(name, torus)
    for seed in range(2):
        state, info = flow.run(flow.init(start(torus, seed)), jnp.geomspace(1e-4, 5, 60))
        energy = np.asarray(info.energy)
        assert energy[0] > 1e-4
        assert np.all(np.diff(energy) < 1e-15)
        assert energy[-1] < 5e-3 * energy[0]
        assert float(info.sigma[-1]) < 0.02
        assert float(state.time) == pytest.approx(float(jnp.sum(jnp.geomspace(1e-4, 5, 60))))


@pytest.mark.equation("MF B.21", "MF B.9")
@pytest.mark.parametrize("name", NAMED)
def test_with_the_sign_turned_round_the_energy_rises(name):
    # the printed signs of the Calabi and the ultra-local flow do this
    flow = named(name, method="rk4")
    state = flow.init(start(CURVE))
    velocity = flow.velocity(state.potential)

    def energy(step):
        eta = CURVE.volume_ratio(CURVE.metric(state.potential + step * velocity))
        return CURVE.grid.mean(flow.function.value(eta))

    slope = float(jax.grad(energy)(0.0))
    assert slope < -1e-3
    backward = float(jax.grad(lambda step: energy(-step))(0.0))
    assert backward == pytest.approx(-slope)


@pytest.mark.equation("MF B.4", "MF B.8", "MF B.9", "MF B.19", "MF B.20", "MF B.21")
def test_velocities_are_their_formulas():
    phi = start(CURVE)
    g = CURVE.metric(phi)
    eta = CURVE.volume_ratio(g)

    def laplacian(field):
        # (d_x^2 + d_y^2) / 4 over g, by the grid
        return CURVE.grid.laplacian(field) / 4 / g[..., 0, 0].real

    expected = {
        "kaehler_ricci": jnp.log(eta),
        "calabi": -laplacian(jnp.log(eta)),
        "ultra_local": -2 * laplacian(eta),
        "ultra_local_dirichlet": 2 * (eta - 1),
        "two_derivative": 1 - eta**-0.5,
    }
    for name, field in expected.items():
        centred = CURVE.grid.smooth(field - CURVE.grid.mean(field))
        found = named(name).velocity(phi)
        np.testing.assert_allclose(found, centred, atol=1e-10, err_msg=name)
    flat = TorusKaehlerFlow(CURVE, SQUARE, "calabi_yau").velocity(phi)
    field = -2 * eta * laplacian(eta)
    np.testing.assert_allclose(flat, CURVE.grid.smooth(field - CURVE.grid.mean(field)), atol=1e-10)


@pytest.mark.equation("MF B.8", "MF B.4")
def test_the_metric_moves_by_curvature():
    # Kaehler-Ricci: dg/dt = -Ric; Calabi: dg/dt = d dbar R
    torus = KaehlerTorus(PeriodicGrid((45, 45)))
    phi = 0.5 * start(torus)
    g = torus.metric(phi)
    expected = {
        "kaehler_ricci": -torus.ricci(g),
        "calabi": torus.hessians(torus.ricci_scalar(g)),
    }
    for name, tensor in expected.items():
        moved = jax.jvp(torus.metric, (phi,), (named(name, torus).velocity(phi),))[1]
        size = float(jnp.max(jnp.abs(tensor)))
        assert size > 0.05
        np.testing.assert_allclose(moved, tensor, atol=1e-4 * size)


@pytest.mark.equation("MF B.15", "MF B.7")
def test_energies_with_derivatives_fall_along_their_flows():
    # on a finer grid, for they see every mode
    torus = KaehlerTorus(PeriodicGrid((45, 45)))
    weight = jnp.ones(torus.grid.shape)

    def calabi(phi):
        g = torus.metric(phi)
        return energies.calabi_energy(torus.ricci_scalar(g), torus.volume_ratio(g), weight)

    def two_derivative(phi):
        g = torus.metric(phi)
        slope = torus.slope_squared(g, jnp.log(torus.volume_ratio(g)))
        return energies.two_derivative_energy(slope, weight)

    for name, energy in (("calabi", calabi), ("two_derivative", two_derivative)):
        flow = named(name, torus)
        state, values = flow.init(start(torus)), []
        for _ in range(8):
            state, _ = flow.run(state, jnp.full(5, 1e-3))
            values.append(float(energy(state.potential)))
        assert values[0] > 1e-2
        assert np.all(np.diff(values) < 0), name


@pytest.mark.equation("MF B.15", "MF B.16", "MF B.20")
def test_the_printed_two_derivative_energy_rises_where_the_true_one_falls():
    # on a curve with eta = exp(3 cos 2 pi x) up to a factor: g = eta, so phi_xx = 4 (eta - 1)
    torus = KaehlerTorus(PeriodicGrid((81, 3), (1.0, 1.0)))
    eta = jnp.exp(3 * jnp.cos(2 * jnp.pi * torus.grid.points()[..., 0]))
    eta = eta / torus.grid.mean(eta)
    phi = torus.grid.multiply(eta - 1, lambda s: jnp.where(s > 0, -4 / jnp.where(s > 0, s, 1), 0))
    np.testing.assert_allclose(torus.volume_ratio(torus.metric(phi)), eta, atol=1e-9)
    velocity = 1 - eta**-0.5

    def slopes(log):
        def energy(phi):
            g = torus.metric(phi)
            eta = torus.volume_ratio(g)
            return torus.grid.mean(torus.slope_squared(g, jnp.log(eta) if log else eta))

        return float(jax.jvp(energy, (phi,), (velocity,))[1])

    assert slopes(log=False) > 0
    # dE/dt = -4 <eta^(1/2) |d dbar eta^(-1/2)|^2>
    g = torus.metric(phi)
    hessian = torus.hessians(eta**-0.5)[..., 0, 0].real / g[..., 0, 0].real
    expected = -4 * float(torus.grid.mean(jnp.sqrt(eta) * hessian**2))
    assert slopes(log=True) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["kaehler_ricci", "calabi", "ultra_local"])
@pytest.mark.parametrize(("method", "order"), [("rosenbrock", 2), ("rk4", 4)])
def test_order_of_the_steps(name, method, order):
    torus = KaehlerTorus(PeriodicGrid((9, 9)))
    phi = 0.3 * torus.grid.random_field(jax.random.key(1), 1)
    flow = named(name, torus, method=method)
    # the Kaehler-Ricci flow is the least stiff: larger steps show an error at all
    time = 1.0 if (name, method) == ("kaehler_ricci", "rk4") else 0.1
    count = 5 if method == "rk4" else 50
    ends = []
    for m in (1, 2, 4, 16):
        state = flow.init(phi)
        for _ in range(m):  # one compiled program for all
            state, _ = flow.run(state, jnp.full(count, time / count / m))
        ends.append(state.potential)
    errors = [float(jnp.max(jnp.abs(end - ends[-1]))) for end in ends[:-1]]
    assert errors[-1] > 1e-12
    assert fitted_order([1, 0.5, 0.25], errors) == pytest.approx(order, abs=0.25)


def test_the_late_rate_is_the_lowest_eigenvalue():
    # dphi/dt = Delta phi near the end: the entropy falls at twice k^2 / 4
    flow = named("kaehler_ricci")
    state, _ = flow.run(flow.init(start(CURVE)), jnp.full(100, 0.3))
    _, info = flow.run(state, jnp.full(20, 0.05))
    rate = -np.polyfit(np.asarray(info.time), np.log(np.asarray(info.energy)), 1)[0]
    assert rate == pytest.approx(2 / 4, rel=1e-3)


@pytest.mark.equation("MF 2.30", "MF 2.31", "MF B.4", "MF B.9")
@pytest.mark.parametrize("name", [*NAMED, "calabi_yau"])
def test_narrow_kernels_are_local_to_second_order(name):
    phi = start(CURVE)
    base = named(name) if name != "calabi_yau" else TorusKaehlerFlow(CURVE, ENTROPY, "calabi_yau")
    widths = (0.05, 0.1, 0.2)

    def end(width):
        flow = dataclasses.replace(base, width=jnp.asarray(width))
        return flow.run(flow.init(phi), jnp.full(40, 5e-3))[0].potential

    local = end(0.0)
    errors = [float(jnp.sqrt(CURVE.grid.mean((end(w) - local) ** 2))) for w in widths]
    assert errors[0] > 1e-6
    assert fitted_order(widths, errors) == pytest.approx(2, abs=0.2)


@pytest.mark.equation("MF 2.30", "MF 2.27")
def test_the_multiplier_is_a_kernel_sum():
    grid = PeriodicGrid((15, 9), (2.0, 1.5))
    field = grid.random_field(jax.random.key(0), 3)
    nodes = grid.points().reshape(-1, 2)
    for width in (0.1, 0.3, 0.7):
        kernel = kernels.PeriodicGaussian(width, grid.lengths)
        cell = jnp.full(len(nodes), grid.cell)
        summed = -kernels.kernel_velocity(kernel, nodes, nodes, cell, field.reshape(-1, 1))
        multiplied = grid.multiply(field, lambda s, w=width: jnp.exp(-(w**2) * s / 2))
        # at width .1 the nodes are .13 and .17 apart: the sum is not yet the integral
        close = 0.05 if width == 0.1 else 1e-9
        np.testing.assert_allclose(
            summed.reshape(grid.shape), multiplied, atol=close * float(jnp.max(jnp.abs(field)))
        )


def test_periodic_gaussians_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="half of the shortest"):
        kernels.PeriodicGaussian(0.8, (2.0, 1.5))
    with pytest.raises(ValueError, match="lengths"):
        kernels.PeriodicGaussian(0.1, (2.0, -1.5))
    with pytest.raises(ValueError, match="2 coordinates"):
        kernels.PeriodicGaussian(0.1, (2.0, 1.5)).matrix(jnp.ones((2, 3)), jnp.ones((2, 3)))


@pytest.mark.equation("MF 2.30", "MF B.13")
@pytest.mark.parametrize("width", [0.0, 0.3, 1.0])
def test_flows_of_kernels_are_gradient_flows_at_any_width(width):
    # dE/dt = -<v, K v> for the variation v, below zero for a positive kernel
    flow = TorusKaehlerFlow(CURVE, ENTROPY, "calabi_yau", width=width)
    phi = CURVE.grid.smooth(start(CURVE))
    variation = energies.ultra_local_variation(CURVE, CURVE.metric(phi), ENTROPY)
    variation = CURVE.grid.smooth(variation)
    blurred = CURVE.grid.multiply(variation, lambda s: jnp.exp(-(width**2) * s / 2))

    def energy(step):
        eta = CURVE.volume_ratio(CURVE.metric(phi + step * flow.velocity(phi)))
        return CURVE.grid.mean(ENTROPY.value(eta))

    slope = float(jax.grad(energy)(0.0))
    assert slope == pytest.approx(-float(CURVE.grid.mean(variation * blurred)), rel=1e-4)
    _, info = flow.run(flow.init(phi), jnp.full(40, 0.02))
    assert np.all(np.diff(np.asarray(info.energy)) < 0)


def test_single_precision_follows_double():
    flow = named("kaehler_ricci")
    phi = start(CURVE)
    steps = jnp.full(20, 0.05)
    double, _ = flow.run(flow.init(phi), steps)
    single, info = flow.run(flow.init(phi.astype(jnp.float32)), steps)
    assert single.potential.dtype == jnp.float32
    assert info.energy.dtype == jnp.float32
    close = 100 * tolerance("rounding", "float32")
    np.testing.assert_allclose(single.potential, double.potential, atol=close)


def test_a_broken_flow_says_so_and_keeps_the_state():
    flow = named("calabi", method="rk4")
    state = flow.init(start(CURVE))
    with pytest.raises(FlowError, match="smaller steps"):
        flow.run(state, jnp.full(5, 1.0))
    end, info = flow.run(state, jnp.full(5, 1.0), throw=False)
    assert int(end.result) in (Result.LOST_POSITIVITY, Result.NON_FINITE)
    assert np.all(np.isfinite(np.asarray(end.potential)))
    assert np.all(np.isfinite(np.asarray(info.energy)))
    assert float(end.time) < 5


def test_flows_map_over_many_starts():
    flow = named("kaehler_ricci")
    starts = jnp.stack([start(CURVE, seed) for seed in range(3)])
    steps = jnp.full(5, 0.05)
    ends = jax.vmap(lambda phi: flow.run(flow.init(phi), steps)[0].potential)(starts)
    for phi, end in zip(starts, ends, strict=True):
        alone = flow.run(flow.init(phi), steps)[0].potential
        np.testing.assert_allclose(end, alone, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_product": "sobolev"}, "inner_product: expected one of"),
        ({"method": "euler"}, "method: expected one of"),
        ({"width": -1.0}, "width: expected"),
        ({"function": ConvexFunction(jnp.log)}, "strictly convex"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TorusKaehlerFlow(CURVE, **options)


def test_wrong_starts_and_steps_are_refused():
    flow = TorusKaehlerFlow(CURVE, HELLINGER)
    with pytest.raises(ValueError, match="make the potential smaller"):
        flow.init(20 * start(CURVE))
    with pytest.raises(ValueError, match="the grid first"):
        flow.init(jnp.zeros((20, 21)))
    state = flow.init(start(CURVE))
    for steps in (jnp.zeros(3), jnp.array([]), jnp.array([1.0, jnp.nan])):
        with pytest.raises(ValueError, match="step_sizes"):
            flow.run(state, steps)
