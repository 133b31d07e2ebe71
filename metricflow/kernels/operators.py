"""Kernels as linear operators over point sets: (K v)(x) = sum_b K(x, x_b) v_b.

Points are complex homogeneous coordinates (N, n+2); kernels with ``reads_vectors`` also take real
vectors (N, d).  The tiled operator never holds more than chunk x chunk kernel values; only
functions with *dense* in their name store the N1 x N2 matrix.  Row normalisation divides by
sum_b |K(x, x_b)|; for kernels with a logarithm it runs as a streaming softmax, which cannot
underflow, however narrow the kernel.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from .. import _checks, devices
from .._annotations import Count
from .._checks import AnyArray
from .._pytree import register_dataclass
from .._tiles import carrying, fold_pairs
from ..geometry import nearest_neighbour
from .radial import Delta


@runtime_checkable
class PairKernel(Protocol):
    """A kernel with values for pairs of points.

    It sees complex homogeneous coordinates, or real vectors as well if its class says
    ``reads_vectors = True``.
    """

    def matrix(self, z1: Array, z2: Array) -> Array:
        """K(z1[a], z2[b]) of shape (N1, N2)."""
        ...


@runtime_checkable
class LogKernel(Protocol):
    """A positive kernel that knows its logarithm."""

    def log_matrix(self, z1: Array, z2: Array) -> Array:
        """log K(z1[a], z2[b]) of shape (N1, N2)."""
        ...


@runtime_checkable
class MatrixKernel(Protocol):
    """A kernel that mixes the components: it makes its own operator."""

    def operator(self, z1: Array, z2: Array, *, chunk: int, stored: bool = False) -> "Operator":
        """The linear map from functions at z2 to functions at z1.

        ``stored`` asks to keep what pairs of points need, where a kernel can.
        """
        ...


@runtime_checkable
class Operator(Protocol):
    """A linear map from functions on N2 points to functions on N1 points."""

    def __matmul__(self, v: Any) -> Array:
        """K v of shape (N1, c) for v of shape (N2, c)."""
        ...


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Tiled:
    kernel: Any
    z1: Array
    z2: Array
    normalise: bool = dataclasses.field(metadata={"static": True})
    chunk: Count = dataclasses.field(metadata={"static": True})

    def __matmul__(self, v: Array) -> Array:
        return _streamed(self.kernel, self.z1, self.z2, v, self.normalise, self.chunk)


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Dense:
    matrix: Array

    def __matmul__(self, v: Array) -> Array:
        return jnp.matmul(self.matrix, v, precision=jax.lax.Precision.HIGHEST)


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Gather:
    index: Array

    def __matmul__(self, v: Array) -> Array:
        return v[self.index]


def tiled_operator(
    kernel: PairKernel | MatrixKernel | Delta,
    z1: Num[AnyArray, "b1 k"],
    z2: Num[AnyArray, "b2 k"],
    *,
    normalise: bool = False,
    chunk: Count = 1024,
) -> Operator:
    """The operator that recomputes the kernel in chunk x chunk tiles whenever it is applied.

    Memory is of order N1 + N2 + chunk^2, work N1 N2 kernel values an application.  The delta
    kernel searches its nearest centres once and keeps their indices.

    Args:
        kernel: the kernel.
        z1: where to evaluate, homogeneous coordinates (N1, n+2), or real vectors (N1, d) for a
            kernel with ``reads_vectors``.
        z2: the centres, of the same kind, (N2, n+2) or (N2, d).
        normalise: divide each row by sum_b |K(x, x_b)|.
        chunk: points in a tile.

    Raises:
        ValueError: sets that are empty or do not belong together, real vectors for a kernel that
            does not read them, rows of a kernel that mixes components to be normalised.
    """
    z1, z2 = _check_sets(kernel, z1, z2)
    chunk = _checks.positive_integer("chunk", chunk)
    if isinstance(kernel, MatrixKernel):
        if normalise:
            raise ValueError("normalise: the rows of a kernel that mixes components have no sum")
        return kernel.operator(z1, z2, chunk=chunk)
    if isinstance(kernel, Delta):
        return _Gather(nearest_neighbour(z1, z2, chunk=chunk).indices)
    return _Tiled(kernel, z1, z2, normalise, chunk)


def dense_operator(
    kernel: PairKernel | MatrixKernel | Delta,
    z1: Num[AnyArray, "b1 k"],
    z2: Num[AnyArray, "b2 k"],
    *,
    normalise: bool = False,
) -> Operator:
    """The operator that stores all N1 x N2 kernel values: fast to apply again, for small sets."""
    if isinstance(kernel, MatrixKernel) and not normalise:
        return kernel.operator(*_check_sets(kernel, z1, z2), chunk=1024, stored=True)
    if isinstance(kernel, Delta | MatrixKernel):
        return tiled_operator(kernel, z1, z2, normalise=normalise)
    return _Dense(dense(kernel, z1, z2, normalise=normalise))


def apply(
    kernel: PairKernel | MatrixKernel | Delta,
    z1: Num[AnyArray, "b1 k"],
    z2: Num[AnyArray, "b2 k"],
    v: Float[AnyArray, "b2 c"],
    *,
    normalise: bool = False,
    chunk: Count = 1024,
) -> Float[Array, "b1 c"]:
    """sum_b K(z1_a, z2_b) v_b in tiles, the kernel matrix never stored.

    Raises:
        ValueError: sets or values whose shapes do not belong together, empty sets.

    Source: MF 2.12 (its right-hand side).
    """
    v = jnp.asarray(v)
    if v.ndim != 2 or v.shape[0] != len(z2):
        raise ValueError(f"v: expected shape ({len(z2)}, c), a row for each centre, got {v.shape}")
    return tiled_operator(kernel, z1, z2, normalise=normalise, chunk=chunk) @ v


def dense(
    kernel: PairKernel | MatrixKernel | Delta,
    z1: Num[AnyArray, "b1 k"],
    z2: Num[AnyArray, "b2 k"],
    *,
    normalise: bool = False,
) -> Float[Array, "b1 b2"]:
    """The N1 x N2 matrix K(z1_a, z2_b)."""
    z1, z2 = _check_sets(kernel, z1, z2)
    if isinstance(kernel, MatrixKernel):
        raise ValueError(
            "kernel: one that mixes components has no N1 x N2 matrix; use tiled_operator, or "
            "metric_ntk for its blocks"
        )
    if isinstance(kernel, Delta):
        index = nearest_neighbour(z1, z2).indices
        return (index[:, None] == jnp.arange(len(z2))).astype(z1.real.dtype)
    return _dense_matrix(kernel, devices.divide(z1), z2, normalise)


@jax.jit(static_argnames="normalise")
def _dense_matrix(kernel: Any, z1: Array, z2: Array, normalise: bool) -> Array:
    if normalise and isinstance(kernel, LogKernel):
        return jax.nn.softmax(kernel.log_matrix(z1, z2), axis=1)
    matrix = kernel.matrix(z1, z2)
    return matrix / jnp.sum(jnp.abs(matrix), axis=1, keepdims=True) if normalise else matrix


@jax.jit(static_argnames=("normalise", "chunk"))
def _streamed(kernel: Any, z1: Array, z2: Array, v: Array, normalise: bool, chunk: int) -> Array:
    logarithmic = normalise and isinstance(kernel, LogKernel)
    dtype = jnp.result_type(v.dtype, z1.real.dtype)

    def start(z: Array) -> tuple[Array, Array, Array]:
        return (
            jnp.zeros((len(z), v.shape[1]), dtype),
            jnp.zeros(len(z), dtype),
            jnp.full(len(z), -jnp.inf, dtype),
        )

    def add(
        kernel: Any,
        so_far: tuple[Array, Array, Array],
        z: Array,
        column: tuple[Array, Array],
        there: Array,
    ) -> tuple[Array, Array, Array]:
        total, size, top = so_far
        w, u = column
        if logarithmic:
            exponent = jnp.where(there, kernel.log_matrix(z, w), -jnp.inf)
            new_top = jnp.maximum(top, jnp.max(exponent, axis=1))
            # a tile of nothing but filling leaves the top at minus infinity
            finite = jnp.where(jnp.isfinite(new_top), new_top, 0)
            matrix = jnp.exp(exponent - finite[:, None])
            shrink = jnp.exp(top - finite)
            total, size, top = total * shrink[:, None], size * shrink, new_top
        else:
            matrix = kernel.matrix(z, w)
        u = jnp.where(there[:, None], u, 0)
        total = total + jnp.matmul(matrix, u, precision=jax.lax.Precision.HIGHEST)
        if normalise:
            size = size + jnp.sum(jnp.where(there, jnp.abs(matrix), 0), axis=1)
        return total, size, top

    def finish(found: tuple[Array, Array, Array]) -> Array:
        total, size, _ = found
        return total / size[:, None] if normalise else total

    return fold_pairs(start, carrying(add, kernel), finish, z1, (z2, v), chunk)


def check_registered(name: str, kernel: object) -> None:
    """Compiled programs take kernels as arguments.

    Raises:
        ValueError: the kernel, or one inside it, is no pytree.
    """
    for leaf in jax.tree.leaves(kernel):
        if isinstance(leaf, PairKernel):
            raise ValueError(
                f"{name}: {type(leaf).__name__} is no pytree, and kernels enter compiled code as "
                "arguments; make it a dataclass and decorate it with metricflow.register_dataclass"
            )


def _check_sets(kernel: Any, z1: AnyArray, z2: AnyArray) -> tuple[Array, Array]:
    if not isinstance(kernel, PairKernel | MatrixKernel | Delta):
        raise ValueError(
            "kernel: expected an object with a method matrix(z1, z2), or operator(z1, z2, ...) if "
            f"it mixes components, got {type(kernel).__name__}"
        )
    check_registered("kernel", kernel)
    if getattr(kernel, "reads_vectors", False) and not jnp.iscomplexobj(z1):
        first, second = jnp.asarray(z1), jnp.asarray(z2)
        real = all(jnp.issubdtype(z.dtype, jnp.floating) for z in (first, second))
        if not real or min(first.size, second.size) == 0 or first.shape[-1:] != second.shape[-1:]:
            raise ValueError(
                "z1, z2: expected two sets of real vectors (N, d) of the same d, not empty, got "
                f"{first.dtype} of shape {first.shape} and {second.dtype} of shape {second.shape}"
            )
    else:
        first = _checks.homogeneous_coordinates("z1", z1)
        second = _checks.homogeneous_coordinates("z2", z2, first.shape[-1])
    if first.ndim != 2 or second.ndim != 2:
        raise ValueError(f"z1, z2: expected shape (N, n+2), got {first.shape} and {second.shape}")
    return first, second
