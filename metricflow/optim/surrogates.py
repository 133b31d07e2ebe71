"""Gradient rules that multiply dL/dQ(w) by a function of w, as optax transformations.

Each takes dL/dQ(w) as updates and the latent weights w as params, and gives dL/dw.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array

from .. import _checks
from ..discretize import surrogates
from ._leaves import check_real_tree, map_leaves, paired_leaves

Schedule = float | Array | Callable[[Array], Array]


class CountState(NamedTuple):
    """The number of updates so far."""

    count: Array  # type: ignore[assignment]


def ste_gradient(clip: float | Array | None = None) -> optax.GradientTransformation:
    """Straight-through estimator: dL/dw = dL/dQ(w), with ``clip`` only where |w| <= clip.

    Raises:
        ValueError: clip not above 0.

    Source: RF 21 (no clip), RF 1 (clip = 1)
    """
    if clip is None:
        return _unchanged()
    _checks.positive_number("clip", clip)
    return _multiplied("ste_gradient", lambda w: surrogates.clipped(w, clip))


def dorefa_gradient() -> optax.GradientTransformation:
    """dL/dw = dL/dQ (1 - tanh^2 w) / m, the weights being Q(tanh(w) / m), m = max|tanh w|.

    Source: Zhou et al., *DoReFa-Net* (2016); RF section 1
    """
    return _multiplied("dorefa_gradient", surrogates.dorefa)


def irnet_gradient(slope: Schedule = 1.0) -> optax.GradientTransformation:
    """dL/dw = dL/dQ max(s, 1) (1 - tanh^2(s w')), with w' = (w - mean) / standard deviation.

    The weights being sign(w').  ``slope`` s is a number or a function of the number of updates:
    IR-Net raises it from .1 to 10, :func:`exponential_slope`.

    Raises:
        ValueError: a slope that is not above 0.

    Source: Qin et al., *Forward and backward information retention* (2020)
    """

    def factor(w: Array, slope: Array) -> Array:
        return surrogates.error_decay(surrogates.standardised(w), slope)

    return _scheduled("irnet_gradient", "slope", slope, factor)


def mirror_descent_gradient(beta: Schedule = 1.0) -> optax.GradientTransformation:
    """dL/dw = dL/dv (1 - tanh^2(beta w)), the weights in training being v = tanh(beta w).

    ``beta`` is a number or a function of the number of updates; as it grows the weights become
    their signs.

    Raises:
        ValueError: a beta that is not above 0.

    Source: Ajanthan et al., *Mirror descent view for neural network quantization* (2021); RF sec. 1
    """
    return _scheduled("mirror_descent_gradient", "beta", beta, surrogates.mirror)


def exponential_slope(steps: int, start: float = 0.1, end: float = 10.0) -> Callable[..., Any]:
    """A schedule from start to end by equal factors in ``steps`` updates, constant after."""
    _checks.positive_integer("steps", steps)
    _checks.positive_number("start", start)
    _checks.positive_number("end", end)
    return optax.exponential_decay(start, steps, end / start, end_value=end)


def _unchanged() -> optax.GradientTransformation:
    def init(params: optax.Params) -> optax.EmptyState:
        check_real_tree("ste_gradient", params)
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        paired_leaves("ste_gradient", updates, params)
        return updates, state

    return optax.GradientTransformation(init, update)


def _multiplied(name: str, factor: Callable[[Array], Array]) -> optax.GradientTransformation:
    def init(params: optax.Params) -> optax.EmptyState:
        check_real_tree(name, params)
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        (scaled,) = map_leaves(name, lambda g, w: (g * factor(w),), updates, params)
        return scaled, state

    return optax.GradientTransformation(init, update)


def _scheduled(
    name: str, argument: str, value: Schedule, factor: Callable[[Array, Array], Array]
) -> optax.GradientTransformation:
    if not callable(value):
        _checks.positive_number(argument, value)

    def init(params: optax.Params) -> CountState:
        check_real_tree(name, params)
        return CountState(jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates, state: CountState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, CountState]:
        now = value(state.count) if callable(value) else value

        def of_leaf(g: Array, w: Array) -> tuple[Array]:
            return (g * factor(w, jnp.asarray(now, w.dtype)),)

        (scaled,) = map_leaves(name, of_leaf, updates, params)
        return scaled, CountState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)
