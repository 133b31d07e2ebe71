"""Image files to arrays: which files a folder of classes holds, decoding, resizing, cropping."""

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_WIDE_MODES = ("I", "F")  # whose conversion to RGB clips at 255 without a word


class ImageFiles(NamedTuple):
    """Files ``folder/CLASS/NAME`` in sorted order, their sizes in bytes, and a label for each."""

    folder: Path
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    labels: Int32[np.ndarray, " n"]
    classes: tuple[str, ...]


def list_images(folder: str | os.PathLike[str]) -> ImageFiles:
    """The image files of a folder with one folder for each class; hidden ones are left out.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no classes in it, or a class without images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder, expected {folder}/CLASS/*.jpg")
    classes = tuple(
        sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    )
    if not classes:
        raise ValueError(f"{folder}: got no folders in it, expected one for each class")
    names: list[str] = []
    sizes: list[int] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(
            (entry.name, entry.stat().st_size)
            for entry in os.scandir(folder / name)
            if entry.name.lower().endswith(ENDINGS) and not entry.name.startswith(".")
        )
        if not found:
            raise ValueError(
                f"{folder / name}: got no images in it, expected files that end with one of "
                f"{ENDINGS}; remove the folder or fill it"
            )
        names += [f"{name}/{file}" for file, _ in found]
        sizes += [size for _, size in found]
        labels += [label] * len(found)
    return ImageFiles(folder, tuple(names), tuple(sizes), np.array(labels, np.int32), classes)


def pillow() -> ModuleType:
    """The module that decodes images, loaded when it is first needed.

    Raises:
        ImportError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"image files are read by Pillow ({error}): pip install pillow") from None
    return Image


def read_rgb(path: str | os.PathLike[str]) -> "Image":
    """One image in RGB, completely decoded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, no image at all, or of more than 8 bits.
    """
    module = pillow()
    with open(path, "rb") as file:  # here: a file that cannot be opened is not a damaged one
        try:
            with module.open(file) as image:
                image.load()
                mode = image.mode
                if mode.split(";")[0] not in _WIDE_MODES:
                    # a palette may hold transparency, which is dropped with a warning otherwise
                    palette = mode == "P" and "transparency" in image.info
                    return (image.convert("RGBA") if palette else image).convert("RGB")
        except Exception as error:  # decoders of damaged files raise whatever their bytes lead to
            raise ValueError(
                f"{path}: not an image that Pillow can read, or damaged ({error}); replace or "
                "remove it"
            ) from None
    raise ValueError(f"{path}: got pixels of mode {mode}, expected 8 bits a channel; convert it")


def cover(image: "Image", size: tuple[int, int]) -> "Image":
    """Resized, keeping its proportions, to the smallest image that covers (height, width)."""
    height, width = size
    if image.height * width >= image.width * height:
        height = image.height * width // image.width
    else:
        width = image.width * height // image.height
    return resize(image, (height, width))


def centre_crop(image: "Image", size: tuple[int, int]) -> "Image":
    """The window of (height, width) in the middle of an image at least as large."""
    height, width = size
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return image.crop((left, top, left + width, top + height))


def resize(image: "Image", size: tuple[int, int]) -> "Image":
    """Bilinear, averaging over all pixels where it shrinks; untouched if it fits already."""
    height, width = size
    if (image.height, image.width) == (height, width):
        return image
    return image.resize((width, height), pillow().Resampling.BILINEAR)


def pixels(image: "Image") -> UInt8[np.ndarray, "h w 3"]:
    """As an array."""
    return np.asarray(image, np.uint8)


def image_size(name: str, size: Any) -> tuple[int, int]:
    """``size`` as (height, width).

    Raises:
        ValueError: anything but two integers of at least one.
    """
    pair = tuple(size) if isinstance(size, tuple | list) else ()
    if len(pair) != 2 or not all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 1 for n in pair
    ):
        raise ValueError(
            f"{name}: got {size!r}, expected (height, width) of at least one pixel each"
        )
    return int(pair[0]), int(pair[1])
