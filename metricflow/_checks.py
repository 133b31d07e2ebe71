"""Checks at the front door: say what came, what was expected, and what to do about it."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

AnyArray = Array | np.ndarray


def is_traced(*trees: object) -> bool:
    """True if any leaf is a tracer: its values cannot be looked at, only its shape and dtype."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def homogeneous_coordinates(name: str, z: AnyArray, ambient: int | None = None) -> Array:
    """Return ``z`` as a jax array after checking that it can be points of projective space."""
    z = jnp.asarray(z)
    expected = f"complex homogeneous coordinates of shape (..., {ambient or 'n+2'})"
    if z.ndim < 1 or not jnp.issubdtype(z.dtype, jnp.complexfloating):
        raise ValueError(
            f"{name}: expected {expected}, got {z.dtype} of shape {z.shape}; "
            "convert with jnp.asarray(z, complex) or pass z = x + 1j * y"
        )
    if ambient is not None and z.shape[-1] != ambient:
        raise ValueError(f"{name}: expected {expected}, got shape {z.shape}")
    if z.size == 0:
        raise ValueError(f"{name}: expected at least one point, got an empty array {z.shape}")
    return z


def count_where(condition: Callable[[Any, Any], Any], x: AnyArray | np.generic) -> int:
    """How many entries of a concrete array fulfil a condition, on whatever devices they lie.

    Args:
        condition: of numpy or jax.numpy, whichever is at hand there, and the array.
        x: the array.
    """
    if isinstance(x, np.ndarray | np.generic) or (
        x.is_fully_addressable and next(iter(x.devices())).platform == "cpu"
    ):
        return int(np.count_nonzero(condition(np, np.asarray(x))))
    # an array of numbers is looked at even while something else is being traced
    with jax.ensure_compile_time_eval():
        return int(jnp.sum(condition(jnp, x)))


def finite(name: str, x: AnyArray | np.generic) -> None:
    """Raise ValueError if a concrete array holds NaN or infinity (tracers pass)."""
    if is_traced(x):
        return
    bad = count_where(lambda numpy, x: ~numpy.isfinite(x), x)
    if bad:
        raise ValueError(f"{name}: {bad} of {x.size} entries are NaN or infinite; remove them")


def finite_tree(name: str, tree: Any) -> None:
    """The same for all arrays of floating point numbers in a tree."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, float | jax.Array | np.ndarray):
            x = jnp.asarray(leaf)
            if jnp.issubdtype(x.dtype, jnp.inexact):
                finite(name + jax.tree_util.keystr(path), x)


def scaled_coordinates(name: str, z: Array, chart: tuple[int, int]) -> None:
    """Raise ValueError if concrete points are not scaled as in a chart (tracers pass)."""
    scaled = chart[0]
    if is_traced(z):
        return
    with jax.ensure_compile_time_eval():
        other = bool(jnp.any(jnp.abs(z[:, scaled] - 1) > 1e-3))
    if other:
        raise ValueError(
            f"{name}: expected points of chart {chart}, with coordinate {scaled} equal to 1; "
            "sample them with sample_points_in_chart"
        )


def positive_integer(name: str, value: int) -> int:
    """Return ``value`` if it is an integer of at least one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    return int(value)


def natural_number(name: str, value: int) -> None:
    """Raise ValueError unless it is an integer of at least zero."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"{name}: expected an integer of at least 0, got {value!r}")


def nonnegative_number(name: str, value: object) -> None:
    """Raise ValueError unless a concrete number is finite and at least zero (tracers pass)."""
    if not is_traced(value) and not (np.all(np.isfinite(value)) and np.all(np.asarray(value) >= 0)):  # type: ignore[call-overload]
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")


def one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Raise ValueError unless it is one of the allowed names."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {tuple(allowed)}, got {value!r}")


def real_parameters(parameters: Any) -> Any:
    """A tree of real floating point numbers as jax arrays.

    Raises:
        ValueError: no array, or one of other numbers, NaN or infinity.
    """
    parameters = jax.tree.map(jnp.asarray, parameters)
    leaves = jax.tree.leaves(parameters)
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise ValueError(
            "parameters: expected a tree of real floating point arrays, got "
            f"{[str(leaf.dtype) for leaf in leaves]}"
        )
    finite_tree("parameters", parameters)
    return parameters


def positive_number(name: str, value: object) -> None:
    """Raise ValueError unless a concrete number is finite and above zero (tracers pass)."""
    if not is_traced(value) and not (np.all(np.isfinite(value)) and np.all(np.asarray(value) > 0)):  # type: ignore[call-overload]
        raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")


def real_dtype(dtype: object) -> np.dtype:
    """Return the real working dtype: float32 or float64, the default following jax's x64 switch."""
    if dtype is None:
        return np.dtype(jnp.result_type(float))
    found = np.dtype(dtype)  # type: ignore[call-overload]
    if found not in (np.dtype("float32"), np.dtype("float64")):
        raise ValueError(f"dtype: expected float32 or float64, got {found}")
    if found == np.dtype("float64") and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(
            "dtype: float64 was asked for but jax runs in float32; call "
            "jax.config.update('jax_enable_x64', True) at the top of the program"
        )
    return found
