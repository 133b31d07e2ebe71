"""Data sets by name: how they are read, which files that takes and where those are from."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import _checks
from .cifar import (
    CIFAR10_FILES,
    CIFAR10_FOLDER,
    CIFAR100_FILES,
    CIFAR100_FOLDER,
    read_cifar10,
    read_cifar100,
)
from .decode import image_size
from .idx import FASHION_CLASSES, IDX_FILES, MNIST_CLASSES, read_idx_images
from .image_folder import read_split_folder
from .image_set import ImageSet, stratified_split

Split = tuple[ImageSet, ImageSet]
_DIGITS_TEST = 360  # a fifth of 1797 images
_FOLDER_SIZE = (32, 32)


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before it is read.

    Attributes:
        classes: how many; None if that depends on the folder.
        shape: (height, width, channels) of an image.
        folders: where it is looked for, in this order, if no folder is given.
        files: one sentence that says which files to put where, and where they are from.
        reader: folder, size and cache to training and test part.
    """

    classes: int | None
    shape: tuple[int, int, int]
    folders: tuple[str, ...]
    files: str
    reader: Callable[[Path, tuple[int, int], Path | None], Split]


def load(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    size: tuple[int, int] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Split:
    """Training and test part of a data set.

    Args:
        name: one of :data:`DATA_SETS`.
        folder: where its files are; left out, the folders that the catalogue names.
        size: (height, width) of the images, for "image_folder" alone, 32 x 32 if left out.
        cache: a file for decoded images, which "image_folder" reads the next time; the other data
            sets need none and make none.

    Raises:
        FileNotFoundError: files are missing; it says which, and where they are from.
        ValueError: an unknown name, or damaged files.
    """
    _checks.one_of("name", name, DATA_SETS)
    entry = DATA_SETS[name]
    if size is not None and name != "image_folder":
        raise ValueError(
            f"size: got {size}, but images of {name!r} have {entry.shape[:2]}; omit it"
        )
    height, width = entry.shape[:2] if size is None else image_size("size", size)
    known = [Path(path) for path in entry.folders]
    place = Path(folder) if folder is not None else _first_folder(known)
    try:
        return entry.reader(place, (height, width), None if cache is None else Path(cache))
    except FileNotFoundError as error:
        several = folder is None and len(known) > 1
        tried = f" (looked in {', '.join(map(str, known))})" if several else ""
        raise FileNotFoundError(
            f"{name}: {error}{tried}; {entry.files}; give another folder by "
            f"load({name!r}, folder=...)"
        ) from None


def _first_folder(folders: list[Path]) -> Path:
    return next((folder for folder in folders if folder.is_dir()), folders[-1])


def _digits(folder: Path, size: tuple[int, int], cache: Path | None) -> Split:
    from sklearn.datasets import load_digits  # here: it is slow to import

    images, labels = load_digits(return_X_y=True)
    pixels = (15 * images).astype(np.uint8).reshape(-1, 8, 8, 1)  # 0 to 16 become 0 to 240
    everything = ImageSet(pixels, labels.astype(np.int32), MNIST_CLASSES)
    return stratified_split(everything, _DIGITS_TEST, 0)


def _idx(classes: tuple[str, ...]) -> Callable[[Path, tuple[int, int], Path | None], Split]:
    return lambda folder, size, cache: read_idx_images(folder, classes)


_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_IDX_NAMES = ", ".join(IDX_FILES)

DATA_SETS: dict[str, DataSet] = {
    "cifar10": DataSet(
        10,
        (32, 32, 3),
        ("data",),
        f"put the folder {CIFAR10_FOLDER} with {', '.join(CIFAR10_FILES)} there, from "
        f"cifar-10-python.tar.gz of {_CIFAR_PAGE}",
        lambda folder, size, cache: read_cifar10(folder),
    ),
    "cifar100": DataSet(
        100,
        (32, 32, 3),
        ("data",),
        f"put the folder {CIFAR100_FOLDER} with {', '.join(CIFAR100_FILES)} there, from "
        f"cifar-100-python.tar.gz of {_CIFAR_PAGE}",
        lambda folder, size, cache: read_cifar100(folder),
    ),
    "fashion_mnist": DataSet(
        10,
        (28, 28, 1),
        ("/usr/share/datasets/fashion-mnist", "data/fashion_mnist"),
        f"put {_IDX_NAMES} (with or without .gz) there, from "
        "https://github.com/zalandoresearch/fashion-mnist, or on Debian and its relatives "
        "apt-get install dataset-fashion-mnist",
        _idx(FASHION_CLASSES),
    ),
    "mnist": DataSet(
        10,
        (28, 28, 1),
        ("data/mnist",),
        f"put {_IDX_NAMES} (with or without .gz) there, from http://yann.lecun.com/exdb/mnist/",
        _idx(MNIST_CLASSES),
    ),
    "digits": DataSet(
        10, (8, 8, 1), (".",), "it comes with scikit-learn and needs no file", _digits
    ),
    "image_folder": DataSet(
        None,
        (*_FOLDER_SIZE, 3),
        ("data/image_folder",),
        "put images of your own there as train/CLASS/NAME.jpg and test/CLASS/NAME.jpg (or val in "
        "place of test), with the same classes in both",
        lambda folder, size, cache: read_split_folder(folder, size, cache=cache),
    ),
}
