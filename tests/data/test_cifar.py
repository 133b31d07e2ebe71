"""CIFAR from small files in the official format: exact, and nothing in them is run."""

import contextlib
import os
import pickle
import tracemalloc

import numpy as np
import pytest

from metricflow.data import read_cifar10, read_cifar100

from .files import cifar_batch, write_cifar10, write_cifar100, write_pickle

TRAIN = [f"data_batch_{i}" for i in range(1, 6)]


def image(row):
    """Pixel by pixel, as the page of CIFAR says: planes of red, green, blue, row after row."""
    return [[[row[1024 * c + 32 * h + w] for c in range(3)] for w in range(32)] for h in range(32)]


@pytest.fixture
def cifar10(tmp_path, rng):
    folder = tmp_path / "cifar-10-batches-py"
    return folder, write_cifar10(folder, rng)


def test_the_files_of_cifar10_come_back(cifar10):
    folder, batches = cifar10
    for place in (folder, folder.parent, str(folder)):
        train, test = read_cifar10(place)
        assert train.images.shape == (35, 32, 32, 3)
        assert test.images.shape == (7, 32, 32, 3)
        assert train.classes == test.classes == tuple(f"class {i}" for i in range(10))
        for part, names in ((train, TRAIN), (test, ["test_batch"])):
            assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int32)
            assert part.images.flags.c_contiguous
            assert part.images.flags.writeable
            assert list(part.labels) == [x for name in names for x in batches[name][b"labels"]]
            rows = np.concatenate([batches[name][b"data"] for name in names])
            for i in (0, 3, len(rows) - 1):
                np.testing.assert_array_equal(part.images[i], image(rows[i]))


def test_the_fine_labels_of_cifar100_come_back(tmp_path, rng):
    folder = tmp_path / "cifar-100-python"
    batches = write_cifar100(folder, rng)
    for place in (folder, tmp_path):
        parts = read_cifar100(place)
        for part, name in zip(parts, ("train", "test"), strict=True):
            assert list(part.labels) == batches[name][b"fine_labels"]
            np.testing.assert_array_equal(part.images[2], image(batches[name][b"data"][2]))
            assert part.classes[99] == "fine 99"


def test_files_written_again_by_a_recent_python_are_read(cifar10):
    folder, batches = cifar10
    for name, batch in batches.items():
        (folder / name).write_bytes(pickle.dumps(batch, protocol=4))
    train, _ = read_cifar10(folder)
    np.testing.assert_array_equal(train.images[0], image(batches["data_batch_1"][b"data"][0]))


def test_arrays_stored_column_by_column_are_the_same(cifar10):
    folder, batches = cifar10
    batch = batches["test_batch"]
    row_after_row = (folder / "test_batch").read_bytes()
    write_pickle(folder / "test_batch", batch | {b"data": np.asfortranarray(batch[b"data"])})
    assert (folder / "test_batch").read_bytes() != row_after_row
    test = read_cifar10(folder)[1]
    np.testing.assert_array_equal(test.images[2], image(batch[b"data"][2]))
    assert test.images.flags.c_contiguous


class Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_a_pickle_that_runs_a_command_is_refused(cifar10, tmp_path, name, protocol):
    folder, mark = cifar10[0], tmp_path / "it ran"
    command = Payload(os.system, f"touch '{mark}'")
    (folder / name).write_bytes(pickle.dumps({1: command}, protocol=protocol))
    with pytest.raises(ValueError, match=rf"{name}: not a file of .*system, which is not let in"):
        read_cifar10(folder)
    assert not mark.exists()
    pickle.loads((folder / name).read_bytes())  # the payload does work
    assert mark.exists()


@pytest.mark.parametrize(
    "call",
    [
        Payload(eval, "1 + 1"),
        Payload(getattr, "text", "upper"),
        Payload(np.load, "file"),
        Payload(np.frombuffer, b"text", "u1"),
        Payload(__import__, "os"),
        Payload(bytearray, 10),
    ],
)
def test_only_arrays_of_bytes_and_plain_data_are_let_in(cifar10, call):
    folder, _ = cifar10
    (folder / "test_batch").write_bytes(pickle.dumps({1: call}, protocol=2))
    with pytest.raises(ValueError, match=r"test_batch: .*not let in"):
        read_cifar10(folder)


def test_names_below_an_allowed_module_are_not_let_in(cifar10):
    folder, _ = cifar10
    for line in (b"cnumpy\nload\n", b"cnumpy.core.multiarray\nfromfile\n", b"cnumpy\ndtype.type\n"):
        (folder / "test_batch").write_bytes(b"\x80\x04" + line + b".")
        with pytest.raises(ValueError, match=r"test_batch: .*not let in"):
            read_cifar10(folder)
    (folder / "test_batch").write_bytes(b"\x80\x02X\x01\x00\x00\x00aQ.")  # a persistent id
    with pytest.raises(ValueError, match="from elsewhere"):
        read_cifar10(folder)


