"""Every public function under jit, vmap, derivatives, and in single and double precision.

The tables in ``calls/`` hold a call for every public name, or the reason why there is none.
"""

import importlib
import inspect
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metricflow
from tests.robustness.calls.call import Call
from tests.tolerances import tolerance

ROOMS = (
    "geometry",
    "ansatz",
    "energies",
    "diagnostics",
    "kernels",
    "clustering",
    "discretize",
    "flows",
    "optim",
    "checkpoint",
    "records",
    "data",
    "training",
    "plotting",
    "devices",
    "processes",
)
COMMAND = (
    "METRICFLOW_TRANSFORMATIONS_JSON=docs/results/transformations.json "
    "python -m pytest -m heavy tests/robustness/test_transformations.py"
)


def table(room: str) -> ModuleType:
    return importlib.import_module(f"tests.robustness.calls.{room}")


def public(room: str) -> dict[str, Any]:
    """Names of a room: those it lists, or all that it defines."""
    module = importlib.import_module(f"metricflow.{room}")
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return {name: getattr(module, name) for name in names}


def methods(cls: type) -> list[str]:
    """Public methods that the class itself defines; calling an object is in the name itself."""
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_") and inspect.isfunction(value)
    ]


def wanted(room: str) -> set[str]:
    """What the tables of a room have to hold: functions, classes, and methods of classes."""
    found = set()
    for name, value in public(room).items():
        found.add(name)
        if inspect.isclass(value) and not issubclass(value, tuple):
            found |= {f"{name}.{method}" for method in methods(value)}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_in_one_table(room):
    calls, reasons = table(room).CALLS, table(room).NOT_APPLICABLE
    names = wanted(room)
    assert names - {*calls, *reasons} == set(), "enter them in tests/robustness/calls"
    assert {*calls, *reasons} - names == set(), "there are no such names"
    assert set(calls) & set(reasons) == set()
    assert all(reasons.values())


ROOM_CHECKS = "checks of a call"
CHECKS = ("jit", "vmap", "grad", "float32", "float64")


def summary(found: dict[str, Counter]) -> dict[str, Any]:
    """What was checked, by room."""
    rooms = {}
    for room in ROOMS:
        calls, reasons = table(room).CALLS, table(room).NOT_APPLICABLE
        skipped: Counter = Counter(reasons.values())
        checks = found[room]
        rooms[room] = {
            "names": len(public(room)),
            "names and methods": len(wanted(room)),
            "calls": len(calls),
            "calls that passed": checks["calls that passed"],
            "checks": {name: checks[name] for name in (*CHECKS, "forward derivative")},
            "no call": dict(sorted(skipped.items())),
            "check does not apply": {
                name.removeprefix("skip "): number
                for name, number in sorted(checks.items())
                if name.startswith("skip ")
            },
        }
    total: Counter = Counter()
    for room in rooms.values():
        total.update(room["checks"])
    return {
        "command": COMMAND,
        "version": metricflow.__version__,
        "jax": jax.__version__,
        "names": sum(room["names"] for room in rooms.values()),
        "names and methods": sum(room["names and methods"] for room in rooms.values()),
        "calls": sum(room["calls"] for room in rooms.values()),
        "calls that passed": sum(room["calls that passed"] for room in rooms.values()),
        "checks": dict(total),
        "rooms": rooms,
    }


ALL = [(room, name) for room in ROOMS for name in table(room).CALLS]


@pytest.mark.heavy
@pytest.mark.parametrize(("room", "name"), ALL, ids=[f"{r}-{n}" for r, n in ALL])
def test_transformations(room, name, record_property):
    one: Call = table(room).CALLS[name]()
    expected = one.function(*one.arguments)
    assert_finite(expected)
    if "dtype" not in one.skip:
        assert_follows(expected, "float64")
        assert_no_hidden(one, one.arguments, "float64")
    passed = ["float64"]
    passed += ["float32"] if checked_single(one, expected) else []
    if "jit" not in one.skip:
        close(compiled(one)(*one.arguments), expected, "jit", inside(one))
        passed.append("jit")
    if "vmap" not in one.skip:
        check_vmap(one)
        passed.append("vmap")
    how = one.skip.get("grad")
    if how is None or how == "loop":
        check_derivative(one, how == "loop", expected)
        passed.append("grad" if how is None else "forward derivative")
    passed += [f"skip {check}: {reason}" for check, reason in one.skip.items()]
    # read by conftest.py, which writes the summary
    record_property(ROOM_CHECKS, {"room": room, "passed": passed})


