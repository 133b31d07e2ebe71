import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricflow import geometry
from tests.tolerances import tolerance


def cloud(seed: int, count: int, ambient: int = 5, dtype: str = "complex128") -> jax.Array:
    real, imaginary = jax.random.normal(jax.random.key(seed), (2, count, ambient))
    return (real + 1j * imaginary).astype(dtype)


def orthonormal_pair(seed: int) -> tuple[jax.Array, jax.Array]:
    q, _ = jnp.linalg.qr(cloud(seed, 5).T)
    return q[:, 0], q[:, 1]


@pytest.mark.equation("MF 3.2")
def test_distance_is_the_arccos_of_the_overlap():
    z, w = cloud(0, 200), cloud(1, 200)
    overlap = (
        np.abs(np.sum(np.conj(z) * w, 1)) / np.linalg.norm(z, axis=1) / np.linalg.norm(w, axis=1)
    )
    np.testing.assert_allclose(geometry.fubini_study_distance(z, w), np.arccos(overlap), rtol=1e-12)


@pytest.mark.equation("MF 3.4")
@pytest.mark.parametrize("offset", [1.0, 0.11, 0.09, 1e-2, 1e-4, 1e-6, 1e-8, 1e-12])
def test_small_distances_keep_their_digits(offset, dtype):
    z, v = (
        x.astype("complex64" if dtype == "float32" else "complex128") for x in orthonormal_pair(2)
    )
    found = geometry.fubini_study_distance(3j * z, z + jnp.asarray(offset, dtype) * v)
    assert found.dtype == dtype
    # absolute error about eps, where arccos alone would give sqrt(2 eps) for coinciding points
    assert abs(float(found) - np.arctan(offset)) < 4 * float(jnp.finfo(dtype).eps)


@pytest.mark.equation("MF 3.4")
def test_threshold_sets_small_distances_to_zero():
    z, v = orthonormal_pair(3)
    w = z + jnp.array([[1e-5], [1e-3]]) * v
    found = geometry.fubini_study_distance(z, w, threshold=3e-4)
    assert float(found[0]) == 0
    assert float(found[1]) > 9e-4


@given(st.integers(0, 10_000))
def test_distance_is_a_metric_on_projective_space(seed):
    x, y, z = cloud(seed, 3)
    unitary, _ = jnp.linalg.qr(cloud(seed + 1, 5))
    xy, yz, xz = (geometry.fubini_study_distance(a, b) for a, b in ((x, y), (y, z), (x, z)))
    assert float(xz) <= float(xy + yz) + 1e-14
    assert float(xy) == pytest.approx(float(geometry.fubini_study_distance(y, x)), abs=1e-15)
    moved = geometry.fubini_study_distance((2 - 1j) * unitary @ x, -0.3j * unitary @ y)
    assert float(moved) == pytest.approx(float(xy), abs=1e-13)
    assert 0 <= float(xy) <= np.pi / 2


def test_pairwise_and_broadcast_forms_agree(dtype):
    kind = "complex64" if dtype == "float32" else "complex128"
    z, w = cloud(4, 7, dtype=kind), cloud(5, 4, dtype=kind)
    pairs = geometry.pairwise_distance(z, w)
    each = geometry.fubini_study_distance(z[:, None], w[None])
    assert pairs.shape == (7, 4)
    np.testing.assert_allclose(pairs, each, atol=tolerance("rounding", dtype))


def test_squared_distance_is_smooth_at_zero_and_across_the_series_switch():
    z, v = orthonormal_pair(6)

    def along(t):
        return geometry.squared_distance(z, z + t * v)

    first, second = jax.grad(along), jax.grad(jax.grad(along))
    assert abs(float(first(0.0))) < 1e-15
    assert float(second(0.0)) == pytest.approx(2, rel=1e-12)
    for t in (0.0999, 0.1, 0.1006, 0.102, 0.5):  # sin^2 = 1e-2 lies between
        assert float(along(t)) == pytest.approx(np.arctan(t) ** 2, rel=1e-14)
        assert float(first(t)) == pytest.approx(2 * np.arctan(t) / (1 + t * t), rel=1e-12)


