import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import diagnostics, geometry
from metricflow._pytree import register_dataclass
from metricflow.geometry import antiholomorphic_derivative, holomorphic_derivative


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Conformal:
    """f g_FS with f = 1 + |z_0|^2 / |z|^2 / 2, a function on projective space: not Kaehler."""

    manifold: geometry.Hypersurface
    factor: Any = 1.0

    def chart(self, z):
        return geometry.best_chart(self.manifold, z)

    def __call__(self, z, chart=None):
        f = self.factor * (1 + 0.5 * jnp.abs(z[..., 0]) ** 2 / jnp.sum(jnp.abs(z) ** 2, -1))
        return f[..., None, None] * geometry.FubiniStudyMetric(self.manifold)(z, chart)


class Potential:
    """g_FS + d dbar phi with phi a quartic on the sphere; deliberately no pytree."""

    def __init__(self, manifold):
        self.manifold = manifold

    def chart(self, z):
        return geometry.best_chart(self.manifold, z)

    def __call__(self, z, chart=None):
        chart = self.chart(z) if chart is None else chart
        if z.ndim > 1:
            return jax.vmap(self)(z, chart)
        z = geometry.chart_coordinates(z, chart)

        def phi(w):
            size = jnp.abs(w) ** 2
            return 0.1 * jnp.sum(size**2 * jnp.arange(1, 5)) / jnp.sum(size) ** 2 + 0j

        jacobian = geometry.pullback(self.manifold, z, chart)

        # the pull-back is holomorphic, but it moves with z: keep J of the outer point for d and
        # differentiate dbar phi along the J of the inner point
        def dbar(w, b):
            inner = geometry.pullback(self.manifold, w, chart)
            return antiholomorphic_derivative(phi, w, inner[b])

        n = self.manifold.dim
        h = [
            [holomorphic_derivative(lambda w, b=b: dbar(w, b), z, jacobian[a]) for b in range(n)]
            for a in range(n)
        ]
        return geometry.FubiniStudyMetric(self.manifold)(z, chart) + jnp.array(h)


def with_sigma_zero(points):
    g = geometry.fubini_study_metric(points)
    eta = diagnostics.eta(g, points)
    return g * (eta ** (-1 / g.shape[-1]))[:, None, None]


@pytest.mark.equation("MF B.11")
def test_a_conformal_factor_alone_makes_sigma_vanish(quintic_points):
    # why sigma is never reported alone
    assert float(diagnostics.sigma_measure(with_sigma_zero(quintic_points), quintic_points)) < 1e-13


@pytest.mark.equation("MF B.10", "MF B.11")
def test_sigma_is_the_weighted_mean_written_out(quintic_points):
    g = np.asarray(geometry.fubini_study_metric(quintic_points))
    w, omega2 = np.asarray(quintic_points.weight), np.asarray(quintic_points.omega2)
    ratio = np.linalg.det(g).real / omega2
    kappa = np.average(ratio, weights=w)
    expected = np.average(np.abs(1 - ratio / kappa), weights=w)
    assert float(diagnostics.sigma_measure(g, quintic_points)) == pytest.approx(expected, rel=1e-12)
    # the scale of the metric and the free factor of the weights drop out
    other = quintic_points._replace(weight=7 * quintic_points.weight)
    assert float(diagnostics.sigma_measure(5 * g, other)) == pytest.approx(expected, rel=1e-12)
    held = float(diagnostics.sigma_measure(g, quintic_points, kappa=2 * kappa))
    assert held == pytest.approx(np.average(np.abs(1 - ratio / (2 * kappa)), weights=w), rel=1e-12)


def test_standard_error_is_the_spread_over_samples(quintic):
    sigmas, errors = [], []
    for seed in range(150):
        points = geometry.sample_points(jax.random.key(seed), quintic, 1000)
        g = geometry.fubini_study_metric(points)
        sigmas.append(float(diagnostics.sigma_measure(g, points)))
        errors.append(float(diagnostics.sigma_standard_error(g, points)))
    assert np.mean(errors) == pytest.approx(np.std(sigmas, ddof=1), rel=0.2)
    # points of one line are correlated: as if independent, the error comes out differently
    alone = points._replace(line=jnp.arange(1000))
    assert float(diagnostics.sigma_standard_error(g, alone)) != pytest.approx(errors[-1], rel=0.01)