def compiled(one: Call) -> Any:
    return one.function if "jit" in one.skip else jax.jit(one.function)


def assert_finite(tree: Any) -> None:
    for leaf in jax.tree.leaves(tree):
        leaf = np.asarray(as_numbers(leaf))
        if leaf.dtype.kind in "fc":
            assert np.all(np.isfinite(leaf)), leaf


def as_numbers(leaf: Any) -> Any:
    """Keys as the integers they consist of."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf


SINGLE = {"float64": "float32", "complex128": "complex64"}


def cast(tree: Any) -> Any:
    """In single precision."""
    return jax.tree.map(
        lambda x: x.astype(SINGLE[str(x.dtype)]) if str(x.dtype) in SINGLE else x, tree
    )


def assert_follows(tree: Any, dtype: str) -> None:
    """Floating point results have the dtype of the input, complex ones that which follows it."""
    allowed = {"float32": {"float32", "complex64"}, "float64": {"float64", "complex128"}}[dtype]
    for leaf in jax.tree.leaves(tree):
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            assert str(leaf.dtype) in allowed, f"{dtype} in, {leaf.dtype} out"


def hidden(jaxpr: Any, wrong: set[str]) -> Iterator[str]:
    """Operations whose result has another precision; numbers without one of their own are none."""
    for equation in jaxpr.eqns:
        for value in equation.outvars:
            aval = value.aval
            if str(getattr(aval, "dtype", "")) in wrong and not getattr(aval, "weak_type", False):
                yield f"{equation.primitive} makes {aval}"
        for parameter in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from hidden(inner, wrong)


def assert_no_hidden(one: Call, arguments: tuple, dtype: str) -> None:
    """No part of the program works in another precision than its input."""
    if "jit" in one.skip or "hidden" in one.skip:
        return
    wrong = set(SINGLE) if dtype == "float32" else set(SINGLE.values())
    found = list(hidden(jax.make_jaxpr(one.function)(*arguments).jaxpr, wrong))
    assert not found, found[:5]


def checked_single(one: Call, expected: Any) -> bool:
    if "dtype" in one.skip:
        return False
    arguments = cast(one.arguments)
    found = compiled(one)(*arguments)
    assert_finite(found)
    assert_follows(found, "float32")
    assert_no_hidden(one, arguments, "float32")
    if "single" not in one.skip:
        close(found, expected, "float32", one.rough * tolerance("algebra", "float32"))
    return True


def inside(one: Call) -> float:
    """How well two compilations of a call in double precision agree."""
    return tolerance("algebra", "float32" if one.skip.get("hidden") == "single" else "float64")


def close(found: Any, expected: Any, what: str, atol: float | None = None) -> None:
    """Relative to the largest entry of every array; integers are equal."""
    atol = tolerance("algebra") if atol is None else atol
    first, second = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        a, b = np.asarray(as_numbers(a)), np.asarray(as_numbers(b))
        assert a.shape == b.shape
        if b.dtype.kind not in "fc":
            np.testing.assert_array_equal(a, b, err_msg=what)
            continue
        scale = np.max(np.abs(b), initial=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol * scale, err_msg=what)


def variants(arguments: tuple, count: int = 3) -> list[tuple]:
    """The arguments, and some beside them; keys are other keys."""
    leaves, structure = jax.tree.flatten(arguments)
    rng = np.random.default_rng(7)
    found = []
    for step in range(count):
        moved = []
        for leaf in leaves:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                moved.append(jax.random.fold_in(leaf, step) if step else leaf)
            elif jnp.issubdtype(leaf.dtype, jnp.inexact):
                moved.append(leaf + 1e-3 * step * direction(rng, leaf))
            else:
                moved.append(leaf)
        found.append(jax.tree.unflatten(structure, moved))
    return found


def direction(rng: np.random.Generator, leaf: jax.Array) -> jax.Array:
    """Random, of the size of the array, real for real arrays; unbounded numbers stay."""
    size = jnp.sqrt(jnp.mean(jnp.abs(leaf) ** 2)) if leaf.size else 1.0
    size = jnp.where(jnp.isfinite(size) & (size > 0), size, jnp.isfinite(size) * 1.0)
    step = rng.normal(size=leaf.shape) * size
    if jnp.iscomplexobj(leaf):
        step = step + 1j * rng.normal(size=leaf.shape) * size
    return jnp.asarray(step, leaf.dtype)


def check_vmap(one: Call) -> None:
    batch = variants(one.arguments)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batch)
    found = jax.jit(jax.vmap(one.function))(*stacked)
    looped = [compiled(one)(*arguments) for arguments in batch]
    close(found, jax.tree.map(lambda *x: jnp.stack(x), *looped), "vmap", inside(one))


STEP = 1e-5


def inexact(tree: Any) -> list:
    return [
        x for x in map(jnp.asarray, jax.tree.leaves(tree)) if jnp.issubdtype(x.dtype, jnp.inexact)
    ]


def check_derivative(one: Call, forward: bool, expected_values: Any) -> None:
    """Along a random direction of all arguments, of a random sum of all results."""
    leaves, structure = jax.tree.flatten(one.arguments)
    moving = [k for k, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]
    rng = np.random.default_rng(3)
    along = [direction(rng, leaves[k]) for k in moving]
    weights, zero = weights_of(inexact(expected_values)), jnp.zeros(())

    def value(*some: jax.Array) -> jax.Array:
        now = list(leaves)
        for k, x in zip(moving, some, strict=True):
            now[k] = x
        out = inexact(one.function(*jax.tree.unflatten(structure, now)))
        return sum((jnp.sum((w * x).real) for w, x in zip(weights, out, strict=True)), zero)

    start = [leaves[k] for k in moving]
    if forward:
        both = jax.jit(lambda x, v: jax.jvp(value, x, v))
        slope = both(tuple(start), tuple(along))[1]
        size = abs(float(slope))
    else:
        both = jax.value_and_grad(lambda x, _: value(*x))
        both = both if "jit" in one.skip else jax.jit(both)
        gradient = both(tuple(start), tuple(along))[1]
        assert_finite(gradient)
        # jax's gradient of a real function of z is d_x - i d_y
        parts = [jnp.real(g * d) for g, d in zip(gradient, along, strict=True)]
        slope = sum(jnp.sum(part) for part in parts)
        size = float(sum(jnp.sum(jnp.abs(part)) for part in parts))
    assert size > 0, "the derivative is zero: nothing was checked"

    def moved(step: float) -> float:
        there = tuple(x + step * d for x, d in zip(start, along, strict=True))
        return float(both(there, tuple(along))[0])

    near, far = moved(STEP) - moved(-STEP), moved(2 * STEP) - moved(-2 * STEP)
    expected = (8 * near - far) / (12 * STEP)
    error = abs(float(slope) - expected) / size
    assert error < tolerance("difference"), (float(slope), expected, size)


def weights_of(leaves: list) -> list[np.ndarray]:
    """A fixed random combination of all entries, each array in units of its own size."""
    rng = np.random.default_rng(11)
    found = []
    for leaf in map(np.asarray, leaves):
        size = np.max(np.abs(leaf), initial=0) or 1.0
        weight = rng.normal(size=leaf.shape) / size
        if leaf.dtype.kind == "c":
            weight = weight + 1j * rng.normal(size=leaf.shape) / size
        found.append(weight)
    return found
