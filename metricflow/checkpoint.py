"""Metrics on disk: one file format for every model, readable without running anything in it.

A metric file is a NumPy ``.npz`` archive (arrays only, no pickles) with an entry ``header``: JSON
text that holds the format version, the program version and the tree of model classes, whose fields
are numbers, strings or names of arrays in the archive.  Files appear under their name only when
complete.
"""

import dataclasses
import io
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import processes
from ._files import write_atomically
from ._front_door import guard, public_functions
from ._version import __version__
from .ansatz import (
    AlgebraicMetric,
    ComponentMetric,
    CosineNetwork,
    IndependentNetworks,
    KernelPotentialMetric,
    Mlp,
    NetworkMetric,
    Sections,
    SpectralBasis,
    SpectralMetric,
    mlp,
)
from .ansatz.orbit_sums import OrbitSums
from .flows import KernelMetric
from .geometry import FubiniStudyMetric, Hypersurface
from .kernels import (
    Delta,
    Exponential,
    Gaussian,
    HessianFrame,
    InfiniteNetwork,
    Product,
    RootFrame,
    SquaredExponential,
    Sum,
    TensorKernel,
)

FORMAT = "metricflow metric"
FORMAT_VERSION = 1

_CLASSES: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        AlgebraicMetric,
        ComponentMetric,
        CosineNetwork,
        Delta,
        Exponential,
        FubiniStudyMetric,
        Gaussian,
        HessianFrame,
        Hypersurface,
        IndependentNetworks,
        KernelMetric,
        KernelPotentialMetric,
        Mlp,
        NetworkMetric,
        OrbitSums,
        InfiniteNetwork,
        Product,
        RootFrame,
        Sections,
        SpectralBasis,
        SpectralMetric,
        SquaredExponential,
        Sum,
        TensorKernel,
    )
}
_FORMER: dict[str, Any] = {"ReluNTK": InfiniteNetwork}  # names in older files
_METRICS = (
    AlgebraicMetric,
    ComponentMetric,
    FubiniStudyMetric,
    KernelMetric,
    KernelPotentialMetric,
    NetworkMetric,
    SpectralMetric,
)


def save_metric(
    path: str | os.PathLike[str], metric: Any, *, provenance: dict[str, Any] | None = None
) -> None:
    """Write a metric to one file.

    Args:
        path: where; an existing file is replaced in one step once the new one is complete.
        metric: a callable metric of this library.
        provenance: JSON data to keep beside it: command, seed, results.

    Raises:
        TypeError: an object that the format does not know.
        ValueError: NaN or infinity in the arrays.
        FileNotFoundError: the folder does not exist.
    """
    if not isinstance(metric, _METRICS):
        raise TypeError(
            f"metric: expected one of {[c.__name__ for c in _METRICS]}, got {type(metric).__name__}"
        )
    arrays: dict[str, np.ndarray] = {}
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "metricflow": __version__,
        "provenance": provenance or {},
        "metric": _encode(metric, arrays, "metric"),
    }
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez_compressed(buffer, header=text, **arrays)  # type: ignore[arg-type]
    processes.on_first(lambda: write_atomically(Path(path), buffer.getvalue()))


def load_metric(path: str | os.PathLike[str]) -> Any:
    """Read a metric that :func:`save_metric` wrote; calling it gives the same numbers.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a metric file, damaged, written by a newer format, or float64 data while
            jax runs in float32.
    """
    header, arrays = _read(Path(path))
    metric = _decode(header["metric"], arrays, Path(path))
    if not isinstance(metric, _METRICS):
        raise ValueError(f"{path}: holds a {type(metric).__name__}, not a metric")
    wide = any(
        a.dtype in (np.float64, np.complex128) for n, a in arrays.items() if "manifold" not in n
    )
    if wide and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(
            f"{path}: was computed in float64 but jax runs in float32; call "
            "jax.config.update('jax_enable_x64', True) at the top of the program"
        )
    return metric


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON data that was saved beside a metric."""
    return _read(Path(path))[0]["provenance"]


def _encode(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    if type(value).__name__ in _CLASSES:
        fields = {
            field: _encode(getattr(value, field), arrays, f"{name}.{field}")
            for field in _field_names(type(value))
        }
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, jax.Array | np.ndarray):
        array = processes.on_host(value)
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name}: NaN or infinity cannot be saved as a metric")
        arrays[name] = array
        return {"array": name}
    if isinstance(value, tuple | list):
        return {"tuple": [_encode(item, arrays, f"{name}.{i}") for i, item in enumerate(value)]}
    if isinstance(value, dict):  # the parameters of a network
        return {"dict": {k: _encode(item, arrays, f"{name}.{k}") for k, item in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value):
        raise TypeError(
            f"{name}: a function cannot be saved as data; use a network of metricflow.ansatz with "
            "an activation given by name"
        )
    raise TypeError(f"{name}: the metric file format does not know {type(value).__name__}")


def _field_names(cls: Any) -> tuple[str, ...]:
    """Of a dataclass, a named tuple or a network."""
    if issubclass(cls, Mlp | IndependentNetworks | CosineNetwork):
        # what Flax adds to the fields of a module says where it stands in a larger one
        return tuple(f.name for f in dataclasses.fields(cls) if f.name not in ("parent", "name"))
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    return cls._fields


def _decode(value: Any, arrays: dict[str, np.ndarray], path: Path) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        if value["array"] not in arrays:
            raise ValueError(f"{path}: the array {value['array']} is missing, the file is damaged")
        return arrays[value["array"]]
    if "tuple" in value:
        items = [_decode(item, arrays, path) for item in value["tuple"]]
        return tuple(jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in items)
    if "dict" in value:
        return {
            k: jnp.asarray(x) if isinstance(x := _decode(item, arrays, path), np.ndarray) else x
            for k, item in value["dict"].items()
        }
    name = value.get("class", "")
    cls = _CLASSES.get(name, _FORMER.get(name))
    if cls is None:
        raise ValueError(f"{path}: unknown model {value.get('class')!r}; update metricflow")
    try:
        fields = {k: _decode(v, arrays, path) for k, v in value["fields"].items()}
        if cls is NetworkMetric and "widths" in fields:  # files from before networks had a field
            fields["network"] = mlp(fields.pop("widths"), fields.pop("activation"))
        if cls is not Hypersurface:  # whose coefficients stay in double precision on the host
            fields = {
                k: jnp.array(v) if isinstance(v, np.ndarray) else v for k, v in fields.items()
            }
        return cls(**fields)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if str(error).startswith(f"{path}:"):  # of a part of it
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path}: {name} is damaged or does not fit this version ({reason})"
        ) from None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop("header").tobytes().decode())
        found, _, _ = (header[name] for name in ("format", "metric", "provenance"))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        NotImplementedError,
        RuntimeError,  # a damaged flag says that an entry is encrypted
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"{path}: not a metric file, or damaged ({type(error).__name__})"
        ) from None
    if found != FORMAT or not isinstance(header.get("format_version"), int):
        raise ValueError(f"{path}: not a metric file")
    if header["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path}: format {header['format_version']} is newer than {FORMAT_VERSION}, which this "
            "version reads; update metricflow"
        )
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc" or not np.all(np.isfinite(array)):
            raise ValueError(f"{path}: {name} is damaged, it holds NaN, infinity or no numbers")
    return header, arrays


guard(globals(), tuple(public_functions(globals())))