def test_standard_error_does_not_depend_on_the_labels_of_lines(quintic_points):
    g = geometry.fubini_study_metric(quintic_points)
    expected = float(diagnostics.sigma_standard_error(g, quintic_points))
    for line in (quintic_points.line + 10**6, 1000 - 7 * quintic_points.line):
        moved = quintic_points._replace(line=line)
        assert float(diagnostics.sigma_standard_error(g, moved)) == pytest.approx(expected)


@pytest.mark.parametrize("skew", [-0.1, 0.0, 1.0])
def test_standard_error_is_that_of_the_jackknife_over_lines(quintic_points, skew):
    """Leave out one line at a time, kappa estimated anew each time."""
    g = geometry.fubini_study_metric(quintic_points)
    g = g * (diagnostics.eta(g, quintic_points) ** skew)[:, None, None]
    ratio = np.linalg.det(np.asarray(g)).real / np.asarray(quintic_points.omega2)
    w, line = np.asarray(quintic_points.weight), np.asarray(quintic_points.line)

    def sigma(kept):
        kappa = np.average(ratio[kept], weights=w[kept])
        return np.average(np.abs(1 - ratio[kept] / kappa), weights=w[kept])

    relative = np.linalg.det(np.asarray(g)) / np.linalg.det(
        np.asarray(geometry.fubini_study_metric(quintic_points))
    )

    def jackknife(statistic):
        left_out = np.array([statistic(line != i) for i in np.unique(line)])
        count = len(left_out)
        return np.sqrt((count - 1) / count * np.sum((left_out - left_out.mean()) ** 2))

    found = float(diagnostics.sigma_standard_error(g, quintic_points))
    assert found == pytest.approx(jackknife(sigma), rel=0.08)
    found = float(diagnostics.volume_ratio_standard_error(g, quintic_points))
    expected = jackknife(lambda kept: relative[kept].real.mean())
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-14)


def test_gain_compares_with_fubini_study_on_the_same_points(quintic_points):
    g = geometry.fubini_study_metric(quintic_points)
    half = 0.5 * (g + with_sigma_zero(quintic_points))
    expected = diagnostics.sigma_measure(g, quintic_points) / diagnostics.sigma_measure(
        half, quintic_points
    )
    assert float(diagnostics.gain(g, quintic_points)) == 1
    assert float(diagnostics.gain(half, quintic_points)) == pytest.approx(float(expected))
    assert float(diagnostics.gain(half, quintic_points, half)) == 1
    eta = [np.asarray(diagnostics.eta(x, quintic_points)) for x in (g, half)]
    plain = np.mean(np.abs(1 - eta[0])) / np.mean(np.abs(1 - eta[1]))
    found = diagnostics.gain(half, quintic_points, weighted=False)
    assert float(found) == pytest.approx(plain)


def test_volume_ratio_and_eigenvalues_of_a_rescaled_metric(quintic_points):
    g = 2.5 * geometry.fubini_study_metric(quintic_points)
    assert float(diagnostics.volume_ratio(g, quintic_points)) == pytest.approx(2.5**3)
    np.testing.assert_allclose(diagnostics.relative_eigenvalues(g, quintic_points), 2.5, rtol=1e-9)
    assert float(diagnostics.min_eigenvalue(g, quintic_points)) == pytest.approx(2.5)
    flipped = g.at[:100].multiply(-1)
    assert float(diagnostics.positive_fraction(flipped, quintic_points)) == pytest.approx(0.8)


def test_relative_eigenvalues_do_not_depend_on_the_chart(quintic, quintic_points):
    metric = Conformal(quintic)
    other = geometry.points_at(quintic, quintic_points.z, chart=(1, 3))
    few = np.max(np.abs(quintic_points.z), 1) < 1.5 * np.abs(quintic_points.z[:, 1])
    values = [
        diagnostics.relative_eigenvalues(metric(p.z, p.chart), p)[few]
        for p in (quintic_points, other)
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-6)


def test_kaehler_metrics_have_no_defect():
    quartic = geometry.fermat(2)
    few = geometry.sample_points(jax.random.key(0), quartic, 6)
    for metric in (geometry.FubiniStudyMetric(quartic), Potential(quartic)):
        assert float(diagnostics.kaehler_defect(metric, few)) < 1e-12
        assert float(diagnostics.chart_mismatch(metric, few)) < 1e-10
    # the potential is no constant: the check above was not empty
    assert (
        float(jnp.max(jnp.abs(Potential(quartic)(few.z) - geometry.fubini_study_metric(few))))
        > 1e-3
    )
    curve = geometry.fermat(1)
    points = geometry.sample_points(jax.random.key(1), curve, 20)
    assert float(diagnostics.kaehler_defect(Conformal(curve), points)) == 0


