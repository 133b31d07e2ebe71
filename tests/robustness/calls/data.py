"""Calls of metricflow.data: what is done to images on the device; the rest reads files."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metricflow import data as D  # noqa: N812
from tests.robustness.calls.call import Call, call, numbers


def pixels() -> jax.Array:
    return (100 * jnp.abs(numbers(1, 3, 8, 8, 2))).astype(jnp.uint8)


CALLS: dict[str, Callable[[], Call]] = {
    "random_crop_and_flip": lambda: call(
        lambda key, images: D.random_crop_and_flip(key, images, 2),
        jax.random.key(0),
        numbers(1, 3, 8, 8, 2),
        hidden="random",
    ),
    "standardise": lambda: call(
        lambda images, mean, std: D.standardise(images, mean, std),
        pixels(),
        jnp.array([0.4, 0.5]),
        jnp.array([0.2, 0.3]),
        dtype="single",
        grad="single",
        hidden="single",
    ),
    "translate": lambda: call(lambda images: D.translate(images, 1, -2), numbers(1, 3, 8, 8, 2)),
}

NOT_APPLICABLE = {
    "DATA_SETS": "constant",
    "FASHION_CLASSES": "constant",
    "MNIST_CLASSES": "constant",
    "Batch": "record",
    "DataSet": "record",
    "ImageSet": "record",
    "ImageStream": "file",
    "ImageStream.batches": "file",
    "channel_statistics": "host",
    "load": "file",
    "read_cifar10": "file",
    "read_cifar100": "file",
    "read_idx": "file",
    "read_idx_images": "file",
    "read_image_folder": "file",
    "read_split_folder": "file",
    "stratified_split": "host",
    "subset": "host",
}
