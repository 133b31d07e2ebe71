"""The front door of a room: public calls are held against their annotations before they begin.

The annotations say it all: ``z: Complex[AnyArray, "b k"]`` is a complex array with two axes.
Without this, a wrong shape would surface somewhere inside jax or broadcast to a wrong number, and
NaN would come out as NaN.  Only what users import from a room is held against its annotations;
modules inside call each other as they are.  Shapes and types are looked at while jax traces as
well, values only where there are any.
"""

import functools
import inspect
import os
import re
import types
import typing
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray

from . import _checks

# integers are counts, save these
_SIGNED = {"axis", "out_axis", "rows", "columns", "seed", "fill", "k1", "k2", "j1", "j2"}
_KEY = "a random key, such as jax.random.key(0)"
_CHARTS = {"chart", "old", "new", "home", "eliminated"}
# where functions draw, read and write, and are not called to hear what they say
_READERS = ("catalogue", "cifar", "idx", "image_folder", "image_stream")
_WITH_EFFECTS = tuple(
    f"metricflow.{place}"
    for place in (
        *("checkpoint", "plotting", "records", "training"),
        *(f"data.{name}" for name in _READERS),
    )
)
_NOT_NEGATIVE = {"width", "tau"}
_PLAIN = {bool: (bool, np.bool_), str: (str,), dict: (dict,), list: (list,)}
_KINDS = {"float": "real", "complex": "complex", "int": "integer", "uint": "integer"}


class _MismatchError(Exception):
    """What was expected instead."""


class _Call(NamedTuple):
    """What is known within one call.

    Attributes:
        sizes: of axes by name, each with the argument that it comes from.
        finite: whether NaN and infinity are refused.
    """

    sizes: dict[str, tuple[Any, str]]
    finite: bool


def guard(
    room: dict[str, Any], names: Collection[str] | None = None, *, may_be_nan: Collection[str] = ()
) -> None:
    """Put a front door before the public functions and classes of a room.

    Args:
        room: ``globals()`` of the room.
        names: what is public; by default its ``__all__``.
        may_be_nan: functions and classes for which NaN is a number like others.
    """
    doors: dict[int, Any] = {}  # one for a function of two names
    for name in room["__all__"] if names is None else names:
        found, finite = room[name], name not in may_be_nan
        if isinstance(found, type):
            _guard_class(found, finite)
        elif callable(found) and hasattr(found, "__name__") and not typing.get_origin(found):
            room[name] = doors.setdefault(id(found), _guarded(found, finite))
            if room[name] is not found:
                room[name].__module__ = room["__name__"]  # where pickle finds it


def _guard_class(cls: type, finite: bool) -> None:
    if issubclass(cls, tuple | BaseException) or getattr(cls, "_is_protocol", False):
        return
    module = any(base.__module__.startswith("flax") for base in cls.__mro__)
    for base in cls.__mro__:
        if not base.__module__.startswith("metricflow"):
            continue
        for name, method in list(vars(base).items()):
            public = not name.startswith("_") or name == "__call__"
            wanted = name == "__init__" or (public and not module)
            if wanted and callable(method) and not isinstance(method, type | staticmethod):
                setattr(base, name, _guarded(method, finite))


def _guarded(function: Any, finite: bool) -> Any:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return function
    hints = {p.name: p.annotation for p in signature.parameters.values() if _is_checked(p)}
    if not hints or getattr(function, "_has_front_door", False):
        return function
    order = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    method = order[:1] == ["self"] and function.__name__ != "__init__"

    pure = not function.__module__.startswith(_WITH_EFFECTS)

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        call = _Call({}, finite)
        if method and args:
            _take_dimension(args[0], call)
        given, named = list(args), dict(options)
        try:
            for place, name in enumerate(order[: len(given)]):
                if name in hints:
                    given[place] = _checked(name, given[place], hints[name], call)
            for name in options.keys() & hints.keys():
                named[name] = _checked(name, options[name], hints[name], call)
        except ValueError:
            if pure:
                _own_words(function, args, options)
            raise
        return function(*given, **named)

    checked._has_front_door = True  # type: ignore[attr-defined]
    if hasattr(function, "lower"):
        checked.lower = function.lower  # type: ignore[attr-defined]
    return checked


