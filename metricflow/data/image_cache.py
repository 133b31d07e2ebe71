"""Decoded images kept in one file, used again only while it belongs to the same image files."""

import hashlib
import json
from pathlib import Path

import numpy as np

from .._files import atomic_file
from .decode import ImageFiles

_FORMAT = "metricflow images 1"
_MARK = "source"  # the entry that says what the arrays were made of


def fingerprint(parts: list[ImageFiles], size: tuple[int, int]) -> str:
    """What decoded images depend on: names and sizes of the files, and the size asked for."""
    content = [_FORMAT, size, [[part.names, part.sizes] for part in parts]]
    return f"{_FORMAT} {hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


def read_cache(path: Path, source: str) -> list[np.ndarray] | None:
    """The arrays in order; None if there is no such file or it belongs to other images.

    Raises:
        ValueError: the file is something else, or damaged.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                found = str(archive[_MARK])
                if not found.startswith(_FORMAT):
                    raise ValueError(f"it is marked {found!r}")
                if found != source:
                    return None
                return [archive[f"images_{i}"] for i in range(len(archive.files) - 1)]
        except Exception as error:  # damaged archives raise whatever their bytes lead to
            raise ValueError(
                f"{path}: not a cache of images, or damaged ({error}); remove it or give another "
                "path"
            ) from None


def write_cache(path: Path, source: str, arrays: list[np.ndarray]) -> None:
    """Write the file; it appears under its name only when it is complete and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {f"images_{i}": array for i, array in enumerate(arrays)}
    with atomic_file(path) as file:
        # straight into the file: in memory it would stand beside the images a second time
        np.savez(file, **{_MARK: np.array(source)}, **named)  # type: ignore[arg-type]
