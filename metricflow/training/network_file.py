"""Networks on disk: arrays by path, quantised kernels in bits, and what the network is.

A file is a NumPy ``.npz`` archive (arrays only, no pickles) with an entry ``header``: JSON text
with the format version, what the writer says of the network, and shape and bits of packed arrays.
"""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import processes
from .._files import write_atomically
from .._version import __version__
from ..discretize.packing import PackedArray, unpack
from ..discretize.policy import joined, paths

FORMAT = "metricflow network"
FORMAT_VERSION = 1


def save_network(
    path: str | os.PathLike[str],
    variables: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
) -> int:
    """Write the variables of a Linen model; returns the size of the file in bytes.

    Args:
        path: of the file, which appears when it is complete.
        variables: nested dictionaries (``params``, ``batch_stats``) of arrays and of
            :class:`metricflow.discretize.PackedArray`.
        about: JSON data: name of the model, classes, what a reader has to know.

    Raises:
        ValueError: an array that is not finite; nothing is written.
    """
    arrays: dict[str, np.ndarray] = {}
    packed = {}
    for name, leaf in paths(variables).items():
        if isinstance(leaf, PackedArray):
            packed[name] = {"shape": list(leaf.shape), "bits": leaf.bits}
            arrays[f"{name}:codes"] = processes.on_host(leaf.codes)
            arrays[f"{name}:scale"] = processes.on_host(leaf.scale)
        else:
            arrays[name] = processes.on_host(leaf)
    for name, array in arrays.items():
        if not np.all(np.isfinite(array.astype(np.float64))):
            raise ValueError(f"{name}: holds values that are not finite; nothing was written")
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "program_version": __version__,
        "about": dict(about or {}),
        "packed": packed,
    }
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)
    np.savez(buffer, header=text, **arrays)  # type: ignore[arg-type]
    content = buffer.getvalue()
    processes.on_first(lambda: write_atomically(Path(path), content))
    return len(content)


def load_network(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables, packed kernels unpacked, and what the writer said of the network.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file, another version, or a damaged one.
    """
    place = Path(path)
    if not place.is_file():
        raise FileNotFoundError(f"{place}: no such file; expected one of save_network")
    try:
        with np.load(io.BytesIO(place.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(bytes(arrays.pop("header")).decode())
        known = (header["format"], header["format_version"])
    # zipfile says what is damaged in many ways, an encrypted entry for one
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{place}: is no network or is damaged ({reason})") from None
    if known != (FORMAT, FORMAT_VERSION):
        raise ValueError(
            f"{place}: got {known[0]!r} version {known[1]}, expected {FORMAT!r} {FORMAT_VERSION}"
        )
    for name, array in arrays.items():
        if array.dtype.kind not in "biufV" or (
            array.dtype.kind == "f" and not np.all(np.isfinite(array))
        ):
            raise ValueError(f"{place}: {name} is damaged, it holds NaN, infinity or no numbers")
    name = "header"
    leaves: dict[str, Any] = {}
    try:
        for name, how in header["packed"].items():
            codes, scale = (arrays.pop(f"{name}:{part}") for part in ("codes", "scale"))
            leaves[name] = unpack(PackedArray(codes, scale, tuple(how["shape"]), how["bits"]))
        leaves |= {name: jnp.asarray(array) for name, array in arrays.items()}
        return joined(leaves), header["about"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: {name} is damaged ({error})") from None
