"""Quantisers: real weights and activations to a few values, and the derivative that is used.

Grids are those of the paper, with output in [-1, 1]; a scale makes up for the size of the input.
Reductions (maximum, mean) run over the whole array, or with ``axis`` over all but that axis (the
channels).  All zeros are quantised like any other value: no function here divides by zero.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .. import _checks
from .._annotations import Signed
from .._checks import AnyArray


def binary(w: Float[AnyArray, "*s"], *, key: Key[Array, ""] | None = None) -> Float[Array, "*s"]:
    """Q^1(w) = sign(w) in {-1, +1}, with sign(0) = +1.

    With a key at random, +1 with probability clip((1 + w) / 2, 0, 1): without bias in [-1, 1].
    NaN stays NaN.

    Source: RF 1 (the sign), RF 33
    """
    w = _real("w", w)
    positive = w >= 0
    if key is not None:
        positive = jax.random.uniform(key, w.shape, _work(w)) < (1 + w.astype(_work(w))) / 2
    return jnp.where(jnp.isnan(w), w, jnp.where(positive, 1, -1).astype(w.dtype))


def uniform(
    w: Float[AnyArray, "*s"],
    bits: int,
    *,
    axis: Signed | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "*s"]:
    """Q^k(w) = 2 / (2^k - 1) round[(2^k - 1) (w / (2 max|w|) + 1/2)] - 1, in [-1, 1].

    2^k equidistant levels, zero not among them; one bit is :func:`binary`.  With a key the
    rounding is stochastic, E[Q^k(w)] = w / max|w|.

    Raises:
        ValueError: bits below 1 or above 16, or w not real floating point.

    Source: RF 34
    """
    bits, w = _bits(bits), _real("w", w)
    if bits == 1 and key is None:
        return binary(w)
    steps = 2**bits - 1
    top = jnp.max(jnp.abs(w), axis=_others(w, axis), keepdims=True, initial=0)
    # in at least float32: a product with 2^16 - 1 has to keep its integers
    unit = (w.astype(_work(w)) / jnp.where(top == 0, 1, top) + 1) / 2
    return (2 / steps * _round(steps * unit, key) - 1).astype(w.dtype)


def ternary(
    w: Float[AnyArray, "*s"], *, threshold: float = 0.7, axis: Signed | None = None
) -> Float[Array, "*s"]:
    """sign(w) where |w| > threshold mean|w|, else 0.

    Source: Li, Zhang, Liu, *Ternary weight networks* (2016), threshold .7
    """
    _checks.positive_number("threshold", threshold)
    w = _real("w", w)
    small = jnp.abs(w) <= threshold * _mean_abs(w, axis)
    return jnp.where(small, jnp.zeros_like(w), binary(w))


def unsigned(
    x: Float[AnyArray, "*s"], bits: int, *, maximum: float = 1.0, key: Key[Array, ""] | None = None
) -> Float[Array, "*s"]:
    """Activations on the grid {0, ..., 2^k - 1} maximum / (2^k - 1), clipped to it.

    For what comes out of a ReLU: zero is a level, and all levels are used.  The signed grid RF 34
    uses half of its levels on such an input and maps 0 to 1 / (2^k - 1).
    """
    bits, x = _bits(bits), _real("x", x)
    _checks.positive_number("maximum", maximum)
    steps = 2**bits - 1
    unit = jnp.clip(x.astype(_work(x)) / maximum, 0, 1)
    return (_round(steps * unit, key) * maximum / steps).astype(x.dtype)


def mean_abs_scale(w: Float[AnyArray, "*s"], *, axis: Signed | None = None) -> Float[Array, "..."]:
    """mean|w|, the scale for which sign(w) is closest to w; broadcasts against w.

    Source: Rastegari et al., *XNOR-Net* (2016)
    """
    return _mean_abs(_real("w", w), axis)


def quantize(
    w: Float[AnyArray, "*s"],
    bits: int,
    *,
    scaled: bool = False,
    axis: Signed | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "*s"]:
    """Q^k(w) (:func:`binary` for one bit, else :func:`uniform`), if asked with its scale.

    The scale mean|w| / mean|Q(w)| keeps the mean absolute value, of the array or with
    ``axis`` of each channel.

    Source: RF 33, RF 34
    """
    bits, w = _bits(bits), _real("w", w)
    q = binary(w, key=key) if bits == 1 else uniform(w, bits, axis=axis, key=key)
    return q * (_mean_abs(w, axis) / _mean_abs(q, axis)) if scaled else q


def straight_through(
    quantizer: Callable[[Array], Array],
) -> Callable[[Float[AnyArray, "*s"]], Float[Array, "*s"]]:
    """The same values, with the derivative of the identity.

    The gradient with respect to w is then dL/dQ(w), which is what the gradient rules of
    :mod:`metricflow.optim` take.

    Source: RF 21
    """

    def passed_through(w: Float[AnyArray, "*s"]) -> Float[Array, "*s"]:
        w = jnp.asarray(w)
        return jax.lax.stop_gradient(quantizer(w)) + (w - jax.lax.stop_gradient(w))

    return passed_through


def _round(x: Array, key: Array | None) -> Array:
    if key is None:
        return jnp.round(x)
    low = jnp.floor(x)  # not floor(x + u): that sum may round up to the next level but one
    return low + (jax.random.uniform(key, x.shape, x.dtype) < x - low)


def _mean_abs(w: Array, axis: Signed | None) -> Array:
    return jnp.mean(jnp.abs(w), axis=_others(w, axis), keepdims=True)


def _others(w: Array, axis: Signed | None) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(w.ndim))
    if not -w.ndim <= axis < w.ndim:
        raise ValueError(f"axis: expected an axis of an array of shape {w.shape}, got {axis}")
    return tuple(i for i in range(w.ndim) if i != axis % w.ndim)


def _bits(bits: int) -> int:
    if _checks.positive_integer("bits", bits) > 16:
        raise ValueError(f"bits: expected 1 to 16, got {bits}; beyond, weights are as good as real")
    return int(bits)


def _real(name: str, w: AnyArray) -> Array:
    w = jnp.asarray(w)
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise ValueError(f"{name}: expected real floating point numbers, got {w.dtype}")
    if w.size == 0:
        raise ValueError(f"{name}: expected at least one number, got an array of shape {w.shape}")
    return w


def _work(w: Array) -> jnp.dtype:
    return jnp.promote_types(w.dtype, jnp.float32)
