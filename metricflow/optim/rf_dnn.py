"""The gradient of RF-DNN: the penalty of the discrete Ricci flow, then the LNE metric."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from .. import _checks
from ..discretize.translation_curvature import Translations, translation_penalty
from ._leaves import check_real_tree, map_leaves, paired_leaves
from .lne import Inverse, ScaleByLNEState, scale_by_lne

NAME = "rf_dnn_gradient"

Fifth = Literal["earlier", "later"]
TranslatedGradient = Callable[[Any, int, int], Any]


class RFDNNState(NamedTuple):
    """What the next update needs, and what the last one found.

    Attributes:
        count: number of updates so far.
        previous: the weights after the last inner step on inputs translated by k1; zeros before.
        lne: tau and q of every leaf.
        penalty: N, summed over leaves, at the last update that computed it.
    """

    count: Array  # type: ignore[assignment]
    previous: optax.Params
    lne: ScaleByLNEState
    penalty: Array


def rf_dnn_gradient(
    step_size: float | Array,
    *,
    alpha: float | Array = 0.1,
    alpha_scale: Literal["relative", "absolute"] = "relative",
    tau: float | Array | None = None,
    q: float | Array | None = None,
    inverse: Inverse = "weak",
    max_q: float | Array | None = 0.9,
    translations: tuple[int, int, int, int] = Translations(),
    time_difference: Literal["previous", "second_step"] = "previous",
    inner_gradient: Literal["constant", "differentiated"] = "constant",
    every: int | Array = 1,
) -> optax.GradientTransformationExtraArgs:
    """g(w)^-1 (dL/dQ(w) + alpha dN/dw), N the penalty of the discrete flow, leaf by leaf.

    ``update(updates, state, params, translated_gradient=f)`` needs a function: f(params, k, j) is
    dL/dQ(params) on the same inputs, translated by k rows and j columns.  It is called four times,
    five with ``time_difference="second_step"``, only in updates that compute the penalty.

    The paper leaves open what these arguments decide.

    Args:
        step_size: of the inner steps w|k = w - step_size f(w, k, 0): the learning rate.
        alpha: weight of the penalty.
        alpha_scale: "relative": dN/dw is scaled to alpha times the norm of dL/dQ in every leaf (its
            own size spans eight decades in tau); "absolute": as printed.
        tau, q, inverse, max_q: as in :func:`scale_by_lne`; the metrics in N have the same tau.
        translations: k1, k2 (rows) and j1, j2 (columns) in pixels.
        time_difference: RF 31 asks for the metric at k1 one iteration later.  "previous": all is
            shifted by one iteration, and the weights of the last one are kept; "second_step": one
            more inner step is taken.
        inner_gradient: "constant": the inner steps do not depend on w when N is differentiated;
            "differentiated": they do, through f.
        every: compute the penalty in every so many updates only.

    Raises:
        ValueError: any argument out of range, missing params or ``translated_gradient``, leaves
            that are not real or do not fit.

    Source: RF 31, RF 32
    """
    _checks.positive_number("step_size", step_size)
    _checks.nonnegative_number("alpha", alpha)
    _checks.one_of("alpha_scale", alpha_scale, ("relative", "absolute"))
    _checks.one_of("time_difference", time_difference, ("previous", "second_step"))
    _checks.one_of("inner_gradient", inner_gradient, ("constant", "differentiated"))
    if not _checks.is_traced(every):
        _checks.positive_integer("every", int(every) if isinstance(every, jax.Array) else every)
    if len(translations) != 4:
        raise ValueError(f"translations: expected (k1, k2, j1, j2), got {translations!r}")
    shifts = Translations(*translations)
    shifts.check()
    lne = scale_by_lne(tau, q=q, inverse=inverse, max_q=max_q)
    fifth: Fifth = "earlier" if time_difference == "previous" else "later"

    def init(params: optax.Params) -> RFDNNState:
        check_real_tree(NAME, params)
        unknown = jax.tree.map(jnp.zeros_like, params)
        zero = jnp.zeros((), jnp.float32)
        return RFDNNState(jnp.zeros((), jnp.int32), unknown, lne.init(params), zero)

    def _penalised_leaf(g: Array, _: Array, slope: Array) -> tuple[Array]:
        slope = slope.astype(g.dtype)
        if alpha_scale == "absolute":
            return (g + alpha * slope,)
        # its squares would underflow; the result does not depend on the unit
        top = jax.lax.stop_gradient(jnp.max(jnp.abs(slope), initial=0))
        slope = slope / jnp.where(top == 0, 1, top)
        size = jnp.sqrt(jnp.sum(slope**2))
        wanted = alpha * jnp.sqrt(jnp.sum(g**2))
        return (g + slope * (wanted / jnp.where(size == 0, 1, size)),)

    def update(
        updates: optax.Updates,
        state: RFDNNState,
        params: optax.Params | None = None,
        *,
        translated_gradient: TranslatedGradient | None = None,
        **_: Any,
    ) -> tuple[optax.Updates, RFDNNState]:
        paired_leaves(NAME, updates, params)
        if translated_gradient is None:
            raise ValueError(
                f"{NAME}: needs update(..., translated_gradient=f), where f(params, k, j) is "
                "dL/dQ(params) on inputs translated by k rows and j columns"
            )
        # the tau of this update, for the metrics in the penalty
        _, metric = lne.update(updates, state.lne, params)

        def inner_step(w: Any, k: int, j: int) -> Any:
            slope = translated_gradient(w, k, j)
            if inner_gradient == "constant":
                slope = jax.lax.stop_gradient(slope)
            return jax.tree.map(lambda g: -step_size * g, slope)

        def penalty(w: Any) -> tuple[Array, Any]:
            moves = _displacements(inner_step, w, shifts, fifth, state)
            after = jax.tree.map(lambda x, d: (x + d).astype(x.dtype), w, moves[0])
            return _total_penalty(w, moves, metric.tau, shifts, fifth), after

        def penalised(_: None) -> tuple[Any, Any, Array]:
            (value, after), slope = jax.value_and_grad(penalty, has_aux=True)(params)
            (total,) = map_leaves(NAME, _penalised_leaf, updates, params, slope)
            return total, after, value

        def plain(_: None) -> tuple[Any, Any, Array]:
            return jax.tree.map(jnp.asarray, updates), state.previous, state.penalty

        total, previous, value = jax.lax.cond(state.count % every == 0, penalised, plain, None)
        scaled, found = lne.update(total, state.lne, params)
        count = optax.safe_increment(state.count)
        return scaled, RFDNNState(count, previous, found, value)

    return optax.GradientTransformationExtraArgs(init, update)


def _displacements(
    inner_step: Callable[[Any, int, int], Any],
    w: Any,
    shifts: Translations,
    fifth: Fifth,
    state: RFDNNState,
) -> list[Any]:
    """From w to the weights of the five metrics, as trees."""
    moves = [
        inner_step(w, shifts.k1, 0),
        inner_step(w, shifts.k2, 0),
        inner_step(w, 0, shifts.j1),
        inner_step(w, 0, shifts.j2),
    ]
    if fifth == "later":
        there = jax.tree.map(lambda x, d: (x + d).astype(x.dtype), w, moves[0])
        again = inner_step(there, shifts.k1, 0)
        return [*moves, jax.tree.map(jnp.add, moves[0], again)]
    # before the first update there is no earlier one: no difference in time
    known = state.count > 0
    last = jax.tree.map(lambda old, x, d: jnp.where(known, old - x, d), state.previous, w, moves[0])
    return [*moves, last]


def _total_penalty(
    w: Any, moves: list[Any], taus: Any, shifts: Translations, fifth: Fifth
) -> Array:
    """N, summed over leaves."""

    def of_leaf(x: Array, _: Array, tau: Array, *moved: Array) -> tuple[Array, Array]:
        stacked = jnp.stack([m.astype(x.dtype) for m in moved])
        return x, translation_penalty(x, stacked, tau, shifts, fifth=fifth)

    _, parts = map_leaves(NAME, of_leaf, w, w, taus, *moves, outputs=2)
    return sum(jax.tree.leaves(parts), jnp.zeros((), jnp.float32)).astype(jnp.float32)
