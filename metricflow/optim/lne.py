"""The gradient in a Linearly-Nearly-Euclidean metric, as an optax transformation."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from .. import _checks
from ..discretize.lne import (
    check_share,
    dense_rank_one_metric,
    inner,
    share_solution,
)
from ..discretize.strong_inverse import LARGEST, strong_inverse
from ._leaves import check_real_tree, map_leaves

Inverse = Literal["exact", "weak", "strong", "hessian"]
INVERSES = ("exact", "weak", "strong", "hessian")


class ScaleByLNEState(NamedTuple):
    """What the last update used, a number for every leaf; zeros before the first.

    Attributes:
        tau: the tau of the metric.
        q: |tanh(tau w)|^2.
    """

    tau: optax.Params
    q: optax.Params


def scale_by_lne(
    tau: float | Array | None = None,
    *,
    q: float | Array | None = None,
    inverse: Inverse = "exact",
    max_q: float | Array | None = 0.9,
) -> optax.GradientTransformation:
    """Multiply dL/dQ(w) by the inverse of an LNE metric at w, each leaf with a metric of its own.

    ==========  ==========================================  ===========================
    inverse     metric                                      G -> (t = tanh(tau w))
    ==========  ==========================================  ===========================
    "exact"     I - t t^T, as the paper prints it           G + t (t.G) / (1 - q)
    "weak"      the same, inverse to second order           G + t (t.G)
    "strong"    the same, inverse learned by a network      n <= 64, for comparison only
    "hessian"   sech^2(tau w), Hessian of the potential     cosh^2(tau w) G
    ==========  ==========================================  ===========================

    The metric I - t t^T is positive definite if q = |t|^2 < 1, which no fixed tau ensures for
    layers of all sizes: prescribe q instead, and tau is solved for at every step.

    Args:
        tau: scale of the weights in the metric; excludes q.
        q: tau is such that |tanh(tau w)|^2 = q in every leaf; .5 if neither is given.
        inverse: see above.
        max_q: tau is lowered where q would exceed this; ``None`` for no limit (not for "exact" and
            "strong", whose inverse changes sign at q = 1).

    The state reports tau and q of every leaf.  Cost O(n) and no matrix, except "strong", which
    fits its network, drawn from a fixed key, at every update.

    Raises:
        ValueError: both tau and q, tau not above 0, q or max_q not in (0, 1); in ``init`` and
            ``update`` leaves that are not real or do not fit, and missing params.

    Source: RF 23, RF 25 (weak), RF 24 (strong), RF 15 (both metrics)
    """
    if tau is not None and q is not None:
        raise ValueError(f"scale_by_lne: expected tau or q, got both, tau={tau!r} and q={q!r}")
    if inverse not in INVERSES:
        raise ValueError(f"inverse: expected one of {INVERSES}, got {inverse!r}")
    if max_q is not None:
        check_share("max_q", max_q)
    elif inverse in ("exact", "strong"):
        raise ValueError(
            f"max_q: None is for inverse='weak' or 'hessian'; inverse={inverse!r} needs q < 1"
        )
    if tau is not None:
        _checks.positive_number("tau", tau)
    target = 0.5 if tau is None and q is None else q
    if target is not None:
        check_share("q", target)

    def init(params: optax.Params) -> ScaleByLNEState:
        check_real_tree("scale_by_lne", params)

        def zero(leaf: Array) -> Array:
            return jnp.zeros((), jnp.promote_types(jnp.asarray(leaf).dtype, jnp.float32))

        return ScaleByLNEState(jax.tree.map(zero, params), jax.tree.map(zero, params))

    def of_leaf(gradient: Array, weight: Array) -> tuple[Array, Array, Array]:
        found, share, along = _solution(weight, gradient, tau, target, max_q)
        if inverse == "hessian":
            scaled = jnp.cosh(found * weight) ** 2 * gradient
        elif inverse == "strong":
            scaled = _strong(gradient, weight, found)
        else:
            along = along / (1 - share) if inverse == "exact" else along
            scaled = gradient + along * jnp.tanh(found * weight)
        return scaled, found, share

    def update(
        updates: optax.Updates, state: ScaleByLNEState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByLNEState]:
        scaled, taus, shares = map_leaves("scale_by_lne", of_leaf, updates, params, outputs=3)
        # the state keeps its dtype whatever that of the gradients
        found = jax.tree.map(
            lambda new, old: new.astype(old.dtype), ScaleByLNEState(taus, shares), state
        )
        return scaled, found

    return optax.GradientTransformation(init, update)


lne_gradient = scale_by_lne


def _solution(
    weight: Array,
    gradient: Array,
    tau: float | Array | None,
    q: float | Array | None,
    max_q: float | Array | None,
) -> tuple[Array, Array, Array]:
    """tau, q = t.t and t.G, with t = tanh(tau w)."""
    dtype = weight.dtype
    if tau is None:
        top = q if max_q is None else jnp.minimum(jnp.asarray(q, dtype), max_q)
        return share_solution(weight, jnp.asarray(top, dtype), gradient)
    given = jnp.asarray(tau, dtype)
    t = jnp.tanh(given * weight)
    found = given, inner(t, t), inner(t, gradient)
    if max_q is None:
        return found
    top = jnp.asarray(max_q, dtype)
    return jax.lax.cond(
        found[1] > top, lambda: share_solution(weight, top, gradient), lambda: found
    )


def _strong(gradient: Array, weight: Array, tau: Array) -> Array:
    if weight.size > LARGEST:
        raise ValueError(
            f"scale_by_lne: inverse='strong' is for leaves of at most {LARGEST} weights, got one "
            f"of shape {weight.shape}; use inverse='exact'"
        )
    found, _ = strong_inverse(jax.random.key(0), dense_rank_one_metric(weight, tau))
    return (found @ gradient.reshape(-1)).reshape(gradient.shape)
