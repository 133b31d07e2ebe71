"""Metrics written by networks: formulas by hand, derivatives by differences, files, charts."""

import io
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import ansatz, checkpoint, diagnostics, energies, geometry, load_metric, save_metric
from tests.tolerances import tolerance

CLOSE = tolerance("algebra")
ANSAETZE = ("free", "additive", "multiplicative", "matrix")
DIMS = (1, 2, 3)
COUNT = 6
# every ansatz, and the one with the most algebra for every n
CASES = [
    ("free", 2),
    ("additive", 2),
    ("multiplicative", 2),
    ("matrix", 1),
    ("matrix", 2),
    ("matrix", 3),
]
EVERY = pytest.mark.parametrize(("name", "n"), CASES)


def asymmetric(n):
    """No symmetry, so that no index can stand for another, and few terms, which compile fast."""
    powers = (n + 2) * np.eye(n + 2, dtype=int)
    mixed = [n + 1, 1] + n * [0]
    coefficients = [*np.linspace(1, 1.5, n + 2), 0.4 + 0.3j]
    return geometry.hypersurface(np.array([*powers, mixed]), coefficients)


class Lazy(dict):
    """Entries are computed when they are asked for, once."""

    def __init__(self, compute):
        self.compute = compute

    def __missing__(self, key):
        self[key] = self.compute(key)
        return self[key]


@pytest.fixture(scope="module")
def manifolds():
    return Lazy(asymmetric)


@pytest.fixture(scope="module")
def samples(manifolds):
    return Lazy(lambda n: geometry.sample_points(jax.random.key(5), manifolds[n], COUNT))


@pytest.fixture(scope="module")
def prepared(manifolds, samples):
    """The data do not depend on the ansatz."""

    def prepare(n):
        return ansatz.ComponentModel(manifolds[n], "free", network(n)).prepare(samples[n])

    return Lazy(prepare)


def network(n):
    return ansatz.component_mlp(n, (5,), "tanh", bias_std=0.5)


def filled(network, inputs, scale=0.15, dtype="float64"):
    """Parameters far from the initialisation, without running it."""
    rng = np.random.default_rng(inputs)
    x = jax.ShapeDtypeStruct((inputs,), dtype)
    like = jax.eval_shape(network.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), dtype), like)


@pytest.fixture(scope="module")
def models(manifolds):
    """With parameters that move every component."""

    def build(case):
        name, n = case
        model = ansatz.ComponentModel(manifolds[n], name, network(n))
        return model, filled(network(n), 2 * (n + 2))

    return Lazy(build)


STEP = 1e-5


@pytest.fixture(scope="module")
def ahead_and_behind(manifolds, samples):
    """Points on X with the local coordinates x +- h along every real direction, (2n, 2, N, n+2)."""

    def moved(n):
        directions = STEP * np.concatenate([np.eye(n), 1j * np.eye(n)])
        steps = directions[:, None, None] * np.array([1, -1])[:, None, None]
        steps = np.broadcast_to(steps, (2 * n, 2, COUNT, n)).reshape(-1, n)
        points = samples[n]
        z, chart = (np.tile(x, (4 * n, 1)) for x in (points.z, points.chart))
        return nearby(manifolds[n], z, chart, steps).reshape(2 * n, 2, COUNT, n + 2)

    return Lazy(moved)


def nearby(manifold, z, chart, steps):
    """z_e of the moved points by Newton's method."""
    rows, (scaled, eliminated) = np.arange(len(z)), chart.T
    for x in rows:
        local = [i for i in range(z.shape[1]) if i not in (scaled[x], eliminated[x])]
        z[x, local] += steps[x]
    value = jax.jit(lambda z: (geometry.polynomial(manifold, z), geometry.gradient(manifold, z)))
    for _ in range(4):
        p, slope = (np.asarray(x) for x in value(z))
        z[rows, eliminated] -= p / slope[rows, eliminated]
    return z


