"""Flows of potentials on hypersurfaces: energies fall, and the end is the Calabi-Yau metric."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from metricflow import ansatz, diagnostics, energies, geometry
from metricflow.flows import (
    POTENTIAL_FLOWS,
    FlowError,
    GaussNewton,
    KaehlerFlow,
    LinearTangents,
    NetworkTangents,
    Result,
    TangentPotential,
    spectral_tangents,
)
from tests.tolerances import tolerance

CUBIC, QUARTIC = geometry.fermat(1), geometry.fermat(2)
NAMED = sorted(POTENTIAL_FLOWS)
CLOSE = tolerance("algebra")


def named(name, **options):
    function, inner_product = POTENTIAL_FLOWS[name]
    return KaehlerFlow(function, inner_product, **options)


@pytest.fixture(scope="module")
def quartic_points():
    return geometry.sample_points(jax.random.key(1), QUARTIC, 300)


@pytest.fixture(scope="module")
def features(quartic_points):
    basis = ansatz.spectral_basis(QUARTIC, 4, quartic_points)
    return ansatz.feature_jets(basis, quartic_points)


@pytest.fixture(scope="module")
def spectral(quartic_points):
    return spectral_tangents(ansatz.spectral_basis(QUARTIC, 4, quartic_points), quartic_points)


@pytest.fixture(scope="module")
def kernel(quartic_points, features):
    jets = ansatz.kernel_jets(features, features[:60, :, 0], 4.0, 2)
    return LinearTangents(quartic_points, jets)


@pytest.fixture(scope="module")
def network(quartic_points, features):
    perceptron = ansatz.mlp((5,), output_variance=1e-3)
    parameters = perceptron.init(jax.random.key(3), features[0, :, 0])
    return NetworkTangents(quartic_points, features, perceptron), parameters


def random_start(family, seed=0, size=0.002):
    return size * jax.random.normal(jax.random.key(seed), (family.jets.shape[0],))


@pytest.mark.equation("MF B.4", "MF B.8", "MF B.9", "MF B.12", "MF B.20", "MF B.21")
@pytest.mark.parametrize("name", NAMED)
def test_the_energy_falls_to_the_metric_of_gauss_newton(name, spectral):
    flow = named(name, halvings=0)
    steps = jnp.geomspace(1e-6, 10, 50)
    ends = []
    for seed in range(2):
        start = random_start(spectral, seed)
        state, info = flow.run(flow.init(start), spectral, steps)
        energy = np.asarray(info.energy)
        assert float(flow.energy(spectral, start)) > energy[0] > 0.01
        assert np.all(np.diff(energy) < 1e-15)
        ends.append(state.parameters)
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-8)
    # other energies have their minima elsewhere, by the square of what the family misses
    solver = GaussNewton()
    solved, _ = solver.run(solver.init(jnp.zeros(len(ends[0]))), spectral.least_squares, 10)
    sigma = float(diagnostics.sigma_measure(spectral.metric(solved.parameters), spectral.points))
    assert float(info.sigma[-1]) == pytest.approx(sigma, rel=0.02)
    size = float(jnp.max(jnp.abs(solved.parameters)))
    np.testing.assert_allclose(ends[0], solved.parameters, atol=0.01 * size)


@pytest.mark.parametrize("name", NAMED)
def test_with_the_sign_turned_round_the_energy_rises(name, spectral):
    flow = named(name)
    start = random_start(spectral)
    velocity = flow.velocity(spectral, start)

    def energy(step):
        return flow.energy(spectral, start + step * velocity)

    slope = jax.grad(energy)
    assert float(slope(0.0)) < -1e-3
    # exactly the gradient flow: dE/dt = -(v, v) in the inner product
    gram, derivative, _ = flow._assembled(spectral, start)
    np.testing.assert_allclose(float(slope(0.0)), -float(velocity @ gram @ velocity), rtol=1e-8)
    np.testing.assert_allclose(derivative, jax.grad(lambda c: flow.energy(spectral, c))(start))


def test_the_hessian_is_that_of_gauss_newton(spectral):
    # where eta is one everywhere the Hessian of the energy is J^T J: here with a full second
    # derivative at the minimum of a family that reaches eta = 1 to a percent
    flow = named("kaehler_ricci")
    state, _ = flow.run(flow.init(random_start(spectral)), spectral, jnp.geomspace(1e-4, 10, 40))
    _, _, hessian = flow._assembled(spectral, state.parameters)
    exact = jax.jit(jax.hessian(lambda c: flow.energy(spectral, c)))(state.parameters)
    np.testing.assert_allclose(hessian, exact, atol=0.02 * float(jnp.max(jnp.abs(exact))))


@pytest.mark.equation("MF B.4")
def test_rates_on_the_flat_torus_are_the_spectrum_of_its_laplacian():
    # the Fermat cubic is a hexagonal torus of area 3 pi; its symmetric functions live on a lattice
    # three times finer, with |k|^2 / 4 = 9 * 2 pi / 3^1.5 * (1, 3, 4, 7, 9 ...)
    points = geometry.sample_points(jax.random.key(0), CUBIC, 20000)
    family = spectral_tangents(ansatz.spectral_basis(CUBIC, 10, points), points)
    flow = named("kaehler_ricci")
    state, info = flow.run(
        flow.init(jnp.zeros(len(family.jets))), family, jnp.geomspace(1e-4, 9, 30)
    )
    assert float(info.sigma[-1]) < 1e-7
    rates = np.asarray(flow.rates(family, state.parameters))
    unit = 9 * 2 * np.pi / 3**1.5
    np.testing.assert_allclose(rates[:3] / unit, [1, 3, 4], rtol=0.02)
    squared = named("calabi").rates(family, state.parameters)
    np.testing.assert_allclose(squared[:3] / unit**2, [1, 9, 16], rtol=0.05)


@pytest.mark.equation("MF B.4", "MF B.8", "MF B.9", "MF B.20")
def test_projected_velocities_are_those_of_the_continuum():
    # with many points the gradient flow of the points is the differential equation, projected; few
    # functions, since Delta^2 makes much of the sampling error of the highest
    points = geometry.sample_points(jax.random.key(0), CUBIC, 20000)
    basis = ansatz.spectral_basis(CUBIC, 6, points)
    family = spectral_tangents(basis, points)
    flow = named("kaehler_ricci")
    state, _ = flow.run(flow.init(jnp.zeros(basis.size)), family, jnp.geomspace(1e-4, 9, 30))
    # away from the end, along the smoothest function
    start = state.parameters.at[0].add(0.03)
    few = jax.tree.map(lambda leaf: leaf[:400], points)
    g = family.metric(start)[:400]
    eta = diagnostics.eta(g, few)
    assert float(jnp.min(eta)) < 0.8
    assert float(jnp.max(eta)) > 1.2
    metric = ansatz.SpectralMetric(CUBIC, basis, start)
    expected = {
        "kaehler_ricci": jnp.log(eta),
        "two_derivative": 1 - eta**-0.5,
        "calabi": geometry.ricci_scalar(metric, few),
    }
    expected["calabi_yau"] = eta * expected["calabi"]
    for name, field in expected.items():
        one = named(name) if name != "calabi_yau" else KaehlerFlow(inner_product="calabi_yau")
        found = one.velocity(family, start) @ family.jets[:, 0, :400]
        found, field = found - jnp.mean(found), field - jnp.mean(field)
        error = float(jnp.linalg.norm(found - field) / jnp.linalg.norm(field))
        assert error < (0.02 if one.inner_product == "dirichlet" else 0.1), name


@pytest.mark.equation("MF B.4", "MF B.6", "MF B.11")
def test_the_flow_of_the_cubic_ends_at_its_flat_metric():
    points = geometry.sample_points(jax.random.key(0), CUBIC, 600)
    family = spectral_tangents(ansatz.spectral_basis(CUBIC, 10, points), points)
    flow = named("kaehler_ricci", halvings=0)
    state, _ = flow.run(flow.init(jnp.zeros(len(family.jets))), family, jnp.geomspace(1e-4, 9, 40))
    g = family.metric(state.parameters)[:, 0, 0].real
    # kappa |Omega|^2 with Vol = 3 pi and the period of Omega in closed form
    gamma = 2.678938534707747633  # Gamma(1/3)
    period = gamma**3 / (2 * np.pi * 3**0.5)
    kappa = 3 * np.pi / (3**0.5 / 2 * period**2)
    np.testing.assert_allclose(g / points.omega2, kappa, rtol=1e-6)


@pytest.mark.parametrize("name", ["kaehler_ricci", "calabi"])
@pytest.mark.parametrize(
    ("method", "order"), [("rosenbrock", 2), ("implicit_euler", 1), ("rk4", 4)]
)
def test_order_of_the_steps(name, method, order, spectral):
    flow = named(name, method=method, halvings=0)
    start = random_start(spectral)
    # in units of the slowest rate; explicit steps must resolve the fastest one
    rates = flow.rates(spectral, start)
    time = 1.0 / float(rates[-1] if method == "rk4" else rates[0])
    count = 4 if method == "rk4" else 40
    ends = []
    for m in (1, 2, 4, 32):
        state = flow.init(start)
        for _ in range(m):  # one compiled program for all
            state, _ = flow.run(state, spectral, jnp.full(count, time / count / m))
        ends.append(state.parameters)
    errors = [float(jnp.max(jnp.abs(end - ends[-1]))) for end in ends[:-1]]
    assert errors[-1] > 1e-12
    fitted = np.polyfit(np.log([1, 0.5, 0.25]), np.log(errors), 1)[0]
    assert fitted == pytest.approx(order, abs=0.25)


def test_kernels_and_networks_follow_the_flow_of_a_basis(spectral, kernel, network):
    # one flow in three representations: on the way the energies agree
    steps = jnp.geomspace(1e-4, 0.02, 25)
    _, expected = named("kaehler_ricci").run(
        named("kaehler_ricci").init(jnp.zeros(len(spectral.jets))), spectral, steps
    )
    flow = named("kaehler_ricci", damping=1e-10, halvings=0)
    _, of_kernel = flow.run(flow.init(jnp.zeros(len(kernel.jets))), kernel, steps)
    family, parameters = network
    output = jax.tree.map(lambda leaf: 1e-3 * leaf, parameters["params"]["Dense_1"])
    parameters = {"params": {**parameters["params"], "Dense_1": output}}
    flow = named("kaehler_ricci", damping=1e-3, method="implicit_euler")
    _, of_network = flow.run(flow.init(parameters), family, steps)
    half = int(jnp.argmin(jnp.abs(expected.energy - expected.energy[0] / 2)))
    for found in (of_kernel, of_network):
        assert np.all(np.diff(np.asarray(found.energy)) < 1e-12)
        assert float(found.time[half]) == pytest.approx(float(expected.time[half]))
        assert float(found.energy[half]) == pytest.approx(float(expected.energy[half]), rel=0.25)


def test_tangents_are_derivatives_of_the_metric(spectral, kernel, network):
    family, parameters = network
    start = random_start(spectral)
    for one, theta in ((spectral, start), (kernel, random_start(kernel)), (family, parameters)):
        assert isinstance(one, TangentPotential)
        flat, unravel = ravel_pytree(theta)
        change = jnp.cos(jnp.arange(len(flat)))
        moved = jax.jvp(
            lambda t, one=one, unravel=unravel: one.metric(unravel(t)), (flat,), (change,)
        )[1]
        hessians = jnp.einsum("k,khx->hx", change, one.tangents(theta)[:, 5:])
        expected = ansatz.jets.components_to_hermitian(hessians, 2)
        np.testing.assert_allclose(moved, expected, atol=1e-10)


def test_values_and_gradients_of_tangents(features, network, kernel):
    # the value and the gradient of a jet, against those of a composition written out
    family, parameters = network
    flat, unravel = ravel_pytree(parameters)
    jets = family.tangents(parameters)
    one = features[7]
    value, slopes = one[:, 0], one[:, 1:5]

    def output(theta, y):
        return family.network.apply(unravel(theta), y)

    np.testing.assert_allclose(jets[:, 0, 7], jax.grad(output)(flat, value), atol=CLOSE)
    mixed = jax.jacfwd(jax.grad(output), argnums=1)(flat, value) @ slopes
    np.testing.assert_allclose(jets[:, 1:5, 7], mixed, atol=CLOSE)

    def section(y):
        return jnp.exp(-jnp.sum((y - features[3, :, 0]) ** 2) / 32)

    composed = ansatz.composed_jet(section, one, 2)
    np.testing.assert_allclose(kernel.jets[3, :, 7], composed, atol=CLOSE)


def test_the_inner_products_written_out(spectral):
    start, points = random_start(spectral), spectral.points
    g, weight = spectral.metric(start), points.weight / jnp.sum(points.weight)
    eta = diagnostics.eta(g, points)
    values, slopes = spectral.jets[:, 0], spectral.jets[:, 1:3] + 1j * spectral.jets[:, 3:5]
    # g^(a bbar) d_a f dbar_b h: the inverse matrix carries (bbar, a)
    paired = jnp.einsum("xba,kax,lbx->klx", jnp.linalg.inv(g), slopes, slopes.conj()).real
    centred = values - (values @ (weight * eta))[:, None]
    flat = values - (values @ weight)[:, None]
    expected = {
        "dirichlet": paired @ (weight * eta),
        "mabuchi": (centred * weight * eta) @ centred.T,
        "calabi_yau": (flat * weight) @ flat.T,
    }
    for name, gram in expected.items():
        found, _, _ = KaehlerFlow(inner_product=name, damping=0.0)._assembled(spectral, start)
        np.testing.assert_allclose(found, gram, atol=1e-10 * float(jnp.max(jnp.abs(gram))))


def test_steps_that_overshoot_are_halved(spectral):
    start = random_start(spectral)
    whole = named("calabi", method="rk4", halvings=0)
    _, info = whole.run(whole.init(start), spectral, jnp.full(3, 0.01), throw=False)
    assert int(info.result[-1]) != Result.SUCCESSFUL
    halved = dataclasses.replace(whole, halvings=12)
    state, info = halved.run(halved.init(start), spectral, jnp.full(3, 0.01))
    energy = np.asarray(info.energy)
    assert np.all(np.diff(energy) < 0)
    assert 0 < float(state.time) < 0.03


def test_a_broken_flow_says_so_and_keeps_the_state(spectral):
    flow = named("calabi", method="rk4", halvings=0)
    state = flow.init(random_start(spectral))
    with pytest.raises(FlowError, match="smaller steps"):
        flow.run(state, spectral, jnp.full(3, 1.0))
    end, _ = flow.run(state, spectral, jnp.full(3, 1.0), throw=False)
    assert np.all(np.isfinite(np.asarray(end.parameters)))


def test_the_volume_of_the_points_means_nothing(spectral):
    # weights and |Omega|^2 have a free constant
    points = spectral.points
    scaled = LinearTangents(
        points._replace(weight=3 * points.weight, omega2=7 * points.omega2), spectral.jets
    )
    flow, start = named("calabi"), random_start(spectral)
    found, expected = (flow.velocity(family, start) for family in (scaled, spectral))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["kaehler_ricci", "calabi", "calabi_yau"])
def test_constants_in_the_tangent_functions_mean_nothing(name, spectral):
    shift = jnp.arange(len(spectral.jets)) + 1.0
    shifted = LinearTangents(spectral.points, spectral.jets.at[:, 0].add(shift[:, None]))
    flow = named(name) if name != "calabi_yau" else KaehlerFlow(inner_product="calabi_yau")
    start = random_start(spectral)
    found, expected = (flow.velocity(family, start) for family in (shifted, spectral))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_single_precision_follows_double(spectral):
    points = jax.tree.map(
        lambda x: (
            x.astype(jnp.complex64 if jnp.iscomplexobj(x) else jnp.float32)
            if jnp.issubdtype(x.dtype, jnp.inexact)
            else x
        ),
        spectral.points,
    )
    single = LinearTangents(points, spectral.jets.astype(jnp.float32))
    flow, steps = named("kaehler_ricci", damping=1e-6), jnp.geomspace(1e-3, 0.1, 10)
    start = random_start(spectral)
    double, _ = flow.run(flow.init(start), spectral, steps)
    found, info = flow.run(flow.init(start.astype(jnp.float32)), single, steps.astype(jnp.float32))
    assert found.parameters.dtype == jnp.float32
    assert info.energy.dtype == jnp.float32
    np.testing.assert_allclose(
        found.parameters, double.parameters, atol=10 * tolerance("algebra", "float32")
    )


@pytest.mark.equation("MF B.12")
def test_energies_are_those_of_the_library(spectral):
    start = random_start(spectral)
    flow = named("ultra_local")
    eta = diagnostics.eta(spectral.metric(start), spectral.points)
    expected = energies.ultra_local_energy(eta, spectral.points.weight, energies.SQUARE)
    assert float(flow.energy(spectral, start)) == pytest.approx(float(expected), rel=1e-12)
    info = flow.info(flow.init(start), spectral)
    sigma = diagnostics.sigma_measure(spectral.metric(start), spectral.points)
    assert float(info.sigma) == pytest.approx(float(sigma), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_product": "sobolev"}, "inner_product: expected one of"),
        ({"method": "euler"}, "method: expected one of"),
        ({"damping": -1.0}, "damping: expected"),
        ({"halvings": -1}, "halvings: expected"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KaehlerFlow(**options)


def test_wrong_parameters_are_refused(spectral):
    with pytest.raises(ValueError, match="start closer to zero"):
        KaehlerFlow().run(
            KaehlerFlow().init(random_start(spectral, size=1.0)), spectral, jnp.ones(1)
        )
    for wrong in ({}, jnp.arange(3)):
        with pytest.raises(ValueError, match="parameters: expected a tree of real"):
            KaehlerFlow().init(wrong)
