"""The two Linearly-Nearly-Euclidean metrics, and what their inverses make of a gradient.

The LNE potential Phi(w) = sum_i log cosh(tau w_i) / tau^2 has the **Hessian metric**
diag(sech^2(tau w_i)): it is flat, with natural gradient cosh^2(tau w) dL.  The paper prints
another one, the **rank-one metric** g = I - t t^T with t = tanh(tau w).  It is the Hessian of no
function (n > 1) and not Ricci-flat, but its inverse costs O(n): Sherman-Morrison gives
I + t t^T / (1 - q), q = t.t.  It is positive definite if and only if q < 1.

Arrays of weights have any shape: a metric lives on all n entries of one array, a layer.
"""

import functools
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from .._annotations import AtLeast
from .._checks import AnyArray

_NEWTON_STEPS = 100  # a bound only: the tolerance ends the iteration after a few
_SLICES, _SHORT = 8, 4096  # of sums

Number = float | Float[AnyArray, ""]
Scale = Annotated[Number, AtLeast(0)]


def lne_potential(w: Float[AnyArray, "*s"], tau: Scale) -> Float[Array, ""]:
    """Phi(w) = sum_i log cosh(tau w_i) / tau^2.

    Source: RF 13
    """
    return jnp.sum(_log_cosh(jnp.asarray(tau * w))) / tau**2


def lne_divergence(
    w: Float[AnyArray, "*s"], origin: Float[AnyArray, "*s"], tau: Scale
) -> Float[Array, ""]:
    """D[w : origin] = Phi(w) - Phi(origin) - (w - origin) . grad Phi(origin), never negative.

    To second order half the squared length of w - origin in the *Hessian* metric at the origin.

    Source: RF 14 (first line)
    """
    w, origin = jnp.asarray(w), jnp.asarray(origin)
    a, h = jnp.asarray(tau * origin), jnp.asarray(tau * (w - origin))
    small = jnp.abs(h) < 1
    near = _remainder(a, jnp.where(small, h, 0))
    # rounding may take a difference of large numbers below zero
    far = jnp.maximum(_log_cosh(a + h) - _log_cosh(a) - h * jnp.tanh(a), 0)
    return jnp.sum(jnp.where(small, near, far)) / tau**2


def hessian_metric(w: Float[AnyArray, "*s"], tau: Scale) -> Float[Array, "*s"]:
    """The diagonal sech^2(tau w_i) of the Hessian of the LNE potential.

    Source: RF 15 (corrected: the Hessian of RF 13 is diagonal)
    """
    return 1 - jnp.tanh(tau * jnp.asarray(w)) ** 2


def dense_rank_one_metric(w: Float[AnyArray, "*s"], tau: Scale) -> Float[Array, "n n"]:
    """The printed metric I - t t^T, t = tanh(tau w), as a matrix: for tests and small n.

    Source: RF 15 (as printed)
    """
    t = jnp.tanh(tau * jnp.asarray(w)).reshape(-1)
    return jnp.eye(len(t), dtype=t.dtype) - t[:, None] * t


def rank_one_share(w: Float[AnyArray, "*s"], tau: Scale) -> Float[Array, ""]:
    """q = |tanh(tau w)|^2, so that the rank-one metric has the eigenvalues 1 - q and 1.

    Positive definite if q < 1.  The weak inverse I + t t^T leaves |I - g G|_F = q^2.
    """
    return jnp.sum(jnp.tanh(tau * jnp.asarray(w)) ** 2)


def tau_of_share(w: Float[AnyArray, "*s"], q: Number) -> Float[Array, ""]:
    """The tau for which |tanh(tau w)|^2 = q, to rounding; 0 if w vanishes.

    By Newton's method in tau^2, of which the left side is a concave function: all iterates after
    the first lie below the solution and rise to it.

    Raises:
        ValueError: q not in (0, 1).
    """
    check_share("q", q)
    w = jnp.asarray(w)
    dtype = jnp.promote_types(w.dtype, jnp.float32)
    w = w.astype(dtype)
    return share_solution(w, jnp.asarray(q, dtype), w)[0]


def lne_natural_gradient(
    w: Float[AnyArray, "*s"],
    gradient: Float[AnyArray, "*s"],
    tau: Scale,
    *,
    inverse: Literal["exact", "weak", "hessian"] = "exact",
) -> Float[Array, "*s"]:
    """g(w)^-1 dL/dQ(w), in O(n).

    exact: rank-one metric, v + t (t.v) / (1 - q); weak: its approximation v + t (t.v);
    hessian: Hessian metric, cosh^2(tau w) v.

    The exact inverse for q > 1 turns the gradient round along t: keep q below 1
    (:func:`tau_of_share`).

    Source: RF 16, RF 22, RF 23, RF 25 (weak)
    """
    if inverse not in ("exact", "weak", "hessian"):
        raise ValueError(f"inverse: expected 'exact', 'weak' or 'hessian', got {inverse!r}")
    w, gradient = jnp.asarray(w), jnp.asarray(gradient)
    if inverse == "hessian":
        return jnp.cosh(tau * w) ** 2 * gradient
    t = jnp.tanh(tau * w)
    along = inner(t, gradient)
    return gradient + t * (along / (1 - inner(t, t)) if inverse == "exact" else along)