@pytest.fixture(scope="module")
def computed(models, prepared, manifolds, ahead_and_behind):
    """All that the tests below compare, as one program for every model."""

    @jax.jit
    def all_of(model, theta, data, z):
        points, metric = data.points, model.bind(theta)
        beside = geometry.neighbour_chart(model.manifold, points.z, points.chart)
        charts = jnp.concatenate([jnp.broadcast_to(points.chart, (*z.shape[:-1], 2)), beside[None]])
        found = metric(jnp.concatenate([z, points.z[None]]), charts)
        moved = found[:-1].reshape(-1, 2, *found.shape[1:])
        return {
            "g": model.metric(theta, data),
            "slopes": model.real_slopes(theta, data),
            "beside": model.beside(theta, data),
            "bound": metric(points.z, points.chart),
            "bound beside": found[-1],
            "differences": (moved[:, 0] - moved[:, 1]) / (2 * STEP),
            "ambient": geometry.real_derivatives(
                lambda z: metric(z, points.chart), points.z, points.pullback
            ),
        }

    def compute(case):
        n = case[1]
        z = ahead_and_behind[n].reshape(-1, COUNT, n + 2)
        return jax.tree.map(np.asarray, all_of(*models[case], prepared[n], z))

    return Lazy(compute)


def hermitian(components, n):
    """By hand: the diagonal, then sqrt(2) Re and sqrt(2) Im of the upper triangle."""
    h = np.diag(components[:n]).astype(complex)
    pairs = list(itertools.combinations(range(n), 2))
    for place, (a, b) in enumerate(pairs):
        h[a, b] = (components[n + place] + 1j * components[n + len(pairs) + place]) / np.sqrt(2)
        h[b, a] = np.conj(h[a, b])
    return h


def by_hand(name, reference, h):
    if name == "free":
        return np.eye(len(h)) + h
    if name == "additive":
        return reference + h
    if name == "multiplicative":
        return reference * (1 + h)
    root = np.linalg.cholesky(reference)
    return root @ (np.eye(len(h)) + h) @ root.conj().T


def perceptron(theta, x):
    """One hidden layer with tanh."""
    first, last = (
        {k: np.asarray(v) for k, v in theta["params"][f"Dense_{i}"].items()} for i in (0, 1)
    )
    return np.tanh(x @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]


