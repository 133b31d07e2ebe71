"""Algebraic metrics: sections modulo P, Fubini-Study as a special case, balanced metrics."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow import ansatz, diagnostics, geometry
from metricflow.ansatz.symmetry import monomials
from metricflow.flows import AlgebraicPotential, GaussNewton
from tests.tolerances import tolerance

QUARTIC = geometry.fermat(2)
CLOSE = tolerance("algebra")


@pytest.fixture(scope="module")
def points():
    return geometry.sample_points(jax.random.key(0), QUARTIC, 1200)


@pytest.fixture(scope="module")
def test_points():
    return geometry.sample_points(jax.random.key(1), QUARTIC, 1200)


@pytest.fixture(scope="module")
def few(points):
    return first(points, 12)


def first(points, count):
    return jax.tree.map(lambda x: x[:count], points)


def multinomial_sections(manifold, degree):
    """All monomials, with |s|^2 = |z|^(2k); from degree n + 2 on they are not independent."""
    exponents = np.array(monomials(degree, manifold.ambient))
    size = [math.factorial(degree) / math.prod(map(math.factorial, row)) for row in exponents]
    return ansatz.Sections(degree, exponents, np.diag(np.sqrt(size)) + 0j)


def fubini_study(manifold):
    return ansatz.AlgebraicMetric(
        manifold, multinomial_sections(manifold, 1), jnp.eye(manifold.ambient)
    )


def complex_sections(jets):
    count = len(jets) // 2
    return np.asarray(jets[:count, 0] + 1j * jets[count:, 0])


def random_form(key, count, spread=0.3):
    """A positive Hermitian matrix with complex entries."""
    real, imaginary = spread * jax.random.normal(jax.random.key(key), (2, count, count))
    root = jnp.eye(count) + (real + 1j * imaginary) / math.sqrt(count)
    return root @ root.conj().T


def random_metric(points, degree=2):
    sections = ansatz.section_basis(QUARTIC, degree, points)
    count = len(sections.exponents)
    return ansatz.AlgebraicMetric(
        QUARTIC, sections, ansatz.form_parameters(random_form(3, count, 0.6))
    )


def sigma(sections, form, test_points):
    metric = ansatz.AlgebraicMetric(QUARTIC, sections, form)
    return float(diagnostics.sigma_measure(metric(test_points.z, test_points.chart), test_points))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_number_of_sections_is_the_rank_of_the_monomials(dim):
    manifold = geometry.fermat(dim)
    # any points of X will do: the last coordinate of the Fermat hypersurface from the others
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, dim + 1)) + 1j * rng.normal(size=(400, dim + 1))
    last = (-np.sum(x**manifold.degree, axis=1)) ** (1 / manifold.degree)
    turn = np.exp(2j * np.pi * rng.integers(manifold.degree, size=400) / manifold.degree)
    z = np.column_stack([x, last * turn])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    for degree in range(1, dim + 4):
        exponents = np.array(monomials(degree, manifold.ambient))
        values = np.prod(z[:, None, :] ** exponents, axis=2)
        # normalised columns: the gap at the rank is wide
        rank = np.linalg.matrix_rank(values / np.linalg.norm(values, axis=0), tol=1e-9)
        assert ansatz.section_count(manifold, degree) == rank, degree


@pytest.mark.parametrize("degree", [1, 3, 4])
def test_sections_are_orthonormal_on_the_points(points, degree):
    count = ansatz.section_count(QUARTIC, degree)
    sample = first(points, 4 * count)
    sections = ansatz.section_basis(QUARTIC, degree, sample)
    assert sections.exponents.shape == (count, 4)
    assert set(sections.exponents.sum(axis=1)) == {degree}
    s = complex_sections(ansatz.section_jets(sections, sample, chunk=10))
    np.testing.assert_allclose(s @ s.conj().T / (4 * count), np.eye(count), atol=1e-9)
    monomial = np.prod(np.asarray(sample.z)[:, None] ** sections.exponents, axis=2)
    norm = np.linalg.norm(sample.z, axis=1) ** degree
    np.testing.assert_allclose(s, sections.transform @ monomial.T / norm, atol=1e-10)


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_multinomial_weights_give_fubini_study(few, degree):
    sections = multinomial_sections(QUARTIC, degree)
    metric = ansatz.AlgebraicMetric(QUARTIC, sections, jnp.eye(len(sections.exponents)))
    expected = geometry.FubiniStudyMetric(QUARTIC)
    for chart in (None, few.chart, few.chart[:, ::-1]):
        np.testing.assert_allclose(metric(few.z, chart), expected(few.z, chart), atol=CLOSE)
    turned = few.z * (0.3 - 2j)
    np.testing.assert_allclose(metric(turned), expected(few.z), atol=CLOSE)
    scaled = ansatz.AlgebraicMetric(QUARTIC, sections, 5 * jnp.eye(len(sections.exponents)))
    np.testing.assert_allclose(scaled(few.z), metric(few.z), atol=CLOSE)


@given(st.integers(0, 10**6))
def test_forms_are_their_parameters(seed):
    p, q = jnp.asarray(np.random.default_rng(seed).normal(size=(2, 4, 4)))
    form, other = ansatz.hermitian_form(p), ansatz.hermitian_form(q)
    np.testing.assert_allclose(form, form.conj().T, atol=0)
    np.testing.assert_allclose(ansatz.form_parameters(form), p, atol=1e-14)
    np.testing.assert_allclose(jnp.trace(form @ other).real, jnp.sum(p * q), atol=1e-12)
    again = ansatz.hermitian_form(ansatz.form_parameters(form @ form))
    np.testing.assert_allclose(again, form @ form, atol=1e-13)


def test_the_metric_is_the_mixed_derivative_of_log_norm(points, few):
    """4 d_v dbar_v K = K(z+hv) + K(z-hv) + K(z+ihv) + K(z-ihv) - 4 K(z) over h^2."""
    metric = random_metric(points)
    form = np.asarray(ansatz.hermitian_form(metric.parameters))

    def potential(z):
        monomial = np.prod(z[..., None, :] ** metric.sections.exponents, axis=-1)
        s = monomial @ metric.sections.transform.T
        return np.log(np.einsum("...i,ij,...j->...", s.conj(), form, s).real) / 2

    rng = np.random.default_rng(1)
    g, z, h = np.asarray(metric(few.z, few.chart)), np.asarray(few.z), 1e-3
    for c in rng.normal(size=(4, 2)) + 1j * rng.normal(size=(4, 2)):
        v = np.einsum("a,xai->xi", c, np.asarray(few.pullback))
        total = sum(potential(z + turn * h * v) for turn in (1, -1, 1j, -1j))
        difference = (total - 4 * potential(z)) / (4 * h**2)
        found = np.einsum("a,xab,b->x", c, g, c.conj()).real
        np.testing.assert_allclose(found, difference, rtol=2e-5)


def test_every_positive_form_gives_a_kaehler_metric(points, few):
    metric = random_metric(points)
    four = first(few, 4)
    assert float(diagnostics.kaehler_defect(metric, four)) < CLOSE
    assert float(diagnostics.chart_mismatch(metric, few)) < CLOSE
    g = metric(points.z, points.chart)
    smallest = diagnostics.relative_eigenvalues(g, points)
    assert float(jnp.min(smallest)) > 0
    assert float(jnp.max(smallest) / jnp.min(smallest)) > 2
    # the class is that of Fubini-Study: the volume is the same, up to the error of the sample
    assert float(diagnostics.volume_ratio(g, points)) == pytest.approx(1, abs=0.1)


def test_a_metric_works_on_any_batch_shape(points, few):
    metric = random_metric(points)
    g = metric(few.z, few.chart)
    folded = metric(few.z.reshape(2, 6, 4), few.chart.reshape(2, 6, 2))
    np.testing.assert_allclose(folded.reshape(g.shape), g, atol=CLOSE)
    np.testing.assert_allclose(metric(few.z[0]), g[0], atol=CLOSE)
    assert np.array_equal(metric.chart(few.z), few.chart)


def test_a_balanced_form_is_a_fixed_point(points):
    sections = ansatz.section_basis(QUARTIC, 2, points)
    parameters, changes = ansatz.balanced_form(sections, points, steps=40)
    assert changes[-1] < 1e-10 < changes[1] < changes[0]
    form = np.asarray(ansatz.hermitian_form(parameters))
    s = complex_sections(ansatz.section_jets(sections, points))
    count, weight = len(s), np.asarray(points.weight)
    norm = np.einsum("ix,ij,jx->x", s.conj(), form, s).real
    gram = (s * weight / weight.sum() / norm) @ s.conj().T
    np.testing.assert_allclose(np.linalg.inv(count * gram), form, atol=1e-8)
    # the density of states is its mean over the points: sum_x w_x rho_x = S
    assert np.sum(weight / weight.sum() * norm / norm) == pytest.approx(np.trace(form @ gram).real)


def test_balanced_metrics_approach_calabi_yau_with_the_degree(points, test_points):
    found = []
    for degree in (1, 2, 3):
        sections = ansatz.section_basis(QUARTIC, degree, points)
        form, _ = ansatz.balanced_form(sections, points)
        found.append(sigma(sections, form, test_points))
    fubini_study = geometry.fubini_study_metric(test_points)
    # degree 1 is Fubini-Study by symmetry, up to the error of the sample
    assert found[0] == pytest.approx(
        float(diagnostics.sigma_measure(fubini_study, test_points)), abs=0.02
    )
    assert found[1] < 0.8 * found[0]
    assert found[2] < 0.8 * found[1]


def test_a_raised_form_of_fubini_study_is_the_fubini_study_form(points):
    higher = ansatz.section_basis(QUARTIC, 2, points)
    raised = ansatz.raised_form(fubini_study(QUARTIC), higher, points)
    expected = ansatz.fubini_study_form(QUARTIC, higher, points)
    np.testing.assert_allclose(raised, expected, atol=CLOSE)


def test_a_raised_form_is_the_inverse_of_its_integral(points):
    """(S int s s^dagger e^(-kK))^-1, with s and K in any basis of the sections."""
    start, higher = random_metric(points), ansatz.section_basis(QUARTIC, 4, points)
    s, low = (complex_sections(ansatz.section_jets(x, points)) for x in (higher, start.sections))
    form = np.asarray(ansatz.hermitian_form(start.parameters))
    weight = np.asarray(points.weight / points.weight.sum())
    norm = np.einsum("ix,ij,jx->x", low.conj(), form, low).real
    expected = np.linalg.inv(len(s) * (s * (weight / norm**2)) @ s.conj().T)
    found = ansatz.hermitian_form(ansatz.raised_form(start, higher, points))
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


def test_raising_moves_a_metric_by_its_curvature():
    """K moves by log(det g / |Omega|^2) / k to leading order, so g by -Ricci / k."""
    cubic = geometry.fermat(1)
    sample = geometry.sample_points(jax.random.key(0), cubic, 2000)
    some = first(sample, 30)
    metric = fubini_study(cubic)
    g = metric(some.z, some.chart)[:, 0, 0].real
    ricci = diagnostics.ricci_scalar(geometry.FubiniStudyMetric(cubic), some)
    change = {}
    for k in (4, 8):
        sections = ansatz.section_basis(cubic, k, sample)
        raised = ansatz.raised_form(metric, sections, sample)
        again = ansatz.AlgebraicMetric(cubic, sections, raised)
        change[k] = again(some.z, some.chart)[:, 0, 0].real / g - 1
    assert np.corrcoef(change[4], ricci)[0, 1] < -0.8
    assert np.abs(change[8]).mean() < 0.9 * np.abs(change[4]).mean() < 0.15
    # the first correction is of order 1 / k^2
    rest = {k: np.abs(change[k] + ricci / k).mean() for k in change}
    assert rest[8] < 0.5 * rest[4]


def test_gauss_newton_lowers_sigma(points, test_points):
    sections = ansatz.section_basis(QUARTIC, 2, points)
    form = ansatz.fubini_study_form(QUARTIC, sections, points)
    problem = AlgebraicPotential(points, ansatz.section_jets(sections, points), 2)
    method = GaussNewton(damping=1e-6, solver="iterative", iterations=40)
    state, infos = method.run(method.init(form), problem, 6, tolerance=1e-4)
    losses = [float(info.loss) for info in infos]
    assert losses == sorted(losses, reverse=True)
    print(
        sigma(sections, form, test_points), sigma(sections, state.parameters, test_points), losses
    )
    assert sigma(sections, state.parameters, test_points) < 0.5 * sigma(sections, form, test_points)


def test_single_precision_follows_the_points(points, few):
    half = jax.tree.map(
        lambda x: x.astype({"c": "complex64", "f": "float32"}.get(x.dtype.kind, x.dtype)), few
    )
    metric = random_metric(points)
    jets = ansatz.section_jets(metric.sections, half)
    found = ansatz.algebraic_metric(metric.parameters.astype("float32"), jets, 2)
    assert (jets.dtype, found.dtype) == (jnp.float32, jnp.complex64)
    np.testing.assert_allclose(found, metric(few.z, few.chart), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("as_user")
def test_bad_arguments_are_named(points, few):
    for degree in (0, 1.5):
        with pytest.raises(ValueError, match="degree: expected an integer of at least 1"):
            ansatz.section_basis(QUARTIC, degree, points)
    with pytest.raises(ValueError, match="points: 10 sections need 20, got 12"):
        ansatz.section_basis(QUARTIC, 2, few)
    sections = multinomial_sections(QUARTIC, 1)
    with pytest.raises(ValueError, match="steps: expected an integer of at least 1"):
        ansatz.balanced_form(sections, points, steps=0)
    metric = ansatz.AlgebraicMetric(QUARTIC, sections, jnp.eye(4))
    for z in (jnp.ones((3, 5), complex), jnp.ones((3, 4))):
        with pytest.raises(ValueError, match="z: expected complex homogeneous coordinates"):
            metric(z)
