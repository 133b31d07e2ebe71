"""Metric files that are damaged anywhere, and metrics off the beaten track."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metricflow import geometry, kernels, load_metric, save_metric
from metricflow.checkpoint import read_provenance
from metricflow.flows import KernelMetric


def small_metric(manifold=None, home=(0, 2), dtype="float64", kernel=None):
    manifold = manifold or geometry.fermat(1)
    points = geometry.sample_points_in_chart(
        jax.random.key(0), manifold, 8, chart=home, dtype=dtype
    )
    coefficients = 0.01 * jax.random.normal(jax.random.key(1), (8, 1), dtype)
    kernel = kernel or kernels.Gaussian(0.3)
    return KernelMetric(manifold, kernel, points.z, coefficients, home, normalise=True)


@pytest.mark.parametrize("flip", [1, 8, 255])
def test_a_changed_byte_is_refused_or_harmless(tmp_path, flip):
    """Every byte once: either the very same metric comes back, or a ValueError of one line."""
    metric, path = small_metric(), tmp_path / "metric.npz"
    save_metric(path, metric)
    content = path.read_bytes()
    escaped, long = {}, []
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= flip
        path.write_bytes(bytes(changed))
        try:
            found = load_metric(path)
        except ValueError as error:
            long += [place] * ("\n" in str(error))
        except Exception as error:  # what must not reach a user
            escaped.setdefault(type(error).__name__, place)
        else:
            np.testing.assert_array_equal(found.centres, metric.centres)
            np.testing.assert_array_equal(found.coefficients, metric.coefficients)
    assert (escaped, long) == ({}, [])


def test_a_flag_that_says_encrypted_is_refused(tmp_path):
    path = tmp_path / "metric.npz"
    save_metric(path, small_metric())
    content = bytearray(path.read_bytes())
    # bit 0 of the flags, 8 bytes into an entry of the central directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="not a metric file, or damaged") as caught:
        load_metric(path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "metric.npz"
    save_metric(path, small_metric())
    content = path.read_bytes()
    for length in range(0, len(content), 31):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a metric file, or damaged"):
            load_metric(path)


def test_a_metric_without_symmetry_keeps_its_chart(tmp_path, asymmetric_cubic):
    metric = small_metric(asymmetric_cubic, (1, 0))
    path = tmp_path / "metric.npz"
    save_metric(str(path), metric)
    again = load_metric(str(path))
    assert again.home == (1, 0)
    assert again.manifold.symmetric is False
    z = geometry.sample_points(jax.random.key(2), asymmetric_cubic, 12).z
    np.testing.assert_array_equal(again(z), metric(z))


def test_float32_stays_float32_on_disk(tmp_path):
    metric = small_metric(dtype="float32")
    save_metric(tmp_path / "metric.npz", metric)
    again = load_metric(tmp_path / "metric.npz")
    assert again.centres.dtype == "complex64"
    assert again.coefficients.dtype == "float32"
    np.testing.assert_array_equal(again(metric.centres), metric(metric.centres))


def test_a_second_save_replaces_the_first(tmp_path):
    path = tmp_path / "metric.npz"
    save_metric(path, small_metric(), provenance={"seed": 1})
    save_metric(path, geometry.FubiniStudyMetric(geometry.fermat(2)), provenance={"seed": 2})
    assert isinstance(load_metric(path), geometry.FubiniStudyMetric)
    assert read_provenance(path) == {"seed": 2}


def test_provenance_that_is_no_json_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "metric.npz"
    save_metric(path, small_metric(), provenance={"seed": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_metric(path, small_metric(), provenance={"array": jnp.ones(2)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["metric.npz"]


def test_kernels_that_the_format_does_not_know_are_refused(tmp_path):
    class Mine:
        def matrix(self, z1, z2):
            return jnp.ones((len(z1), len(z2)))

    with pytest.raises(TypeError, match=r"kernel.*Mine"):
        save_metric(tmp_path / "metric.npz", small_metric(kernel=Mine()))
    assert list(tmp_path.iterdir()) == []