@EVERY
def test_every_ansatz_is_its_formula(models, computed, samples, name, n):
    theta = models[name, n][1]
    g, points = computed[name, n]["g"], samples[n]
    reference = np.asarray(geometry.fubini_study_metric(points))
    np.testing.assert_allclose(g, g.conj().swapaxes(1, 2), rtol=tolerance("rounding"), atol=1e-15)
    for x in range(COUNT):
        z = np.asarray(points.z[x])
        h = hermitian(perceptron(theta, np.concatenate([z.real, z.imag])), n)
        assert np.abs(h).min() > 1e-4
        np.testing.assert_allclose(g[x], by_hand(name, reference[x], h), rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("name", ANSAETZE)
@pytest.mark.parametrize("n", DIMS)
def test_every_way_to_write_a_metric_in_every_dimension(samples, name, n):
    reference = geometry.fubini_study_metric(samples[n])
    rng = np.random.default_rng(n)
    h = np.array([hermitian(rng.normal(size=n * n), n) for _ in range(COUNT)])
    found = ansatz.ANSAETZE[name](jnp.asarray(h), reference)
    expected = [by_hand(name, np.asarray(reference[x]), h[x]) for x in range(COUNT)]
    np.testing.assert_allclose(found, expected, rtol=CLOSE, atol=CLOSE)


@EVERY
def test_a_network_of_zeros_gives_fubini_study(models, prepared, name, n):
    model, theta = models[name, n]
    data = prepared[n]
    g = jax.jit(model.metric)(jax.tree.map(jnp.zeros_like, theta), data)
    unit = jnp.broadcast_to(jnp.eye(n, dtype=complex), g.shape)
    assert np.array_equal(g, unit if name == "free" else data.reference)


def test_real_coordinates_are_the_real_parts_first():
    z = jnp.array([[1 + 2j, 3 - 4j, 5j]])
    np.testing.assert_array_equal(ansatz.real_coordinates(z), [[1, 3, 0, 2, -4, 5]])


@EVERY
def test_slopes_are_those_of_the_metric_along_the_hypersurface(computed, name, n):
    """Along J_1 ... J_n, i J_1 ... i J_n, network and reference together: in ambient coordinates by
    automatic differentiation, in local ones by differences."""
    slopes = computed[name, n]["slopes"]
    assert slopes.shape == (COUNT, 2 * n, n * n)
    found = np.array([[hermitian(slopes[x, k], n) for x in range(COUNT)] for k in range(2 * n)])
    size = np.abs(found).max(axis=(0, 2, 3), keepdims=True)
    ambient, differences = computed[name, n]["ambient"], computed[name, n]["differences"]
    np.testing.assert_allclose(found / size, ambient / size, rtol=0, atol=CLOSE)
    atol = tolerance("difference")
    np.testing.assert_allclose(found / size, differences / size, rtol=0, atol=atol)


@EVERY
def test_beside_is_the_metric_in_the_neighbouring_chart(manifolds, computed, samples, name, n):
    points, manifold = samples[n], manifolds[n]
    there, carried = computed[name, n]["beside"]
    expected = computed[name, n]["bound beside"]
    size = np.abs(expected).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(there / size, expected / size, rtol=0, atol=CLOSE)
    beside = geometry.neighbour_chart(manifold, points.z, points.chart)
    change = np.asarray(geometry.transition(manifold, points.z, points.chart, beside))
    moved = change @ computed[name, n]["bound"] @ change.conj().swapaxes(1, 2)
    size = np.abs(moved).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(carried / size, moved / size, rtol=0, atol=CLOSE)
    # a network of coordinates is no tensor
    assert np.abs(there - carried).max() > 0.01


@EVERY
def test_the_bound_metric_is_the_metric_of_the_model(models, computed, samples, name, n):
    model, theta = models[name, n]
    metric, points = model.bind(theta), samples[n]
    g = computed[name, n]["g"]
    np.testing.assert_allclose(computed[name, n]["bound"], g, rtol=CLOSE, atol=CLOSE)
    assert metric.ansatz == name
    if (name, n) == ("matrix", 2):
        assert np.array_equal(metric.chart(points.z), points.chart)
        np.testing.assert_allclose(metric((2 - 1j) * points.z), g, rtol=CLOSE, atol=CLOSE)
        np.testing.assert_allclose(metric(points.z[0]), g[0], rtol=CLOSE, atol=CLOSE)


def test_prepared_data_hold_what_their_names_say(prepared, samples, manifolds):
    """The neighbouring chart, the reference metric and the Jacobian, for all n."""
    for n in DIMS:
        data, points, manifold = prepared[n], samples[n], manifolds[n]
        assert all(len(leaf) == COUNT for leaf in jax.tree.leaves(data))
        assert all(np.array_equal(x, y) for x, y in zip(data.points, points, strict=True))
        np.testing.assert_allclose(data.inputs, ansatz.real_coordinates(points.z), atol=CLOSE)
        beside = geometry.points_at(
            manifold, points.z, chart=geometry.neighbour_chart(manifold, points.z, points.chart)
        )
        reference = geometry.fubini_study_metric(beside)
        size = np.abs(reference).max()
        np.testing.assert_allclose(data.beside_reference, reference, atol=CLOSE * size)
        np.testing.assert_allclose(data.beside_inputs, ansatz.real_coordinates(beside.z))
        # Fubini-Study is a tensor: the Jacobian is that of the two charts
        moved = data.change @ data.reference @ data.change.conj().swapaxes(1, 2)
        np.testing.assert_allclose(moved, reference, atol=CLOSE * size)


def test_the_neighbouring_chart_is_the_one_a_point_enters_first(manifolds, samples):
    for n in DIMS:
        points, manifold = samples[n], manifolds[n]
        charts = np.asarray(geometry.neighbour_chart(manifold, points.z, points.chart))
        slopes = np.abs(geometry.gradient(manifold, points.z))
        for z, old, new, slope in zip(
            np.abs(points.z), np.asarray(points.chart), charts, slopes, strict=True
        ):
            # every point is in its best chart: the largest other is the second largest
            assert new[0] == np.argsort(z)[-2] != old[0]
            others = [i for i in range(n + 2) if i != new[0]]
            assert new[1] == max(others, key=lambda i, slope=slope: slope[i])


def test_the_neighbour_of_any_chart_has_the_largest_other_coordinate(manifolds, samples):
    """Whatever chart a point is in, and for any batch shape."""
    points, manifold = samples[2], manifolds[2]
    size, neighbour = np.abs(points.z), jax.jit(geometry.neighbour_chart)
    for chart in itertools.permutations(range(4), 2):
        charts = jnp.broadcast_to(jnp.array(chart), (COUNT, 2))
        found = np.asarray(neighbour(manifold, points.z, charts))
        hidden = np.where(np.arange(4) == chart[0], -1, size)
        np.testing.assert_array_equal(found[:, 0], hidden.argmax(axis=1))
        assert np.all(found[:, 0] != found[:, 1])
    one = geometry.neighbour_chart(manifold, points.z[3], chart)
    np.testing.assert_array_equal(one, found[3])
    folded = geometry.neighbour_chart(manifold, points.z.reshape(2, 3, 4), chart)
    np.testing.assert_array_equal(folded.reshape(COUNT, 2), found)


def test_the_bound_metric_can_be_diagnosed(models, samples, computed):
    (model, theta), points = models["multiplicative", 2], samples[2]
    found = diagnostics.diagnose(model.bind(theta), points)
    sigma = diagnostics.sigma_measure(computed["multiplicative", 2]["g"], points)
    assert found.sigma == pytest.approx(float(sigma), rel=CLOSE)
    assert 0 < found.sigma < 2
    assert found.chart_mismatch > 0.01
    assert found.kaehler_defect > 0.01
    assert set(found.notes) == {"mean_abs_ricci"}


def test_seeds_are_a_leading_axis(models, computed, prepared):
    """All of a model under vmap over its parameters, compiled, gives the numbers one by one."""
    (model, theta), data = models["matrix", 2], prepared[2]
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf, -leaf]), theta)

    @jax.jit
    def all_of(model, seeds):
        def one(theta):
            return model.metric(theta, data), model.real_slopes(theta, data)

        return jax.vmap(one)(seeds)

    g, slopes = all_of(model, seeds)
    assert g.shape == (3, COUNT, 2, 2)
    np.testing.assert_allclose(g[0], computed["matrix", 2]["g"], rtol=CLOSE)
    np.testing.assert_allclose(slopes[0], computed["matrix", 2]["slopes"], rtol=CLOSE, atol=CLOSE)
    halves = jax.tree.map(lambda leaf: 0.5 * leaf, theta)
    np.testing.assert_allclose(g[1], jax.jit(model.metric)(halves, data), rtol=CLOSE)
    points = data.points
    many = jax.vmap(lambda t: model.bind(t)(points.z, points.chart))(seeds)
    np.testing.assert_allclose(many, g, rtol=CLOSE)


