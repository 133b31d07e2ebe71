"""Kernels on R^d, their integrals, and flows that become local."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz, kernels
from tests.tolerances import tolerance

CLOSE = tolerance("algebra")


def grid(d, half, count):
    """Nodes (count^d, d) and the volume of a cell: the trapezoidal rule, exact for Gaussians."""
    axis = np.linspace(-half, half, count)
    nodes = np.stack(np.meshgrid(*[axis] * d), -1).reshape(-1, d)
    return jnp.asarray(nodes), (axis[1] - axis[0]) ** d


def order(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


# --- Gaussians -------------------------------------------------------------------------------


@pytest.mark.equation("MF 2.27")
@pytest.mark.parametrize("d", [1, 3])
def test_the_unit_gaussian_is_its_formula(d, dtype):
    x, y = np.random.default_rng(0).normal(size=(2, 5, d)).astype(dtype)
    y[0] = x[0]
    found = kernels.UnitGaussian(0.7).matrix(jnp.asarray(x), jnp.asarray(y))
    square = np.sum((x[:, None].astype(float) - y) ** 2, -1)
    expected = np.exp(-square / (2 * 0.49)) / (2 * np.pi * 0.49) ** (d / 2)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=10 * tolerance("rounding", dtype) * d)


@pytest.mark.equation("MF 2.35", "MF 2.36", "MF 2.37")
@pytest.mark.parametrize("std", [0.6, 2.5])
@pytest.mark.parametrize("d", [1, 2])
def test_cosine_networks_have_a_kernel_of_integral_one(d, std):
    width = np.sqrt(d) / std
    nodes, cell = grid(d, 9 * width, 121)
    origin = jnp.zeros((1, d))
    density = kernels.InfiniteCosineNetwork(std).matrix(origin, nodes)[0] * cell
    assert float(density.sum()) == pytest.approx(1, abs=1e-6)
    variance = float((density * jnp.sum(nodes**2, -1)).sum()) / d
    assert variance == pytest.approx(width**2, rel=1e-6)
    # the constant as printed does not do that
    shape = np.exp(-(std**2) * np.sum(np.asarray(nodes) ** 2, -1) / (2 * d)) * cell
    for constant, unit in (
        (np.sqrt(2) * (std**2 / (2 * np.pi * d)) ** (d / 4), True),
        (2**0.25 * (std / np.sqrt(2 * np.pi * d)) ** (d / 4), False),
    ):
        assert (abs(constant**2 / 2 * shape.sum() - 1) < 1e-6) == unit
    unit_gaussian = kernels.UnitGaussian(width).matrix(origin, nodes)[0] * cell
    np.testing.assert_allclose(density, unit_gaussian, rtol=1e-11, atol=1e-300)


# --- cosine networks -------------------------------------------------------------------------


def drawn(network, d, seed=0):
    rng = np.random.default_rng(seed)
    spread = network.weight_std / np.sqrt(d)
    return {
        "params": {
            "frequency": jnp.asarray(rng.normal(0, spread, (d, network.width))),
            "phase": jnp.asarray(rng.uniform(-np.pi, np.pi, network.width)),
            "amplitude": jnp.asarray(rng.normal(size=(network.width, network.outputs or 1))),
        }
    }


@pytest.mark.equation("MF 2.33")
@pytest.mark.parametrize(("outputs", "normalised"), [(None, True), (3, False)])
def test_fourier_features_are_the_kernel_of_the_last_layer(outputs, normalised):
    network = ansatz.CosineNetwork(7, 1.7, outputs, normalised)
    params = drawn(network, 2)
    x, y = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 2)))

    def last_layer(amplitude, at):
        return network.apply({"params": {**params["params"], "amplitude": amplitude}}, at)

    theta = kernels.metric_ntk(last_layer, params["params"]["amplitude"], x, y)
    found = kernels.FourierFeatures(network, params).matrix(x, y)
    for c in range(outputs or 1):
        np.testing.assert_allclose(found, theta[..., c, c], rtol=CLOSE, atol=1e-13)
    w, b = (np.asarray(params["params"][k]) for k in ("frequency", "phase"))
    A = np.sqrt(2) * ((1.7**2 / (4 * np.pi)) ** 0.5 if normalised else 1)
    rows = [A * np.cos(np.asarray(v) @ w + b) for v in (x, y)]
    np.testing.assert_allclose(found, rows[0] @ rows[1].T / 7, rtol=CLOSE, atol=1e-13)


@pytest.mark.equation("MF 2.33", "MF 2.34", "MF 2.35")
def test_wide_cosine_networks_have_the_mean_kernel():
    """A^2 E[cos cos] by quadrature over w and b, and by networks, off by width^(-1/2)."""
    d, std = 1, 1.6
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, d)))
    expected = np.asarray(kernels.InfiniteCosineNetwork(std).matrix(x, x))

    node, share = np.polynomial.hermite_e.hermegauss(60)
    phase = np.linspace(-np.pi, np.pi, 8, endpoint=False)
    waves = np.cos(np.asarray(x)[:, :, None] * std * node[None, :, None] + phase)
    mean = np.einsum("xwb,ywb,w->xy", waves, waves, share) / (share.sum() * len(phase))
    A = np.sqrt(2) * (std**2 / (2 * np.pi * d)) ** (d / 4)
    np.testing.assert_allclose(A**2 * mean, expected, rtol=1e-10)

    widths, errors = (64, 512, 4096), []
    for width in widths:
        network = ansatz.CosineNetwork(width, std, None, True)

        @jax.jit
        def each(trees, network=network):
            return jax.lax.map(lambda p: kernels.FourierFeatures(network, p).matrix(x, x), trees)

        trees = jax.tree.map(lambda *p: jnp.stack(p), *[drawn(network, d, s) for s in range(40)])
        found = np.asarray(each(trees))
        # cos cos has variance below 1/4
        assert np.all(np.abs(found.mean(0) - expected) < 4.5 * A**2 / 2 / np.sqrt(40 * width))
        errors.append(np.sqrt(np.mean((found - expected) ** 2)))
    assert -0.65 < order(widths, errors) < -0.35


# --- volumes, and flows that become local ----------------------------------------------------


def metric(x):
    """A metric on R, and one on R^2 that is not diagonal; det g far from constant."""
    if x.shape == (1,):
        return jnp.exp(2 * jnp.sin(x))[:, None]
    mixed = 0.3 * jnp.cos(x[0])
    return jnp.array([[1 + x[0] ** 2, mixed], [mixed, 2 + jnp.sin(x[1])]])


def root_omega(x):
    return 1 + 0.5 * jnp.cos(x[0])


VOLUME = kernels.volume_factor(metric)


@pytest.mark.equation("MF 2.28", "MF 2.15", "MF 2.16")
@pytest.mark.parametrize("d", [1, 2])
def test_volume_factors_stand_in_front(d):
    x, y = np.random.default_rng(0).normal(size=(2, 4, d))
    gaussian = kernels.UnitGaussian(0.8)
    found = kernels.Rescaled(gaussian, VOLUME).matrix(jnp.asarray(x), jnp.asarray(y))
    for i in range(4):
        for j in range(4):
            square = np.sum((x[i] - y[j]) ** 2)
            dets = [float(np.linalg.det(np.asarray(metric(jnp.asarray(p[k])))))
                    for p, k in ((x, i), (y, j))]  # fmt: skip
            expected = np.exp(-square / (2 * 0.64)) / (2 * np.pi * 0.64) ** (d / 2)
            expected *= (dets[0] * dets[1]) ** -0.25
            assert float(found[i, j]) == pytest.approx(expected, rel=CLOSE)


@pytest.mark.equation("MF 2.24", "MF 2.28", "MF 2.29")
@pytest.mark.parametrize("d", [1, 2])
def test_narrow_kernels_are_the_delta_function_of_the_volume(d):
    """int K(x, x') sqrt(det g) f d^dx' = f(x) + O(width^2); without the factor it is not."""
    x = jnp.asarray([[0.4, -0.3][:d]])
    widths, errors = (0.1, 0.05, 0.025), {"one": [], "f": []}
    for width in widths:
        nodes, cell = grid(d, 8 * width, 65)
        nodes = nodes + x
        measure = jnp.sqrt(jnp.linalg.det(jax.vmap(metric)(nodes))) * cell
        kernel = kernels.Rescaled(kernels.UnitGaussian(width), VOLUME).matrix(x, nodes)[0]
        f = 1 + jnp.sin(3 * nodes[:, 0])
        errors["one"].append(abs(float(kernel @ measure) - 1))
        errors["f"].append(abs(float(kernel @ (measure * f)) - (1 + np.sin(3 * 0.4))))
    for found in errors.values():
        assert order(widths, found) == pytest.approx(2, abs=0.1)
        assert 1e-6 < found[-1] < 0.02
    flat = kernels.UnitGaussian(widths[-1]).matrix(x, nodes)[0]
    assert abs(float(flat @ measure) - 1) > 0.1


@pytest.mark.equation("MF 2.30", "MF 2.31", "MF 2.13")
def test_the_flow_becomes_local():
    """dg/dt -> -Omega dl/dg at the same point and in the same component, with order width^2."""
    x = jnp.linspace(-0.5, 0.5, 5)[:, None]
    widths, errors = (0.2, 0.1, 0.05), []

    def slopes(at):
        return jnp.concatenate([jnp.sin(2 * at), at**3, jnp.zeros_like(at)], -1)

    expected = -(jax.vmap(root_omega)(x)[:, None] ** 2) * slopes(x)
    for width in widths:
        nodes, cell = grid(1, 0.5 + 8 * width, 601)
        measure = jnp.sqrt(jnp.linalg.det(jax.vmap(metric)(nodes))) * cell
        kernel = kernels.Rescaled(kernels.Rescaled(kernels.UnitGaussian(width), VOLUME), root_omega)
        found = kernels.kernel_velocity(kernel, x, nodes, measure, slopes(nodes))
        # MF 2.30 as it stands
        at, there = jax.vmap(metric)(x)[:, 0], jax.vmap(metric)(nodes)[:, 0]
        front = (there.T / at) ** 0.25 / (2 * np.pi * width**2) ** 0.5
        front = front * jax.vmap(root_omega)(x)[:, None] * jax.vmap(root_omega)(nodes)
        smeared = front * jnp.exp(-((x - nodes.T) ** 2) / (2 * width**2)) * cell
        np.testing.assert_allclose(found, -smeared @ slopes(nodes), rtol=1e-9, atol=1e-12)
        assert np.all(found[:, 2] == 0)
        errors.append(float(jnp.abs(found - expected).max()))
    assert order(widths, errors) == pytest.approx(2, abs=0.1)
    assert errors[-1] < 0.03


@pytest.mark.equation("MF 2.13", "MF 2.17", "MF 2.18")
def test_local_kernels_stay_local_when_they_are_rescaled():
    """On a lattice: a Gaussian far narrower than the spacing is a Kronecker delta."""
    x = jnp.arange(6.0)[:, None]
    width = 1e-3
    delta = kernels.UnitGaussian(width)
    top = (2 * np.pi * width**2) ** -0.5
    np.testing.assert_allclose(delta.matrix(x, x), top * np.eye(6), rtol=CLOSE)

    def h(at):
        return 2 - 0.1 * at[0] ** 2  # changes its sign

    scale = np.asarray(jax.vmap(root_omega)(x)) ** 2
    omega = kernels.Rescaled(delta, root_omega)
    np.testing.assert_allclose(omega.matrix(x, x), top * np.diag(scale), rtol=CLOSE)
    both = kernels.Rescaled(omega, h).matrix(x, x)
    expected = (2 - 0.1 * np.arange(6.0) ** 2) ** 2 * scale
    np.testing.assert_allclose(both, top * np.diag(expected), rtol=CLOSE)
    # one component of one point moves that component of that point
    slope = np.zeros((6, 4))
    slope[2, 1] = 3.0
    found = kernels.kernel_velocity(omega, x, x, np.full(6, 1 / top), slope)
    expected = np.zeros((6, 4))
    expected[2, 1] = -3 * scale[2]
    np.testing.assert_allclose(found, expected, rtol=CLOSE)


@pytest.mark.usefixtures("as_user")
def test_they_act_on_functions_and_have_derivatives():
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 2)))
    v = jnp.asarray(np.random.default_rng(1).normal(size=(9, 3)))
    network = ansatz.CosineNetwork(5, 1.7)
    for kernel in (
        kernels.UnitGaussian(0.7),
        kernels.InfiniteCosineNetwork(1.2),
        kernels.FourierFeatures(network, drawn(network, 2)),
        kernels.Rescaled(kernels.UnitGaussian(0.7), VOLUME),
        kernels.InfiniteNetwork("sin", 1),
    ):

        @jax.jit
        def both(at, k=kernel):
            return k.matrix(at, y) @ v, jax.grad(lambda at: jnp.sum(k.matrix(at, at)))(at)

        expected, slope = both(x)
        found = kernels.apply(kernel, x, y, v, chunk=4)
        np.testing.assert_allclose(found, expected, rtol=tolerance("sum"), atol=1e-13)
        assert np.all(np.isfinite(slope))
    # far apart the normalised rows are a softmax that does not underflow
    far = kernels.apply(kernels.UnitGaussian(1e-3), x, y, jnp.ones((9, 1)), normalise=True)
    np.testing.assert_allclose(far, 1, rtol=CLOSE)


def test_equal_metrics_are_one_program():
    assert kernels.volume_factor(metric) == VOLUME
    assert hash(kernels.volume_factor(metric)) == hash(VOLUME)


ONES = np.ones((2, 3))
UNIT = kernels.UnitGaussian(1.0)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kernels.UnitGaussian(0.0), "width"),
        (lambda: kernels.InfiniteCosineNetwork(-1.0), "weight_std"),
        (lambda: UNIT.matrix(ONES, ONES + 0j), "x2: expected real vectors .*got complex128"),
        (lambda: kernels.InfiniteCosineNetwork().matrix(ONES + 0j, ONES + 0j), "x1: expected real"),
        (lambda: UNIT.matrix(ONES, ONES[:, :2]), "x2: expected .*d = 3 in x1"),
        (lambda: kernels.FourierFeatures(ansatz.Mlp((3,)), {}), "CosineNetwork, got Mlp"),
        (lambda: kernels.Rescaled(kernels.Delta(), root_omega), "matrix.*got Delta"),
        (lambda: kernels.Rescaled(UNIT, 2.0), "factor: expected a function of one point, got f"),
        (lambda: kernels.Rescaled(UNIT, lambda x: x).matrix(ONES, ONES), "one real number"),
        (lambda: kernels.Rescaled(UNIT, lambda x: 1 / (x[0] - 1)).matrix(ONES, ONES), "infinite"),
        (
            lambda: kernels.Rescaled(UNIT, kernels.volume_factor(lambda x: -jnp.eye(3))).matrix(
                ONES, ONES
            ),
            "factor: 2 of 2 entries are NaN",
        ),
        (
            lambda: kernels.volume_factor(lambda x: jnp.eye(3) + 0j)(ONES[0]),
            "metric: expected a real matrix .*got complex128",
        ),
        (lambda: kernels.volume_factor(lambda x: x)(jnp.asarray(ONES[0])), "metric: expected a"),
        (
            lambda: kernels.kernel_velocity(UNIT, ONES, ONES, np.ones(3), ONES),
            r"weights: .*b2 = 2 in nodes, got float64 of shape \(3,\)",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
