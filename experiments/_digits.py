"""The digits of scikit-learn, 1797 images of 8 x 8, in one fixed stratified 60/20/20 split."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SIDE = 8
CLASSES = 10


class Split(NamedTuple):
    """Images of shape (N, 64) in [-1, 1] and labels (N,)."""

    images: Array
    labels: Array


def digits() -> tuple[Split, Split, Split]:
    """Training, validation and test part: 1078, 359 and 360 images."""
    images, labels = load_digits(return_X_y=True)
    images = images / 8 - 1
    train, rest = train_test_split(
        np.arange(len(labels)), test_size=0.4, stratify=labels, random_state=0
    )
    validation, test = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=0)
    return tuple(  # type: ignore[return-value]
        Split(jnp.asarray(images[part], jnp.float32), jnp.asarray(labels[part]))
        for part in (train, validation, test)
    )


def translate(images: Array, rows: int, columns: int) -> Array:
    """Images moved down and to the right; what comes in is background, -1."""
    pixels = images.reshape(-1, SIDE, SIDE)
    reach = max(abs(rows), abs(columns))
    padded = jnp.pad(pixels, ((0, 0), (reach, reach), (reach, reach)), constant_values=-1)
    moved = jnp.roll(padded, (rows, columns), axis=(1, 2))
    return moved[:, reach : reach + SIDE, reach : reach + SIDE].reshape(images.shape)
