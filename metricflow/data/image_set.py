"""Images in memory: pixels as bytes with one label each, split and counted by class."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from .. import _checks

_BLOCK = 2**24  # pixels that are counted at once, so that no wide copy of all images is made


class ImageSet(NamedTuple):
    """Images (N, H, W, C) of dtype uint8, labels (N,) of dtype int32, and what the labels mean."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    classes: tuple[str, ...]


def stratified_split(image_set: ImageSet, count: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """The rest and ``count`` held out images, every class in the same proportion in both.

    Both parts keep the order of the images.

    Args:
        image_set: at least two images of every class that occurs.
        count: of the part that is held out; both parts need room for every class that occurs.
        seed: the same seed gives the same parts.

    Raises:
        ValueError: a count that leaves one part without a class, or a class of one image.
    """
    from sklearn.model_selection import train_test_split  # here: it is slow to import

    check_image_set(image_set)
    count, total = _checks.positive_integer("count", count), len(image_set.labels)
    _checks.natural_number("seed", seed)
    occurring, sizes = np.unique(image_set.labels, return_counts=True)
    if not len(occurring) <= count <= total - len(occurring):
        raise ValueError(
            f"count: got {count} of {total} images, expected {len(occurring)} to "
            f"{total - len(occurring)}, so that each of {len(occurring)} classes is in both parts"
        )
    if sizes.min() < 2:
        lonely = image_set.classes[occurring[np.argmin(sizes)]]
        raise ValueError(
            f"image_set: class {lonely!r} has 1 image, expected at least 2; remove it or add more"
        )
    rest, held_out = train_test_split(
        np.arange(total), test_size=count, stratify=image_set.labels, random_state=seed
    )
    return _rows(image_set, np.sort(rest)), _rows(image_set, np.sort(held_out))


def subset(image_set: ImageSet, count: int, seed: int) -> ImageSet:
    """``count`` of the images, every class in the proportion that it has in all of them.

    Raises:
        ValueError: as in :func:`stratified_split`; all of the images may be asked for.
    """
    if count == len(image_set.labels):
        return image_set
    return stratified_split(image_set, count, seed)[1]


def channel_statistics(
    image_set: ImageSet,
) -> tuple[Float32[np.ndarray, " c"], Float32[np.ndarray, " c"]]:
    """Mean and standard deviation of each channel over all images and pixels, of pixel / 255.

    They are computed from how often each of the 256 values occurs, in integers: the only rounding
    is that to float32 at the end.

    Raises:
        ValueError: no image.
    """
    check_image_set(image_set)
    images = image_set.images
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    block = max(1, _BLOCK // max(1, images[:1].size))
    for first in range(0, len(images), block):
        part = images[first : first + block].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(part[:, channel], minlength=256)
    total, values = int(counts[0].sum()), np.arange(256)
    first_moment = counts @ values
    second_moment = counts @ values**2
    # N sum(x^2) - sum(x)^2 in Python's integers: beyond 64 bits for large sets
    spread = [
        total * int(second) - int(first) ** 2
        for first, second in zip(first_moment, second_moment, strict=True)
    ]
    mean = np.array([int(first) / (255 * total) for first in first_moment], np.float32)
    deviation = np.sqrt([value / (255 * total) ** 2 for value in spread]).astype(np.float32)
    return mean, deviation


def check_image_set(image_set: ImageSet) -> None:
    """Raise ValueError unless images, labels and classes belong together and there are some."""
    images, labels, classes = image_set
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise ValueError(
            f"images: got {images.dtype} of shape {images.shape}, expected uint8 of shape "
            "(N, H, W, C) with at least one image"
        )
    if labels.dtype != np.int32 or labels.shape != (len(images),):
        raise ValueError(
            f"labels: got {labels.dtype} of shape {labels.shape}, expected int32 of shape "
            f"({len(images)},), one for each image"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"labels: got {labels.min()} to {labels.max()}, expected 0 to {len(classes) - 1} for "
            f"{len(classes)} classes"
        )


def _rows(image_set: ImageSet, rows: np.ndarray) -> ImageSet:
    return ImageSet(image_set.images[rows], image_set.labels[rows], image_set.classes)