def _own_words(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """What a function itself says of bad arguments, which knows more, if it says which one."""
    said = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(*arguments, **options)
    except ValueError as error:
        said = str(error)
    except Exception:  # whatever comes of them inside of jax
        return
    if re.match(r"[\w.'\[\]/]+: [^\n]*$", said):
        raise ValueError(said) from None


def _is_checked(parameter: inspect.Parameter) -> bool:
    hint = parameter.annotation
    return (
        parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in ("self", "parent")
        and hint not in (inspect.Parameter.empty, Any, object)
        and not isinstance(hint, str | typing.TypeVar)
    )


def _checked(name: str, value: Any, hint: Any, call: _Call) -> Any:
    """The value, lists made into arrays, or a ValueError."""
    try:
        _take_dimension(value, call)
        fitted = _fitted(name, value, hint, call)
        if name in _CHARTS:
            _check_charts(name, fitted, call)
        if name in _NOT_NEGATIVE and _is_negative(fitted):
            raise _MismatchError("a number of at least 0")
        return fitted
    except _MismatchError as expected:
        raise ValueError(f"{name}: expected {expected}, got {_said(value)}") from None


def _fitted(name: str, value: Any, hint: Any, call: _Call) -> Any:
    if hint in (Any, object) or isinstance(hint, str | typing.TypeVar):
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _one_of_several(name, value, arguments, call)
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return _array(name, value, hint, call)
    if hint is jax.Array:
        _plain_array(name, value, call)
    elif hint in (float, complex):
        _number(name, value, hint)
    elif hint is int:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise _MismatchError("an integer")
        if value < 0 and name not in _SIGNED:
            raise _MismatchError("an integer of at least " + ("1" if name == "chunk" else "0"))
        if value < 1 and name == "chunk":
            raise _MismatchError("an integer of at least 1")
    elif hint in _PLAIN:
        if not isinstance(value, _PLAIN[hint]):
            raise _MismatchError(f"a {hint.__name__}")
    elif hint is type(None):
        if value is not None:
            raise _MismatchError("None")
    elif origin is typing.Literal:
        if not any(value is x or (isinstance(value, str) and value == x) for x in arguments):
            raise _MismatchError(f"one of {arguments}")
    elif origin is tuple:
        _tuple(name, value, arguments, call)
    elif origin in (Sequence, Collection):
        if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
            raise _MismatchError("a sequence")
        for part in value:
            _fitted(name, part, arguments[0], _Call({}, call.finite))
    elif origin is Mapping or hint is Mapping:
        if not isinstance(value, Mapping):
            raise _MismatchError("a mapping, such as a dict")
    elif origin is Callable:
        if not callable(value):
            raise _MismatchError("a function")
    elif isinstance(hint, type) and origin is None:
        _instance(name, value, hint, call)
    elif origin is os.PathLike and not isinstance(value, os.PathLike):
        raise _MismatchError("a path")
    return value


def _one_of_several(name: str, value: Any, hints: Sequence[Any], call: _Call) -> Any:
    wanted: list[str] = []
    # a number stays a number and an array of the host stays there, if they may
    plain = isinstance(value, int | float | complex)
    best = (int, float, complex, type(value)) if plain else (type(value),)
    for hint in sorted(hints, key=lambda hint: getattr(hint, "array_type", hint) not in best):
        try:
            return _fitted(name, value, hint, call)
        except _MismatchError as expected:
            wanted += [] if str(expected) in wanted else [str(expected)]
    raise _MismatchError(" or ".join(wanted))


def _plain_array(name: str, value: Any, call: _Call) -> None:
    if not isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        raise _MismatchError(_KEY if name == "key" else "an array")
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    if name == "key" and not is_key:
        raise _MismatchError(_KEY)
    if not is_key and value.dtype.kind in "OSUmM":
        raise _MismatchError("an array of numbers")
    _refuse_nan(name, value, call)


def _array(name: str, value: Any, hint: Any, call: _Call) -> Any:
    kinds = _kinds(hint)
    if isinstance(value, list | tuple | float | int | complex) and not isinstance(value, bool):
        value = _of_numbers(value, hint)
    if not isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        raise _MismatchError(_wanted(hint))
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    if kinds and ("prng_key" if is_key else np.dtype(value.dtype).name) not in kinds:
        raise _MismatchError(_wanted(hint))
    axes = hint.dim_str.split()
    if not _fits(name, np.shape(value), axes, call):
        raise _MismatchError(_wanted(hint) + _known(axes, call))
    if not is_key:
        if value.dtype.kind in "OSUmM":
            raise _MismatchError(_wanted(hint))
        _refuse_nan(name, value, call)
        if isinstance(value, np.ndarray) and hint.array_type is jax.Array:
            value = jnp.asarray(value)
    return value


def _kinds(hint: Any) -> tuple[str, ...]:
    """Names of the allowed dtypes, () for all."""
    return hint.dtypes if isinstance(hint.dtypes, tuple) else ()


def _of_numbers(value: Any, hint: Any) -> np.ndarray:
    """A list as an array; integers stand for real and complex numbers too."""
    try:
        found = np.asarray(value)
    except ValueError:
        raise _MismatchError(_wanted(hint)) from None
    kinds = _kinds(hint)
    if found.dtype.kind in "iuf" and kinds and found.dtype.name not in kinds:
        for wider in ("float64", "complex128"):
            if wider in kinds:
                return found.astype(wider)
    return found


def _fits(name: str, shape: tuple[int, ...], axes: list[str], call: _Call) -> bool:
    """Whether a shape agrees with named axes, and with what they were in other arguments."""
    many = next((i for i, axis in enumerate(axes) if axis.startswith("*") or axis == "..."), None)
    if many is None:
        pairs: list[tuple[str, Any]] = list(zip(axes, shape, strict=False))
        if len(axes) != len(shape):
            return False
    else:
        after = len(axes) - many - 1
        if len(shape) < many + after:
            return False
        middle = shape[many : len(shape) - after]
        pairs = list(zip(axes[:many], shape, strict=False))
        pairs += [(axes[many], middle)] if axes[many] != "..." else []
        pairs += list(zip(axes[many + 1 :], shape[len(shape) - after :], strict=True))
    known = dict(call.sizes)
    for axis, size in pairs:
        if axis.isdigit():
            if int(axis) != size:
                return False
        elif not axis.startswith("*#") and known.setdefault(axis, (size, name))[0] != size:
            return False
    call.sizes.update(known)
    return True


def _wanted(hint: Any) -> str:
    kinds = {_KINDS.get(kind.rstrip("0123456789"), "") for kind in _kinds(hint)} - {""}
    if "prng_key" in _kinds(hint):
        return _KEY
    kind = " or ".join(sorted(kinds)) + " " if 0 < len(kinds) < 3 else ""
    axes = hint.dim_str.split()
    shape = "(" + ", ".join(axes) + ("," if len(axes) == 1 else "") + ")"
    if kind == "complex " and axes[-1:] == ["k"]:
        return f"complex homogeneous coordinates of shape {shape}"
    return f"{'a' if kind[:1] in ('r', 'c') else 'an'} {kind}array of shape {shape}"


def _known(axes: list[str], call: _Call) -> str:
    known = [f"{a} = {call.sizes[a][0]} in {call.sizes[a][1]}" for a in axes if a in call.sizes]
    return f" with {', '.join(known)}" if known else ""


def _number(name: str, value: Any, hint: Any) -> None:
    numbers: Any = (int, float, np.number, jax.Array, np.ndarray)
    numbers += (complex,) if hint is complex else ()
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers)
        or np.ndim(value) != 0
        or not jnp.issubdtype(jnp.result_type(value), jnp.number)
        or (hint is float and jnp.issubdtype(jnp.result_type(value), jnp.complexfloating))
    ):
        raise _MismatchError(f"a {'complex ' if hint is complex else ''}number")
    if not isinstance(value, jax.core.Tracer) and np.isnan(value):
        raise _MismatchError("a number")


