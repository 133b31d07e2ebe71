"""What is done to images on the device, in training: standardise, crop and flip, translate."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Key, Shaped, UInt8

from .. import _checks
from .._annotations import Signed
from .._checks import AnyArray

Fill = int | float | Float[AnyArray, "..."] | UInt8[AnyArray, "..."]


def standardise(
    images: UInt8[AnyArray, "n h w c"],
    mean: Float[AnyArray, " c"],
    std: Float[AnyArray, " c"],
) -> Float32[Array, "n h w c"]:
    """(pixel / 255 - mean) / std of each channel, in float32.

    Args:
        images: as bytes.
        mean: of pixel / 255, as of :func:`channel_statistics`.
        std: of pixel / 255, above zero.

    Raises:
        ValueError: other images, a wrong number of channels, or a deviation of zero.
    """
    images = _images(images)
    if images.dtype != jnp.uint8:
        raise ValueError(f"images: got {images.dtype}, expected uint8; standardise them only once")
    channels = images.shape[-1:]
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    for name, value in (("mean", mean), ("std", std)):
        if value.shape != channels:
            raise ValueError(f"{name}: got shape {value.shape}, expected {channels}, by channel")
    _checks.positive_number("std", std)
    return (images.astype(jnp.float32) / 255 - mean) / std


def random_crop_and_flip(
    key: Key[Array, ""], images: Shaped[AnyArray, "n h w c"], padding: int = 4, *, fill: Fill = 0
) -> Shaped[Array, "n h w c"]:
    """Each image moved by up to ``padding`` pixels, and mirrored left to right every second time.

    A window of the old size, uniformly anywhere in the image with ``padding`` pixels around it.

    Args:
        key: each image has draws of its own from it.
        images: bytes or real numbers; the dtype stays.
        padding: of at least zero pixels.
        fill: what is around an image, one number or one for each channel.  Zero is black in bytes;
            in standardised images black is -mean / std.

    Raises:
        ValueError: other images, a negative padding, or a fill that the dtype does not hold.
    """
    images = _images(images)
    _checks.natural_number("padding", padding)
    count, height, width, channels = images.shape
    padded = _shifted(images, (padding, padding), (padding, padding), fill)
    row_key, column_key, flip_key = jax.random.split(key, 3)
    rows = jax.random.randint(row_key, (count,), 0, 2 * padding + 1)
    columns = jax.random.randint(column_key, (count,), 0, 2 * padding + 1)
    flips = jax.random.bernoulli(flip_key, 0.5, (count,))

    def window(image: Array, row: Array, column: Array, flip: Bool[Array, ""]) -> Array:
        cut = jax.lax.dynamic_slice(image, (row, column, 0), (height, width, channels))
        return jnp.where(flip, cut[:, ::-1], cut)

    return jax.vmap(window)(padded, rows, columns, flips)


def translate(
    images: Shaped[AnyArray, "n h w c"], rows: Signed, columns: Signed, fill: Fill = 0
) -> Shaped[Array, "n h w c"]:
    """Images moved down by ``rows`` and to the right by ``columns`` pixels.

    Args:
        images: bytes or real numbers; the dtype stays.
        rows: negative moves up.
        columns: negative moves to the left.
        fill: what comes in, one number or one for each channel.

    Raises:
        ValueError: other images, moves that are no integers, or a fill that the dtype does not
            hold.
    """
    images = _images(images)
    for name, value in (("rows", rows), ("columns", columns)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"{name}: got {value!r}, expected an integer that is known beforehand")
    rows, columns = int(rows), int(columns)
    return _shifted(images, (rows, -rows), (columns, -columns), fill)


def _shifted(images: Array, rows: tuple[int, int], columns: tuple[int, int], fill: Fill) -> Array:
    """Pixels added (or, if negative, taken away) before the first and after the last."""
    channels = images.shape[-1]
    change = [(0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)]
    moved = jax.lax.pad(images, jnp.zeros((), images.dtype), change)
    known = jax.lax.pad(jnp.ones((1, *images.shape[1:3], 1), bool), False, change)
    return jnp.where(known, moved, _background(images.dtype, channels, fill))


def _background(dtype: jnp.dtype, channels: int, fill: Fill) -> Array:
    if jnp.shape(fill) not in ((), (channels,)):
        raise ValueError(
            f"fill: got shape {jnp.shape(fill)}, expected one number or {channels}, one a channel"
        )
    if not _checks.is_traced(fill):
        values = np.asarray(fill, np.float64)
        whole = np.all((values >= 0) & (values <= 255) & (values == np.round(values)))
        if not np.all(np.isfinite(values)) or (dtype == jnp.uint8 and not whole):
            raise ValueError(
                f"fill: got {values.tolist()}, expected integers from 0 to 255 for bytes and "
                f"finite numbers for other images, these are {dtype}"
            )
    return jnp.asarray(fill).astype(dtype)


def _images(images: AnyArray) -> Array:
    images = jnp.asarray(images)
    kind = images.dtype == jnp.uint8 or jnp.issubdtype(images.dtype, jnp.floating)
    if images.ndim != 4 or not kind:
        raise ValueError(
            f"images: got {images.dtype} of shape {images.shape}, expected bytes or real numbers "
            "of shape (N, H, W, C); give one image as images[None]"
        )
    return images
