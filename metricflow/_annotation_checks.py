"""Values held against annotations: kinds, shapes, sizes that agree within a call, NaN, rules.

Shapes and types are looked at while jax traces as well, values only where there are any.
"""

import os
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray

from . import _checks
from ._annotations import AtLeast, Coordinates

_KEY = "a random key, such as jax.random.key(0)"
_PLAIN = {bool: (bool, np.bool_), str: (str,), dict: (dict,), list: (list,)}
_KINDS = {"float": "real", "complex": "complex", "int": "integer", "uint": "integer"}


class _MismatchError(Exception):
    """What was expected instead."""


class Call(NamedTuple):
    """What is known within one call.

    Attributes:
        sizes: of axes by name, each with the argument that it comes from.
        finite: whether NaN and infinity are refused.
    """

    sizes: dict[str, tuple[Any, str]]
    finite: bool


def is_checkable(hint: Any) -> bool:
    """Whether an annotation says anything."""
    return hint not in (Any, object) and not isinstance(hint, str | typing.TypeVar)


def checked(name: str, value: Any, hint: Any, call: Call) -> Any:
    """The value, lists made into arrays, or a ValueError."""
    try:
        take_ambient(value, call)
        return _fitted(name, value, hint, call)
    except _MismatchError as expected:
        raise ValueError(f"{name}: expected {expected}, got {_said(value)}") from None


def _fitted(name: str, value: Any, hint: Any, call: Call) -> Any:
    if not is_checkable(hint):
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _with_rules(name, value, arguments, call)
    if origin in (typing.Union, types.UnionType):
        return _one_of_several(name, value, arguments, call)
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return _array(name, value, hint, call)
    if hint is jax.Array:
        _plain_array(name, value, call)
    elif hint in (float, complex):
        _number(name, value, hint)
    elif hint is int:
        _integer(value, least=0)
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
            _fitted(name, part, arguments[0], Call({}, call.finite))
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


def _with_rules(name: str, value: Any, annotated: Sequence[Any], call: Call) -> Any:
    hint, rules = annotated[0], annotated[1:]
    if hint is int:
        _integer(value, next((rule.least for rule in rules if isinstance(rule, AtLeast)), 0))
        return value
    fitted = _fitted(name, value, hint, call)
    for rule in rules:
        refusal = _refusal(rule, fitted, call)
        if refusal is not None:
            raise _MismatchError(refusal)
    return fitted


def _integer(value: Any, least: int | float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise _MismatchError("an integer")
    if value < least:
        raise _MismatchError(f"an integer of at least {least}")


def _refusal(rule: Any, value: Any, call: Call) -> str | None:
    """What a rule expected instead; of tracers nothing is known."""
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(value)):
        return None
    if isinstance(rule, AtLeast):
        return rule.refusal(value)
    if isinstance(rule, Coordinates) and "k" in call.sizes:
        return rule.refusal(value, call.sizes["k"][0])
    return None


def _one_of_several(name: str, value: Any, hints: Sequence[Any], call: Call) -> Any:
    wanted: list[str] = []
    # a number stays a number, a tuple a tuple and an array of the host stays there, if they may
    plain = isinstance(value, int | float | complex)
    best = (int, float, complex, type(value)) if plain else (type(value),)
    for hint in sorted(hints, key=lambda hint: _type(hint) not in best):
        try:
            return _fitted(name, value, hint, call)
        except _MismatchError as expected:
            wanted += [] if str(expected) in wanted else [str(expected)]
    raise _MismatchError(" or ".join(wanted))


def _type(hint: Any) -> Any:
    """What values of an annotation are, in the first place."""
    if typing.get_origin(hint) is Annotated:
        return _type(typing.get_args(hint)[0])
    return getattr(hint, "array_type", typing.get_origin(hint) or hint)


def _plain_array(name: str, value: Any, call: Call) -> None:
    if not isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        raise _MismatchError("an array")
    if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.dtype.kind in "OSUmM":
        raise _MismatchError("an array of numbers")
    _refuse_nan(name, value, call)


def _array(name: str, value: Any, hint: Any, call: Call) -> Any:
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


def _fits(name: str, shape: tuple[int, ...], axes: list[str], call: Call) -> bool:
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


def _known(axes: list[str], call: Call) -> str:
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


def _tuple(name: str, value: Any, parts: tuple[Any, ...], call: Call) -> None:
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


def _is_integer(value: Any) -> bool:
    if isinstance(value, jax.Array | np.ndarray):
        return value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.integer)
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _instance(name: str, value: Any, hint: type, call: Call) -> None:
    protocol = getattr(hint, "_is_protocol", False)
    if protocol and not getattr(hint, "_is_runtime_protocol", False):
        return
    fits = isinstance(value, hint)
    if not fits:
        raise _MismatchError(
            f"an object like {hint.__name__}" if protocol else f"a {hint.__name__}"
        )
    if getattr(hint, "_fields_are_checked", False):
        for field, kind in hint.__annotations__.items():
            found = getattr(value, field)
            if isinstance(found, jax.Array | np.ndarray):
                try:
                    _array(f"{name}.{field}", found, kind, call)
                except _MismatchError as expected:
                    message = f"{name}.{field}: expected {expected}, got {_said(found)}"
                    raise ValueError(message) from None


def take_ambient(value: Any, call: Call) -> None:
    """What belongs to one hypersurface has as many homogeneous coordinates as it."""
    about = getattr(value, "manifold", value)
    found = getattr(about, "ambient", None)
    if not isinstance(found, int):
        return
    known, where = call.sizes.setdefault("k", (found, f"the {type(about).__name__}"))
    if known != found:
        raise _MismatchError(f"something with {known} homogeneous coordinates as in {where}")


def _refuse_nan(name: str, value: Any, call: Call) -> None:
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
