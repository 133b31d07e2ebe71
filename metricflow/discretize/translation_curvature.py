"""The paper's "discrete Ricci curvature": how an LNE metric changes when inputs are translated.

One step of training on inputs translated by k rows, w|k = w - rate dL/dQ(w)|k, gives a metric g|k,
and likewise j columns.  The paper puts first differences of these metrics for Ricci curvature.
They are antisymmetric in rows and columns and hold first, not second, derivatives: this is no
curvature tensor.  What it is: the difference between how fast the metric changes along rows and
along columns.

All metrics are rank-one LNE metrics g = I - t t^T of one array of n weights.  Nothing of size n^2
is formed except where a name says *dense*.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import AnyArray
from .lne import Scale, dense_rank_one_metric, tanh_difference


class Translations(NamedTuple):
    """Translations of images in pixels, k along rows and j along columns, two of each.

    The paper asks for |k1 - k2| and |j1 - j2| below 4.
    """

    k1: int = 1
    k2: int = -1
    j1: int = 1
    j2: int = -1

    def check(self) -> None:
        """Raise ValueError unless all are integers and two of a kind differ."""
        for name, value in self._asdict().items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"translations: expected integers, got {name}={value!r}")
        if self.k1 == self.k2 or self.j1 == self.j2:
            raise ValueError(
                f"translations: expected k1 != k2 and j1 != j2, got {tuple(self)}; "
                "the differences are divided by"
            )


ADJACENT = Translations()
"""One pixel each way."""


def dense_translation_curvature(
    moved: Float[AnyArray, "4 ..."], tau: Scale, translations: Translations = ADJACENT
) -> Float[Array, "n n"]:
    """(g|k1 - g|k2) / (k1 - k2) - (g|j1 - g|j2) / (j1 - j2), which the paper calls -2 Ric(g).

    ``moved`` holds the weights after one step on inputs translated by k1, k2, j1, j2.

    Source: RF 27, RF 28
    """
    translations.check()
    k1, k2, j1, j2 = (dense_rank_one_metric(w, tau) for w in jnp.asarray(moved))
    rows, columns = _steps(translations)
    return (k1 - k2) / rows - (j1 - j2) / columns


def dense_discrete_flow_step(
    moved: Float[AnyArray, "4 ..."], tau: Scale, translations: Translations = ADJACENT
) -> Float[Array, "n n"]:
    """g(t+1)|k1 = g(t)|k1 + :func:`dense_translation_curvature`: one step of the discrete flow.

    The result is in general no LNE metric, and need not be positive definite.

    Source: RF 29, RF 30
    """
    start = dense_rank_one_metric(jnp.asarray(moved)[0], tau)
    return start + dense_translation_curvature(moved, tau, translations)


def translation_penalty(
    w: Float[AnyArray, "..."],
    displacements: Float[AnyArray, "5 ..."],
    tau: Scale,
    translations: Translations = ADJACENT,
    *,
    fifth: Literal["later", "earlier"] = "later",
) -> Float[Array, ""]:
    """N = |g'|k1 - g|k1 - (g|k1 - g|k2) / (k1 - k2) + (g|j1 - g|j2) / (j1 - j2)|_F^2, in O(n).

    ``displacements``: from w to the weights of g|k1, g|k2, g|j1, g|j2, and of the metric at k1
    one iteration later, g'|k1.  The paper does not say how to get that before the step is taken;
    with ``fifth="earlier"`` it is the one of an iteration ago, and N has g|k1 - g'|k1 instead.

    With t = tanh(tau w) and t + d_a the tangents of the five, the sum of the coefficients is zero
    and the tensor is -(t u^T + u t^T + sum_a c_a d_a d_a^T), u = sum_a c_a d_a.  The d_a are formed
    from the displacements, so that nothing is lost for steps far below the rounding of w.

    Source: RF 31
    """
    translations.check()
    if fifth not in ("later", "earlier"):
        raise ValueError(f"fifth: expected 'later' or 'earlier', got {fifth!r}")
    w, displacements = jnp.asarray(w), jnp.asarray(displacements)
    if displacements.shape != (5, *w.shape):
        raise ValueError(
            f"displacements: expected shape {(5, *w.shape)}, five for every weight, "
            f"got {displacements.shape}"
        )
    tau = jnp.asarray(tau, w.dtype)
    rows, columns = _steps(translations)
    sign = {"later": 1, "earlier": -1}[fifth]
    c = jnp.array([-sign - 1 / rows, 1 / rows, 1 / columns, -1 / columns, sign], w.dtype)
    a = (tau * w).reshape(-1)
    t = jnp.tanh(a)
    d = tanh_difference(a, (tau * displacements).reshape(5, -1))
    u = c @ d
    vectors = jnp.concatenate([t[None], u[None], d])
    # of the Gram matrix every entry is used as a factor, none is subtracted from its like
    gram = jnp.matmul(vectors, vectors.T, precision=jax.lax.Precision.HIGHEST)
    linear = 2 * gram[0, 0] * gram[1, 1] + 2 * gram[0, 1] ** 2
    mixed = 4 * jnp.sum(c * gram[0, 2:] * gram[1, 2:])
    square = c @ gram[2:, 2:] ** 2 @ c
    return linear + mixed + square


def _steps(translations: Translations) -> tuple[int, int]:
    return translations.k1 - translations.k2, translations.j1 - translations.j2