def test_kaehler_defect_is_a_number_of_the_metric_alone(quintic, quintic_points):
    few = jax.tree.map(lambda x: x[:30], quintic_points)
    expected = float(diagnostics.kaehler_defect(Conformal(quintic), few))
    assert expected > 0.1
    rescaled = Conformal(quintic, jnp.asarray(3.0))
    assert float(diagnostics.kaehler_defect(rescaled, few)) == pytest.approx(expected, rel=1e-9)
    second = jnp.argsort(jnp.abs(few.z), axis=1)[:, -2]
    eliminated = jnp.where(second == few.chart[:, 1], few.chart[:, 0], few.chart[:, 1])
    moved = geometry.points_at(quintic, few.z, chart=jnp.stack([second, eliminated], 1))
    assert float(diagnostics.kaehler_defect(Conformal(quintic), moved)) == pytest.approx(
        expected, rel=1e-6
    )


def test_kaehler_defect_by_finite_differences():
    manifold = geometry.fermat(2)
    points = geometry.sample_points_in_chart(jax.random.key(2), manifold, 4)
    metric, step = Conformal(manifold), 1e-5
    home = geometry.home_chart(manifold)

    def solved(base, x):  # the point with local coordinates x on the sheet of base
        target = -(1 + np.sum(x**4))
        roots = target**0.25 * 1j ** np.arange(4)
        return np.array([1, *x, roots[np.argmin(np.abs(roots - base[3]))]])

    norms = []
    for z in np.asarray(points.z):
        x = z[1:3]
        slopes = []
        for a in range(2):
            real, imaginary = (
                sum(
                    sign
                    * np.asarray(
                        metric(jnp.array(solved(z, x + sign * step * unit * np.eye(2)[a])), home)
                    )
                    for sign in (1, -1)
                )
                / (2 * step)
                for unit in (1, 1j)
            )
            slopes.append((real - 1j * imaginary) / 2)
        torsion = slopes[0][1] - slopes[1][0]  # T_(01 cbar), the only one for n = 2
        g = np.asarray(metric(jnp.array(z), home))
        inverse = np.linalg.inv(g)
        norms.append(
            np.sqrt(2 * np.linalg.det(inverse).real * (torsion @ inverse @ torsion.conj()).real)
        )
    volume = geometry.fubini_study_volume(manifold) * float(
        diagnostics.volume_ratio(metric(points.z, points.chart), points)
    )
    expected = np.average(norms, weights=np.asarray(points.weight)) * volume**0.25
    assert float(diagnostics.kaehler_defect(metric, points)) == pytest.approx(expected, rel=1e-6)


def test_chart_mismatch_sees_a_model_that_is_no_tensor(quintic, quintic_points):
    class Componentwise(Conformal):
        def __call__(self, z, chart=None):
            return super().__call__(z, chart) + 0.01 * jnp.eye(3)

    few = jax.tree.map(lambda x: x[:100], quintic_points)
    assert float(diagnostics.chart_mismatch(Conformal(quintic), few)) < 1e-10
    assert float(diagnostics.chart_mismatch(Componentwise(quintic), few)) > 0.01


def test_diagnose_reports_every_number(quintic, quintic_points):
    found = diagnostics.diagnose(Conformal(quintic), quintic_points, derivative_points=30)
    g = Conformal(quintic)(quintic_points.z, quintic_points.chart)
    assert found.sigma == float(diagnostics.sigma_measure(g, quintic_points))
    assert found.kaehler_defect > 0.1
    assert found.positive_fraction == 1
    assert found.notes == {"mean_abs_ricci": "not computed, see curvature_points"}


def test_metrics_that_do_not_belong_to_the_points_are_refused(quintic, quintic_points):
    for g in (jnp.ones((500, 2, 2), complex), jnp.ones((499, 3, 3), complex)):
        with pytest.raises(ValueError, match="expected metric components"):
            diagnostics.sigma_measure(g, quintic_points)

    class Broken(Conformal):
        def __call__(self, z, chart=None):
            return super().__call__(z, chart) * jnp.nan

    with pytest.raises(ValueError, match="NaN"):
        diagnostics.diagnose(Broken(quintic), quintic_points)

    class Kinked(Conformal):
        def __call__(self, z, chart=None):
            return (
                super().__call__(z, chart) + 0 * jnp.sqrt(0 * jnp.abs(z[..., 0]))[..., None, None]
            )

    with pytest.raises(ValueError, match="kaehler_defect is NaN"):
        diagnostics.diagnose(Kinked(quintic), quintic_points, derivative_points=5)
