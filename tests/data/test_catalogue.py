"""Data sets by name, and what is said when their files are missing."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from metricflow import data
from metricflow.data import DATA_SETS, load

from .files import write_cifar10, write_cifar100, write_images, write_mnist


def write(name, folder, rng):
    if name == "cifar10":
        write_cifar10(folder / "cifar-10-batches-py", rng)
    elif name == "cifar100":
        write_cifar100(folder / "cifar-100-python", rng)
    elif name == "image_folder":
        for part in ("train", "test"):
            write_images(folder / part, rng, {"a": 2, "b": 2}, (40, 40))
    elif name != "digits":
        write_mnist(folder, rng)


@pytest.mark.parametrize("name", list(DATA_SETS))
def test_every_data_set_is_read_from_the_files_it_asks_for(name, tmp_path, rng):
    write(name, tmp_path / "files", rng)
    entry = DATA_SETS[name]
    for part in load(name, tmp_path / "files"):
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int32)
        assert len(part.images) == len(part.labels) > 0
        assert entry.classes in (None, len(part.classes))
        if "mnist" not in name:  # those written here are smaller
            assert part.images.shape[1:] == entry.shape


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name != "digits"])
def test_missing_files_are_named_with_where_they_are_from(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        load(name, tmp_path / "nowhere")
    text = str(caught.value)
    assert text.startswith(f"{name}: {tmp_path / 'nowhere'}")
    assert DATA_SETS[name].files in text
    assert f"load({name!r}, folder=...)" in text
    if name not in ("image_folder", "fashion_mnist"):
        with pytest.raises(FileNotFoundError, match=f"{name}: {DATA_SETS[name].folders[0]}"):
            load(name)


def test_what_is_said_names_files_and_pages():
    for name, words in {
        "cifar10": ("cifar-10-batches-py", "data_batch_5", "cs.toronto.edu/~kriz/cifar.html"),
        "cifar100": ("cifar-100-python", "meta", "cs.toronto.edu/~kriz/cifar.html"),
        "fashion_mnist": ("t10k-labels-idx1-ubyte", "zalandoresearch", "dataset-fashion-mnist"),
        "mnist": ("train-images-idx3-ubyte", "yann.lecun.com"),
        "image_folder": ("train/CLASS/", "test/CLASS/"),
    }.items():
        assert all(word in DATA_SETS[name].files for word in words)


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name not in ("digits",)])
def test_folders_of_the_catalogue_are_tried_in_order(name, tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = DATA_SETS[name].folders[-1]
    assert not own.startswith("/")
    entry = data.DataSet(**{**vars(DATA_SETS[name]), "folders": ("absent", own)})
    monkeypatch.setitem(DATA_SETS, name, entry)
    with pytest.raises(FileNotFoundError, match=rf"looked in absent, {own}"):
        load(name)
    write(name, tmp_path / own, rng)
    assert len(load(name)[0].images) > 0


def test_digits_are_those_of_scikit_learn():
    train, test = load("digits")
    assert train.images.shape == (1437, 8, 8, 1)
    assert test.images.shape == (360, 8, 8, 1)
    everything = np.concatenate([train.images, test.images])
    assert everything.max() == 240
    images, labels = load_digits(return_X_y=True)
    known = {tuple(image): label for image, label in zip(images, labels, strict=True)}
    assert len(known) == 1797
    for part in (train, test):
        for image, label in zip(part.images, part.labels, strict=True):
            assert known.pop(tuple(image.reshape(64) / 15)) == label
    assert not known
    assert np.all(np.abs(np.bincount(test.labels) - 36) <= 1)
    np.testing.assert_array_equal(load("digits")[1].images, test.images)


def test_a_folder_of_images_takes_a_size_and_a_cache(tmp_path, rng):
    write("image_folder", tmp_path / "files", rng)
    cache = tmp_path / "cache.npz"
    train, _ = load("image_folder", tmp_path / "files", size=(40, 40), cache=cache)
    assert train.images.shape == (4, 40, 40, 3)
    assert cache.exists()
    with pytest.raises(ValueError, match=r"size: got \(8, 8\), but images of 'mnist'"):
        load("mnist", size=(8, 8))


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"name: expected one of .*'cifar10'.*got 'cifar'"):
        load("cifar")


def test_the_room_is_light():
    """Nothing slow is loaded and no backend of jax started before it is needed."""
    code = (
        "import metricflow.data, sys\n"
        "assert not {'PIL', 'sklearn'} & set(sys.modules)\n"
        "from jax._src import xla_bridge\nassert not xla_bridge._backends\n"
        "assert len(set(metricflow.data.__all__)) == len(metricflow.data.__all__)\n"
        "assert all(hasattr(metricflow.data, name) for name in metricflow.data.__all__)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
