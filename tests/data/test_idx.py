"""The idx format: every type, both spellings, compressed or not, and what is wrong with a file."""

import gzip
import struct

import numpy as np
import pytest

from metricflow.data import FASHION_CLASSES, MNIST_CLASSES, read_idx, read_idx_images

from .files import CODES, idx_bytes, write_idx, write_mnist


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (0, 5)])
@pytest.mark.parametrize("code", list(CODES))
def test_every_type_comes_back(tmp_path, rng, code, shape, ending):
    array = np.asarray(100 * rng.standard_normal(shape)).astype(np.int8).astype(code)
    array = array + np.asarray(0.25, code) if code[0] == "f" else array * np.asarray(1, code)
    path = tmp_path / f"array{ending}"
    write_idx(path, np.asarray(array, code))
    found = read_idx(path)
    assert found.dtype == np.dtype(code)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array, strict=True)


def test_the_bytes_are_those_of_the_description(tmp_path):
    (tmp_path / "a").write_bytes(bytes([0, 0, 0x0B, 2, 0, 0, 0, 1, 0, 0, 0, 2, 1, 2, 255, 254]))
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), [[258, -2]])


@pytest.mark.parametrize(("spelling", "ending"), [("-idx", ""), (".idx", ""), ("-idx", ".gz")])
def test_a_folder_comes_back(tmp_path, rng, spelling, ending):
    arrays = write_mnist(tmp_path / "mnist", rng, spelling, ending)
    parts = read_idx_images(tmp_path / "mnist", FASHION_CLASSES)
    for part, (images, labels) in zip(parts, arrays, strict=True):
        np.testing.assert_array_equal(part.images, images[..., None], strict=True)
        np.testing.assert_array_equal(part.labels, labels.astype(np.int32), strict=True)
        assert part.classes == FASHION_CLASSES


def test_the_names_of_the_classes():
    assert (len(FASHION_CLASSES), len(set(FASHION_CLASSES))) == (10, 10)
    assert MNIST_CLASSES[7] == "7"


CONTENT = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "first bytes ''"),
        (b"\0\0\x08", "first bytes '00 00 08'"),
        (b"\x01" + CONTENT[1:], "first bytes '01 00 08 03', expected an idx file"),
        (CONTENT[:2] + b"\x0a" + CONTENT[3:], "type code 0a, expected one of 08, 09"),
        (CONTENT[:-1], r"39 bytes, expected 40 for uint8 of shape \(2, 3, 4\); the file is cut"),
        (CONTENT + b"\0", "41 bytes, expected 40"),
        (CONTENT[:9], "9 bytes"),
        (CONTENT[:4], "4 bytes"),
        (struct.pack(">BBBBII", 0, 0, 14, 2, 2**32 - 1, 2**32 - 1), "12 bytes, expected 1475"),
        (b"\x1f\x8b" + CONTENT, "cannot be unpacked by gzip"),
        (gzip.compress(CONTENT, mtime=0)[:-9], "cannot be unpacked by gzip"),
        (gzip.compress(CONTENT[:-1], mtime=0), "39 bytes, expected 40"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    (tmp_path / "array").write_bytes(content)
    with pytest.raises(ValueError, match=f"array: .*{message}"):
        read_idx(tmp_path / "array")


def test_noise_in_a_compressed_file_is_an_error(tmp_path, rng):
    content = gzip.compress(idx_bytes(rng.integers(0, 256, (20, 5), np.uint8)), mtime=0)
    for place in range(10, len(content), 5):
        bad = bytearray(content)
        bad[place] ^= 0x55
        (tmp_path / "array").write_bytes(bad)
        with pytest.raises(ValueError, match="array"):
            read_idx(tmp_path / "array")


def test_images_and_labels_have_to_fit(tmp_path, rng):
    folder = tmp_path / "mnist"
    write_mnist(folder, rng)
    labels = folder / "t10k-labels-idx1-ubyte"
    images = folder / "t10k-images-idx3-ubyte"
    write_idx(labels, np.zeros(4, np.uint8))
    with pytest.raises(ValueError, match=r"labels.*shape \(4,\), expected uint8 of shape \(5,\)"):
        read_idx_images(folder, MNIST_CLASSES)
    write_idx(labels, np.full(5, 10, np.uint8))
    with pytest.raises(ValueError, match="labels up to 10, expected 0 to 9"):
        read_idx_images(folder, MNIST_CLASSES)
    write_idx(labels, np.zeros(5, np.int32))
    with pytest.raises(ValueError, match=r"labels.*int32"):
        read_idx_images(folder, MNIST_CLASSES)
    write_idx(images, np.zeros(5, np.uint8))
    with pytest.raises(ValueError, match=r"images.*shape \(5,\), expected images"):
        read_idx_images(folder, MNIST_CLASSES)


def test_a_missing_file_is_named(tmp_path, rng):
    write_mnist(tmp_path / "mnist", rng)
    (tmp_path / "mnist/train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="got no train-labels-idx1-ubyte, expected one of"):
        read_idx_images(tmp_path / "mnist", MNIST_CLASSES)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere")
