"""Quantised weights in as many bits as they have, and back to the very same numbers.

What is stored is the number of the level, and the scale of the array or of each channel.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from .. import _checks
from .._annotations import Signed
from .._checks import AnyArray
from .._pytree import register_dataclass
from .quantizers import mean_abs_scale, quantize


@register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedArray:
    """An array of quantised weights.

    Attributes:
        codes: the levels, from -1 up numbered from 0, of all weights in C order, ``bits`` bits
            each without gaps, the lowest bit first.
        scale: what the levels are multiplied with; broadcasts against ``shape``.
        shape: of the weights.
        bits: of one weight, 1 to 8.

    Raises:
        ValueError: parts that do not fit together.
    """

    codes: UInt8[AnyArray, " bytes"]
    scale: Float32[AnyArray, "..."]
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    bits: int = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        _fits_together(self)


def pack(
    w: Float[AnyArray, "*s"], bits: int, *, scaled: bool = True, axis: Signed | None = None
) -> PackedArray:
    """Q^k(w) of latent weights, packed.

    Args:
        w: latent weights; other precisions are rounded to float32 first.
        bits: k, 1 to 8.
        scaled: with the scale of :func:`quantize`; otherwise the levels in [-1, 1] themselves.
        axis: of the channels, each with its own maximum and scale; None for one of the array.

    Returns:
        What :func:`unpack` makes ``quantize(w, bits, scaled=scaled, axis=axis)`` of, to the bit.
        (Compiled code may round differently: to the bit it is the quantiser called by itself, not
        in the middle of a compiled function.  If this function is compiled, weights that cannot be
        packed give a scale of NaN.)

    Raises:
        ValueError: weights that are not real floating point, not finite or none at all, bits out
            of range, no such axis.

    Source: RF 33, RF 34
    """
    return _pack("w", w, bits, scaled, axis)


def unpack(packed: PackedArray) -> Float32[Array, "..."]:
    """The quantised weights; the same bits whether compiled or not.

    Raises:
        ValueError: parts that do not fit together, such as codes of the wrong length.
    """
    _fits_together(packed)
    return _decode(packed)


def packed_bytes(packed: PackedArray) -> int:
    """Bytes of the codes and of the scales."""
    return tree_bytes((packed.codes, packed.scale))


def pack_tree(
    params: Any,
    select: Callable[[str], bool],
    bits: int,
    *,
    scaled: bool = True,
    axis: Signed | None = None,
) -> Any:
    """A tree of weights with some of them packed, the others as float32.

    Args:
        params: latent weights.
        select: whether to pack a leaf, from its path, such as ``stage1_block0/conv1/kernel``.
        bits, scaled, axis: see :func:`pack`; -1 is the axis of the output channels of kernels.

    Raises:
        ValueError: as :func:`pack`, with the path.
    """

    def packed(path: Any, leaf: Any) -> PackedArray | Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if select(name):
            return _pack(name or "the root", leaf, bits, scaled, axis)
        return _in_float32(name or "the root", leaf)

    return jax.tree_util.tree_map_with_path(packed, params)


def unpack_tree(tree: Any) -> Any:
    """The tree with float32 arrays in the place of what is packed."""
    return jax.tree.map(
        lambda leaf: unpack(leaf) if isinstance(leaf, PackedArray) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, PackedArray),
    )


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays in a tree, packed or not; of shapes from ``jax.eval_shape`` too."""
    return sum(
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
    )


def _pack(name: str, w: AnyArray, bits: int, scaled: bool, axis: Signed | None) -> PackedArray:
    bits = _in_range(bits)
    w = _in_float32(name, w)
    if w.size == 0:
        raise ValueError(f"{name}: expected at least one weight, got shape {w.shape}; leave it out")
    if not _checks.is_traced(w):
        with jax.ensure_compile_time_eval():
            if not _is_finite(mean_abs_scale(w, axis=axis)):
                raise ValueError(
                    f"{name}: holds NaN or infinite numbers, or its mean absolute value overflows, "
                    "and cannot be packed; look where the weights stopped being finite"
                )
    q, size = quantize(w, bits, axis=axis), mean_abs_scale(w, axis=axis)
    scale = size / mean_abs_scale(q, axis=axis) if scaled else jnp.ones((1,) * w.ndim, w.dtype)
    scale = jnp.where(_is_finite(size), scale, jnp.nan)
    return PackedArray(_encode(q, bits), scale, w.shape, bits)


@functools.partial(jax.jit, static_argnames="bits")
def _encode(q: Array, bits: int) -> Array:
    numbers = jnp.round((q + 1) * ((2**bits - 1) / 2)).astype(jnp.uint8)
    digits = numbers.reshape(-1, 1) >> jnp.arange(bits, dtype=jnp.uint8) & 1
    return jnp.packbits(digits.reshape(-1), bitorder="little")


@jax.jit
def _decode(packed: PackedArray) -> Array:
    count = math.prod(packed.shape)
    stream = jnp.unpackbits(packed.codes, count=count * packed.bits, bitorder="little")
    places = 2 ** jnp.arange(packed.bits, dtype=jnp.uint8)
    numbers = jnp.sum(stream.reshape(count, packed.bits) * places, axis=1, dtype=jnp.uint8)
    # from a table: a compiler may compute a level with one rounding instead of two
    levels = jnp.asarray(_levels(packed.bits))[numbers]
    return levels.reshape(packed.shape) * packed.scale


def _levels(bits: int) -> np.ndarray:
    """The values of :func:`uniform`, with its roundings."""
    steps = 2**bits - 1
    return np.float32(2 / steps) * np.arange(2**bits, dtype=np.float32) - np.float32(1)


def _in_float32(name: str, w: AnyArray) -> Array:
    w = jnp.asarray(w)
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise ValueError(
            f"{name}: expected real floating point weights, got {w.dtype}; leave other leaves out "
            "of the tree"
        )
    return w.astype(jnp.float32)


def _is_finite(x: Array) -> Array:
    return jnp.all(jnp.isfinite(x))


def _in_range(bits: int) -> int:
    if _checks.positive_integer("bits", bits) > 8:
        raise ValueError(
            f"bits: expected 1 to 8, got {bits}; store weights of more bits as they are"
        )
    return int(bits)


def _fits_together(packed: PackedArray) -> None:
    _in_range(packed.bits)
    codes, scale, shape = packed.codes, packed.scale, packed.shape
    expected = -(-math.prod(shape) * packed.bits // 8)
    if codes.dtype != jnp.uint8 or codes.shape != (expected,):
        raise ValueError(
            f"codes: expected {expected} bytes for weights of shape {shape} in {packed.bits} bits, "
            f"got {codes.dtype} of shape {codes.shape}; the file may be damaged"
        )
    fits = len(scale.shape) == len(shape) and all(
        have in (1, want) for have, want in zip(scale.shape, shape, strict=True)
    )
    if scale.dtype != jnp.float32 or not fits:
        raise ValueError(
            f"scale: expected float32 that broadcasts against {shape}, axis by axis, got "
            f"{scale.dtype} of shape {scale.shape}; the file may be damaged"
        )
