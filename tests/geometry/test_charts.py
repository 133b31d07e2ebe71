import jax
import jax.numpy as jnp
import numpy as np

from metricflow import geometry
from tests.tolerances import tolerance


def charts(ambient: int) -> list[tuple[int, int]]:
    return [(s, e) for s in range(ambient) for e in range(ambient) if s != e]


def test_best_chart_has_largest_coordinate_and_smallest_volume_form(quintic, quintic_points):
    z, chart = quintic_points.z, np.asarray(quintic_points.chart)
    assert np.all(np.argmax(np.abs(z), axis=1) == chart[:, 0])
    own = np.asarray(quintic_points.omega2)
    for eliminated in range(5):
        possible = chart[:, 0] != eliminated
        scaled = chart[possible, 0]
        other = geometry.holomorphic_volume(
            quintic, z[possible], np.stack([scaled, np.full(len(scaled), eliminated)], -1)
        )
        assert np.all(own[possible] <= np.asarray(other) * (1 + 1e-12))


def test_pullback_is_the_derivative_of_the_solved_coordinate(quintic):
    points = geometry.sample_points_in_chart(jax.random.key(0), quintic, 10)
    step = 1e-6

    def solved(x):  # z_0 = 1, local x, the branch of z_4 nearest to the old one
        target = -(1 + jnp.sum(x**5, axis=-1))
        candidates = target[:, None] ** 0.2 * np.exp(2j * np.pi * np.arange(5) / 5)
        nearest = jnp.argmin(jnp.abs(candidates - points.z[:, 4:]), axis=1)
        last = jnp.take_along_axis(candidates, nearest[:, None], 1)
        return jnp.concatenate([jnp.ones_like(last), x, last], axis=1)

    x = points.z[:, 1:4]
    for a in range(3):
        difference = (solved(x.at[:, a].add(step)) - solved(x.at[:, a].add(-step))) / (2 * step)
        np.testing.assert_allclose(difference, points.pullback[:, a], atol=1e-8)


def test_transitions_compose_and_move_the_metric(quintic, quintic_points):
    metric = geometry.FubiniStudyMetric(quintic)
    z = quintic_points.z[:40]
    a, b, c = (0, 4), (2, 1), (3, 0)
    direct = geometry.transition(quintic, z, a, c)
    through = geometry.transition(quintic, z, b, c) @ geometry.transition(quintic, z, a, b)
    np.testing.assert_allclose(direct, through, rtol=1e-9, atol=1e-9 * float(jnp.abs(direct).max()))
    there = geometry.transition(quintic, z, a, b)
    moved = jnp.einsum("xac,xcd,xed->xae", there, metric(z, a), there.conj())
    # charts far from the best one are ill-conditioned: compare relative to the largest entry
    largest = jnp.max(jnp.abs(metric(z, b)), axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(moved / largest, metric(z, b) / largest, atol=1e-7)


def test_transition_jacobian_relates_the_volume_forms(quintic, quintic_points):
    z = quintic_points.z[:20]
    for new in charts(5)[::7]:
        change = geometry.transition(quintic, z, (0, 4), new)
        volumes = [
            geometry.holomorphic_volume(quintic, geometry.chart_coordinates(z, c), c)
            for c in ((0, 4), new)
        ]
        ratio = jnp.abs(jnp.linalg.det(change)) ** 2
        np.testing.assert_allclose(volumes[1] / volumes[0], ratio, rtol=tolerance("algebra"))


def test_permuting_keeps_the_order_of_the_others_and_the_components(quintic, quintic_points):
    home = geometry.home_chart(quintic)
    assert home == (0, 4)
    moved = geometry.permute_to_chart(quintic_points.z, quintic_points.chart, home)
    for old, new, (s, e) in zip(
        np.asarray(quintic_points.z),
        np.asarray(moved),
        np.asarray(quintic_points.chart),
        strict=True,
    ):
        others = [i for i in range(5) if i not in (s, e)]
        np.testing.assert_array_equal(new, old[[s, *others, e]])
    there = geometry.FubiniStudyMetric(quintic)(moved, home)
    np.testing.assert_allclose(there, geometry.fubini_study_metric(quintic_points), rtol=1e-12)


def test_chart_coordinates_scale_to_exactly_one(quintic_points):
    scaled = geometry.chart_coordinates((2 - 3j) * quintic_points.z, quintic_points.chart)
    own = np.take_along_axis(np.asarray(scaled), np.asarray(quintic_points.chart)[:, :1], 1)
    assert np.all(own == 1)
    np.testing.assert_allclose(scaled, quintic_points.z, rtol=tolerance("rounding"))