def test_a_model_is_a_tree_whose_options_are_static(models):
    model, theta = models["matrix", 2]
    again = ansatz.ComponentModel(model.manifold, "matrix", network(2))
    assert jax.tree.structure(model) == jax.tree.structure(again)
    other = ansatz.ComponentModel(model.manifold, "free", network(2))
    assert jax.tree.structure(model) != jax.tree.structure(other)
    metric = model.bind(theta)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, metric)
    assert np.array_equal(
        doubled.parameters["params"]["Dense_0"]["bias"], 2 * theta["params"]["Dense_0"]["bias"]
    )


@pytest.mark.usefixtures("as_user")
def test_an_unknown_ansatz_is_named(manifolds):
    with pytest.raises(ValueError, match=r"ansatz: expected one of .*'matrix'.* got 'potential'"):
        ansatz.ComponentModel(manifolds[1], "potential", network(1))


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("outputs", [1, 3, 9])
@pytest.mark.parametrize("name", ANSAETZE)
def test_a_network_of_another_number_of_components_is_refused(manifolds, prepared, name, outputs):
    """One number would be broadcast over all components of the metric."""
    perceptron = ansatz.Mlp((3,), outputs=outputs)
    model = ansatz.ComponentModel(manifolds[2], name, perceptron)
    with pytest.raises((ValueError, TypeError)):
        jax.eval_shape(model.metric, filled(perceptron, 8), prepared[2])


@pytest.mark.parametrize("name", ANSAETZE)
def test_models_keep_the_precision_of_their_points(manifolds, samples, name, dtype):
    """The shapes and dtypes alone: nothing is computed."""
    kind = np.result_type(dtype, "complex64")
    points = geometry.points_at(manifolds[2], samples[2].z.astype(kind), chart=samples[2].chart)
    model = ansatz.ComponentModel(manifolds[2], name, network(2))
    theta = filled(network(2), 8, dtype=dtype)

    def all_of(points, theta):
        data = model.prepare(points)
        found = model.metric(theta, data), model.real_slopes(theta, data), model.beside(theta, data)
        return data, found, model.bind(theta)(points.z, points.chart)

    data, found, bound = jax.eval_shape(all_of, points, theta)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((data, found, bound))}
    assert dtypes == {np.dtype(dtype), kind, points.chart.dtype}
    assert found[0].dtype == found[2][0].dtype == found[2][1].dtype == bound.dtype == kind
    assert found[1].dtype == dtype


