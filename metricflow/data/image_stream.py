"""Folders of images too big for memory, such as ImageNet: batches decoded while others are used."""

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt8

from .. import _checks
from .decode import centre_crop, cover, image_size, list_images, pillow, pixels, read_rgb, resize

if TYPE_CHECKING:
    from PIL.Image import Image

_ORDER, _IMAGE = 1, 2  # first words of the entropy, so that no two draws share a stream
_AREA = (0.08, 1.0)  # shares of the image that a random crop takes
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))  # width to height
_TRIES = 10


class Batch(NamedTuple):
    """Images (B, H, W, 3) of dtype uint8 and labels (B,) of dtype int32."""

    images: UInt8[np.ndarray, "b h w 3"]
    labels: Int32[np.ndarray, " b"]


class ImageStream:
    """The images of ``folder/SPLIT/CLASS/*.JPEG``, a batch at a time.

    In training the order is random and of each image a random part (8 to 100 % of the area,
    proportions 3/4 to 4/3) is resized to the size and flipped every second time.  Otherwise the
    order is that of the names and the middle is taken after resizing the shorter side to 256 / 224
    of the size.  Memory is constant: that of the list of files and of a few batches.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str,
        *,
        training: bool | None = None,
        size: tuple[int, int] = (224, 224),
        workers: int | None = None,
        prefetch: int = 2,
    ):
        """List the files; nothing is decoded yet.

        Args:
            folder: with ``train/CLASS/*.JPEG`` and ``val/CLASS/*.JPEG``.
            split: the folder in it, such as "train" or "val".
            training: random order, crops and flips; left out, for the split "train".
            size: (height, width) of the images of a batch.
            workers: threads that decode; left out, one for each core.
            prefetch: batches that are decoded ahead.

        Raises:
            FileNotFoundError: no such folder.
            ValueError: no classes in it, or a class without images.
            ImportError: Pillow is not installed.
        """
        pillow()
        self.training = split == "train" if training is None else training
        self.size = image_size("size", size)
        self.workers = _checks.positive_integer("workers", workers or os.cpu_count() or 1)
        self.prefetch = _checks.positive_integer("prefetch", prefetch)
        self._files = list_images(Path(folder) / split)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; a label is a place among them."""
        return self._files.classes

    def __len__(self) -> int:
        return len(self._files.names)

    def batches(
        self, seed: int | Array, epoch: int, batch_size: int, start: int = 0
    ) -> Iterator[Batch]:
        """One epoch, each image once; the last batch is smaller if the size does not divide.

        All draws follow from the seed, the epoch and the place of the image in the list of files.
        A batch is therefore the same wherever one starts, on any number of workers.

        Args:
            seed: an integer below 2^32, or a key of jax.
            epoch: its number, from zero.
            batch_size: images in a batch.
            start: the first batch to return; those before it are not decoded.

        Raises:
            ValueError: numbers out of range at once; a damaged image when its batch is reached.
        """
        words = _words(seed)
        _checks.natural_number("epoch", epoch)
        _checks.positive_integer("batch_size", batch_size)
        count = -(-len(self) // batch_size)
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start <= count:
            raise ValueError(
                f"start: got {start!r}, expected 0 to {count}, the batches of an epoch"
            )
        order = np.arange(len(self))
        if self.training:
            order = np.random.default_rng([_ORDER, *words, epoch]).permutation(len(self))
        return self._produce((*words, epoch), order[start * batch_size :], batch_size)

    def _produce(self, words: tuple[int, ...], order: np.ndarray, size: int) -> Iterator[Batch]:
        chunks = (order[first : first + size] for first in range(0, len(order), size))
        waiting: deque[tuple[np.ndarray, list[Future[Any]]]] = deque()
        pool = ThreadPoolExecutor(self.workers)
        try:
            for chunk in chunks:
                waiting.append((chunk, [pool.submit(self._image, words, int(i)) for i in chunk]))
                if len(waiting) > self.prefetch:
                    yield self._batch(*waiting.popleft())
            while waiting:
                yield self._batch(*waiting.popleft())
        finally:  # also when the consumer stops in the middle
            pool.shutdown(cancel_futures=True)

    def _batch(self, chunk: np.ndarray, images: list[Future[Any]]) -> Batch:
        return Batch(np.stack([image.result() for image in images]), self._files.labels[chunk])

    def _image(self, words: tuple[int, ...], index: int) -> np.ndarray:
        image = read_rgb(self._files.folder / self._files.names[index])
        if self.training:
            rng = np.random.default_rng([_IMAGE, *words, index])
            return random_crop(rng, image, self.size)
        height, width = self.size
        return pixels(centre_crop(cover(image, (height * 8 // 7, width * 8 // 7)), self.size))


def random_crop(
    rng: np.random.Generator, image: "Image", size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """A random part of an image, resized to (height, width) and flipped every second time."""
    part = resize(image.crop(_random_box(rng, image.width, image.height)), size)
    flip = rng.random() < 0.5
    return np.ascontiguousarray(pixels(part)[:, :: -1 if flip else 1])


def _random_box(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*_AREA)
        ratio = math.exp(rng.uniform(*_LOG_RATIO))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    # a very long image, of which no such part was found: the middle, as wide as is allowed
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _words(seed: int | Array) -> tuple[int, ...]:
    # how many come first: NumPy takes missing words for zeros, and a key would equal a seed
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        if seed.shape != ():
            raise ValueError(f"seed: got keys of shape {seed.shape}, expected one key")
        data = tuple(int(word) for word in np.asarray(jax.random.key_data(seed)))
        return (len(data), *data)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"seed: got {seed!r}, expected an integer from 0 to 2^32 - 1 or a jax key")
    return (1, int(seed))