def test_a_missing_file_is_named(cifar10, tmp_path):
    folder, _ = cifar10
    (folder / "data_batch_4").unlink()
    with pytest.raises(FileNotFoundError, match="cifar-10-batches-py: got no data_batch_4, exp"):
        read_cifar10(tmp_path)
    with pytest.raises(FileNotFoundError, match="got no train, test, meta, expected"):
        read_cifar100(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_cifar10(tmp_path / "nowhere")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_off_is_named(cifar10, share):
    folder, _ = cifar10
    content = (folder / "data_batch_2").read_bytes()
    (folder / "data_batch_2").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"data_batch_2: not a file .*damaged"):
        read_cifar10(folder)


def test_noise_is_never_more_than_an_error(cifar10, rng):
    folder, _ = cifar10
    path = folder / "test_batch"
    content = path.read_bytes()
    start = content.index(b"numpy.core") - 30  # around the names and the shape
    for _ in range(150):
        bad = bytearray(content)
        bad[int(rng.integers(start, start + 160))] = int(rng.integers(256))
        path.write_bytes(bad)
        with contextlib.suppress(ValueError):
            assert read_cifar10(folder)[1].images.shape[1:] == (32, 32, 3)


def test_a_length_beyond_the_file_takes_no_memory(cifar10):
    folder, _ = cifar10
    for content in (
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # the third object is kept at place 2^31 - 1
        b"\x80\x02Np2000000000\n.",
        b"\x80\x03B\xff\xff\xff\x7fabc.",  # 2^31 - 1 bytes follow
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00abc.",
    ):
        (folder / "test_batch").write_bytes(content)
        tracemalloc.start()
        with pytest.raises(ValueError, match="test_batch: not a file"):
            read_cifar10(folder)
        assert tracemalloc.get_traced_memory()[1] < 10**7
        tracemalloc.stop()


def change(**entries):
    return {name.encode(): value for name, value in entries.items()}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (change(labels=[0] * 6), "expected 7 integers as 'labels'.*got 6"),
        (change(labels=[0] * 6 + [10]), "labels 0 to 10, expected 0 to 9"),
        (change(labels=[-1] + [0] * 6), "labels -1 to 0"),
        (change(labels=[0.0] * 7), "something else"),
        (change(labels=b"0000000"), "something else"),
        (change(data=np.zeros((7, 3071), np.uint8)), r"shape \(7, 3071\), expected bytes"),
        (change(data=np.zeros((7, 3072), np.int16)), "dtype 'i2', expected uint8"),
        (change(data=np.zeros(3072, np.uint8)), r"shape \(3072,\)"),
        (change(data=np.zeros((0, 3072), np.uint8), labels=[]), r"shape \(0, 3072\)"),
        (change(data=[0] * 7), "shape None"),
        (change(data=np.array([{}], object)), "dtype 'O8', expected uint8"),
    ],
)
def test_content_that_does_not_fit_is_refused(cifar10, rng, entries, message):
    folder, _ = cifar10
    write_pickle(folder / "data_batch_5", cifar_batch(rng, 7, 10) | entries)
    with pytest.raises(ValueError, match=f"data_batch_5: .*{message}"):
        read_cifar10(folder)


def test_a_shape_that_its_bytes_do_not_fill_is_refused(cifar10):
    folder, _ = cifar10
    content = (folder / "test_batch").read_bytes()
    assert content.count(b"K\x07M\x00\x0c\x86") == 1  # (7, 3072)
    (folder / "test_batch").write_bytes(content.replace(b"M\x00\x0c\x86", b"M\x01\x0c\x86"))
    with pytest.raises(ValueError, match=r"21504 bytes for shape \(7, 3073\)"):
        read_cifar10(folder)


def test_other_keys_and_names_are_refused(cifar10, rng):
    folder, _ = cifar10
    write_pickle(folder / "test_batch", [1, 2])
    with pytest.raises(ValueError, match="test_batch: got no entry 'data'"):
        read_cifar10(folder)
    write_pickle(folder / "test_batch", cifar_batch(rng, 7, 10, b"fine_labels"))
    with pytest.raises(ValueError, match="test_batch: got no entry 'labels'"):
        read_cifar10(folder)
    write_pickle(folder / "batches.meta", {b"label_names": [1, 2]})
    with pytest.raises(ValueError, match=r"batches.meta: expected a list of names"):
        read_cifar10(folder)
