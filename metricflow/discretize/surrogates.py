"""Derivatives that stand for the one of a quantiser, which is zero or infinite.

Each is a function of the latent weights of one array, and multiplies dL/dQ(w) entry by entry.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import AnyArray
from .lne import Number


def clipped(w: Float[AnyArray, "*s"], threshold: Number = 1.0) -> Float[Array, "*s"]:
    """1 where |w| <= threshold, else 0.

    Source: RF 1
    """
    w = jnp.asarray(w)
    return (jnp.abs(w) <= threshold).astype(w.dtype)


def dorefa_weights(w: Float[AnyArray, "*s"]) -> Float[Array, "*s"]:
    """tanh(w) / max|tanh(w)|, which DoReFa quantises in place of w; zeros stay zero.

    Source: Zhou et al., *DoReFa-Net* (2016); RF section 1
    """
    t = jnp.tanh(jnp.asarray(w))
    return t / _largest(t)


def dorefa(w: Float[AnyArray, "*s"]) -> Float[Array, "*s"]:
    """(1 - tanh^2 w) / max|tanh(w)|: the derivative of :func:`dorefa_weights`, maximum fixed.

    All zeros have the factor 1.

    Source: Zhou et al., *DoReFa-Net* (2016); RF section 1
    """
    t = jnp.tanh(jnp.asarray(w))
    return (1 - t * t) / _largest(t)


def standardised(w: Float[AnyArray, "*s"]) -> Float[Array, "*s"]:
    """(w - mean) / standard deviation, which IR-Net quantises in place of w; constants give zero.

    Source: Qin et al., *Forward and backward information retention* (2020), libra binarisation
    """
    w = jnp.asarray(w)
    # of a constant, rounding would leave something to divide by itself
    centred = jnp.where(jnp.max(w) == jnp.min(w), 0, w - jnp.mean(w))
    deviation = jnp.sqrt(jnp.mean(centred**2))
    return centred / jnp.where(deviation == 0, 1, deviation)


def error_decay(w: Float[AnyArray, "*s"], slope: Number) -> Float[Array, "*s"]:
    """max(1, 1 / slope) d tanh(slope w) / dw = max(slope, 1) (1 - tanh^2(slope w)).

    From the identity (slope -> 0) to the sign (slope -> infinity).

    Source: Qin et al., *Forward and backward information retention* (2020), error decay estimator
    """
    t = jnp.tanh(slope * jnp.asarray(w))
    return jnp.maximum(slope, 1) * (1 - t * t)


def mirror_weights(w: Float[AnyArray, "*s"], beta: Number) -> Float[Array, "*s"]:
    """tanh(beta w), the primal weights of mirror descent: the sign as beta grows.

    Source: Ajanthan et al., *Mirror descent view for neural network quantization* (2021); RF sec. 1
    """
    return jnp.tanh(beta * jnp.asarray(w))


def mirror(w: Float[AnyArray, "*s"], beta: Number) -> Float[Array, "*s"]:
    """1 - tanh^2(beta w): the derivative of :func:`mirror_weights` divided by beta.

    Source: Ajanthan et al., *Mirror descent view for neural network quantization* (2021); RF sec. 1
    """
    t = mirror_weights(w, beta)
    return 1 - t * t


def _largest(t: Array) -> Array:
    top = jnp.max(jnp.abs(t), initial=0)
    return jnp.where(top == 0, 1, top)
