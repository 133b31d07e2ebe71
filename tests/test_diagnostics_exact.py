"""Diagnostics of metrics whose values are known in closed form, normalisation included."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import diagnostics, geometry, kernels
from metricflow._pytree import register_dataclass
from metricflow.flows import KernelFlow
from tests.tolerances import tolerance


def share(z):
    """|z_0|^2 / |z|^2, a function on projective space."""
    return jnp.abs(z[..., 0]) ** 2 / jnp.sum(jnp.abs(z) ** 2, axis=-1)


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TwoScales:
    """g_FS in the best chart, g_FS / (1 - share / 2) in all others: a mismatch of known size."""

    manifold: geometry.Hypersurface

    def chart(self, z):
        return geometry.best_chart(self.manifold, z)

    def __call__(self, z, chart=None):
        best = self.chart(z)
        chart = best if chart is None else jnp.asarray(chart)
        factor = jnp.where(jnp.all(chart == best, axis=-1), 1, 1 / (1 - share(z) / 2))
        return factor[..., None, None] * geometry.FubiniStudyMetric(self.manifold)(z, chart)


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Conformal(TwoScales):
    """(1 + share / 2) g_FS."""

    def __call__(self, z, chart=None):
        f = 1 + share(z) / 2
        return f[..., None, None] * geometry.FubiniStudyMetric(self.manifold)(z, chart)


@pytest.mark.parametrize("margin", [0.4, 0.8])
def test_chart_mismatch_is_the_weighted_mean_over_admissible_charts(margin):
    """|g' - moved|_g' = share / 2 |g'|_g' = share / 2 sqrt(n) in every other chart."""
    manifold = geometry.fermat(2)
    points = geometry.sample_points(jax.random.key(0), manifold, 40)
    size = np.abs(np.asarray(points.z))
    slope = 4 * size**3
    total = used = 0.0
    for x, (s, e) in enumerate(np.asarray(points.chart)):
        others = [
            (i, j)
            for i in range(4)
            for j in range(4)
            if i != j
            and (i, j) != (s, e)
            and size[x, i] >= margin * size[x].max()
            and slope[x, j] >= margin * slope[x, e]
        ]
        weight = len(others) * float(points.weight[x])
        total += weight * float(share(points.z[x])) / 2 * np.sqrt(2)
        used += weight
    assert used > 0
    found = float(diagnostics.chart_mismatch(TwoScales(manifold), points, margin=margin))
    assert found == pytest.approx(total / used, rel=tolerance("sum"))


@pytest.mark.parametrize("dim", [2, 3])
def test_kaehler_defect_of_a_conformal_factor(dim):
    """T = d_a f g_(b cbar) - d_b f g_(a cbar) has |T|^2 = 2 (n - 1) |df|^2_g / f^3 in f g."""
    manifold = geometry.fermat(dim)
    points = geometry.sample_points(jax.random.key(dim), manifold, 15)
    z, jacobian = np.asarray(points.z), np.asarray(points.pullback)
    size = np.sum(np.abs(z) ** 2, axis=1)[:, None]
    unit = np.eye(dim + 2)[0]
    slope = (unit * z[:, :1].conj() / size - np.abs(z[:, :1]) ** 2 * z.conj() / size**2) / 2
    along = np.einsum("xai,xi->xa", jacobian, slope)
    inverse = np.linalg.inv(np.asarray(geometry.fubini_study_metric(points)))
    square = np.einsum("xa,xb,xba->x", along, along.conj(), inverse).real
    f = 1 + np.asarray(share(points.z)) / 2
    norm = np.sqrt(2 * (dim - 1) * square / f**3)
    volume = geometry.fubini_study_volume(manifold) * np.mean(f**dim)
    expected = np.average(norm, weights=np.asarray(points.weight)) * volume ** (1 / (2 * dim))
    found = float(diagnostics.kaehler_defect(Conformal(manifold), points, chunk=4))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.equation("MF B.10", "MF B.11")
def test_weighted_mean_of_eta_is_one(quintic_points):
    g = (1 + share(quintic_points.z))[:, None, None] * geometry.fubini_study_metric(quintic_points)
    eta = diagnostics.eta(g, quintic_points)
    weight = quintic_points.weight
    mean = jnp.sum(weight * eta) / jnp.sum(weight)
    assert float(mean) == pytest.approx(1, rel=tolerance("sum"))


def test_volume_and_eigenvalues_of_a_conformal_factor(quintic, quintic_points):
    g = Conformal(quintic)(quintic_points.z, quintic_points.chart)
    f = 1 + np.asarray(share(quintic_points.z)) / 2
    found = float(diagnostics.volume_ratio(g, quintic_points))
    assert found == pytest.approx(np.mean(f**3), rel=tolerance("sum"))
    eigenvalues = diagnostics.relative_eigenvalues(g, quintic_points)
    np.testing.assert_allclose(eigenvalues, np.stack([f] * 3, 1), rtol=1e-9)
    assert float(diagnostics.min_eigenvalue(g, quintic_points)) == pytest.approx(f.min(), rel=1e-9)


def test_the_delta_kernel_has_no_kaehler_defect_and_says_why():
    curve = geometry.fermat(1)
    points = geometry.sample_points_in_chart(jax.random.key(1), curve, 12)
    flow = KernelFlow(kernels.Delta(), step_size=0.1, clip=1.0)
    metric = flow.metric(curve, flow.step(flow.init(points))[0])
    found = diagnostics.diagnose(metric, points, derivative_points=4)
    assert found.kaehler_defect is None
    assert "locally constant" in found.notes["kaehler_defect"]
    assert found.chart_mismatch is not None
    smooth = dataclasses.replace(metric, kernel=kernels.Gaussian(0.3))
    assert smooth.without_kaehler_defect is None