def closeness(
    w: Float[AnyArray, "*s"], origin: Float[AnyArray, "*s"], tau: Scale
) -> Float[Array, ""]:
    """The smallest epsilon with (1 + epsilon)^-1 g0 <= g <= (1 + epsilon) g0, as matrices.

    For the rank-one metrics g at w and g0 at the origin, in O(n): g0^-1 (g - g0) has two
    eigenvalues that are not zero, the roots of a quadratic.  Infinite if g is not positive
    definite, NaN if g0 is not.

    Source: RF, Definition 20
    """
    w, origin = jnp.asarray(w), jnp.asarray(origin)
    t = jnp.tanh(tau * origin)
    d = tanh_difference(jnp.asarray(tau * origin), jnp.asarray(tau * (w - origin)))
    gap = 1 - jnp.sum(t * t)
    # products with respect to g0^-1 of t and d, with g - g0 = -(t d^T + d t^T + d d^T)
    tt = (1 - gap) / gap
    td = jnp.sum(t * d) / gap
    dd = jnp.sum(d * d) + jnp.sum(t * d) ** 2 / gap
    half_trace = -(2 * td + dd) / 2
    root = jnp.sqrt(half_trace**2 + jnp.maximum(tt * dd - td**2, 0))
    high, low = half_trace + root, half_trace - root
    found = jnp.where(low > -1, jnp.maximum(high, -low / (1 + low)), jnp.inf)
    return jnp.where(gap > 0, found, jnp.nan)


def tanh_difference(a: Array, h: Array) -> Array:
    """tanh(a + h) - tanh(a) without cancellation: s (1 - t^2) / (1 + t s), s = tanh(h)."""
    t, s = jnp.tanh(a), jnp.tanh(h)
    return s * (1 - t * t) / (1 + t * s)


def check_share(name: str, q: object) -> None:
    """Raise ValueError unless a concrete q is in (0, 1)."""
    _checks.positive_number(name, q)
    if not _checks.is_traced(q) and not q < 1:  # type: ignore[operator]
        raise ValueError(
            f"{name}: expected a number below 1, got {q!r}; "
            "from 1 on the rank-one metric is not positive definite"
        )


def share_solution(w: Array, q: Array, v: Array) -> tuple[Array, Array, Array]:
    """tau as in :func:`tau_of_share`, q as it came out, and the sum over tanh(tau w) v."""
    second = inner(w, w)
    safe = jnp.where(second == 0, 1, second)
    below = q / safe  # since tanh^2 x <= x^2
    tolerance = 4 * jnp.finfo(w.dtype).eps

    def at(s: Array) -> tuple[Array, Array, Array]:
        t = jnp.tanh(jnp.sqrt(s) * w)
        return s, inner(t, t), inner(t, v)

    def unfinished(state: tuple[Any, ...]) -> Array:
        step, before, (_, share, _) = state
        missing = jnp.abs(q - share)
        # sums of many numbers end at a rounding of their own: there, no step improves
        return (step < _NEWTON_STEPS) & (missing > tolerance * q) & (missing < 0.9 * before)

    def newton(state: tuple[Any, ...]) -> tuple[Any, ...]:
        step, _, (s, share, _) = state
        root = jnp.sqrt(s)
        t = jnp.tanh(root * w)
        slope = inner(t * (1 - t * t), w) / root
        return step + 1, jnp.abs(q - share), at(jnp.maximum(s + (q - share) / slope, below))

    # the series to second order, for weights with the fourth moment of a Gaussian
    guess = below * (1 + 2 * q / w.size)
    s, share, along = at(guess)
    # t is linear in tau but for a relative error of the order of the second term: in a large
    # layer a factor brings the guess to the solution, without another look at its weights
    factor = q / jnp.where(share == 0, 1, share)
    miss = jnp.abs(factor - 1)
    linear = 2 * miss * (miss + 2 * q / w.size) < tolerance
    scaled = (s * factor, q, along * jnp.sqrt(factor))
    start = tuple(jnp.where(linear, a, b) for a, b in zip(scaled, (s, share, along), strict=True))
    zero, infinite = jnp.zeros((), jnp.int32), jnp.full_like(q, jnp.inf)
    _, _, (s, share, along) = jax.lax.while_loop(unfinished, newton, (zero, infinite, start))
    found = (jnp.sqrt(s), share, along)
    return tuple(jnp.where(second == 0, 0, x) for x in found)  # type: ignore[return-value]


def inner(a: Array, b: Array) -> Array:
    """The sum of products, of which the first factor of about eight is explicit additions.

    On CPUs a reduction is a chain of dependent additions; sums of slices run side by side.
    """
    x, added = a * b, 1
    while added < _SLICES and x.size > _SHORT:
        if x.ndim > 1 and len(x) <= _SLICES:
            added *= len(x)
        elif len(x) % _SLICES == 0:
            added, x = _SLICES, x.reshape(_SLICES, -1, *x.shape[1:])
        else:
            break
        x = functools.reduce(jnp.add, [x[i] for i in range(len(x))])
    return jnp.sum(x)


def _log_cosh(x: Array) -> Array:
    size = jnp.abs(x)
    small = size < 1
    near = jnp.log1p(jnp.sinh(jnp.where(small, x, 0)) ** 2) / 2
    return jnp.where(small, near, size + jnp.log1p(jnp.expm1(-2 * size) / 2))


def _remainder(a: Array, h: Array) -> Array:
    """log cosh(a + h) - log cosh(a) - h tanh(a) = h^2 int_0^1 (1 - u) sech^2(a + u h) du.

    By Gauss-Legendre quadrature, exact to rounding for |h| < 1: no terms cancel.
    """
    nodes, weights = np.polynomial.legendre.leggauss(10)
    total: Array = jnp.zeros_like(h)
    for node, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
        decay = jnp.exp(-2 * jnp.abs(a + float(node) * h))
        total = total + float(weight * (1 - node)) * 4 * decay / (1 + decay) ** 2
    return h * h * total
