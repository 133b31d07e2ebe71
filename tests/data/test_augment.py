"""What is done to images on the device, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from metricflow.data import (
    ImageSet,
    channel_statistics,
    random_crop_and_flip,
    standardise,
    translate,
)

KEY = jax.random.key(8)


@pytest.fixture
def images(rng):
    return rng.integers(1, 256, (300, 6, 5, 3), np.uint8)


def test_standardised_images_have_mean_0_and_deviation_1(images):
    labels = np.zeros(len(images), np.int32)
    found = standardise(images, *channel_statistics(ImageSet(images, labels, ("a",))))
    assert found.dtype == jnp.float32
    wide = np.asarray(found, np.float64)
    np.testing.assert_allclose(wide.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(wide.std((0, 1, 2)), 1, atol=1e-6)


def test_each_channel_has_its_own_numbers(images):
    mean, std = np.array([0.1, 0.2, 0.3], np.float32), np.array([1, 2, 4], np.float32)
    expected = (images.astype(np.float64) / 255 - mean) / std
    for function in (standardise, jax.jit(standardise)):
        np.testing.assert_allclose(function(images, mean, std), expected, atol=1e-6)


@pytest.mark.usefixtures("as_user")
def test_what_cannot_be_standardised_is_refused(images):
    mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
    with pytest.raises(ValueError, match="images: got float32, expected uint8"):
        standardise(images.astype(np.float32), mean, std)
    with pytest.raises(ValueError, match=r"images: got uint8 of shape \(6, 5, 3\)"):
        standardise(images[0], mean, std)
    with pytest.raises(ValueError, match="images: got int32"):
        standardise(images.astype(np.int32), mean, std)
    with pytest.raises(ValueError, match=r"mean: got shape \(2,\), expected \(3,\)"):
        standardise(images, mean[:2], std)
    with pytest.raises(ValueError, match=r"std: got shape \(\)"):
        standardise(images, mean, std[0])
    with pytest.raises(ValueError, match="std: expected a finite number above 0"):
        standardise(images, mean, np.array([1, 0, 1], np.float32))


def windows(image, padding, fill):
    """All that may come out for one image, by NumPy: (row, column, flip) -> pixels."""
    height, width, channels = image.shape
    padded = np.empty((height + 2 * padding, width + 2 * padding, channels), image.dtype)
    padded[:] = fill
    padded[padding : padding + height, padding : padding + width] = image
    return {
        (row, column, flip): padded[row : row + height, column : column + width][:, ::flip]
        for row in range(2 * padding + 1)
        for column in range(2 * padding + 1)
        for flip in (1, -1)
    }


def draws(images, found, padding, fill):
    """Which window each image became: exactly one fits, as all pixels are different."""
    result = []
    for image, crop in zip(images, np.asarray(found), strict=True):
        fits = [k for k, w in windows(image, padding, fill).items() if np.array_equal(w, crop)]
        assert len(fits) == 1
        result.append(fits[0])
    return np.array(result)


@pytest.mark.parametrize(
    ("padding", "fill"), [(0, 0), (1, 200), (2, 0), (2, np.array([1, 2, 3], np.uint8))]
)
def test_every_crop_is_a_window_of_the_padded_image(images, padding, fill):
    found = random_crop_and_flip(KEY, images, padding, fill=fill)
    assert (found.dtype, found.shape) == (jnp.uint8, images.shape)
    row, column, flip = draws(images, found, padding, fill).T
    for place in (row, column):  # uniform over all places
        counts = np.bincount(place, minlength=2 * padding + 1)
        assert len(counts) == 2 * padding + 1
        assert np.all(np.abs(counts / 300 - 1 / len(counts)) < 0.1)
    assert abs(np.mean(flip == 1) - 0.5) < 0.1
    if padding:
        assert abs(np.corrcoef(np.stack([row, column, flip]))[np.triu_indices(3, 1)]).max() < 0.2


def test_the_padding_of_the_usual_recipe_is_four(images):
    draws(images[:10], random_crop_and_flip(KEY, images[:10]), 4, 0)
    assert len(set(draws(images, random_crop_and_flip(KEY, images), 4, 0)[:, 0])) == 9


def test_real_images_stay_real_and_meet_their_black(images, dtype):
    real = images.astype(dtype) / 7
    black = np.array([-1.5, -2, -2.5], dtype)
    found = random_crop_and_flip(KEY, real, 2, fill=black)
    assert found.dtype == dtype
    bytes_found = random_crop_and_flip(KEY, images, 2)
    np.testing.assert_array_equal(
        draws(real, found, 2, black), draws(images, bytes_found, 2, 0)
    )  # the same key moves them the same way


def test_keys_decide_and_it_compiles(images):
    images, keys = images[:9], jax.random.split(KEY)
    compiled = jax.jit(random_crop_and_flip, static_argnums=2)
    one, other = (compiled(key, images, 4) for key in keys)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(one, random_crop_and_flip(keys[0], images))
    mapped = jax.jit(jax.vmap(random_crop_and_flip, in_axes=(0, None)))(keys, images)
    np.testing.assert_array_equal(mapped, jnp.stack([one, other]))


@pytest.mark.parametrize("columns", [-7, -5, -2, 0, 4])
@pytest.mark.parametrize("rows", [-1, 0, 2, 6, 7])
def test_translations_are_slices(images, rows, columns):
    height, width = images.shape[1:3]
    expected = np.full_like(images, 9)
    for i in range(height):
        for j in range(width):
            if 0 <= i - rows < height and 0 <= j - columns < width:
                expected[:, i, j] = images[:, i - rows, j - columns]
    found = translate(images, rows, columns, fill=9)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == jnp.uint8


def test_translations_are_those_of_scipy(images):
    real = images.astype(np.float32)
    for rows, columns in ((1, 0), (0, 1), (-2, 3)):
        expected = scipy.ndimage.shift(real, (0, rows, columns, 0), order=0, cval=-1)
        np.testing.assert_array_equal(translate(real, rows, columns, -1), expected)
    compiled = jax.jit(translate, static_argnums=(1, 2))
    np.testing.assert_array_equal(compiled(real, 1, -1), translate(real, 1, -1))
    mapped = jax.vmap(lambda x: translate(x, 1, -1))(real[None])
    np.testing.assert_array_equal(mapped[0], translate(real, 1, -1))


def test_each_channel_is_filled_with_its_own_number(images, dtype):
    black = jnp.array([-1.5, -2, -2.5], dtype)
    found = translate(jnp.asarray(images, dtype), 1, 0, black)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[:, 0], jnp.broadcast_to(black, (300, 5, 3)))
    np.testing.assert_array_equal(found[:, 1:], images[:, :-1])


@pytest.mark.usefixtures("as_user")
def test_bad_moves_and_fills_are_refused(images):
    real = images.astype(np.float32)
    for bad in (-1, 256, 0.5, float("nan")):
        with pytest.raises(ValueError, match=r"fill: got .*integers from 0 to 255 for bytes"):
            translate(images, 1, 0, bad)
        with pytest.raises(ValueError, match="fill: got"):
            random_crop_and_flip(KEY, images, fill=bad)
    with pytest.raises(ValueError, match="fill: got inf"):
        translate(real, 1, 0, float("inf"))
    with pytest.raises(ValueError, match=r"fill: got shape \(2,\), expected one number or 3"):
        translate(real, 1, 0, np.zeros(2))
    with pytest.raises(ValueError, match=r"rows: got 1\.0, expected an integer"):
        translate(images, 1.0, 0)
    with pytest.raises(ValueError, match="columns: got True"):
        translate(images, 0, True)
    with pytest.raises(ValueError, match=r"padding: .*got -1"):
        random_crop_and_flip(KEY, images, -1)
    with pytest.raises(ValueError, match=r"shape \(6, 5, 3\).*give one image as images\[None\]"):
        random_crop_and_flip(KEY, images[0])