def _tuple(name: str, value: Any, parts: tuple[Any, ...], call: _Call) -> None:
    if not isinstance(value, tuple | list):
        raise _MismatchError(f"a tuple of {len(parts)}" if parts[-1:] != (...,) else "a tuple")
    hints = [parts[0]] * len(value) if parts[-1:] == (...,) else list(parts)
    if len(hints) != len(value):
        raise _MismatchError(f"a tuple of {len(hints)}")
    for part, hint in zip(value, hints, strict=True):
        if hint is not int:
            _fitted(name, part, hint, call)
        elif not _is_integer(part):
            raise _MismatchError("a tuple of integers")


def _is_negative(value: Any) -> bool:
    if isinstance(value, jax.core.Tracer):
        return False
    return isinstance(value, int | float | np.ndarray | jax.Array) and bool(np.any(value < 0))


def _is_integer(value: Any) -> bool:
    if isinstance(value, jax.Array | np.ndarray):
        return value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.integer)
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _instance(name: str, value: Any, hint: type, call: _Call) -> None:
    protocol = getattr(hint, "_is_protocol", False)
    if protocol and not getattr(hint, "_is_runtime_protocol", False):
        return
    fits = isinstance(value, hint)
    if not fits:
        raise _MismatchError(
            f"an object like {hint.__name__}" if protocol else f"a {hint.__name__}"
        )
    if hint.__name__ == "Points":  # arrays that belong together
        for field, kind in hint.__annotations__.items():
            found = getattr(value, field)
            if isinstance(found, jax.Array | np.ndarray):
                try:
                    _array(f"{name}.{field}", found, kind, call)
                except _MismatchError as expected:
                    message = f"{name}.{field}: expected {expected}, got {_said(found)}"
                    raise ValueError(message) from None


