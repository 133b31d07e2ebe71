"""Folders of image files, one folder for each class, decoded into memory."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .decode import (
    ImageFiles,
    centre_crop,
    cover,
    image_size,
    list_images,
    pillow,
    pixels,
    read_rgb,
)
from .image_cache import fingerprint, read_cache, write_cache
from .image_set import ImageSet

_CHUNK = 256  # images that one task of the thread pool decodes


def read_image_folder(
    folder: str | os.PathLike[str],
    size: tuple[int, int],
    *,
    cache: str | os.PathLike[str] | None = None,
) -> ImageSet:
    """All images of ``folder/CLASS/*.jpg`` in RGB, sorted by class and name.

    Args:
        folder: with one folder for each class; formats are those of Pillow.
        size: (height, width); other images are resized, bilinear, until they cover it, and the
            middle is taken.
        cache: an ``.npz`` file to write the decoded images to; it is read instead as long as the
            names and sizes of the image files are the same.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no classes, a class without images, a damaged image, or a cache that is none.
        ImportError: Pillow is not installed.
    """
    return _read([list_images(folder)], image_size("size", size), cache)[0]


def read_split_folder(
    folder: str | os.PathLike[str],
    size: tuple[int, int],
    *,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[ImageSet, ImageSet]:
    """Training and test part, ``folder/train/CLASS/*`` and ``folder/test/CLASS/*``.

    Without a folder ``test`` the test part is ``folder/val``.  See :func:`read_image_folder`; both
    parts are in one cache.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: the parts have different classes, and as for :func:`read_image_folder`.
        ImportError: Pillow is not installed.
    """
    folder = Path(folder)
    held_out = next((name for name in ("test", "val") if (folder / name).is_dir()), None)
    if held_out is None or not (folder / "train").is_dir():
        raise FileNotFoundError(
            f"{folder}: expected the folders {folder / 'train'} and {folder / 'test'} (or 'val'), "
            "each with one folder of images for each class"
        )
    parts = [list_images(folder / "train"), list_images(folder / held_out)]
    if parts[0].classes != parts[1].classes:
        one_sided = sorted(set(parts[0].classes) ^ set(parts[1].classes))
        raise ValueError(
            f"{folder}: got other classes in 'train' than in {held_out!r}, expected the same; only "
            f"one of them has {one_sided[:5]}"
        )
    train, test = _read(parts, image_size("size", size), cache)
    return train, test


def _read(
    parts: list[ImageFiles], size: tuple[int, int], cache: str | os.PathLike[str] | None
) -> list[ImageSet]:
    if cache is None:
        images = [_decode(part, size) for part in parts]
    else:
        source = fingerprint(parts, size)
        stored = read_cache(Path(cache), source)
        images = stored or [_decode(part, size) for part in parts]
        if stored is None:
            write_cache(Path(cache), source, images)
    return [
        ImageSet(found, part.labels, part.classes)
        for found, part in zip(images, parts, strict=True)
    ]


def _decode(files: ImageFiles, size: tuple[int, int]) -> np.ndarray:
    pillow()  # said once and at once if it is missing
    images = np.empty((len(files.names), *size, 3), np.uint8)

    def decode_chunk(first: int) -> None:
        for i in range(first, min(first + _CHUNK, len(images))):
            image = read_rgb(files.folder / files.names[i])
            images[i] = pixels(centre_crop(cover(image, size), size))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        tasks = [pool.submit(decode_chunk, first) for first in range(0, len(images), _CHUNK)]
        try:
            for task in tasks:  # in order: the first damaged image is named, whoever finds it
                task.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return images