# files


def same(one, other, z):
    """The same object and the same numbers, to the bit."""
    assert type(one) is type(other)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for old, new in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(old).dtype == np.asarray(new).dtype
        assert np.array_equal(old, new)
    return np.array_equal(one(z), other(z))


@pytest.mark.parametrize("name", ANSAETZE)
def test_a_loaded_metric_gives_the_same_numbers(tmp_path, models, samples, name):
    model, theta = models[name, 2]
    metric = model.bind(theta)
    save_metric(tmp_path / "metric.npz", metric, provenance={"seed": 3})
    again = load_metric(tmp_path / "metric.npz")
    assert again.ansatz == name
    assert again.network == network(2)
    assert same(metric, again, samples[2].z)
    assert checkpoint.read_provenance(tmp_path / "metric.npz") == {"seed": 3}


SAVED = {
    "mlp": ansatz.Mlp((4, 3), "softplus", 4, "ntk", 0.5, 1.5, 0.7, 0.3),
    "independent": ansatz.component_mlp(2, (3,), independent=True, parameterisation="ntk"),
    "cosine": ansatz.CosineNetwork(5, 1.7, 4, True),
    "independent cosine": ansatz.IndependentNetworks(ansatz.CosineNetwork(3), 4),
}


@pytest.mark.parametrize("name", SAVED)
def test_every_network_is_read_back_as_it_was(tmp_path, manifolds, samples, name):
    metric = ansatz.ComponentMetric(manifolds[2], "additive", SAVED[name], filled(SAVED[name], 8))
    save_metric(tmp_path / "metric.npz", metric)
    again = load_metric(tmp_path / "metric.npz")
    assert again.network == SAVED[name]
    assert hash(again.network) == hash(SAVED[name])
    assert same(metric, again, samples[2].z)


def test_single_precision_stays_single_in_a_file(tmp_path, manifolds):
    theta = filled(network(2), 8, dtype="float32")
    metric = ansatz.ComponentMetric(manifolds[2], "matrix", network(2), theta)
    save_metric(tmp_path / "metric.npz", metric)
    again = load_metric(tmp_path / "metric.npz")
    assert {leaf.dtype for leaf in jax.tree.leaves(again.parameters)} == {np.dtype("float32")}


def square(x):
    return x**2


@pytest.mark.parametrize(
    ("build", "place"),
    [
        (lambda: network(2).apply, r"metric\.network"),
        (lambda: ansatz.component_mlp(2, (4,), square), r"metric\.network\.activation"),
        (
            lambda: ansatz.component_mlp(2, (4,), square, independent=True),
            r"metric\.network\.network\.activation",
        ),
    ],
)
def test_functions_are_not_saved(tmp_path, manifolds, build, place):
    theta = filled(network(2), 8)
    metric = ansatz.ComponentMetric(manifolds[2], "matrix", build(), theta)
    with pytest.raises(TypeError, match=place + ".*function cannot be saved.*by name"):
        save_metric(tmp_path / "metric.npz", metric)
    assert list(tmp_path.iterdir()) == []


# potentials


@pytest.fixture(scope="module")
def crowds(manifolds):
    """More points than there are projective features."""
    return Lazy(lambda n: geometry.sample_points(jax.random.key(7), manifolds[n], 3 * (n + 2) ** 2))


@pytest.fixture(scope="module")
def bases(manifolds, crowds):
    return Lazy(lambda n: ansatz.projective_features(manifolds[n], crowds[n]))


@pytest.fixture(scope="module")
def potentials(manifolds, samples, bases):
    """A perceptron of the projective features, far from Fubini-Study."""

    def build(n):
        perceptron = ansatz.mlp((4,), "softplus")
        model = ansatz.PotentialModel(manifolds[n], bases[n], perceptron)
        return model, filled(perceptron, bases[n].size, 0.1), model.prepare(samples[n])

    return Lazy(build)


