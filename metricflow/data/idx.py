"""The idx format of MNIST and of the data sets that took it over."""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from .image_set import ImageSet

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
MNIST_CLASSES = tuple(str(digit) for digit in range(10))
IDX_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: str | os.PathLike[str]) -> Shaped[np.ndarray, "..."]:
    """The array of an idx file, compressed by gzip or not, in the byte order of the machine.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, an unknown type of numbers, too few or too many bytes.
    """
    content = _content(Path(path))
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(
            f"{path}: got the first bytes {content[:4].hex(' ')!r}, expected an idx file, which "
            "starts with 00 00; download it again"
        )
    if content[2] not in _TYPES:
        known = ", ".join(f"{code:02x}" for code in _TYPES)
        raise ValueError(
            f"{path}: got the type code {content[2]:02x}, expected one of {known}; download it "
            "again"
        )
    dtype, start = np.dtype(_TYPES[content[2]]), 4 * (1 + content[3])
    # a header that is cut off has fewer sizes than it announces
    shape = [int.from_bytes(content[i : i + 4]) for i in range(4, min(start, len(content)), 4)]
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise ValueError(
            f"{path}: got {len(content)} bytes, expected {expected} for {dtype.name} of shape "
            f"{tuple(shape)}; the file is cut off or damaged, download it again"
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def read_idx_images(
    folder: str | os.PathLike[str], classes: tuple[str, ...]
) -> tuple[ImageSet, ImageSet]:
    """Training and test part of a data set in the layout of MNIST, images of shape (N, H, W, 1).

    Args:
        folder: with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
            ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, each with or without
            ``.gz``; ``.idx`` in place of ``-idx`` is found too.
        classes: what the labels mean, such as :data:`FASHION_CLASSES`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or images and labels do not fit together.
    """
    paths = [_found(Path(folder), name) for name in IDX_FILES]
    return _part(paths[0], paths[1], classes), _part(paths[2], paths[3], classes)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: cannot be unpacked by gzip ({error}); download it again"
        ) from None


def _found(folder: Path, name: str) -> Path:
    spellings = [
        spelling + ending
        for spelling in (name, name.replace("-idx", ".idx"))
        for ending in ("", ".gz")
    ]
    for spelling in spellings:
        if (folder / spelling).is_file():
            return folder / spelling
    raise FileNotFoundError(f"{folder}: got no {name}, expected one of {', '.join(spellings)}")


def _part(image_path: Path, label_path: Path, classes: tuple[str, ...]) -> ImageSet:
    images, labels = read_idx(image_path), read_idx(label_path)
    if images.dtype != np.uint8 or images.ndim != 3 or images.size == 0:
        raise ValueError(
            f"{image_path}: got {images.dtype} of shape {images.shape}, expected images: uint8 of "
            "shape (N, H, W); put the right file there"
        )
    if labels.dtype != np.uint8 or labels.shape != (len(images),):
        raise ValueError(
            f"{label_path}: got {labels.dtype} of shape {labels.shape}, expected uint8 of shape "
            f"({len(images)},), a label for each image of {image_path.name}; put the right file "
            "there"
        )
    if labels.max() >= len(classes):
        raise ValueError(
            f"{label_path}: got labels up to {labels.max()}, expected 0 to {len(classes) - 1} for "
            f"{len(classes)} classes; put the right file there or name all classes"
        )
    return ImageSet(images[..., None], labels.astype(np.int32), classes)
