"""Batches from disk: reproducible from any start, each image once, windows of the right kind."""

import threading

import jax
import numpy as np
import pytest
from PIL import Image

from metricflow.data import ImageStream, image_stream

COUNTS = {"n01": 9, "n02": 4, "n03": 10}
TOTAL = sum(COUNTS.values())
SIZE = (14, 14)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each image has a shade of its own, and rows and columns that can be told apart."""
    root = tmp_path_factory.mktemp("imagenet")
    number = 0
    for split in ("train", "val"):
        for name, count in COUNTS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                height, width = 24 + 3 * (i % 4), 30 - 4 * (i % 3)
                rows, columns = np.indices((height, width))
                red = np.full_like(rows, 5 * (number % TOTAL))
                pixels = np.stack([red, 4 * rows, 4 * columns], -1).astype(np.uint8)
                path = root / split / name / f"{name}_{i:02d}.JPEG"
                Image.fromarray(pixels).save(path, "PNG")  # without loss, under the usual name
                number += 1
    return root


def shades(images):
    """The number of each image."""
    assert np.all(images[..., 0] == images[:, :1, :1, 0])
    return images[:, 0, 0, 0] // 5


def everything(batches):
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


LABELS = np.repeat(np.arange(3), list(COUNTS.values()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5, TOTAL, 100])
def test_each_image_comes_once_with_its_label(folder, training, batch_size):
    stream = ImageStream(folder, "train", training=training, size=SIZE)
    assert (len(stream), stream.classes) == (TOTAL, tuple(COUNTS))
    batches = list(stream.batches(0, 0, batch_size))
    assert [len(b.labels) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    images, labels = everything(batches)
    assert images.shape == (TOTAL, *SIZE, 3)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert sorted(shades(images)) == list(range(TOTAL))
    np.testing.assert_array_equal(labels, LABELS[shades(images)])
    assert np.array_equal(shades(images), np.arange(TOTAL)) != training


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_batch_is_the_same_wherever_one_starts(folder, split):
    whole = list(ImageStream(folder, split, size=SIZE, workers=1).batches(7, 3, 5))
    for start in range(6):
        stream = ImageStream(folder, split, size=SIZE, workers=4, prefetch=1 + start)
        later = list(stream.batches(7, 3, 5, start))
        assert len(later) == 5 - start
        for one, other in zip(whole[start:], later, strict=True):
            np.testing.assert_array_equal(one.images, other.images)
            np.testing.assert_array_equal(one.labels, other.labels)


def test_an_image_is_the_same_for_every_batch_size(folder):
    stream = ImageStream(folder, "train", size=SIZE)
    one, other = everything(stream.batches(7, 3, 5)), everything(stream.batches(7, 3, 8))
    np.testing.assert_array_equal(one[0], other[0])


def test_epochs_and_seeds_differ(folder):
    stream = ImageStream(folder, "train", size=SIZE)
    # the second key has the words 1, 0, which must not pass for one word, 0
    keys = [jax.random.wrap_key_data(jax.numpy.array([i, 0], "uint32")) for i in (0, 1)]
    seeds = (0, 0), (0, 1), (1, 0), (keys[0], 0), (keys[1], 0)
    runs = [everything(stream.batches(seed, epoch, 6))[0] for seed, epoch in seeds]
    for i, one in enumerate(runs):
        for other in runs[:i]:
            assert not np.array_equal(shades(one), shades(other))
            in_order, other_in_order = (
                one[np.argsort(shades(one))],
                other[np.argsort(shades(other))],
            )
            equal = np.mean(np.all(in_order == other_in_order, axis=(1, 2, 3)))
            assert equal < 0.2  # the windows differ too, not only their order
    again = everything(stream.batches(jax.random.key(0), 0, 6))[0]
    np.testing.assert_array_equal(again, runs[3])


def test_images_have_draws_of_their_own(folder):
    images = everything(ImageStream(folder, "train", size=SIZE).batches(0, 0, 6))[0]
    ramps = images[np.argsort(shades(images)), ..., 1:]
    alike = [0, 9, 13]  # the first of each class, with the same size and the same ramps
    assert len({ramps[i].tobytes() for i in alike}) == 3


def test_evaluation_is_the_middle_and_always_the_same(folder):
    stream = ImageStream(folder, "val", size=SIZE)
    assert not stream.training
    one, other = everything(stream.batches(0, 0, 6)), everything(stream.batches(5, 2, 6))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], LABELS)
    # 24 x 30 becomes 16 x 20, of which 14 x 14 in the middle are rows 1 to 14, columns 3 to 16
    height_ratio, width_ratio = 24 / 16, 30 / 20
    rows = 4 * ((np.arange(1, 15) + 0.5) * height_ratio - 0.5)
    columns = 4 * ((np.arange(3, 17) + 0.5) * width_ratio - 0.5)
    np.testing.assert_allclose(one[0][0, :, 5, 1], rows, atol=1)
    np.testing.assert_allclose(one[0][0, 5, :, 2], columns, atol=1)


def test_the_usual_size_is_that_of_imagenet(folder):
    for split in ("train", "val"):
        batch = next(iter(ImageStream(folder, split).batches(0, 0, 2)))
        assert batch.images.shape == (2, 224, 224, 3)


def test_random_parts_have_the_areas_proportions_and_places_that_are_promised(rng):
    boxes = np.array([image_stream._random_box(rng, 500, 400) for _ in range(4000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 500
    assert bottom.max() <= 400
    width, height = right - left, bottom - top
    area, ratio = width * height / 200_000, width / height
    assert 0.079 < area.min() < 0.09
    assert 0.9 < area.max() < 1.001
    assert 0.745 < ratio.min() < 0.76
    assert 1.31 < ratio.max() < 1.345
    assert abs(np.mean(np.log(ratio[area < 0.3]))) < 0.02  # uniform in the logarithm
    small = area < 0.5  # which nearly always fit, so that their law is not cut
    assert abs(np.mean(area[small]) - 0.29) < 0.01
    for start, free in ((left, 500 - width), (top, 400 - height)):
        place = start[small & (free > 99)] / free[small & (free > 99)]
        assert abs(np.mean(place) - 0.5) < 0.02
        assert abs(np.std(place) - 1 / np.sqrt(12)) < 0.02


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(300, 10, (143, 0, 156, 10)), (10, 300, (0, 143, 10, 156)), (1, 1, (0, 0, 1, 1))],
)
def test_a_very_long_image_gives_its_middle(rng, width, height, box, monkeypatch):
    monkeypatch.setattr(image_stream, "_TRIES", 0)
    assert image_stream._random_box(rng, width, height) == box


def test_a_crop_is_a_window_or_its_mirror_image(monkeypatch):
    """With the window as large as the image only the flip is left, and it is half of the time."""
    rows, columns = np.indices((6, 8))
    image = Image.fromarray(np.stack([rows, columns, rows], -1).astype(np.uint8))
    monkeypatch.setattr(image_stream, "_random_box", lambda rng, w, h: (1, 2, 5, 6))
    rng, flipped, window = np.random.default_rng(0), 0, np.asarray(image)[2:6, 1:5]
    for _ in range(400):
        crop = image_stream.random_crop(rng, image, (4, 4))
        flip = crop[0, 0, 1] > crop[0, -1, 1]
        np.testing.assert_array_equal(crop, window[:, ::-1] if flip else window)
        flipped += flip
    assert 150 < flipped < 250


def test_few_batches_are_decoded_ahead(folder, monkeypatch):
    seen, read, lock = [], image_stream.read_rgb, threading.Lock()

    def counting(path):
        with lock:
            seen.append(path)
        return read(path)

    monkeypatch.setattr(image_stream, "read_rgb", counting)
    batches = ImageStream(folder, "train", size=SIZE, prefetch=2).batches(0, 0, 2)
    assert seen == []
    next(batches)
    assert len(seen) <= 6  # one that was asked for and two ahead
    next(batches)
    assert len(seen) <= 8
    threads = threading.active_count()
    batches.close()
    assert threading.active_count() < threads  # who stops in the middle leaves nothing running
    assert len(seen) <= 8


def test_batches_skipped_are_not_decoded(folder, monkeypatch):
    seen, read = [], image_stream.read_rgb
    monkeypatch.setattr(image_stream, "read_rgb", lambda p: (seen.append(p), read(p))[1])
    stream = ImageStream(folder, "train", size=SIZE)
    assert len(list(stream.batches(0, 0, 5, start=4))) == 1
    assert len(seen) == TOTAL - 20
    assert list(stream.batches(0, 0, 5, start=5)) == []


def test_a_damaged_image_is_named_when_it_is_reached(tmp_path, rng):
    folder = tmp_path / "val/a"
    folder.mkdir(parents=True)
    for i in range(6):
        pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.JPEG")
    content = (folder / "3.JPEG").read_bytes()
    (folder / "3.JPEG").write_bytes(content[: len(content) // 2])
    batches = ImageStream(tmp_path, "val", size=SIZE).batches(0, 0, 2)
    next(batches)
    threads = threading.active_count()
    with pytest.raises(ValueError, match=r"3\.JPEG: not an image .*damaged"):
        next(batches)
    assert threading.active_count() < threads  # the pool is gone
    (folder / "3.JPEG").unlink()
    batches = ImageStream(tmp_path, "val", size=SIZE).batches(0, 0, 2)
    (folder / "0.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"0\.JPEG"):
        next(batches)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 5), "seed: expected an integer of at least 0.*got int -1"),
        ((2**32, 0, 5), "seed: got 4294967296"),
        ((0.5, 0, 5), "seed: .*got float 0.5"),
        ((True, 0, 5), "seed: .*got bool True"),
        ((0, -1, 5), "epoch: .* got int -1"),
        ((0, 0, 0), "batch_size: .* got 0"),
        ((0, 0, 5, 6), "start: got 6, expected 0 to 5"),
        ((0, 0, 5, -1), "start: .* got int -1"),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageStream(folder, "train").batches(*arguments)


def test_bad_streams_are_refused_at_once(folder):
    with pytest.raises(FileNotFoundError, match="test: no such folder"):
        ImageStream(folder, "test")
    with pytest.raises(ValueError, match="size"):
        ImageStream(folder, "val", size=(0, 5))
    with pytest.raises(ValueError, match="workers"):
        ImageStream(folder, "val", workers=-1)
    with pytest.raises(ValueError, match="prefetch"):
        ImageStream(folder, "val", prefetch=0)
    keys = jax.random.split(jax.random.key(0))
    with pytest.raises(ValueError, match=r"keys of shape \(2,\)"):
        ImageStream(folder, "val").batches(keys, 0, 5)