@pytest.mark.equation("MF B.1")
def test_a_potential_is_bound_as_it_is_trained(potentials, samples):
    model, theta, data = potentials[2]
    metric, points = model.bind(theta), samples[2]
    assert model.kaehler
    assert not ansatz.ComponentModel.kaehler
    g = metric(points.z, points.chart)
    np.testing.assert_allclose(model.metric(theta, data), g, rtol=CLOSE, atol=CLOSE)
    np.testing.assert_allclose(g, g.conj().swapaxes(1, 2), rtol=CLOSE, atol=CLOSE)
    assert float(jnp.max(jnp.abs(g - data.reference))) > 0.01
    nothing = jax.tree.map(jnp.zeros_like, theta)
    np.testing.assert_allclose(model.metric(nothing, data), data.reference, rtol=CLOSE)


@pytest.mark.equation("MF B.1")
def test_a_potential_is_kaehler_and_one_tensor_in_all_charts(potentials, samples):
    model, theta, data = potentials[2]
    metric, points = model.bind(theta), samples[2]
    found = diagnostics.diagnose(metric, points)
    assert found.kaehler_defect < 1e-10
    assert found.chart_mismatch < 1e-10
    # so an energy leaves these terms out
    kappa = diagnostics.kappa_estimate(model.metric(theta, data), points)
    total, terms = energies.Energy(1.0, 2.0, 3.0)(model, theta, data, kappa)
    assert float(terms["kaehler"]) == float(terms["transition"]) == 0
    assert float(total) == pytest.approx(found.sigma, rel=CLOSE)
    # near Fubini-Study it is a metric
    near = model.bind(jax.tree.map(lambda leaf: 0.05 * leaf, theta))
    assert float(diagnostics.positive_fraction(near(points.z), points)) == 1


@pytest.mark.equation("MF B.5")
@pytest.mark.parametrize("n", DIMS)
def test_projective_features_span_the_functions_of_projective_space(bases, crowds, n):
    """(n+2)^2 - 1 functions and the constant, orthonormal; z_i zbar_j / |z|^2 is a sum of them."""
    basis, points = bases[n], crowds[n]
    assert basis.size == (n + 2) ** 2 - 1
    values = np.asarray(jax.jit(ansatz.basis_jets)(basis, points))[:, 0].T
    columns = np.concatenate([np.ones((len(values), 1)), values], axis=1)
    inner = columns.T @ columns / len(values)
    np.testing.assert_allclose(inner, np.eye((n + 2) ** 2), atol=1e-9)
    z = np.asarray(points.z)
    size = np.sum(np.abs(z) ** 2, axis=1)
    products = np.einsum("xi,xj->xij", z, z.conj()).reshape(len(z), -1) / size[:, None]
    targets = np.concatenate([products.real, products.imag], axis=1)
    solution = np.linalg.lstsq(columns, targets)[0]
    np.testing.assert_allclose(columns @ solution, targets, rtol=0, atol=CLOSE)


def test_a_potential_of_single_precision_stays_single(potentials, manifolds, samples):
    model, theta, _ = potentials[2]
    single = geometry.points_at(manifolds[2], samples[2].z.astype("complex64"))
    theta = jax.tree.map(lambda leaf: leaf.astype("float32"), theta)
    half = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, "float32") if leaf.dtype == np.float64 else leaf, model.basis
    )
    model = ansatz.PotentialModel(manifolds[2], half, model.network)
    data = model.prepare(single)
    g = model.metric(theta, data)
    assert data.features.dtype == np.float32
    assert g.dtype == np.complex64
    expected = potentials[2][0].bind(potentials[2][1])(samples[2].z)
    np.testing.assert_allclose(g, expected, rtol=5e-3, atol=5e-3)


def edited(path, change):
    """The file with its header changed."""
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(arrays.pop("header").tobytes())
    change(header)
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    path.write_bytes(buffer.getvalue())


def test_files_of_potentials_are_read_old_and_new(tmp_path, potentials, samples):
    """Before networks had a field of their own there were widths and an activation."""
    model, theta, _ = potentials[2]
    metric, path = model.bind(theta), tmp_path / "metric.npz"
    save_metric(path, metric)
    new = load_metric(path)
    assert new.network == ansatz.mlp((4,), "softplus")
    assert same(metric, new, samples[2].z)

    def age(header):
        fields = header["metric"]["fields"]
        saved = fields.pop("network")["fields"]
        fields["widths"], fields["activation"] = saved["widths"], saved["activation"]

    edited(path, age)
    old = load_metric(path)
    assert old.network == model.network
    assert same(metric, old, samples[2].z)

    def break_it(header):
        header["metric"]["fields"]["activation"] = "relu"

    edited(path, break_it)
    with pytest.raises(ValueError, match="activation"):
        load_metric(path)
