"""Folders of image files: exact where nothing is resized, sorted, cached, and damaged."""

import builtins
import contextlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from metricflow.data import image_folder, read_image_folder, read_split_folder

from .files import write_images

COUNTS = {"b": 3, "a": 2, "C": 1}


@pytest.fixture
def split(tmp_path, rng):
    train = write_images(tmp_path / "set/train", rng, COUNTS)
    test = write_images(tmp_path / "set/test", rng, COUNTS)
    return tmp_path / "set", np.stack(train), np.stack(test)


def test_a_folder_comes_back_in_order(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(image_folder, "_CHUNK", 2)
    written = write_images(tmp_path / "set", rng, COUNTS)
    (tmp_path / "set/a/notes.txt").write_text("no image")
    (tmp_path / "set/a/._000.png").write_text("no image")
    (tmp_path / "set/.hidden").mkdir()
    (tmp_path / "set/list.csv").write_text("no class")
    found = read_image_folder(tmp_path / "set", (8, 8))
    np.testing.assert_array_equal(found.images, np.stack(written), strict=True)
    np.testing.assert_array_equal(found.labels, np.array([0, 1, 1, 2, 2, 2], np.int32), strict=True)
    assert found.classes == ("C", "a", "b")


@pytest.mark.parametrize("ending", ["bmp", "ppm", "PNG", "tiff"])
def test_formats_without_loss_are_exact(tmp_path, rng, ending):
    written = write_images(tmp_path / "set", rng, {"a": 2}, ending=ending)
    found = read_image_folder(tmp_path / "set", (8, 8))
    np.testing.assert_array_equal(found.images, np.stack(written))


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def test_jpegs_and_other_modes_become_rgb(tmp_path, rng):
    folder = tmp_path / "set/a"
    ramp = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 6
    save(Image.fromarray(ramp), folder / "0.jpg")
    save(Image.fromarray(ramp), folder / "1.png")
    palette = Image.fromarray(ramp).convert("P")
    palette.info["transparency"] = bytes(range(256))
    save(palette, folder / "2.png")
    save(Image.fromarray(np.stack([ramp] * 4, -1), "RGBA"), folder / "3.png")
    found = read_image_folder(tmp_path / "set", (16, 16)).images
    for image, bound in zip(found, (8, 0, 0, 0), strict=True):
        assert np.max(np.abs(image.astype(int) - ramp[..., None])) <= bound


@pytest.mark.parametrize(
    ("shape", "size", "window"),
    [
        ((16, 16), (8, 8), np.s_[:, :]),
        ((16, 32), (8, 8), np.s_[:, 4:12]),
        ((32, 16), (8, 8), np.s_[4:12, :]),
        ((16, 16), (8, 4), np.s_[:, 2:6]),
        ((16, 16), (4, 8), np.s_[2:6, :]),
        ((8, 12), (8, 8), np.s_[:, 2:10]),
    ],
)
def test_other_sizes_are_covered_and_cut_in_the_middle(tmp_path, shape, size, window):
    """A linear ramp stays one when resized, up to the rounding and away from the edges."""
    rows, columns = np.indices(shape)
    picture = (4 * rows + 3 * columns).astype(np.uint8)
    save(Image.fromarray(picture), tmp_path / "set/a/0.png")
    found = read_image_folder(tmp_path / "set", size).images[0, ..., 0].astype(float)
    assert found.shape == size
    shrink = max(1, min(shape[0] // size[0], shape[1] // size[1]))
    whole = picture.reshape(shape[0] // shrink, shrink, shape[1] // shrink, shrink).mean((1, 3))
    expected = whole[window]
    np.testing.assert_allclose(found[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1.5)


def test_an_image_that_is_too_small_is_enlarged(tmp_path):
    save(Image.fromarray(np.full((2, 3), 77, np.uint8)), tmp_path / "set/a/0.png")
    found = read_image_folder(tmp_path / "set", (8, 8))
    np.testing.assert_array_equal(found.images, np.full((1, 8, 8, 3), 77, np.uint8), strict=True)


def test_both_parts_come_back(split, tmp_path):
    folder, train, test = split
    for name in ("test", "val"):
        found = read_split_folder(folder, (8, 8))
        np.testing.assert_array_equal(found[0].images, train)
        np.testing.assert_array_equal(found[1].images, test)
        assert found[0].classes == found[1].classes == ("C", "a", "b")
        if name == "test":
            (folder / "test").rename(folder / "val")


@pytest.fixture
def decoded(monkeypatch):
    """How many images were decoded so far."""
    seen = []
    read = image_folder.read_rgb
    monkeypatch.setattr(image_folder, "read_rgb", lambda path: (seen.append(path), read(path))[1])
    return seen


def test_the_cache_is_read_as_long_as_the_files_are_the_same(split, tmp_path, decoded, rng):
    folder, train, test = split
    cache = tmp_path / "somewhere/new/cache.npz"
    first = read_split_folder(folder, (8, 8), cache=cache)
    assert len(decoded) == 12
    again = read_split_folder(folder, (8, 8), cache=cache)
    assert len(decoded) == 12
    for part, other, pixels in zip(first, again, (train, test), strict=True):
        for x, y in zip(part, other, strict=True):
            np.testing.assert_array_equal(x, y, strict=True)
        np.testing.assert_array_equal(other.images, pixels, strict=True)
    assert [path.name for path in cache.parent.iterdir()] == ["cache.npz"]
    assert read_split_folder(folder, (4, 4), cache=cache)[0].images.shape == (6, 4, 4, 3)
    assert len(decoded) == 24  # another size
    extra = rng.integers(0, 256, (8, 8, 3), np.uint8)
    save(Image.fromarray(extra), folder / "test/C/zzz.png")
    found = read_split_folder(folder, (4, 4), cache=cache)[1]
    assert (len(decoded), len(found.images)) == (37, 7)  # another list of files
    save(Image.fromarray(np.zeros_like(extra)), folder / "test/C/zzz.png")
    found = read_split_folder(folder, (4, 4), cache=cache)[1]
    assert len(decoded) == 50  # a file of another size
    np.testing.assert_array_equal(found.images[1], 0)
    (folder / "test/C/zzz.png").rename(folder / "test/C/yyy.png")
    read_split_folder(folder, (4, 4), cache=cache)
    assert len(decoded) == 63  # another name
    read_image_folder(folder / "test", (4, 4), cache=cache)
    assert len(decoded) == 70  # one part is not two


def test_a_cache_of_something_else_is_left_alone(split, tmp_path):
    folder, _, _ = split
    cache = tmp_path / "cache.npz"
    read_split_folder(folder, (8, 8), cache=cache)
    half = cache.read_bytes()[: cache.stat().st_size // 2]
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    np.savez(tmp_path / "source.npz", source=np.array("elsewhere"))
    np.save(tmp_path / "array.npy", np.arange(3))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("text", "text")
    kinds = [(tmp_path / name).read_bytes() for name in ("other.npz", "source.npz", "array.npy")]
    for content in (*kinds, (tmp_path / "other.zip").read_bytes(), half, b"text", b""):
        cache.write_bytes(content)
        with pytest.raises(ValueError, match=r"cache.npz: not a cache of images, or damaged"):
            read_split_folder(folder, (8, 8), cache=cache)
        assert cache.read_bytes() == content


def test_noise_in_a_cache_is_an_error_or_decodes_again(split, tmp_path, rng):
    folder, train, test = split
    cache = tmp_path / "cache.npz"
    read_split_folder(folder, (8, 8), cache=cache)
    content = cache.read_bytes()
    for place in [*range(0, 400, 7), *rng.integers(len(content), size=40)]:
        bad = bytearray(content)
        bad[place] ^= 0xFF
        cache.write_bytes(bad)
        with contextlib.suppress(ValueError):
            found = read_split_folder(folder, (8, 8), cache=cache)
            np.testing.assert_array_equal(found[0].images, train, strict=True)
            np.testing.assert_array_equal(found[1].images, test, strict=True)


def test_a_cache_appears_only_when_complete(split, tmp_path, monkeypatch):
    def fail(file, **_):
        file.write(b"half of it")
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(np, "savez", fail)
    (tmp_path / "caches").mkdir()
    with pytest.raises(OSError, match="no space"):
        read_split_folder(split[0], (8, 8), cache=tmp_path / "caches/cache.npz")
    assert list((tmp_path / "caches").iterdir()) == []


def damage(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(b"<html>not found</html>")


@pytest.mark.parametrize("how", ["cut", "empty", "text"])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_damaged_image_is_named(tmp_path, rng, ending, how, monkeypatch):
    monkeypatch.setattr(image_folder, "_CHUNK", 2)
    write_images(tmp_path / "set", rng, {"a": 3, "b": 4}, (32, 32), ending)
    damage(tmp_path / f"set/b/001.{ending}", how)
    damage(tmp_path / f"set/b/003.{ending}", how)
    cache = tmp_path / "cache.npz"
    with pytest.raises(ValueError, match=rf"b/001\.{ending}: not an image .*damaged") as caught:
        read_image_folder(tmp_path / "set", (32, 32), cache=cache)
    assert str(tmp_path) in str(caught.value)
    assert not cache.exists()


def test_wide_pixels_are_refused_instead_of_clipped(tmp_path):
    save(Image.fromarray(np.full((4, 4), 300, np.uint16)), tmp_path / "set/a/0.png")
    with pytest.raises(ValueError, match=r"0\.png: got pixels of mode I;16, expected 8 bits"):
        read_image_folder(tmp_path / "set", (4, 4))


def test_folders_that_do_not_fit_are_refused(split, tmp_path, rng):
    folder, _, _ = split
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        read_image_folder(tmp_path / "nowhere", (8, 8))
    with pytest.raises(FileNotFoundError, match=r"expected the folders .*train and .*test"):
        read_split_folder(folder / "train", (8, 8))
    write_images(folder / "test", rng, {"other": 1})
    with pytest.raises(ValueError, match=r"got other classes in 'train' than in 'test'.*'other'"):
        read_split_folder(folder, (8, 8))
    (folder / "train/hollow").mkdir()
    with pytest.raises(ValueError, match="hollow: got no images"):
        read_image_folder(folder / "train", (8, 8))
    with pytest.raises(ValueError, match="a: got no folders"):
        read_image_folder(folder / "train/a", (8, 8))


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("size", [8, (8,), (8, 0), (8.0, 8.0), (8, True), "88", (8, 8, 3)])
def test_a_size_is_two_integers(split, size):
    with pytest.raises(ValueError, match=r"size: (got .*expected \(height, width\)|expected a t)"):
        read_image_folder(split[0] / "train", size)


def test_without_pillow_it_says_what_to_install(split, monkeypatch):
    importer = builtins.__import__

    def no_pillow(name, *arguments, **options):
        if name.startswith("PIL"):
            raise ImportError("No module named 'PIL'")
        return importer(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", no_pillow)
    with pytest.raises(ImportError, match=r"No module named 'PIL'.*pip install pillow"):
        read_image_folder(split[0] / "train", (8, 8))
