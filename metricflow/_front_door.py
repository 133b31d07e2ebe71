"""The front door of a room: public calls are held against their annotations before they begin.

The annotations say it all: ``z: Complex[AnyArray, "b k"]`` is a complex array with two axes.
Without this, a wrong shape would surface somewhere inside jax or broadcast to a wrong number, and
NaN would come out as NaN.  Only what users import from a room is held against its annotations;
modules inside call each other as they are.
"""

import functools
import inspect
import re
import typing
import warnings
from collections.abc import Collection, Iterator
from typing import Any

from ._annotation_checks import Call, checked, is_checkable, take_ambient

# where functions draw, read and write, and are not called to hear what they say
_READERS = ("catalogue", "cifar", "idx", "image_folder", "image_stream")
_WITH_EFFECTS = tuple(
    f"metricflow.{place}"
    for place in (
        *("checkpoint", "plotting", "records", "training"),
        *(f"data.{name}" for name in _READERS),
    )
)


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
    def through_the_door(*args: Any, **options: Any) -> Any:
        call = Call({}, finite)
        if method and args:
            take_ambient(args[0], call)
        given, named = list(args), dict(options)
        try:
            for place, name in enumerate(order[: len(given)]):
                if name in hints:
                    given[place] = checked(name, given[place], hints[name], call)
            for name in options:
                if name in hints:
                    named[name] = checked(name, options[name], hints[name], call)
        except ValueError:
            if pure:
                _own_words(function, args, options)
            raise
        return function(*given, **named)

    through_the_door._has_front_door = True  # type: ignore[attr-defined]
    if hasattr(function, "lower"):
        through_the_door.lower = function.lower  # type: ignore[attr-defined]
    return through_the_door


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
    empty, hint = inspect.Parameter.empty, parameter.annotation
    return (
        parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in ("self", "parent")
        and hint is not empty
        and is_checkable(hint)
    )


def public_functions(room: dict[str, Any]) -> Iterator[str]:
    """Names of a module that has no ``__all__``: what it defines itself."""
    for name, found in room.items():
        own = getattr(found, "__module__", None) == room["__name__"]
        if own and not name.startswith("_") and callable(found):
            yield name
