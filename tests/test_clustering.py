"""Clusters by Fubini-Study distance, merged across batches, and kernels that act within them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from metricflow import clustering, geometry, kernels
from metricflow.flows import KernelFlow
from tests.tolerances import tolerance

MANIFOLD = geometry.fermat(2)


@pytest.fixture(scope="module")
def groups():
    """Three tight groups of points around three far points, and which group each belongs to."""
    centres = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], complex)
    keys = jax.random.split(jax.random.key(0), 2)
    labels = np.repeat(np.arange(3), 20)
    noise = jax.random.normal(keys[0], (60, 4)) + 1j * jax.random.normal(keys[1], (60, 4))
    return jnp.asarray(centres[labels]) + 0.03 * noise, labels


@pytest.fixture(scope="module")
def points():
    return geometry.sample_points_in_chart(jax.random.key(1), MANIFOLD, 60)


def same(labels, expected):
    return adjusted_rand_score(labels, expected) == 1


@pytest.mark.parametrize("linkage", clustering.LINKAGES)
def test_groups_are_found(groups, linkage):
    z, expected = groups
    assert same(clustering.fubini_study_clusters(z, 3, linkage=linkage), expected)


@pytest.mark.equation("MF 3.3")
@pytest.mark.parametrize("batches", [1, 2, 4])
def test_groups_are_found_across_batches(groups, batches):
    z, expected = groups
    for seed in range(3):
        labels = clustering.batched_clusters(jax.random.key(seed), z, 3, batches)
        assert same(labels, expected)


def test_the_scaling_of_coordinates_does_not_matter(groups):
    z, expected = groups
    scaled = z * jnp.exp(1j * jnp.arange(60))[:, None] * jnp.linspace(0.1, 10, 60)[:, None]
    assert same(clustering.fubini_study_clusters(scaled, 3), expected)
    assert same(clustering.batched_clusters(jax.random.key(0), scaled, 3, 2), expected)
    # which the Euclidean base line does not survive
    assert same(clustering.birch_clusters(z, 3), expected)
    assert not same(clustering.birch_clusters(scaled, 3), expected)


@pytest.mark.equation("MF 3.3")
def test_every_cluster_of_a_batch_is_used_once(points):
    """All labels in every batch, each as often as a cluster of that batch has points."""
    key, count, batches = jax.random.key(3), 4, 3
    labels = clustering.batched_clusters(key, points.z, count, batches)
    parts = np.array_split(np.asarray(jax.random.permutation(key, 60)), batches)
    for part in parts:
        own = clustering.fubini_study_clusters(points.z[part], count)
        assert same(labels[part], own)
    assert len(np.unique(labels)) == count


def test_the_nearest_cluster_is_taken_first():
    distance = np.array([[3.0, 1.0, 2.0], [1.0, 0.5, 9.0], [1.0, 2.0, 9.0]])
    # the first row takes column 1, the second what is left nearest to it, the third the rest
    assert clustering._taken_in_turn(distance).tolist() == [1, 0, 2]


def test_mean_distances_of_clusters():
    distance = np.arange(12.0).reshape(3, 4)
    mean = clustering._between(distance, np.array([0, 1, 0]), np.array([0, 0, 1, 1]), 2)
    expected = [
        [distance[np.ix_(rows, columns)].mean() for columns in ([0, 1], [2, 3])]
        for rows in ([0, 2], [1])
    ]
    np.testing.assert_allclose(mean, expected)


def test_silhouette_by_its_formula(points):
    labels = clustering.fubini_study_clusters(points.z, 4)
    distance = np.array(geometry.pairwise_distance(points.z, points.z))
    scores = []
    for i, label in enumerate(labels):
        own = (labels == label) & (np.arange(60) != i)
        if not own.any():
            scores.append(0.0)
            continue
        a = distance[i, own].mean()
        b = min(distance[i, labels == other].mean() for other in set(labels) - {label})
        scores.append((b - a) / max(a, b))
    assert clustering.silhouette(points.z, labels) == pytest.approx(np.mean(scores), abs=1e-9)


def test_clusters_beat_chance(points):
    labels = clustering.fubini_study_clusters(points.z, 4)
    shuffled = np.random.default_rng(0).permutation(labels)
    good, bad = (clustering.silhouette(points.z, x) for x in (labels, shuffled))
    assert good > 0 > bad


def test_a_kernel_within_clusters(points):
    """Against the full matrix with everything between clusters set to zero."""
    labels = clustering.fubini_study_clusters(points.z, 3)
    kernel = kernels.Gaussian(0.4)
    clustered = clustering.ClusteredKernel(kernel, points.z, jnp.asarray(labels))
    other = geometry.sample_points_in_chart(jax.random.key(2), MANIFOLD, 25).z
    nearest = labels[np.asarray(geometry.nearest_neighbour(other, points.z).indices)]
    v = jax.random.normal(jax.random.key(4), (60, 4))
    for z, own in ((points.z, labels), (other, nearest)):
        block = own[:, None] == labels[None, :]
        expected = np.where(block, kernels.dense(kernel, z, points.z), 0) @ v
        found = kernels.apply(clustered, z, points.z, v)
        np.testing.assert_allclose(found, expected, rtol=tolerance("sum"), atol=1e-12)


def test_one_cluster_is_no_cluster(points):
    flow = KernelFlow(kernels.Gaussian(0.4), step_size=0.5, measure="mean", clip=1.0)
    labels = jnp.asarray(clustering.fubini_study_clusters(points.z, 1))
    clustered = KernelFlow(
        clustering.ClusteredKernel(flow.kernel, points.z, labels),
        step_size=0.5,
        measure="mean",
        clip=1.0,
    )
    whole, part = (f.run(f.init(points), 3)[0] for f in (flow, clustered))
    np.testing.assert_allclose(part.g, whole.g, rtol=tolerance("sum"), atol=1e-12)


def test_a_flow_within_clusters_is_one_flow_for_each(points):
    """A cluster moves as it would alone: nothing comes from the others."""
    labels = clustering.fubini_study_clusters(points.z, 3)
    kernel = kernels.Gaussian(0.4)
    # the sum over points has no normalisation that would see the other clusters
    options = {"step_size": 0.02, "measure": "sum", "clip": 1.0}
    clustered = clustering.ClusteredKernel(kernel, points.z, jnp.asarray(labels))
    together = KernelFlow(clustered, **options)
    state = together.init(points)
    g = together.run(state, 3)[0].g
    for label in range(3):
        here = np.flatnonzero(labels == label)
        alone = KernelFlow(kernel, **options)
        start = alone.init(jax.tree.map(lambda x, here=here: x[here], points))
        start = start._replace(kappa=state.kappa)
        np.testing.assert_allclose(alone.run(start, 3)[0].g, g[here], rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: clustering.fubini_study_clusters(z, 61), "61 clusters need as many points"),
        (lambda z: clustering.fubini_study_clusters(z, 0), "count: expected an integer"),
        (lambda z: clustering.fubini_study_clusters(z, 2, linkage="ward"), "linkage"),
        (lambda z: clustering.batched_clusters(jax.random.key(0), z, 10, 7), "fewer than 10"),
        (lambda z: clustering.birch_clusters(z.real, 3), "complex homogeneous coordinates"),
        (lambda z: clustering.silhouette(z, np.zeros(60, int)), "2 to 59 clusters, got 1"),
    ],
)
def test_what_makes_no_sense_is_refused(as_user, points, call, message):
    with pytest.raises(ValueError, match=message):
        call(points.z)


def test_blocks_cannot_be_found_inside_jit(as_user, points):
    clustered = clustering.ClusteredKernel(kernels.Gaussian(0.4), points.z, jnp.zeros(60, int))
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda z, v: kernels.apply(clustered, z, z, v))(points.z, jnp.ones((60, 4)))
