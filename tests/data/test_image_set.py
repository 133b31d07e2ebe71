"""Splits and statistics of images in memory."""

import numpy as np
import pytest

from metricflow.data import ImageSet, channel_statistics, image_set, stratified_split, subset

CLASSES = ("a", "b", "c", "empty")


@pytest.fixture
def images(rng):
    """Every image has its number in its first pixels."""
    labels = rng.permutation(np.repeat([0, 1, 2], [100, 60, 40])).astype(np.int32)
    pixels = rng.integers(0, 256, (200, 3, 5, 2), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(200)
    return ImageSet(pixels, labels, CLASSES)


def numbers(part):
    return part.images[:, 0, 0, 0]


def test_a_split_is_stratified_and_disjoint(images):
    rest, held_out = stratified_split(images, 50, 3)
    assert list(np.bincount(rest.labels)) == [75, 45, 30]
    assert list(np.bincount(held_out.labels)) == [25, 15, 10]
    assert sorted([*numbers(rest), *numbers(held_out)]) == list(range(200))
    for part in (rest, held_out):
        np.testing.assert_array_equal(part.images, images.images[numbers(part)], strict=True)
        np.testing.assert_array_equal(part.labels, images.labels[numbers(part)], strict=True)
        assert part.classes == CLASSES
        assert np.all(np.diff(numbers(part).astype(int)) > 0)


def test_a_seed_decides(images):
    one, same, other = (numbers(stratified_split(images, 50, seed)[1]) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_subset(images):
    part = subset(images, 20, 0)
    assert list(np.bincount(part.labels)) == [10, 6, 4]
    assert subset(images, 200, 0) is images


@pytest.mark.parametrize(
    ("count", "message"),
    [(2, "got 2 of 200 images, expected 3 to 197"), (198, "got 198"), (0, "at least 1"), (201, "")],
)
def test_a_count_without_room_for_the_classes_is_refused(images, count, message):
    for function in (stratified_split, subset):
        with pytest.raises(ValueError, match=f"count: .*{message}"):
            function(images, count, 0)


def test_a_class_of_one_image_is_refused(images):
    labels = np.minimum(images.labels, 1)
    labels[7] = 3
    with pytest.raises(ValueError, match="class 'empty' has 1 image"):
        stratified_split(images._replace(labels=labels), 50, 0)


@pytest.mark.parametrize("block", [1, 70, 10**6])
def test_statistics_are_those_of_numpy(images, monkeypatch, block):
    monkeypatch.setattr(image_set, "_BLOCK", block)
    mean, std = channel_statistics(images)
    assert mean.dtype == std.dtype == np.float32
    exact = images.images.astype(np.float64) / 255
    np.testing.assert_array_equal(mean, exact.mean((0, 1, 2)).astype(np.float32))
    np.testing.assert_allclose(std, exact.std((0, 1, 2)), rtol=1e-7)


def test_statistics_of_one_shade(images):
    mean, std = channel_statistics(images._replace(images=np.full_like(images.images, 51)))
    np.testing.assert_array_equal(mean, np.float32(0.2))
    np.testing.assert_array_equal(std, 0)


def test_parts_that_do_not_belong_together_are_refused(images):
    for change, message in (
        ({"images": images.images / 255}, "images: got float64"),
        ({"images": images.images[:0]}, "images: got"),
        ({"images": images.images[0]}, "images: got"),
        ({"labels": images.labels[1:]}, r"labels: got int32 of shape \(199,\)"),
        ({"labels": images.labels.astype(np.int64)}, "labels: got int64"),
        ({"labels": images.labels - 1}, "got -1 to 1, expected 0 to 3"),
        ({"classes": ("a", "b")}, "got 0 to 2, expected 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            channel_statistics(images._replace(**change))
