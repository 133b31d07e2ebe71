"""Work divided among devices, of one machine or of many, on jax's own distributed arrays.

A mesh is a row of devices.  While one is in use,

    with jax.set_mesh(metricflow.devices.mesh(8)):
        points = metricflow.geometry.sample_points(key, manifold, 80_000)
        state, info, _ = flow.run(flow.init(points), 50)

whatever this library does point by point, pair by pair or example by example is divided among the
devices of its axis ``"points"``, and everything else is done by all of them alike.  Programs are
those of one device, and give the same numbers up to the order of sums.  Arrays with the points
first are spread over the memory of the devices if their length is a multiple of the devices'
number; with any other length each device holds all of them, and only the work is divided.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from . import _checks
from ._threads import threads_of_processors

AXIS = "points"


def mesh(count: int | None = None) -> Mesh:
    """A row of devices to be used with ``jax.set_mesh``; its axis is called ``"points"``.

    Args:
        count: how many devices; all of them, those of other processes included, by default.

    Raises:
        ValueError: more devices than there are, or some of another process left out; processors
            that stand for more devices than jax has threads for, which could wait for each other
            for ever (the environment variable ``NPROC`` is the number of threads).
    """
    devices = jax.devices()
    count = len(devices) if count is None else _checks.positive_integer("count", count)
    if count > len(devices):
        raise ValueError(
            f"count: expected at most {len(devices)} devices, got {count}; processors stand for "
            'several with jax.config.update("jax_num_cpu_devices", n) before anything is computed'
        )
    if count < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"count: expected all {len(devices)} devices of the {jax.process_count()} processes, "
            f"got {count}"
        )
    local = jax.local_device_count()
    threads = max(threads_of_processors(), local)
    if devices[0].platform == "cpu" and local > 1 and threads <= count:
        raise ValueError(
            f"count: {count} devices on processors with {threads} threads may wait for each other "
            f'for ever; set os.environ["NPROC"] = "{4 * count}" before jax computes anything'
        )
    return Mesh(np.array(devices[:count]), (AXIS,), axis_types=(AxisType.Auto,))


def sharing() -> int:
    """How many devices divide the work at this place of a program.

    1 without a mesh, with one that has no axis ``"points"``, and within the part of one device.

    Raises:
        ValueError: the axis is one of those whose shardings are part of the types (explicit).
    """
    current = jax.sharding.get_abstract_mesh()
    if current.empty or AXIS not in current.axis_names or AXIS in current.manual_axes:
        return 1
    if AXIS in current.explicit_axes:
        raise ValueError(
            f"mesh: expected an automatic axis {AXIS!r}, got an explicit one; make the mesh with "
            "metricflow.devices.mesh"
        )
    return current.shape[AXIS]


def divide(tree: Any, axis: int = 0) -> Any:
    """Arrays spread over the devices of the mesh in use, along one axis.

    Arrays whose length is no multiple of the devices' number stay as they are.
    """
    count = sharing()
    if count == 1:
        return tree

    def spread(leaf: Any) -> Any:
        if jnp.ndim(leaf) <= axis or leaf.shape[axis] % count:
            return leaf
        return _placed(leaf, _along(axis))

    return jax.tree.map(spread, tree)


def everywhere(tree: Any) -> Any:
    """Arrays of which each device of the mesh in use has all."""
    if sharing() == 1:
        return tree
    return jax.tree.map(lambda leaf: _placed(leaf, PartitionSpec()), tree)


def by_rows(
    function: Callable[..., Any],
    *trees: Any,
    whole: tuple[Any, ...] = (),
    axis: int = 0,
    out_axis: int = 0,
) -> Any:
    """``function`` of the rows of each device, the results joined: the work of rows divided.

    Args:
        function: of trees like the given ones, with fewer rows, and of ``whole``; its results have
            a row for each.
        trees: arrays with the rows along ``axis``; the last row fills up those of the last devices.
        whole: more arguments, the same for all devices.  (jax cannot index arrays of a mesh that a
            divided function closes over.)
        axis, out_axis: where the rows are in what comes and in what goes.
    """
    count = sharing()
    if count == 1:
        return function(*trees, *whole)
    rows = jax.tree.leaves(trees)[0].shape[axis]
    total = -(-rows // count) * count
    filled = jax.tree.map(lambda x: filled_up(x, total, axis), trees)
    found = on_each(function, *filled, whole=whole, axis=axis, out_axis=out_axis)
    if total == rows:
        return found
    return jax.tree.map(lambda x: jax.lax.slice_in_dim(x, 0, rows, axis=out_axis), found)


def on_each(
    function: Callable[..., Any],
    *trees: Any,
    whole: tuple[Any, ...] = (),
    axis: int = 0,
    out_axis: int | tuple[int | None, ...] | None = 0,
) -> Any:
    """Like :func:`by_rows` for a number of rows that is a multiple of the devices'.

    ``out_axis`` is None for results that are the same on all devices, and may be a tuple.
    """
    specs = (_along(axis),) * len(trees) + (PartitionSpec(),) * len(whole)
    if isinstance(out_axis, tuple):
        out_specs: Any = tuple(_along(place) for place in out_axis)
    else:
        out_specs = _along(out_axis)
    divided = jax.shard_map(function, in_specs=specs, out_specs=out_specs, check_vma=False)
    return divided(*trees, *whole)


def summed(function: Callable[..., Any], tree: Any, whole: tuple[Any, ...] = ()) -> Any:
    """``function`` of the rows of each device, the results added up.

    Args:
        function: of a tree like the given one, with fewer rows, and of ``whole``; its results are
            sums over them.
        tree: arrays with the rows first.
        whole: more arguments, the same for all devices.
    """
    count = sharing()
    if count == 1:
        return function(tree, *whole)
    rows = len(jax.tree.leaves(tree)[0])
    even = rows // count * count

    def own(tree: Any, *whole: Any) -> Any:
        return jax.lax.psum(function(tree, *whole), AXIS)

    total = None
    if even:
        total = on_each(own, jax.tree.map(lambda x: x[:even], tree), whole=whole, out_axis=None)
    if even == rows:
        return total
    rest = function(jax.tree.map(lambda x: x[even:], tree), *whole)
    return rest if total is None else jax.tree.map(jnp.add, total, rest)


def filled_up(x: Any, total: int, axis: int = 0) -> jax.Array:
    """An array with its last row repeated until there are ``total`` of them."""
    x = jnp.asarray(x)
    if x.shape[axis] == total:
        return x
    index = jnp.minimum(jnp.arange(total), x.shape[axis] - 1)
    return x[(slice(None),) * axis + (index,)]


def _placed(leaf: Any, spec: PartitionSpec) -> jax.Array:
    if _checks.is_traced(leaf):
        return jax.lax.with_sharding_constraint(leaf, spec)
    return jax.device_put(leaf, NamedSharding(jax.sharding.get_mesh(), spec))


def _along(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)