def _take_dimension(value: Any, call: _Call) -> None:
    """What belongs to one hypersurface has as many homogeneous coordinates as it."""
    about = getattr(value, "manifold", value)
    kind = type(about).__name__
    if kind == "Hypersurface":
        found = about.ambient
    elif kind == "SpectralBasis":
        found = about.dim + 2
    elif kind == "Sections":
        found = np.shape(about.exponents)[-1]
    else:
        return
    known, where = call.sizes.setdefault("k", (found, f"the {kind}"))
    if known != found:
        raise _MismatchError(f"something with {known} homogeneous coordinates as in {where}")


def _check_charts(name: str, value: Any, call: _Call) -> None:
    """Indices of coordinates that there are, and not the same twice."""
    if isinstance(value, jax.core.Tracer) or value is None or "k" not in call.sizes:
        return
    if isinstance(value, tuple | list) and any(isinstance(x, jax.core.Tracer) for x in value):
        return
    known, chart = call.sizes["k"][0], np.asarray(value)
    if chart.size and (np.min(chart) < 0 or np.max(chart) >= known):
        raise _MismatchError(f"indices from 0 to {known - 1}")
    if chart.shape[-1:] == (2,) and np.any(chart[..., 0] == chart[..., 1]):
        raise _MismatchError("two different indices (scaled, eliminated)")


def _refuse_nan(name: str, value: Any, call: _Call) -> None:
    if not call.finite or isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct):
        return
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        return
    _checks.finite(name, value)


def _said(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, jax.Array | np.ndarray) and np.ndim(value):
        return f"{value.dtype} of shape {value.shape}"
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text}" if len(text) < 60 else f"a {type(value).__name__}"


def public_functions(room: dict[str, Any]) -> Iterator[str]:
    """Names of a module that has no ``__all__``: what it defines itself."""
    for name, found in room.items():
        own = getattr(found, "__module__", None) == room["__name__"]
        if own and not name.startswith("_") and callable(found):
            yield name
