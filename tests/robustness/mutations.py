"""Bad values for the arguments of a valid call, and what became of a bad call."""

import inspect
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from beartype.door import is_bearable
from jaxtyping import jaxtyped

import metricflow
from metricflow import geometry
from metricflow.flows import FlowError

ROOT = Path(metricflow.__file__).parent
# what the library raises itself, on purpose
DOCUMENTED = (ValueError, TypeError, OSError, FloatingPointError, np.linalg.LinAlgError, FlowError)


class Bad(NamedTuple):
    """A call that must not come back: ``kind`` of mistake in ``argument``."""

    call: Any
    argument: str
    kind: str
    value: Any


class Outcome(NamedTuple):
    """One line, foreign (raised outside of the library), long, accepted, or nan."""

    verdict: str
    text: str


def is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray)


def is_key(value: Any) -> bool:
    return is_array(value) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def with_first_entry(array: Any, entry: float) -> Any:
    changed = np.array(array)
    changed.flat[0] = entry
    return jnp.asarray(changed)


def of_arrays(array: Any) -> Iterator[tuple[str, Any]]:
    for value in ("text", None, {}, [[1.0], [2.0, 3.0]]):
        yield "wrong type", value
    yield "wrong dtype", np.array(["a"])
    if array.ndim:
        yield "wrong shape", array[None]
        yield "wrong shape", array[..., None]
        yield "wrong shape", array[0]
        yield "wrong number of points", jnp.concatenate([array, array[:1]])
        if array.shape[-1] > 1:
            yield "wrong shape", array[..., :-1]
    if jnp.issubdtype(array.dtype, jnp.inexact) and array.size:
        for entry in (np.nan, np.inf):
            yield "not finite", with_first_entry(array, entry)
    like = np.asarray if isinstance(array, np.ndarray) else jnp.asarray
    other = float if jnp.iscomplexobj(array) else complex
    yield "wrong dtype", like(np.array(array).real.astype(other))
    yield "wrong dtype", like(np.array(array).real.astype(bool))


def of_numbers(value: float) -> Iterator[tuple[str, Any]]:
    for wrong in ("text", None, 1j, [], {}):
        yield "wrong type", wrong
    yield "not finite", float("nan")
    if isinstance(value, int):
        yield "wrong type", value + 0.5
        yield "out of range", -(10**6)
    elif value > 0:
        yield "out of range", -value


def of_charts(chart: Any) -> Iterator[tuple[str, Any]]:
    for wrong in ((0, 0), (0, 99), (-1, 2), (0, 1, 2)):
        yield "no such coordinate", wrong


def of_points(points: geometry.Points) -> Iterator[tuple[str, Any]]:
    for wrong in ("text", None, points.z, 3):
        yield "wrong type", wrong
    for field in ("z", "weight", "omega2"):
        array = getattr(points, field)
        yield "not finite", points._replace(**{field: with_first_entry(array, np.nan)})
        yield "wrong number of points", points._replace(**{field: array[:-1]})
    yield "wrong shape", points._replace(z=points.z[:, :-1])
    yield "wrong shape", points._replace(pullback=points.pullback[..., :-1])
    yield "wrong dtype", points._replace(z=points.z.real)


def mutations(value: Any, material: Any) -> Iterator[tuple[str, Any]]:
    """(kind, other value): most of them are bad, which annotations and kinds decide."""
    if isinstance(value, bool):
        yield "wrong type", "text"
    elif is_key(value):
        for wrong in (0, "text", None, jnp.zeros(3)):
            yield "wrong type", wrong
    elif isinstance(value, geometry.Points):
        yield from of_points(value)
    elif is_array(value):
        yield from of_arrays(value)
        if value.ndim == 2 and value.shape[1] == 2 and value.dtype == int:
            yield from of_charts(value)
    elif is_number(value):
        yield from of_numbers(value)
    elif isinstance(value, str):
        yield "unknown name", "no such name"
        yield "wrong type", 3
        yield "wrong type", None
    elif isinstance(value, geometry.Hypersurface):
        for wrong in ("fermat", None, 3):
            yield "wrong type", wrong
        yield "another dimension", material.other
    elif isinstance(value, tuple | list):
        yield "wrong type", "text"
        yield "wrong type", 3.5
        yield "wrong type", None
        if type(value) is tuple and value == (0, 2):
            yield from of_charts(value)
        if value and all(map(is_number, value)):
            yield "wrong type", ("a",) * len(value)
            yield "not finite", (float("nan"),) * len(value)
    else:
        for wrong in ("text", None, 3):
            yield "wrong type", wrong


def fits(signature: inspect.Signature, bound: inspect.BoundArguments) -> bool:
    """Whether a call agrees with its annotations, by jaxtyping and beartype."""
    with jaxtyped("context"):
        return all(
            signature.parameters[name].annotation is inspect.Parameter.empty
            or isinstance(signature.parameters[name].annotation, str)
            or is_bearable(value, signature.parameters[name].annotation)
            for name, value in bound.arguments.items()
        )


def bad_calls(call: Any, material: Any) -> Iterator[Bad]:
    """All of one function.  A call that fits its annotations is bad if its kind says so."""
    signature = inspect.signature(call.function)
    bound = signature.bind(*call.arguments, **call.options)
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        for kind, wrong in mutations(value, material):
            changed = signature.bind(*call.arguments, **call.options)
            changed.arguments[name] = wrong
            given = Bad(call, name, kind, changed)
            if kind == "unknown name" and (name in FREE_NAMES or call.room == "plotting"):
                continue
            if call.name.endswith("step") and (name, kind) == ("dt", "out of range"):
                continue  # a single step may go backwards, a run may not
            if kind == "not finite" and call.name in NAN_STAYS and name == "w":
                continue
            always = kind in ("not finite", "unknown name", "no such coordinate")
            tied = kind == "another dimension" and bound.arguments.keys() & TIED
            positive = kind == "out of range" and (isinstance(value, int) or name in POSITIVE)
            if always or tied or (positive and name not in SIGNED) or not fits(signature, changed):
                yield given


# of each weight alone, NaN for NaN: tests/discretize/test_quantizers.py
NAN_STAYS = {"binary", "clipped", "quantize"}
# any text will do
FREE_NAMES = {"path", "label"}
# what has to be of the same hypersurface
TIED = {"z", "points", "basis", "sections"}
# numbers that have a sign, of which annotations say nothing
POSITIVE = {"width", "widths", "tau", "dt", "step_size", "power", "safety", "lengths"}
SIGNED = {"axis", "rows", "columns", "seed"}


def run(bad: Bad) -> Outcome:
    jax.config.update("jax_traceback_filtering", "off")  # to see where it was raised
    try:
        found = bad.call.function(*bad.value.args, **bad.value.kwargs)
        leaves = jax.tree.leaves(jax.block_until_ready(found))
    except DOCUMENTED as error:
        inner = traceback.extract_tb(error.__traceback__)[-1].filename
        text = str(error)
        if not Path(inner).is_relative_to(ROOT):
            return Outcome("foreign", f"{type(error).__name__} in {inner}: {text[:200]}")
        if len(text.splitlines()) != 1 or len(text) > 400:
            return Outcome("long", text[:300])
        return Outcome("one line", text)
    except Exception as error:
        inner = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome("foreign", f"{type(error).__name__} in {inner.filename}: {str(error)[:200]}")
    for leaf in leaves:
        if is_array(leaf) and not is_key(leaf) and np.any(np.isnan(np.asarray(leaf, complex))):
            return Outcome("nan", "")
    return Outcome("accepted", "")
