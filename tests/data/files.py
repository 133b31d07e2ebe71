"""Files in the formats that the readers take, written independently of them."""

import gzip
import pickle
import struct
from typing import ClassVar

import numpy as np
from PIL import Image

CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


class Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2 wrote it: strings of bytes, and NumPy under its old names."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def __init__(self, file):
        super().__init__(file, protocol=2, fix_imports=True)

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{name or value.__qualname__}\n".encode())
        self.memoize(value)

    dispatch[bytes] = save_bytes
    dispatch[type] = save_global
    dispatch[type(len)] = save_global
    dispatch[type(struct.pack)] = save_global
    dispatch[type(lambda: 0)] = save_global


def write_pickle(path, content):
    with path.open("wb") as file:
        Python2Pickler(file).dump(content)


def cifar_batch(rng, count, classes, key=b"labels"):
    return {
        b"batch_label": b"a batch",
        key: [int(label) for label in rng.integers(0, classes, count)],
        b"data": rng.integers(0, 256, (count, 3072), np.uint8),
        b"filenames": [b"name_%d.png" % i for i in range(count)],
    }


def write_cifar10(folder, rng, count=7):
    folder.mkdir(parents=True)
    names = [b"class %d" % i for i in range(10)]
    write_pickle(folder / "batches.meta", {b"label_names": names, b"num_vis": 3072})
    batches = {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batches[name] = cifar_batch(rng, count, 10)
        write_pickle(folder / name, batches[name])
    return batches


def write_cifar100(folder, rng, count=9):
    folder.mkdir(parents=True)
    meta = {
        b"fine_label_names": [b"fine %d" % i for i in range(100)],
        b"coarse_label_names": [b"coarse %d" % i for i in range(20)],
    }
    write_pickle(folder / "meta", meta)
    batches = {}
    for name in ("train", "test"):
        batches[name] = cifar_batch(rng, count, 100, b"fine_labels")
        batches[name][b"coarse_labels"] = [0] * count
        write_pickle(folder / name, batches[name])
    return batches


def idx_bytes(array):
    header = struct.pack(">BBBB", 0, 0, CODES[array.dtype.str[1:]], array.ndim)
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return header + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(path, array):
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, rng, spelling="-idx", ending=""):
    folder.mkdir(parents=True)
    arrays = []
    for part, count in (("train", 12), ("t10k", 5)):
        images = rng.integers(0, 256, (count, 6, 4), np.uint8)
        labels = rng.integers(0, 10, count).astype(np.uint8)
        write_idx(folder / f"{part}-images{spelling}3-ubyte{ending}", images)
        write_idx(folder / f"{part}-labels{spelling}1-ubyte{ending}", labels)
        arrays.append((images, labels))
    return arrays


def write_images(folder, rng, counts, shape=(8, 8), ending="png"):
    """One folder for each class; returns the pixels in the order in which they are to be read."""
    written = []
    for name, count in sorted(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.{ending}")
            written.append(pixels)
    return written
