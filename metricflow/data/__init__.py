"""Images to train on: readers of the usual formats, splits, streams, and what is done to images.

Pixels are bytes, uint8 of shape (N, H, W, C), until :func:`standardise` makes numbers of them on
the device.  Labels are int32.  Nothing is downloaded: :func:`load` says which files it misses and
where they are from.  Image files are decoded by Pillow, which is loaded when it is needed.
"""

from .._front_door import guard
from .augment import random_crop_and_flip, standardise, translate
from .catalogue import DATA_SETS, DataSet, load
from .cifar import read_cifar10, read_cifar100
from .idx import FASHION_CLASSES, MNIST_CLASSES, read_idx, read_idx_images
from .image_folder import read_image_folder, read_split_folder
from .image_set import ImageSet, channel_statistics, stratified_split, subset
from .image_stream import Batch, ImageStream

__all__ = [
    "DATA_SETS",
    "FASHION_CLASSES",
    "MNIST_CLASSES",
    "Batch",
    "DataSet",
    "ImageSet",
    "ImageStream",
    "channel_statistics",
    "load",
    "random_crop_and_flip",
    "read_cifar10",
    "read_cifar100",
    "read_idx",
    "read_idx_images",
    "read_image_folder",
    "read_split_folder",
    "standardise",
    "stratified_split",
    "subset",
    "translate",
]

guard(globals())
