"""CIFAR-10 and CIFAR-100 from the files of their "python version", which are pickles.

A pickle may run any code.  These are read by an unpickler to which three names mean something:
the three that an array of bytes is made of, and here they make plain data of this module.
"""

import io
import math
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .image_set import ImageSet

CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
CIFAR100_FOLDER = "cifar-100-python"
CIFAR100_FILES = ("train", "test", "meta")
_SIDE = 32
_PIXELS = 3 * _SIDE**2


def read_cifar10(folder: str | os.PathLike[str]) -> tuple[ImageSet, ImageSet]:
    """Training and test part of CIFAR-10 (50,000 and 10,000 images of 32 x 32, 10 classes).

    Args:
        folder: ``cifar-10-batches-py`` as it comes out of the archive, or the folder around it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file that holds something else, or is damaged.
    """
    folder = _found(Path(folder), CIFAR10_FOLDER, CIFAR10_FILES)
    classes = _classes(folder / "batches.meta", b"label_names")
    batches = [_batch(folder / name, b"labels", classes) for name in CIFAR10_FILES[:5]]
    images = np.concatenate([batch.images for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    return ImageSet(images, labels, classes), _batch(folder / "test_batch", b"labels", classes)


def read_cifar100(folder: str | os.PathLike[str]) -> tuple[ImageSet, ImageSet]:
    """Training and test part of CIFAR-100, with the 100 fine labels.

    Args:
        folder: ``cifar-100-python`` as it comes out of the archive, or the folder around it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file that holds something else, or is damaged.
    """
    folder = _found(Path(folder), CIFAR100_FOLDER, CIFAR100_FILES)
    classes = _classes(folder / "meta", b"fine_label_names")
    train, test = (_batch(folder / name, b"fine_labels", classes) for name in ("train", "test"))
    return train, test


def _found(folder: Path, name: str, files: tuple[str, ...]) -> Path:
    inner = folder / name if (folder / name).is_dir() else folder
    missing = [file for file in files if not (inner / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{inner}: got no {', '.join(missing)}, expected the files of {name}; unpack the "
            "archive there"
        )
    return inner


def _classes(path: Path, key: bytes) -> tuple[str, ...]:
    names = _entry(path, _unpickle(path), key)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise ValueError(f"{path}: expected a list of names as {key.decode()!r}; unpack it again")
    try:
        return tuple(name.decode() for name in names)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a name is damaged ({error}); unpack it again") from None


def _batch(path: Path, key: bytes, classes: tuple[str, ...]) -> ImageSet:
    content = _unpickle(path)
    data, labels = _entry(path, content, b"data"), _entry(path, content, key)
    shape, rows = getattr(data, "shape", None), getattr(data, "array", None)
    if rows is None or rows.ndim != 2 or rows.shape[1] != _PIXELS or not len(rows):
        raise ValueError(
            f"{path}: got data of shape {shape}, expected bytes of shape (N, {_PIXELS}); "
            "unpack the archive again"
        )
    whole = isinstance(labels, list) and all(type(label) is int for label in labels)
    if not whole or len(labels) != len(rows):
        got = f"{len(labels)} of them" if whole else "something else"
        raise ValueError(
            f"{path}: expected {len(rows)} integers as {key.decode()!r}, one for each image, got "
            f"{got}; unpack the archive again"
        )
    if min(labels) < 0 or max(labels) >= len(classes):
        raise ValueError(
            f"{path}: got labels {min(labels)} to {max(labels)}, expected 0 to {len(classes) - 1} "
            f"for {len(classes)} classes; unpack the archive again"
        )
    images = rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)  # a plane for each colour
    return ImageSet(np.ascontiguousarray(images), np.array(labels, np.int32), classes)


def _entry(path: Path, content: Any, key: bytes) -> Any:
    if not isinstance(content, dict) or key not in content:
        raise ValueError(
            f"{path}: got no entry {key.decode()!r}, expected a file of the official python "
            "version; unpack the archive again"
        )
    return content[key]


class _Array:
    """What a pickled array is read into; nothing of NumPy sees the file before it is checked."""

    shape: Any = None
    array: np.ndarray | None = None

    def __init__(self, *_: Any) -> None:
        """The class and the empty shape that NumPy begins with say nothing."""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, kind, column_major, content = state
        if not isinstance(kind, _Bytes) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of something else than bytes")
        if math.prod(self.shape) != len(content):
            raise pickle.UnpicklingError(f"{len(content)} bytes for shape {self.shape}")
        order: Literal["F", "C"] = "F" if column_major else "C"
        self.array = np.frombuffer(content, np.uint8).reshape(self.shape, order=order)


class _Bytes:
    """The dtype uint8."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in (b"u1", "u1"):
            raise pickle.UnpicklingError(f"an array of dtype {code!r}, expected uint8")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which bytes have not."""


_MEANINGS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # written again by a recent NumPy
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _MEANINGS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not let in")
        return _MEANINGS[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it asks for an object from elsewhere, which is not let in")


def _bounded(content: bytes) -> None:
    """Refuse lengths and places beyond the file, for which the unpickler would take memory."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name.endswith("PUT") and int(argument or 0) > count:
            raise pickle.UnpicklingError(f"place {argument} of {count} objects")


def _unpickle(path: Path) -> Any:
    content = path.read_bytes()
    try:
        _bounded(content)
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # damaged pickles raise whatever their bytes lead to
        raise ValueError(
            f"{path}: not a file of the official python version of CIFAR, or damaged ({error}); "
            "unpack the archive again"
        ) from None