def test_distance_gradient_is_finite_where_points_coincide():
    z, _ = orthonormal_pair(7)
    slope = jax.grad(lambda w: geometry.fubini_study_distance(z, w))(z)
    assert bool(jnp.all(jnp.isfinite(slope)))


@pytest.mark.parametrize(
    ("rows", "columns", "chunk"), [(1, 1, 4), (17, 33, 8), (40, 9, 64), (25, 25, 1)]
)
def test_nearest_neighbour_is_the_brute_force_one(rows, columns, chunk, dtype):
    kind = "complex64" if dtype == "float32" else "complex128"
    z, w = cloud(8, rows, dtype=kind), cloud(9, columns, dtype=kind)
    found = geometry.nearest_neighbour(z, w, chunk=chunk)
    distance = np.asarray(geometry.pairwise_distance(z, w))
    np.testing.assert_array_equal(found.indices, distance.argmin(1))
    np.testing.assert_allclose(found.distances, distance.min(1), atol=tolerance("rounding", dtype))


@pytest.mark.parametrize("chunk", [3, 16, 100])
def test_nearest_other_point_of_one_set(chunk):
    z = cloud(10, 50)
    z = z.at[20].set(2j * z[41])  # one coincidence: its distance is zero, and not with itself
    found = geometry.nearest_neighbour(z, chunk=chunk)
    distance = np.array(geometry.pairwise_distance(z, z))
    np.fill_diagonal(distance, 9)
    np.testing.assert_array_equal(found.indices, distance.argmin(1))
    assert int(found.indices[20]) == 41
    assert float(found.distances[20]) < 1e-15


def test_nearest_neighbour_never_holds_all_pairs():
    from metricflow.geometry import distances

    count = 20_000
    z = jax.ShapeDtypeStruct((count, 5), jnp.complex64)
    memory = distances._nearest.lower(z, z, True, 1024).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 40e6  # all pairs would be 1.6e9


@pytest.mark.equation("MF 3.7")
def test_nearest_neighbour_law_in_one_chart(quintic):
    for seed, count in enumerate((3000, 10_000)):
        points = geometry.sample_points_in_chart(jax.random.key(seed), quintic, count)
        mean = float(jnp.mean(geometry.nearest_neighbour(points.z).distances))
        assert abs(mean / (0.968 * count**-0.184) - 1) < 0.02


@pytest.mark.heavy
@pytest.mark.equation("MF 3.7")
def test_nearest_neighbour_law_to_a_hundred_thousand_points(quintic):
    sizes = np.array([3000, 10_000, 30_000, 100_000])
    means = []
    for count in sizes:
        points = geometry.sample_points_in_chart(jax.random.key(0), quintic, int(count))
        means.append(float(jnp.mean(geometry.nearest_neighbour(points.z).distances)))
        assert abs(means[-1] / (0.968 * count**-0.184) - 1) < 0.01
    exponent, prefactor = np.polyfit(np.log(sizes), np.log(means), 1)
    assert abs(exponent + 0.185) < 0.004
    assert abs(np.exp(prefactor) - 0.97) < 0.03


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("z1", "z2", "message"),
    [
        (np.ones((2, 5)), np.ones((2, 5)) + 0j, "z1.*complex"),
        (np.ones((2, 5)) + 0j, np.ones((2, 4)) + 0j, "z2.*5"),
        (np.ones((0, 5)) + 0j, np.ones((2, 5)) + 0j, "empty"),
    ],
)
def test_sets_that_do_not_fit_are_refused(z1, z2, message):
    for function in (geometry.pairwise_distance, geometry.nearest_neighbour):
        with pytest.raises(ValueError, match=message):
            function(z1, z2)
    with pytest.raises(ValueError, match="two points"):
        geometry.nearest_neighbour(np.ones((1, 5)) + 0j)
