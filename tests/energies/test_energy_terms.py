"""The terms of an energy: where they vanish, what their norms are, their derivatives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._precision import in_precision
from metricflow import ansatz, diagnostics, energies, geometry
from tests.geometry import cubic
from tests.tolerances import tolerance

CLOSE = tolerance("algebra")
COUNT = 6


def positive(rng, n, count=COUNT):
    """Hermitian matrices with eigenvalues above one half."""
    a = rng.normal(size=(count, n, n)) + 1j * rng.normal(size=(count, n, n))
    return a @ a.conj().swapaxes(1, 2) + 0.5 * np.eye(n)


# the root of a Hermitian matrix


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_root_is_that_of_cholesky_with_its_derivative(n, dtype):
    rng, kind = np.random.default_rng(n), np.result_type(dtype, "complex64")
    g, h = positive(rng, n), positive(rng, n) - positive(rng, n)
    both = jax.jit(lambda g, h: jax.jvp(geometry.hermitian_root, (g,), (h,)))
    root, slope = both(g.astype(kind), h.astype(kind))
    assert root.dtype == kind
    expected = np.linalg.cholesky(g)
    tol = tolerance("algebra", dtype) * np.abs(expected).max()
    np.testing.assert_allclose(root, expected, rtol=0, atol=tol)
    assert not np.any(np.triu(root, 1))
    if dtype == "float64":
        step = 1e-6
        ahead, behind = (np.linalg.cholesky(g + sign * step * h) for sign in (1, -1))
        size = np.abs(slope).max()
        atol = tolerance("difference") * size
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=0, atol=atol)


def test_a_matrix_that_is_not_positive_has_no_root():
    g = np.stack([np.diag([1.0, -1.0]), np.diag([-1.0, 1.0]), np.eye(2)]).astype(complex)
    missing = np.any(np.isnan(geometry.hermitian_root(g)), axis=(1, 2))
    np.testing.assert_array_equal(missing, [True, True, False])


# norms by hand


def packed(h):
    return np.asarray(geometry.hermitian_pack(h))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_kaehler_loss_is_the_norm_of_the_torsion(n):
    """|T|^2 = sum T_abc conj(T_def) G_da G_eb conj(G)_fc with the inverse G of g_(a bbar)."""
    rng = np.random.default_rng(n)
    reference = positive(rng, n)
    along = np.stack([positive(rng, n) - positive(rng, n) for _ in range(2 * n)], axis=1)
    derivative = np.zeros((COUNT, n, n, n), complex)
    for a in range(n):  # d_a = (d_x - i d_y) / 2
        derivative[:, a] = (along[:, a] - 1j * along[:, n + a]) / 2
    expected = np.zeros(COUNT)
    for x in range(COUNT):
        raised = np.linalg.inv(reference[x]).T  # g^(a dbar)
        torsion = np.zeros((n, n, n), complex)
        for a, b, c in itertools.product(range(n), repeat=3):
            torsion[a, b, c] = derivative[x, a, b, c] - derivative[x, b, a, c]
        for a, b, c, d, e, f in itertools.product(range(n), repeat=6):
            product = torsion[a, b, c] * np.conj(torsion[d, e, f])
            product *= raised[a, d] * raised[b, e] * np.conj(raised[c, f])
            expected[x] += product.real
    slopes = jnp.asarray(packed(along))
    for power in (1.0, 2.0, 3.0):
        found = energies.kaehler_loss(slopes, jnp.asarray(reference), power=power)
        np.testing.assert_allclose(found, expected ** (power / 2), rtol=CLOSE)
    if n == 1:
        assert not np.any(found)
    else:
        assert expected.min() > 0.01


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_transition_loss_is_the_norm_of_the_difference(n):
    """|h|^2 = tr(g^-1 h g^-1 h) of Hermitian h."""
    rng = np.random.default_rng(n)
    reference, there, carried = (positive(rng, n) for _ in range(3))
    inverse = np.linalg.inv(reference)
    mixed = inverse @ (there - carried)
    expected = np.einsum("xab,xba->x", mixed, mixed).real
    for power in (1.0, 2.0, 3.0):
        found = energies.transition_loss(
            jnp.asarray(there), jnp.asarray(carried), jnp.asarray(reference), power=power
        )
        np.testing.assert_allclose(found, expected ** (power / 2), rtol=CLOSE)


def test_losses_scale_with_the_metric_and_with_the_reference():
    rng = np.random.default_rng(0)
    reference, there, carried = (jnp.asarray(positive(rng, 2)) for _ in range(3))
    slopes = jnp.asarray(rng.normal(size=(COUNT, 4, 4)))
    once = energies.kaehler_loss(slopes, reference, power=3.0)
    np.testing.assert_allclose(
        energies.kaehler_loss(2 * slopes, 5 * reference, power=3.0), (2 / 5**1.5) ** 3 * once
    )
    once = energies.transition_loss(there, carried, reference, power=3.0)
    np.testing.assert_allclose(
        energies.transition_loss(2 * there, 2 * carried, 5 * reference, power=3.0),
        (2 / 5) ** 3 * once,
    )


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_derivatives_are_zero_where_the_tensors_vanish(single, power):
    """Not NaN, for p = 1 too, nor where the square of a tiny tensor underflows."""
    kind = np.dtype("float32" if single else "float64")
    g = jnp.asarray(positive(np.random.default_rng(0), 2), np.result_type(kind, "complex64"))
    one = jnp.ones((COUNT, 4, 4), kind)

    @jax.jit
    def slopes(size):
        def kaehler(t):
            return jnp.sum(energies.kaehler_loss(t * one, g, power=power))

        def transition(t):
            return jnp.sum(energies.transition_loss(g + t * g, g, g, power=power))

        return jax.grad(kaehler)(size), jax.grad(transition)(jnp.zeros((), kind))

    for size in (0, 1e-30, 1e-200):
        found = np.asarray(slopes(jnp.asarray(size, kind)))
        assert np.all(np.isfinite(found))
        if size == 0:
            assert not np.any(found)


# hypersurfaces


@pytest.fixture(scope="module")
def quartic():
    """No symmetry: no index can stand for another."""
    exponents = np.array([*(4 * np.eye(4, dtype=int)), [3, 1, 0, 0]])
    return geometry.hypersurface(exponents, [1, 1.2, 0.9, 1.4, 0.4 + 0.3j])


@pytest.fixture(scope="module")
def points(quartic):
    return geometry.sample_points(jax.random.key(5), quartic, COUNT)


def filled(network, inputs, scale=0.15):
    rng = np.random.default_rng(inputs)
    like = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((inputs,), float))
    return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape)), like)


def component_model(manifold, name="matrix", scale=0.15):
    network = ansatz.component_mlp(manifold.dim, (3,), "tanh", bias_std=0.5)
    model = ansatz.ComponentModel(manifold, name, network)
    return model, filled(network, 2 * (manifold.dim + 2), scale)


@pytest.fixture(scope="module")
def component(quartic, points):
    model, theta = component_model(quartic)
    return model, theta, model.prepare(points)


def stretch(z):
    """f = 1 + |z_0|^2 / |z|^2, a function on projective space."""
    return 1 + jnp.abs(z[..., 0]) ** 2 / jnp.sum(jnp.abs(z) ** 2, axis=-1)


def test_the_kaehler_loss_of_a_conformal_metric_in_two_charts():
    """For f g_FS: T_abc = f_a g_bc - f_b g_ac, |T|^2 = 2 (n - 1) |df|^2 in every chart."""
    manifold = geometry.dwork(3, 0.3 + 0.1j)
    here = geometry.sample_points(jax.random.key(5), manifold, COUNT)
    fubini_study = geometry.FubiniStudyMetric(manifold)
    chart = geometry.neighbour_chart(manifold, here.z, here.chart)
    there = geometry.points_at(manifold, here.z, chart=chart)
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), here, there)

    @jax.jit
    def loss(points):
        def metric(z):
            g = stretch(z)[:, None, None] * fubini_study(z, points.chart)
            return geometry.hermitian_pack(g)

        slopes = geometry.real_derivatives(metric, points.z, points.pullback)
        reference = geometry.fubini_study_metric(points)
        return energies.kaehler_loss(jnp.moveaxis(slopes, 0, 1), reference)

    found = np.asarray(loss(both)).reshape(2, COUNT)
    z, jacobian = np.asarray(here.z), np.asarray(here.pullback)
    norm = np.sum(np.abs(z) ** 2, axis=1, keepdims=True)
    ambient = -(np.abs(z[:, :1]) ** 2) * z.conj() / norm**2
    ambient[:, 0] += z[:, 0].conj() / norm[:, 0]
    slope = np.einsum("xai,xi->xa", jacobian, ambient)
    inverse = np.linalg.inv(geometry.fubini_study_metric(here))
    square = np.einsum("xa,xba,xb->x", slope, inverse, slope.conj()).real
    expected = np.sqrt(4 * square)
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-9)
    assert expected.min() > 1e-3


@pytest.fixture(scope="module")
def pieces(component):
    """What the losses of the component model are made of."""

    @jax.jit
    def found(model, theta, data):
        return (
            model.metric(theta, data),
            model.real_slopes(theta, data),
            *model.beside(theta, data),
        )

    return found(*component)


def test_with_the_metric_itself_as_reference_the_kaehler_loss_is_the_defect(
    component, pieces, points
):
    """Up to Vol(g)^(1/2n), which makes the defect free of scales."""
    model, theta, _ = component
    g, slopes, *_ = pieces
    loss = energies.kaehler_loss(slopes, g)
    found = float(points.weight @ loss / jnp.sum(points.weight))
    volume = geometry.fubini_study_volume(model.manifold) * diagnostics.volume_ratio(g, points)
    assert float(diagnostics.min_eigenvalue(g, points)) > 0
    expected = float(diagnostics.kaehler_defect(model.bind(theta), points))
    assert expected > 0.05
    assert found * float(volume) ** 0.25 == pytest.approx(expected, rel=CLOSE)


def test_fubini_study_is_kaehler_a_tensor_and_of_its_own_volume(quartic, points):
    model, theta = component_model(quartic, "multiplicative", 0.0)
    energy = energies.Energy(0.0, 1.0, 1.0, 0.0, 1.0, kaehler_power=1.0)
    data = model.prepare(points)

    loss = jax.value_and_grad(lambda t: energy(model, t, data, 1.0), has_aux=True)
    (total, terms), slope = jax.jit(loss)(theta)
    assert set(terms) == {"kaehler", "transition", "volume"}
    for value in (total, *terms.values()):
        assert abs(float(value)) < CLOSE
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(slope))


def test_the_kaehler_loss_of_a_curve_is_zero_with_its_derivative():
    """Exactly, for p = 1: every metric of a curve is Kaehler."""
    rng = np.random.default_rng(0)
    slopes, reference = jnp.asarray(rng.normal(size=(COUNT, 2, 1))), jnp.asarray(positive(rng, 1))
    loss = jax.value_and_grad(lambda x: jnp.sum(energies.kaehler_loss(x, reference)))
    value, slope = jax.jit(loss)(slopes)
    assert float(value) == 0
    assert not np.any(slope)


# the flat metric of the Fermat cubic


class Torus:
    """g = exp(t f) c |Omega|^2, flat for t = 0, in the form that an energy wants of a model."""

    kaehler = False

    def __init__(self, scale):
        self.manifold, self.scale = geometry.fermat(1), scale

    def prepare(self, points):
        beside = geometry.neighbour_chart(self.manifold, points.z, points.chart)
        there = geometry.points_at(self.manifold, points.z, chart=beside)
        reference = ansatz.ComponentModel(self.manifold, "free", jnp.sum).prepare(points)
        return reference._replace(points=points, beside_inputs=there.omega2)

    def factor(self, t, z):
        return self.scale * jnp.exp(t * (stretch(z) - 1))

    def bind(self, t):
        def metric(z, chart):
            z = geometry.chart_coordinates(z, chart)
            omega2 = geometry.holomorphic_volume(self.manifold, z, chart)
            return (self.factor(t, z) * omega2)[..., None, None] + 0j

        return metric

    def metric(self, t, data):
        return self.bind(t)(data.points.z, data.points.chart)

    def real_slopes(self, t, data):
        points, metric = data.points, self.bind(t)
        slopes = geometry.real_derivatives(
            lambda z: geometry.hermitian_pack(metric(z, points.chart)), points.z, points.pullback
        )
        return jnp.moveaxis(slopes, 0, 1)

    def beside(self, t, data):
        there = (self.factor(t, data.points.z) * data.beside_inputs)[:, None, None] + 0j
        change = data.change
        return there, change @ self.metric(t, data) @ change.conj().swapaxes(1, 2)


@pytest.mark.equation("MF B.11")
def test_every_term_vanishes_on_the_flat_torus():
    """And with exp(t f) they are what they are by hand, if f is a function on the curve."""
    omega = cubic.integrate(lambda density, omega2: omega2)
    scale = 3 * np.pi / omega  # the volume of Fubini-Study: 3 pi
    model = Torus(scale)
    points = geometry.sample_points(jax.random.key(3), model.manifold, 3000)
    data = model.prepare(points)
    energy = energies.Energy(1.0, 1.0, 1.0, 1.0, 1.0)
    both = jax.jit(lambda t: energy(model, t, data, scale))
    total, terms = both(0.0)
    volume = float(terms.pop("volume"))
    assert all(abs(float(value)) < 1e-10 for value in terms.values())
    # the volume is a mean over a sample, of det g / det g_FS = c w
    error = float(jnp.std(scale * points.weight)) / np.sqrt(len(points.z) / 3)
    assert 0 < volume < 4 * error < 0.1
    assert float(total) == pytest.approx(volume, abs=1e-9)
    _, terms = both(0.3)
    weight = np.asarray(points.weight / points.weight.sum())
    growth = np.exp(0.3 * (np.asarray(stretch(points.z)) - 1))
    assert float(terms["monge_ampere"]) == pytest.approx(weight @ np.abs(1 - growth), rel=1e-9)
    assert float(terms["volume"]) == pytest.approx(
        abs(np.mean(scale * np.asarray(points.weight) * growth) - 1), rel=1e-9
    )
    assert float(terms["ricci"]) > 0.01
    assert float(terms["kaehler"]) == 0
    assert float(terms["transition"]) < 1e-10


# the energy of a model


@pytest.fixture(scope="module")
def terms_of(component):
    """The five terms of a component model at powers (1, 2) and (2, 1), and their derivatives."""
    model, theta, data = component
    options = ({"power": 1.0, "kaehler_power": 2.0}, {"power": 2.0, "kaehler_power": 1.0})
    some = [energies.Energy(1.0, 1.0, 1.0, 1.0, 1.0, **kinds) for kinds in options]

    def terms(theta):
        found = [energy(model, theta, data, 1.3)[1] for energy in some]
        return jnp.stack([each[name] for each in found for name in energies.TERMS])

    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), theta)
    both = jax.jit(lambda t: jax.jvp(terms, (t,), (direction,)))
    return both, direction


def test_derivatives_by_the_parameters_are_differences(component, terms_of):
    theta = component[1]
    both, direction = terms_of
    step = 1e-5
    ahead, behind = (
        both(jax.tree.map(lambda x, d, s=sign: x + s * step * d, theta, direction))[0]
        for sign in (1, -1)
    )
    expected = np.asarray(ahead - behind) / (2 * step)
    values, slopes = (np.asarray(x) for x in both(theta))
    assert np.abs(slopes).min() > 1e-4
    np.testing.assert_allclose(slopes, expected, rtol=10 * tolerance("difference"))
    assert values.min() > 1e-3


def test_terms_are_means_of_the_losses_over_the_calabi_yau_measure(
    component, terms_of, pieces, points
):
    """Against the losses and, for p = 1, against the diagnostics."""
    model, theta, data = component
    values = np.asarray(terms_of[0](theta)[0]).reshape(2, 5)
    weight = np.asarray(points.weight / points.weight.sum())
    metric = model.bind(theta)
    g, slopes, there, carried = pieces
    omega2 = np.asarray(points.omega2)
    eta = np.linalg.det(g).real / (1.3 * omega2)
    torsion = energies.kaehler_loss(slopes, data.reference)
    jump = np.asarray(energies.transition_loss(there, carried, data.beside_reference))
    scalar = np.abs(geometry.ricci_scalar(metric, points))
    volume = abs(float(diagnostics.volume_ratio(g, points)) - 1)
    for (p, q), found in zip(((1, 2), (2, 1)), values, strict=True):
        expected = [
            weight @ np.abs(1 - eta) ** p,
            weight @ np.asarray(torsion) ** q,
            weight @ jump**p,
            weight @ scalar**p,
            volume**p,
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    scale_free = geometry.fubini_study_volume(model.manifold) * diagnostics.volume_ratio(g, points)
    assert float(scale_free) ** 0.5 * values[0, 3] == pytest.approx(
        float(diagnostics.mean_abs_ricci(metric, points)), rel=1e-9
    )


@pytest.mark.equation("MF B.11")
def test_with_kappa_of_the_points_the_first_term_is_the_sigma_measure(component, pieces, points):
    model, theta, data = component
    g = pieces[0]
    kappa = diagnostics.kappa_estimate(g, points)
    total, terms = jax.jit(lambda t: energies.Energy()(model, t, data, kappa))(theta)
    assert list(terms) == ["monge_ampere"]
    assert float(total) == float(terms["monge_ampere"])
    sigma = float(diagnostics.sigma_measure(g, points))
    assert float(total) == pytest.approx(sigma, rel=CLOSE)


def test_the_weights_multiply_and_the_terms_do_not_carry_them(component):
    model, theta, data = component
    energy = energies.Energy(0.5, 3.0, 0.25, 0.0, 7.0, power=2.0, kaehler_power=1.0)
    plain = energies.Energy(1.0, 1.0, 1.0, 0.0, 1.0, power=2.0, kaehler_power=1.0)

    @jax.jit
    def both(theta):
        return energy(model, theta, data, 1.3), plain(model, theta, data, 1.3)

    (total, terms), (_, unweighted) = both(theta)
    assert set(terms) == {"monge_ampere", "kaehler", "transition", "volume"}
    assert all(float(terms[k]) == pytest.approx(float(unweighted[k]), rel=CLOSE) for k in terms)
    expected = (
        0.5 * terms["monge_ampere"]
        + 3 * terms["kaehler"]
        + 0.25 * terms["transition"]
        + 7 * terms["volume"]
    )
    assert float(total) == pytest.approx(float(expected), rel=CLOSE)


def test_many_seeds_in_single_precision_are_one_after_the_other_in_double(component):
    """The whole energy under jit, vmap and grad."""
    model, theta, data = component
    energy = energies.Energy(1.0, 0.5, 0.3, 0.0, 0.2)
    halves = jax.tree.map(lambda leaf: 0.5 * leaf, theta)
    seeds = jax.tree.map(lambda *leaves: jnp.stack(leaves), theta, halves)

    def gradient(theta, data):
        return jax.value_and_grad(lambda t: energy(model, t, data, 1.3), has_aux=True)(theta)

    many = jax.jit(jax.vmap(gradient, in_axes=(0, None)))
    (totals, terms), slopes = many(in_precision(seeds, "float32"), in_precision(data, "float32"))
    assert totals.shape == (2,)
    assert {value.shape for value in terms.values()} == {(2,)}
    one, tol = jax.jit(gradient), tolerance("algebra", "float32")
    for place, single in enumerate((theta, halves)):
        (total, _), slope = one(single, data)
        assert float(totals[place]) == pytest.approx(float(total), rel=tol)
        for found, expected in zip(jax.tree.leaves(slopes), jax.tree.leaves(slope), strict=True):
            assert found.dtype == np.float32
            size = np.abs(expected).max()
            assert size > 1e-3
            np.testing.assert_allclose(found[place], expected, rtol=0, atol=10 * tol * size)


class Kaehler:
    """A model that says it is Kaehler, and cannot do what such a model need not do."""

    kaehler = True

    def __init__(self, model):
        self.metric, self.bind = model.metric, model.bind


def test_a_kaehler_model_has_no_kaehler_or_transition_term(component):
    model, theta, data = component
    energy = energies.Energy(1.0, 2.0, 3.0, 0.0, 1.0)
    few = energies.Energy(1.0, volume=1.0)

    @jax.jit
    def both(theta):
        return energy(Kaehler(model), theta, data, 1.3), few(model, theta, data, 1.3)

    (total, terms), (expected, _) = both(theta)
    assert set(terms) == {"monge_ampere", "kaehler", "transition", "volume"}
    assert float(terms["kaehler"]) == float(terms["transition"]) == 0
    assert float(total) == pytest.approx(float(expected), rel=CLOSE)
    assert float(total) > 0.01


@pytest.mark.parametrize("kind", ["component", "kaehler"])
def test_an_energy_has_the_precision_of_its_data(component, kind, dtype):
    """The number and its terms; only shapes and dtypes are worked out."""
    model, *both = component
    model = model if kind == "component" else Kaehler(model)
    energy = energies.Energy(1.0, 1.0, 1.0, 1.0, 1.0)
    arguments = in_precision(both, dtype)
    total, terms = jax.eval_shape(lambda t, d: energy(model, t, d, 1.3), *arguments)
    assert {name: str(value.dtype) for name, value in terms.items()} == dict.fromkeys(terms, dtype)
    assert total.dtype == dtype


@pytest.mark.usefixtures("as_user")
def test_bad_weights_and_powers_are_named():
    for name in energies.TERMS:
        for bad in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"{name}: expected a finite weight of at least 0"):
                energies.Energy(**{name: bad})
        # one alone is enough
        energies.Energy(**{"monge_ampere": 0.0, name: 0.5})
    for name in ("power", "kaehler_power"):
        for bad in (0.5, -1.0, float("nan")):
            with pytest.raises(ValueError, match=f"^{name}: expected at least 1"):
                energies.Energy(**{name: bad})
    with pytest.raises(ValueError, match=r"every weight is zero.*monge_ampere, kaehler"):
        energies.Energy(0.0)
